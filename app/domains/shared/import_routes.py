"""The import route of every collection, and its answers."""

from collections import Counter
from email.message import Message
from typing import Annotated, Any, ClassVar, Literal, Self, get_args
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.core.query_models import query_of
from app.core.routing import only
from app.domains.shared.bulk_routes import outcome, refusal
from app.domains.shared.http import JSON, compact
from app.domains.shared.idempotency import RepeatableLargeRoute
from app.domains.shared.import_files import FILE_TYPES, MOST_ROWS
from app.domains.shared.import_plans import MINUTES_KEPT, Plan, import_planned, plan_import
from app.domains.shared.imports import Action, Imported, ImportFile, RowOutcome, import_file
from app.domains.shared.responses import BODY, Responses, problems
from app.domains.shared.schemas import Instant, Schema
from app.domains.shared.service import CollectionService
from app.utils.exceptions import Conflict, Fault, InvalidContent, NotFound
from app.utils.problems import ProblemError

MOST_MAPPINGS = 200
# Thousands of rows, and the words to find them by, take longer than the statements of other requests may.
STATEMENT_SECONDS = 60.0


class FileRoute(RepeatableLargeRoute):
    """A route that takes a table or NDJSON."""

    file_types: ClassVar[tuple[str, ...]] = tuple(FILE_TYPES)


class ImportQuery(BaseModel):
    """How a file is imported."""

    # Not `strict`: what stands in an address is text.
    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(
        False, description="Check everything, answer with a plan of what would be done, and do nothing."
    )
    plan_id: UUID | None = Field(
        None, description="Instead of a file: carry out the plan with this id, exactly as it is, or answer 409."
    )
    map: list[str] = Field(
        [],
        max_length=MOST_MAPPINGS,
        description="What a column is, as `column:member`; `column:` passes over it. "
        "Without it a column is the member that its name says, whatever case and separators it has.",
        examples=[["Kürzel:code"]],
    )
    match_ids: bool = Field(
        False,
        description="Rows with an `id` are about the object that has it, as in what this register exported. "
        "Otherwise ids only tell which rows refer to which.",
    )
    csv: Literal["raw"] | None = Field(
        None, description="`raw`: of `text/csv`, no apostrophe in front of a cell is a mark, as if exported so."
    )

    @model_validator(mode="after")
    def _plan_alone(self) -> Self:
        if self.plan_id is not None and (others := sorted(self.model_fields_set - {"plan_id"})):
            context = {"member": others[0]}
            raise PydanticCustomError("planned_already", "A plan is carried out as it is: give its id alone", context)
        return self


class ImportedRow(Schema):
    """What becomes, or became, of a row of the file."""

    row: Annotated[int, Field(description="Its number in the file; a header is the first row.")]
    action: Action
    id: Annotated[int | None, Field(description="Null if there is no object: a plan makes none.")]
    version: Annotated[int | None, Field(description="Version of the object afterwards; null if there is none.")]
    before: Annotated[dict[str, Any] | None, Field(description="Members that change, as they are; only of a plan.")] = (
        None
    )
    after: Annotated[
        dict[str, Any] | None, Field(description="Members that change, as they would be; only of a plan.")
    ] = None
    errors: Annotated[
        list[ProblemError] | None,
        Field(description="Only with `fault`; pointers are `/row/column`, and where a column has parts, its part."),
    ] = None


class ImportCounts(Schema):
    """How many rows there are of each kind."""

    create: int
    change: int
    unchanged: int
    fault: int


class ImportAnswer(Schema):
    """What became of the rows of a file, or what would."""

    dry_run: bool
    plan_id: Annotated[
        str | None,
        Field(description="With it the plan can be carried out once; null without `dry_run` or with faults."),
    ]
    expires_at: Annotated[Instant | None, Field(description="When the plan is forgotten.")]
    counts: ImportCounts
    rows: list[ImportedRow]


