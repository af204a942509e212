"""Requests to import a file, and their responses."""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args
from uuid import UUID

from fastapi import Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.core.http.bodies import media_type
from app.core.http.query_models import query_of
from app.core.http.routing import LARGE_BODY
from app.domains.shared.bulk.batch import STATEMENT_SECONDS
from app.domains.shared.bulk.responses import batch_error, result_json
from app.domains.shared.imports.files import FILE_TYPES, MAX_ROWS
from app.domains.shared.imports.importing import Action, ImportFile, ImportResult, RowOutcome, import_file
from app.domains.shared.imports.plans import RETENTION_MINUTES, Plan, execute_plan, plan_import
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.responses import BODY, JSON, Responses, compact, problems
from app.domains.shared.schemas import Instant, Schema
from app.utils.exceptions import Conflict, Fault, InvalidContent, NotFound
from app.utils.fault_codes import invalid
from app.utils.problems import ProblemError

MAX_MAPPINGS = 200


class ImportQuery(BaseModel):
    """The query parameters of an import."""

    # Not `strict`: query parameters are text.
    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(False, description="Check the file and return a plan of the changes without writing them.")
    plan_id: UUID | None = Field(
        None, description="Execute the plan with this id instead of sending a file; 409 if the plan is outdated."
    )
    map: list[str] = Field(
        [],
        max_length=MAX_MAPPINGS,
        description="Mapping of a column to a field, as `column:field`, or `column:` to ignore the column; "
        "other columns are mapped by name, ignoring case and separators.",
        examples=[["Kürzel:code"]],
    )
    match_ids: bool = Field(
        False,
        description="Rows with an `id` update the object with this `id`, as in exports of this register; "
        "by default an `id` only identifies a row for references within the file.",
    )
    csv: Literal["raw"] | None = Field(
        None,
        description="`raw` keeps the apostrophes with which exports escape CSV cells; by default they are removed.",
    )

    @model_validator(mode="after")
    def _reject_other_parameters(self) -> Self:
        if self.plan_id is not None and (others := sorted(self.model_fields_set - {"plan_id"})):
            raise invalid("planned_already", member=others[0])
        return self


class ImportedRow(Schema):
    """The result of a row of the file; in a plan, the result that it would have."""

    row: Annotated[int, Field(description="Number of the row in the file, from 1; a header counts as a row.")]
    action: Action
    id: Annotated[int | None, Field(description="Null if the object does not exist, such as a new one in a plan.")]
    version: Annotated[
        int | None, Field(description="Version of the object after the import; null if the object does not exist.")
    ]
    before: Annotated[dict[str, Any] | None, Field(description="Changed fields before the change; only in a plan.")] = (
        None
    )
    after: Annotated[dict[str, Any] | None, Field(description="Changed fields after the change; only in a plan.")] = (
        None
    )
    errors: Annotated[
        list[ProblemError] | None,
        Field(description="Errors of the row; a pointer is `/row/column`, or `/row/column/part` for a part of a list."),
    ] = None


class ImportCounts(Schema):
    """The number of rows per action."""

    create: int
    change: int
    unchanged: int
    fault: int


class ImportAnswer(Schema):
    """The results of all rows; in a plan, the results that they would have."""

    dry_run: bool
    plan_id: Annotated[
        str | None,
        Field(description="Id for executing the plan once; null without `dry_run` or if the file has errors."),
    ]
    expires_at: Annotated[Instant | None, Field(description="Time until which the plan can be executed.")]
    counts: ImportCounts
    rows: list[ImportedRow]


IMPORT: Responses = problems(NotFound, Conflict, *BODY)
_EXAMPLE = "code,name,description\r\nT-1,Thing,The first thing\r\n"


def accepts_files(example: str = _EXAMPLE) -> dict[str, Any]:
    """Return the declaration of a route that takes a table or NDJSON, for its `openapi_extra`."""
    table = {"schema": {"type": "string", "description": "A header row, then one object per row."}, "example": example}
    lines = {"schema": {"type": "string", "description": "One object per line."}}
    body = {
        "description": f"A file of up to {MAX_ROWS:,} rows. Each row updates the object with its code or external id, "
        "or creates one if there is none. A CSV file has a header row and cells separated by commas, semicolons or "
        f"tabs. A plan is kept for {RETENTION_MINUTES} minutes; to execute one, send `plan_id` without a file.",
        "required": False,
        "content": {"text/csv": table, "application/x-ndjson": lines},
    }
    return LARGE_BODY | {"requestBody": body}


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """A request to import a file, to plan the import of a file (`dry_run`), or to execute the plan with an id."""

    file: ImportFile | None
    plan_id: UUID | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class ImportOutcome:
    """The result of an import; for a dry run also the plan, unless there are faults."""

    imported: ImportResult
    plan: Plan | None
    dry_run: bool


async def read_request(
    request: Request, query: Annotated[ImportQuery, Depends(query_of(ImportQuery))]
) -> ImportRequest:
    """Return the import request. Raises `InvalidContent` for a plan id together with a file, and for neither."""
    content = await request.body()
    if query.plan_id is not None:
        if content:
            raise _request_error("unexpected_file")
        return ImportRequest(None, query.plan_id, dry_run=False)
    if not content:
        raise _request_error("missing_file")
    return ImportRequest(_file(request, content, query), None, query.dry_run)


ImportRequestDep = Annotated[ImportRequest, Depends(read_request)]


async def execute_import(service: CollectionReader, request: ImportRequest) -> ImportOutcome:
    """Import a file, plan its import, or execute a plan.

    Raises the errors of `import_file`, `plan_import` and `execute_plan`, and if the file has faults,
    `InvalidContent`, `UnknownReference`, `Forbidden`, or `Conflict` or a subclass, with these faults.
    """
    await service.session.allow_seconds(STATEMENT_SECONDS)
    if request.plan_id is not None:
        return ImportOutcome(await execute_plan(service, request.plan_id), None, dry_run=False)
    assert request.file is not None
    if request.dry_run:
        return ImportOutcome(*await plan_import(service, request.file), dry_run=True)
    imported = await import_file(service, request.file, dry_run=False)
    if imported.faults:
        raise batch_error(imported.faults, imported.outcome.missing_scopes, is_truncated=imported.is_truncated)
    return ImportOutcome(imported, None, dry_run=False)


def _request_error(key: str) -> InvalidContent:
    fault = Fault.of("", key)
    return InvalidContent(fault.detail, errors=[fault])


def _file(request: Request, content: bytes, query: ImportQuery) -> ImportFile:
    form = FILE_TYPES[media_type(request.headers["content-type"]) or ""]  # the route rejects other types
    return ImportFile(content, form, query.csv == "raw", query.match_ids, tuple(query.map))


def import_response(outcome: ImportOutcome) -> Response:
    """Return the response with the result of each row."""
    plan, rows = outcome.plan, outcome.imported.rows
    counts = Counter(row.action for row in rows)
    head = {
        "dry_run": outcome.dry_run,
        "plan_id": plan and str(plan.id),
        "expires_at": plan and plan.expires_at.isoformat(),
        "counts": {action: counts[action] for action in get_args(Action)},
    }
    results = ",".join([_result(row, dry_run=outcome.dry_run) for row in rows])
    body = f'{compact(head)[:-1]},"rows":[{results}]}}'
    return Response(body.encode("utf-8", "replace"), media_type=JSON)


def _result(row: RowOutcome, *, dry_run: bool) -> str:
    members = {"row": row.number, "action": row.action, "id": row.id, "version": row.version}
    return result_json(members, row.faults, (row.before, row.after) if dry_run else None)
