"""The statements of bulk writes: one for each step of a batch, whatever the number of items.

Values travel as arrays or as one JSON array of rows, and rows are locked in the order of their ids.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    Executable,
    FromClause,
    Integer,
    Select,
    String,
    Table,
    Text,
    all_,
    and_,
    any_,
    bindparam,
    case,
    cast,
    column,
    delete,
    exists,
    false,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    union,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB

from app.domains.shared.collection import LinkSet, foreign_keys, writable_columns
from app.domains.shared.history.diff import differences, nonempty_members
from app.domains.shared.history.record import change_cte, constant
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.reading.documents import Documents
from app.domains.shared.writing.dependants import restricting
from app.domains.shared.writing.single_statement import touch_values
from app.domains.shared.writing.unique_keys import unique_keys


@cache
def referenced_models(model: type[RegisterObject], links: Sequence[LinkSet]) -> tuple[type[RegisterObject], ...]:
    """Return the collections that objects of this one can refer to, in the order of their names."""
    models = {*foreign_keys(model).values(), *(link.target_model for link in links)}
    return tuple(sorted(models, key=lambda model: model.__tablename__))


@cache
def lock_objects(model: type[RegisterObject], *, deleting: bool) -> Executable:
    """Return the statement that locks the objects with `ids`, `codes` or `external_ids`, and reads them as they are.

    The codes are in small letters. See `read_columns` for what the lock keeps away.
    """
    table = table_of(model)
    own = [table.c[name] for name in ("id", "version", "created_by_id", "updated_by_id")]
    query = select(*own, *(table.c[name] for name in writable_columns(model))).where(_is_named(table, ""))
    return query.order_by(table.c.id).with_for_update(key_share=not deleting)


@cache
def find_references(model: type[RegisterObject], links: Sequence[LinkSet]) -> Executable:
    """Return the statement that finds what a batch refers to, and draws `new` ids for its new objects.

    For each collection that can be referred to its parameters are arrays of ids, codes in small letters and external
    ids, which begin with its name. Drawn ids are rows without a `type`. There are names only if `with_names`.
    """
    queries: list[Select[Any]] = []
    for target in referenced_models(model, links):
        table = table_of(target)
        kind, code = constant(table.name).label("type"), func.lower(table.c.code)
        name = case((bindparam("with_names", type_=Boolean), table.c.name))
        found = select(kind, table.c.id, code, table.c.external_id, name)
        queries.append(found.where(_is_named(table, f"{table.name}_")))
    sequence = f"nextval(pg_get_serial_sequence('{model.__tablename__}', 'id')::regclass)"
    numbers = func.generate_series(literal_column("1", Integer), bindparam("new", type_=Integer))
    drawn = select(null(), literal_column(sequence, BigInteger), null(), null(), null())
    return union_all(*queries, drawn.select_from(numbers.alias("number")))


def _is_named(table: Table, prefix: str) -> ColumnElement[bool]:
    ids = bindparam(f"{prefix}ids", type_=ARRAY(BigInteger))
    codes = bindparam(f"{prefix}codes", type_=ARRAY(Text))
    external_ids = bindparam(f"{prefix}external_ids", type_=ARRAY(Text))
    return or_(
        table.c.id == any_(ids), func.lower(table.c.code) == any_(codes), table.c.external_id == any_(external_ids)
    )


@cache
def find_referrers(model: type[RegisterObject]) -> Executable:
    """Return the statement of which of the `ids` are referred to, and of the `type` of what refers to them.

    Objects of this collection count unless their ids are in `others`.
    """
    table = table_of(model)
    targets = func.unnest(_ids()).table_valued(column("id", BigInteger)).render_derived(name="target")
    others = bindparam("others", type_=ARRAY(BigInteger))
    # Of a collection that nothing can refer to, this query alone is left.
    queries = [select(targets.c.id, constant(table.name).label("type")).where(false())]
    for foreign_key, owner in restricting(table):
        source = foreign_key.table.alias("source")
        refers = [source.c[foreign_key.name] == targets.c.id]
        if owner is table:
            refers.append(source.c.id != all_(others))
        found = exists(select(literal_column("1")).select_from(source).where(*refers))
        queries.append(select(targets.c.id, constant(owner.name).label("type")).where(found))
    return union(*queries)


@cache
def read_documents(documents: Documents) -> Executable:
    """Return the statement of the JSON of the objects with `ids`."""
    row = documents.snapshots(_has_id)
    return select(row.c.id, cast(row.c.document, Text).label("document"))


@cache
def release_keys(model: type[RegisterObject]) -> Executable:
    """Return the statement that takes from the objects with `ids` what other objects of the batch are to have.

    Unique indexes look at each row at once: two objects could not exchange their codes otherwise.
    """
    table = table_of(model)
    free: dict[str, Any] = {}
    for name in unique_keys(model):
        # What must not be null becomes something that no client can have sent.
        none = null() if table.c[name].nullable else func.concat(literal_column("'released '"), table.c.id)
        free[name] = none
    return update(table).where(table.c.id == any_(_ids())).values(free).returning(table.c.id)


@cache
def insert_objects(model: type[RegisterObject]) -> Executable:
    """Return the statement that adds the objects in `rows`, a JSON array; its other parameter is `caller_id`.

    In one statement parents and children may come in any order. The order is that of the keys, so that of two batches
    with the same ones one waits for the other.
    """
    rows = _rows(model)
    caller = bindparam("caller_id", type_=BigInteger)
    names = ["id", *writable_columns(model)]
    query = select(*(rows.c[name] for name in names), caller, caller)
    query = query.order_by(*(func.lower(rows.c[name]) if folded else rows.c[name] for name, folded in _ordered(model)))
    statement = insert(table_of(model)).from_select([*names, "created_by_id", "updated_by_id"], query)
    return statement.returning(table_of(model).c.id)


def _ordered(model: type[RegisterObject]) -> list[tuple[str, bool]]:
    return list(unique_keys(model).items())


@cache
def update_objects(model: type[RegisterObject]) -> Executable:
    """Return the statement that gives objects their new values; its parameters are those of `insert_objects`."""
    table, rows = table_of(model), _rows(model)
    values = {name: rows.c[name] for name in writable_columns(model)}
    statement = update(table).where(table.c.id == rows.c.id).values(values | touch_values(table))
    return statement.returning(table.c.id, table.c.version)


@cache
def delete_objects(model: type[RegisterObject]) -> Executable:
    """Return the statement that removes the objects with `ids`, parents and children together."""
    table = table_of(model)
    return delete(table).where(table.c.id == any_(_ids())).returning(table.c.id)


@cache
def remove_links(links: Sequence[LinkSet]) -> Executable:
    """Return the statement that removes the links which are not wanted, and returns whose they were.

    Each set of links has an array `{field}_owners` of the objects that it is about, and the arrays of what is wanted,
    of which the first one is `{field}_{owner}`.
    """
    ctes = []
    for link in links:
        table, wanted = link.table, _wanted_of_many(link)
        same = and_(*(wanted.c[name] == table.c[name] for name in (link.owner, *link.columns)))
        unwanted = delete(table).where(table.c[link.owner] == any_(_owners(link)), ~exists().where(same))
        ctes.append(unwanted.returning(table.c[link.owner].label("id")).cte(f"removed_{link.field}"))
    return union(*(select(cte.c.id) for cte in ctes))


@cache
def add_links(links: Sequence[LinkSet]) -> Executable:
    """Return the statement that adds the wanted links which are missing; see `remove_links`.

    It returns those of the owners in `{field}_owners` that got one: all others are new, and have none yet.
    """
    ctes: list[CTE] = []
    for link in links:
        wanted, columns = _wanted_of_many(link), (link.owner, *link.columns)
        table = link.table.alias("present")
        is_wanted = exists().where(*(wanted.c[name] == table.c[name] for name in columns))
        missing = or_(wanted.c[link.owner] != all_(_owners(link)), ~is_wanted)
        rows = select(*(wanted.c[name] for name in columns)).where(missing)
        added = insert(link.table).from_select(columns, rows).returning(link.table.c[link.owner].label("id"))
        ctes.append(added.cte(f"added_{link.field}"))
    changed = (select(cte.c.id).where(cte.c.id == any_(_owners(link))) for cte, link in zip(ctes, links, strict=True))
    return union(*changed)


def _owners(link: LinkSet) -> Any:
    return bindparam(f"{link.field}_owners", type_=ARRAY(BigInteger))


def _wanted_of_many(link: LinkSet) -> Any:
    names = (link.owner, *link.columns)
    types: dict[str, Any] = {name: String() if name == link.detail else BigInteger() for name in names}
    arrays = [bindparam(f"{link.field}_{name}", type_=ARRAY(kind)) for name, kind in types.items()]
    columns: list[Any] = [column(name, kind) for name, kind in types.items()]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name=f"wanted_{link.field}")


@cache
def record_changes(documents: Documents, *, shown: bool) -> Executable:
    """Return the statement that adds a row to the history for each of `ids`, in their order.

    `actions` has what was done to each, `befores` the JSON of what each was before, null for new ones. It runs when all
    is written but the deletes. The rows are `id`, and if they are to be `shown`, `before` and `after`.
    """
    item = (
        func.unnest(_ids(), bindparam("actions", type_=ARRAY(String)), bindparam("befores", type_=ARRAY(Text)))
        .table_valued(column("id", BigInteger), column("action", String), column("before", Text), with_ordinality="n")
        .render_derived(name="item")
    )
    row = documents.snapshots(_has_id)
    was, now = cast(item.c.before, JSONB), cast(row.c.document, JSONB)
    joined = item.outerjoin(row, row.c.id == item.c.id)
    both = select(item.c.n, item.c.id, item.c.action, was.label("before"), now.label("after")).select_from(joined)
    found = both.cte("found").prefix_with("MATERIALIZED")
    is_new, is_gone = found.c.action == constant("created"), found.c.action == constant("deleted")
    before, after = differences(found.c.before, found.c.after, documents.briefs)
    named = case((is_gone, found.c.before), else_=found.c.after)
    said = select(
        found.c.id,
        func.jsonb_extract_path_text(named, constant("code")).label("code"),
        func.jsonb_extract_path_text(named, constant("name")).label("name"),
        found.c.action,
        case((is_new, null()), (is_gone, nonempty_members(found.c.before, documents.briefs)), else_=before).label(
            "before"
        ),
        case((is_gone, null()), (is_new, nonempty_members(found.c.after, documents.briefs)), else_=after).label(
            "after"
        ),
    )
    change = said.order_by(found.c.n).cte("change").prefix_with("MATERIALIZED")
    record = change_cte(documents.model, change.c.action, change, before=change.c.before, after=change.c.after)
    columns = [change.c.id]
    if shown:
        columns += [cast(change.c[name], Text).label(name) for name in ("before", "after")]
    return select(*columns).add_cte(record)


def _ids() -> Any:
    return bindparam("ids", type_=ARRAY(BigInteger))


def _has_id(source: FromClause) -> ColumnElement[bool]:
    return source.c.id == any_(_ids())


def _rows(model: type[RegisterObject]) -> Any:
    table = table_of(model)
    columns: list[Any] = [column(name, table.c[name].type) for name in ("id", *writable_columns(model))]
    rows = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
    return rows.table_valued(*columns).render_derived(name="given", with_types=True)
