"""Requests that wait until there is something to return.

Such a request reads once a second. Between two reads it holds no connection to the database, and it ends early when the
service stops or its client leaves.
"""

import asyncio
from collections.abc import Awaitable, Callable

from fastapi import Request

from app.core.http.routing import authorise_again
from app.core.places import SharedPlaces
from app.core.readiness import Readiness
from app.utils.exceptions import WaitsBusy

PAUSE_SECONDS = 1.0


class LongPolls:
    """Limits the waiting requests of one process."""

    def __init__(self, concurrency: int, readiness: Readiness) -> None:
        self.places = SharedPlaces(concurrency, WaitsBusy)
        self._readiness = readiness
        # Tests replace the pause, so that they need not wait.
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def repeat(self, read: Callable[[], Awaitable[bool]], request: Request, seconds: int) -> None:
        """Await `read` once a second until it returns true, at most `seconds` times; then authorise the request again.

        Raises `WaitsBusy` if the maximum number of requests wait, `CallerBusy` if all but one of them are of the
        request's user, and the errors of `authorise_again`.
        """
        with self.places.place():
            for _ in range(seconds):
                if self._readiness.stopping or await request.is_disconnected():
                    break
                await self.pause(PAUSE_SECONDS)
                if await read():
                    break
        await authorise_again(request)
