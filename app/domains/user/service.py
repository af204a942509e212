"""What can be done with users."""

from typing import Annotated

from fastapi import Depends

from app.domains.shared.service import Collection, CollectionService
from app.domains.user.models import User
from app.domains.user.rules import Administrators
from app.domains.user.schemas import UserRead, UserReplace


class UserService(CollectionService):
    """A new user cannot sign in until there is a password."""

    collection = Collection(User, UserRead, UserReplace, rules=(Administrators,))


UserServiceDep = Annotated[UserService, Depends(UserService.provide)]
