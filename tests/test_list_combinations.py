"""Random combinations of filters select what a naive computation over the exported objects selects."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Any

import httpx
import pytest

from tests.catalogue import COLLECTIONS
from tests.conftest import Committed
from tests.list_oracle import KINDS, REFERENCES, TREES, Kind, Query, Register

# In the order of their references, but for the departments of users.
SIZES = {"users": 25, "departments": 40, "locations": 30, "resources": 35, "roles": 30, "processes": 70}
COMBINATIONS = 100
WORDS = ("Annual", "budget", "Check", "delivery", "Emergency", "invoice", "Order", "payment", "Review", "supplier")
CHOICES: dict[str, tuple[str, ...]] = {
    "kind": (),
    "criticality": ("low", "medium", "high", "critical"),
    "status": ("draft", "in_review", "active", "retired"),
    "access_level": ("viewer", "editor", "admin"),
}
KINDS_OF = {
    "locations": ("country", "city", "site", "building"),
    "processes": ("core", "management", "support"),
    "resources": ("application", "data_store", "document", "supplier"),
}
DETAILS = {
    "relation": ("owner", "participant", "supplier", "customer"),
    "usage": ("uses", "reads", "writes", "produces"),
    "responsibility": ("responsible", "accountable", "consulted", "informed"),
}
OWN_CHOICES: dict[str, tuple[str, ...]] = {
    "departments": (),
    "locations": ("kind",),
    "processes": ("kind", "status", "criticality"),
    "resources": ("kind", "criticality"),
    "roles": (),
    "users": ("access_level",),
}
GROUPS = {
    "departments": ("parent", "head"),
    "locations": ("kind", "country", "parent"),
    "processes": ("kind", "status", "criticality", "owner", "parent", "department", "location", "resource", "role"),
    "resources": ("kind", "criticality", "owner_department", "location"),
    "roles": ("department",),
    "users": ("access_level", "is_active", "department", "manager"),
}
NULLABLE = frozenset(
    {"code", "external_id", "description", "country", "criticality"}
    | {"latitude", "longitude", "url", "address", "timezone"}
)
# The filters that are drawn by a value of some object.
OTHERS = {
    "locations": ("latitude", "longitude", "address", "timezone"),
    "resources": ("url",),
    "users": ("is_active",),
}
ALWAYS = ("id", "created_by_id", "updated_by_id")


def _values_of(collection: str, field: str) -> tuple[str, ...]:
    return KINDS_OF[collection] if field == "kind" else CHOICES[field]


def _bodies(collection: str, random: Random) -> list[dict[str, Any]]:
    """Return the bodies of a collection's objects, with references by the codes of earlier ones."""

    def some(name: str, share: float = 0.7) -> dict[str, str] | None:
        last = len(bodies) if name == collection else SIZES[name]
        has_one = last > 0 and random.random() < share
        return {"code": f"{name[:3]}-{random.randrange(last)}"} if has_one else None

    def linked(name: str, **details: tuple[str, ...]) -> list[dict[str, Any]]:
        codes = random.sample(range(SIZES[name]), random.choice((0, 0, 1, 2, 3)))
        target = {"departments": "department", "locations": "location", "resources": "resource", "roles": "role"}[name]
        return [
            {f"{target}_id": {"code": f"{name[:3]}-{code}"}}
            | {own: random.choice(values) for own, values in details.items()}
            for code in codes
        ]

    bodies: list[dict[str, Any]] = []
    for number in range(SIZES[collection]):
        body: dict[str, Any] = {
            "code": f"{collection[:3]}-{number}",
            "external_id": f"X{number}" if random.random() < 0.6 else None,
            "name": " ".join(random.sample(WORDS, 2)),
            "description": " ".join(random.sample(WORDS, 3)) if random.random() < 0.5 else None,
        }
        # Users precede departments, so their departments are set afterwards.
        earlier = {n: t for n, t in REFERENCES[collection].items() if (collection, n) != ("users", "department_id")}
        body |= {name: some(target, 0.85 if name == "parent_id" else 0.6) for name, target in earlier.items()}
        for field in OWN_CHOICES[collection]:
            values = _values_of(collection, field)
            body[field] = random.choice((*values, None)) if field in NULLABLE else random.choice(values)
        if collection == "users":
            body |= {"email": f"u{number}@{random.choice(WORDS)}.example", "is_active": random.random() < 0.7}
        if collection == "locations":
            body |= {"country": random.choice(("CH", "DE", None)), "latitude": random.choice((1.5, 47.0, None))}
            body["longitude"] = None if body["latitude"] is None else random.choice((8.0, -1.5))
            body |= {
                "address": random.choice((*WORDS, None)),
                "timezone": random.choice(("Europe/Zurich", "UTC", None)),
            }
        if collection == "resources":
            body["url"] = random.choice(("https://a.example/x", "https://b.example/", None))
        if collection == "processes":
            body["departments"] = linked("departments", relation=DETAILS["relation"])
            owners = [link for link in body["departments"] if link["relation"] == "owner"]
            for link in owners[1:]:
                link["relation"] = "customer"
            body |= {"locations": linked("locations"), "resources": linked("resources", usage=DETAILS["usage"])}
            body["roles"] = _role_links(random)
        bodies.append(body)
    return bodies


