"""The service of roles."""

from typing import Annotated

from fastapi import Depends

from app.domains.role.models import Role, RoleHolder
from app.domains.role.schemas import RoleCreate, RoleRead
from app.domains.shared.service import Collection, CollectionService, LinkSet

# Not a link of the collection, because the body of a role does not list holders.
HOLDERS = LinkSet("holders", RoleHolder, owner="role_id", target="user_id")


class RoleService(CollectionService):
    collection = Collection(Role, RoleRead, RoleCreate, history_members=("holders",))


RoleServiceDep = Annotated[RoleService, Depends(RoleService.provide)]
