"""An e-mail address whose domain is sent in Unicode or as `xn--` is one address."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from tests.builders import make_user
from tests.domains.auth.conftest import make_account, sign_in, try_to_sign_in

pytestmark = pytest.mark.usefixtures("connection")

UNICODE, ASCII = "ada@münchen.example", "ada@xn--mnchen-3ya.example"
FORMS = (UNICODE, ASCII, "ADA@XN--MNCHEN-3YA.example", "ada@MÜNCHEN.example", "ada@mu\u0308nchen.example")


async def found(client: httpx.AsyncClient, **filters: Any) -> list[str]:
    response = await client.get("/users", params=filters)
    assert response.status_code == 200, response.text
    return [each["email"] for each in response.json()["items"]]


@pytest.mark.parametrize("stored", [UNICODE, ASCII])
async def test_address_is_stored_and_found_in_one_form(client: httpx.AsyncClient, stored: str) -> None:
    user = await make_user(client, email=stored)
    other = await make_user(client, email="ada@munchen.example")
    assert user["email"] == UNICODE
    for form in FORMS:
        assert await found(client, email=form) == [UNICODE]
        assert await found(client, email=[form, "ada"]) == [UNICODE]
        assert UNICODE not in await found(client, email__not=form)
        assert await found(client, email__ic=form) == [UNICODE]
        assert await found(client, email__sw=form[:-4]) == [UNICODE]
        assert await found(client, email__ic=form.partition("@")[2]) == [UNICODE]
    assert await found(client, email__ic="XN--mnchen-3ya") == [UNICODE]
    assert await found(client, email=other["email"]) == [other["email"]]
    for part in ("ada", "xn--", "ada@xn--", "ada@xn--a.example", "ada@xn--" + "9" * 200, "@", "xn--mnchen-3yb"):
        assert await found(client, email=part) == []


async def test_address_is_unique_in_both_forms(client: httpx.AsyncClient) -> None:
    user, other = await make_user(client, email=UNICODE), await make_user(client)
    for form in FORMS:
        body = {"name": "N", "email": form}
        item = {"op": "create", "data": body}
        content = f"name,email\r\nN,{form}\r\n".encode()
        responses = [
            await client.post("/users", json=body),
            await client.put(f"/users/{other['id']}", json=body),
            await client.patch(f"/users/{other['id']}", json={"email": form}),
            await client.post("/users/bulk", json={"items": [item]}),
            await client.post("/users/import", content=content, headers={"Content-Type": "text/csv"}),
        ]
        assert {fault["code"] for each in responses for fault in each.json()["errors"]} == {"duplicate"}
        again = await client.patch(f"/users/{user['id']}", json={"email": form})
        assert again.status_code == 200
        assert again.json()["email"].lower() == UNICODE
    items = [{"op": "create", "data": {"name": "N", "email": f"new@{form.partition('@')[2]}"}} for form in FORMS[:2]]
    batch = await client.post("/users/bulk", json={"items": items})
    assert [fault["code"] for fault in batch.json()["errors"]] == ["duplicate"]


@pytest.mark.parametrize("stored", [UNICODE, ASCII])
async def test_user_signs_in_with_both_forms(app: FastAPI, stored: str) -> None:
    await make_account(app, email=stored)
    for form in FORMS:
        assert await sign_in(app, form)


async def test_attempts_with_both_forms_are_counted_together(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = app.state.settings.model_copy(update={"sign_in_attempts": 3})
    monkeypatch.setitem(app.state._state, "settings", settings)
    statuses = [(await try_to_sign_in(app, FORMS[number % 2], "wrong")).status_code for number in range(4)]
    assert statuses == [401, 401, 401, 429]


@pytest.mark.parametrize(
    "name", ["xn--", "ada@xn--a.example", "ada@xn--99999999.example", "ada@xn--" + "a" * 200, "a\u200bda@x.example"]
)
async def test_malformed_address_cannot_sign_in(app: FastAPI, name: str) -> None:
    assert (await try_to_sign_in(app, name)).status_code == 401


async def test_malformed_label_is_no_address(client: httpx.AsyncClient) -> None:
    for domain in ("xn--.example", "xn--a.example", "xn--99999999.example", f"xn--{'9' * 59}.example"):
        response = await client.post("/users", json={"name": "N", "email": f"ada@{domain}"})
        assert [(each["pointer"], each["code"]) for each in response.json()["errors"]] == [("/email", "email")]


async def test_stored_address_with_an_invisible_character_signs_in(app: FastAPI) -> None:
    user = await make_account(app)
    async with app.state.database.transaction() as session:
        await session.execute(
            text("UPDATE users SET email = :email WHERE id = :id"), {"email": "o\u034fld@x.example", "id": user["id"]}
        )
    assert await sign_in(app, "O\u034fld@x.example")
