"""The service of the history."""

from app.core.permissions import Scope
from app.core.request_service import RequestService
from app.domains.change.schemas import ChangeQuery, ChangeType
from app.domains.collections import COLLECTIONS
from app.domains.shared.query.pages import Listing
from app.domains.shared.reading.history_pages import changes_where, leading_column, page_of_changes
from app.domains.shared.reading.reference_keys import replace_keys

# The scope that is required to read the changes of each type.
READ_SCOPES: dict[ChangeType, Scope] = {
    **{entry.name: entry.history_scope or entry.scope_to_read for entry in COLLECTIONS},
    "api_tokens": "admin",
}


class ChangeService(RequestService):
    """Reads the history of all collections."""

    async def page(self, query: ChangeQuery) -> Listing:
        """Return one page of the changes that the caller may see, the newest first.

        Raises `Forbidden` if the query asks for a type, or refers to an external id, that the caller may not see.
        """
        if query.type is not None:
            self.caller.require(READ_SCOPES[query.type])
        names = ("type", "object_id", "actor_id", "since", "before_id")
        values = {name: value for name in names if (value := getattr(query, name)) is not None}
        filters = frozenset(values)
        await replace_keys(self.session, self.caller, values, query.keyed)
        types = frozenset(name for name, scope in READ_SCOPES.items() if scope in self.caller.scopes)
        condition = changes_where(filters, types)
        return await page_of_changes(self.session, condition, query, leading_column(filters), **values)
