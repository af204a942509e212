"""The operations of every collection."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from app.core.caller import SYSTEM_CALLER
from app.core.prepared import FastStatement
from app.domains.shared.bulk.batch import STATEMENT_SECONDS, BulkOutcome, write_batch
from app.domains.shared.bulk.items import reject_too_many_links
from app.domains.shared.bulk.links import write_links
from app.domains.shared.collection import Collection, LinkSet, writable_columns
from app.domains.shared.imports.requests import ImportOutcome, ImportRequest, execute_import
from app.domains.shared.lists import ListQuery
from app.domains.shared.reading.documents import Document, by_code, by_id, documents_of
from app.domains.shared.reading.keys import parse_key
from app.domains.shared.reading.preconditions import Preconditions
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.references import KeyedBody
from app.domains.shared.rules import Rules, Values
from app.domains.shared.schemas import ObjectFields, ReferringBody, has_ignorable_text, kept_fields
from app.domains.shared.texts import exempt_stored
from app.domains.shared.writing.link_list_writer import LinkListWriter
from app.domains.shared.writing.link_writer import LinkWriter
from app.domains.shared.writing.object_writer import ObjectWriter
from app.domains.shared.writing.references import with_ids
from app.domains.shared.writing.single_statement import insert_object, update_object
from app.domains.shared.writing.unique_keys import unique_keys
from app.utils.text.invisible import has_ignorable, trimmed
from app.utils.validation import invalid_content

__all__ = ["Collection", "CollectionService", "LinkSet", "parse_key"]


class CollectionService(CollectionReader):
    """Reads and writes one collection.

    Every method raises `NotFound` if its reference (an id, or `code:…`) selects no object. Writes also
    raise the errors of the collection's rules.
    """

    @classmethod
    def common_statements(cls, query: ListQuery) -> Iterator[FastStatement]:
        """Yield the statements that read one object or the first page of the list, and that write one object."""
        documents, links = documents_of(cls.collection), cls.collection.links
        watched = Rules(cls.collection.rules, SYSTEM_CALLER).watched_columns
        yield from (documents.single_object(condition, None) for condition in (by_id, by_code))
        yield documents.page(query.order, None, "first", query.members)
        yield insert_object(documents, links)
        for written in (links, ()):  # a patch may leave all links unchanged
            yield update_object(documents, written, by_id, watched)

    async def create(self, body: ObjectFields | KeyedBody) -> Document:
        """Create an object.

        Raises `Duplicate` if keys are taken, `UnknownReference` if references name no object, and `InvalidContent` if
        there are both kinds of faults; each fault has a pointer. Raises `Forbidden` for a reference by external id to
        a collection that the caller may not read.
        """
        if isinstance(body, KeyedBody):
            body = await with_ids(self.session, self.caller, self.collection, body)
        return await ObjectWriter(self).insert(body)

    async def replace(self, reference: str, body: ObjectFields | KeyedBody, conditions: Preconditions) -> Document:
        """Replace all values of an object; omitted members are reset to their defaults, except those of `keep_omitted`.

        Raises the errors of `create`, and `PreconditionFailed` if the object does not meet the conditions.
        """
        if isinstance(body, KeyedBody):
            body = await with_ids(self.session, self.caller, self.collection, body)
        key, kept = parse_key(reference, self.model), kept_fields(type(body)) - body.model_fields_set
        if not kept and not (has_ignorable_text(body.__dict__) and self._has_old_text(body)):
            return await ObjectWriter(self).replace(key, body, conditions)
        values = body.model_dump(exclude_unset=True)

        def complete(current: Values) -> ObjectFields:
            return self._validated({name: current[name] for name in kept} | values, current)

        return await ObjectWriter(self).change(key, body, complete, conditions)

    async def patch(self, reference: str, body: ObjectFields | KeyedBody, conditions: Preconditions) -> Document:
        """Apply a merge patch to an object (RFC 7396).

        Raises the errors of `replace`, and `InvalidContent` if the merged object violates the schema.
        """
        if isinstance(body, KeyedBody):
            body = await with_ids(self.session, self.caller, self.collection, body)
        columns = writable_columns(self.model)
        # Null stands for an empty list of links, the default.
        changes = {
            name: value
            for name, value in body.model_dump(exclude_unset=True).items()
            if value is not None or name in columns
        }

        def merge(current: Values) -> ObjectFields:
            stored = {name: current[name] for name in columns if name not in changes}
            return self._validated(stored | changes, current)

        return await ObjectWriter(self).change(parse_key(reference, self.model), body, merge, conditions)

    def _validated(self, values: Values, current: Values) -> ObjectFields:
        """Return the whole body for an object with these current values. Raises `InvalidContent`."""
        try:
            return self.collection.body.model_validate(values, context=exempt_stored(current))
        except ValidationError as error:
            raise invalid_content(error) from error

    def _has_old_text(self, body: ObjectFields) -> bool:
        """Return whether a body of `ChangeFields` has a text that is valid only if the object already has it."""
        texts = ((name, value) for name, value in body if isinstance(value, str))
        keys = unique_keys(self.model)
        return any(has_ignorable(text) if name in keys else trimmed(text) != text for name, text in texts)

    async def delete(self, reference: str, conditions: Preconditions) -> None:
        """Delete an object.

        Raises `StillReferenced`, with the dependants, if other objects refer to it, and `PreconditionFailed` if
        the object does not meet the conditions.
        """
        await ObjectWriter(self).delete(parse_key(reference, self.model), conditions)

    async def link(
        self, link_set: LinkSet, reference: str, target: str, conditions: Preconditions, detail: str | None = None
    ) -> None:
        """Set one link or replace its detail (idempotent: setting an equal link again changes nothing).

        Raises `NotFound` if either end does not exist, `Conflict` if the owner may have only one such link, and
        `PreconditionFailed` if the object does not meet the conditions.
        """
        writer = LinkWriter(self, link_set, parse_key(target, link_set.target_model), detail)
        await writer.add(parse_key(reference, self.model), conditions)

    async def set_links(
        self, link_set: LinkSet, reference: str, body: ReferringBody | KeyedBody, conditions: Preconditions
    ) -> Document:
        """Replace all links of one kind by links to the objects that a body lists, and return the owner.

        Raises `UnknownReference`, with pointers into the body, if an object does not exist, `PreconditionFailed` if the
        owner does not meet the conditions, and `Forbidden` as `create` does.
        """
        listing: ReferringBody | KeyedBody = body
        if isinstance(body, KeyedBody):
            listing = await with_ids(self.session, self.caller, replace(self.collection, links=(link_set,)), body)
        return await LinkListWriter(self, link_set, getattr(listing, link_set.short)).replace(
            parse_key(reference, self.model), conditions
        )

    async def unlink(
        self, link_set: LinkSet, reference: str, target: str, conditions: Preconditions, detail: str | None = None
    ) -> None:
        """Remove the links to an object, or only the one with `detail` (idempotent: a missing link changes nothing).

        Raises `NotFound` if either end does not exist, and `PreconditionFailed` if the owner does not meet the
        conditions.
        """
        writer = LinkWriter(self, link_set, parse_key(target, link_set.target_model), detail)
        await writer.remove(parse_key(reference, self.model), conditions)

    async def bulk(self, items: Sequence[Any], *, atomic: bool = True, dry_run: bool = False) -> BulkOutcome:
        """Create, update, upsert and delete many objects in one request; see `write_batch`.

        Raises `ContentTooLarge` if the request has too many links; imports have other limits.
        """
        reject_too_many_links((item.get("data") for item in items if isinstance(item, dict)), self.collection.links)
        await self.session.allow_seconds(STATEMENT_SECONDS)
        return await write_batch(self, items, atomic=atomic, dry_run=dry_run)

    async def bulk_links(
        self, link_set: LinkSet, items: Sequence[Any], *, atomic: bool = True, dry_run: bool = False
    ) -> BulkOutcome:
        """Replace all links of one kind of many objects in one request; see `write_links`.

        Raises `ContentTooLarge` if the request has too many links, and `Forbidden` for a dry run, which shows the
        links, if the caller may not read them.
        """
        if dry_run:
            self.require_members([link_set.field])
        reject_too_many_links(items, (link_set,))
        await self.session.allow_seconds(STATEMENT_SECONDS)
        return await write_links(self, link_set, items, atomic=atomic, dry_run=dry_run)

    async def import_file(self, request: ImportRequest) -> ImportOutcome:
        """Import a file, plan an import, or execute a plan; see `execute_import`."""
        return await execute_import(self, request)
