"""The service of users."""

from typing import Annotated

from fastapi import Depends

from app.domains.shared.service import Collection, CollectionService
from app.domains.user.models import User
from app.domains.user.rules import Administrators, NoCycleOfManagers
from app.domains.user.schemas import UserCreate, UserRead


class UserService(CollectionService):
    """Creates users without a password: a new user signs in with a password link first."""

    collection = Collection(
        User,
        UserRead,
        UserCreate,
        rules=(Administrators, NoCycleOfManagers),
        history_members=("password", "password_link"),
    )


UserServiceDep = Annotated[UserService, Depends(UserService.provide)]
