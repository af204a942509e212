"""Comparison of the time that work takes on input of two sizes."""

import time
from collections.abc import Awaitable, Callable

import pytest

# Ten times the input may take 25 times the time. The floor keeps the noise of short measurements out of the comparison.
GROWTH = 10
MAX_RATIO = 25
FLOOR_SECONDS = 0.020
_RUNS = 3


def assert_proportionate(work: Callable[[int], object], size: int) -> None:
    """Fail if the time of `work(10 * size)` is out of proportion to that of `work(size)`. Each is the best of three."""
    _compare(_best(work, size), _best(work, GROWTH * size))


async def assert_proportionate_async(work: Callable[[int], Awaitable[object]], size: int) -> None:
    """Fail as `assert_proportionate` does, for work that is awaited."""
    _compare(await _best_async(work, size), await _best_async(work, GROWTH * size))


def _best(work: Callable[[int], object], size: int) -> float:
    times = []
    for _ in range(_RUNS):
        started = time.process_time()
        work(size)
        times.append(time.process_time() - started)
    return min(times)


async def _best_async(work: Callable[[int], Awaitable[object]], size: int) -> float:
    times = []
    for _ in range(_RUNS):
        started = time.process_time()
        await work(size)
        times.append(time.process_time() - started)
    return min(times)


def _compare(small: float, large: float) -> None:
    if large > MAX_RATIO * max(small, FLOOR_SECONDS):
        pytest.fail(f"ten times the input took {large:.3f} s of CPU time instead of {small:.3f} s")
