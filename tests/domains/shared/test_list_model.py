"""Lists against a model in Python: random processes and links, and random filters, orders and pages of both ends."""

from collections import Counter
from typing import Any, get_args

import httpx
import pytest
from hypothesis import strategies as st

from app.domains.department.models import DepartmentRelation
from app.domains.process.models import ProcessStatus
from app.domains.resource.models import ResourceUsage
from app.domains.role.models import RoleResponsibility
from app.domains.shared.models import Criticality
from app.utils.text.folding import fold
from tests.builders import make
from tests.domains.shared.properties import draw_examples

Record = dict[str, Any]
Query = dict[str, Any]

RELATIONS, USAGES = get_args(DepartmentRelation), get_args(ResourceUsage)
RESPONSIBILITIES, STATUSES, RANKS = get_args(RoleResponsibility), get_args(ProcessStatus), get_args(Criticality)
# Three objects of each kind; departments and locations each form one chain, the first is the root.
THREE = st.integers(0, 2)
SEVERAL = st.lists(THREE, min_size=1, max_size=2)
DEPTH = 3


def one_at_most(value: str) -> Any:
    return lambda links: sum(detail == value for _, detail in links) <= 1


def links(details: tuple[str, ...], *, only_one: str = "", several: bool = False) -> st.SearchStrategy[Any]:
    """Draw pairs of a number and a detail; `several` lets one number have more than one detail."""
    pairs = st.tuples(THREE, st.sampled_from(details))
    key = None if several else (lambda pair: pair[0])
    return st.lists(pairs, max_size=3, unique_by=key or (lambda pair: pair)).filter(one_at_most(only_one))


PROCESS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "B", "b", "Ca", "ΟΔΟΣ", "οδος"]),
        "status": st.sampled_from(STATUSES[:3]),
        "criticality": st.sampled_from([None, *RANKS[:3]]),
        "owner": st.none() | THREE,
        # The index of an earlier process, counted from the end.
        "parent": st.none() | st.integers(1, 3),
        "departments": links(RELATIONS[:3], only_one="owner"),
        "roles": links(RESPONSIBILITIES[:3], only_one="accountable", several=True),
        "resources": links(USAGES[:2]),
        "locations": st.lists(THREE, max_size=2, unique=True),
    }
)
FILTERS: dict[str, st.SearchStrategy[Any]] = {
    "status": st.lists(st.sampled_from(STATUSES[:3]), min_size=1, max_size=2),
    "status__not": st.lists(st.sampled_from(STATUSES), min_size=1, max_size=2),
    "criticality": st.lists(st.sampled_from(RANKS), min_size=1, max_size=2),
    "criticality__not": st.lists(st.sampled_from(RANKS), min_size=1, max_size=1),
    "criticality__null": st.booleans(),
    "owner_id": SEVERAL,
    "owner_id__not": SEVERAL,
    "owner_id__null": st.booleans(),
    "name__ic": st.sampled_from(["A", "b", "Δος"]),
    "name__sw": st.sampled_from(["C", "b", "οδος"]),
    "parent_id__null": st.booleans(),
    "within": st.integers(0, 7),
    "within__not": st.integers(0, 7),
}
MATCH = st.sampled_from(["any", "all", "none"])
# The own field of each kind of links.
DETAILS = {
    "departments": ("relation", st.lists(st.sampled_from(RELATIONS), min_size=1, max_size=2)),
    "locations": ("", st.nothing()),
    "resources": ("usage", st.lists(st.sampled_from(USAGES[:3]), min_size=1, max_size=2)),
    "roles": ("responsibility", st.lists(st.sampled_from(RESPONSIBILITIES), min_size=1, max_size=2)),
}


def link_filters(name: str, kind: str, ids: st.SearchStrategy[Any], top: st.SearchStrategy[int] | None) -> Query:
    """Return the filters by a kind of links to objects called `name`; `top` draws the root of a subtree."""
    detail, values = DETAILS[kind]
    filters = {f"{name}_id": ids, f"{name}_id__not": ids, f"{name}_id__null": st.booleans(), f"{name}_match": MATCH}
    if top is not None:
        filters |= {f"{name}_within": top, f"{name}_within__not": top}
    if detail:
        filters[detail] = values
    return filters | ({"responsibility_match": MATCH} if kind == "roles" else {})


# The filters by links of processes, and those of the other end.
FORWARD = {
    kind: link_filters(kind[:-1], kind, SEVERAL, THREE if kind in {"departments", "locations"} else None)
    for kind in DETAILS
}
BACKWARD = {
    kind: link_filters("process", kind, st.lists(st.integers(0, 7), min_size=1, max_size=2), st.integers(0, 7))
    for kind in DETAILS
}
# Filters that require another one.
REQUIRED = {f"{name}_match": f"{name}_id" for name in ("department", "location", "resource", "role", "process")} | {
    "responsibility_match": "responsibility"
}
SORTS = ("id", "-id", "name", "-name,id", "status,-criticality", "-criticality,name", "criticality,-name", "-status")


