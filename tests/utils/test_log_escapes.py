"""No text of a client forges a line of the log, or reaches a terminal as a control sequence."""

import json
import logging
import re
import signal
import sys
import unicodedata
from typing import Any

import click
import httpx
import pytest
import structlog
from click.testing import CliRunner
from pydantic import BaseModel

from app import cli, tasks
from app.domains.department.service import DepartmentService
from app.utils.exceptions import DatabaseBusy, RegisterError
from app.utils.redaction import MAX_TEXT, clean_text
from app.utils.wording import printable
from tests.growth import assert_proportionate
from tests.utils.conftest import configured_log

FORGED = "2026-01-01T00:00:00Z [info     ] forged"
# Line breaks, escape sequences of 7 and 8 bits, DEL, bidirectional and zero-width characters, and a lone surrogate.
HOSTILE = f"a\r\n{FORGED}\x0b\x85\u2028\u2029\x1b[2J\x9b2J\x00\x07\x08\t\x7f\u202e\u2066\u200b\u200d\u2060\ufeff\ud800"
UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
every_format = pytest.mark.parametrize("as_json", [True, False])


class Hostile:
    def __repr__(self) -> str:
        return HOSTILE


class HostileError(Exception):
    def __init__(self) -> None:
        super().__init__(HOSTILE)
        self.add_note(HOSTILE)


class Body(BaseModel):
    number: int


def fail() -> None:
    try:
        Body.model_validate({"number": HOSTILE})
    except ValueError as error:
        raise ExceptionGroup(HOSTILE, [HostileError(), error]) from HostileError()


def log_value(value: Any) -> None:
    structlog.get_logger("test").warning("happened", value=value)


def log_exception(logger: Any) -> None:
    try:
        fail()
    except ExceptionGroup:
        logger.exception(HOSTILE)


WAYS: dict[str, Any] = {
    "event": lambda: structlog.get_logger("test").warning(HOSTILE),
    "value": lambda: log_value(HOSTILE),
    "value with spaces": lambda: log_value(f'{HOSTILE} = "" {HOSTILE}'),
    "nested value": lambda: log_value([{HOSTILE: HOSTILE}, (HOSTILE,)]),
    "object": lambda: log_value(Hostile()),
    "exception as a value": lambda: log_value(HostileError()),
    "bytes": lambda: log_value(HOSTILE.encode("utf-8", "replace")),
    "text that is cut": lambda: log_value("\x1b" * (MAX_TEXT + 1)),
    "traceback": lambda: log_exception(structlog.get_logger("test")),
    "message of another logger": lambda: logging.getLogger("uvicorn.error").warning(HOSTILE),
    "argument of another logger": lambda: logging.getLogger("asyncio").warning("%s %r", HOSTILE, Hostile()),
    "traceback of another logger": lambda: log_exception(logging.getLogger("uvicorn.error")),
    "stack of another logger": lambda: logging.getLogger("any").warning(HOSTILE, stack_info=True),
    "bound value": lambda: structlog.get_logger("test").bind(client=HOSTILE).warning("happened"),
}


def assert_safe(text: str) -> None:
    """Require a text of lines without characters that could control a terminal."""
    assert {ascii(each) for each in text if unicodedata.category(each) in UNSAFE} <= {ascii("\n")}


def entries_of(text: str, *, as_json: bool) -> list[str]:
    """Return the lines with which entries begin; all others belong to tracebacks."""
    lines = text.removesuffix("\n").split("\n")
    if as_json:
        assert all(isinstance(json.loads(line), dict) for line in lines)
        return lines
    return [line for line in lines if not line.startswith("    ")]


@every_format
@pytest.mark.parametrize("way", WAYS)
def test_text_of_a_client_is_written_in_printable_characters(way: str, *, as_json: bool) -> None:
    with configured_log(as_json=as_json) as log:
        WAYS[way]()
    assert_safe(log.getvalue())
    (entry,) = entries_of(log.getvalue(), as_json=as_json)
    assert not entry.startswith(FORGED)
    assert r"\x1b" in log.getvalue()


