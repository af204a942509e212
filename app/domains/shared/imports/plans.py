"""Imports that were planned: kept for an hour, and carried out as planned or not at all.

What is kept is the file and a digest of all that the plan rests on: which object each row is about, in which version,
and which objects it refers to. To carry it out is to import the file again; when that rests on something else, nothing
is written.
"""

import json
import zlib
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import blake2b
from uuid import UUID, uuid4

from anyio import to_thread
from sqlalchemy import (
    BigInteger,
    Executable,
    String,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
)

from app.domains.shared.bulk.conflicts import Batch
from app.domains.shared.imports.importing import ImportFile, ImportResult, import_file
from app.domains.shared.imports.models import ImportPlan
from app.domains.shared.models import table_of
from app.domains.shared.reading.reader import CollectionReader
from app.utils.exceptions import Forbidden, NotFound, PlanOutdated
from app.utils.validation import MAX_FAULTS

# A caller's oldest plan goes when there is one more.
MAX_PLANS = 5
RETENTION_MINUTES = 60


@dataclass(frozen=True, slots=True)
class Plan:
    """What a client needs to carry out a plan."""

    id: UUID
    expires_at: datetime


async def plan_import(service: CollectionReader, file: ImportFile) -> tuple[ImportResult, Plan | None]:
    """Find out what importing a file would do. With faults there is nothing to carry out, and no plan.

    Raises what `import_file` raises.
    """
    imported = await import_file(service, file, dry_run=True)
    if imported.faults:
        return imported, None
    values = {
        "id": uuid4(),
        "user_id": service.caller.user_id,
        "caller_id": service.caller.user_id,
        "collection": service.collection.name,
        "options": {name: value for name, value in asdict(file).items() if name != "content"},
        "file": await to_thread.run_sync(zlib.compress, file.content),
        "basis": _basis(imported.outcome.batch),
    }
    row = (await service.session.execute(_KEEP, values)).one()
    return imported, Plan(row.id, row.expires_at)


async def execute_plan(service: CollectionReader, key: UUID) -> ImportResult:
    """Carry out a plan, once.

    Raises `NotFound` for one that the caller has not made of this collection, or that is gone, `Forbidden` for what
    this token may not write, and `PlanOutdated`.
    """
    values = {"id": key, "user_id": service.caller.user_id, "collection": service.collection.name}
    plan = (await service.session.execute(_TAKE, values)).one_or_none()
    if plan is None:
        raise NotFound("There is no such plan any more.")
    content = await to_thread.run_sync(zlib.decompress, plan.file)
    file = ImportFile(content, **plan.options | {"mapping": tuple(plan.options["mapping"])})
    imported = await import_file(service, file, dry_run=False)
    missing = imported.outcome.missing_scope
    if missing is not None:
        # The plan was made with another token: nothing is wrong with it.
        detail = f"The scope {missing} is missing."
        raise Forbidden(detail, scope=missing, errors=imported.faults[:MAX_FAULTS])
    if imported.faults or _basis(imported.outcome.batch) != plan.basis:
        raise PlanOutdated(errors=imported.faults[:MAX_FAULTS])
    return imported


def _basis(batch: Batch) -> bytes:
    """Return a digest that is the same when the same file meets the same objects."""
    new = {item.id: item.index for item in batch.items if item.creates}
    digest = blake2b(digest_size=32)
    for item in batch.items:
        named = [reference.container[reference.place] for reference in item.references]
        about = [item.status, *([] if item.current is None else [item.id, item.current["version"]])]
        # New objects get other ids each time.
        digest.update(json.dumps([about, [[new[key]] if key in new else key for key in named]]).encode())
    return digest.digest()


def _keep_statement() -> Executable:
    """Return the statement that keeps a plan and removes the caller's oldest ones."""
    table = table_of(ImportPlan)
    old = (
        select(table.c.id)
        .where(table.c.user_id == bindparam("caller_id", type_=BigInteger))
        .order_by(table.c.expires_at.desc())
    )
    # What others are removing at the same time need not be waited for.
    old = old.offset(literal_column(str(MAX_PLANS - 1))).with_for_update(skip_locked=True)
    removed = delete(table).where(table.c.id.in_(old)).returning(table.c.id).cte("removed")
    # The other parameters are the columns.
    adding = insert(table).values(expires_at=func.now() + literal_column(f"interval '{RETENTION_MINUTES} minutes'"))
    return adding.returning(table.c.id, table.c.expires_at).add_cte(removed)


def _take_statement() -> Executable:
    """Return the statement that removes a plan and returns it."""
    table = table_of(ImportPlan)
    mine = (
        table.c.id == bindparam("id", type_=Uuid),
        table.c.user_id == bindparam("user_id", type_=BigInteger),
        table.c.collection == bindparam("collection", type_=String),
        table.c.expires_at > func.now(),
    )
    return delete(table).where(*mine).returning(table.c.options, table.c.file, table.c.basis)


_KEEP = _keep_statement()
_TAKE = _take_statement()
