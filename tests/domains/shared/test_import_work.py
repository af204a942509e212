"""The work for a file is proportionate to its size, whatever it contains, and ends with the request."""

import asyncio
import csv
import io
import json
import re
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from app.core.threads import WorkCancelledError, run_in_thread, until_cancelled
from app.domains.process.service import ProcessService
from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.imports import files, importing, rows
from app.domains.shared.imports.files import FileRow
from app.domains.shared.imports.importing import ImportFile, _read
from app.domains.shared.models import EXTERNAL_ID_LENGTH
from app.domains.shared.reading import cells
from app.domains.shared.reading.cells import MAX_ENTRY_LENGTH, MAX_VALUE_LENGTH, read_ids, read_links
from app.domains.shared.schemas import MAX_LINKS
from app.utils.exceptions import RegisterError
from tests.conftest import ADMIN_TOKEN
from tests.core.progress import Progress, cancel_at_hold
from tests.growth import assert_proportionate
from tests.waiting import HANG_TIMEOUT

CSV = {"Content-Type": "text/csv"}
COLLECTION = ProcessService.collection

# The content of a file of about a number of bytes, by what it has many of.
TABLES: dict[str, Callable[[int], str]] = {
    "letters of an external id": lambda size: f"name,departments\nx,~{'a' * size}\n",
    "letters of a code": lambda size: f"name,roles\nx,{'a' * size}\n",
    "backslashes": lambda size: f"name,roles\nx,~{chr(92) * size}\n",
    "escaped separators": lambda size: f"name,roles\nx,~{chr(92) + '|':s}{(chr(92) + ':') * (size // 2)}\n",
    "links": lambda size: f"name,roles\nx,{'a|' * (size // 2)}a\n",
    "details": lambda size: f"name,roles\nx,a{':b' * (size // 2)}\n",
    "empty links": lambda size: f"name,roles\nx,{'|' * size}\n",
    "blanks around links": lambda size: f"name,roles\nx,a|{' ' * size}|b\n",
    "ids": lambda size: f"name,role_ids\nx,{'1|' * (size // 2)}1\n",
    "digits of an id": lambda size: f"name,parent_id\nx,{'1' * size}\n",
    "blanks around an id": lambda size: f"name,parent_id\nx,{' ' * size}1\n",
    "parent": lambda size: f"name,parent\nx,~{'a' * size}\n",
    "own id": lambda size: f"id,name\n{'1' * size},x\n",
    "name": lambda size: f"name\n{'a' * size}\n",
    "apostrophes": lambda size: f"name,roles\nx,{chr(39) * size}\n",
    "quotes": lambda size: f"name,roles\nx,{chr(34) * size}\n",
    "doubled quotes": lambda size: f'name,roles\nx,"{chr(34) * (size // 2 * 2)}"\n',
    "open quote": lambda size: f'name,roles\nx,"{"a" * size}\n',
    "lines in an open quote": lambda size: 'name,roles\nx,"' + "a\n" * (size // 2),
    "text after a quote": lambda size: f'name,roles\nx,"a"{"b" * size}\n',
    "quoted cells before a broken one": lambda size: "name\n" + '"a",' * (size // 4) + '"b"c\n',
    "quotes in the header": lambda size: f"{chr(34) * size}\nx\n",
    "quoted pairs in the header": lambda size: '"a"' * (size // 3) + "\nx\n",
    "separators in the header": lambda size: f"name{'-_ ' * (size // 3)}\nx\n",
    "columns": lambda size: ",".join(f"c{number}" for number in range(size // 6)) + "\nx\n",
    "equal columns": lambda size: "name," * (size // 5) + "\nx\n",
    "ignored columns": lambda size: "name" + ",-" * (size // 2) + "\nx\n",
    "delimiters": lambda size: f"name\nx{',' * size}\n",
    "semicolons and tabs": lambda size: ";\t" * (size // 2) + "\nx\n",
    "empty lines": lambda size: "\n" * size + "name\nx\n",
    "carriage returns": lambda size: "name\n" + "\r" * size,
    "lines": lambda size: "name\n" + "x\n" * (size // 2),
    "wrong numbers of cells": lambda size: "name\n" + "x,y\n" * (size // 4),
    "one line": lambda size: "a" * size,
    "byte order marks": lambda size: "\ufeff" * (size // 3) + "name\nx\n",
    "zeros": lambda size: "name\n" + "\0" * size,
    "combining marks": lambda size: f"name,roles\nx,~{'a' + chr(0x315) * (size // 2)}\n",
}
LINES: dict[str, Callable[[int], str]] = {
    "brackets": lambda size: "[" * size,
    "braces": lambda size: '{"a":' * (size // 5),
    "quotes": lambda size: '"' * size,
    "escapes": lambda size: '{"name": "' + "\\u0061" * (size // 6) + '"}',
    "open string": lambda size: '{"name": "' + "\\" * size,
    "digits": lambda size: '{"name": ' + "1" * size + "}",
    "decimals": lambda size: '{"name": 0.' + "1" * size + "}",
    "exponent": lambda size: '{"name": 1e' + "1" * size + "}",
    "members": lambda size: json.dumps({f"m{number}": 1 for number in range(size // 10)}),
    "equal members": lambda size: "{" + '"a":1,' * (size // 6) + '"a":1}',
    "lines of members": lambda size: '{"a":1}\n' * (size // 8),
    "empty lines": lambda size: "\n" * size + '{"name": "x"}',
    "blanks": lambda size: " " * size + '{"name": "x"}',
    "links": lambda size: '{"name": "x", "roles": [' + "{}," * (size // 3) + "{}]}",
    "keys of a reference": lambda size: '{"name": "x", "parent": {' + '"a":1,' * 2 + f'"b{"c" * size}": 1}}}}',
    "letters of a key": lambda size: '{"name": "x", "external_id": "' + "a" * size + '"}',
    "text after the object": lambda size: '{"name": "x"}' + "x" * size,
}


def read(content: bytes, form: Any, **options: Any) -> int:
    """Return the number of rows that are read, 0 if the file is rejected."""
    try:
        return len(_read(COLLECTION, ImportFile(content, form, **options), FaultBudget()))
    except RegisterError:
        return 0


@pytest.mark.parametrize("kind", TABLES)
def test_work_for_a_table_is_proportionate_to_its_size(kind: str) -> None:
    assert_proportionate(lambda size: read(TABLES[kind](size).encode(), "csv"), 100_000)


@pytest.mark.parametrize("kind", LINES)
def test_work_for_lines_is_proportionate_to_their_size(kind: str) -> None:
    assert_proportionate(lambda size: read(LINES[kind](size).encode(), "ndjson"), 100_000)


@pytest.mark.parametrize("end", [b"\xff", b"\xc3"])
@pytest.mark.parametrize("kind", ["quotes", "lines", "delimiters", "lines in an open quote", "one line"])
def test_work_for_a_table_that_is_not_utf8_is_proportionate_to_its_size(kind: str, end: bytes) -> None:
    assert_proportionate(lambda size: read(TABLES[kind](size).encode() + end, "csv"), 100_000)


def test_line_breaks_in_quotes_make_no_more_calls() -> None:
    for cell in ('"{}"', 'x,"{}",y', '"a""{}', '"{}"x'):
        for line in ("\n", "\r", "\r\n", 'a""\n', ",\n"):
            for end in (b"", b"\xff"):
                tables = [f"name\n{cell.format(line * size)}\nz\n".encode() + end for size in (10, 10, 10_000)]
                _, small, large = map(_calls_for, tables)  # the first compiles regular expressions
                assert small == large, (cell, line, end)


def _calls_for(content: bytes) -> int:
    """Return the number of functions that reading a table calls."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        list(files._records(files._text(content), ","))
    except RegisterError:
        pass
    finally:
        sys.setprofile(None)
    return calls


@given(st.text('ab"",;\t\n\r ', max_size=20), st.sampled_from(",;\t"), st.booleans())
def test_rows_are_those_of_the_reader(text: str, delimiter: str, strict: bool) -> None:
    def read_all(lines: Iterable[str]) -> list[Any]:
        found: list[Any] = []
        try:
            found.extend(csv.reader(lines, delimiter=delimiter, strict=strict))
        except csv.Error as error:
            found.append(str(error))
        return found

    lines = io.StringIO(text, newline="")
    assert read_all(files._Rows(text, delimiter)) == read_all(lines)


@given(st.text("ab|:\\\n "), st.sampled_from("|:"))
def test_cell_is_split_at_separators_that_are_not_escaped(cell: str, separator: str) -> None:
    parts = [""]
    for token in re.findall(r"\\?.", cell, re.DOTALL):
        if token == separator:
            parts.append("")
        else:
            parts[-1] += token
    assert list(cells._split(cell, separator)) == parts


LONG_CELLS = {
    "parent": ("~" + "a" * MAX_ENTRY_LENGTH, MAX_ENTRY_LENGTH),
    "owner": ("a" * 800_000, MAX_ENTRY_LENGTH),
    "parent_id": ("1" * (MAX_VALUE_LENGTH + 1), MAX_VALUE_LENGTH),
    "role_ids": ("1|" * (MAX_LINKS * MAX_VALUE_LENGTH // 2) + "1", MAX_LINKS * MAX_VALUE_LENGTH),
    "departments": ("~" + "a" * MAX_LINKS * MAX_ENTRY_LENGTH, MAX_LINKS * MAX_ENTRY_LENGTH),
}


@pytest.mark.parametrize("column", LONG_CELLS)
async def test_cell_longer_than_its_content_is_rejected_unread(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    cell, limit = LONG_CELLS[column]
    for reader in ("read_reference", "read_links", "read_ids", "read_id"):
        monkeypatch.setattr(rows, reader, None)
    response = await client.post("/processes/import", content=f"name,{column}\nx,\ny,{cell}\n", headers=CSV)
    (error,) = response.json()["errors"]
    assert (error["pointer"], error["code"]) == (f"/3/{column}", "string_too_long")
    assert error["detail"] == f"Must have at most {limit:,} characters."


async def test_longest_cells_are_read(client: httpx.AsyncClient) -> None:
    separators = "\\|:" * 170
    response = await client.post("/roles", json={"name": "R", "external_id": separators})
    escaped = "~" + "".join(f"\\{character}" for character in separators)
    cell = f"{' ' * 20}{escaped} : responsible | {escaped} : accountable{' ' * 20}"
    assert len(cell) < 3 * MAX_ENTRY_LENGTH
    answer = await client.post("/processes/import", content=f"name,roles\nx,{cell}\n", headers=CSV)
    assert answer.status_code == 200, answer.text
    process = (await client.get(f"/processes/{answer.json()['rows'][0]['id']}")).json()
    assert [role["id"] for role in process["roles"]] == [response.json()["id"]] * 2
    answer = await client.post("/processes/import", content=f"name,owner\nx,{' ' * 50}#1{' ' * 20}\n", headers=CSV)
    assert answer.status_code == 200, answer.text


# The characters of an external id of the maximum length, and the form in which it is longest in a cell.
LONGEST_IDS: dict[str, tuple[str, Literal["NFC", "NFD"]]] = {
    "two characters": ("\u00e9", "NFD"),
    "three characters": ("\u1ebf", "NFD"),
    "four characters": ("\u1f82", "NFD"),
    "escaped": ("\\", "NFC"),
}


@pytest.mark.parametrize("kind", LONGEST_IDS)
async def test_cell_has_any_external_id_in_any_form(client: httpx.AsyncClient, kind: str) -> None:
    character, form = LONGEST_IDS[kind]
    external_id = character * EXTERNAL_ID_LENGTH
    sent = unicodedata.normalize(form, external_id)
    parent = (await client.post("/processes", json={"name": "P", "external_id": sent})).json()
    role = (await client.post("/roles", json={"name": "R", "external_id": sent})).json()
    assert (parent["external_id"], role["external_id"]) == (external_id, external_id)
    cell = "~" + re.sub(r"([\\|:])", r"\\\1", sent)
    table = f"name,parent,roles\nx,{cell},{cell}:responsible|{cell}:accountable\n"
    response = await client.post("/processes/import", content=table.encode(), headers=CSV)
    assert response.status_code == 200, response.text
    process = (await client.get(f"/processes/{response.json()['rows'][0]['id']}")).json()
    assert process["parent_id"] == parent["id"]
    assert [each["id"] for each in process["roles"]] == [role["id"]] * 2


def test_reading_of_links_stops_after_the_limit_of_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Any] = []

    def count(read: Callable[[str], Iterator[Any]]) -> Callable[[str], Iterator[Any]]:
        def read_counted(cell: str) -> Iterator[Any]:
            for each in read(cell):
                counted.append(each)
                yield each

        return read_counted

    monkeypatch.setattr(rows, "read_links", count(read_links))
    monkeypatch.setattr(rows, "read_ids", count(read_ids))
    for column, entries in (("roles", "a|" * 50_000), ("role_ids", "1|" * 50_000)):
        counted.clear()
        assert read(f"name,{column}\nx,{entries}1\n".encode(), "csv") == 1
        assert len(counted) == MAX_LINKS + 1


def watch_reading(monkeypatch: pytest.MonkeyPatch, progress: Progress) -> threading.Event:
    """Report each step of the reading of a file; return the event that the reading has ended before the end."""
    ended = threading.Event()

    def counted(items: Any) -> Iterator[Any]:
        for item in until_cancelled(items):
            progress.step()
            yield item

    def read_file(*arguments: Any) -> Any:
        try:
            return _read(*arguments)
        except WorkCancelledError:
            ended.set()
            raise

    monkeypatch.setattr("app.domains.shared.imports.files.until_cancelled", counted)
    monkeypatch.setattr(importing, "_read", read_file)
    return ended


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("csv", b"name\n" + b"x\n" * 5000),
        ("ndjson", b'{"name": "x"}\n' * 5000),
    ],
    ids=["rows", "NDJSON"],
)
async def test_reading_of_a_file_ends_when_its_request_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, form: Any, content: bytes
) -> None:
    progress = Progress(hold_at=100)
    ended = watch_reading(monkeypatch, progress)
    monkeypatch.setattr(importing, "_MAX_INLINE_BYTES", 0)
    service: Any = type("Service", (), {"collection": COLLECTION})
    task = asyncio.create_task(importing.import_file(service, ImportFile(content, form), dry_run=False))
    await cancel_at_hold(task, progress)
    assert await asyncio.to_thread(ended.wait, HANG_TIMEOUT)
    assert progress.steps == 100


@pytest.mark.usefixtures("connection")
async def test_reading_of_a_file_ends_when_its_client_disconnects(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress, sent = Progress(hold_at=100), asyncio.Queue[Any]()
    content = b"name\n" + (b"x" * 400 + b"\n") * 3000
    ended = watch_reading(monkeypatch, progress)
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        assert await asyncio.to_thread(progress.reached.wait, HANG_TIMEOUT)
        return {"type": "http.disconnect"}

    headers = {"host": "register.test", "content-type": "text/csv", "authorization": f"Bearer {ADMIN_TOKEN}"}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/api/v1/processes/import",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await asyncio.wait_for(app(scope, receive, sent.put), HANG_TIMEOUT)
    progress.go_on.set()
    assert (await sent.get())["status"] == 400
    assert await asyncio.to_thread(ended.wait, HANG_TIMEOUT)
    assert progress.steps == 100


async def test_conversion_of_rows_ends_when_its_request_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, ended = Progress(hold_at=100), threading.Event()
    read_row = rows.RowReader._read

    def counted(self: rows.RowReader, row: FileRow) -> Any:
        progress.step()
        return read_row(self, row)

    def work() -> None:
        try:
            read(b"name\n" + b"x\n" * 5000, "csv")
        except WorkCancelledError:
            ended.set()

    monkeypatch.setattr(rows.RowReader, "_read", counted)
    await cancel_at_hold(asyncio.create_task(run_in_thread(work)), progress)
    assert await asyncio.to_thread(ended.wait, HANG_TIMEOUT)
    assert progress.steps == 100
