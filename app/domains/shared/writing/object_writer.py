"""Writes one object: with one statement, or under a row lock if a rule or a concurrent writer requires it."""

from collections.abc import Callable, Mapping
from typing import Any

from app.core.database_errors import IntegrityViolation
from app.core.engine import Row
from app.core.prepared import FastStatement
from app.domains.shared.collection import LinkSet, body_links, cycle_key, self_references, values_of
from app.domains.shared.reading.documents import Document, by_id
from app.domains.shared.reading.keys import Key, not_found
from app.domains.shared.reading.preconditions import Preconditions
from app.domains.shared.rules import Link, Values, Write
from app.domains.shared.schemas import ObjectFields
from app.domains.shared.writing.all_faults import with_all_faults
from app.domains.shared.writing.constraints import error_for
from app.domains.shared.writing.dependants import find_dependants
from app.domains.shared.writing.locked import LockedWriter, delete_object, read_columns
from app.domains.shared.writing.single_statement import insert_object, update_object
from app.utils.exceptions import CallerDeleted, Conflict, Cycle, Fault, RegisterError, StillReferenced
from app.utils.fault_codes import text_of

# The lists of links in a body, without those that a patch leaves unchanged.
LinkLists = Mapping[LinkSet, list[Link]]


class ObjectWriter(LockedWriter):
    """Writes one object of a collection. Its methods raise the errors that `CollectionService` documents."""

    async def insert(self, body: ObjectFields) -> Document:
        """Create an object."""
        lists, values = self._link_lists(body), values_of(self.model, body)
        write = Write(self.model, None, None, values, {each.field: set(links) for each, links in lists.items()})
        has_rules = self.rules.concern_new(values)
        if has_rules:
            await self.session.connection()  # begins the transaction of the rules and the write
            await self.session.lock(*self.rules.locks([write]))
            await self._check(write, body, None)
        row = await self._run(insert_object(self.documents, self.collection.links), body, lists)
        if row is None:
            raise await self._with_all_faults(self._self_reference(values), body, None)
        if has_rules:
            write.id = row.id
            await self.rules.apply(self.session, [write])
        return Document(row.id, row.version, row.body)

    async def replace(self, key: Key, body: ObjectFields, conditions: Preconditions) -> Document:
        """Replace all values and links of an object."""
        lists = self._link_lists(body)
        # The statement compares the versions of `If-Match` only.
        if conditions.if_none_match is None and not self.rules.concern(values_of(self.model, body)):
            row = await self._update(key, body, lists, conditions.versions)
            document = await self.document_of(row)
            if document is not None:
                return document
        return await self._update_locked(key, conditions, lists, lambda _: body)

    async def change(
        self, key: Key, patch: ObjectFields, merge: Callable[[Values], ObjectFields], conditions: Preconditions
    ) -> Document:
        """Apply a patch to an object: its links, and the body that `merge` returns for the current values."""
        lists = self._link_lists(patch)
        current = await self.columns(read_columns(self.model, key.condition), key, conditions)
        body = merge(current)
        values = values_of(self.model, body)
        write = Write(self.model, current["id"], current, values)
        if not write.changes(*self.rules.watched_columns) and not self.rules.concern(values):
            row = await self._update(Key(by_id, current["id"]), body, lists, [current["version"]])
            document = await self.document_of(row)
            if document is not None:
                return document
        return await self._update_locked(key, conditions, lists, merge)

    async def delete(self, key: Key, conditions: Preconditions) -> None:
        """Delete an object. Raises `StillReferenced` if another object refers to it."""

        async def build_write(current: Values) -> Write:
            return Write(self.model, current["id"], current, None)

        write = await self.lock(key, conditions, build_write, lock="delete")
        assert write.id is not None
        await self.check_rules(write)
        dependants = await find_dependants(self.session, self.model, write.id, self.caller.readable)
        if dependants:
            raise StillReferenced(
                text_of("still_referenced", noun=self.model.noun, referrers=dependants.summary),
                extensions={"dependants": dependants.as_json()},
            )
        statement, values = delete_object(self.documents), {"key": write.id, **self.caller.signature()}
        if await self.session.scalar(statement, values) is None:
            raise CallerDeleted
        await self.rules.apply(self.session, [write])

    async def _update(
        self, key: Key, body: ObjectFields, lists: LinkLists, versions: list[int] | None, *, checked: bool = False
    ) -> Row:
        """Update an object with one statement and no lock before it (optimistic: concurrent writers are rare).

        Nothing is written, and the object must be locked first, if another transaction holds its row, if it has none of
        these versions, or if a watched column would change and the rules have not `checked` that under a lock.
        """
        statement = update_object(self.documents, tuple(lists), key.condition, self.rules.watched_columns)
        row = await self._run(statement, body, lists, key, versions=versions, checked=checked)
        if row is None:
            raise not_found(self.model)
        return row

    async def _update_locked(
        self, key: Key, conditions: Preconditions, lists: LinkLists, merge: Callable[[Values], ObjectFields]
    ) -> Document:
        """Update an object under a lock, with the body that `merge` returns for the current values, and these links."""

        async def build_write(current: Values) -> Write:
            values = values_of(self.model, merge(current))
            write = Write(self.model, current["id"], current, values)
            if self.rules.concern(values):
                await self.set_link_changes(write, lists, lambda link_set, _: set(lists[link_set]))
            return write

        write = await self.lock(key, conditions, build_write)
        assert write.before is not None
        body, locked_key = merge(write.before), Key(by_id, write.before["id"])
        await self._check(write, body, locked_key)
        document = await self.document_of(await self._update(locked_key, body, lists, None, checked=True))
        assert document is not None  # the row lock excludes other writers
        await self.rules.apply(self.session, [write])
        return document

    async def _check(self, write: Write, body: ObjectFields, key: Key | None) -> None:
        """Check the write as `check_rules` does, but raise a `Conflict` together with all other faults of the body."""
        try:
            await self.check_rules(write)
        except Conflict as error:
            raise await self._with_all_faults(error, body, key) from error.__cause__

    async def _run(
        self, statement: FastStatement, body: ObjectFields, lists: LinkLists, key: Key | None = None, **values: Any
    ) -> Row | None:
        if key is not None:
            values["key"] = key.value
        values |= {f"new_{name}": value for name, value in values_of(self.model, body).items()}
        for link_set, links in lists.items():
            values |= link_set.arguments(links)
        try:
            return await self.session.write_alone(statement, **values, **self.caller.signature())
        except IntegrityViolation as violation:
            error = error_for(violation)
            if error is None:
                raise
            raise await self._with_all_faults(error, body, key) from violation

    def _self_reference(self, values: Values) -> Cycle:
        """Return the error of a new object that refers to itself."""
        names = [name for name in self_references(self.model) if values[name] is not None]
        faults = [Fault.of(f"/{name}", cycle_key(name), noun=self.model.noun) for name in names]
        return Cycle(faults[0].detail, errors=faults)

    async def _with_all_faults(self, error: RegisterError, body: ObjectFields, key: Key | None) -> RegisterError:
        return await with_all_faults(self.session, self.model, self.collection.links, error, body, key)

    def _link_lists(self, body: ObjectFields) -> LinkLists:
        link_sets = self.collection.links
        return {each: links for each in link_sets if (links := body_links(body, each)) is not None}
