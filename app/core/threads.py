"""Work in threads, which ends with the request that awaits it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event
from typing import Any, TypeVar

from anyio import to_thread

from app.utils.exceptions import BadRequest

T = TypeVar("T")

_cancelled: ContextVar[Event | None] = ContextVar("cancelled", default=None)
_disconnect: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("disconnect", default=None)


class WorkCancelledError(Exception):
    """The request that awaited this work was cancelled."""


@contextmanager
def ended_by(disconnect: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """End the work in threads of the block when `disconnect` returns, too."""
    token = _disconnect.set(disconnect)
    try:
        yield
    finally:
        _disconnect.reset(token)


async def run_in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Return the result of `work`, which runs in a thread.

    A caller that is cancelled does not wait for the thread, and the thread ends at its next `until_cancelled`. Work
    without it must be bounded: the process cannot exit before it ends. Raises `BadRequest` if the client disconnects.
    """
    cancelled, disconnect = Event(), _disconnect.get()
    token = _cancelled.set(cancelled)  # the thread gets a copy of the context
    running = asyncio.ensure_future(to_thread.run_sync(work, *arguments, abandon_on_cancel=True))
    _cancelled.reset(token)
    tasks: set[asyncio.Future[Any]] = {running}
    if disconnect is not None:
        tasks.add(asyncio.ensure_future(disconnect()))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise BadRequest("The client disconnected.")
        return running.result()
    finally:
        cancelled.set()
        for task in tasks:
            task.cancel()


def until_cancelled(items: Iterable[T]) -> Iterator[T]:
    """Yield the items. Raises `WorkCancelledError` before the next one once the caller of the thread is cancelled."""
    cancelled = _cancelled.get()
    for item in items:
        if cancelled is not None and cancelled.is_set():
            raise WorkCancelledError
        yield item
