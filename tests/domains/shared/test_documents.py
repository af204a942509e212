"""The documents that PostgreSQL builds equal those of the ORM and Pydantic."""

import json
import random
import re
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from sqlalchemy import URL, inspect, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import RelationshipDirection, joinedload, selectinload

from app.domains.role.schemas import RoleRead
from app.domains.shared.query.representations import default_members
from app.domains.shared.reading.json_text import nested_schema
from app.domains.shared.schemas import ObjectRead, Page
from app.main import create_app
from app.models import RegisterObject, Role
from tests.builders import make
from tests.catalogue import (
    COLLECTIONS,
    DECLARATIONS,
    IN_ORDER_OF_REFERENCES,
    LINKED,
    LINKS,
    PLAIN_TEXTS,
    REFERENCE_TARGETS,
    details_of,
    every_collection,
    required,
)
from tests.conftest import Committed, new_database, settings_for

OBJECTS = 15
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")
KEY_ALPHABET = "aZ0 \"'\\/{}[]:,&<>%\u00e9\u00df\u0130\u4e2d\ufffd\U0001f600\U0010fffd\u2603"
ALPHABET = KEY_ALPHABET + "\u200b\u202e\ufeff"


class Generator:
    """Generates unusual valid bodies, the same in every run."""

    def __init__(self) -> None:
        self._random = random.Random(7396)  # noqa: S311 - not a secret
        self._made: dict[str, list[int]] = {name: [] for name in COLLECTIONS}

    def text(self, longest: int, extra: str = "", alphabet: str = ALPHABET) -> str:
        length = self._random.choice([1, 2, 10, longest])
        return "x" + "".join(self._random.choices(alphabet + extra, k=length - 1))[: longest - 2] + "y"

    def maybe(self, value: Any) -> Any:
        return self._random.choice([value, None])

    def one(self, collection: str) -> int | None:
        return self._random.choice([*self._made[collection], None])

    def some(self, collection: str, field: str | None = None, values: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        key = f"{collection.removesuffix('s')}_id"
        chosen = self._random.sample(self._made[collection], self._random.randrange(6))
        return [{key: each} | ({field: self._random.choice(values)} if field else {}) for each in chosen]

    def body(self, collection: str) -> dict[str, Any]:
        number = sum(map(len, self._made.values()))
        references = {member: self.one(target) for member, target in REFERENCE_TARGETS[collection].items()}
        own: dict[str, Any] = getattr(self, f"_{collection}", lambda _number: {})(number)
        plain = {name: self.maybe(self.text(10)) for name in PLAIN_TEXTS[collection]}
        values = required(collection, f"n{number}") | references | plain | own
        return values | {
            "name": self.text(500),
            "code": self.maybe(f"Code-{number}.x_Y"),
            "external_id": self.maybe(f"{number}/{self.text(100, alphabet=KEY_ALPHABET)}"),
            "description": self.maybe(self.text(2000, "\n\t\r")),
        }

    def remember(self, made: dict[str, Any], collection: str) -> None:
        self._made[collection].append(made["id"])

    def _locations(self, _number: int) -> dict[str, Any]:
        latitude, longitude = self._random.choice(
            [(None, None), (0, -0.0), (1e-300, -1e-7), (47.376888, 8.541694), (-90, 180), (0.1 + 0.2, 1 / 3)]
        )
        return {
            "kind": self._random.choice(["site", "room", "virtual"]),
            "address": self.maybe(self.text(1000, "\n")),
            "country": self.maybe("CH"),
            "timezone": self.maybe("America/Argentina/Ushuaia"),
            "latitude": latitude,
            "longitude": longitude,
        }

    def _processes(self, _number: int) -> dict[str, Any]:
        links = {
            each.field: self.some(each.field, each.detail, details_of("processes", each)) for each in LINKS["processes"]
        }
        # At most one department may own, at most one role be accountable.
        departments = self.some("departments", "relation", ("participant", "supplier", "customer"))
        roles = self.some("roles", "responsibility", ("responsible", "consulted"))
        if departments:
            departments[0]["relation"] = "owner"
        if roles:
            roles += [roles[0] | {"responsibility": each} for each in ("accountable", "informed")]
        return {
            "kind": self._random.choice(["core", "management", "support"]),
            "status": self._random.choice(["draft", "retired"]),
            "criticality": self.maybe("high"),
            **links,
            "departments": departments,
            "roles": roles,
        }

    def _resources(self, _number: int) -> dict[str, Any]:
        return {
            "kind": self._random.choice(["application", "supplier"]),
            "criticality": self.maybe("critical"),
            "url": self.maybe("https://register.example/a?b=%22#\u00fc"),
        }

    def _users(self, number: int) -> dict[str, Any]:
        return {
            "email": f"J\u00f6rg.O'Neill+{number}@b\u00fccher.example",
            "access_level": self._random.choice(["viewer", "editor", "admin"]),
            "is_active": self._random.choice([True, False]),
        }


@pytest.fixture(scope="module")
async def register(server_url: URL, template: URL) -> AsyncIterator[Committed]:
    """A register full of generated objects, read-only for the tests."""
    generator = Generator()
    async with new_database(server_url, template.database) as url:
        register = Committed(create_app(settings_for(url)), url)
        # Users are heads of departments: some users are created after these.
        for collection in ("departments", "users", *(each for each in IN_ORDER_OF_REFERENCES if each != "users")):
            for _ in range(OBJECTS):
                generator.remember(await make(register.client, collection, **generator.body(collection)), collection)
        for role in range(1, OBJECTS):
            for user in range(1, role % 5):
                assert (await register.client.put(f"/roles/{role}/holders/{user}")).status_code == 204
        yield register
        await register.client.aclose()
        await register.app.state.database.dispose()


@pytest.fixture
def generated(register: Committed) -> httpx.AsyncClient:
    return register.client


# Responses without `fields`, and those with all members of the schema.
every_representation = pytest.mark.parametrize("whole", [False, True])


def query_of(collection: str, *, whole: bool) -> str:
    return f"fields={','.join(DECLARATIONS[collection].read.model_fields)}" if whole else ""


async def stored(register: Committed, collection: str, *, whole: bool = False) -> list[ObjectRead]:
    """Return all objects of a collection, read by the ORM and serialised by Pydantic."""
    model, schema = DECLARATIONS[collection].model, DECLARATIONS[collection].read
    relationships = inspect(model).relationships
    options: list[Any] = []
    for relationship in relationships:
        attribute = getattr(model, relationship.key)
        if relationship.direction is RelationshipDirection.MANYTOONE:
            options.append(joinedload(attribute))
        else:
            (other,) = relationship.mapper.relationships
            options.append(selectinload(attribute).joinedload(getattr(relationship.mapper.class_, other.key)))
    async with AsyncSession(register.app.state.database.engine) as session:
        rows = (await session.scalars(select(model).options(*options).order_by(model.id))).unique().all()
        names = set(schema.model_fields) if whole else default_members(schema)
        return [shaped(row, schema, names) for row in rows]


def shaped(row: RegisterObject, schema: type[ObjectRead], names: AbstractSet[str]) -> ObjectRead:
    values: dict[str, Any] = {}
    for name in names:
        value = getattr(row, name)
        if isinstance(value, list):
            link_schema = nested_schema(schema.model_fields[name].annotation)
            values[name] = sorted((linked(link, link_schema) for link in value), key=_order)
        elif isinstance(value, RegisterObject):
            values[name] = {part: getattr(value, part) for part in ("id", "code", "name")}
        else:
            values[name] = value
    return schema.model_validate(values)


def linked(link: Any, schema: type[BaseModel]) -> dict[str, Any]:
    """Return a link in the form of its schema: its own fields and those of the linked object."""
    (other,) = inspect(type(link)).relationships
    target = getattr(link, other.key)
    return {name: getattr(link if hasattr(link, name) else target, name) for name in schema.model_fields}


def _order(link: dict[str, Any]) -> tuple[int, str]:
    return link["id"], str(link.get("responsibility", ""))


def assert_same(document: dict[str, Any], expected: ObjectRead) -> None:
    """Check members, their order and their values, the text of instants included."""
    values = expected.model_dump(mode="json")
    assert list(document) == list(values)
    for name in ("created_at", "updated_at"):
        # PostgreSQL omits trailing zeros of a fraction; both forms are RFC 3339.
        assert INSTANT.fullmatch(document[name])
        assert datetime.fromisoformat(document[name]) == getattr(expected, name)
        values[name] = document[name]
    assert document == values
    assert json.dumps(document) == json.dumps(values | _integral(document, values))


def _integral(document: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    # JSON has one type of numbers: PostgreSQL writes 90 where Python writes 90.0.
    return {
        name: document[name] for name, value in values.items() if isinstance(value, float) and document[name] == value
    }


@every_collection
@every_representation
async def test_document_equals_that_of_orm_and_pydantic(
    register: Committed, generated: httpx.AsyncClient, collection: str, *, whole: bool
) -> None:
    schema = DECLARATIONS[collection].read
    objects = await stored(register, collection, whole=whole)
    assert len(objects) >= OBJECTS
    for expected in objects:
        references = [str(expected.id)] + ([f"code:{expected.code}"] if expected.code else [])
        for reference in references:
            response = await generated.get(f"/{collection}/{reference}?{query_of(collection, whole=whole)}")
            assert response.status_code == 200
            assert schema.model_validate_json(response.content, strict=True) == expected
            assert_same(response.json(), expected)


@every_collection
@every_representation
@pytest.mark.parametrize("sort", ["id", "-name", "-updated_at,code"])
async def test_page_holds_the_documents_of_its_objects(
    register: Committed, generated: httpx.AsyncClient, collection: str, sort: str, *, whole: bool
) -> None:
    schema, query = DECLARATIONS[collection].read, query_of(collection, whole=whole)
    by_id = {expected.id: expected for expected in await stored(register, collection, whole=whole)}
    seen = []
    url: str | None = f"/{collection}?limit=7&sort={sort}&{query}".rstrip("&")
    while url:
        response = await generated.get(url.removeprefix("/api/v1"))
        assert response.status_code == 200
        page = Page[schema].model_validate_json(response.content, strict=True)  # type: ignore[valid-type]
        for item, parsed in zip(response.json()["items"], page.items, strict=True):
            assert parsed == by_id[item["id"]]
            assert_same(item, by_id[item["id"]])
            assert item == (await generated.get(f"/{collection}/{item['id']}?{query}")).json()
            seen.append(item["id"])
        url = page.next
    assert sorted(seen) == sorted(by_id)


@every_collection
async def test_empty_page_is_a_page(generated: httpx.AsyncClient, collection: str) -> None:
    response = await generated.get(f"/{collection}?offset=10000&count=exact")
    page = Page[ObjectRead].model_validate_json(response.content, strict=True)
    assert (page.items, page.next) == ([], None)
    assert page.total is not None
    assert page.total >= OBJECTS


@pytest.mark.parametrize("kind", LINKED)
async def test_processes_of_one_object_are_the_same_documents(
    register: Committed, generated: httpx.AsyncClient, kind: str
) -> None:
    by_id = {expected.id: expected for expected in await stored(register, "processes")}
    linked_to = {link.id for process in by_id.values() for link in getattr(process, kind)}
    assert linked_to
    for target in sorted(linked_to):
        items = (await generated.get(f"/{kind}/{target}/processes")).json()["items"]
        expected = [process for process in by_id.values() if target in {link.id for link in getattr(process, kind)}]
        assert [item["id"] for item in items] == [process.id for process in expected]
        for item, process in zip(items, expected, strict=True):
            assert_same(item, process)


@pytest.mark.parametrize(
    ("stored_at", "shown"),
    [
        (datetime(2024, 2, 29, 23, 59, 59, 999999, UTC), "2024-02-29T23:59:59.999999+00:00"),
        (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00+00:00"),
        (datetime(2024, 1, 1, 0, 0, 0, 120000, UTC), "2024-01-01T00:00:00.12+00:00"),
        (datetime(1900, 1, 1, 0, 0, 0, 1, UTC), "1900-01-01T00:00:00.000001+00:00"),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), "9999-12-31T23:59:59+00:00"),
    ],
)
async def test_instants_are_shown_in_utc(
    client: httpx.AsyncClient, connection: AsyncConnection, stored_at: datetime, shown: str
) -> None:
    made = await make(client, "roles")
    table = Role.metadata.tables["roles"]
    await connection.execute(table.update().where(table.c.id == made["id"]).values(created_at=stored_at))
    response = await client.get(f"/roles/{made['id']}")
    assert response.json()["created_at"] == shown
    assert RoleRead.model_validate_json(response.content, strict=True).created_at == stored_at
    assert (await client.get("/roles?sort=-id&limit=1")).json()["items"][0]["created_at"] == shown
