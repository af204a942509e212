"""The work on text from outside is in proportion to its length.

Two sizes are compared, ten times apart (`tests/growth.py`). The smaller one is chosen so that quadratic work fails.
"""

import ast
import importlib
import json
import pkgutil
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

import app
from app.core.http import bodies
from app.core.http.authorisation import client_address
from app.core.http.bodies import media_type
from app.core.http.hints import name_hint
from app.core.http.strict_json import parse_json
from app.core.tokens import API_TOKEN, Tokens, is_well_formed
from app.domains.auth.schemas import NewPassword, SignIn
from app.domains.department.lists import DepartmentListQuery
from app.domains.department.models import Department
from app.domains.shared.query import formats
from app.domains.shared.query.filters import (
    InstantParameter,
    IntegerParameter,
    NumberParameter,
    TextParameter,
)
from app.domains.shared.query.reference_parameters import ReferenceParameter, parse_reference
from app.domains.shared.reading.keys import parse_key
from app.domains.shared.reading.preconditions import Preconditions, entity_tags
from app.domains.shared.texts import (
    Code,
    Description,
    ExternalId,
    HttpAddress,
    Name,
    multiple_lines,
    part_of_line,
    part_of_lines,
)
from app.domains.user.schemas import Email
from app.utils import redaction
from app.utils.exceptions import RegisterError
from app.utils.password_strength import MAX_ESTIMATED_LENGTH, _bounded, _personal_words, _plain, _without_separators
from app.utils.redaction import clean_text, redact
from app.utils.text.email_addresses import comparable_email, comparable_part_of_email
from app.utils.text.invisible import is_visible, trimmed
from app.utils.validation import json_pointer
from tests.conftest import settings_for
from tests.growth import assert_proportionate, assert_proportionate_async
from tests.utils.conftest import configured_log

# Repeated, each makes a careless parser try every position again.
UNITS = (
    *(
        "a",
        "A1",
        "a_",
        "aA",
        "_",
        "-",
        " ",
        "\t",
        "\n",
        "\r\n",
        "0",
        "1.",
        "-1",
        ",",
        ";",
        ":",
        "=",
        "&",
        "a=b&",
        "%",
        "/",
    ),
    *('"', '""', 'W/"', "'", "\\", '\\"', "|", "~", "[", "{", "(", '{"a":', "é", "e\u0301", "\u0301", "\u0315\u0300"),
    *(
        "\u0f73",
        "\u1100",
        "x://",
        "x://a:",
        "x://a:b@",
        "token",
        "token_",
        "token-",
        "token =  ",
        "password=",
        "bearer ",
    ),
    *("api_", "eyJ", "eyJ.", "eyJa-", "eyJa.", "eyJ-.", "prt_", "prt_a ", "code:", "a@", "a.", "xn--", "2026-01-01T"),
    *("\u200b", " \u200b", "a\u200b", "\u2615\ufe0f", "\U000e0041", "\u3164 a", "xn--a.", "@xn--mnchen-3ya."),
    *("0-0,", "*/*,", "a/b;q=1,", "1e", "bytes=", "[cut] "),
)
# Not at the end of any pattern, so that matches fail as late as they can.
END = "\0"
# Patterns that see a text whose length is checked before, and short enough for any pattern.
BOUNDED = {
    ("app.utils.password_strength", "_OUTER_NON_LETTERS"),  # `MAX_ESTIMATED_LENGTH`
    ("app.utils.password_strength", "_WORD"),
    ("app.core.http.bodies", "_CONTENT_TYPE"),  # `MAX_CONTENT_TYPE_LENGTH`
    ("app.core.http.bodies", "_PARAMETERS"),
    ("app.core.http.hints", "_SUFFIXED"),  # `_MAX_COMPARED_LENGTH`
}


def expected_failures() -> suppress:
    return suppress(ValidationError, ValueError, RegisterError)


