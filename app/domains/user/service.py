"""What can be done with users."""

from typing import Any

from app.domains.shared.documents import Documents
from app.domains.shared.service import CollectionService
from app.domains.user.models import User
from app.domains.user.schemas import UserRead, UserReplace
from app.utils.exceptions import FirstAdministrator


class UserService(CollectionService):
    model = User
    documents = Documents(UserRead, User)
    schema = UserReplace

    async def _delete(self, current: dict[str, Any]) -> None:
        # Nothing may refer to it yet, and without it no request could be made.
        if current["created_by_id"] is None:
            raise FirstAdministrator("The first administrator cannot be deleted: requests are made on its behalf.")
        await super()._delete(current)
