"""How errors become answers, and the pages that explain them."""

from typing import Annotated

import structlog
from fastapi import APIRouter, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.core.database_errors import IntegrityViolation
from app.core.permissions import PUBLIC, requires
from app.domains.shared.constraints import explain
from app.domains.shared.responses import ANYWHERE, problems
from app.utils.exceptions import (
    BadRequest,
    ContentTooLarge,
    InternalError,
    MethodNotAllowed,
    NotFound,
    RegisterError,
    explanation,
    problem_types,
)
from app.utils.problems import problem_response
from app.utils.validation import invalid_request

router = APIRouter(
    prefix="/problems",
    tags=["problems"],
    generate_unique_id_function=lambda route: route.name,
    responses=ANYWHERE,
)

logger = structlog.get_logger("app.problems")

_TYPES = {error.name: error for error in problem_types()}


class ProblemType(BaseModel):
    """A kind of problem, explained to a person."""

    name: str
    title: str
    status: int
    explanation: str


@router.get("/{name}", responses=problems(NotFound), openapi_extra=requires(PUBLIC))
async def explain_problem(
    name: Annotated[str, Path(openapi_examples={"conflict": {"value": "conflict"}})],
) -> ProblemType:
    """Explain a kind of problem: `type` of a problem document leads here."""
    if name not in _TYPES:
        raise NotFound("There is no such kind of problem.")
    error = _TYPES[name]
    return ProblemType(name=error.name, title=error.title, status=error.status, explanation=explanation(error))


def add_problem_handlers(app: FastAPI) -> None:
    """Make every error an answer of the one shape.

    There is no handler for `Exception`: Starlette would raise it again after the answer and the server would drop the
    connection. What is left over is answered by `RequestMiddleware`.
    """
    app.exception_handler(RegisterError)(_on_register_error)
    app.exception_handler(IntegrityViolation)(_on_integrity_violation)
    app.exception_handler(RequestValidationError)(_on_invalid_request)
    app.exception_handler(HTTPException)(_on_http_exception)


async def _on_register_error(request: Request, error: RegisterError) -> Response:
    if error.status >= InternalError.status:
        logger.warning("unavailable", code=error.code, detail=error.detail, cause=repr(error.__cause__))
    request.app.state.metrics.errors.labels(type(error).__name__).inc()
    return problem_response(error, request.scope)


async def _on_integrity_violation(request: Request, violation: IntegrityViolation) -> Response:
    error = explain(violation)
    if error is None:
        raise violation  # a constraint that no input should reach: our fault
    return await _on_register_error(request, error)


async def _on_invalid_request(request: Request, error: RequestValidationError) -> Response:
    details = error.errors()
    for detail in details:
        if detail["type"] == "json_invalid":
            return await _on_register_error(request, BadRequest(f"The body is not JSON: {detail['ctx']['error']}."))
    return await _on_register_error(request, invalid_request(details))


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Translate what Starlette and FastAPI raise themselves."""
    own: RegisterError
    if error.status_code == NotFound.status:
        own = NotFound("There is nothing at this address.")
    elif error.status_code == MethodNotAllowed.status:
        allowed = ", ".join(sorted(_methods_at(request)))
        own = MethodNotAllowed(f"This address knows only {allowed}.", headers={"Allow": allowed})
    elif error.status_code == ContentTooLarge.status:
        own = ContentTooLarge("The body is too large.")
    else:
        own = BadRequest("The body cannot be read.")
    return await _on_register_error(request, own)


def _methods_at(request: Request) -> set[str]:
    """Return the methods of every route with the path: Starlette's own header has those of the first one only."""
    methods: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        route = context.original_route
        regex = getattr(context, "path_regex", None)
        if regex is not None and regex.match(request.scope["path"]) and route is not None:
            methods |= context.methods or {"GET"}  # mounted files have none of their own
    return methods | ({"HEAD"} if "GET" in methods else set())
