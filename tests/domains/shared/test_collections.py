"""Code that names collections one by one names every collection."""

from typing import get_args

from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.permissions import DECLARATION, SCOPES
from app.domains.change.schemas import ChangeType
from app.domains.collections import in_reference_order
from app.domains.search.schemas import TYPES
from app.domains.shared.collection import cycle_key
from app.domains.shared.trees import MaxDepth, NoCycle
from app.models import RegisterObject
from app.utils.fault_codes import TEXTS
from tests.catalogue import (
    COLLECTIONS,
    DECLARATIONS,
    ENTRIES,
    IN_ORDER_OF_REFERENCES,
    LINKS,
    LISTS,
    REFERENCES,
    TREES,
    body_of,
    every_collection,
    every_hierarchy,
    required,
    route_of,
)

# The collections of the ORM mapping, in the list or not.
MAPPED = {model.__tablename__ for model in RegisterObject.__subclasses__()}


def test_every_collection_is_searched_exported_and_recorded() -> None:
    assert set(TYPES) == MAPPED
    assert {entry.name for entry in in_reference_order()} == MAPPED
    assert set(get_args(ChangeType)) == MAPPED | {"api_tokens"}


def test_contract_tests_cover_every_collection() -> None:
    assert set(COLLECTIONS) == MAPPED


def test_objects_are_exported_after_those_they_link_to() -> None:
    place = {name: number for number, name in enumerate(IN_ORDER_OF_REFERENCES)}
    for collection, links in LINKS.items():
        assert all(place[each.target_model.__tablename__] < place[collection] for each in links), collection


@every_collection
def test_tables_of_tests_match_the_bodies(collection: str) -> None:
    declaration = DECLARATIONS[collection]
    ids = {name for name in declaration.body.model_fields if name.endswith("_id") and name != "external_id"}
    assert set(REFERENCES[collection]) == ids
    assert (collection in TREES) is ({NoCycle, MaxDepth} <= {*declaration.rules}) is ("parent_id" in ids)
    assert LISTS[collection].read_schema is declaration.read
    assert declaration.body is body_of(collection, "POST", "")
    for body in (declaration.body, body_of(collection, "PUT")):
        body.model_validate(required(collection))


@every_hierarchy
def test_references_within_a_collection_form_no_cycles(collection: str, reference: str) -> None:
    rules = [rule for rule in DECLARATIONS[collection].rules if issubclass(rule, NoCycle)]
    assert [rule.column for rule in rules] == [reference]
    assert [rule.watches for rule in rules] == [(reference,)]
    assert cycle_key(reference) in TEXTS


def test_every_collection_has_its_two_scopes_and_no_other_has_any() -> None:
    scopes = {f"{name}:{action}" for name in COLLECTIONS for action in ("read", "write")}
    assert {scope for scope in SCOPES if ":" in scope} == scopes | {"changes:read", "operations:read"}


@every_collection
def test_history_needs_the_scope_that_the_list_names(collection: str) -> None:
    entry, route = ENTRIES[collection], route_of(collection, "GET", "/{reference}/changes")
    assert route.openapi_extra is not None
    assert route.openapi_extra[DECLARATION] == (entry.history_scope or entry.scope_to_read)


async def test_words_of_every_collection_are_recorded(connection: AsyncConnection) -> None:
    rows = await connection.exec_driver_sql(
        "SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal"
    )
    assert {tuple(row) for row in rows} >= {
        (table, f"note_search_words_{event}") for table in MAPPED for event in ("insert", "update")
    }
