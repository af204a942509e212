"""Writes of one object under a row lock, after the rules have checked them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Literal

from sqlalchemy import BigInteger, Executable, Select, bindparam, cast, delete, select
from sqlalchemy.dialects.postgresql import JSONB

from app.core.engine import Row
from app.domains.shared.collection import LinkSet, writable_columns
from app.domains.shared.history.diff import nonempty_members
from app.domains.shared.history.record import caller_exists, change_cte, time_of_change
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.reading.documents import Document, Documents, by_id
from app.domains.shared.reading.keys import Key, not_found
from app.domains.shared.reading.preconditions import Preconditions, precondition_failed
from app.domains.shared.reading.reader import CollectionReader, read_object
from app.domains.shared.rules import Link, LocksUnavailableError, Rules, Values, Write
from app.domains.shared.writing.links import read_links
from app.utils.exceptions import RegisterError

# The operation for which an object is locked.
Lock = Literal["change", "delete"]
# Returns the write for an object, given its columns.
BuildWrite = Callable[[Values], Awaitable[Write]]


class LockedWriter:
    """The base of writers of one object: the collection, and its rules for this one write."""

    def __init__(self, service: CollectionReader) -> None:
        self.session = service.session
        self.caller = service.caller
        self.collection = service.collection
        self.model = service.model
        self.documents = service.documents
        self.rules = Rules(service.collection.rules, service.caller, restoring=service.restoring)

    async def columns(self, statement: Executable, key: Key, conditions: Preconditions) -> dict[str, Any]:
        """Return the columns of an object.

        Raises `NotFound` if there is no such object, and `PreconditionFailed` if its version does not meet a condition.
        """
        row = (await self.session.execute(statement, {"key": key.value})).mappings().one_or_none()
        if row is None:
            raise not_found(self.model)
        unmet = conditions.unmet_by(row["version"])
        if unmet is not None:
            document = await read_object(self.session, self.collection, Key(by_id, row["id"]))
            raise precondition_failed(unmet, document.etag)
        return dict(row)

    async def lock(
        self, key: Key, conditions: Preconditions, build_write: BuildWrite, *, lock: Lock = "change"
    ) -> Write:
        """Lock an object, take the advisory locks of its rules, and return the write.

        Lock order: advisory locks before row locks. If an advisory lock is not available, the row lock is released
        first, to prevent a deadlock; after waiting for the advisory locks, the object is locked and read again.

        Raises the errors of `columns`.
        """
        names: set[str] = set()
        while True:
            try:
                async with self._attempt():
                    current = await self.columns(read_columns(self.model, key.condition, lock), key, conditions)
                    write = await build_write(current)
                    await self.rules.take_locks(self.session, [write], names)
                    return write
            except LocksUnavailableError as error:
                names |= error.names
            await self.session.lock(*names)

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[None]:
        """Release the locks of a block that raises `LocksUnavailableError`, without undoing anything done before it.

        Within a transaction a savepoint limits the rollback to the block.
        """
        if self.collection.rules and self.session.in_transaction():
            async with self.session.begin_nested():
                yield
            return
        try:
            yield
        except LocksUnavailableError:
            await self.session.undo()
            raise

    async def set_link_changes(
        self, write: Write, link_sets: Iterable[LinkSet], edit: Callable[[LinkSet, set[Link]], set[Link]]
    ) -> None:
        """Set the links that a write adds and removes; `edit` returns the new links of a set for its current ones."""
        assert write.id is not None
        sets = tuple(link_sets)
        current = await read_links(self.session, sets, [write.id])
        for link_set in sets:
            before = current[link_set.field, write.id]
            write.replace_links(link_set.field, before, edit(link_set, before))

    async def document_of(self, row: Row) -> Document | None:
        """Return the object that `update_object` has written, or None if it must be locked first."""
        if row.body is not None:
            return Document(row.id, row.version, row.body)
        if not (row.is_allowed and row.is_locked):
            return None
        # Allowed, locked and not written: neither a column nor a link differs.
        return await read_object(self.session, self.collection, Key(by_id, row.id))

    async def check_rules_of_links(self, write: Write) -> None:
        """Check the write of a request for links: the faults are left out, as they point into an object's body."""
        try:
            await self.check_rules(write)
        except RegisterError as error:
            error.errors = ()
            raise

    async def check_rules(self, write: Write) -> None:
        """Check the write against the rules. Raises the error of the first violation, with the faults of all."""
        await self.rules.load(self.session, [write])
        errors: list[RegisterError] = [violation.as_error() for _, violation in self.rules.check([write])]
        rejected = [write] if errors else []
        errors += [violation.as_error() for _, violation in self.rules.check_together(rejected)]
        if errors:
            errors[0].errors = tuple(fault for error in errors for fault in error.errors)
            raise errors[0]


@cache
def read_columns(model: type[RegisterObject], condition: Condition, lock: Lock | None = None) -> Select[Any]:
    """Return the statement that reads the writable columns of an object, and `id`, `version` and `created_by_id`.

    A lock blocks other writers. For a delete it is FOR UPDATE, which also blocks new references to the object; for a
    change it is FOR NO KEY UPDATE, which does not.
    """
    table = table_of(model)
    columns = [table.c.id, table.c.version, table.c.created_by_id, *(table.c[name] for name in writable_columns(model))]
    query = select(*columns).where(condition(table))
    return query if lock is None else query.with_for_update(key_share=lock == "change")


@cache
def delete_object(documents: Documents) -> Select[Any]:
    """Return the statement that deletes the object with the id `key` and records its last state.

    It returns no row if the caller no longer exists; the transaction must then be rolled back.
    """
    table = table_of(documents.model)
    row = documents.snapshot(by_id)
    time, before = time_of_change(row).label("updated_at"), cast(row.c.document, JSONB).label("before")
    snapshot = select(row.c.id, row.c.code, row.c.name, time, before).cte("snapshot").prefix_with("MATERIALIZED")
    is_object = table.c.id == bindparam("key", type_=BigInteger)
    deleted = delete(table).where(is_object, caller_exists()).returning(table.c.id).cte("deleted")
    members = nonempty_members(snapshot.c.before, documents.briefs)
    record = change_cte(documents.model, "deleted", snapshot, before=members, after=None)
    return select(deleted.c.id).add_cte(record)
