"""Work in a thread that a test can hold."""

import asyncio
import threading
from typing import Any

import pytest

from tests.waiting import HANG_TIMEOUT


class Progress:
    """Counts the steps of work in a thread, and holds it at a step until the test lets it go on."""

    def __init__(self, hold_at: int) -> None:
        self.steps = 0
        self.hold_at = hold_at
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.hold_at:
            self.reached.set()
            assert self.go_on.wait(HANG_TIMEOUT)


async def cancel_at_hold(task: "asyncio.Task[Any]", progress: Progress) -> None:
    assert await asyncio.to_thread(progress.reached.wait, HANG_TIMEOUT)
    task.cancel()
    # The caller does not wait for the thread.
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, HANG_TIMEOUT)
    progress.go_on.set()
