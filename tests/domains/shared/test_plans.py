"""Every order and filter has its index: the cost of a page depends on its size, not on the size of the table."""

import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import combinations, product
from typing import Any

import asyncpg
import pytest
from pydantic import ValidationError
from sqlalchemy import URL

from app.core.prepared import FastStatement
from app.domains.process.lists import ProcessListQuery
from app.domains.process.service import DEPARTMENTS, RESOURCES, ROLES, ProcessService
from app.domains.role.service import HOLDERS
from app.domains.shared.collection import LinkSet, writable_columns
from app.domains.shared.query.filters import MAX_VALUES
from app.domains.shared.query.link_filters import fixed_link
from app.domains.shared.query.orders import Order, Start
from app.domains.shared.query.pages import ListQuery, Position
from app.domains.shared.reading.documents import by_id, documents_of
from app.domains.shared.reading.reference_keys import _find_ids
from tests.catalogue import (
    COLLECTIONS,
    COMMON_COLUMNS,
    DECLARATIONS,
    DOCUMENTS,
    LINK_TABLES,
    LISTS,
    MODELS,
    PLAIN_TEXTS,
    REFERENCES,
    every_collection,
)
from tests.conftest import connected, new_database
from tests.plans import SAMPLE_ALL, nodes

ROWS = 100_000
# The maximum number of rows that a page may read. A scan in list order skips rows.
MAX_ROWS = ROWS // 4
LIMIT = 50

