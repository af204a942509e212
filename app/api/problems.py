"""Turns errors into problem documents, and explains the kinds of problems."""

from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app.core.database_errors import IntegrityViolation
from app.core.http.routing import method_not_allowed
from app.core.permissions import PUBLIC, requires
from app.domains.shared.idempotency.route import Replayed, replay
from app.domains.shared.responses import ANYWHERE, problems
from app.domains.shared.writing.constraints import error_for
from app.utils.exceptions import (
    BadRequest,
    ContentTooLarge,
    MethodNotAllowed,
    NotFound,
    RegisterError,
    explanation,
    problem_types,
)
from app.utils.problems import answer_with_problem
from app.utils.validation import invalid_request

router = APIRouter(
    prefix="/problems",
    tags=["problems"],
    generate_unique_id_function=lambda route: route.name,
    responses=ANYWHERE,
)

_TYPES = {error.name: error for error in problem_types()}


class ProblemType(BaseModel):
    """The explanation of a kind of problem."""

    name: str
    title: str
    status: int
    explanation: str


@router.get("/{name}", responses=problems(NotFound), openapi_extra=requires(PUBLIC))
async def explain_problem(
    name: Annotated[
        str,
        Path(description="Last part of the `type` of a problem.", openapi_examples={"conflict": {"value": "conflict"}}),
    ],
) -> ProblemType:
    """Explain a kind of problem.

    The `type` of a problem document is the path of its explanation.
    """
    if name not in _TYPES:
        raise NotFound("There is no such problem type.")
    error = _TYPES[name]
    return ProblemType(name=error.name, title=error.title, status=error.status, explanation=explanation(error))


def add_problem_handlers(app: FastAPI) -> None:
    """Add the handlers that turn every error into a problem document.

    There is no handler for `Exception`: Starlette would raise it again after the response, and the server would drop
    the connection. `RequestMiddleware` answers the remaining errors.
    """
    app.exception_handler(RegisterError)(_on_register_error)
    app.exception_handler(Replayed)(replay)
    app.exception_handler(IntegrityViolation)(_on_integrity_violation)
    app.exception_handler(RequestValidationError)(_on_invalid_request)
    app.exception_handler(HTTPException)(_on_http_exception)


async def _on_register_error(request: Request, error: RegisterError) -> Response:
    return answer_with_problem(request, error)


async def _on_integrity_violation(request: Request, violation: IntegrityViolation) -> Response:
    error = error_for(violation)
    if error is None:
        raise violation  # a bug: no input should violate this constraint
    return answer_with_problem(request, error)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    details = error.errors()
    for detail in details:
        if detail["type"] == "json_invalid":
            return answer_with_problem(request, BadRequest(f"The body is not JSON: {detail['ctx']['error']}."))
    return answer_with_problem(request, invalid_request(details))


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Translate the errors that Starlette and FastAPI raise themselves."""
    own: RegisterError
    if error.status_code == NotFound.status:
        own = NotFound()
    elif error.status_code == MethodNotAllowed.status:
        own = method_not_allowed(_methods_at(request))
    elif error.status_code == ContentTooLarge.status:
        own = ContentTooLarge()
    else:
        own = BadRequest("The body cannot be read.")
    return answer_with_problem(request, own)


def _methods_at(request: Request) -> set[str]:
    """Return the methods of every route with the path; Starlette's `Allow` has those of the first route only."""
    methods: set[str] = set()
    # The root path of the request: a mounted application changes that of the scope.
    root = request.scope.get("app_root_path", request.scope["root_path"])
    scope = {"type": "http", "method": request.method, "path": request.scope["path"], "root_path": root}
    for route in request.app.routes:
        match, _ = route.matches(scope)
        if match is not Match.NONE:
            methods |= getattr(route, "methods", None) or {"GET"}  # mounted files have no `methods`
    return methods | ({"HEAD"} if "GET" in methods else set())
