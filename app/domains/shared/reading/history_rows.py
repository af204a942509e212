"""The rows of the history as JSON documents and as cells of a table."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, case, func, select
from sqlalchemy.dialects.postgresql import JSONB

from app.core.permissions import Scope
from app.core.prepared import fast_statement
from app.domains.shared.collection import Collection
from app.domains.shared.history.models import Change
from app.domains.shared.history.record import constant
from app.domains.shared.models import table_of
from app.domains.shared.query.representations import members_on_request
from app.domains.shared.reading.cells import plain_cell
from app.domains.shared.reading.json_text import utf8

# The columns of a table of changes, in the order of the members of `ChangeRead`.
CELLS = (
    *("id", "at", "actor_id", "actor_name", "request_id", "message", "type"),
    *("object_id", "object_code", "object_name", "action", "before", "after"),
)

# Members that `before` and `after` leave out, each with the type of the changes that may have it.
ExcludedMembers = frozenset[tuple[str, str]]


def excluded_members(collections: Iterable[Collection], scopes: frozenset[Scope]) -> ExcludedMembers:
    """Return the members on request of the collections that a caller with the scopes may not read."""
    members = ((each.name, members_on_request(each.read)) for each in collections)
    return frozenset((type_, name) for type_, of_type in members for name in of_type if of_type[name] not in scopes)


def select_members(source: FromClause, excluded: ExcludedMembers) -> Select[Any]:
    """Select the members of `ChangeRead`, without excluded members in `before` and `after`."""
    actor = func.json_build_object(constant("id"), source.c.actor_id, constant("name"), source.c.actor_name)
    item = func.json_build_object(
        *(constant("id"), source.c.object_id),
        *(constant("code"), source.c.object_code),
        *(constant("name"), source.c.object_name),
    )
    return select(
        source.c.id,
        source.c.at,
        case((source.c.actor_id.is_not(None), actor)).label("actor"),
        source.c.request_id,
        source.c.message,
        source.c.type,
        item.label("object"),
        source.c.action,
        _visible(source, "before", excluded).label("before"),
        _visible(source, "after", excluded).label("after"),
    )


def documents_of_rows(rows: Select[Any]) -> Select[Any]:
    """Select the `body`, a JSON document in bytes, of each row that `select_members` has selected."""
    source = rows.subquery("d")
    return select(utf8(func.row_to_json(source.table_valued())).label("body"))


def cells_of_rows(source: FromClause, excluded: ExcludedMembers) -> Select[Any]:
    """Select the cells of each row; `before` and `after` are JSON texts without excluded members."""
    cells: list[ColumnElement[Any]] = [plain_cell(_visible(source, name, excluded)).label(name) for name in CELLS]
    return select(*cells).select_from(source)


@fast_statement()
def all_changes() -> Select[Any]:
    """Return the statement of the whole history, the oldest change first; each row has a `body`."""
    table = table_of(Change).alias("change")
    return documents_of_rows(select_members(table, ExcludedMembers()).order_by(table.c.id))


def _visible(source: FromClause, name: str, excluded: ExcludedMembers) -> ColumnElement[Any]:
    """Return a column, `before` and `after` without the excluded members of the type of the change."""
    value: ColumnElement[Any] = source.c[name]
    if name not in {"before", "after"}:
        return value
    for type_, member in sorted(excluded):
        # No member has an empty name.
        name_of_type = case((source.c.type == constant(type_), constant(member)), else_=constant(""))
        value = value.op("-", return_type=JSONB())(name_of_type)
    return value
