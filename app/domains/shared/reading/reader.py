"""The read operations of every collection."""

from collections.abc import Iterable
from typing import Any, ClassVar

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.request_service import RequestService
from app.domains.shared.collection import Collection, LinkSet
from app.domains.shared.models import RegisterObject
from app.domains.shared.query.changes import ObjectChangeQuery
from app.domains.shared.query.filters import FixedLink
from app.domains.shared.query.link_filters import fixed_link
from app.domains.shared.query.orders import Condition, Order
from app.domains.shared.query.pages import FilterQuery, Listing, ListQuery, fetch_page
from app.domains.shared.query.ranking import search_order
from app.domains.shared.query.representations import Members, required_scopes
from app.domains.shared.reading.documents import Document, Documents, documents_of
from app.domains.shared.reading.history_pages import has_changes, list_changes
from app.domains.shared.reading.history_rows import excluded_members
from app.domains.shared.reading.history_selection import ChangeFilters, ObjectOfChanges
from app.domains.shared.reading.keys import Key, not_found, parse_key, select_id
from app.domains.shared.reading.reference_keys import replace_keys
from app.domains.shared.reading.stats import MAX_GROUPS, MAX_PAIRS, Counts, StatsQuery
from app.domains.shared.reading.streams import Export
from app.utils.exceptions import Fault, InvalidContent


class CollectionReader(RequestService):
    """Reads one collection.

    Objects are returned as `Document`s, the bytes of the response. Every method raises `NotFound` if its reference (an
    id, or `code:…`) selects no object.
    """

    collection: ClassVar[Collection]

    def __init__(self, session: RegisterSession, caller: Caller, *, restoring: bool = False) -> None:
        super().__init__(session, caller)
        # Whether the writes restore an export of a whole register.
        self.restoring = restoring

    @property
    def model(self) -> type[RegisterObject]:
        return self.collection.model

    @property
    def documents(self) -> Documents:
        return documents_of(self.collection)

    async def get(self, reference: str, members: Members = None) -> Document:
        """Return one object, or some of its members. Raises `Forbidden` if the caller may not read all of them."""
        self.require_members(members)
        return await read_object(self.session, self.collection, parse_key(reference, self.model), members)

    async def page(self, query: ListQuery) -> Listing | Export:
        """Return one page of the collection, or an export if the negotiated format is a stream.

        Raises `Forbidden` if a filter reads a collection, or external ids of one, that the caller may not read, or if
        the caller may not read a member on request.
        """
        return await self._page(query)

    async def stats(self, query: StatsQuery) -> Counts:
        """Count the objects that the filters select, by group.

        Raises `Forbidden` if a filter reads a collection, or external ids of one, that the caller may not read, and
        `InvalidContent` if there are more than `MAX_PAIRS` pairs of links.
        """
        self._require_readable(query)
        statement, values = query.statement(self.model)
        await replace_keys(self.session, self.caller, values, query.keyed)
        row = await self.session.fetch(statement, **values, readable=self.caller.readable, max_pairs=MAX_PAIRS)
        assert row is not None  # an aggregate always has a row
        if row.pair_count > MAX_PAIRS:
            raise InvalidContent(errors=[Fault.of("/group_by", "too_many_pairs", source="query", limit=MAX_PAIRS)])
        return Counts(query.group_by, row.groups, row.total, truncated=row.group_count > MAX_GROUPS)

    async def page_linked(self, link_set: LinkSet, end: str, reference: str, query: ListQuery) -> Listing | Export:
        """Return one page, or an export, of the objects at `end` of the links to one object at the other end."""
        other = link_set.target_model if end == link_set.owner else link_set.owner_model
        key = parse_key(reference, other)
        listing = await self._page(query, fixed_link(link_set, end, key.condition), key=key.value)
        may_be_missing = isinstance(listing, Export) or listing.items == b"[]"
        if may_be_missing and not await self._exists(other, key):
            raise not_found(other)
        return await self._without_connection(listing)

    async def changes(self, reference: str, query: ObjectChangeQuery) -> Listing | Export:
        """Return one page of the history of one object, the newest change first, or an export.

        The reference may also be the `id` of a deleted object. Raises `InvalidContent` if no object of the collection
        has a field that the query asks for, and `Forbidden` if the caller may not read such a field.
        """
        query.check_members(self.collection.recorded_members)
        self.require_members(query.member)
        excluded = excluded_members([self.collection], self.caller.scopes)
        key = parse_key(reference, self.model)
        filters = ChangeFilters((self.collection.name,), by_type=False, actions=query.action, members=query.member)
        object_ = ObjectOfChanges(self.model, key.condition)
        listing = await list_changes(self.session, filters, query, excluded, object_, key=key.value)
        may_be_missing = isinstance(listing, Export) or listing.items == b"[]"
        if may_be_missing and not await self._has_history(key):
            raise not_found(self.model)
        return await self._without_connection(listing)

    async def _has_history(self, key: Key) -> bool:
        """Return whether an object exists, or existed."""
        if await self._exists(self.model, key):
            return True
        return await has_changes(self.session, ObjectOfChanges(self.model, key.condition), key=key.value)

    async def _without_connection(self, listing: Listing | Export) -> Listing | Export:
        """Return the listing, and before an export also the request's connection.

        The stream takes another connection from the pool; holding both could exhaust the pool.
        """
        if isinstance(listing, Export):
            await self.session.release()
        return listing

    async def _exists(self, model: type[RegisterObject], key: Key) -> bool:
        return await self.session.scalar(select_id(model, key.condition), {"key": key.value}) is not None

    async def _page(self, query: ListQuery, link: FixedLink | None = None, **values: Any) -> Listing | Export:
        members = query.members
        self.require_members(members)
        condition, arguments = query.selection(link)
        values |= arguments
        if condition is not None:
            self._require_readable(query)
            await replace_keys(self.session, self.caller, values, query.keyed)
        order: Order = query.order
        other_filters = condition
        if query.is_search:
            order = search_order(query.sort, query.declaration)
            values["readable"] = self.caller.readable
            other_filters, _ = query.selection(link, without=["q"])
        if query.format != "json":
            return self._export(query, order, condition, values)
        page = self.documents.page(order, other_filters, query.start, members)
        return await fetch_page(self.session, page, self.documents.count(condition), query, values)

    def _require_readable(self, query: FilterQuery) -> None:
        self.caller.require(*(f"{collection}:read" for collection in query.reads))

    def require_members(self, members: Iterable[str] | None) -> None:
        """Raise `Forbidden` unless the caller has the scopes of the members on request among these."""
        if members is not None:
            self.caller.require(*required_scopes(self.collection.read, members))

    def _export(self, query: ListQuery, order: Order, condition: Condition | None, values: dict[str, Any]) -> Export:
        values |= query.export_arguments()
        as_table = query.format == "csv"
        statement = self.documents.export(
            order,
            condition,
            query.members,
            from_position=query.position is not None,
            as_table=as_table,
            with_external_ids=self.caller.readable,
        )
        header = self.documents.header(query.members) if as_table else None
        return Export(self.model.__tablename__, statement, values, header, raw=query.csv == "raw")


async def read_object(session: RegisterSession, collection: Collection, key: Key, members: Members = None) -> Document:
    """Return one object, or some of its members. Raises `NotFound` if there is no such object."""
    row = await session.fetch(documents_of(collection).single_object(key.condition, members), key=key.value)
    if row is None:
        raise not_found(collection.model)
    return Document(row["id"], row["version"], row["body"])
