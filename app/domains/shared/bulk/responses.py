"""Responses to bulk requests."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Annotated, Any, get_args

from fastapi import Query, Response

from app.core.permissions import Scope
from app.domains.shared.bulk.batch import BulkOutcome
from app.domains.shared.bulk.fault_budget import MAX_TOTAL_FAULTS
from app.domains.shared.bulk.items import ItemResult, Status
from app.domains.shared.bulk.schemas import BulkAnswer
from app.domains.shared.responses import BODY, JSON, Responses, compact, problems
from app.utils.exceptions import (
    Conflict,
    Fault,
    Forbidden,
    InvalidContent,
    PreconditionFailed,
    RegisterError,
    UnknownReference,
    error_classes,
)
from app.utils.validation import summary
from app.utils.wording import counted, named

BULK: Responses = {
    207: {
        "model": BulkAnswer,
        "description": "Some items failed, and all others were written; only with `atomic=false`.",
    },
    **problems(Conflict, *BODY),
}

Atomic = Annotated[
    bool, Query(description="Write all items or none; `false` writes the valid items even if others fail.")
]
DryRun = Annotated[bool, Query(description="Check all items and report the changes without writing them.")]


def bulk_response(outcome: BulkOutcome, *, dry_run: bool) -> Response:
    """Return the response with the result of each item. Raises the error of a rejected batch."""
    if outcome.is_rejected:
        faults = [_point_into_body(fault, item) for item in outcome.items for fault in item.faults]
        raise batch_error(faults, outcome.missing_scopes, is_truncated=outcome.batch.budget.is_truncated)
    counts = Counter(item.status for item in outcome.items)
    head = {"dry_run": dry_run, "counts": {status: counts[status] for status in get_args(Status)}}
    items = ",".join(_result(item, dry_run=dry_run) for item in outcome.items)
    body = f'{compact(head)[:-1]},"items":[{items}]}}'
    return Response(body.encode("utf-8", "replace"), 207 if counts["failed"] else 200, media_type=JSON)


def batch_error(faults: Sequence[Fault], missing_scopes: Collection[Scope], *, is_truncated: bool) -> RegisterError:
    """Return the error of a rejected batch: the specific error if all faults have its code, a general one otherwise.

    `missing_scopes` are the scopes that the caller lacks for the items with the fault `forbidden`. If `is_truncated`,
    there are more faults than these.
    """
    shown = faults[:MAX_TOTAL_FAULTS]
    detail = summary(len(shown), MAX_TOTAL_FAULTS)
    if is_truncated or len(shown) < len(faults):
        detail = f"The request has more than {counted(len(shown), 'error')}. The first ones are listed."
    if missing_scopes:
        missing = named("scope", sorted(missing_scopes))
        return Forbidden(f"{detail} Missing: {missing}.", scopes=missing_scopes, errors=shown)
    # An item that failed because of another item does not determine the error.
    codes = {fault.code for fault in faults} - {"failed_reference"}
    conflicts = {error.code: error for error in error_classes(Conflict)}
    if codes == {UnknownReference.code}:
        return UnknownReference(detail, errors=shown)
    if not codes <= {*conflicts, PreconditionFailed.code}:
        return InvalidContent(detail, errors=shown)
    error = conflicts.get(next(iter(codes)), Conflict) if len(codes) == 1 else Conflict
    return error(detail, errors=shown)


def _point_into_body(fault: Fault, item: ItemResult) -> Fault:
    return replace(fault, pointer=f"/items/{item.index}{fault.pointer}")


def _result(item: ItemResult, *, dry_run: bool) -> str:
    members = {"index": item.index, "status": item.status, "id": item.id, "version": item.version}
    changes = (item.before, item.after) if dry_run else None
    return result_json(members, [_point_into_body(fault, item) for fault in item.faults], changes)


def result_json(members: dict[str, Any], faults: Sequence[Fault], changes: tuple[str | None, str | None] | None) -> str:
    """Return the result of an item, or of a row, as JSON.

    `changes` are the members that a dry run would change, before and after, as JSON text from PostgreSQL.
    """
    if faults:
        return compact(members | {"errors": [fault.as_json() for fault in faults]})
    if changes is None:
        return compact(members)
    before, after = changes
    return f'{compact(members)[:-1]},"before":{before or "null"},"after":{after or "null"}}}'