def draw_query(draw: st.DrawFn, filters: dict[str, Any], most: int) -> Query:
    names = draw(st.lists(st.sampled_from(list(filters)), max_size=most, unique=True))
    query = {name: draw(filters[name]) for name in names}
    for name in names:
        needed = REQUIRED.get(name)
        if needed is not None and (query[name] != "none" or name == "responsibility_match"):
            query.setdefault(needed, draw(filters[needed]))
    return query


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """Draw filters of fields, and several filters of one kind of links."""
    kinds = draw(st.lists(st.sampled_from(list(FORWARD)), max_size=2, unique=True))
    linked = [draw_query(draw, FORWARD[kind], 4) for kind in kinds]
    query = draw_query(draw, FILTERS, 3)
    for each in linked:
        query |= each
    return query


@st.composite
def backward_queries(draw: st.DrawFn) -> tuple[str, Query]:
    kind = draw(st.sampled_from(list(BACKWARD)))
    return kind, draw_query(draw, BACKWARD[kind], 4)


CASES = draw_examples(
    st.tuples(
        st.lists(PROCESS, min_size=5, max_size=8),
        st.lists(st.tuples(queries(), st.sampled_from(SORTS), st.integers(1, 3)), min_size=25, max_size=25),
        st.lists(backward_queries(), min_size=25, max_size=25),
    ),
    4,
)


def has_value(value: Any, query: Query, name: str) -> bool:
    """Return whether a nullable field satisfies its filters."""
    if name in query and query.get(f"{name}__null"):
        is_found = value in query[name] or value is None
    else:
        is_found = value in query.get(name, [value]) and query.get(f"{name}__null", value is None) is (value is None)
    return is_found and value not in query.get(f"{name}__not", ())


def counts(values: set[str], query: Query, detail: str) -> bool:
    """Return whether an object that is linked with these values counts as linked."""
    wanted = set(query.get(detail, values))
    match query.get(f"{detail}_match", "any"):
        case "all":
            return wanted <= values
        case "none":
            return not wanted & values
        case _:
            return bool(wanted & values)


def is_linked(pairs: list[tuple[int, str]], query: Query, name: str, detail: str, below: list[set[int]]) -> bool:
    """Return whether links match all filters of their kind; `below` are the subtrees at the other end."""
    ids, within = f"{name}_id", f"{name}_within"
    values: dict[int, set[str]] = {}
    for number, value in pairs:
        values.setdefault(number, set()).add(value)
    linked = {number for number, each in values.items() if counts(each, query, detail)}
    excluded = set(query.get(f"{ids}__not", ())) | (
        subtree(below, query[f"{within}__not"]) if f"{within}__not" in query else set()
    )
    required = is_required(linked, query, name, below) if {ids, within, f"{name}_match"} & query.keys() else None
    absences = {f"{ids}__not", f"{within}__not"} & query.keys() or query.get(f"{ids}__null")
    if required is None and detail in query and not absences:
        required = bool(linked)
    match query.get(f"{ids}__null"):
        case True:
            required = required or not linked
        case False:
            required = required is not False and bool(linked)
    return required is not False and not linked & excluded


def is_required(linked: set[int], query: Query, name: str, below: list[set[int]]) -> bool:
    """Return whether the required objects are linked."""
    if f"{name}_within" in query:
        linked = linked & subtree(below, query[f"{name}_within"])
    wanted = set(query.get(f"{name}_id", linked))
    match query.get(f"{name}_match", "any"):
        case "all":
            return wanted <= linked
        case "none":
            return not wanted & linked
        case _:
            return bool(wanted & linked)


def subtree(below: list[set[int]], top: int) -> set[int]:
    return below[top] if top < len(below) else set()


def pairs_of(process: Record, kind: str) -> list[tuple[int, str]]:
    """Return the numbers of the linked objects, each with the value of the own field."""
    return [(pair, "") if isinstance(pair, int) else pair for pair in process[kind]]


# The subtrees of three departments or locations, each below the one before.
CHAIN = [set(range(top, 3)) for top in range(3)]


def holds(process: Record, query: Query, above: list[list[int]]) -> bool:
    """Return whether the model has a process in the list."""
    folded = fold(process["name"])
    return all(
        (
            process["status"] in query.get("status", STATUSES),
            process["status"] not in query.get("status__not", ()),
            has_value(process["criticality"], query, "criticality"),
            has_value(process["owner"], query, "owner_id"),
            fold(query.get("name__ic", "")) in folded,
            folded.startswith(fold(query.get("name__sw", ""))),
            query.get("parent_id__null", process["above"] is None) is (process["above"] is None),
            "within" not in query or query["within"] in above[process["number"]],
            query.get("within__not") not in above[process["number"]],
            *(is_linked(pairs_of(process, kind), query, kind[:-1], DETAILS[kind][0], CHAIN) for kind in DETAILS),
        )
    )


