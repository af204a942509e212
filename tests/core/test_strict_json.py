"""No JSON keeps the interpreter to itself for long: objects and integers have limits, which are checked first."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.http import strict_json
from app.core.http.strict_json import MAX_MEMBERS, parse_json
from app.main import MAX_INTEGER_DIGITS

TOO_MANY = "an object has more than 100,000 fields"
NDJSON = {"Content-Type": "application/x-ndjson"}
NAMES = {
    "names": "{:x}",
    "names with braces": "}}{{{:x}",
    "names with quotes": '\\"{{{:x}\\"',
    "names with backslashes": "\\\\{:x}\\\\",
}


def wide_object(names: str, members: int, value: str = "0") -> str:
    """Return the text of an object whose members have names of a kind."""
    return "{" + ",".join(f'"{NAMES[names].format(number)}":{value}' for number in range(members)) + "}"


def test_object_has_at_most_100_000_members() -> None:
    assert len(parse_json(wide_object("names", MAX_MEMBERS).encode())) == MAX_MEMBERS
    with pytest.raises(json.JSONDecodeError, match=TOO_MANY):
        parse_json(wide_object("names", MAX_MEMBERS + 1).encode())


@pytest.mark.parametrize("value", ["0", "[]", '"{}"', "[[1,2]]"])
@pytest.mark.parametrize("names", NAMES)
def test_object_with_very_many_members_is_not_parsed(monkeypatch: pytest.MonkeyPatch, names: str, value: str) -> None:
    monkeypatch.setattr(json, "loads", None)
    for around in ("{}", '{{"items": [{{"op": "create"}}, {}]}}', '"a{{", {}'):
        with pytest.raises(json.JSONDecodeError, match=TOO_MANY):
            parse_json(around.format(wide_object(names, 130_000, value)).encode())


NAME = st.text('a{}":\\,é', max_size=6)
VALUE = st.recursive(
    st.integers() | NAME | st.none(),
    lambda value: st.lists(value, max_size=4) | st.dictionaries(NAME, value, max_size=4),
    max_leaves=30,
)


@given(VALUE, st.integers(1, 9), st.booleans())
def test_objects_within_the_limit_are_parsed_wherever_chunks_end(value: Any, size: int, escaped: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strict_json, "_MAX_UNCHECKED_BYTES", 0)
        patch.setattr(strict_json, "_CHUNK_BYTES", size)
        patch.setattr(strict_json, "MAX_MEMBERS", 4)
        assert parse_json(json.dumps(value, ensure_ascii=escaped).encode()) == value


def test_numbers_let_other_threads_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parser calls a function of this application for each number that takes long to read."""
    seen: list[str] = []

    def count(text: str) -> float:
        seen.append(text)
        return 0.0

    monkeypatch.setattr(strict_json, "_float", count)
    parse_json(b"[1.5, 2e300, 3]")
    assert seen == ["1.5", "2e300"]


async def test_integers_have_at_most_640_digits(client: httpx.AsyncClient) -> None:
    for digits, detail in ((MAX_INTEGER_DIGITS, None), (MAX_INTEGER_DIGITS + 1, "a number has too many digits")):
        number = "7" * digits
        body = f'{{"name": "R", "role": {number}}}'
        sent = await client.post("/roles", content=body, headers={"Content-Type": "application/json"})
        assert (sent.status_code, detail is None or detail in sent.text) == (400 if detail else 422, True)
        rows = await client.post("/roles/import", content=body, headers=NDJSON)
        assert (rows.status_code, detail is None or detail in rows.text) == (422, True)


async def test_wide_object_is_rejected_wherever_it_is_sent(client: httpx.AsyncClient) -> None:
    text = wide_object("names", MAX_MEMBERS + 1)
    headers = {"Content-Type": "application/json"}
    response = await client.post("/roles/bulk", content=f'{{"items": [{text}]}}', headers=headers)
    assert response.status_code == 400
    assert TOO_MANY in response.text
    response = await client.post("/roles/import", content=text, headers=NDJSON)
    assert response.status_code == 422
    assert TOO_MANY in response.text
