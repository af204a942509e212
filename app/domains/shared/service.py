"""What every collection can do."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import ValidationError
from sqlalchemy import Executable

from app.core.database import Row
from app.core.database_errors import IntegrityViolation
from app.core.prepared import Prepared
from app.domains.shared.bulk import STATEMENT_SECONDS, BulkOutcome, write_all
from app.domains.shared.bulk_items import refuse_too_many_links
from app.domains.shared.bulk_rules import BulkRules
from app.domains.shared.constraints import explain
from app.domains.shared.dependants import find_dependants
from app.domains.shared.documents import Document, by_id
from app.domains.shared.etags import versions_named
from app.domains.shared.links import Link, LinkSet, wanted_links
from app.domains.shared.reading import CollectionReader
from app.domains.shared.references import Key, not_found, parse_key
from app.domains.shared.refusals import with_all_faults
from app.domains.shared.schemas import ObjectFields
from app.domains.shared.single_links import add_link, remove_link
from app.domains.shared.writes import (
    Lock,
    delete_object,
    insert_object,
    read_columns,
    update_object,
    writable_columns,
)
from app.utils.exceptions import Conflict, PreconditionFailed, RegisterError, StillReferenced
from app.utils.validation import invalid_content


class CollectionService(CollectionReader):
    """Reads and writes one collection.

    Every method raises `NotFound` when the reference (an id, or `code:…`) selects nothing.
    """

    # What a whole object must satisfy; a merge patch is checked against it once it is merged.
    schema: ClassVar[type[ObjectFields]]
    links: ClassVar[tuple[LinkSet, ...]] = ()
    # Columns whose change rests on more than the object itself: see `_before_update`.
    guarded: ClassVar[tuple[str, ...]] = ()
    bulk_rules: ClassVar[type[BulkRules]] = BulkRules

    async def create(self, body: ObjectFields) -> Document:
        """Add an object.

        Raises `Duplicate` when keys are taken, `UnknownReference` for references, and `InvalidContent` for both, with a
        pointer for each.
        """
        row = await self._write(insert_object(self.documents, self.links), body, self._wanted(body))
        assert row is not None  # what is not refused is there
        return Document(row.id, row.version, row.body)

    async def replace(self, reference: str, body: ObjectFields, if_match: str | None) -> Document:
        """Give an object all new values; what the body leaves out takes its default.

        Raises what `create` raises, and `PreconditionFailed` when `if_match` names another version.
        """
        wanted = self._wanted(body)
        key = parse_key(reference, self.model)
        document = await self._update(key, body, wanted, versions_named(if_match))
        if document is None:
            document = await self._update_locked(reference, if_match, wanted, lambda _: body)
        return document

    async def patch(self, reference: str, body: ObjectFields, if_match: str | None) -> Document:
        """Merge a patch into an object (RFC 7396).

        Raises what `replace` raises, and `InvalidContent` when the merged object breaks the schema.
        """
        wanted = self._wanted(body)
        patched = body.model_dump(exclude_unset=True)

        def merged(current: dict[str, Any]) -> ObjectFields:
            whole = {name: current[name] for name in writable_columns(self.model)} | patched
            try:
                return self.schema.model_validate({name: value for name, value in whole.items() if value is not None})
            except ValidationError as error:
                raise invalid_content(error) from error

        key = parse_key(reference, self.model)
        current = await self._columns(read_columns(self.model, key.condition), key, if_match)
        whole = merged(current)
        self._authorise(current, whole)
        document = await self._update(Key(by_id, current["id"]), whole, wanted, [current["version"]])
        if document is None:
            document = await self._update_locked(reference, if_match, wanted, merged)
        return document

    async def delete(self, reference: str, if_match: str | None) -> None:
        """Remove an object.

        Raises `StillReferenced` with the dependants when something refers to it, and `PreconditionFailed`.
        """
        await self._delete(await self._lock(reference, if_match, "delete"))

    async def bulk(self, items: Sequence[Any], *, atomic: bool = True, dry_run: bool = False) -> BulkOutcome:
        """Create, update, upsert and delete many objects at once, as a client asks; see `write_all`.

        Raises `ContentTooLarge` for more links than a request may have; imports have limits of their own.
        """
        refuse_too_many_links(items)
        await self.session.allow_seconds(STATEMENT_SECONDS)
        return await write_all(self, items, atomic=atomic, dry_run=dry_run)

    async def link(
        self, link_set: LinkSet, reference: str, target: str, if_match: str | None, detail: str | None = None
    ) -> None:
        """Set one link, whatever it was before; a link that is there already changes nothing.

        Raises `NotFound` for either end, `Conflict` when the owner may have one such link only, `PreconditionFailed`.
        """
        key = parse_key(target, link_set.target_model)
        current = await self._lock(reference, if_match)
        await self._change_link(link_set, add_link(link_set, key.condition), current, key, detail)

    async def unlink(
        self, link_set: LinkSet, reference: str, target: str, if_match: str | None, detail: str | None = None
    ) -> None:
        """Remove the links to an object, or the one with `detail`; one that is not there changes nothing.

        Raises `NotFound` for either end and `PreconditionFailed`.
        """
        key = parse_key(target, link_set.target_model)
        current = await self._lock(reference, if_match)
        statement = remove_link(link_set, key.condition, one_detail=detail is not None)
        await self._change_link(link_set, statement, current, key, detail)

    async def _change_link(
        self, link_set: LinkSet, statement: Executable, current: dict[str, Any], key: Key, detail: str | None
    ) -> None:
        values = {"object_id": current["id"], "key": key.value, "detail": detail, **self.caller.signature()}
        try:
            found = (await self.session.execute(statement, values)).first()
        except IntegrityViolation as violation:
            if violation.is_reference:  # it was deleted since the statement found it
                raise not_found(link_set.target_model) from violation
            error = explain(violation)
            if error is None:
                raise
            # The body of this request has only the link's own field.
            error.errors = tuple(replace(fault, pointer=f"/{link_set.detail}") for fault in error.errors)
            raise error from violation
        if found is None:
            raise not_found(link_set.target_model)

    async def _lock(self, reference: str, if_match: str | None, lock: Lock = "change") -> dict[str, Any]:
        """Return the columns of an object that nobody else can change until the transaction ends."""
        key = parse_key(reference, self.model)
        return await self._columns(read_columns(self.model, key.condition, lock), key, if_match)

    async def _columns(self, statement: Executable, key: Key, if_match: str | None) -> dict[str, Any]:
        row = (await self.session.execute(statement, {"key": key.value})).mappings().one_or_none()
        if row is None:
            raise not_found(self.model)
        versions = versions_named(if_match)
        if versions is not None and row["version"] not in versions:
            document = await self._read(Key(by_id, row["id"]))
            raise PreconditionFailed(
                f"The {self.model.noun} was changed in the meantime.", headers={"ETag": document.etag}
            )
        return dict(row)

    def _authorise(self, current: dict[str, Any], body: Any) -> None:
        """Raise `Forbidden` when the caller may not make of these columns what the body says."""

    async def _before_update(self, current: dict[str, Any], body: Any) -> None:
        """Check, and do, what a change of a guarded column asks for besides; the object is locked."""

    async def _update(
        self,
        key: Key,
        body: ObjectFields,
        wanted: dict[LinkSet, list[Link]],
        versions: list[int] | None,
        *,
        checked: bool = False,
    ) -> Document | None:
        """Give an object new values and links, and return it.

        Hardly ever somebody else changes it at the same time, so one statement without a lock before it does it all.
        Returns None when it is to be locked first: when others do, or when it has none of these versions, or when a
        guarded column would change and that was not `checked` under a lock.
        """
        statement = update_object(self.documents, tuple(wanted), key.condition, self.guarded)
        row = await self._write(statement, body, wanted, key, versions=versions, checked=checked)
        if row is None:
            raise not_found(self.model)
        if row.body is not None:
            return Document(row.id, row.version, row.body)
        # When all was allowed and nothing written, it is all that already.
        return await self._read(Key(by_id, row.id)) if row.allowed and row.held else None

    async def _update_locked(
        self,
        reference: str,
        if_match: str | None,
        wanted: dict[LinkSet, list[Link]],
        whole: Callable[[dict[str, Any]], ObjectFields],
    ) -> Document:
        """Give an object the values that `whole` makes of its present ones, and the links that are wanted."""
        current = await self._lock(reference, if_match)
        body = whole(current)
        self._authorise(current, body)
        key = Key(by_id, current["id"])
        try:
            await self._before_update(current, body)
        except Conflict as error:
            raise await self._refusal(error, body, key) from error.__cause__
        document = await self._update(key, body, wanted, None, checked=True)
        assert document is not None  # nobody else can change it
        return document

    async def _delete(self, current: dict[str, Any]) -> None:
        dependants = await find_dependants(self.session, self.model, current["id"])
        if dependants.counts:
            raise StillReferenced(
                f"The {self.model.noun} is still referred to by {dependants.summary}.",
                extensions={"dependants": dependants.as_json()},
            )
        await self.session.execute(delete_object(self.documents), {"key": current["id"], **self.caller.signature()})

    async def _write(
        self,
        statement: Prepared,
        body: ObjectFields,
        wanted: dict[LinkSet, list[Link]],
        key: Key | None = None,
        **values: Any,
    ) -> Row | None:
        if key is not None:
            values["key"] = key.value
        for name in writable_columns(self.model):
            values[f"new_{name}"] = getattr(body, name)
        for link_set, links in wanted.items():
            values |= link_set.arguments(links)
        try:
            return await self.session.write_alone(statement, **values, **self.caller.signature())
        except IntegrityViolation as violation:
            error = explain(violation)
            if error is None:
                raise
            raise await self._refusal(error, body, key) from violation

    def _wanted(self, body: ObjectFields) -> dict[LinkSet, list[Link]]:
        """Return the links that the body asks for, without the sets it leaves as they are."""
        wanted = {link_set: wanted_links(body, link_set) for link_set in self.links}
        return {link_set: links for link_set, links in wanted.items() if links is not None}

    async def _refusal(self, error: RegisterError, body: ObjectFields, key: Key | None) -> RegisterError:
        return await with_all_faults(self.session, self.model, self.links, error, body, key)
