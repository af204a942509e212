"""The end of a server process: the drain after SIGTERM, SIGINT, and the end of a worker that has lost its parent."""

import asyncio
import multiprocessing
import signal
import threading
from types import FrameType

import structlog

from app.core.readiness import Readiness

logger = structlog.get_logger("app.stopping")


def prepare_stop(readiness: Readiness, drain_seconds: float) -> None:
    """Wrap the server's own signal handlers; call it in the event loop of a server that has set its handlers.

    SIGTERM makes the service not ready at once, and stops the server `drain_seconds` later. SIGINT stops the server at
    once, also during the drain. A worker stops at once if its parent ends. Each sets `readiness.stopping` first.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set handlers; in another thread the application is embedded, as in tests
    stop_server = signal.getsignal(signal.SIGTERM)
    if not callable(stop_server):
        return  # no server has set its handlers
    loop = asyncio.get_running_loop()
    parent = multiprocessing.parent_process()

    def start_drain(number: int) -> None:
        loop.call_later(drain_seconds, stop_server, number, None)
        logger.info("draining", seconds=drain_seconds)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        is_first, readiness.stopping = not readiness.stopping, True
        if is_first and drain_seconds:
            loop.call_soon_threadsafe(start_drain, number)
        elif is_first or parent is None:
            # A worker ignores repetitions: it gets the signal of a process group directly and again from its parent.
            stop_server(number, frame)

    def on_parent_end(sentinel: int) -> None:
        loop.remove_reader(sentinel)
        readiness.stopping = True
        stop_server(signal.SIGTERM, None)
        logger.warning("the parent process has ended")

    signal.signal(signal.SIGTERM, on_sigterm)
    _prepare_interrupt(readiness)
    if parent is not None:
        loop.add_reader(parent.sentinel, on_parent_end, parent.sentinel)


def _prepare_interrupt(readiness: Readiness) -> None:
    interrupt_server = signal.getsignal(signal.SIGINT)
    if not callable(interrupt_server):
        return  # the process ignores the signal, such as a background job of a shell

    def on_sigint(number: int, frame: FrameType | None) -> None:
        readiness.stopping = True
        interrupt_server(number, frame)

    signal.signal(signal.SIGINT, on_sigint)
