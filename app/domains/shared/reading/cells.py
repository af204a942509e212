"""References and links as cells of a CSV table, and their parsers.

    reference = code | "~" external_id | "#" id     the first that the object has and the caller may read
    entry     = reference [":" detail]
    links     = entry *("|" entry)

In an external id each backslash, `|` and `:` is escaped by a backslash. A code begins with a letter or a digit and has
none of these characters, so no two objects have the same reference.
"""

import re
import string
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from sqlalchemy import ColumnElement, FromClause, Text, cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import RelationshipProperty

from app.domains.shared.models import EXTERNAL_ID_LENGTH
from app.utils.text.invisible import trimmed
from app.utils.text.normalisation import MAX_DECOMPOSITION

# The characters with which a formula begins in a spreadsheet, and the mark that prevents its evaluation.
_FORMULA_STARTS = frozenset("=+-@\t\r")
_MARK = "'"
# Shortcut: most cells begin with one of these, which neither need a mark nor are a part of one.
_PLAIN_STARTS = frozenset(string.ascii_letters + string.digits)

_ESCAPED = re.compile(r"\\([\\|:])")
# The text up to a separator that no backslash precedes, by separator.
_PARTS = {each: re.compile(rf"(?:[^\\{each}]++|\\.|\\\Z)*+", re.DOTALL) for each in "|:"}

# The lengths of the longest cells. Each character of an external id may be decomposed (NFD), or escaped by one more
# character. Blanks may surround each part.
_MAX_BLANKS = 100
MAX_VALUE_LENGTH = 100 + _MAX_BLANKS
MAX_ENTRY_LENGTH = len("~") + MAX_DECOMPOSITION * EXTERNAL_ID_LENGTH + _MAX_BLANKS

# A key column and its value.
CellReference = tuple[Literal["id", "code", "external_id"], int | str]


class BadCellError(ValueError):
    """A cell cannot be read; `key` is that of its text in `app/utils/fault_codes.py`, with these values."""

    def __init__(self, key: str, **values: str) -> None:
        super().__init__(key)
        self.key = key
        self.values = values


def plain_cell(column: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the JSON text of the value without quotes; NULL remains NULL."""
    return func.to_json(column).op("#>>", return_type=Text())(literal_column("'{}'::text[]"))


def reference_cell(
    relationship: RelationshipProperty[Any], source: FromClause, with_external_ids: frozenset[str]
) -> ColumnElement[str]:
    """Return the reference to the object that a row refers to; NULL without one.

    Only objects of the collections `with_external_ids` are referred to by external id.
    """
    (foreign_key,) = relationship.local_columns
    target = relationship.mapper.local_table.alias("t")
    reference = _reference(target, with_external_id=relationship.mapper.class_.__tablename__ in with_external_ids)
    query = select(reference).where(target.c.id == source.c[foreign_key.name])
    return query.correlate(source).scalar_subquery()


def links_cell(
    relationship: RelationshipProperty[Any],
    members: frozenset[str],
    source: FromClause,
    with_external_ids: frozenset[str],
) -> ColumnElement[str]:
    """Return the links of a row; the detail of an entry is the column of the link table that is among `members`.

    Only objects of the collections `with_external_ids` are referred to by external id.
    """
    link = relationship.mapper.local_table.alias("l")
    (to_other,) = relationship.mapper.relationships
    (foreign_key,) = to_other.local_columns
    (owner,) = relationship.remote_side
    target = to_other.mapper.local_table.alias("t")
    is_shown = to_other.mapper.class_.__tablename__ in with_external_ids
    entry: ColumnElement[Any] = _reference(target, with_external_id=is_shown)
    order: list[ColumnElement[Any]] = [target.c.id]
    for name in sorted(members & set(link.c.keys())):
        entry = entry.concat(literal_column("':'", Text)).concat(link.c[name])
        order.append(link.c[name])
    entries = func.string_agg(entry, aggregate_order_by(literal_column("'|'", Text), *order))
    query = select(entries).select_from(link.join(target, target.c.id == link.c[foreign_key.name]))
    return query.where(link.c[owner.name] == source.c.id).correlate(source).scalar_subquery()


def escape_formula(cell: str | None) -> str:
    """Return a cell that no spreadsheet evaluates; a leading apostrophe is a mark, not part of the value.

    None becomes an empty cell. A text that would be an empty cell is marked.
    """
    if cell is None:
        return ""
    if cell[:1] in _PLAIN_STARTS:
        return cell
    return _MARK + cell if is_empty(cell) or cell[0] == _MARK or cell[0] in _FORMULA_STARTS else cell


def unescape_formula(cell: str) -> str | None:
    """Return the value of a cell, the inverse of `escape_formula`.

    An apostrophe that `escape_formula` would not have added belongs to the value, as in cells written by hand.
    """
    if cell[:1] in _PLAIN_STARTS:
        return cell
    if is_empty(cell):
        return None
    return cell[1:] if cell[0] == _MARK and escape_formula(cell[1:]) == cell else cell


def is_empty(cell: str) -> bool:
    """Return whether a cell has nothing but blanks and characters that are displayed as nothing."""
    return not cell or (cell[0] not in _PLAIN_STARTS and not trimmed(cell))


def read_reference(cell: str) -> CellReference:
    """Return the reference in a cell or in an entry without its detail. Raises `BadCellError` if an id is malformed."""
    if cell.startswith("~"):
        # Joins the text between escapes and the escaped characters; `re.sub` takes four times as long.
        return "external_id", "".join(_ESCAPED.split(cell[1:]))
    if cell.startswith("#"):
        return "id", read_id(cell[1:])
    return "code", cell


def read_links(cell: str) -> Iterator[tuple[CellReference, str | None]]:
    """Yield the reference and the detail of each link, without surrounding blanks.

    Raises `BadCellError` if an entry is malformed.
    """
    for entry in _split(cell, "|"):
        reference, *details = (part.strip() for part in islice(_split(entry, ":"), 3))
        if not reference or len(details) > 1:
            raise BadCellError("bad_cell:links")
        yield read_reference(reference), details[0] if details else None


def read_ids(cell: str) -> Iterator[int]:
    """Yield the ids of a cell, separated by `|`, with or without blanks. Raises `BadCellError` if one is malformed."""
    return (read_id(part.strip()) for part in cell.split("|"))


def read_id(cell: str) -> int:
    """Return an id. Raises `BadCellError` unless it has 1 to 30 digits and nothing else."""
    # The schema rejects a number that is too large for an id.
    if not re.fullmatch("[0-9]{1,30}", cell, re.ASCII):
        raise BadCellError("bad_cell:id")
    return int(cell)


def _split(text: str, separator: str) -> Iterator[str]:
    part, start = _PARTS[separator], 0
    while match := part.match(text, start):
        yield match[0]
        if match.end() == len(text):
            break
        start = match.end() + len(separator)


def _reference(target: FromClause, *, with_external_id: bool) -> ColumnElement[str]:
    id_: ColumnElement[str] = literal_column("'#'", Text).concat(cast(target.c.id, Text))
    if not with_external_id:
        return func.coalesce(target.c.code, id_)
    escaped = func.regexp_replace(
        target.c.external_id,
        *(literal_column(text, Text) for text in (r"'([\\|\:])'", r"'\\\1'", "'g'")),
    )
    external_id = literal_column("'~'", Text).concat(escaped)
    return func.coalesce(target.c.code, external_id, id_)
