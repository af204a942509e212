"""What every collection can do. One request makes one service, with its session and its caller."""

from typing import Any, ClassVar, Self

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.database import IntegrityViolation, SessionDep, Statement, abandon, execute, fetch
from app.core.security import Caller, CallerDep
from app.domains.shared.dependants import find_dependants
from app.domains.shared.documents import Condition, Document, Documents, by_code, by_id
from app.domains.shared.etags import names_version
from app.domains.shared.links import Link, LinkSet, named_targets, wanted_links
from app.domains.shared.lists import Listing, ListQuery
from app.domains.shared.models import RegisterObject
from app.domains.shared.references import Key, not_found, parse_key, unknown_references
from app.domains.shared.schemas import ObjectFields
from app.domains.shared.single_links import add_link, linked, remove_link
from app.domains.shared.writes import (
    delete_object,
    foreign_keys,
    insert_object,
    lock_object,
    object_exists,
    update_object,
    writable_columns,
)
from app.utils.exceptions import Conflict, Fault, PreconditionFailed, RegisterError, StillReferenced
from app.utils.validation import invalid_content


class CollectionService:
    """Reads and writes one collection.

    Objects come and go as `Document`s: the bytes the client gets. Every method raises `NotFound` when the reference
    (an id, or `code:…`) selects nothing.
    """

    model: ClassVar[type[RegisterObject]]
    documents: ClassVar[Documents]
    # What a whole object must satisfy; a merge patch is checked against it once it is merged.
    schema: ClassVar[type[ObjectFields]]
    links: ClassVar[tuple[LinkSet, ...]] = ()

    def __init__(self, session: AsyncSession, caller: Caller) -> None:
        self.session = session
        self.caller = caller

    @classmethod
    async def provide(cls, session: SessionDep, caller: CallerDep) -> Self:
        """Make the service of one request; FastAPI would call the class itself in a thread, which costs more."""
        return cls(session, caller)

    async def get(self, reference: str) -> Document:
        """Return one object."""
        return await self._read(parse_key(reference, self.model))

    async def page(self, query: ListQuery) -> Listing:
        """Return one page of the whole collection."""
        return await self._page(query)

    async def create(self, body: ObjectFields) -> Document:
        """Add an object.

        Raises `Duplicate` when a key is taken, and `UnknownReference` with a pointer for every unknown reference.
        """
        statement = insert_object(self.model, self.links)
        rows = await self._write(statement, body, self._wanted(body))
        return await self._read(Key(by_id, rows[0].id))

    async def replace(self, reference: str, body: ObjectFields, if_match: str | None) -> Document:
        """Give an object all new values; what the body leaves out takes its default.

        Raises what `create` raises, and `PreconditionFailed` when `if_match` names another version.
        """
        current = await self._lock(reference, if_match)
        return await self._update(current, body, self._wanted(body))

    async def patch(self, reference: str, body: ObjectFields, if_match: str | None) -> Document:
        """Merge a patch into an object (RFC 7396).

        Raises what `replace` raises, and `InvalidContent` when the merged object breaks the schema.
        """
        current = await self._lock(reference, if_match)
        kept = {name: current[name] for name in writable_columns(self.model)}
        merged = kept | body.model_dump(exclude_unset=True)
        try:
            whole = self.schema.model_validate({name: value for name, value in merged.items() if value is not None})
        except ValidationError as error:
            raise invalid_content(error) from error
        return await self._update(current, whole, self._wanted(body))

    async def delete(self, reference: str, if_match: str | None) -> None:
        """Remove an object.

        Raises `StillReferenced` with the dependants when something refers to it, and `PreconditionFailed`.
        """
        await self._delete(await self._lock(reference, if_match, deleting=True))

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

    async def page_linked(self, link_set: LinkSet, end: str, reference: str, query: ListQuery) -> Listing:
        """Return one page of the objects at `end` of the links to one object at the other end."""
        other = link_set.target_model if end == link_set.owner else link_set.owner_model
        key = parse_key(reference, other)
        listing = await self._page(query, linked(link_set, end, key.condition), key=key.value)
        if listing.items == b"[]" and not await fetch(self.session, object_exists(other, key.condition), key=key.value):
            raise not_found(other)
        return listing

    async def _change_link(
        self, link_set: LinkSet, statement: Statement, current: dict[str, Any], key: Key, detail: str | None
    ) -> None:
        try:
            rows = await execute(
                self.session, statement, id=current["id"], key=key.value, detail=detail, caller_id=self.caller.id
            )
        except IntegrityViolation as violation:
            if violation.is_reference:  # it was deleted since the statement found it
                raise not_found(link_set.target_model) from violation
            words = "The process has another one already, and may have one only."
            raise Conflict(words, errors=[Fault(f"/{link_set.detail}", "conflict", words)]) from violation
        if not rows:
            raise not_found(link_set.target_model)

    async def _read(self, key: Key) -> Document:
        statement = self.documents.one_by_code if key.condition is by_code else self.documents.one_by_id
        row = await fetch(self.session, statement, key=key.value)
        if row is None:
            raise not_found(self.model)
        return Document(row["id"], row["version"], row["body"])

    async def _page(self, query: ListQuery, condition: Condition | None = None, **values: Any) -> Listing:
        statement = self.documents.page(query.sort, condition)
        row = await fetch(self.session, statement, limit=query.limit, offset=query.offset, **values)
        assert row is not None  # an aggregate always has a row
        total = None
        if query.count == "exact":
            counted = await fetch(self.session, self.documents.count(condition), **values)
            total = counted and counted["total"]
        return Listing(row["items"], more=row["rows"] > query.limit, total=total)

    async def _lock(self, reference: str, if_match: str | None, *, deleting: bool = False) -> dict[str, Any]:
        key = parse_key(reference, self.model)
        statement = lock_object(self.model, key.condition, deleting)
        rows = await execute(self.session, statement, key=key.value)
        if not rows:
            raise not_found(self.model)
        current = rows[0]._asdict()
        if if_match is not None and not names_version(if_match, current["version"]):
            document = await self._read(Key(by_id, current["id"]))
            raise PreconditionFailed(
                f"The {self.model.noun} was changed in the meantime.", headers={"ETag": document.etag}
            )
        return current

    async def _update(self, current: dict[str, Any], body: ObjectFields, wanted: dict[LinkSet, list[Link]]) -> Document:
        changed = any(getattr(body, name) != current[name] for name in writable_columns(self.model))
        if changed or wanted:
            statement = update_object(self.model, tuple(wanted))
            await self._write(statement, body, wanted, id=current["id"], changed=changed)
        return await self._read(Key(by_id, current["id"]))

    async def _delete(self, current: dict[str, Any]) -> None:
        dependants = await find_dependants(self.session, self.model, current["id"])
        if dependants.counts:
            raise StillReferenced(
                f"The {self.model.noun} is still referred to by {dependants.summary}.",
                extensions={"dependants": dependants.as_json()},
            )
        await execute(self.session, delete_object(self.model), id=current["id"])

    async def _write(
        self, statement: Statement, body: ObjectFields, wanted: dict[LinkSet, list[Link]], **values: Any
    ) -> Any:
        for name in writable_columns(self.model):
            values[f"new_{name}"] = getattr(body, name)
        for link_set, links in wanted.items():
            values |= link_set.arguments(links)
        try:
            return await execute(self.session, statement, caller_id=self.caller.id, **values)
        except IntegrityViolation as violation:
            if violation.is_reference:
                raise await self._unknown_references(body) from violation
            raise

    def _wanted(self, body: ObjectFields) -> dict[LinkSet, list[Link]]:
        """Return the links that the body asks for, without the sets it leaves as they are."""
        wanted = {link_set: wanted_links(body, link_set) for link_set in self.links}
        return {link_set: links for link_set, links in wanted.items() if links is not None}

    async def _unknown_references(self, body: ObjectFields) -> RegisterError:
        await abandon(self.session)
        named = [
            (f"/{name}", target, key)
            for name, target in foreign_keys(self.model).items()
            if (key := getattr(body, name)) is not None
        ]
        for link_set in self.links:
            named += named_targets(body, link_set)
        return await unknown_references(self.session, named)
