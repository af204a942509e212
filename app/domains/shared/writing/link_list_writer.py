"""Replaces a list of links that the body of its owner does not have: with one statement, or under a row lock."""

from collections.abc import Sequence

from app.core.database_errors import IntegrityViolation
from app.core.engine import Row
from app.domains.shared.collection import LinkSet
from app.domains.shared.reading.documents import Document, by_id
from app.domains.shared.reading.keys import Key, not_found
from app.domains.shared.reading.preconditions import Preconditions
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.rules import Values, Write
from app.domains.shared.writing.all_faults import find_unknown, unknown_references
from app.domains.shared.writing.constraints import error_for
from app.domains.shared.writing.locked import LockedWriter
from app.domains.shared.writing.single_statement import update_object
from app.utils.exceptions import RegisterError


class LinkListWriter(LockedWriter):
    """Replaces the links of one kind of an object by links to the objects with these ids.

    The links have the default of their own field. Faults point into the list of ids, `LinkSet.short`.
    """

    def __init__(self, service: CollectionReader, link_set: LinkSet, ids: Sequence[int]) -> None:
        super().__init__(service)
        self._link_set = link_set
        self._ids = ids
        self._links = [(target, link_set.default) for target in ids]

    async def replace(self, owner: Key, conditions: Preconditions) -> Document:
        """Replace the links and return the owner. Raises the errors of `CollectionService.set_links`."""
        if conditions.if_none_match is None and not self.collection.rules:
            document = await self.document_of(await self._update(owner, conditions.versions))
            if document is not None:
                return document
        write = await self.lock(owner, conditions, self._build_write)
        await self.check_rules_of_links(write)
        assert write.id is not None
        document = await self.document_of(await self._update(Key(by_id, write.id), None))
        assert document is not None  # the row lock excludes other writers
        await self.rules.apply(self.session, [write])
        return document

    async def _build_write(self, current: Values) -> Write:
        write = Write(self.model, current["id"], current, current)
        if self.rules.concern(current):
            await self.set_link_changes(write, [self._link_set], lambda *_: set(self._links))
        return write

    async def _update(self, owner: Key, versions: list[int] | None) -> Row:
        statement = update_object(self.documents, (self._link_set,), owner.condition, (), links_only=True)
        values = self._link_set.arguments(self._links) | self.caller.signature()
        try:
            row = await self.session.write_alone(statement, key=owner.value, versions=versions, checked=True, **values)
        except IntegrityViolation as violation:
            error = await self._error_for(violation)
            if error is None:
                raise
            raise error from violation
        if row is None:
            raise not_found(self.model)
        return row

    async def _error_for(self, violation: IntegrityViolation) -> RegisterError | None:
        if not violation.is_reference:
            return error_for(violation)
        await self.session.undo()
        target = self._link_set.target_model
        pointers = (f"/{self._link_set.short}/{index}" for index in range(len(self._ids)))
        faults = await find_unknown(
            self.session, [(pointer, target, key) for pointer, key in zip(pointers, self._ids, strict=True)]
        )
        return unknown_references(faults)
