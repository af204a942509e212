"""Routes that find their arguments themselves answer as FastAPI's own do."""

from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app.core.arguments import DirectRoute


class Thing(BaseModel):
    name: str


class Filters(BaseModel):
    limit: int = 5
    status: list[str] = []


async def refuse() -> None:
    raise HTTPException(403)


async def limit_of(filters: Annotated[Filters, Query()]) -> int:
    return filters.limit


def shout(request: Request) -> str:
    return request.headers.get("X-Word", "").upper()


async def with_everything(
    request: Request,
    reference: str,
    body: Thing,
    limit: Annotated[int, Depends(limit_of)],
    word: Annotated[str | None, Header(alias="X-Word")] = None,
) -> Response:
    return Response(f"{request.method} {reference} {body.name} {limit} {word}")


async def optional(body: Thing | None = None) -> Response:
    return Response(body.name if body else "nothing")


async def model(body: Thing) -> Thing:
    return body


async def flagged(body: Thing, flag: bool) -> Response:
    return Response(f"{body.name} {flag}")


async def loud(word: Annotated[str, Depends(shout)]) -> Response:
    return Response(word)


async def guarded() -> Response:
    return Response("reached")


def plain(request: Request) -> Response:
    return Response(request.method)


def application(route_class: type[APIRoute]) -> FastAPI:
    router = APIRouter(route_class=route_class)
    router.put("/everything/{reference}")(with_everything)
    router.put("/optional")(optional)
    router.put("/model", status_code=201)(model)
    router.put("/flagged")(flagged)
    router.put("/loud")(loud)
    router.put("/guarded", dependencies=[Depends(refuse)])(guarded)
    router.put("/plain")(plain)
    app = FastAPI()
    app.include_router(router)
    return app


BODIES = [b'{"name": "a"}', b'{"name": 1}', b"{}", b"null", b"[]", b"{", b"", b'{"name": "a"}x']


@pytest.mark.parametrize("path", ["everything/x", "optional", "model", "flagged", "loud", "guarded", "plain"])
async def test_route_answers_as_fastapi_would(path: str) -> None:
    applications = [application(route) for route in (DirectRoute, APIRoute)]
    for body in BODIES:
        for query in ("", "?limit=7", "?limit=x", "?flag=true", "?flag=x"):
            if "limit" in query and path != "everything/x":
                continue
            headers = {"Content-Type": "application/json", "X-Word": "word"}
            own, theirs = [await answer(app, f"/{path}{query}", body, headers) for app in applications]
            assert own == theirs, (path, query, body)


async def answer(app: FastAPI, url: str, body: bytes, headers: dict[str, str]) -> Any:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.put(url, content=body, headers=headers)
    if response.status_code != 422:
        return response.status_code, response.content
    # Where the faults are and what they are; not in which words.
    return response.status_code, [(fault["loc"][:2], fault["type"]) for fault in response.json()["detail"]]
