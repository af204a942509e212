"""No test fails on a slow machine: `HANG_TIMEOUT` bounds every wait, and no test measures time except as a ratio."""

import ast
from collections.abc import Iterator
from pathlib import Path

BOUNDED = {"join", "timeout", "wait", "wait_for", "wait_until"}
CLOCKS = {"monotonic", "perf_counter", "process_time"}


def clock_uses(source: str) -> Iterator[int]:
    """Yield the lines that bound a wait with a number of seconds or read a clock."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr=name), args=[*_, ast.Constant(value=int() | float())]) if (
                name in BOUNDED
            ):
                yield node.lineno
            case ast.keyword(arg="timeout", value=ast.Constant(value=int() | float())):
                yield node.lineno
            case ast.Attribute(value=ast.Name(id="time"), attr=name) if name in CLOCKS:
                yield node.lineno


def test_no_test_depends_on_the_clock(root: Path) -> None:
    # Schemathesis loads its hooks without the package `tests`; `growth` compares the CPU time of two sizes.
    others = {root / "tests" / name for name in ("waiting.py", "schemathesis_hooks.py", "growth.py")}
    files = set((root / "tests").rglob("*.py")) - others
    found = [
        f"{file.relative_to(root)}:{line}" for file in sorted(files) for line in clock_uses(file.read_text("utf-8"))
    ]
    assert found == [], "wait for a condition with tests/waiting.py, bounded by HANG_TIMEOUT"


def test_clock_uses_are_found() -> None:
    for source in (
        "subprocess.run(command, timeout=60)",
        "asyncio.timeout(30)",
        "await asyncio.wait_for(process.wait(), 20)",
        "thread.join(5.0)",
        "assert time.monotonic() - begun < 3",
    ):
        assert list(clock_uses(source)) == [1], source
    for source in ("subprocess.run(command, timeout=HANG_TIMEOUT)", "await process.wait()", "', '.join(names)"):
        assert list(clock_uses(source)) == [], source
