"""What can be done with roles."""

from app.domains.role.models import Role, RoleHolder
from app.domains.role.schemas import RoleRead, RoleReplace
from app.domains.shared.documents import Documents
from app.domains.shared.links import LinkSet
from app.domains.shared.service import CollectionService

# Not among `links`: a role's body does not list its holders.
HOLDERS = LinkSet("holders", RoleHolder, owner="role_id", target="user_id")


class RoleService(CollectionService):
    model = Role
    documents = Documents(RoleRead, Role)
    schema = RoleReplace