# Each column has common values, and rare ones: one row in ten thousand.
OBJECTS = """
    'Name ' || (n * 7919) % {rows} || CASE WHEN n % 10000 = 0 THEN ' seldom' ELSE ' often' END AS name,
    CASE WHEN n % 10000 <> 1 THEN 'C-' || n END AS code,
    CASE WHEN n % 10000 = 2 THEN 'X-' || n END AS external_id,
    CASE WHEN n % 10000 = 3 THEN 'seldom ' || n WHEN n % 2 = 0 THEN 'often ' || n END AS description,
    now() - n * interval '1 minute' AS created_at,
    now() - (n * 31) % {rows} * interval '1 minute' AS updated_at,
    CASE WHEN n % 10000 = 4 THEN 1 + n / 10000 WHEN n % 10000 <> 5 THEN 50 END AS created_by_id,
    CASE WHEN n % 10000 = 4 THEN 1 + n / 10000 WHEN n % 10000 <> 5 THEN 50 END AS updated_by_id,
    CASE WHEN n % 10000 = 6 THEN 9 ELSE 1 + n % 3 END AS version
"""
TREE = "CASE WHEN n > 10 THEN n / 10 END"
REFERENCE = "CASE WHEN n % 10000 = 7 THEN NULL ELSE 1 + n % 5000 END"
PLAIN = "CASE WHEN n % 10000 <> 9 THEN 'Text ' || n END"
# The columns of a single collection, except references and nullable plain text.
SPECIFIC_COLUMNS = {
    "locations": {
        "kind": "CASE WHEN n % 10000 = 8 THEN 'virtual' WHEN n % 2 = 0 THEN 'room' ELSE 'floor' END",
        "country": "CASE WHEN n % 10000 = 9 THEN 'CH' WHEN n % 10000 <> 8 THEN 'DE' END",
        "timezone": "CASE WHEN n % 10000 = 9 THEN 'Asia/Tokyo' WHEN n % 10000 <> 8 THEN 'UTC' END",
        "latitude": "CASE WHEN n % 10000 <> 8 THEN n % 90 + n / 100000.0 END",
        "longitude": "CASE WHEN n % 10000 <> 8 THEN n % 180 + n / 100000.0 END",
    },
    "processes": {
        "kind": "CASE WHEN n % 10000 = 8 THEN 'core' ELSE 'support' END",
        "status": "CASE WHEN n % 10000 = 8 THEN 'draft' ELSE 'active' END",
        "criticality": "CASE WHEN n % 10000 = 8 THEN 'low' WHEN n % 10000 <> 9 THEN 'high' END",
    },
    "resources": {
        "kind": "CASE WHEN n % 10000 = 8 THEN 'supplier' ELSE 'application' END",
        "criticality": "CASE WHEN n % 10000 = 8 THEN 'low' WHEN n % 10000 <> 9 THEN 'high' END",
        "url": "CASE WHEN n % 10000 <> 9 THEN 'https://register.example/' || n END",
    },
    "users": {
        "email": "'u' || n || '@register.example'",
        "is_active": "n % 10000 <> 8",
        "access_level": "CASE WHEN n % 10000 = 8 THEN 'admin' ELSE 'viewer' END",
    },
}
# The own fields of links. One object in ten thousand has no link.
LINK_DETAILS = {
    "process_departments": ("relation", "CASE WHEN n % 10000 = 8 THEN 'owner' ELSE 'participant' END"),
    "process_resources": ("usage", "CASE WHEN n % 10000 = 8 THEN 'writes' ELSE 'uses' END"),
    "process_roles": ("responsibility", "CASE WHEN n % 10000 = 8 THEN 'accountable' ELSE 'informed' END"),
}
LINK_SETS = {links.table.name: links for each in DECLARATIONS.values() for links in each.links} | {
    HOLDERS.table.name: HOLDERS
}
PAIRS = {"ix_process_roles_role_id", "pk_process_roles"}
# These tests do not search, and splitting a million texts into words takes a minute.
WITHOUT_WORDS = """
    CREATE OR REPLACE FUNCTION search_name_words(code text, name text) RETURNS tsvector
      LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN CAST('' AS tsvector);
    CREATE OR REPLACE FUNCTION search_text_words(code text, name text, description text) RETURNS tsvector
      LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN CAST('' AS tsvector)
"""
PLAIN_VALUES = ["Text 77", "none"]
# Values of each parameter: common, rare and missing ones.
INSTANTS = ["2000-01-01T00:00:00Z", "2999-01-01T00:00:00Z"]
VALUES: dict[str, list[Any]] = {name: PLAIN_VALUES for names in PLAIN_TEXTS.values() for name in names} | {
    "id": [77, 99_950],
    "code": ["c-77", "none"],
    "external_id": ["X-10002", "none"],
    "name": ["Name 7919 often", "none"],
    "description": ["often 2", "none"],
    "email": ["u77@register.example"],
    "url": ["https://register.example/77"],
    "country": ["CH", "DE", "FR"],
    "timezone": ["Asia/Tokyo", "UTC", "none"],
    "ic": ["seldom", "often", "nowhere"],
    "sw": ["n", "c-", "often 77", "nowhere"],
    "created_at": INSTANTS,
    "updated_at": INSTANTS,
    "latitude": [0.5, 179.0, -1.0],
    "longitude": [0.5, 179.0, -1.0],
    "version": [1, 9, 77],
    "kind": ["core", "support", "supplier", "application", "virtual", "room", "region", "facility"],
    "status": ["draft", "active", "retired"],
    "criticality": ["low", "high", "critical"],
    "access_level": ["viewer", "admin", "editor"],
    "null": ["true", "false"],
    "is_active": ["true", "false"],
    "relation": ["owner", "participant", "customer"],
    "usage": ["writes", "uses", "reads"],
    "responsibility": ["accountable", "informed", "consulted"],
    "level": [1, 2, 4, 77],
    "has_children": ["true", "false"],
    # Small subtrees: the whole tree includes every object.
    "within": [100, 77_777],
    "other_id": [1, 50, 77, 4_999],
}
# `__not` has no index unless a field has few values, so no test excludes a value of nearly all rows.
SELDOM = {
    "created_by_id": 77,
    "updated_by_id": 77,
    "country": "CH",
    "timezone": "Asia/Tokyo",
}
# A common value of an own field alone selects nearly all rows, so it is combined with an object at the other end.
COMBINED = {
    "relation": "department_id",
    "usage": "resource_id",
    "responsibility": "role_id",
    "responsibility_match": "role_id",
}


