"""Incomplete bodies: the bytes that a process holds of them are limited."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from app.core.http.bodies import FREE_BODY_BYTES, UnfinishedBodies
from app.main import create_app
from app.utils.exceptions import LargeBodiesBusy
from tests.api.conftest import assert_problem
from tests.conftest import Committed, client_of, settings_for

MEBIBYTE = 1024 * 1024


def test_first_bytes_of_each_body_are_free() -> None:
    bodies = UnfinishedBodies(0)
    with bodies.share() as grow_to:
        grow_to(FREE_BODY_BYTES)
        with pytest.raises(LargeBodiesBusy):
            grow_to(FREE_BODY_BYTES + 1)


def test_bodies_share_the_limit_and_give_it_back() -> None:
    bodies = UnfinishedBodies(100)
    with bodies.share() as first:
        first(FREE_BODY_BYTES + 60)
        first(FREE_BODY_BYTES + 70)
        with bodies.share() as second:
            second(FREE_BODY_BYTES + 30)
            with pytest.raises(LargeBodiesBusy):
                second(FREE_BODY_BYTES + 31)
        with bodies.share() as third:
            third(FREE_BODY_BYTES + 30)
    with bodies.share() as last:
        last(FREE_BODY_BYTES + 100)


@pytest.mark.parametrize("path", ["/departments/bulk", "/departments/import"])
async def test_incomplete_bodies_beyond_the_limit_are_rejected(committed: Committed, path: str) -> None:
    """Forty bodies of 16 MiB are begun, and none ends before the others are rejected."""
    limit = 48 * MEBIBYTE
    app = create_app(settings_for(committed.url, max_unfinished_body_bytes=limit))
    statuses: list[int] = []
    rejected = asyncio.Event()
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(15):
            taken += MEBIBYTE
            yield b" " * MEBIBYTE
            await asyncio.sleep(0)
        await rejected.wait()
        yield b"[]"

    async with client_of(app) as client:

        async def send() -> httpx.Response:
            response = await client.post(path, content=body(), headers={"Content-Type": "application/json"})
            statuses.append(response.status_code)
            if statuses.count(503) == 37:
                rejected.set()
            return response

        responses = await asyncio.gather(*(send() for _ in range(40)))
        busy = [response for response in responses if response.status_code == 503]
        assert len(busy) in {37, 38}  # of three complete ones, two are handled at a time
        for response in busy:
            assert_problem(response, "large_bodies_busy")
        # Bodies of ordinary size are read meanwhile, and the whole limit is free again afterwards.
        assert (await client.post("/departments", json={"name": "D"})).status_code == 201
        with app.state.unfinished_bodies.share() as grow_to:
            grow_to(FREE_BODY_BYTES + limit)
    await app.state.database.dispose()
