"""All loggers write lines of one format, without credentials."""

import json
import logging
from datetime import datetime
from typing import Any

import pytest
import structlog

from app.core.tokens import API_TOKEN, LINK_TOKEN, REFRESH_TOKEN, Tokens, new_token
from app.utils.redaction import redact
from tests.conftest import settings_for
from tests.utils.conftest import Log, configured_log

SECRET = "hunter2-Zx81"  # noqa: S105


def write(**values: Any) -> None:
    structlog.get_logger("test").info("something happened", **values)


def test_line_is_one_json_object_with_time_level_and_logger(log: Log) -> None:
    structlog.get_logger("app.test").warning("Grüße\nand more", number=1, list=[1, None])
    (line,) = log.getvalue().splitlines()
    entry = json.loads(line)
    assert datetime.fromisoformat(entry.pop("timestamp")).utcoffset() is not None
    assert entry == {
        "event": r"Grüße\nand more",
        "level": "warning",
        "logger": "app.test",
        "number": 1,
        "list": [1, None],
    }
    assert "Grüße" in line


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "alembic", "alembic.runtime.migration", "asyncio", "any"])
def test_other_loggers_go_through_the_same_processors(log: Log, name: str) -> None:
    logging.getLogger(name).warning("connected to %s", f"postgresql://register:{SECRET}@db/register")
    (entry,) = log.entries
    assert datetime.fromisoformat(entry.pop("timestamp")).utcoffset() is not None
    assert entry == {
        "event": "connected to postgresql://register:[redacted]@db/register",
        "level": "warning",
        "logger": name,
    }


def test_access_log_of_the_server_is_silent(log: Log) -> None:
    logging.getLogger("uvicorn.access").info('127.0.0.1 - "GET / HTTP/1.1" 200')
    assert log.entries == []


@pytest.mark.parametrize(("level", "written"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)])
def test_lower_levels_are_left_out(level: str, written: int) -> None:
    with configured_log(level=level) as log:
        logger = structlog.get_logger("test")
        for each in (logger.debug, logger.info, logger.warning, logger.error):
            each("x")
        assert len(log.entries) == written
        logging.getLogger("uvicorn").debug("x")
        assert len(log.entries) == written + (level == "DEBUG")


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWORD",
        "new_password",
        "passwd",
        "secret_key",
        "client-secret",
        "access_token",
        "Authorization",
        "cookie",
        "Set-Cookie",
        "api_key",
        "api-key",
        "apikey",
        "credentials",
    ],
)
def test_value_with_the_name_of_a_secret_is_not_written(log: Log, name: str) -> None:
    write(**{name: SECRET}, nested={"list": [{name: SECRET}], "tuple": ({name: {"inner": SECRET}},)})
    assert SECRET not in log.getvalue()
    (entry,) = log.entries
    assert entry[name] == "[redacted]"
    assert entry["nested"] == {"list": [{name: "[redacted]"}], "tuple": [{name: "[redacted]"}]}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (f"Authorization: Bearer {SECRET}", "Authorization: Bearer [redacted]"),
        (f"authorization: basic {SECRET}==", "authorization: basic [redacted]"),
        (f"postgresql://register:{SECRET}@db:5432/register", "postgresql://register:[redacted]@db:5432/register"),
        (f"postgresql+asyncpg://:{SECRET}@/register", "postgresql+asyncpg://:[redacted]@/register"),
        (f"see https://a:{SECRET}@b.example/x?y=z and more", "see https://a:[redacted]@b.example/x?y=z and more"),
        (f"two: http://a:{SECRET}@b http://c:{SECRET}@d", "two: http://a:[redacted]@b http://c:[redacted]@d"),
        (f"password={SECRET}", "password=[redacted]"),
        (f"login failed: password: {SECRET}, retry", "login failed: password: [redacted], retry"),
        (f"{{'password': '{SECRET}', 'name': 'x'}}", "{'password': '[redacted]', 'name': 'x'}"),
        (f'{{"api_key": "{SECRET}"}}', '{"api_key": "[redacted]"}'),
        (f"GET /?access_token={SECRET}&limit=1", "GET /?access_token=[redacted]&limit=1"),
    ],
)
def test_secret_inside_a_text_is_not_written(log: Log, text: str, written: str) -> None:
    write(text=text, nested=[{"inner": text}])
    structlog.get_logger("test").info(text)
    first, second = log.entries
    assert (first["text"], first["nested"], second["event"]) == (written, [{"inner": written}], written)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/docs",
        "a@b.example",
        "12:30",
        "the password is wrong",
        "tokens: ",
        "code:FIN-01",
        "a: b@c",
        "/processes/code:prt_1",
        "/docs/eyJ.a.b",
    ],
)
def test_other_text_is_written_unchanged(log: Log, text: str) -> None:
    write(text=text, number=1, none=None)
    assert log.entries[0]["text"] == text


