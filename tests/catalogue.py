"""The facts about each collection that tests need, derived from the one list in `app/domains/collections.py`.

Every test that is parametrised with the constants of this module includes a collection that is added to the list.
"""

from importlib import import_module
from typing import Any, get_args, get_type_hints

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app.domains import collections
from app.domains.collections import Entry, in_reference_order
from app.domains.shared.collection import Collection, LinkSet, foreign_keys, writable_columns
from app.domains.shared.models import RegisterObject
from app.domains.shared.query.pages import ListQuery
from app.domains.shared.reading.documents import Documents, documents_of
from app.domains.shared.service import CollectionService
from app.domains.shared.trees import TreeService
from app.domains.shared.writing.unique_keys import unique_keys
from app.models import Base

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in collections.COLLECTIONS}
# The names, in the order of the documentation.
COLLECTIONS: tuple[str, ...] = tuple(ENTRIES)
# The names, in the order of the files of an export.
IN_ORDER_OF_REFERENCES: tuple[str, ...] = tuple(entry.name for entry in in_reference_order())

SERVICES: dict[str, type[CollectionService]] = {name: entry.service for name, entry in ENTRIES.items()}
DECLARATIONS: dict[str, Collection] = {name: entry.collection for name, entry in ENTRIES.items()}
MODELS: dict[str, type[RegisterObject]] = {name: each.model for name, each in DECLARATIONS.items()}
NOUNS: dict[str, str] = {name: each.noun for name, each in DECLARATIONS.items()}
DOCUMENTS: dict[str, Documents] = {name: documents_of(each) for name, each in DECLARATIONS.items()}
# The kinds of links that bodies list.
LINKS: dict[str, tuple[LinkSet, ...]] = {name: each.links for name, each in DECLARATIONS.items()}
# The members of processes that list links, which are named like the collections on the other side.
LINKED: tuple[str, ...] = tuple(links.field for links in LINKS["processes"])

TREES: tuple[str, ...] = tuple(name for name, service in SERVICES.items() if issubclass(service, TreeService))
# The collection that each reference of an object leads to, by the member of bodies.
REFERENCE_TARGETS: dict[str, dict[str, str]] = {
    name: {member: target.__tablename__ for member, target in foreign_keys(model).items()}
    for name, model in MODELS.items()
}
# The members of bodies that refer to other objects.
REFERENCES: dict[str, tuple[str, ...]] = {name: tuple(targets) for name, targets in REFERENCE_TARGETS.items()}

# The writable columns that every collection has.
COMMON_COLUMNS = frozenset({"code", "external_id", "name", "description"})


def _is_plain(schema: dict[str, Any]) -> bool:
    """Return whether a member takes null and any text of a suitable length: no enumeration, format or pattern."""
    kinds: list[dict[str, Any]] = schema.get("anyOf", [])
    texts = [kind for kind in kinds if kind.get("type") == "string"]
    restricted = any(kind.keys() & {"enum", "const", "format", "pattern"} for kind in texts)
    return {"type": "null"} in kinds and len(kinds) == 2 and len(texts) == 1 and not restricted


def _plain_texts(declaration: Collection) -> tuple[str, ...]:
    columns = declaration.model.__table__.c
    members = declaration.body.model_json_schema()["properties"]
    own = (name for name in writable_columns(declaration.model) if name not in COMMON_COLUMNS)
    return tuple(name for name in own if columns[name].nullable and _is_plain(members[name]))


# The nullable columns of plain text that not every collection has. Tests have default values for them.
PLAIN_TEXTS: dict[str, tuple[str, ...]] = {name: _plain_texts(each) for name, each in DECLARATIONS.items()}

every_collection = pytest.mark.parametrize("collection", COLLECTIONS)
every_tree = pytest.mark.parametrize("collection", TREES)
# The references of a collection to itself, which must not form cycles.
every_hierarchy = pytest.mark.parametrize(
    ("collection", "reference"),
    [(name, member) for name, targets in REFERENCE_TARGETS.items() for member in targets if targets[member] == name],
)


def _list_query(service: type[CollectionService]) -> type[ListQuery]:
    lists = import_module(f"{service.__module__.rpartition('.')[0]}.lists")
    declared = [each for each in vars(lists).values() if isinstance(each, type) and issubclass(each, ListQuery)]
    (query,) = (each for each in declared if each is not ListQuery)
    return query


# The query of each collection's list.
LISTS: dict[str, type[ListQuery]] = {name: _list_query(service) for name, service in SERVICES.items()}


def route_of(collection: str, method: str, path: str) -> APIRoute:
    """Return the route of a collection; `path` is relative to its address."""
    router = ENTRIES[collection].router
    routes = (each for each in router.routes if isinstance(each, APIRoute) and method in (each.methods or ()))
    (route,) = (each for each in routes if each.path == f"{router.prefix}{path}")
    return route


def body_of(collection: str, method: str, path: str = "/{reference}") -> type[BaseModel]:
    """Return the schema of the body that a route takes."""
    body: type[BaseModel] = get_type_hints(route_of(collection, method, path).endpoint)["body"]
    return body


def details_of(collection: str, links: LinkSet) -> tuple[str, ...]:
    """Return the values of the own field of a kind of links, the default first; none if it has no such field."""
    if links.detail is None:
        return ()
    (entry,) = get_args(DECLARATIONS[collection].body.model_fields[links.field].annotation)
    values: tuple[str, ...] = get_args(entry.model_fields[links.detail].annotation)
    return tuple(sorted(values, key=lambda value: value != links.default))


def unique_members(collection: str, label: str) -> dict[str, str]:
    """Return values, derived from a label, for the unique members other than `code` and `external_id`."""
    others = unique_keys(MODELS[collection]).keys() - {"code", "external_id"}
    return {name: f"{label}@register.example" if name == "email" else label for name in sorted(others)}


def _example(body: type[BaseModel]) -> dict[str, Any]:
    extra: Any = body.model_config["json_schema_extra"]
    example: dict[str, Any] = extra["examples"][0]
    return example


def required(collection: str, label: str = "thing") -> dict[str, Any]:
    """Return the smallest body that creates an object, with the name "Thing".

    Values come from the example of the body, those of unique members from the label: each object needs its own label.
    """
    body = DECLARATIONS[collection].body
    values: dict[str, Any] = _example(body) | {"name": "Thing"} | unique_members(collection, label)
    return {name: values[name] for name, field in body.model_fields.items() if field.is_required()}


def _link_tables() -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {name: [] for name in COLLECTIONS}
    for table in Base.metadata.sorted_tables:
        ends = [key.column.table.name for column in table.primary_key for key in column.foreign_keys]
        if len(ends) == 2 and set(ends) <= found.keys():
            found[ends[0]].append(table.name)
    return {name: tuple(sorted(tables)) for name, tables in found.items()}


# The tables of links by the collection whose objects own them: those whose primary key refers to two collections.
LINK_TABLES: dict[str, tuple[str, ...]] = _link_tables()
# All tables of objects and links.
TABLES: tuple[str, ...] = (*COLLECTIONS, *(table for tables in LINK_TABLES.values() for table in tables))
