"""Writes of one object under a row lock, after its rules were asked."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Literal

from sqlalchemy import BigInteger, Executable, Select, bindparam, cast, delete, select
from sqlalchemy.dialects.postgresql import JSONB

from app.domains.shared.collection import LinkSet, writable_columns
from app.domains.shared.history.diff import nonempty_members
from app.domains.shared.history.record import change_cte
from app.domains.shared.models import RegisterObject, table_of
from app.domains.shared.query.orders import Condition
from app.domains.shared.reading.documents import Documents, by_id
from app.domains.shared.reading.etags import versions_in
from app.domains.shared.reading.keys import Key, not_found
from app.domains.shared.reading.reader import CollectionReader, read_object
from app.domains.shared.rules import Link, LocksUnavailableError, Rules, Values, Write
from app.domains.shared.writing.links import read_links
from app.utils.exceptions import PreconditionFailed, RegisterError

# What an object is locked for.
Lock = Literal["change", "delete"]
# Makes of an object's columns what is to be done with it.
Describe = Callable[[Values], Awaitable[Write]]


class LockedWriter:
    """What writers of one object have in common: the collection, and its rules at work on this one write."""

    def __init__(self, service: CollectionReader) -> None:
        self.session = service.session
        self.caller = service.caller
        self.collection = service.collection
        self.model = service.model
        self.documents = service.documents
        self.rules = Rules(service.collection.rules, service.caller, restoring=service.restoring)

    async def columns(self, statement: Executable, key: Key, if_match: str | None) -> dict[str, Any]:
        """Return the columns of an object. Raises `NotFound`, and `PreconditionFailed` for another version."""
        row = (await self.session.execute(statement, {"key": key.value})).mappings().one_or_none()
        if row is None:
            raise not_found(self.model)
        versions = versions_in(if_match)
        if versions is not None and row["version"] not in versions:
            document = await read_object(self.session, self.collection, Key(by_id, row["id"]))
            raise PreconditionFailed(
                f"The {self.model.noun} was changed in the meantime.", headers={"ETag": document.etag}
            )
        return dict(row)

    async def lock(self, key: Key, if_match: str | None, describe: Describe, *, lock: Lock = "change") -> Write:
        """Lock an object and what its rules want locked besides; return what is to be done with it.

        Raises what `columns` raises.
        """
        held: set[str] = set()
        while True:
            try:
                async with self._attempt():
                    current = await self.columns(read_columns(self.model, key.condition, lock), key, if_match)
                    write = await describe(current)
                    await self.rules.take_locks(self.session, [write], held)
                    return write
            except LocksUnavailableError as taken:
                held |= taken.names
            await self.session.lock(*held)

    @asynccontextmanager
    async def _attempt(self) -> AsyncIterator[None]:
        """Undo what a block has locked when it raises `LocksUnavailableError`, and nothing that was done before."""
        if self.collection.rules and self.session.in_transaction():
            async with self.session.begin_nested():
                yield
            return
        try:
            yield
        except LocksUnavailableError:
            await self.session.undo()
            raise

    async def describe_links(
        self, write: Write, link_sets: Iterable[LinkSet], wanted: Callable[[LinkSet, set[Link]], set[Link]]
    ) -> None:
        """Fill in which links a write adds and removes; `wanted` returns those of a list, given the present ones."""
        assert write.id is not None
        sets = tuple(link_sets)
        known = await read_links(self.session, sets, [write.id])
        for link_set in sets:
            before = known[link_set.field, write.id]
            write.replace_links(link_set.field, before, wanted(link_set, before))

    async def check_rules(self, write: Write) -> None:
        """Let the rules judge the write. Raises what the first refusal says, with the faults of all."""
        await self.rules.load(self.session, [write])
        errors: list[RegisterError] = []
        for check in (self.rules.check, self.rules.check_together):
            errors += [refusal.as_error() for _, refusal in check([write])]
        if errors:
            errors[0].errors = tuple(fault for error in errors for fault in error.errors)
            raise errors[0]


@cache
def read_columns(model: type[RegisterObject], condition: Condition, lock: Lock | None = None) -> Select[Any]:
    """Return the statement that reads an object as it is, `id`, `version` and `created_by_id` included.

    A lock keeps a second writer waiting. Only that for a delete keeps others from referring to the object, too.
    """
    table = table_of(model)
    columns = [table.c.id, table.c.version, table.c.created_by_id, *(table.c[name] for name in writable_columns(model))]
    query = select(*columns).where(condition(table))
    return query if lock is None else query.with_for_update(key_share=lock == "change")


@cache
def delete_object(documents: Documents) -> Select[Any]:
    """Return the statement that removes the object with the id `key` and records what it was."""
    table = table_of(documents.model)
    row = documents.snapshot(by_id)
    was = select(row.c.id, row.c.code, row.c.name, cast(row.c.document, JSONB).label("before")).cte("was")
    was = was.prefix_with("MATERIALIZED")
    gone = delete(table).where(table.c.id == bindparam("key", type_=BigInteger)).returning(table.c.id).cte("gone")
    members = nonempty_members(was.c.before, documents.briefs)
    record = change_cte(documents.model, "deleted", was, before=members, after=None)
    return select(gone.c.id).add_cte(record)