def test_token_of_the_service_is_never_written(log: Log) -> None:
    for prefix in (API_TOKEN, REFRESH_TOKEN, LINK_TOKEN):
        write(path=f"/users/me/tokens/{new_token(prefix)}/")
        assert log.entries[-1]["path"] == f"/users/me/tokens/{prefix}[redacted]/"
    access_token = Tokens(settings_for(None)).access_token(1, 1)
    write(path=f"/auth/sessions/{access_token}", text=access_token)
    assert (log.entries[-1]["path"], log.entries[-1]["text"]) == ("/auth/sessions/[redacted]", "[redacted]")


def fail_with_secrets() -> None:
    password = SECRET
    body = {"password": password}
    message = f"cannot reach postgresql://register:{body['password']}@db"
    raise RuntimeError(message)


@pytest.mark.parametrize("as_json", [True, False])
def test_traceback_is_written_without_secrets_and_local_variables(*, as_json: bool) -> None:
    with configured_log(as_json=as_json) as log:
        try:
            fail_with_secrets()
        except RuntimeError:
            structlog.get_logger("test").exception("failed")
            logging.getLogger("uvicorn.error").exception("failed, too")
    text = log.getvalue()
    assert SECRET not in text
    assert text.count("postgresql://register:[redacted]@db") == 2
    assert "fail_with_secrets" in text
    assert "locals" not in text


def test_cause_of_an_error_is_written(log: Log) -> None:
    def fail() -> None:
        try:
            raise KeyError("inner")  # noqa: TRY301
        except KeyError as error:
            raise ValueError("outer") from error

    try:
        fail()
    except ValueError:
        structlog.get_logger("test").exception("failed")
    (entry,) = log.entries
    assert [each["exc_type"] for each in entry["exception"]] == ["ValueError", "KeyError"]
    assert entry["exception"][0]["frames"][-1]["name"] == "fail"


def test_line_for_people_is_one_line_without_secrets() -> None:
    with configured_log(as_json=False) as log:
        write(path="/a\r\nb", password=SECRET, url=f"http://a:{SECRET}@b")
    (line,) = log.getvalue().splitlines()
    assert "something happened" in line
    assert SECRET not in line
    assert line.count("[redacted]") == 2


def test_redaction_does_not_change_the_values_of_the_caller() -> None:
    event = {"event": "x", "nested": {"password": SECRET}, "texts": [f"http://a:{SECRET}@b"]}
    assert redact(None, "", event) == {
        "event": "x",
        "nested": {"password": "[redacted]"},
        "texts": ["http://a:[redacted]@b"],
    }
    assert event["nested"] == {"password": SECRET}


@pytest.mark.parametrize("method", ["debug", "info", "warning", "error", "exception", "critical"])
@pytest.mark.parametrize("error", [BrokenPipeError, OSError(28, "No space left on device")])
@pytest.mark.parametrize("step", ["write", "flush"])
def test_line_that_cannot_be_written_is_lost(
    monkeypatch: pytest.MonkeyPatch, method: str, error: OSError, step: str
) -> None:
    def fail(*_: str) -> None:
        raise error

    monkeypatch.setattr(Log, step, fail)
    with configured_log(level="DEBUG"):
        for logger in (structlog.get_logger("app.test"), logging.getLogger("test")):
            getattr(logger, method)("happened")
