"""Lists of processes against a model in Python: random processes, and random filters, orders and pages of them."""

from collections import Counter
from typing import Any, get_args

import httpx
import pytest
from hypothesis import strategies as st

from app.domains.process.models import DepartmentRelation, ProcessStatus, ResourceUsage, RoleResponsibility
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
    "department_id": SEVERAL,
    "department_within": THREE,
    "relation": st.lists(st.sampled_from(RELATIONS), min_size=1, max_size=2),
    "location_id": SEVERAL,
    "location_within": THREE,
    "resource_id": SEVERAL,
    "usage": st.lists(st.sampled_from(USAGES[:3]), min_size=1, max_size=2),
    "role_id": SEVERAL,
    "role_match": st.sampled_from(["any", "all", "none"]),
    "responsibility": st.lists(st.sampled_from(RESPONSIBILITIES), min_size=1, max_size=2),
}
SORTS = ("id", "-id", "name", "-name,id", "status,-criticality", "-criticality,name", "criticality,-name", "-status")


@st.composite
def queries(draw: st.DrawFn) -> Query:
    names = draw(st.lists(st.sampled_from(list(FILTERS)), max_size=4, unique=True))
    query = {name: draw(FILTERS[name]) for name in names}
    if "role_match" in query:
        query.setdefault("role_id", draw(SEVERAL))
    return query


CASES = draw_examples(
    st.tuples(
        st.lists(PROCESS, min_size=5, max_size=8),
        st.lists(st.tuples(queries(), st.sampled_from(SORTS), st.integers(1, 3)), min_size=20, max_size=20),
    ),
    4,
)


def is_within(number: int, top: int) -> bool:
    return number >= top


def matching(pairs: list[tuple[int, str]], query: Query, name: str, detail: str) -> list[int]:
    """Return the numbers of the objects whose links match all filters of one link."""
    return [
        number
        for number, value in pairs
        if value in query.get(detail, [value]) and is_within(number, query.get(f"{name}_within", 0))
    ]


def is_linked(pairs: list[tuple[int, str]], query: Query, name: str, detail: str = "") -> bool:
    if not {f"{name}_id", f"{name}_within", detail} & query.keys():
        return True
    found = set(matching(pairs, query, name, detail))
    if f"{name}_id" not in query:
        return bool(found)
    wanted = set(query[f"{name}_id"])
    match query.get(f"{name}_match", "any"):
        case "all":
            return wanted <= found
        case "none":
            return not wanted & found
        case _:
            return bool(wanted & found)


def holds(process: Record, query: Query, above: list[list[int]]) -> bool:
    """Return whether the model has a process in the list."""
    value = process["criticality"]
    owner = process["owner"]
    folded = fold(process["name"])
    return all(
        (
            process["status"] in query.get("status", STATUSES),
            process["status"] not in query.get("status__not", ()),
            "criticality" not in query or value in query["criticality"],
            value not in query.get("criticality__not", ()),
            query.get("criticality__null", value is None) is (value is None),
            "owner_id" not in query or owner in query["owner_id"],
            owner not in query.get("owner_id__not", ()),
            query.get("owner_id__null", owner is None) is (owner is None),
            fold(query.get("name__ic", "")) in folded,
            folded.startswith(fold(query.get("name__sw", ""))),
            query.get("parent_id__null", process["above"] is None) is (process["above"] is None),
            "within" not in query or query["within"] in above[process["number"]],
            is_linked(process["departments"], query, "department", "relation"),
            is_linked([(number, "") for number in process["locations"]], query, "location"),
            is_linked(process["resources"], query, "resource", "usage"),
            is_linked(process["roles"], query, "role", "responsibility"),
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
            kind = "users" if name.startswith("owner") else f"{name.partition('_')[0]}s"
            if name == "within":
                ids = self.ids["processes"]
                given[name] = ids[value] if value < len(ids) else 2**62
            elif name.endswith("_within"):
                given[name] = self.ids[kind][value]
            elif name.endswith(("_id", "_id__not")):
                given[name] = [self.ids[kind][number] for number in value]
        return given

    async def get(self, address: str, parameters: Query | None = None) -> Record:
        response = await self.client.get(address, params=parameters)
        assert response.status_code == 200, response.text
        found: Record = response.json()
        return found


@pytest.mark.parametrize(("processes", "lists"), CASES)
async def test_lists_equal_the_model(
    client: httpx.AsyncClient, processes: list[Record], lists: list[tuple[Query, str, int]]
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


def test_every_filter_is_drawn() -> None:
    names = Counter(name for _, lists in CASES for query, _, _ in lists for name in query)
    assert names.keys() == FILTERS.keys()
    assert min(names.values()) >= 2
