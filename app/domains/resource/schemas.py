"""Schemas of resource requests and responses."""

from app.domains.resource.models import ResourceKind
from app.domains.shared.schemas import (
    Brief,
    ChangeFields,
    Criticality,
    ObjectFields,
    ObjectRead,
    Reference,
    example,
    merge_patch,
)
from app.domains.shared.texts import HttpAddress


class ResourceFields(ObjectFields):
    kind: ResourceKind = "application"
    owner_department_id: Reference | None = None
    location_id: Reference | None = None
    criticality: Criticality | None = None
    url: HttpAddress | None = None


class ResourceCreate(ResourceFields):
    """A new resource."""

    model_config = example(
        name="Label printer", kind="equipment", owner_department_id=1, location_id=1, criticality="low"
    )


class ResourceReplace(ChangeFields, ResourceFields):
    """All fields of a resource; omitted fields are reset to their defaults."""

    model_config = example(
        name="ERP system", kind="application", criticality="critical", url="https://erp.tarnbeck.example"
    )


@merge_patch
class ResourcePatch(ChangeFields, ResourceFields):
    """Changes to a resource: omitted fields are kept, `null` clears a nullable field."""

    model_config = example(criticality="high")


class ResourceRead(ObjectRead):
    """A resource of processes, such as an application, equipment, a document or a supplier."""

    kind: ResourceKind
    owner_department_id: int | None
    owner_department: Brief | None
    location_id: int | None
    location: Brief | None
    criticality: Criticality | None
    url: str | None