def values_of(name: str) -> list[Any]:
    field, _, suffix = name.partition("__")
    if suffix == "not" and field in SELDOM:
        return [SELDOM[field]]
    if suffix in VALUES:
        return VALUES[suffix]
    if field in VALUES:
        return VALUES[field]
    return VALUES["within" if field.endswith("within") else "other_id"]


def rows_read(node: dict[str, Any]) -> float:
    """Return the number of rows that a scan read, in all loops."""
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


def literal(value: Any) -> str:
    if isinstance(value, list):
        value = f"{{{','.join(json.dumps(each, default=str) for each in value)}}}"
    return "NULL" if value is None else f"'{value}'"


async def plan_of(connection: asyncpg.Connection, fast: FastStatement, **values: Any) -> list[dict[str, Any]]:
    """Run a statement repeatedly, as the service does, and return the part of its plan that finds the page.

    From the sixth run on PostgreSQL uses the generic plan if its estimated cost is not higher than that of custom
    plans.
    """
    statement = await fast.prepare()
    arguments = ", ".join(map(literal, statement.arguments({"limit": LIMIT, "offset": 0} | values)))
    await connection.execute(f"PREPARE page AS {statement.sql}")
    execute = f"EXECUTE page ({arguments})"
    try:
        for _ in range(5):
            await connection.execute(f"EXPLAIN {execute}")
        options = "ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON"
        (explained,) = json.loads(await connection.fetchval(f"EXPLAIN ({options}) {execute}"))
    finally:
        await connection.execute("DEALLOCATE page")
    (found,) = (node for node in nodes(explained["Plan"]) if node.get("Subplan Name") == "CTE found")
    return list(nodes(found))


@pytest.fixture(scope="module")
async def large(server_url: URL, template: URL) -> AsyncIterator[asyncpg.Connection]:
    """A database with many objects of all collections, read-only for these tests."""
    async with new_database(server_url, template.database) as url, connected(url) as connection:
        await connection.execute(f"SET session_replication_role = replica; SET work_mem = '256MB'; {WITHOUT_WORDS}")
        for collection in COLLECTIONS:
            await fill(connection, collection)
        for links in LINK_SETS.values():
            await fill_links(connection, links)
        await connection.execute("RESET work_mem")
        await connection.execute(SAMPLE_ALL)
        await connection.execute("VACUUM (ANALYZE)")
        yield connection


def columns_of(collection: str) -> dict[str, str]:
    """Return the SQL of the columns that not every collection has."""
    references = {name: TREE if name == "parent_id" else REFERENCE for name in REFERENCES[collection]}
    return references | dict.fromkeys(PLAIN_TEXTS[collection], PLAIN) | SPECIFIC_COLUMNS.get(collection, {})


@every_collection
def test_every_column_has_values(collection: str) -> None:
    assert columns_of(collection).keys() == set(writable_columns(MODELS[collection])) - COMMON_COLUMNS


def test_every_kind_of_link_has_rows() -> None:
    assert LINK_SETS.keys() == {table for tables in LINK_TABLES.values() for table in tables}


async def fill_links(connection: asyncpg.Connection, links: LinkSet) -> None:
    columns = {links.owner: "n", links.target: "1 + n % 5000"}
    if links.detail is not None:
        name, sql = LINK_DETAILS[links.table.name]
        assert name == links.detail
        columns[name] = sql
    rows = f"SELECT {', '.join(columns.values())} FROM generate_series(1, {ROWS}) AS n WHERE n % 10000 <> 5"
    await connection.execute(f"INSERT INTO {links.table.name} ({', '.join(columns)}) {rows}")


async def fill(connection: asyncpg.Connection, table: str) -> None:
    # Creating an index afterwards is faster than maintaining it.
    indexes = await connection.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = $1 AND indexname LIKE 'ix%'", table
    )
    for index in indexes:
        await connection.execute(f"DROP INDEX {index['indexname']}")
    columns = "".join(f", {sql} AS {name}" for name, sql in columns_of(table).items())
    objects = f"SELECT n AS id, {OBJECTS.format(rows=ROWS)}{columns} FROM generate_series(1, {ROWS}) AS n"
    names = ", ".join(attribute.name for attribute in (await connection.prepare(objects)).get_attributes())
    await connection.execute(f"INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE {objects} ON CONFLICT DO NOTHING")
    for index in indexes:
        await connection.execute(index["indexdef"])


