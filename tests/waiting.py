"""Waiting in tests: for a condition, with one generous bound against hanging."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import asyncpg
import httpx

# Seconds. A wait ends when its condition holds; only a hang reaches this bound, so no test fails on a slow machine.
HANG_TIMEOUT = 600.0


def wait_until(done: Callable[[], object], pause: float = 0.01) -> None:
    """Return once the condition holds."""
    end = time.monotonic() + HANG_TIMEOUT
    while not done():
        assert time.monotonic() < end, f"the condition did not hold within {HANG_TIMEOUT} s"
        time.sleep(pause)


async def until(done: Callable[[], Awaitable[object]]) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(HANG_TIMEOUT):
        while not await done():  # noqa: ASYNC110 - the condition has no event in this loop
            await asyncio.sleep(0.01)


async def until_closed(connection: asyncpg.Connection) -> None:
    """Return once the event loop has noticed that PostgreSQL closed the connection."""

    async def is_closed() -> bool:
        return bool(connection.is_closed())

    await until(is_closed)


def wait_until_ready(address: str, exit_code: Callable[[], int | None]) -> str:
    """Return the address once the service there is ready. Fails as soon as its process exits."""
    with httpx.Client(timeout=HANG_TIMEOUT) as client:

        def is_ready() -> bool:
            assert exit_code() is None, f"the service exited with {exit_code()}"
            with suppress(httpx.TransportError):
                return client.get(f"{address}/health/ready").is_success
            return False

        wait_until(is_ready, pause=0.1)
    return address