@every_format
async def test_request_is_one_entry_whatever_it_contains(client: httpx.AsyncClient, *, as_json: bool) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in HOSTILE.replace("\ud800", "").encode())
    headers = {b"User-Agent": b"a\x1b[2J", b"X-Forwarded-For": b"\x1b[2J", b"X-Change-Message": b"%1B%5B2J"}
    with configured_log(as_json=as_json) as log:
        await client.get(f"/departments/{encoded}?{encoded}={encoded}", headers=headers)
        body = json.dumps({"name": HOSTILE, HOSTILE: HOSTILE})
        await client.post("/departments", content=body, headers=headers | {b"Content-Type": b"application/json"})
        await client.get("/departments", headers={b"X-Request-ID": b"a\x1b[2J", b"traceparent": b"\x1b"})
    assert_safe(log.getvalue())
    assert len(entries_of(log.getvalue(), as_json=as_json)) == 3
    assert r"\u202e" in log.getvalue()


@every_format
@pytest.mark.parametrize("error", [HostileError(), DatabaseBusy(HOSTILE)])
async def test_error_in_a_request_is_escaped(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: Exception, *, as_json: bool
) -> None:
    async def raise_error(*_: Any) -> Any:
        raise error from HostileError()

    monkeypatch.setattr(DepartmentService, "page", raise_error)
    with configured_log(as_json=as_json) as log:
        await client.get("/departments")
    assert_safe(log.getvalue())
    assert len(entries_of(log.getvalue(), as_json=as_json)) == 2


async def test_no_text_of_a_client_ends_a_header_of_the_response(client: httpx.AsyncClient) -> None:
    encoded = "a%0D%0AX-Forged:%201%C2%85%1B"
    for path in (f"/departments?q={encoded}", f"/departments?name__ic={encoded}&limit=1", f"/departments/{encoded}"):
        for accept in ("*/*", "text/csv"):
            response = await client.get(path, headers={"X-Request-ID": "a\x1bb", "Accept": accept})
            for name, value in response.headers.raw:
                assert re.fullmatch(rb"[ -~]*", name + value), (path, value)
            assert "x-forged" not in response.headers


def test_printable_text_is_unchanged_and_each_other_character_is_an_escape() -> None:
    assert printable("Grüße, Ωmega, 日本語 🙂 [x] \\ \"'") == "Grüße, Ωmega, 日本語 🙂 [x] \\ \"'"
    assert printable("\x1b[31m\u202e\n\r\t\x7f\x9b\U000e0001\ud800") == (
        r"\x1b[31m\u202e\n\r\t\x7f\x9b\U000e0001\ud800"
    )
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert_safe(printable(every))
    assert printable(every).isprintable()


def test_escapes_take_linear_time() -> None:
    assert_proportionate(lambda size: clean_text("\x1b" * size, size), 20_000)


# --- The command line ---


@pytest.mark.parametrize("error", [click.ClickException(HOSTILE), click.UsageError(HOSTILE)])
def test_error_of_a_command_is_escaped(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def raise_error(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(tasks, "seed_demo_data", raise_error)
    monkeypatch.setattr(cli, "_required_url", lambda: "")
    result = CliRunner().invoke(cli.cli, ["seed"])
    assert_safe(result.output)
    assert result.output.splitlines()[-1].startswith(rf"Error: a\r\n{FORGED}")


@pytest.mark.parametrize("error", [RegisterError(HOSTILE), HostileError()])
def test_error_that_ends_the_command_line_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def raise_error(**_: Any) -> Any:
        raise error

    monkeypatch.setattr(cli, "cli", raise_error)
    monkeypatch.setattr(sys, "excepthook", None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises((SystemExit, HostileError)) as raised:
        cli.main()
    if raised.type is HostileError:
        sys.excepthook(raised.type, raised.value, raised.tb)
    output = capsys.readouterr().err
    assert r"\x1b[2J" in output
    assert_safe(output)
