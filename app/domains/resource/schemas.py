"""What clients send and get of resources."""

from app.domains.resource.models import Criticality, ResourceKind
from app.domains.shared.schemas import Brief, HttpAddress, ObjectFields, ObjectRead, Reference, merge_patch


class ResourceFields(ObjectFields):
    kind: ResourceKind = "application"
    owner_department_id: Reference | None = None
    location_id: Reference | None = None
    criticality: Criticality | None = None
    url: HttpAddress | None = None


class ResourceCreate(ResourceFields):
    """A resource to register."""


class ResourceReplace(ResourceFields):
    """Everything a resource is to be from now on; what is absent takes its default."""


@merge_patch
class ResourcePatch(ResourceFields):
    """The changes to a resource."""


class ResourceRead(ObjectRead):
    """Something that processes need: an application, equipment, a document, a supplier, …"""

    kind: ResourceKind
    owner_department_id: int | None
    owner_department: Brief | None
    location_id: int | None
    location: Brief | None
    criticality: Criticality | None
    url: str | None