def _role_links(random: Random) -> list[dict[str, Any]]:
    pairs = {
        (random.randrange(SIZES["roles"]), random.choice(DETAILS["responsibility"]))
        for _ in range(random.choice((0, 1, 2, 4, 6)))
    }
    accountable = sorted(pair for pair in pairs if pair[1] == "accountable")
    # Often the accountable role is responsible, too.
    pairs |= {(role, "responsible") for role, _ in accountable[:1] if random.random() < 0.5}
    kept = sorted(pairs - set(accountable[1:]))
    return [{"role_id": {"code": f"rol-{role}"}, "responsibility": detail} for role, detail in kept]


async def _fill(client: httpx.AsyncClient, random: Random) -> None:
    for collection in SIZES:
        bodies = _bodies(collection, random)
        response = await client.post(
            f"/{collection}/bulk", json={"items": [{"op": "create", "data": body} for body in bodies]}
        )
        assert response.status_code == 200, response.text
    for number in range(SIZES["users"]):
        if random.random() < 0.6:
            department = f"code:dep-{random.randrange(SIZES['departments'])}"
            id_ = (await client.get(f"/departments/{department}")).json()["id"]
            response = await client.patch(f"/users/code:use-{number}", json={"department_id": id_})
            assert response.status_code == 200, response.text
    for role in range(SIZES["roles"]):
        for user in random.sample(range(SIZES["users"]), random.choice((0, 0, 1, 3))):
            response = await client.put(f"/roles/code:rol-{role}/holders/code:use-{user}")
            assert response.status_code == 204, response.text


async def _export(client: httpx.AsyncClient, path: str, query: Query = ()) -> list[dict[str, Any]]:
    response = await client.get(path, params=list(query), headers={"Accept": "application/x-ndjson"})
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


async def _read(client: httpx.AsyncClient) -> Register:
    objects = {name: await _export(client, f"/{name}") for name in COLLECTIONS}
    holders = {each["id"]: each["holders"] for each in await _export(client, "/roles", [("embed", "holders")])}
    objects["roles"] = [each | {"holders": holders[each["id"]]} for each in objects["roles"]]
    return Register(objects)


