"""Limits of text from outside are applied before any work is done on it."""

import re
import unicodedata
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

from app.core.http.bodies import MAX_CONTENT_TYPE_LENGTH
from app.core.http.routing import MAX_PARAMETERS
from app.domains.shared.models import NAME_LENGTH
from app.domains.shared.query import formats
from app.domains.shared.query.filters import TextParameter
from app.domains.shared.texts import Description, Name
from app.utils.text import normalisation
from app.utils.text.normalisation import MAX_COMBINING_MARKS, TextTooLongError, TooManyMarksError, to_nfc
from tests.catalogue import PLAIN_TEXTS, every_collection, required

# One combining mark too many.
MARKS = MAX_COMBINING_MARKS + 1


def validate(annotation: Any, text: str) -> Any:
    return TypeAdapter(annotation).validate_python(text)


def test_text_is_normalised_in_few_places(root: Path) -> None:
    # A password has at most 256 characters, and snippets fold single characters and the words of `q`. Only texts within
    # the bounds are folded.
    allowed = {"normalisation.py", "folding.py", "passwords.py", "password_strength.py", "snippets.py"}
    calls = {
        path.name
        for path in (root / "app").rglob("*.py")
        if re.search(r"unicodedata\.(is_)?normali[sz]ed?\(", path.read_text("utf-8"))
    }
    assert calls == allowed


@pytest.mark.parametrize("marks", ["\u0301", "\u0315\u0300", "\u0f73", "\u0344", "\U0001d165"])
def test_marks_in_a_row_are_limited(marks: str) -> None:
    most = "e" + (marks * MAX_COMBINING_MARKS)[: MAX_COMBINING_MARKS // (2 if marks == "\u0f73" else 1)]
    assert to_nfc(most * 20, 1000) == unicodedata.normalize("NFC", most * 20)
    with pytest.raises(TooManyMarksError):
        to_nfc(most + marks, 1000)


@pytest.mark.parametrize("form", ["NFD", "NFKD"])
def test_no_character_adds_marks_unseen(form: Literal["NFD", "NFKD"]) -> None:
    """Every character that is only marks once it is decomposed counts as marks."""
    for character in map(chr, range(0x110000)):
        decomposed = unicodedata.normalize(form, character)
        if all(unicodedata.combining(each) for each in decomposed):
            with pytest.raises(TooManyMarksError):
                to_nfc(character * 31, 1000)


@pytest.mark.parametrize("text", ["é", "\u1f82", "각", "ǟ", "が", "\u1e69"])
def test_decomposed_text_of_the_maximum_length_is_accepted(text: str) -> None:
    longest = text * 500
    assert validate(Name, unicodedata.normalize("NFD", longest)) == longest
    with pytest.raises(ValidationError) as caught:
        validate(Name, unicodedata.normalize("NFD", longest + text))
    assert [error["type"] for error in caught.value.errors()] == ["string_too_long"]


def test_longer_text_is_not_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalisation, "unicodedata", None)
    with pytest.raises(TextTooLongError):
        to_nfc("é" * 4001, 1000)
    for adapter, text in ((Name, "é" * 2001), (Description, "\u0301" * 80_001), (TextParameter, "\u0f73" * 2049)):
        with pytest.raises(ValidationError):
            validate(adapter, text)


@every_collection
async def test_marks_are_limited_in_every_text_of_an_object(client: httpx.AsyncClient, collection: str) -> None:
    marks = "e" + "\u0315\u0300" * MARKS
    members = {"name", "description", "external_id", *PLAIN_TEXTS[collection]}
    members |= {"email"} & required(collection).keys()
    body = required(collection) | dict.fromkeys(members, marks)
    response = await client.post(f"/{collection}", json=body)
    assert faults(response) == {(f"/{name}", "body", "too_many_combining_marks") for name in members}
    item = await client.post(f"/{collection}/bulk", json={"items": [{"op": "create", "data": body}]})
    assert faults(item) == {(f"/items/0/data/{name}", "body", "too_many_combining_marks") for name in members}
    filters = {"q", "name", "name__ic", "name__sw", "description__ic", "external_id__not"}
    response = await client.get(f"/{collection}", params=dict.fromkeys(filters, marks))
    found = {(pointer.removesuffix("/0"), source, code) for pointer, source, code in faults(response)}
    assert found == {(f"/{name}", "query", "too_many_combining_marks") for name in filters}


