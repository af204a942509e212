"""References and links as the cells of a table, which can be read back.

    reference = code | "~" external_id | "#" id     the first of them that the object has
    entry     = reference [":" detail]
    links     = entry *("|" entry)

In an external id a backslash stands before each backslash, `|` and `:`. A code begins with a letter or a digit and has
none of these characters, so that no two objects have the same reference.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

from sqlalchemy import ColumnElement, FromClause, Text, cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import RelationshipProperty

# What a spreadsheet would run, and the mark that keeps it from that.
_RUN = frozenset("=+-@\t\r")
_MARK = "'"

# A column of keys, and the value in it.
CellReference = tuple[Literal["id", "code", "external_id"], int | str]


class BadCellError(ValueError):
    """A cell does not say what its column is for; the message is for a person."""


def plain_cell(column: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the text that the value has as JSON, without quotes; NULL of NULL."""
    return func.to_json(column).op("#>>", return_type=Text())(literal_column("'{}'::text[]"))


def reference_cell(relationship: RelationshipProperty[Any], source: FromClause) -> ColumnElement[str]:
    """Return the reference to the one object that a row refers to, if any."""
    (foreign_key,) = relationship.local_columns
    target = relationship.mapper.local_table.alias("t")
    found = select(_reference(target)).where(target.c.id == source.c[foreign_key.name])
    return found.correlate(source).scalar_subquery()


def links_cell(
    relationship: RelationshipProperty[Any], shown: frozenset[str], source: FromClause
) -> ColumnElement[str]:
    """Return the links of a row; `shown` are the members of an entry, of which the link's own is its detail."""
    link = relationship.mapper.local_table.alias("l")
    (to_other,) = relationship.mapper.relationships
    (foreign_key,) = to_other.local_columns
    (owner,) = relationship.remote_side
    target = to_other.mapper.local_table.alias("t")
    entry: ColumnElement[Any] = _reference(target)
    order: list[ColumnElement[Any]] = [target.c.id]
    for name in sorted(shown & set(link.c.keys())):
        entry = entry.concat(literal_column("':'", Text)).concat(link.c[name])
        order.append(link.c[name])
    entries = func.string_agg(entry, aggregate_order_by(literal_column("'|'", Text), *order))
    query = select(entries).select_from(link.join(target, target.c.id == link.c[foreign_key.name]))
    return query.where(link.c[owner.name] == source.c.id).correlate(source).scalar_subquery()


def escape_formula(cell: str | None) -> str:
    """Return a cell that no spreadsheet runs. One apostrophe in front is not part of the value.

    So an empty text is told from nothing, too.
    """
    if cell is None:
        return ""
    return _MARK + cell if not cell or cell[0] == _MARK or cell[0] in _RUN else cell


def unescape_formula(cell: str) -> str | None:
    """Return the value that `safe` made the cell of: also of one that somebody wrote who knows nothing of marks."""
    if not cell:
        return None
    marked = cell[0] == _MARK and (len(cell) == 1 or cell[1] == _MARK or cell[1] in _RUN)
    return cell[1:] if marked else cell


def read_reference(cell: str) -> CellReference:
    """Return the reference that a cell, or an entry without its detail, has. Raises `BadCellError`."""
    if cell.startswith("~"):
        return "external_id", re.sub(r"\\([\\|:])", r"\1", cell[1:])
    if cell.startswith("#"):
        return "id", read_id(cell[1:])
    return "code", cell


def read_links(cell: str) -> Iterator[tuple[CellReference, str | None]]:
    """Yield the reference and the detail of each link, whatever blanks are around them. Raises `BadCellError`."""
    for entry in _split(cell, "|"):
        reference, *details = (part.strip() for part in _split(entry, ":"))
        if not reference or len(details) > 1:
            raise BadCellError("Write each link as a reference, and behind a colon its detail; `|` separates links.")
        yield read_reference(reference), details[0] if details else None


def read_ids(cell: str) -> Iterator[int]:
    """Yield ids that `|` separates, whatever blanks are around them. Raises `BadCellError`."""
    return (read_id(part.strip()) for part in cell.split("|"))


def read_id(cell: str) -> int:
    """Return an id. Raises `BadCellError`."""
    # More digits than an id has are a fault of the value, which the schema finds.
    if not re.fullmatch("[0-9]{1,30}", cell, re.ASCII):
        raise BadCellError("Write an id as digits; a code or an external id stands in the column without `_id`.")
    return int(cell)


def _split(text: str, separator: str) -> list[str]:
    parts = [""]
    for token in re.findall(r"\\?.", text, re.DOTALL):
        if token == separator:
            parts.append("")
        else:
            parts[-1] += token
    return parts


def _reference(target: FromClause) -> ColumnElement[str]:
    escaped = func.regexp_replace(
        target.c.external_id,
        *(literal_column(text, Text) for text in (r"'([\\|\:])'", r"'\\\1'", "'g'")),
    )
    external_id = literal_column("'~'", Text).concat(escaped)
    return func.coalesce(target.c.code, external_id, literal_column("'#'", Text).concat(cast(target.c.id, Text)))
