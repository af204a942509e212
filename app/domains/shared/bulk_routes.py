"""The bulk route of every collection, and its answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Depends, Query, Response

from app.core.permissions import Scope
from app.core.routing import only
from app.domains.shared.bulk_items import ItemResult, Status
from app.domains.shared.bulk_schemas import BulkAnswer, bulk_body
from app.domains.shared.fault_budget import MOST_FAULTS_IN_ALL
from app.domains.shared.http import JSON, compact
from app.domains.shared.idempotency import RepeatableLargeRoute
from app.domains.shared.responses import BODY, Responses, problems
from app.domains.shared.schemas import ObjectFields
from app.domains.shared.service import CollectionService
from app.utils.exceptions import (
    Conflict,
    Cycle,
    Duplicate,
    Fault,
    FirstAdministrator,
    Forbidden,
    InvalidContent,
    LastAdministrator,
    RegisterError,
    StillReferenced,
    UnknownReference,
)
from app.utils.validation import summary

_CONFLICTS: dict[str, type[RegisterError]] = {
    error.code: error for error in (Duplicate, StillReferenced, Cycle, FirstAdministrator, LastAdministrator)
}
# What contradicts the register; all else is wrong in itself.
_CONFLICTING = {*_CONFLICTS, "precondition_failed", "failed_reference"}

ANSWERS: Responses = {
    207: {"model": BulkAnswer, "description": "Some items failed, and all others were written (`atomic=false`)."},
    **problems(Conflict, *BODY),
}

Atomic = Annotated[bool, Query(description="Write all items or none. Without it the good ones are written.")]
DryRun = Annotated[bool, Query(description="Check everything, tell what would be done, and do nothing.")]


def add_bulk(
    router: APIRouter,
    name: str,
    service_class: type[CollectionService],
    create: type[ObjectFields],
    permission: dict[str, Any],
) -> None:
    """Add `POST /bulk` to the router of a collection, as the operation `bulk_{name}`.

    `create` is the body that registers one object.
    """
    body_model: Any = bulk_body(name, create)

    async def bulk(
        service: Annotated[CollectionService, Depends(service_class.provide)],
        body: body_model,  # derived from `create`
        atomic: Atomic = True,
        dry_run: DryRun = False,
    ) -> Response:
        outcome = await service.bulk(body.items, atomic=atomic, dry_run=dry_run)
        if outcome.refused:
            faults = [_in_body(fault, item) for item in outcome.items for fault in item.faults]
            raise refusal(faults, outcome.missing_scope, cut=outcome.batch.budget.cut)
        return _answer(outcome.items, dry_run=dry_run)

    router.add_api_route(
        "/bulk",
        bulk,
        name=f"bulk_{name}",
        description=f"Create, update, upsert and delete up to 1,000 {name} at once.",
        methods=["POST"],
        response_model=BulkAnswer,
        responses=ANSWERS,
        openapi_extra=permission,
        route_class_override=RepeatableLargeRoute,
    )
    router.routes.append(only(f"{router.prefix}/bulk", "POST"))


def refusal(faults: Sequence[Fault], missing_scope: Scope | None, *, cut: bool) -> RegisterError:
    """Return the error of a batch of which nothing was written: its own kind, if all faults are of one.

    `missing_scope` is what the caller lacks for an item with the fault `forbidden`. Of faults that are `cut` there are
    more than these.
    """
    shown = faults[:MOST_FAULTS_IN_ALL]
    detail = summary(len(shown), MOST_FAULTS_IN_ALL)
    if cut or len(shown) < len(faults):
        detail = f"The request has more than {len(shown)} faults, of which these are the first."
    if missing_scope is not None:
        return Forbidden(f"{detail} The scope {missing_scope} is missing.", scope=missing_scope, errors=shown)
    # What failed because another item did is no kind of its own.
    codes = {fault.code for fault in faults} - {"failed_reference"}
    if codes == {UnknownReference.code}:
        return UnknownReference(detail, errors=shown)
    if not codes <= _CONFLICTING:
        return InvalidContent(detail, errors=shown)
    error = _CONFLICTS.get(next(iter(codes)), Conflict) if len(codes) == 1 else Conflict
    return error(detail, errors=shown)


def _in_body(fault: Fault, item: ItemResult) -> Fault:
    return replace(fault, pointer=f"/items/{item.index}{fault.pointer}")


def _answer(items: Sequence[ItemResult], *, dry_run: bool) -> Response:
    counted = Counter(item.status for item in items)
    head = {"dry_run": dry_run, "counts": {status: counted[status] for status in get_args(Status)}}
    listed = ",".join(_result(item, dry_run=dry_run) for item in items)
    body = f'{compact(head)[:-1]},"items":[{listed}]}}'
    return Response(body.encode("utf-8", "replace"), 207 if counted["failed"] else 200, media_type=JSON)


def _result(item: ItemResult, *, dry_run: bool) -> str:
    members = {"index": item.index, "status": item.status, "id": item.id, "version": item.version}
    changes = (item.before, item.after) if dry_run else None
    return outcome(members, [_in_body(fault, item) for fault in item.faults], changes)


def outcome(members: dict[str, Any], faults: Sequence[Fault], changes: tuple[str | None, str | None] | None) -> str:
    """Return what became of an item, or of a row, as JSON.

    `changes` are those that a dry run did not make, before and after, as PostgreSQL made them.
    """
    if faults:
        return compact(members | {"errors": [fault.as_json() for fault in faults]})
    if changes is None:
        return compact(members)
    before, after = changes
    return f'{compact(members)[:-1]},"before":{before or "null"},"after":{after or "null"}}}'
