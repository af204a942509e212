"""Each declared filter selects the same objects as a comparison in Python."""

import operator
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import cycle
from typing import Any, get_type_hints

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.shared.query.pages import ListQuery
from app.utils.text.folding import fold
from tests.builders import make
from tests.catalogue import LISTS, PLAIN_TEXTS, REFERENCE_TARGETS, every_collection
from tests.domains.shared.test_declarations import BESIDES, LINK_FILTERS, bare

Object = dict[str, Any]
NUMBER = 6

# The first value of each is in the middle, so that there are smaller and greater ones.
WRITTEN: dict[str, tuple[Any, ...]] = {
    "code": ("M-5", "a_5", "A-5.b", None, "Z-1", None),
    "external_id": ("m%1", "M%1", "a\\_x", None, "z", None),
    "name": ("Mid 100 % a_b", "mid 100 \uff05 a\uff3fb", "All \\ Äpfel ΟΔΟΣ", "Zzz äpfel οδος", "axb", "mid"),
    "description": ("Mid 100 % a_b", "MID", "ﬁn Straße", None, "Zz mid \uff26\uff29\uff2e", None),
}
# Nullable columns of plain text.
PLAIN = ("Mid % a_b", "mid % A_B", "Zz äp", None)
# The other members of a single collection.
OWN: dict[str, dict[str, tuple[Any, ...]]] = {
    "locations": {
        "kind": ("building", "site", "room"),
        "country": ("DE", "CH", None),
        "timezone": ("Europe/Berlin", "Europe/Zurich", None),
        "latitude": (0.5, -10.25, 47, None),
        "longitude": (-0.1, -170.25, 8.5, None),
    },
    "processes": {
        "kind": ("management", "core", "support"),
        "status": ("active", "draft", "retired"),
        "criticality": ("medium", "low", "critical", None),
    },
    "resources": {
        "kind": ("document", "application", "equipment"),
        "criticality": ("medium", "low", "critical", None),
        "url": ("https://m.example/a_b", "https://M.example/A_B", None),
    },
    "users": {
        "email": ("mid@x.example", "A_mid@x.example", "zz@x.example", "axmid@x.example", "b@x.example", "c@x.example"),
        "access_level": ("editor", "viewer", "admin"),
        "is_active": (True, False),
    },
}
# With characters of LIKE, their forms of full width, and a final sigma.
PARTS = ("mID", "%", "\uff05", "a_", "\\", "\uff3c", "äP", "δος", "Σ", "Fin")
IGNORING_CASE = {"code", "email"}
COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "ic": lambda value, part: fold(part) in fold(value),
    "sw": lambda value, part: fold(value).startswith(fold(part)),
}


async def prepare(client: httpx.AsyncClient, connection: AsyncConnection, collection: str) -> None:
    """Create objects with different, equal and missing values."""
    targets = {name: target for name, target in REFERENCE_TARGETS[collection].items() if name != "parent_id"}
    # Two more objects of the collection itself have default values.
    others = {collection, "users", *targets.values()}
    ids = {name: [(await make(client, name))["id"] for _ in range(2)] for name in sorted(others)}
    values = WRITTEN | dict.fromkeys(PLAIN_TEXTS[collection], PLAIN) | OWN.get(collection, {})
    values |= {name: (*ids[target], None) for name, target in targets.items()}
    turns = {name: cycle(each) for name, each in values.items()}
    parent = None
    for number in range(NUMBER):
        fields = {name: next(turn) for name, turn in turns.items()}
        if "parent_id" in LISTS[collection].declaration.parameters and number != 1:
            fields["parent_id"] = parent
        made = await make(client, collection, **fields)
        parent = parent or made["id"]
    # Set by the register; constant within the single transaction of a test.
    await connection.execute(
        text(
            f"UPDATE {collection} SET version = 1 + id % 3, "
            "created_at = timestamptz '2025-01-01 00:00:00.123456Z' + id % 3 * interval '1 microsecond', "
            "updated_at = timestamptz '2025-06-30 23:30:00Z' + id % 4 * interval '1 hour', "
            "created_by_id = CASE id % 3 WHEN 0 THEN CAST(:a AS bigint) WHEN 1 THEN CAST(:b AS bigint) END, "
            "updated_by_id = CASE id % 3 WHEN 1 THEN CAST(:a AS bigint) WHEN 2 THEN CAST(:b AS bigint) END"
        ),
        dict(zip("ab", ids["users"], strict=True)),
    )


def kind_of(query: type[ListQuery], field: str) -> Any:
    shown = get_type_hints(query.read_schema, include_extras=True)
    return bare(shown[field]) if field in shown else int  # the id of a reference that is shown as a brief only


def value_of(each: Object, field: str, kind: Any) -> Any:
    if field not in each:
        brief = each[field.removesuffix("_id")]
        return brief and brief["id"]
    value = each[field]
    return datetime.fromisoformat(value) if kind is datetime and value is not None else value


def filter_values(field: str, suffix: str, kind: Any, values: list[Any]) -> Iterable[list[Any]]:
    """Yield values for a filter, from those of the objects."""
    if suffix == "null":
        yield from ([True], [False])
    elif kind is bool:
        yield from ([each] for each in values)
    elif suffix in {"ic", "sw"}:
        yield from (
            [part]
            for part in ("mID", "%", "\uff05", "a_", "\\", "\uff3c", "äP", "δος", "Σ", "Fin", values[0][:4].swapcase())
        )
    elif suffix in COMPARED:
        yield [values[len(values) // 2]]
    else:
        yield values[:1]
        yield [values[0], values[-1]]
        if kind is str:
            yield [values[0].swapcase()] if field not in {"country", "timezone"} else values[1:]


def holds(value: Any, suffix: str, given: list[Any], *, ignoring_case: bool) -> bool:
    if suffix == "null":
        return (value is None) is given[0]
    if suffix in {"", "not"}:
        folded = [fold(each) for each in given] if ignoring_case else given
        is_one = value is not None and (fold(value) if ignoring_case else value) in folded
        return is_one is (suffix == "")
    return value is not None and COMPARED[suffix](value, given[0])


def written(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


@every_collection
async def test_filter_equals_a_comparison_in_python(
    client: httpx.AsyncClient, connection: AsyncConnection, collection: str
) -> None:
    await prepare(client, connection, collection)
    there = (await client.get(f"/{collection}")).json()["items"]
    query = LISTS[collection]
    links = set().union(*LINK_FILTERS.values()) if collection == "processes" else set()
    responses: dict[str, list[list[int]]] = {}
    for name in sorted(query.declaration.parameters.keys() - {"q"} - BESIDES[collection] - links):
        field, _, suffix = name.partition("__")
        kind = kind_of(query, field)
        values = sorted({value_of(each, field, kind) for each in there} - {None, ""})
        responses[name] = []
        for given in filter_values(field, suffix, kind, values):
            response = await client.get(
                f"/{collection}", params={"fields": "id", name: [written(each) for each in given]}
            )
            assert response.status_code == 200, response.text
            found = [each["id"] for each in response.json()["items"]]
            folded = field in IGNORING_CASE
            assert found == [
                each["id"] for each in there if holds(value_of(each, field, kind), suffix, given, ignoring_case=folded)
            ], (name, given)
            responses[name].append(found)
        assert any(responses[name]), f"{name} finds nothing here"
        assert any(len(found) < len(there) for found in responses[name]), f"{name} finds everything here"
    for name, found in responses.items():
        if f"{name}e" in responses:
            assert found != responses[f"{name}e"], name
