"""`Content-Type` is read by the grammar of RFC 9110."""

from contextlib import suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.http.bodies import media_type
from app.utils.exceptions import UnsupportedMediaType
from tests.api.conftest import assert_problem

ACCEPTED = {
    "application/json": "application/json",
    "Application/JSON": "application/json",
    "application/json;": "application/json",
    "application/json ; ;charset=utf-8\t;": "application/json",
    'text/csv; header=present; CHARSET="UTF\\-8"': "text/csv",
    'text/csv; note="a;charset=latin-1"': "text/csv",
    "text/csv;charset=utf8": "text/csv",
    "application/json; a*=x;a*0=x": "application/json",
    "application/merge-patch+json": "application/merge-patch+json",
    "application/json; charset=latin-1": None,
    "application/json; charset=utf-8; charset=latin-1": None,
    'application/json; charset="utf-16"': None,
}
MALFORMED = (
    *("", ";", "json", "application/", "/json", "application/json/x", "application json", "application /json"),
    *("application/json charset=utf-8", "application/json; charset", "application/json; charset=", "a/b; =c"),
    *("a/b; c = d", 'a/b; c="d', 'a/b; c="d"e', 'a/b; c="\\', "a/b, c/d", "a/b; c=é", "ä/b", "a/b\r\n", "a/b\0"),
)
# Extended and continued parameters (RFC 2231), at which parsers of e-mail headers fail.
HOSTILE = (
    *("a*=x; a*0=x", "charset*=x; charset*0=a", "a*0*=x; a*=x", "a*1=x; a*0=y; a=z", "a*=''", "a*=utf-9''%ff"),
    *("charset*=utf-8''utf-8", "charset*0*=utf-8''u; charset*1=tf-8", "boundary*=x; boundary*0=x", 'a="\\""; a*0="'),
)
ROUTES = {
    "/auth/token": ("application/x-www-form-urlencoded", "username=a&password=b"),
    "/departments": ("application/json", '{"name": "D"}'),
    "/departments/bulk": ("application/json", '{"items": []}'),
    "/departments/import": ("text/csv", "name\nD\n"),
}


@pytest.mark.parametrize("sent", ACCEPTED)
def test_media_type_is_read_in_every_valid_form(sent: str) -> None:
    assert media_type(sent) == ACCEPTED[sent]


@pytest.mark.parametrize("sent", MALFORMED)
def test_malformed_content_type_is_rejected(sent: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        media_type(sent)


PARTS = st.sampled_from((*'*=;"\\ /', "a", "0", "charset", "utf-8", "''", "%ff", "\t", "é", "\x80"))


@given(st.lists(PARTS, max_size=20).map("".join))
def test_any_content_type_is_read_or_rejected(parameters: str) -> None:
    for sent in (parameters, f"application/json;{parameters}", f"application/json;charset{parameters}"):
        with suppress(UnsupportedMediaType):
            media_type(sent)


@pytest.mark.parametrize("path", ROUTES)
async def test_hostile_parameters_are_no_server_error(client: httpx.AsyncClient, path: str) -> None:
    usual, content = ROUTES[path]
    for parameters in HOSTILE:
        for beginning in (usual, usual.upper(), "multipart/form-data"):
            headers = {"Content-Type": f"{beginning}; {parameters}"}
            for body in (content, ""):
                response = await client.post(path, content=body, headers=headers)
                assert response.status_code < 500, (headers, body)


async def test_malformed_content_type_is_an_unsupported_media_type(client: httpx.AsyncClient) -> None:
    for path, (usual, content) in ROUTES.items():
        response = await client.post(path, content=content, headers={"Content-Type": f"{usual}; charset"})
        assert response.status_code == 415
        assert_problem(response, "unsupported_media_type")


async def test_number_of_json_values_is_limited_whatever_the_case_of_the_type(client: httpx.AsyncClient) -> None:
    body = b'{"items": [' + b"{}," * 600_000 + b"0" * 1024 * 1024 + b"]}"
    for path, sent in (("bulk", "Application/JSON"), ("import", "application/X-NDJSON")):
        response = await client.post(f"/roles/{path}", content=body, headers={"Content-Type": sent})
        assert_problem(response, "content_too_large")
