"""The end of a server process: the drain after SIGTERM, and the end of a worker that has lost its parent."""

import asyncio
import multiprocessing
import signal
import threading
from types import FrameType

import structlog

from app.core.readiness import Readiness

logger = structlog.get_logger("app.stopping")


def prepare_stop(readiness: Readiness, drain_seconds: float) -> None:
    """Wrap the server's own SIGTERM handler; call it in the event loop of a server that has set its handler.

    SIGTERM makes the service not ready at once, and stops the server `drain_seconds` later. The server's handler of
    SIGINT stays, so SIGINT stops the server at once, also during the drain. A worker stops at once if its parent ends.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers; in another thread the application is embedded, as in tests
    stop_server = signal.getsignal(signal.SIGTERM)
    if not callable(stop_server):
        return  # no server has set a handler
    loop = asyncio.get_running_loop()
    parent = multiprocessing.parent_process()

    def start_drain(number: int) -> None:
        loop.call_later(drain_seconds, stop_server, number, None)
        logger.info("draining", seconds=drain_seconds)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        is_first, readiness.draining = not readiness.draining, True
        if is_first and drain_seconds:
            loop.call_soon_threadsafe(start_drain, number)
        elif is_first or parent is None:
            # A worker ignores repetitions: it gets the signal of a process group directly and again from its parent.
            stop_server(number, frame)

    def on_parent_end(sentinel: int) -> None:
        loop.remove_reader(sentinel)
        readiness.draining = True
        stop_server(signal.SIGTERM, None)
        logger.warning("the parent process has ended")

    signal.signal(signal.SIGTERM, on_sigterm)
    if parent is not None:
        loop.add_reader(parent.sentinel, on_parent_end, parent.sentinel)
