"""Work in threads, which ends with the request that awaits it."""

from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from threading import Event
from typing import Any, TypeVar

from anyio import to_thread

T = TypeVar("T")

_cancelled: ContextVar[Event | None] = ContextVar("cancelled", default=None)


class WorkCancelledError(Exception):
    """The request that awaited this work was cancelled."""


async def run_in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Return the result of `work`, which runs in a thread.

    If the caller is cancelled, it does not wait for the thread, and the thread ends at its next `until_cancelled`. Work
    without it must be bounded: the process cannot exit before it ends.
    """
    cancelled = Event()
    token = _cancelled.set(cancelled)  # the thread has a copy of the context
    try:
        return await to_thread.run_sync(work, *arguments, abandon_on_cancel=True)
    finally:
        cancelled.set()
        _cancelled.reset(token)


def until_cancelled(items: Iterable[T]) -> Iterator[T]:
    """Yield the items. Raises `WorkCancelledError` before the next one once the caller of the thread is cancelled."""
    cancelled = _cancelled.get()
    for item in items:
        if cancelled is not None and cancelled.is_set():
            raise WorkCancelledError
        yield item
