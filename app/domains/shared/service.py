"""What every collection can do."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from app.domains.shared.bulk.batch import STATEMENT_SECONDS, BulkOutcome, write_batch
from app.domains.shared.bulk.items import reject_too_many_links
from app.domains.shared.collection import Collection, LinkSet, writable_columns
from app.domains.shared.imports.requests import ImportOutcome, ImportRequest, execute_import
from app.domains.shared.reading.documents import Document
from app.domains.shared.reading.keys import parse_key
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.rules import Values
from app.domains.shared.schemas import ObjectFields
from app.domains.shared.writing.link_writer import LinkWriter
from app.domains.shared.writing.object_writer import ObjectWriter
from app.utils.validation import invalid_content

__all__ = ["Collection", "CollectionService", "LinkSet", "parse_key"]


class CollectionService(CollectionReader):
    """Reads and writes one collection.

    Every method raises `NotFound` when the reference (an id, or `code:…`) selects nothing, and what the collection's
    rules refuse a write with.
    """

    async def create(self, body: ObjectFields) -> Document:
        """Add an object.

        Raises `Duplicate` when keys are taken, `UnknownReference` for references, and `InvalidContent` for both, with a
        pointer for each.
        """
        return await ObjectWriter(self).insert(body)

    async def replace(self, reference: str, body: ObjectFields, if_match: str | None) -> Document:
        """Give an object all new values; what the body leaves out takes its default.

        Raises what `create` raises, and `PreconditionFailed` when `if_match` names another version.
        """
        return await ObjectWriter(self).replace(parse_key(reference, self.model), body, if_match)

    async def patch(self, reference: str, body: ObjectFields, if_match: str | None) -> Document:
        """Merge a patch into an object (RFC 7396).

        Raises what `replace` raises, and `InvalidContent` when the merged object breaks the schema.
        """
        patched = body.model_dump(exclude_unset=True)

        def merged(current: Values) -> ObjectFields:
            values = {name: current[name] for name in writable_columns(self.model)} | patched
            present = {name: value for name, value in values.items() if value is not None}
            try:
                return self.collection.body.model_validate(present)
            except ValidationError as error:
                raise invalid_content(error) from error

        return await ObjectWriter(self).change(parse_key(reference, self.model), body, merged, if_match)

    async def delete(self, reference: str, if_match: str | None) -> None:
        """Remove an object.

        Raises `StillReferenced` with the dependants when something refers to it, and `PreconditionFailed`.
        """
        await ObjectWriter(self).delete(parse_key(reference, self.model), if_match)

    async def link(
        self, link_set: LinkSet, reference: str, target: str, if_match: str | None, detail: str | None = None
    ) -> None:
        """Set one link, whatever it was before; a link that is there already changes nothing.

        Raises `NotFound` for either end, `Conflict` when the owner may have one such link only, `PreconditionFailed`.
        """
        writer = LinkWriter(self, link_set, parse_key(target, link_set.target_model), detail)
        await writer.add(parse_key(reference, self.model), if_match)

    async def unlink(
        self, link_set: LinkSet, reference: str, target: str, if_match: str | None, detail: str | None = None
    ) -> None:
        """Remove the links to an object, or the one with `detail`; one that is not there changes nothing.

        Raises `NotFound` for either end and `PreconditionFailed`.
        """
        writer = LinkWriter(self, link_set, parse_key(target, link_set.target_model), detail)
        await writer.remove(parse_key(reference, self.model), if_match)

    async def bulk(self, items: Sequence[Any], *, atomic: bool = True, dry_run: bool = False) -> BulkOutcome:
        """Create, update, upsert and delete many objects at once, as a client asks; see `write_batch`.

        Raises `ContentTooLarge` for more links than a request may have; imports have limits of their own.
        """
        reject_too_many_links(items)
        await self.session.allow_seconds(STATEMENT_SECONDS)
        return await write_batch(self, items, atomic=atomic, dry_run=dry_run)

    async def import_file(self, request: ImportRequest) -> ImportOutcome:
        """Import a file, plan that, or carry out a plan; see `execute_import`."""
        return await execute_import(self, request)
