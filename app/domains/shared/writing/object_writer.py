"""One object at a time: written by one statement, or under a lock if a rule or another writer makes that necessary."""

from collections.abc import Callable, Mapping
from typing import Any

from app.core.database_errors import IntegrityViolation
from app.core.engine import Row
from app.core.prepared import Prepared
from app.domains.shared.collection import LinkSet, body_links, values_of
from app.domains.shared.reading.documents import Document, by_id
from app.domains.shared.reading.etags import versions_in
from app.domains.shared.reading.keys import Key, not_found
from app.domains.shared.reading.reader import read_object
from app.domains.shared.rules import Link, Values, Write
from app.domains.shared.schemas import ObjectFields
from app.domains.shared.writing.constraints import error_for
from app.domains.shared.writing.dependants import find_dependants
from app.domains.shared.writing.locked import LockedWriter, delete_object, read_columns
from app.domains.shared.writing.refusals import with_all_faults
from app.domains.shared.writing.single_statement import insert_object, update_object
from app.utils.exceptions import Conflict, RegisterError, StillReferenced

# The lists of links that a body has, without those that it leaves as they are.
Wanted = Mapping[LinkSet, list[Link]]


class ObjectWriter(LockedWriter):
    """Writes one object of a collection. Its methods raise as those of `CollectionService` that call them."""

    async def insert(self, body: ObjectFields) -> Document:
        """Add an object."""
        wanted, values = self._wanted(body), values_of(self.model, body)
        write = Write(self.model, None, None, values, {each.field: set(links) for each, links in wanted.items()})
        is_concerned = self.rules.concern(values)
        if is_concerned:
            await self.session.connection()  # begins the transaction that the rules and the write share
            await self.session.lock(*self.rules.locks([write]))
            await self._ask(write, body, None)
        row = await self._run(insert_object(self.documents, self.collection.links), body, wanted)
        assert row is not None  # what is not refused is there
        if is_concerned:
            write.id = row.id
            await self.rules.apply(self.session, [write])
        return Document(row.id, row.version, row.body)

    async def replace(self, key: Key, body: ObjectFields, if_match: str | None) -> Document:
        """Give an object all new values."""
        wanted = self._wanted(body)
        if not self.rules.concern(values_of(self.model, body)):
            row = await self._update(key, body, wanted, versions_in(if_match))
            document = await self._document_of(row)
            if document is not None:
                return document
        return await self._update_locked(key, if_match, wanted, lambda _: body)

    async def change(
        self, key: Key, patch: ObjectFields, merged: Callable[[Values], ObjectFields], if_match: str | None
    ) -> Document:
        """Give an object the links of a patch, and the values that `merged` makes of its present ones."""
        wanted = self._wanted(patch)
        current = await self.columns(read_columns(self.model, key.condition), key, if_match)
        body = merged(current)
        values = values_of(self.model, body)
        write = Write(self.model, current["id"], current, values)
        if not write.changes(*self.rules.watched_columns) and not self.rules.concern(values):
            row = await self._update(Key(by_id, current["id"]), body, wanted, [current["version"]])
            document = await self._document_of(row)
            if document is not None:
                return document
        return await self._update_locked(key, if_match, wanted, merged)

    async def delete(self, key: Key, if_match: str | None) -> None:
        """Remove an object to which nothing refers."""

        async def describe(current: Values) -> Write:
            return Write(self.model, current["id"], current, None)

        write = await self.lock(key, if_match, describe, lock="delete")
        assert write.id is not None
        await self.check_rules(write)
        dependants = await find_dependants(self.session, self.model, write.id)
        if dependants.counts:
            raise StillReferenced(
                f"The {self.model.noun} is still referred to by {dependants.summary}.",
                extensions={"dependants": dependants.as_json()},
            )
        await self.session.execute(delete_object(self.documents), {"key": write.id, **self.caller.signature()})
        await self.rules.apply(self.session, [write])

    async def _update(
        self, key: Key, body: ObjectFields, wanted: Wanted, versions: list[int] | None, *, checked: bool = False
    ) -> Row:
        """Give an object new values and links by one statement without a lock before it: others are rarely at it.

        Nothing is written when the object is to be locked first: when others hold it, when it has none of these
        versions, or when a watched column would change and that was not `checked` under a lock.
        """
        statement = update_object(self.documents, tuple(wanted), key.condition, self.rules.watched_columns)
        row = await self._run(statement, body, wanted, key, versions=versions, checked=checked)
        if row is None:
            raise not_found(self.model)
        return row

    async def _document_of(self, row: Row) -> Document | None:
        """Return the object that `_update` has written, or None when it is to be locked first."""
        if row.body is not None:
            return Document(row.id, row.version, row.body)
        if not (row.allowed and row.held):
            return None
        # All was allowed and nothing written, so it is all that already.
        return await read_object(self.session, self.collection, Key(by_id, row.id))

    async def _update_locked(
        self, key: Key, if_match: str | None, wanted: Wanted, whole: Callable[[Values], ObjectFields]
    ) -> Document:
        """Give an object the values that `whole` makes of its present ones, and the links that are wanted."""

        async def describe(current: Values) -> Write:
            values = values_of(self.model, whole(current))
            write = Write(self.model, current["id"], current, values)
            if self.rules.concern(values):
                await self.describe_links(write, wanted, lambda link_set, _: set(wanted[link_set]))
            return write

        write = await self.lock(key, if_match, describe)
        assert write.before is not None
        body, own = whole(write.before), Key(by_id, write.before["id"])
        await self._ask(write, body, own)
        document = await self._document_of(await self._update(own, body, wanted, None, checked=True))
        assert document is not None  # nobody else can change it
        await self.rules.apply(self.session, [write])
        return document

    async def _ask(self, write: Write, body: ObjectFields, key: Key | None) -> None:
        """Let the rules judge the write. Raises what `ask` raises, a conflict with all other faults of the body."""
        try:
            await self.check_rules(write)
        except Conflict as error:
            raise await self._with_all_faults(error, body, key) from error.__cause__

    async def _run(
        self, statement: Prepared, body: ObjectFields, wanted: Wanted, key: Key | None = None, **values: Any
    ) -> Row | None:
        if key is not None:
            values["key"] = key.value
        values |= {f"new_{name}": value for name, value in values_of(self.model, body).items()}
        for link_set, links in wanted.items():
            values |= link_set.arguments(links)
        try:
            return await self.session.write_alone(statement, **values, **self.caller.signature())
        except IntegrityViolation as violation:
            error = error_for(violation)
            if error is None:
                raise
            raise await self._with_all_faults(error, body, key) from violation

    async def _with_all_faults(self, error: RegisterError, body: ObjectFields, key: Key | None) -> RegisterError:
        return await with_all_faults(self.session, self.model, self.collection.links, error, body, key)

    def _wanted(self, body: ObjectFields) -> Wanted:
        wanted = {link_set: body_links(body, link_set) for link_set in self.collection.links}
        return {link_set: links for link_set, links in wanted.items() if links is not None}
