"""Work in threads ends with its caller."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

from app.core import threads
from app.core.threads import WorkCancelledError, run_in_thread, until_cancelled
from tests.core.progress import Progress, cancel_at_hold
from tests.waiting import HANG_TIMEOUT

# Endless work, cancelled once it has begun.
_EXIT = """
import asyncio, itertools, threading
from app.core.threads import run_in_thread, until_cancelled

begun = threading.Event()

def work():
    for _ in until_cancelled(itertools.count()):
        begun.set()

async def main():
    task = asyncio.create_task(run_in_thread(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()

asyncio.run(main())
"""


async def test_work_in_a_thread_ends_when_its_caller_is_cancelled() -> None:
    progress, ended = Progress(hold_at=10), threading.Event()

    def work() -> None:
        try:
            for _ in until_cancelled(range(1_000_000)):
                progress.step()
        except WorkCancelledError:
            ended.set()
            raise

    await cancel_at_hold(asyncio.create_task(run_in_thread(work)), progress)
    assert await asyncio.to_thread(ended.wait, HANG_TIMEOUT)
    assert progress.steps == 10


async def test_work_outside_a_thread_and_of_other_callers_is_not_cancelled() -> None:
    assert list(until_cancelled("abc")) == ["a", "b", "c"]
    progress = Progress(hold_at=1)
    task = asyncio.create_task(run_in_thread(progress.step))
    await cancel_at_hold(task, progress)
    assert await run_in_thread(lambda: list(until_cancelled("abc"))) == ["a", "b", "c"]
    assert threads._cancelled.get() is None


def test_process_exits_without_waiting_for_cancelled_work(root: Path) -> None:
    subprocess.run([sys.executable, "-c", _EXIT], cwd=root, check=True, timeout=HANG_TIMEOUT)
