"""Incomplete bodies: the bytes that a process holds of them are limited."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest

from app.core.http.authorisation import authorise
from app.core.http.bodies import FREE_BODY_BYTES, UnfinishedBodies
from app.main import create_app
from app.utils.exceptions import CallerBusy, LargeBodiesBusy
from tests.api.conftest import assert_problem
from tests.conftest import Committed, client_of, settings_for
from tests.core.users import as_user, requests_of

MEBIBYTE = 1024 * 1024


def test_first_bytes_of_each_body_are_free() -> None:
    bodies = UnfinishedBodies(0)
    with bodies.share() as grow_to:
        grow_to(FREE_BODY_BYTES)
        with pytest.raises(LargeBodiesBusy):
            grow_to(FREE_BODY_BYTES + 1)


@contextmanager
def body_of(bodies: UnfinishedBodies, user: int) -> Iterator[Callable[[int], None]]:
    with requests_of(user), bodies.share() as grow_to:
        yield lambda size: grow_to(FREE_BODY_BYTES + size)


def test_bodies_share_the_limit_and_give_it_back() -> None:
    bodies = UnfinishedBodies(100)
    with body_of(bodies, 1) as first, body_of(bodies, 2) as second:
        first(30)
        first(40)
        second(30)
        with body_of(bodies, 3) as third:
            third(30)
            with pytest.raises(LargeBodiesBusy):
                third(31)
        with body_of(bodies, 4) as fourth:
            fourth(30)
    with body_of(bodies, 1) as first, body_of(bodies, 2) as second:
        first(50)
        second(50)


def test_one_user_holds_at_most_half_of_the_limit() -> None:
    bodies = UnfinishedBodies(100)
    with body_of(bodies, 1) as first, body_of(bodies, 1) as second:
        first(30)
        second(20)
        with pytest.raises(CallerBusy):
            second(21)
        with body_of(bodies, 2) as other:
            other(50)
    with body_of(bodies, 1) as last:
        last(50)
        with pytest.raises(CallerBusy):
            last(51)
    with body_of(bodies, 1) as first, body_of(bodies, 2) as second:
        first(50)
        second(50)


@pytest.mark.parametrize("path", ["/departments/bulk", "/departments/import"])
@pytest.mark.parametrize(("users", "accepted", "code"), [(40, 3, "large_bodies_busy"), (1, 1, "caller_busy")])
async def test_incomplete_bodies_beyond_the_limit_are_rejected(
    committed: Committed, path: str, users: int, accepted: int, code: str
) -> None:
    """Forty bodies of 16 MiB are begun, and none ends before the others are rejected."""
    limit = 48 * MEBIBYTE
    app = create_app(settings_for(committed.url, max_unfinished_body_bytes=limit))
    app.dependency_overrides[authorise] = as_user
    statuses: list[int] = []
    rejected = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        for _ in range(15):
            yield b" " * MEBIBYTE
            await asyncio.sleep(0)
        await rejected.wait()
        yield b"[]"

    async with client_of(app) as client:

        async def send(number: int) -> httpx.Response:
            headers = {"Content-Type": "application/json", "X-User": str(number % users)}
            response = await client.post(path, content=body(), headers=headers)
            statuses.append(response.status_code)
            if len(statuses) == 40 - accepted:
                rejected.set()
            return response

        responses = await asyncio.gather(*(send(number) for number in range(40)))
        busy = [response for response in responses if response.status_code in {429, 503}]
        # Of three complete ones, two are handled at a time.
        assert len(busy) in {40 - accepted, max(38, 40 - accepted)}
        for response in busy:
            assert_problem(response, code if response.status_code == 429 else "large_bodies_busy")
        # Bodies of ordinary size are read meanwhile, and the whole limit is free again afterwards.
        assert (await client.post("/departments", json={"name": "D"})).status_code == 201
        with body_of(app.state.unfinished_bodies, 1) as first, body_of(app.state.unfinished_bodies, 2) as second:
            first(limit // 2)
            second(limit // 2)
    await app.state.database.dispose()