def ordered(processes: list[Record], sort: str) -> list[Record]:
    keys = {
        "id": lambda process: process["number"],
        "name": lambda process: fold(process["name"]),
        "status": lambda process: process["status"],
        "criticality": lambda process: (*RANKS, None).index(process["criticality"]),
    }
    names = sort.split(",")
    if not {"id", "-id"} & set(names):
        names.append("-id" if names[-1].startswith("-") else "id")
    for name in reversed(names):  # sorting is stable, so the last key is applied first
        processes = sorted(processes, key=keys[name.removeprefix("-")], reverse=name.startswith("-"))
    return processes


class World:
    """The processes of the model, created in the register."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.ids: dict[str, list[int]] = {}

    async def fill(self, processes: list[Record]) -> None:
        for kind in ("departments", "locations", "resources", "roles", "users"):
            self.ids[kind] = []
            for number in range(DEPTH):
                below = kind in {"departments", "locations"} and number
                fields = {"parent_id": self.ids[kind][-1]} if below else {}
                self.ids[kind].append((await make(self.client, kind, **fields))["id"])
        self.ids["processes"] = []
        for number, process in enumerate(processes):
            parent = process["parent"]
            process["above"] = None if parent is None or parent > number else number - parent
            process["number"] = number
            made = await make(self.client, "processes", **self.body(process))
            self.ids["processes"].append(made["id"])

    def body(self, process: Record) -> Record:
        details = {"departments": "relation", "roles": "responsibility", "resources": "usage"}
        linked = {
            kind: [{f"{kind[:-1]}_id": self.ids[kind][number], detail: value} for number, value in process[kind]]
            for kind, detail in details.items()
        }
        return linked | {
            "name": process["name"],
            "status": process["status"],
            "criticality": process["criticality"],
            "owner_id": None if process["owner"] is None else self.ids["users"][process["owner"]],
            "parent_id": None if process["above"] is None else self.ids["processes"][process["above"]],
            "location_ids": [self.ids["locations"][number] for number in process["locations"]],
        }

    def parameters(self, query: Query) -> Query:
        """Return a query with ids for numbers."""
        given = dict(query)
        for name, value in query.items():
            kind = {"owner": "users", "process": "processes"}.get(noun := name.partition("_")[0], f"{noun}s")
            if name.startswith("within"):
                given[name] = self.id_of("processes", value)
            elif "_within" in name:
                given[name] = self.id_of(kind, value)
            elif name.endswith(("_id", "_id__not")):
                given[name] = [self.id_of(kind, number) for number in value]
        return given

    def id_of(self, kind: str, number: int) -> int:
        """Return the id of an object, which may not exist."""
        ids = self.ids[kind]
        return ids[number] if number < len(ids) else 2**62

    async def get(self, address: str, parameters: Query | None = None) -> Record:
        response = await self.client.get(address, params=parameters)
        assert response.status_code == 200, response.text
        found: Record = response.json()
        return found


@pytest.mark.parametrize(("processes", "lists", "other_lists"), CASES)
async def test_lists_equal_the_model(
    client: httpx.AsyncClient,
    processes: list[Record],
    lists: list[tuple[Query, str, int]],
    other_lists: list[tuple[str, Query]],
) -> None:
    world = World(client)
    await world.fill(processes)
    above: list[list[int]] = []
    for process in processes:
        above.append([process["number"], *([] if process["above"] is None else above[process["above"]])])
    for query, sort, limit in lists:
        chosen = [process for process in processes if holds(process, query, above)]
        expected = [world.ids["processes"][process["number"]] for process in ordered(chosen, sort)]
        given = world.parameters(query) | {"embed": "none"}
        page = await world.get("/processes", given | {"sort": sort, "limit": limit, "count": "exact"})
        assert page["total"] == len(expected), (query, sort)
        seen = [item["id"] for item in page["items"]]
        while page["next"]:
            page = await world.get(page["next"].removeprefix("/api/v1"))
            seen += [item["id"] for item in page["items"]]
        assert seen == expected, (query, sort)
        counted = await world.get("/processes/stats", world.parameters(query) | {"group_by": "status"})
        assert counted["total"] == len(expected), query
        groups = {group["key"]: group["count"] for group in counted["groups"]}
        assert groups == Counter(process["status"] for process in chosen), query
    below = [{number for number, each in enumerate(above) if top in each} for top in range(len(above))]
    for kind, query in other_lists:
        expected = []
        for number, other_id in enumerate(world.ids[kind]):
            linked = [
                (each["number"], value) for each in processes for to, value in pairs_of(each, kind) if to == number
            ]
            if is_linked(linked, query, "process", DETAILS[kind][0], below):
                expected.append(other_id)
        page = await world.get(f"/{kind}", world.parameters(query) | {"count": "exact"})
        assert ([item["id"] for item in page["items"]], page["total"]) == (expected, len(expected)), (kind, query)


def test_every_filter_is_drawn() -> None:
    names = Counter(name for _, lists, _ in CASES for query, _, _ in lists for name in query)
    assert names.keys() == FILTERS.keys() | {name for filters in FORWARD.values() for name in filters}
    other_names = Counter((kind, name) for _, _, lists in CASES for kind, query in lists for name in query)
    assert other_names.keys() == {(kind, name) for kind, filters in BACKWARD.items() for name in filters}
