"""The service of the history."""

from typing import Any

from app.core.caller import Caller
from app.core.permissions import Scope
from app.core.request_service import RequestService
from app.domains.change.schemas import MEMBERS, ChangeQuery, ChangeType
from app.domains.collections import COLLECTIONS
from app.domains.shared.query.pages import Listing
from app.domains.shared.query.representations import required_scopes
from app.domains.shared.reading.history_pages import list_changes
from app.domains.shared.reading.history_rows import ExcludedMembers, excluded_members
from app.domains.shared.reading.history_selection import ChangeFilters
from app.domains.shared.reading.reference_keys import replace_keys
from app.domains.shared.reading.streams import Export
from app.domains.shared.texts import comparable_code

# The scope that is required to read the changes of each type.
READ_SCOPES: dict[ChangeType, Scope] = {
    **{entry.name: entry.history_scope or entry.scope_to_read for entry in COLLECTIONS},
    "api_tokens": "admin",
}


def excluded_for(caller: Caller) -> ExcludedMembers:
    """Return the members that changes do not show to the caller."""
    return excluded_members((entry.collection for entry in COLLECTIONS), caller.scopes)


class ChangeService(RequestService):
    """Reads the history of all collections."""

    async def page(self, query: ChangeQuery) -> Listing | Export:
        """Return one page of the changes that the caller may see, the newest first, or an export.

        Raises `Forbidden` if the query asks for a type or a field, or refers to an external id, that the caller may not
        see, and `InvalidContent` if no change of these types has a field that it asks for.
        """
        if query.type is not None:
            self.caller.require(READ_SCOPES[query.type])
        asked = (query.type,) if query.type else tuple(READ_SCOPES)
        query.check_members(list(dict.fromkeys(name for type_ in asked for name in MEMBERS[type_])))
        schemas = (entry.collection.read for entry in COLLECTIONS if entry.name in asked)
        self.caller.require(*(scope for schema in schemas for scope in required_scopes(schema, query.member or ())))
        types = tuple(name for name in asked if READ_SCOPES[name] in self.caller.scopes)
        references: dict[str, Any] = {"object_id": query.object_id, "actor_id": query.actor_id}
        await replace_keys(self.session, self.caller, references, query.keyed)
        filters = ChangeFilters(
            types,
            by_type=len(types) < len(READ_SCOPES),
            actions=query.action,
            members=query.member,
            code=query.code and comparable_code(query.code),
            since=query.since,
            before_id=query.before_id,
            **references,
        )
        return await list_changes(self.session, filters, query, excluded_for(self.caller))