ANSWERS: Responses = problems(NotFound, Conflict, *BODY)
# The first two rows of a table; users sign in with their address, which others have not.
_EXAMPLE = "code,name,description\r\nT-1,Thing,The first thing\r\n"
_EXAMPLE_OF_USERS = "code,name,email\r\nE-1,Ada Example,ada@register.example\r\n"


def _body_of(example: str) -> dict[str, Any]:
    table = {"schema": {"type": "string", "description": "A header, and one object a row."}, "example": example}
    lines = {"schema": {"type": "string", "description": "One object a line."}}
    return {
        "requestBody": {
            "description": f"Up to {MOST_ROWS} rows. A table has a header; commas, semicolons or tabs separate its "
            "cells.",
            "required": False,
            "content": {"text/csv": table, "application/x-ndjson": lines},
        }
    }


def add_import(
    router: APIRouter, name: str, service_class: type[CollectionService], permission: dict[str, Any]
) -> None:
    """Add `POST /import` to the router of a collection, as the operation `import_{name}`."""

    async def import_(
        service: Annotated[CollectionService, Depends(service_class.provide)],
        request: Request,
        query: Annotated[ImportQuery, Depends(query_of(ImportQuery))],
    ) -> Response:
        content = await request.body()
        if query.plan_id is not None:
            if content:
                raise _unfit("unexpected_file", "A plan has its file already: send none.")
            await service.session.allow_seconds(STATEMENT_SECONDS)
            return _answer(await import_planned(service, query.plan_id), None, dry_run=False)
        if not content:
            raise _unfit("missing_file", "Send a file, or the id of a plan.")
        file = _file(request, content, query)
        await service.session.allow_seconds(STATEMENT_SECONDS)
        if query.dry_run:
            imported, plan = await plan_import(service, file)
            return _answer(imported, plan, dry_run=True)
        imported = await import_file(service, file, dry_run=False)
        if imported.faults:
            raise refusal(imported.faults, imported.outcome.missing_scope, cut=imported.cut)
        return _answer(imported, None, dry_run=False)

    router.add_api_route(
        "/import",
        import_,
        name=f"import_{name}",
        description=f"Create and change {name} as a file has them: each row is about the object with its code or "
        f"external id, or else a new one. A plan is kept for {MINUTES_KEPT} minutes.",
        methods=["POST"],
        response_model=ImportAnswer,
        responses=ANSWERS,
        openapi_extra=permission | _body_of(_EXAMPLE_OF_USERS if name == "users" else _EXAMPLE),
        route_class_override=FileRoute,
    )
    router.routes.append(only(f"{router.prefix}/import", "POST"))


def _unfit(code: str, detail: str) -> InvalidContent:
    return InvalidContent(detail, errors=[Fault("", code, detail)])


def _file(request: Request, content: bytes, query: ImportQuery) -> ImportFile:
    header = Message()
    header["content-type"] = request.headers["content-type"]
    form = FILE_TYPES[header.get_content_type()]
    return ImportFile(content, form, query.csv == "raw", query.match_ids, tuple(query.map))


def _answer(imported: Imported, plan: Plan | None, *, dry_run: bool) -> Response:
    counted = Counter(row.action for row in imported.rows)
    head = {
        "dry_run": dry_run,
        "plan_id": plan and str(plan.id),
        "expires_at": plan and plan.expires_at.isoformat(),
        "counts": {action: counted[action] for action in get_args(Action)},
    }
    rows = ",".join([_row(row, dry_run=dry_run) for row in imported.rows])
    body = f'{compact(head)[:-1]},"rows":[{rows}]}}'
    return Response(body.encode("utf-8", "replace"), media_type=JSON)


def _row(row: RowOutcome, *, dry_run: bool) -> str:
    members = {"row": row.number, "action": row.action, "id": row.id, "version": row.version}
    return outcome(members, row.faults, (row.before, row.after) if dry_run else None)