class Combinations:
    """Draws combinations of filters."""

    def __init__(self, register: Register, random: Random) -> None:
        self._register = register
        self._random = random

    def draw(self, collection: str) -> Query:
        """Return the parameters of one to three filters of a collection, each with some of its variants."""
        facets: list[Callable[[], Iterable[tuple[str, str]]]] = [
            lambda: self._text(collection),
            lambda: self._reference(collection, self._random.choice([*REFERENCES[collection], *ALWAYS])),
            lambda: self._own(collection),
            *(partial(self._links, kind) for kind in KINDS[collection]),
        ]
        if OWN_CHOICES[collection]:
            facets.append(lambda: self._choice(collection, self._random.choice(OWN_CHOICES[collection])))
        if collection in TREES:
            facets.append(self._tree)
        found: dict[str, list[tuple[str, str]]] = {}
        for facet in self._random.sample(facets, self._random.choice((1, 1, 2, 3))):
            for name, value in facet():
                found.setdefault(name, []).append((name, value))
        return [each for values in found.values() for each in values]

    def draw_below(self, target: str, collection: str) -> tuple[str, Query]:
        """Return a reference to an object, and the parameters of the list of linked objects below its path.

        Parameters of the links in the path are drawn for their own field only.
        """
        each = self._random.choice(self._register.objects[target])
        (kind,) = (kind for kind in KINDS[collection] if kind.target == target)
        query = [pair for pair in self.draw(collection) if not pair[0].startswith(f"{kind.noun}_")]
        reference = self._random.choice((str(each["id"]), f"code:{each['code']}"))
        return reference, query

    def group_by(self, collection: str) -> str:
        groups = GROUPS[collection]
        return ",".join(self._random.sample(groups, min(len(groups), self._random.choice((1, 2)))))

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _named(self, collection: str, *, tree: bool = False) -> str:
        """Return a reference to an object: by id or key, now and then to none."""
        if self._chance(0.05):
            return self._random.choice(("9999999", "code:none", "external_id:none"))
        objects = self._register.objects[collection]
        each = self._random.choice(objects[: len(objects) // 3] if tree else objects)
        keys = [str(each["id"]), str(each["id"])]
        keys += [f"code:{code}" for code in (each["code"], (each["code"] or "").upper()) if code]
        keys += [f"external_id:{each['external_id']}"] if each["external_id"] else []
        return self._random.choice(keys)

    def _several(self, name: str, draw: Callable[[], str]) -> Iterable[tuple[str, str]]:
        return {(name, draw()): None for _ in range(self._random.choice((1, 1, 2, 3)))}

    def _absence(self, field: str) -> Iterable[tuple[str, str]]:
        return [(f"{field}__null", self._random.choice(("true", "true", "false")))] if self._chance(0.4) else []

    def _text(self, collection: str) -> Iterable[tuple[str, str]]:
        names = ["name", "description", "code", "external_id"]
        names += {"users": ["email"], "locations": ["country"]}.get(collection, [])
        field = self._random.choice(names)
        values = [each[field] for each in self._register.objects[collection] if each[field]]
        if self._chance(0.7):
            suffix = self._random.choice(("", "__not"))
            yield from self._several(f"{field}{suffix}", lambda: str(self._random.choice(values)))
        if self._chance(0.5):
            part = self._random.choice(self._random.choice(values).split())[:3]
            yield (f"{field}{self._random.choice(('__ic', '__sw'))}", part)
        if field in NULLABLE:
            yield from self._absence(field)

    def _choice(self, collection: str, field: str) -> Iterable[tuple[str, str]]:
        values = _values_of(collection, field)
        yield from self._several(f"{field}{self._random.choice(('', '__not'))}", lambda: self._random.choice(values))
        if field in NULLABLE:
            yield from self._absence(field)

    def _own(self, collection: str) -> Iterable[tuple[str, str]]:
        """Draw one of the filters by values that an object has, equal ones included."""
        names = ("version", "id", "created_at", "updated_at", *OTHERS.get(collection, ()))
        field = self._random.choice(names)
        values = [each[field] for each in self._register.objects[collection] if each[field] is not None]
        value = str(self._random.choice(values))
        suffixes: tuple[str, ...] = ("",) if field == "is_active" else ("", "__not")
        if field in {"id", "version", "created_at", "updated_at", "latitude", "longitude"}:
            suffixes += ("__gt", "__gte", "__lt", "__lte")
        if self._chance(0.2) and collection != "users":
            yield ("q", self._random.choice(WORDS))
        yield (f"{field}{self._random.choice(suffixes)}", value.lower() if field == "is_active" else value)
        if field in NULLABLE:
            yield from self._absence(field)

    def _tree(self) -> Iterable[tuple[str, str]]:
        if self._chance(0.7):
            yield from self._several(
                f"level{self._random.choice(('', '', '__not'))}", lambda: str(self._random.randint(1, 6))
            )
        else:
            yield ("has_children", self._random.choice(("true", "false")))

    def _reference(self, collection: str, field: str) -> Iterable[tuple[str, str]]:
        target = "users" if field in ALWAYS[1:] else REFERENCES[collection].get(field, collection)
        if self._chance(0.6):
            yield from self._several(f"{field}{self._random.choice(('', '__not'))}", lambda: self._named(target))
        own = "within" if field == "id" else "" if field in {"parent_id", *ALWAYS} else field[:-3] + "_within"
        if own and target in TREES and self._chance(0.5):
            yield (f"{own}{self._random.choice(('', '__not'))}", self._named(target, tree=True))
        if field != "id":
            yield from self._absence(field)

    def _links(self, kind: Kind) -> Iterable[tuple[str, str]]:
        name = f"{kind.noun}_id"
        has_values = self._chance(0.5)
        if has_values:
            yield from self._several(name, lambda: self._named(kind.target))
        if self._chance(0.25):
            yield from self._several(f"{name}__not", lambda: self._named(kind.target))
        if kind.target in TREES and self._chance(0.3):
            yield (f"{kind.noun}_within{self._random.choice(('', '__not'))}", self._named(kind.target, tree=True))
        if self._chance(0.3):
            matches = ("any", "all", "none") if has_values else ("none",)
            yield (f"{kind.noun}_match", self._random.choice(matches))
        if kind.detail and self._chance(0.5):
            details = DETAILS[kind.detail]
            yield from self._several(kind.detail, lambda: self._random.choice(details))
            if kind.repeatable and self._chance(0.4):
                yield (f"{kind.detail}_match", self._random.choice(("any", "all", "none")))
        yield from self._absence(name)


FORMATS = ("application/x-ndjson", "text/csv")
# Lists below a path: the collection of the object in the path, that of the list, and the path.
BELOW = (
    *((name, "processes", f"/{name}/{{}}/processes") for name in ("departments", "locations", "resources", "roles")),
    ("roles", "users", "/roles/{}/holders"),
)


async def _get(client: httpx.AsyncClient, address: str, query: Query = ()) -> dict[str, Any]:
    response = await client.get(address, params=list(query) or None)
    assert response.status_code == 200, (address, query, response.text)
    page: dict[str, Any] = response.json()
    return page


async def _walk(client: httpx.AsyncClient, path: str, query: Query, limit: int) -> list[int]:
    """Return the ids of a list, whose pages are the same forwards and backwards."""
    pages = [await _get(client, path, [*query, ("limit", str(limit)), ("count", "exact")])]
    while pages[-1]["next"]:
        pages.append(await _get(client, pages[-1]["next"].removeprefix("/api/v1")))
    ids = [[each["id"] for each in page["items"]] for page in pages]
    page = pages[-1]
    for expected in reversed(ids[:-1]):
        page = await _get(client, page["prev"].removeprefix("/api/v1"))
        assert [each["id"] for each in page["items"]] == expected, (path, query)
    assert pages[0]["total"] == sum(map(len, ids)), (path, query)
    return [id_ for page_ids in ids for id_ in page_ids]


async def _exported_ids(client: httpx.AsyncClient, path: str, query: Query, format_: str) -> list[int]:
    if format_ != "text/csv":
        return [each["id"] for each in await _export(client, path, query)]
    response = await client.get(path, params=list(query), headers={"Accept": format_})
    assert response.status_code == 200, response.text
    return [int(row["id"]) for row in csv.DictReader(io.StringIO(response.text))]


@pytest.mark.parametrize("seed", range(4))
async def test_lists_select_what_the_naive_computation_selects(committed: Committed, seed: int) -> None:
    client, random = committed.client, Random(seed)  # noqa: S311 - the same combinations in every run
    await _fill(client, random)
    register = await _read(client)
    combinations = Combinations(register, random)
    found = Counter[str]()
    for number in range(COMBINATIONS):
        collection = random.choice(("processes", *COLLECTIONS))
        if number % 4:
            query = combinations.draw(collection)
            path, expected = f"/{collection}", register.select(collection, query)
        else:
            target, collection, path = random.choice(BELOW)
            reference, query = combinations.draw_below(target, collection)
            path, expected = path.format(reference), register.below((target, reference), collection, query)
        sort = random.choice(("id", "-id", "name", "-name"))
        expected = sorted(expected, key=lambda each: (each["name"].lower() if "name" in sort else "", each["id"]))
        ids = [each["id"] for each in (expected[::-1] if sort[0] == "-" else expected)]
        query = [*query, ("sort", sort)]
        if number % 3:
            assert await _walk(client, path, query, random.choice((3, 20, 200))) == ids, (path, query)
        else:
            assert await _exported_ids(client, path, query, random.choice(FORMATS)) == ids, (path, query)
        found["empty" if not expected else "all" if len(expected) == SIZES[collection] else "some"] += 1
        found["absence"] += any("__null" in name or "__not" in name or value == "none" for name, value in query)
    # Combinations that select everything or nothing would show little.
    assert found["some"] > COMBINATIONS // 2
    assert found["absence"] > COMBINATIONS // 3


@pytest.mark.parametrize("seed", [4])
async def test_statistics_count_what_the_naive_computation_counts(committed: Committed, seed: int) -> None:
    client, random = committed.client, Random(seed)  # noqa: S311 - the same combinations in every run
    await _fill(client, random)
    register = await _read(client)
    combinations = Combinations(register, random)
    for _ in range(COMBINATIONS):
        collection = random.choice(("processes", "processes", *COLLECTIONS))
        group_by = combinations.group_by(collection)
        query = combinations.draw(collection)
        response = await client.get(f"/{collection}/stats", params=[*query, ("group_by", group_by)])
        assert response.status_code == 200, (query, response.text)
        stats = response.json()
        total, groups = register.stats(collection, query, group_by)
        counted = {
            (each["key"], *([each["second"]["key"]] if "second" in each else [])): each["count"]
            for each in stats["groups"]
        }
        assert (stats["total"], counted) == (total, dict(groups)), (collection, group_by, query)
        counts = [each["count"] for each in stats["groups"]]
        assert counts == sorted(counts, reverse=True)
