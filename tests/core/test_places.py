"""Places that callers share: one caller never holds the last one."""

from contextlib import ExitStack

import pytest

from app.core.http.authorisation import authorise
from app.core.places import SharedPlaces
from app.main import create_app
from app.utils.exceptions import CallerBusy, ExportsBusy, LargeBodiesBusy
from tests.api.conftest import assert_problem
from tests.conftest import Committed, client_of, settings_for
from tests.core.users import as_user, requests_of


def test_address_has_a_share_until_its_request_is_authorised() -> None:
    places = SharedPlaces(4, LargeBodiesBusy, share=2)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(places.place("192.0.2.1"))
        with pytest.raises(LargeBodiesBusy), places.place("192.0.2.1"):
            pass
        with places.place("192.0.2.2"):
            pass
        with requests_of(7):
            for _ in range(2):
                stack.enter_context(places.place("192.0.2.1"))
    assert places.free == 4


def hold(places: SharedPlaces, user: int | None, stack: ExitStack, count: int) -> None:
    with requests_of(user):
        for _ in range(count):
            stack.enter_context(places.place())


@pytest.mark.parametrize(("count", "share"), [(1, 1), (2, 1), (3, 2), (8, 7)])
def test_one_user_never_holds_the_last_place(count: int, share: int) -> None:
    places = SharedPlaces(count, ExportsBusy)
    with ExitStack() as stack:
        hold(places, 7, stack, share)
        with pytest.raises(CallerBusy):
            hold(places, 7, stack, 1)
        hold(places, 8, stack, count - share)
        with pytest.raises(ExportsBusy):
            hold(places, 9, stack, 1)
    assert places.free == count
    # The share is free again, too.
    with ExitStack() as stack:
        hold(places, 7, stack, share)


def test_work_without_a_user_has_no_share() -> None:
    places = SharedPlaces(2, LargeBodiesBusy)
    with ExitStack() as stack:
        hold(places, None, stack, 2)
        with pytest.raises(LargeBodiesBusy):
            hold(places, None, stack, 1)


def test_rejected_request_takes_no_place() -> None:
    places = SharedPlaces(3, LargeBodiesBusy)
    places.take(7, 2)
    for _ in range(2):
        with pytest.raises(CallerBusy):
            places.take(7)
        with pytest.raises(LargeBodiesBusy):
            places.take(8, 2)
    places.take(8)
    assert places.free == 0


LARGE = {"items": [{"op": "create", "data": {"name": "", "description": "x" * 19_000}} for _ in range(60)]}


async def test_one_user_cannot_keep_others_from_exports_and_large_requests(committed: Committed) -> None:
    """Each resource has two places by default, of which the first user holds one."""
    app = create_app(settings_for(committed.url))
    app.dependency_overrides[authorise] = as_user
    first, second, third = ({"X-User": str(user)} for user in (1, 2, 3))
    csv = {"Accept": "text/csv"}
    async with client_of(app) as client:
        with ExitStack() as stack:
            hold(app.state.streams.places, 1, stack, 1)
            hold(app.state.large_bodies, 1, stack, 1)
            for collection in ("departments", "users"):
                assert_problem(await client.get(f"/{collection}", headers=csv | first), "caller_busy")
                assert (await client.get(f"/{collection}", headers=csv | second)).status_code == 200
            assert_problem(await client.post("/roles/bulk", json=LARGE, headers=first), "caller_busy")
            assert (await client.post("/roles/bulk", json=LARGE, headers=second)).status_code == 422
            # Requests that need no place are served.
            assert (await client.get("/departments", headers=first)).status_code == 200
            hold(app.state.streams.places, 2, stack, 1)
            hold(app.state.large_bodies, 2, stack, 1)
            assert_problem(await client.get("/departments", headers=csv | third), "exports_busy")
            assert_problem(await client.post("/roles/bulk", json=LARGE, headers=third), "large_bodies_busy")
        for response in (
            await client.get("/departments", headers=csv | first),
            await client.post("/roles/bulk", json=LARGE, headers=first),
        ):
            assert response.status_code in {200, 422}
    await app.state.database.dispose()