def absences_of_links(collection: str) -> set[str]:
    """Return the filters by the absence of links. See `test_absence_of_links_is_found_in_one_pass`."""
    names = set()
    for links in LINK_SETS.values():
        for end, other in ((links.owner_model, links.target), (links.target_model, links.owner)):
            if end is MODELS[collection]:
                names.add(f"{other}__null")
    return names


def orders(declaration_of: type[ListQuery]) -> list[str]:
    names = list(declaration_of.declaration.sorts)
    return [*names, *(f"-{name}" for name in names), "-updated_at,name", "name,-created_at"]


@every_collection
async def test_no_page_sorts_or_scans_the_table(large: asyncpg.Connection, collection: str) -> None:
    query, documents = LISTS[collection], DOCUMENTS[collection]
    for sort in orders(query):
        plan = await plan_of(large, documents.page(Order(sort, query.declaration)))
        kinds = {node["Node Type"] for node in plan}
        assert kinds <= {"Limit", "Result", "Index Scan", *({"Incremental Sort"} if "," in sort else ())}, (sort, kinds)
        assert sum(rows_read(node) for node in plan if "Relation Name" in node) <= 2 * LIMIT + 2, sort


@pytest.mark.parametrize("start", ["after", "before"])
@every_collection
async def test_deep_page_begins_in_the_index(large: asyncpg.Connection, collection: str, start: Start) -> None:
    query, documents = LISTS[collection], DOCUMENTS[collection]
    for sort in orders(query):
        order = Order(sort, query.declaration)
        first = await documents.page(order).prepare()
        row = await large.fetchrow(first.sql, *first.arguments({"limit": 1, "offset": ROWS // 2}))
        position = Position("after", tuple(json.loads(row["edges"])[0]))
        plan = await plan_of(large, documents.page(order, None, start), **position.arguments())
        scans = [node for node in plan if "Relation Name" in node]
        assert {node["Node Type"] for node in scans} == {"Index Scan"}, sort
        # The index yields the page, and with two keys the ties at both ends.
        assert all(rows_read(node) < 4 * LIMIT for node in scans), (sort, scans)


@every_collection
async def test_no_filter_scans_the_table(large: asyncpg.Connection, collection: str) -> None:
    query, documents = LISTS[collection], DOCUMENTS[collection]
    faults, tried = [], 0
    # See test_search_plans.py for `q`.
    names = query.declaration.parameters.keys() - {"q"} - absences_of_links(collection)
    # The usual order, and one that is not in the indexes of filters.
    sort = "-name" if collection in {"processes", "users"} else "id"
    for name in names:
        for values in valid_queries(query, name):
            selection, arguments = values.selection()
            statement = documents.page(Order(sort, query.declaration), selection)
            plan = await plan_of(large, statement, **arguments)
            worst = max((rows_read(node) for node in plan if "Relation Name" in node), default=0)
            tried += 1
            if worst > MAX_ROWS or any(node["Node Type"] == "Seq Scan" for node in plan):
                given = {each: getattr(values, each) for each in values.model_fields_set}
                faults.append((given, sort, worst, [node["Node Type"] for node in plan]))
    assert not faults, "\n".join(map(str, faults))
    assert tried >= len(names)


@every_collection
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_keys_of_references_are_looked_up_by_their_unique_indexes(
    large: asyncpg.Connection, collection: str, mode: str
) -> None:
    # As many keys as a filter takes. Some objects have the key, and most external ids are missing.
    keys = {f"{collection}_codes": [f"c-{n * 777}" for n in range(MAX_VALUES)]}
    keys[f"{collection}_external_ids"] = [f"X-{n * 2500 + 2}" for n in range(MAX_VALUES)]
    statement = await _find_ids(((collection, "code"), (collection, "external_id"))).prepare()
    arguments = ", ".join(map(literal, statement.arguments(keys)))
    await large.execute(f"SET plan_cache_mode = {mode}; PREPARE keys AS {statement.sql}")
    try:
        options = "ANALYZE, TIMING OFF, BUFFERS OFF, FORMAT JSON"
        (explained,) = json.loads(await large.fetchval(f"EXPLAIN ({options}) EXECUTE keys ({arguments})"))
    finally:
        await large.execute("DEALLOCATE keys; RESET plan_cache_mode")
    scans = [node for node in nodes(explained["Plan"]) if "Relation Name" in node]
    assert {node.get("Index Name") for node in scans} == {f"uq_{collection}_code", f"uq_{collection}_external_id"}
    assert sum(rows_read(node) for node in scans) <= len(keys) * MAX_VALUES


@every_collection
async def test_absence_of_links_is_found_in_one_pass(large: asyncpg.Connection, collection: str) -> None:
    query, documents = LISTS[collection], DOCUMENTS[collection]
    for name in absences_of_links(collection):
        for sort, value in product(("id", "-name"), (True, False)):
            selection, arguments = query(**{name: value}).selection()
            plan = await plan_of(large, documents.page(Order(sort, query.declaration), selection), **arguments)
            scans = [node for node in plan if "Relation Name" in node]
            # One object in ten thousand has no link, so all objects and links may be read, each once.
            assert len(scans) == 2, (name, sort, scans)
            assert max(map(rows_read, scans)) <= ROWS, (name, sort, scans)


@pytest.mark.parametrize(
    ("collection", "query", "indexes"),
    [
        ("processes", {"criticality": ["low"], "criticality__null": True}, {"ix_processes_criticality"}),
        ("processes", {"owner_id": [77], "owner_id__null": True}, {"ix_processes_owner_id"}),
        ("users", {"department_within__not": 100, "department_id": [77]}, {"ix_users_department_id"}),
        ("processes", {"role_id__null": True, "kind": ["core"]}, {"ix_processes_kind", "pk_process_roles"}),
        ("processes", {"role_id__null": True, "within": 100}, {"pk_processes", "pk_process_roles"}),
        ("processes", {"role_id__not": [77], "kind": ["core"]}, {"ix_processes_kind", "ix_process_roles_role_id"}),
        ("processes", {"role_id": [77], "responsibility": ["informed"], "responsibility_match": "none"}, PAIRS),
        ("processes", {"role_id": [77], "responsibility": ["informed"], "responsibility_match": "all"}, PAIRS),
        ("processes", {"role_id": [77, 78], "role_match": "all"}, {"ix_process_roles_role_id"}),
        ("departments", {"process_id": [77]}, {"pk_process_departments", "pk_departments"}),
        ("departments", {"process_within": 100}, {"pk_process_departments", "pk_departments"}),
        ("locations", {"process_id": [77]}, {"pk_process_locations", "pk_locations"}),
        ("resources", {"process_id": [77], "usage": ["uses"]}, {"pk_process_resources", "pk_resources"}),
        ("roles", {"process_id": [77], "responsibility": ["informed"]}, {"pk_process_roles", "pk_roles"}),
        ("roles", {"user_id": [77]}, {"ix_role_holders_user_id", "pk_roles"}),
        ("users", {"role_id": [77]}, {"pk_role_holders", "pk_users"}),
    ],
)
async def test_combined_filters_use_indexes(
    large: asyncpg.Connection, collection: str, query: dict[str, Any], indexes: set[str]
) -> None:
    selection, arguments = LISTS[collection](**query).selection()
    for sort in ("id", "-name"):
        order = Order(sort, LISTS[collection].declaration)
        plan = await plan_of(large, DOCUMENTS[collection].page(order, selection), **arguments)
        assert sum(rows_read(node) for node in plan if "Relation Name" in node) < 20 * LIMIT, (sort, plan)
        assert indexes <= {node.get("Index Name") for node in plan}, (sort, plan)


def queries_of_subtrees(collection: str) -> Iterator[dict[str, Any]]:
    """Yield each filter by a subtree or by levels, alone, with its alternative, and with each of the others."""
    parameters = LISTS[collection].declaration.parameters
    sets: dict[str, Any] = {name: 1 for name in parameters if name.partition("__")[0].endswith("within")}
    sets |= {name: [2, 3] for name in ("level", "level__not") if name in parameters}
    for number in (1, 2, 3):
        for names in combinations(sets, number):
            query = {name: sets[name] for name in names}
            yield query
            nulls = {f"{name.partition('__')[0].removesuffix('within')}id__null" for name in names}
            if nulls & parameters.keys():
                yield query | dict.fromkeys(nulls & parameters.keys(), True)


@every_collection
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_no_row_is_compared_with_all_objects_of_a_subtree(
    large: asyncpg.Connection, collection: str, mode: str
) -> None:
    documents, tried = DOCUMENTS[collection], 0
    order = Order("-name", LISTS[collection].declaration)
    for query in queries_of_subtrees(collection):
        selection, arguments = LISTS[collection](**query).selection()
        for fast in (documents.count(selection), documents.page(order, selection)):
            statement = await fast.prepare()
            values = ", ".join(map(literal, statement.arguments({"limit": LIMIT, "offset": 0} | arguments)))
            await large.execute(f"SET plan_cache_mode = {mode}; PREPARE subtrees AS {statement.sql}")
            (explained,) = json.loads(await large.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE subtrees ({values})"))
            await large.execute("DEALLOCATE subtrees; RESET plan_cache_mode")
            tried += 1
            # The other parts of the statement of a page read only the rows of the page.
            parts = [node for node in nodes(explained["Plan"]) if node.get("Subplan Name") == "CTE found"]
            for node in nodes(*(parts or [explained["Plan"]])):
                # An array of a subquery, a set that is not hashed, or a join that compares all pairs of rows.
                assert not re.search(r"ANY \(\(InitPlan|ANY \([^()]* = \(SubPlan", node.get("Filter", "")), query
                if node["Node Type"] == "Nested Loop" and "Join Filter" in node:
                    inner = [each for each in node["Plans"] if each["Parent Relationship"] == "Inner"]
                    assert any("Index Cond" in each for each in nodes(*inner)), query
    assert tried >= 2


@pytest.mark.parametrize("value", [9, 77, 4_999])
@pytest.mark.parametrize(
    ("link_set", "query"),
    [
        (DEPARTMENTS, {}),
        (DEPARTMENTS, {"relation": ["participant"]}),
        (DEPARTMENTS, {"relation": ["owner"]}),
        (DEPARTMENTS, {"department_within": 100}),
        (RESOURCES, {"usage": ["uses"]}),
        (ROLES, {"responsibility": ["informed"]}),
    ],
)
async def test_list_of_linked_objects_scans_no_table(
    large: asyncpg.Connection, link_set: LinkSet, query: dict[str, Any], value: int
) -> None:
    fixed = fixed_link(link_set, link_set.owner, by_id)
    for sort in ("id", "-name"):
        selection, arguments = ProcessListQuery(**query).selection(fixed)
        statement = documents_of(ProcessService.collection).page(Order(sort, ProcessListQuery.declaration), selection)
        plan = await plan_of(large, statement, key=value, **arguments)
        scans = [node for node in plan if "Relation Name" in node]
        assert not any(node["Node Type"] == "Seq Scan" for node in scans), (sort, scans)
        assert sum(rows_read(node) for node in scans) < 10 * LIMIT, (sort, scans)


def valid_queries(query: type[ListQuery], name: str) -> Iterator[ListQuery]:
    """Yield queries with one parameter and those that it requires, for each of its valid values."""
    found = 0
    parameters = query.declaration.parameters
    required = {}
    for needed in {parameters[name].requires, COMBINED.get(name)} - {None}:
        # The lists of the other end have the filter by processes.
        other = needed if needed in parameters else "process_id"
        required[other] = [77, 78] if other.endswith("_id") else values_of(other)[1:2]
    for value in ["any", "all", "none"] if name.endswith("_match") else values_of(name):
        given: Mapping[str, Any] = {name: [value] if parameters[name].is_list else value, **required}
        try:
            yield query(**given)
        except ValidationError:
            continue  # a kind of another collection
        found += 1
    assert found, name
