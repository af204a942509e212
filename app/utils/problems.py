"""Problem documents (RFC 9457): the responses to all errors."""

import json
import re
from itertools import accumulate
from typing import Annotated, Any, Literal
from urllib.parse import quote

import structlog
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from app.utils.exceptions import InternalError, RegisterError
from app.utils.oauth_errors import OAuthError, oauth_members

MEDIA_TYPE = "application/problem+json"
# Characters of the path in a problem document. Percent-encoding makes a path up to three times as long.
MAX_INSTANCE_LENGTH = 2_500
# The size of a problem document that has no errors of a body.
MAX_BYTES = 4_000
_FITTING = " Only the first {} errors fit into this response."
_PARTIAL_ESCAPE = re.compile("%.?$")

logger = structlog.get_logger("app.problems")


class ProblemError(BaseModel):
    """An error in the request."""

    pointer: Annotated[str, Field(description="JSON pointer (RFC 6901) into the body, or `/name` of a parameter.")]
    source: Literal["body", "query", "path", "header"]
    code: str
    detail: str


class DependantBrief(BaseModel):
    """An object that refers to the object to delete."""

    type: Annotated[str, Field(description="Collection of the object.", examples=["processes"])]
    id: int
    code: str | None
    name: str


class ProblemDependants(BaseModel):
    """The objects that refer to the object to delete, as far as the token may read them."""

    total: int
    counts: Annotated[
        dict[str, int], Field(description="Number of objects per collection.", examples=[{"processes": 3}])
    ]
    first: Annotated[list[DependantBrief], Field(max_length=20)]
    has_unreadable: Annotated[
        bool, Field(description="Whether objects that the token may not read also refer to the object.")
    ]


class Problem(BaseModel):
    """A problem document (RFC 9457): `code` and `errors` are for programs, `title` and `detail` for people."""

    model_config = ConfigDict(extra="allow")

    type: Annotated[
        str, Field(description="Path of the explanation of this kind of problem.", examples=["/problems/conflict"])
    ]
    title: str
    status: int
    detail: str
    instance: Annotated[str, Field(description=f"Path of the request, cut after {MAX_INSTANCE_LENGTH:,} characters.")]
    code: Annotated[str, Field(description="Code of the error, for programs.", examples=["duplicate"])]
    request_id: str
    errors: list[ProblemError]
    dependants: Annotated[ProblemDependants | None, Field(description="Only with code `still_referenced`.")] = None
    scope: Annotated[
        str | None,
        Field(description="The missing scopes, separated by spaces, or `session`; only with code `forbidden`."),
    ] = None


class TokenProblem(Problem):
    """A problem document of a route that issues tokens, with the fields of an error of OAuth 2."""

    error: Annotated[
        OAuthError,
        Field(
            description="Error code of RFC 6749, section 5.2, or for 429, 500 and 503 of section 4.1.2.1.",
            examples=["invalid_grant"],
        ),
    ]
    error_description: Annotated[
        str, Field(description="The first error of the body, or else the `detail`, in printable ASCII.")
    ]


def problem_response(error: RegisterError, scope: Scope) -> Response:
    """Return the response to an error. It never contains messages of the driver or a traceback."""
    document: dict[str, Any] = {
        **_head(type(error)),
        "detail": error.detail,
        "instance": _PARTIAL_ESCAPE.sub("", quote(scope["path"][:MAX_INSTANCE_LENGTH])[:MAX_INSTANCE_LENGTH]),
        "code": error.code,
        "request_id": scope.get("state", {}).get("request_id", ""),
        "errors": [fault.as_json() for fault in error.errors],
        **error.extensions,
        **(oauth_members(error.status, error.detail, error.errors) if _issues_tokens(scope) else {}),
    }
    body = _encode(document)
    # Any client can cause errors in the head of a request, also without a token. Errors in a body are smaller than it.
    if len(body) > MAX_BYTES and all(fault.source != "body" for fault in error.errors):
        body = _encode(_with_fitting_errors(document))
    return Response(body, error.status, error.headers, MEDIA_TYPE)


def _issues_tokens(scope: Scope) -> bool:
    """Return whether the path is that of a route with `ISSUES_TOKENS`, also for errors before the routing."""
    path = scope["path"].removeprefix(scope.get("root_path", "")).removesuffix("/")
    return "app" in scope and path in getattr(scope["app"].state, "oauth_paths", ())


def _with_fitting_errors(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with the first errors that fit into `MAX_BYTES`, and with their number in `detail`."""
    size = len(_encode(document | {"errors": []})) + len(_FITTING) + len(str(MAX_BYTES))
    ends = accumulate((len(_encode(error)) + len(", ") for error in document["errors"]), initial=size)
    count = max(0, sum(end <= MAX_BYTES for end in ends) - 1)
    detail = document["detail"] + _FITTING.format(count)
    return document | {"detail": detail, "errors": document["errors"][:count]}


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


def answer_with_problem(request: Request, error: RegisterError) -> Response:
    """Count and log an error, and return the response to it."""
    if error.status >= InternalError.status:
        logger.warning("unavailable", code=error.code, detail=error.detail, cause=repr(error.__cause__))
    request.app.state.metrics.errors.labels(type(error).__name__).inc()
    return problem_response(error, request.scope)


def example_problem(error: type[RegisterError]) -> dict[str, Any]:
    """Return the documentation's example of an error."""
    return {
        **_head(error),
        "detail": error.text,
        "instance": "/api/v1/processes/1",
        "code": error.code,
        "request_id": "5ecf45473de548edbb17a77c7ee43656",
        "errors": [],
    }


def _head(error: type[RegisterError]) -> dict[str, Any]:
    return {"type": f"/problems/{error.name}", "title": error.title, "status": error.status}