def for_all_units(work: Callable[[str], object]) -> Callable[[int], None]:
    """Return work of a size: on the repetitions of each unit to that size."""

    def work_on_all(size: int) -> None:
        for unit in UNITS:
            with expected_failures():
                work((unit * (size // len(unit) + 1))[:size] + END)

    return work_on_all


def modules() -> Iterator[Any]:
    for found in pkgutil.walk_packages(app.__path__, "app."):
        if found.name != "app.__main__":
            yield importlib.import_module(found.name)


def patterns() -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Yield the regular expressions of the application: those in modules, and the literal ones in calls of `re`."""
    for module in modules():
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern) and (module.__name__, name) not in BOUNDED:
                yield f"{module.__name__}.{name}", value
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and isinstance(node.args[0], ast.Constant)
            ):
                yield f"{module.__name__}:{node.lineno}", re.compile(node.args[0].value)


PATTERNS = dict(patterns())


def test_patterns_of_the_application_are_found() -> None:
    assert {"app.utils.redaction._ASSIGNMENT", "app.domains.shared.reading.preconditions._TAGS"} <= PATTERNS.keys()
    assert any(name.startswith("app.core.http.hints:") for name in PATTERNS)
    assert len(PATTERNS) > 30


@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_takes_linear_time(name: str) -> None:
    pattern = PATTERNS[name]

    def work(text: str) -> None:
        given = text.encode() if isinstance(pattern.pattern, bytes) else text
        pattern.fullmatch(given)
        for _ in pattern.finditer(given):
            pass

    assert_proportionate(for_all_units(work), 1_000)


def validate(annotation: Any) -> Callable[[str], object]:
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    return adapter.validate_python


def sign_in_form(text: str) -> None:
    for field in ("username", "password", "scope"):
        with expected_failures():
            SignIn.model_validate({"username": "a", "password": "b", field: text})


def list_query(text: str) -> None:
    names = ("q", "name", "description__ic", "code__sw", "created_at__gt", "sort", "fields", "embed", "cursor", "limit")
    for name in names:
        with expected_failures():
            DepartmentListQuery.model_validate({name: [text] if name == "name" else text})


def read_token(text: str) -> None:
    tokens = Tokens(settings_for(None))
    part = urlsafe_b64encode(text.encode()).decode()
    for token in (text, f"{part}.{part}.{part}", API_TOKEN + text):
        is_well_formed(API_TOKEN, token)
        tokens.read_access_token(token)
        tokens.unseal(token, "/departments")


def read_conditions(text: str) -> None:
    """Read the text as a list of entity tags, within a tag, and between and after tags."""
    for value in (text, f'"{text}"', f'"1.a"{text}"1.a"', f'"1.a"{text}x'):
        with expected_failures():
            tags = entity_tags("If-Match", [value.encode("latin-1", "replace")])
            for conditions in (Preconditions(tags), Preconditions(None, tags)):
                conditions.unmet_by(1)
                conditions.is_current('"1.a"')
                len(conditions.versions or ())


def read_json(text: str) -> None:
    for each in (text, json.dumps(text), text.rstrip(END), f'{{"{text.rstrip(END)}": 0.{text.rstrip(END)}}}'):
        with expected_failures():
            parse_json(each.encode())


def log_in_every_place(text: str) -> None:
    redact(None, "", {"event": text, "path": text, "nested": {text: [text, {"inner": text}]}, "exception": text})


# Each reads a text that a client chose.
READERS: dict[str, Callable[[str], object]] = {
    "name": validate(Name),
    "description": validate(Description),
    "code": validate(Code),
    "external id": validate(ExternalId),
    "URL": validate(HttpAddress),
    "e-mail address": validate(Email),
    "address that is looked up": comparable_email,
    "part of an address": comparable_part_of_email,
    "trimmed text": trimmed,
    "visible text": is_visible,
    "lines": validate(Annotated[str, *multiple_lines(500)]),
    "part of a line": validate(Annotated[str, *part_of_line(500)]),
    "part of lines": validate(Annotated[str, *part_of_lines(500)]),
    "text of a filter": validate(TextParameter),
    "reference": validate(ReferenceParameter),
    "code of a reference": lambda text: parse_reference(f"code:{text}"),
    "external id of a reference": lambda text: parse_reference(f"external_id:{text}"),
    "integer": validate(IntegerParameter),
    "number": validate(NumberParameter),
    "instant": validate(InstantParameter),
    "new password": validate(NewPassword),
    "sign-in": sign_in_form,
    "parameters of a list": list_query,
    "reference in a path": lambda text: parse_key(f"code:{text}", Department),
    "Content-Type": lambda text: media_type(f"a/b;x={text}"),
    "If-Match and If-None-Match": read_conditions,
    "token": read_token,
    "JSON": read_json,
    "unknown name": lambda text: name_hint(text, ("name", "code")),
    "JSON pointer": lambda text: json_pointer([text]),
    "address": lambda text: client_address(SimpleNamespace(client=SimpleNamespace(host=text))),  # type: ignore[arg-type]
    "redacted text": lambda text: clean_text(text, len(text)),
    "log line": log_in_every_place,
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_text_takes_linear_time(reader: str) -> None:
    assert_proportionate(for_all_units(READERS[reader]), 3_000)


# Headers may have 32 KiB, and any middleware or route may read each.
HEADERS = (
    *("Accept", "Accept-Language", "Access-Control-Request-Headers", "Authorization", "Content-Encoding"),
    *("Content-Type", "Cookie", "Host", "Idempotency-Key", "If-Match", "If-None-Match", "Origin", "Prefer", "Range"),
    *("traceparent", "User-Agent", "X-Change-Message", "X-Forwarded-For", "X-Request-ID"),
)
BEGINNINGS = {"Authorization": "Bearer ", "Content-Type": 'a/b;x="', "Range": "bytes=", "traceparent": "00-"}


@pytest.mark.parametrize("header", HEADERS)
async def test_every_header_takes_linear_time(client: httpx.AsyncClient, header: str) -> None:
    async def work(size: int) -> None:
        for unit in ("a", ";", ",", '"', "=", "0-0,", "\u0315\u0300"):
            value = (BEGINNINGS.get(header, "") + unit * (size // len(unit.encode()))).encode()
            for method, path in (("GET", "/departments?limit=1"), ("POST", "/departments"), ("GET", "/nowhere")):
                content = b'{"name": ""}' if method == "POST" else None
                response = await client.request(method, path, headers=[(header.encode(), value)], content=content)
                assert response.status_code < 500

    await assert_proportionate_async(work, 3_000)


@pytest.mark.parametrize("place", ["path", "name of a parameter", "values of a parameter", "parameters", "search"])
@pytest.mark.parametrize("unit", ["token_", "a", "x:", "\u0315", "eyJa-", "~"])
async def test_every_part_of_a_url_takes_linear_time(client: httpx.AsyncClient, place: str, unit: str) -> None:
    async def work(size: int) -> None:
        text = unit * (size // len(unit.encode())) + "_"
        urls = {
            "path": f"/{text}",
            "name of a parameter": f"/departments?{text}=1",
            "values of a parameter": "/departments?" + "&".join(f"name={unit}{n}" for n in range(size // 10)),
            "parameters": "/departments?" + "&".join(f"{unit}{n}=1" for n in range(size // 10)),
            "search": f"/search?q={text}",
        }
        with configured_log():
            response = await client.get(urls[place])
        assert 400 <= response.status_code < 500

    await assert_proportionate_async(work, 2_000)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "application/json"])
@pytest.mark.parametrize("unit", ["a&", "a=b&", "username=a&", "%", "+", '{"a":', "[", "\u0315"])
async def test_body_of_a_sign_in_takes_linear_time(client: httpx.AsyncClient, content_type: str, unit: str) -> None:
    async def work(size: int) -> None:
        headers = {"Content-Type": content_type}
        response = await client.post("/auth/token", headers=headers, content=(unit * (size // len(unit))).encode())
        assert 400 <= response.status_code < 500

    await assert_proportionate_async(work, 1_600)  # ten times as much is the limit of anonymous bodies


async def test_password_of_a_browser_takes_linear_time(client: httpx.AsyncClient) -> None:
    async def work(size: int) -> None:
        for unit in ("a", ":", "\u0315", "eyJ."):
            encoded = b64encode((unit * (size // len(unit.encode()))).encode()).decode()
            response = await client.get("/auth/sessions", headers={"Authorization": f"Basic {encoded}"})
            assert response.status_code == 401

    await assert_proportionate_async(work, 2_000)


def test_longest_password_is_compared_at_once() -> None:
    work = for_all_units(
        lambda text: (
            _bounded(text[:MAX_ESTIMATED_LENGTH]),
            _without_separators(_plain(text)),
            list(_personal_words(text, text)),
        )
    )
    assert_proportionate(work, 3_000)


def test_caches_keep_no_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []
    for module, name in ((formats, "_negotiate"), (bodies, "_media_type")):
        monkeypatch.setattr(module, name, lambda text, *_: kept.append(text))
    monkeypatch.setattr(redaction, "_is_secret", kept.append)
    for size in (10, 150, 900, 10_000, 100_000):
        with expected_failures():
            media_type("a" * size)
        with expected_failures():
            formats.negotiate_format(httpx_like({"accept": "a" * size}))
        redact(None, "", {"nested": {"a" * size: 1}})
    assert {len(text) for text in kept} == {10, 150, 900, len("nested")}


def httpx_like(headers: dict[str, str]) -> Any:
    """Return a request with these headers, as far as the negotiation reads it."""
    return SimpleNamespace(headers=SimpleNamespace(getlist=lambda name: [headers[name]]))
