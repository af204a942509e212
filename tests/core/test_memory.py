"""Memory that a process returns to the system."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI

from tests.waiting import HANG_TIMEOUT

HASHING = """
import asyncio
from contextlib import nullcontext
from pathlib import Path
from app.core.server.memory import freeze_startup_objects
from app.core.passwords import Passwords

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def hash_three():
    passwords = Passwords(1)
    before = resident()
    for _ in range(3):
        await passwords.hash("correct horse battery staple")
    print(resident() - before)

with {context}():
    asyncio.run(hash_three())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_hash_is_returned(root: Path) -> None:
    kept = _grown(root, "nullcontext")
    if kept < 15 * 1024 * 1024:
        pytest.skip("this C library returns it by itself")
    assert _grown(root, "freeze_startup_objects") < 5 * 1024 * 1024


async def test_startup_objects_are_frozen_while_the_service_runs(app: FastAPI) -> None:
    async with app.router.lifespan_context(app):
        assert gc.get_freeze_count() > 0
    assert gc.get_freeze_count() == 0


def _grown(root: Path, context: str) -> int:
    command = [sys.executable, "-c", HASHING.format(context=context)]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=HANG_TIMEOUT, text=True)
    return int(done.stdout)
