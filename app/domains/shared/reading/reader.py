"""What can be read of every collection."""

from typing import Any, ClassVar

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.request_service import RequestService
from app.domains.shared.collection import Collection, LinkSet
from app.domains.shared.models import RegisterObject
from app.domains.shared.query.filters import FixedLink
from app.domains.shared.query.link_filters import fixed_link
from app.domains.shared.query.orders import Condition, Order, Start
from app.domains.shared.query.pages import Listing, ListQuery, PageQuery, fetch_page
from app.domains.shared.query.ranking import search_order
from app.domains.shared.query.representations import Members
from app.domains.shared.reading.documents import Document, Documents, documents_of
from app.domains.shared.reading.history_pages import changes_of, has_changes, page_of_changes
from app.domains.shared.reading.keys import Key, not_found, object_exists, parse_key
from app.domains.shared.reading.stats import MAX_GROUPS, Counts, StatsQuery
from app.domains.shared.reading.streams import Export
from app.utils.exceptions import BadRequest


class CollectionReader(RequestService):
    """Reads one collection.

    Objects come as `Document`s: the bytes the client gets. Every method raises `NotFound` when the reference (an id, or
    `code:…`) selects nothing.
    """

    collection: ClassVar[Collection]

    def __init__(self, session: RegisterSession, caller: Caller, *, restoring: bool = False) -> None:
        super().__init__(session, caller)
        # Whether what is written comes from an export of a whole register.
        self.restoring = restoring

    @property
    def model(self) -> type[RegisterObject]:
        return self.collection.model

    @property
    def documents(self) -> Documents:
        return documents_of(self.collection)

    async def get(self, reference: str, members: Members = None) -> Document:
        """Return one object, or these members of it."""
        return await read_object(self.session, self.collection, parse_key(reference, self.model), members)

    async def page(self, query: ListQuery) -> Listing | Export:
        """Return one page of the whole collection, or all of it if the client wants a stream."""
        return await self._page(query)

    async def stats(self, query: StatsQuery) -> Counts:
        """Return how many of the objects that the filters select are in which group."""
        statement, values = query.statement(self.model)
        row = (await self.session.execute(statement, values)).one()
        return Counts(query.group_by, row.groups, row.total, truncated=row.found > MAX_GROUPS)

    async def page_linked(self, link_set: LinkSet, end: str, reference: str, query: ListQuery) -> Listing | Export:
        """Return one page, or all, of the objects at `end` of the links to one object at the other end."""
        other = link_set.target_model if end == link_set.owner else link_set.owner_model
        key = parse_key(reference, other)
        listing = await self._page(query, fixed_link(link_set, end, key.condition), key=key.value)
        nothing = isinstance(listing, Export) or listing.items == b"[]"
        if nothing and not await self._exists(other, key):
            raise not_found(other)
        if isinstance(listing, Export):
            # The stream has a connection of its own, which must not wait for that of this session.
            await self.session.release()
        return listing

    async def changes(self, reference: str, query: PageQuery) -> Listing:
        """Return one page of the history of one object, the newest change first.

        By its `id` an object that is gone still has one.
        """
        key = parse_key(reference, self.model)
        condition = changes_of(self.model, key.condition)
        listing = await page_of_changes(self.session, condition, query, key=key.value)
        if listing.items != b"[]" or await self._exists(self.model, key):
            return listing
        # Of an object that is gone there may be changes on the pages before this one.
        if query.offset and await has_changes(self.session, condition, key=key.value):
            return listing
        raise not_found(self.model)

    async def _exists(self, model: type[RegisterObject], key: Key) -> bool:
        return await self.session.scalar(object_exists(model, key.condition), {"key": key.value}) is not None

    async def _page(self, query: ListQuery, fixed: FixedLink | None = None, **values: Any) -> Listing | Export:
        condition, arguments = query.selected(fixed)
        values |= arguments
        start: Start = "first"
        if query.position is not None:
            start = query.position.start
            values |= query.position.arguments()
        order: Order = query.order
        others = condition
        if query.searches:
            order = search_order(query.sort, query.declaration)
            others, _ = query.selected(fixed, searching=False)
        if query.format != "json":
            return self._export(query, order, condition, values)
        page = self.documents.page(order, others, start, query.members)
        return await fetch_page(self.session, page, self.documents.count(condition), query, values)

    def _export(self, query: ListQuery, order: Order, condition: Condition | None, values: dict[str, Any]) -> Export:
        if query.position is not None and query.position.start == "before":
            raise BadRequest("A whole list is not read backwards: take the cursor from `next`.")
        table = query.format == "csv"
        statement = self.documents.export(
            order, condition, query.members, after=query.position is not None, table=table, keyed=True
        )
        # All, unless the client says how many.
        values["limit"] = query.limit if "limit" in query.model_fields_set else None
        values["offset"] = query.offset
        header = self.documents.header(query.members) if table else None
        return Export(self.model.__tablename__, statement, values, header, raw=query.csv == "raw")


async def read_object(session: RegisterSession, collection: Collection, key: Key, members: Members = None) -> Document:
    """Return one object, or these members of it. Raises `NotFound`."""
    row = await session.fetch(documents_of(collection).one(key.condition, members), key=key.value)
    if row is None:
        raise not_found(collection.model)
    return Document(row["id"], row["version"], row["body"])