async def test_marks_are_limited_wherever_text_is_sent(client: httpx.AsyncClient) -> None:
    marks = "e" + "\u0301" * MARKS
    code = "too_many_combining_marks"
    response = await client.get("/search", params={"q": marks})
    assert faults(response) == {("/q", "query", code)}
    message = [(b"X-Change-Message", marks.encode())]
    response = await client.post("/departments", json={"name": "A"}, headers=message)
    assert faults(response) == {("/X-Change-Message", "header", code)}
    response = await client.post("/auth/token", data={"username": marks, "password": "b"})
    assert faults(response) == {("/username", "body", code)}
    response = await client.post("/users/me/tokens", json={"name": marks, "scopes": ["processes:read"]})
    assert response.status_code == 403  # a session is needed
    table = f"code,name\r\nA-1,{marks}\r\n"
    response = await client.post("/departments/import", content=table.encode(), headers={"Content-Type": "text/csv"})
    assert faults(response) == {("/2/name", "body", code)}


async def test_accepted_text_is_stored_normalised(client: httpx.AsyncClient) -> None:
    longest = "e" + "\u0301" * (MARKS - 1)
    decomposed = unicodedata.normalize("NFD", "é" * NAME_LENGTH)
    for name in (longest, decomposed):
        response = await client.post("/departments", json={"name": name})
        assert (response.status_code, response.json()["name"]) == (201, unicodedata.normalize("NFC", name))
    message = [(b"X-Change-Message", unicodedata.normalize("NFD", "é" * 500).encode())]
    assert (await client.post("/departments", json={"name": "A"}, headers=message)).status_code == 201


def faults(response: httpx.Response) -> set[tuple[str, str, str]]:
    assert response.status_code == 422
    return {(error["pointer"], error["source"], error["code"]) for error in response.json()["errors"]}


# Headers and query strings


@pytest.mark.parametrize("path", ["/departments", "/departments/import", "/auth/token", "/auth/refresh"])
@pytest.mark.parametrize("content", [b"", b"{}"])
async def test_long_content_type_is_not_parsed(client: httpx.AsyncClient, path: str, content: bytes) -> None:
    for content_type in ('a/b;x="' + ";" * 30_000, "application/json;" + " " * MAX_CONTENT_TYPE_LENGTH):
        response = await client.post(path, content=content, headers={"Content-Type": content_type})
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


async def test_content_type_up_to_the_limit_is_parsed(client: httpx.AsyncClient) -> None:
    content_type = 'application/json; charset=utf-8; x="'.ljust(MAX_CONTENT_TYPE_LENGTH - 1, ";") + '"'
    response = await client.post("/departments", content=b'{"name": "A"}', headers={"Content-Type": content_type})
    assert response.status_code == 201


async def test_long_accept_is_not_acceptable(client: httpx.AsyncClient) -> None:
    accept = "application/json".rjust(formats.MAX_ACCEPT_LENGTH, ",")
    assert (await client.get("/departments", headers={"Accept": accept})).status_code == 200
    assert (await client.get("/departments", headers={"Accept": f",{accept}"})).status_code == 406


async def test_parameters_are_limited(client: httpx.AsyncClient) -> None:
    def url(number: int) -> str:
        return "/departments?" + "&".join(["name=a"] * number)

    assert (await client.get(url(MAX_PARAMETERS))).status_code == 422  # too many values of one filter
    response = await client.get(url(MAX_PARAMETERS + 1))
    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


async def test_content_length_of_too_many_digits_is_too_large(client: httpx.AsyncClient) -> None:
    headers = {"Content-Length": "9" * 5000, "Content-Type": "application/json"}
    assert (await client.post("/departments", content=b"{}", headers=headers)).status_code == 413
