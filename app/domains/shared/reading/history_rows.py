"""The rows of the history as JSON documents and as cells of a table."""

from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, case, func, select

from app.core.prepared import fast_statement
from app.domains.shared.history.models import Change
from app.domains.shared.history.record import constant
from app.domains.shared.models import table_of
from app.domains.shared.reading.cells import plain_cell
from app.domains.shared.reading.json_text import utf8

# The columns of a table of changes, in the order of the members of `ChangeRead`.
CELLS = (
    *("id", "at", "actor_id", "actor_name", "request_id", "message", "type"),
    *("object_id", "object_code", "object_name", "action", "before", "after"),
)


def select_members(source: FromClause) -> Select[Any]:
    """Select the members of `ChangeRead`."""
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
        source.c.before,
        source.c.after,
    )


def documents_of_rows(rows: Select[Any]) -> Select[Any]:
    """Select the `body`, a JSON document in bytes, of each row that `select_members` has selected."""
    source = rows.subquery("d")
    return select(utf8(func.row_to_json(source.table_valued())).label("body"))


def cells_of_rows(source: FromClause) -> Select[Any]:
    """Select the cells of each row; `before` and `after` are JSON texts."""
    cells: list[ColumnElement[Any]] = [plain_cell(source.c[name]).label(name) for name in CELLS]
    return select(*cells).select_from(source)


@fast_statement()
def all_changes() -> Select[Any]:
    """Return the statement of the whole history, the oldest change first; each row has a `body`."""
    table = table_of(Change).alias("change")
    return documents_of_rows(select_members(table).order_by(table.c.id))
