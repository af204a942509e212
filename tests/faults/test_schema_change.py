"""Changes of the schema while the service is under load."""

import asyncio
from collections import Counter
from functools import partial

import pytest

from app.main import create_app
from tests.conftest import Committed, connected, settings_for
from tests.schema_changes import REQUESTS, add_objects, change_types, send
from tests.waiting import until

CHANGES = 20
CLIENTS = 6


async def _served_more_than(served: Counter[str], rounds: int) -> bool:
    return served["object"] >= rounds + CLIENTS


@pytest.mark.faults
async def test_no_request_fails_while_types_change(committed: Committed) -> None:
    register = Committed(create_app(settings_for(committed.url, export_concurrency=CLIENTS + 1)), committed.url)
    await add_objects(register.client)
    failures: list[str] = []
    served: Counter[str] = Counter()
    is_over = asyncio.Event()

    async def send_requests(client: int) -> None:
        while not is_over.is_set():
            for kind in REQUESTS:
                response = await send(register.client, kind, f"{client}-{served.total()}")
                served[kind] += 1
                is_complete = kind != "stream" or '"Invoices"' in response.text
                if not (response.is_success and is_complete):
                    failures.append(f"{kind}: {response.status_code} {response.text}")

    async with asyncio.TaskGroup() as clients, connected(register.url) as connection:
        for client in range(CLIENTS):
            clients.create_task(send_requests(client))
        for _ in range(CHANGES):
            rounds = served["object"]
            await change_types(connection)
            await until(partial(_served_more_than, served, rounds))
        is_over.set()
    await register.client.aclose()
    await register.app.state.database.dispose()
    assert failures == []
    assert served.total() >= CHANGES * CLIENTS * len(REQUESTS) / 2
