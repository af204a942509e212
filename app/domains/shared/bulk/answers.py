"""Answers to bulk requests."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, get_args

from fastapi import Query, Response

from app.core.permissions import Scope
from app.domains.shared.answers import BODY, JSON, Responses, compact, problems
from app.domains.shared.bulk.batch import BulkOutcome
from app.domains.shared.bulk.fault_budget import MAX_TOTAL_FAULTS
from app.domains.shared.bulk.items import ItemResult, Status
from app.domains.shared.bulk.schemas import BulkAnswer
from app.utils.exceptions import (
    Conflict,
    Fault,
    Forbidden,
    InvalidContent,
    PreconditionFailed,
    RegisterError,
    UnknownReference,
)
from app.utils.validation import summary

BULK: Responses = {
    207: {"model": BulkAnswer, "description": "Some items failed, and all others were written (`atomic=false`)."},
    **problems(Conflict, *BODY),
}

Atomic = Annotated[bool, Query(description="Write all items or none. Without it the good ones are written.")]
DryRun = Annotated[bool, Query(description="Check everything, tell what would be done, and do nothing.")]


def bulk_response(outcome: BulkOutcome, *, dry_run: bool) -> Response:
    """Answer with what became of the items. Raises the error of a batch that faults kept from being written."""
    if outcome.refused:
        faults = [_in_body(fault, item) for item in outcome.items for fault in item.faults]
        raise batch_error(faults, outcome.missing_scope, cut=outcome.batch.budget.cut)
    counted = Counter(item.status for item in outcome.items)
    head = {"dry_run": dry_run, "counts": {status: counted[status] for status in get_args(Status)}}
    listed = ",".join(_result(item, dry_run=dry_run) for item in outcome.items)
    body = f'{compact(head)[:-1]},"items":[{listed}]}}'
    return Response(body.encode("utf-8", "replace"), 207 if counted["failed"] else 200, media_type=JSON)


def batch_error(faults: Sequence[Fault], missing_scope: Scope | None, *, cut: bool) -> RegisterError:
    """Return the error of a batch of which nothing was written: its own kind, if all faults are of one.

    `missing_scope` is what the caller lacks for an item with the fault `forbidden`. Of faults that are `cut` there are
    more than these.
    """
    shown = faults[:MAX_TOTAL_FAULTS]
    detail = summary(len(shown), MAX_TOTAL_FAULTS)
    if cut or len(shown) < len(faults):
        detail = f"The request has more than {len(shown)} faults, of which these are the first."
    if missing_scope is not None:
        return Forbidden(f"{detail} The scope {missing_scope} is missing.", scope=missing_scope, errors=shown)
    # What failed because another item did is no kind of its own.
    codes = {fault.code for fault in faults} - {"failed_reference"}
    conflicts = {error.code: error for error in _kinds_of(Conflict)}
    if codes == {UnknownReference.code}:
        return UnknownReference(detail, errors=shown)
    if not codes <= {*conflicts, PreconditionFailed.code}:
        return InvalidContent(detail, errors=shown)
    error = conflicts.get(next(iter(codes)), Conflict) if len(codes) == 1 else Conflict
    return error(detail, errors=shown)


def _kinds_of(error: type[RegisterError]) -> Iterator[type[RegisterError]]:
    yield error
    for kind in error.__subclasses__():
        yield from _kinds_of(kind)


def _in_body(fault: Fault, item: ItemResult) -> Fault:
    return replace(fault, pointer=f"/items/{item.index}{fault.pointer}")


def _result(item: ItemResult, *, dry_run: bool) -> str:
    members = {"index": item.index, "status": item.status, "id": item.id, "version": item.version}
    changes = (item.before, item.after) if dry_run else None
    return result_json(members, [_in_body(fault, item) for fault in item.faults], changes)


def result_json(members: dict[str, Any], faults: Sequence[Fault], changes: tuple[str | None, str | None] | None) -> str:
    """Return what became of an item, or of a row, as JSON.

    `changes` are those that a dry run did not make, before and after, as PostgreSQL made them.
    """
    if faults:
        return compact(members | {"errors": [fault.as_json() for fault in faults]})
    if changes is None:
        return compact(members)
    before, after = changes
    return f'{compact(members)[:-1]},"before":{before or "null"},"after":{after or "null"}}}'
