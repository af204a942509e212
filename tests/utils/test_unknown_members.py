"""Pydantic creates no more errors for unknown members than a response lists."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from app.domains.process.schemas import ProcessCreate, ProcessPatch
from app.domains.role.schemas import RoleCreate
from app.utils.unknown_members import without_surplus
from app.utils.validation import MAX_FAULTS
from tests.growth import assert_proportionate

KNOWN = ["name", "code", "roles", "role_ids", "departments", "kind"]
NAMES = st.sampled_from([*KNOWN, "role_id", "responsibility", *(f"m{number}" for number in range(8))])
VALUES = st.recursive(
    st.none() | st.integers(0, 3) | st.sampled_from(["", "N", "informed"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=14),
    max_leaves=15,
)


def locations(model: type[BaseModel], value: Any) -> list[tuple[tuple[int | str, ...], str]]:
    try:
        model.model_validate(value)
    except ValidationError as error:
        return [(each["loc"], each["type"]) for each in error.errors()]
    return []


def unknown_members(count: int, prefix: str = "m") -> dict[str, int]:
    return {f"{prefix}{number}": 1 for number in range(count)}


@given(st.dictionaries(NAMES, VALUES, max_size=14), st.integers(1, 8))
def test_listed_faults_are_those_of_the_whole_value(value: dict[str, Any], max_faults: int) -> None:
    for model in (ProcessCreate, ProcessPatch):
        expected = locations(model, value)
        found = locations(model, without_surplus(model, value, max_faults))
        assert found[:max_faults] == expected[:max_faults]
        assert (len(found) > max_faults) == (len(expected) > max_faults)


@pytest.mark.parametrize(
    "value",
    [
        unknown_members(900_000),
        {"roles": [{"role_id": 1} | unknown_members(1000) for _ in range(900)]},
        {"roles": [unknown_members(500, f"{number}-") for number in range(1000)], "name": "N"} | unknown_members(1000),
    ],
    ids=["object", "entries", "both"],
)
def test_errors_for_unknown_members_are_limited(value: dict[str, Any]) -> None:
    found = locations(ProcessCreate, without_surplus(ProcessCreate, value))
    unknown = [location for location, kind in found if kind == "extra_forbidden"]
    assert len(unknown) == MAX_FAULTS + 1
    # All others are known after work for their objects alone.
    assert len(found) <= len(unknown) + len(value.get("roles", ())) + 1


def test_members_that_cause_no_error_of_their_own_do_not_count() -> None:
    unknown = unknown_members(200)
    for roles in (unknown, [unknown] * 1001, "x", [[unknown]]):
        value = {"name": "N", "roles": roles} | unknown
        assert (
            locations(ProcessCreate, without_surplus(ProcessCreate, value))[:MAX_FAULTS]
            == locations(ProcessCreate, value)[:MAX_FAULTS]
        )


def test_value_without_unknown_members_is_unchanged() -> None:
    value = {"name": "N", "roles": [{"role_id": 1}, "x", None, [1]], "role_ids": [1] * 2000, "kind": {"m": 1}}
    assert without_surplus(ProcessCreate, value) == value
    others: list[Any] = [None, 1, "text", [1, {"m": 1}], {}]
    for other in others:
        assert without_surplus(RoleCreate, other) == other


def test_work_is_proportionate_to_the_members() -> None:
    wide = unknown_members(1_000_000)
    sizes = {size: dict(list(wide.items())[:size]) for size in (100_000, 1_000_000)}
    assert_proportionate(lambda size: locations(RoleCreate, without_surplus(RoleCreate, sizes[size])), 100_000)
