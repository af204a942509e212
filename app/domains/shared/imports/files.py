"""Reads the rows of CSV (RFC 4180) and NDJSON files; `rows` interprets them."""

import csv
import json
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.core.http.strict_json import parse_json
from app.core.threads import until_cancelled
from app.domains.shared.reading.cells import is_empty, unescape_formula
from app.utils.exceptions import BadRequest, ContentTooLarge, Fault, InvalidContent
from app.utils.text.invisible import trimmed
from app.utils.validation import json_pointer
from app.utils.wording import counted

FileFormat = Literal["csv", "ndjson"]
# Takes the names of the columns and the number of their row; returns the names of the columns to keep.
SelectColumns = Callable[[list[str], int], Container[str]]
FILE_TYPES: dict[str, FileFormat] = {"text/csv": "csv", "application/x-ndjson": "ndjson"}

MAX_ROWS = 10_000
# Includes blank lines, but not the line breaks in quotes.
MAX_LINES = 50_000
MAX_COLUMNS = 1000
MAX_NAME_LENGTH = 200
# The limit for one row. No row with valid links and texts has more; the limit bounds the memory for a list of cells.
MAX_DELIMITERS = 300_000
_DELIMITERS = ",;\t"
# The text of a fault in a row, by a part of the message of Python's reader.
_CSV_REASONS = {
    "unexpected end": "a quote is not closed",
    "expected after": "text follows a closing quote",
    "new-line character": "a carriage return is outside quotes",
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# `rows` limits the cells of each column. This limit is for all columns, ignored ones included.
csv.field_size_limit(2**31 - 1)


@dataclass(slots=True)
class FileRow:
    """One row. `number` is its row or line number in the file, from 1, header included, as a spreadsheet shows it."""

    number: int
    # The cells, or the members, by their names in the file. An empty cell is None.
    values: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def add_fault(self, name: str | None, key: str, **values: Any) -> None:
        self.faults.append(_fault(self.number, name, key, **values))


def read_table(content: bytes, select_columns: SelectColumns, *, raw: bool) -> list[FileRow]:
    """Return the rows of a table, without blank ones; the apostrophes that escape formulas are removed unless `raw`.

    `select_columns` is called with the header, before any other row is read. Raises its errors, `BadRequest` if the
    content is not a table, `InvalidContent` if it has no rows, and `ContentTooLarge` if it has too many rows, lines,
    columns or delimiters in a row, or too long names.
    """
    return _limit_rows(_read_table(content, select_columns, raw=raw))


def read_lines(content: bytes) -> list[FileRow]:
    """Return the rows of NDJSON, without blank ones. Raises `InvalidContent` and `ContentTooLarge` as `read_table`."""
    return _limit_rows(_read_lines(content))


def _limit_rows(source: Iterable[FileRow]) -> list[FileRow]:
    rows: list[FileRow] = []
    for row in source:
        rows.append(row)
        if len(rows) > MAX_ROWS:
            raise ContentTooLarge(f"A file may have at most {MAX_ROWS:,} rows.")
    if not rows:
        fault = Fault.of("", "empty_file")
        raise InvalidContent(fault.detail, errors=[fault])
    return rows


def check_names(names: Sequence[str]) -> None:
    """Raise `ContentTooLarge` for too many or too long names of columns, because each is looked up."""
    if len(names) > MAX_COLUMNS:
        raise ContentTooLarge(f"A file may have at most {MAX_COLUMNS:,} columns.")
    if any(len(name) > MAX_NAME_LENGTH for name in names):
        raise ContentTooLarge(f"The name of a column may have at most {MAX_NAME_LENGTH:,} characters.")


def _read_lines(content: bytes) -> Iterator[FileRow]:
    # Not `splitlines`, for which a carriage return alone ends a line.
    if content.count(b"\n") > MAX_LINES:
        raise _too_many_lines()
    lines = content.removeprefix(_BYTE_ORDER_MARK).split(b"\n")
    for number, line in enumerate(until_cancelled(lines), 1):
        if not line.strip():
            continue
        row = FileRow(number)
        try:
            values = parse_json(line)
        except json.JSONDecodeError as error:
            row.add_fault(None, "json_invalid", reason=error.msg)
        else:
            if isinstance(values, dict):
                row.values = values
            else:
                row.add_fault(None, "not_an_object")
        yield row


def _read_table(content: bytes, select_columns: SelectColumns, *, raw: bool) -> Iterator[FileRow]:
    text, read = _text(content), _raw_value if raw else unescape_formula
    header: list[str] | None = None
    columns: list[tuple[int, str]] = []
    for number, cells in _records(text, _delimiter(text)):
        if _is_blank(cells):
            continue
        if header is None:
            header = _header(cells)
            selected = select_columns(header, number)
            # Drop ignored columns here: their cells could take many times the memory of the file.
            columns = [(index, name) for index, name in enumerate(header) if name in selected]
            continue
        row = FileRow(number)
        if len(cells) == len(header):
            row.values = {name: read(cells[index]) for index, name in columns}
        else:
            counts = {"cells": counted(len(cells), "cell"), "columns": counted(len(header), "column")}
            row.add_fault(None, "wrong_number_of_cells", **counts)
        yield row


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of each row with its number."""
    rows = _Rows(text, delimiter)
    reader = csv.reader(until_cancelled(rows), delimiter=delimiter, strict=True)
    number = 0
    header: list[str] = []
    try:
        for number, cells in enumerate(reader, 1):
            header = header or ([] if _is_blank(cells) else cells)
            yield number, cells
            if number == MAX_LINES:
                raise _too_many_lines()
    except csv.Error as error:
        column = _broken_column(rows.current, delimiter)
        name = _name_of(column, header)
        reason = next((text for words, text in _CSV_REASONS.items() if words in str(error)), "it is malformed")
        fault = _fault(number + 1, name, "csv_invalid", row=number + 1, cell=column, reason=reason)
        raise BadRequest(f"The file is not CSV (RFC 4180). {fault.detail}", errors=[fault]) from error


class _Rows:
    """Iterates over the rows of a text with their line breaks, and limits the delimiters of a row.

    The reader is given whole rows, so that the work does not depend on the line breaks in quotes.
    """

    def __init__(self, text: str, delimiter: str) -> None:
        self._text = text
        self._delimiter = delimiter
        cell = rf'(?:"[^"]*+(?:""[^"]*+)*+(?:"|\Z))?+[^{delimiter}\r\n]*+'
        self._pattern = re.compile(rf"{cell}(?:{delimiter}{cell})*+(?:\r\n|\r|\n|\Z)")
        self.current = ""

    def __iter__(self) -> Iterator[str]:
        for match in self._pattern.finditer(self._text):
            if not match[0]:  # the end of the text
                return
            self.current = match[0]
            if self.current.count(self._delimiter) > MAX_DELIMITERS:
                raise ContentTooLarge(f"A row may have at most {MAX_DELIMITERS:,} delimiters, quoted ones included.")
            yield self.current


def _broken_column(record: str, delimiter: str) -> int:
    """Return the number of the first cell that is not valid by RFC 4180."""
    cell = re.compile(rf'(?:"(?:[^"]|"")*+"|[^"{delimiter}\r\n][^{delimiter}\r\n]*+|){delimiter}')
    column, position = 1, 0
    while match := cell.match(record, position):
        column, position = column + 1, match.end()
    return column


def _name_of(column: int, header: Sequence[str]) -> str | None:
    return header[column - 1][:MAX_NAME_LENGTH] if column <= len(header) else None


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The valid text before the error determines its row and cell. It does not include the byte order mark.
        start = error.object[: error.start].decode()
        number, column, name = _end_of(start + "?")
        fault = _fault(number, name, "not_utf8", row=number, cell=column)
        raise BadRequest(f"The file is not UTF-8. {fault.detail}", errors=[fault]) from error


def _end_of(text: str) -> tuple[int, int, str | None]:
    """Return the number of the last row, the number of its last cell, and the name of that cell's column."""
    number, cells, header = 0, [""], [""]
    delimiter = _delimiter(text)
    rows = until_cancelled(_Rows(text, delimiter))
    for number, cells in enumerate(csv.reader(rows, delimiter=delimiter), 1):
        if number > MAX_LINES:
            raise _too_many_lines()
        if _is_blank(header):
            header = cells
    return number, len(cells), None if cells is header else _name_of(len(cells), header)


def _delimiter(text: str) -> str:
    """Return the most frequent of comma, semicolon and tab in the header."""
    unquoted = re.sub(r'"[^"]*"', "", text[:100_000]).lstrip("\r\n")
    line = re.split(r"[\r\n]", unquoted, maxsplit=1)[0]
    return max(_DELIMITERS, key=line.count)


def _raw_value(cell: str) -> str | None:
    return None if is_empty(cell) else cell


def _is_blank(cells: Sequence[str]) -> bool:
    return all(map(is_empty, cells))


def _header(cells: list[str]) -> list[str]:
    check_names(cells)
    return [trimmed(unescape_formula(trimmed(cell)) or "") for cell in cells]


def _fault(number: int, name: str | None, key: str, **values: Any) -> Fault:
    return Fault.of(json_pointer([number] if name is None else [number, name]), key, **values)


def _too_many_lines() -> ContentTooLarge:
    return ContentTooLarge(f"A file may have at most {MAX_LINES:,} lines, including blank ones.")
