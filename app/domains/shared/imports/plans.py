"""Planned imports: stored for an hour, and executed exactly as planned or not at all.

The file is stored with a digest of its basis: the object of each row, its version, the objects it refers to, and the
rules by which the file was read.
Executing a plan imports the file again; if the basis has changed, nothing is written.
"""

import json
import zlib
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import blake2b
from uuid import UUID, uuid4

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
)

from app.core.threads import run_in_thread
from app.domains.shared.bulk.conflicts import Batch
from app.domains.shared.imports.importing import ImportFile, ImportResult, import_file
from app.domains.shared.imports.models import ImportPlan
from app.domains.shared.models import table_of
from app.domains.shared.reading.reader import CollectionReader
from app.utils.exceptions import Forbidden, NotFound, PlanOutdated
from app.utils.validation import MAX_FAULTS
from app.utils.wording import named

RETENTION_MINUTES = 60
# Increase it with every change of the items or values that a file is converted to: a plan that was stored before an
# upgrade would otherwise write something else than it has shown.
RULES_VERSION = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """The id with which a client can execute a plan, and when it expires."""

    id: UUID
    expires_at: datetime


async def plan_import(service: CollectionReader, file: ImportFile) -> tuple[ImportResult, Plan | None]:
    """Return the result that importing a file would have, and the stored plan, or None if there are faults.

    Raises the errors of `import_file`.
    """
    imported = await import_file(service, file, dry_run=True)
    if imported.faults:
        return imported, None
    values = {
        "id": uuid4(),
        "user_id": service.caller.user_id,
        "collection": service.collection.name,
        "options": {name: value for name, value in asdict(file).items() if name != "content"},
        "file": await run_in_thread(zlib.compress, file.content),
        "basis": _basis(imported.outcome.batch),
    }
    row = (await service.session.execute(_STORE_PLAN, values)).one()
    return imported, Plan(row.id, row.expires_at)


async def execute_plan(service: CollectionReader, key: UUID) -> ImportResult:
    """Execute a plan, once.

    Raises `NotFound` if the caller has no such plan for this collection, or it was executed or has expired,
    `Forbidden` if the token lacks a scope, and `PlanOutdated` if the basis has changed or a row now has a fault.
    """
    values = {"id": key, "user_id": service.caller.user_id, "collection": service.collection.name}
    plan = (await service.session.execute(_TAKE_PLAN, values)).one_or_none()
    if plan is None:
        raise NotFound("There is no such plan, or it has expired.")
    # Not larger than the body of the request that planned it.
    content = await run_in_thread(zlib.decompress, plan.file)
    file = ImportFile(content, **plan.options | {"mapping": tuple(plan.options["mapping"])})
    imported = await import_file(service, file, dry_run=False)
    missing = imported.outcome.missing_scopes
    if missing:
        # The plan was created with another token, and is not outdated.
        raise Forbidden(
            f"Missing: {named('scope', sorted(missing))}.", scopes=missing, errors=imported.faults[:MAX_FAULTS]
        )
    if imported.faults or _basis(imported.outcome.batch) != plan.basis:
        raise PlanOutdated(errors=imported.faults[:MAX_FAULTS])
    return imported


def _basis(batch: Batch) -> bytes:
    """Return a digest that is equal for two batches of the same file with the same rules, objects and versions."""
    new = {item.id: item.index for item in batch.items if item.creates}
    digest = blake2b(RULES_VERSION.to_bytes(2), digest_size=32)
    for item in batch.items:
        ids = [reference.place.value for reference in item.references]
        state = [item.status, *([] if item.current is None else [item.id, item.current["version"]])]
        # New objects have other ids in each batch: use their index in the batch instead.
        digest.update(json.dumps([state, [[new[key]] if key in new else key for key in ids]]).encode())
    return digest.digest()


def _store_statement() -> Executable:
    """Return the statement that stores a plan."""
    table = table_of(ImportPlan)
    # The parameters are the other columns. The trigger `keep_newest_rows` deletes the oldest plans of the user.
    statement = insert(table).values(expires_at=func.now() + literal_column(f"interval '{RETENTION_MINUTES} minutes'"))
    return statement.returning(table.c.id, table.c.expires_at)


def _take_statement() -> Executable:
    """Return the statement that deletes a plan and returns it."""
    table = table_of(ImportPlan)
    conditions = (
        table.c.id == bindparam("id", type_=Uuid),
        table.c.user_id == bindparam("user_id", type_=BigInteger),
        table.c.collection == bindparam("collection", type_=String),
        table.c.expires_at > func.now(),
    )
    return delete(table).where(*conditions).returning(table.c.options, table.c.file, table.c.basis)


_STORE_PLAN = _store_statement()
_TAKE_PLAN = _take_statement()
