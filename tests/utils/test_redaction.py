"""Log lines are short, and a cut reveals no part of a credential."""

from typing import Any

import httpx
import pytest
import structlog

from app.core.tokens import API_TOKEN, LINK_TOKEN, REFRESH_TOKEN, Tokens, new_token
from app.utils.redaction import CUT, MAX_DEPTH, MAX_ENTRIES, MAX_NAME, MAX_TEXT, MAX_TRACEBACK, clean_text, redact
from tests.conftest import settings_for
from tests.utils.conftest import Log, configured_log

SECRET = "Zx81Zx81Zx81Zx81Zx81Zx81Zx81Zx81"  # noqa: S105
# Texts with a credential, and the credential.
CREDENTIALS = [
    *((f"/tokens/{token}/", token) for token in map(new_token, (API_TOKEN, REFRESH_TOKEN, LINK_TOKEN))),
    *(
        (f"{before}{token}", token)
        for before in ("/", " ")
        for token in [Tokens(settings_for(None)).access_token(1, 1)]
    ),
    (f"postgresql://register:{SECRET}@db/register", SECRET),
    (f"Authorization: Bearer {SECRET}", SECRET),
    (f"authorization: Basic {SECRET}", SECRET),
    (f"access_token={SECRET}&limit=1", SECRET),
    (f'"password": "{SECRET}"', SECRET),
    (f"{{'api_key': '{SECRET}'}}", SECRET),
]


@pytest.mark.parametrize(("text", "secret"), CREDENTIALS, ids=range(len(CREDENTIALS)))
def test_cut_reveals_no_part_of_a_credential(text: str, secret: str) -> None:
    for visible in range(len(text)):
        line = " " * (MAX_TEXT - visible) + text + " " * MAX_TEXT
        written = clean_text(line)
        assert written.endswith(CUT)
        # A prefix such as `prt_` may be shown.
        assert secret[4:8] not in written


@pytest.mark.parametrize("length", [MAX_TEXT - 1, MAX_TEXT])
def test_text_up_to_the_limit_is_written_whole(length: int) -> None:
    assert clean_text("a b" + "c" * (length - 3)) == "a b" + "c" * (length - 3)


def test_every_text_of_a_line_is_cut(log: Log) -> None:
    long = "x y" * MAX_TEXT
    structlog.get_logger("test").info(
        long, path=long, nested={"list": [long], long: {"inner": (long,)}}, error=ValueError(long)
    )
    (entry,) = log.entries
    assert len(entry["event"]) == len(entry["path"]) == MAX_TEXT + len(CUT)
    assert entry["nested"]["list"] == [long[:MAX_TEXT] + CUT]
    assert entry["error"].startswith("ValueError('x yx y")
    assert len(log.getvalue()) < 5 * MAX_TEXT


@pytest.mark.parametrize("before", [0, MAX_NAME - 4, MAX_NAME, 100_000])
def test_value_with_a_long_name_is_not_written(before: int) -> None:
    (name, value), *_ = redact(None, "", {"nested": {"n" * before + "_password": SECRET}})["nested"].items()
    assert value == "[redacted]"
    assert len(name) <= MAX_NAME + len(CUT)


def test_name_that_is_a_credential_is_not_written() -> None:
    token = new_token(API_TOKEN)
    assert redact(None, "", {"nested": {token: 1}}) == {"nested": {f"{API_TOKEN}[redacted]": 1}}


def test_names_are_escaped_on_every_level() -> None:
    assert redact(None, "", {"k\x1b[1m": 1, "a": {"k\n": [{"\u202e": 2}]}}) == {
        r"k\x1b[1m": 1,
        "a": {r"k\n": [{r"\u202e": 2}]},
    }
    assert redact(None, "", {"password\x1b": SECRET}) == {r"password\x1b": "[redacted]"}


def test_nested_values_are_limited() -> None:
    deep: list[Any] = []
    deep.append(deep)
    cleaned = redact(
        None, "", {"deep": deep, "wide": [[1] * MAX_ENTRIES, [2]], "mapping": dict.fromkeys(range(5000), 1)}
    )
    depth, level = 0, cleaned["deep"]
    while isinstance(level, list):
        depth, level = depth + 1, level[0]
    assert (depth, level) == (MAX_DEPTH, "[cut]")
    assert sum(each == 1 for each in cleaned["wide"][0]) == MAX_ENTRIES - 2
    assert cleaned["wide"][1] == ["[cut]"]
    assert len(cleaned["mapping"]) == MAX_ENTRIES + 1


@pytest.mark.parametrize("as_json", [True, False])
def test_traceback_has_a_limit_of_its_own(*, as_json: bool) -> None:
    with configured_log(as_json=as_json) as log:
        try:
            int("token_" * 100_000)
        except ValueError as error:
            error.args = ("token_" * 100_000,)
            structlog.get_logger("test").exception("failed")
    text = log.getvalue()
    assert "test_traceback_has_a_limit_of_its_own" in text
    assert MAX_TEXT < len(text) < MAX_TRACEBACK + MAX_TEXT


async def test_long_path_is_cut_in_the_log_and_whole_in_the_response(client: httpx.AsyncClient, log: Log) -> None:
    token = new_token(API_TOKEN)
    path = "/" + "a" * (MAX_TEXT - len("/api/v1/") - 20) + "_" + token
    response = await client.get(path)
    assert response.json()["instance"].endswith(token)
    assert log.entries[-1]["path"].endswith(f"a_{API_TOKEN}[redacted]{CUT}")
