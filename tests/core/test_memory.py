"""Memory: what a process gives back."""

import subprocess
import sys
from pathlib import Path

import pytest

HASHING = """
import asyncio
from pathlib import Path
from app.core.memory import give_back_large_blocks
from app.core.passwords import Passwords

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def hash_three():
    passwords = Passwords(1)
    before = resident()
    for _ in range(3):
        await passwords.hash("correct horse battery staple")
    print(resident() - before)

{first}
asyncio.run(hash_three())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_hash_is_given_back(root: Path) -> None:
    kept = _grown(root, "")
    if kept < 15 * 1024 * 1024:
        pytest.skip("this C library gives it back by itself")
    assert _grown(root, "give_back_large_blocks()") < 5 * 1024 * 1024


def _grown(root: Path, first: str) -> int:
    command = [sys.executable, "-c", HASHING.format(first=first)]
    return int(subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=60, text=True).stdout)
