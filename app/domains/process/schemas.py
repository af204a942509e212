"""Schemas of process requests and responses."""

from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from app.domains.department.models import DepartmentRelation
from app.domains.process.models import ProcessKind, ProcessStatus
from app.domains.resource.models import ResourceUsage
from app.domains.role.models import RoleResponsibility
from app.domains.shared.schemas import (
    MAX_LINKS,
    Brief,
    ChangeFields,
    Criticality,
    ObjectRead,
    Reference,
    Schema,
    TreeFields,
    example,
    merge_patch,
)
from app.utils.fault_codes import invalid

_LinkLimit = Field(max_length=MAX_LINKS)


def _short_form(long_form: str, default: str | None) -> Any:
    """Return a field that lists ids only; the links' own field, if any, is set to `default`."""
    relation = f", each linked as `{default}`" if default else ""
    return Field(max_length=MAX_LINKS, description=f"Short form of `{long_form}`: ids only{relation}.")


def _reject_contradictions(links: list[Any], key: Callable[[Any], Any], noun: str) -> None:
    """Raise the error of `invalid` if entries with the same key differ; the writer removes duplicates."""
    seen: dict[Any, Any] = {}
    for link in links:
        other = seen.setdefault(key(link), link)
        if other is not link and other != link:
            raise invalid("contradicting_links", noun=noun)


def _check_departments(links: list["DepartmentLink"]) -> list["DepartmentLink"]:
    _reject_contradictions(links, lambda link: link.department_id, "department")
    if len({link.department_id for link in links if link.relation == "owner"}) > 1:
        raise invalid("several_owners")
    return links


def _check_resources(links: list["ResourceLink"]) -> list["ResourceLink"]:
    _reject_contradictions(links, lambda link: link.resource_id, "resource")
    return links


def _check_roles(links: list["RoleLink"]) -> list["RoleLink"]:
    if len({link.role_id for link in links if link.responsibility == "accountable"}) > 1:
        raise invalid("several_accountable")
    return links


class DepartmentLinkFields(Schema):
    """The relation of a department to a process."""

    relation: DepartmentRelation = "participant"


class ResourceLinkFields(Schema):
    """The use of a resource by a process."""

    usage: ResourceUsage = "uses"


class RoleLinkFields(Schema):
    """A responsibility of a role in a process."""

    responsibility: RoleResponsibility = "responsible"


class DepartmentLink(DepartmentLinkFields):
    department_id: Reference


class LocationLink(Schema):
    location_id: Reference


class ResourceLink(ResourceLinkFields):
    resource_id: Reference


class RoleLink(RoleLinkFields):
    role_id: Reference


class ProcessFields(TreeFields):
    kind: ProcessKind = "core"
    status: ProcessStatus = "draft"
    criticality: Criticality | None = None
    owner_id: Reference | None = None
    departments: Annotated[list[DepartmentLink], _LinkLimit, AfterValidator(_check_departments)] = []
    locations: Annotated[list[LocationLink], _LinkLimit] = []
    resources: Annotated[list[ResourceLink], _LinkLimit, AfterValidator(_check_resources)] = []
    roles: Annotated[list[RoleLink], _LinkLimit, AfterValidator(_check_roles)] = []
    department_ids: Annotated[list[Reference], _short_form("departments", "participant")] = []
    location_ids: Annotated[list[Reference], _short_form("locations", None)] = []
    resource_ids: Annotated[list[Reference], _short_form("resources", "uses")] = []
    role_ids: Annotated[list[Reference], _short_form("roles", "responsible")] = []

    @model_validator(mode="after")
    def _reject_both_forms(self) -> Self:
        for member in type(self).model_fields:
            name = member.removesuffix("_ids")
            if name != member and {f"{name}s", member} <= self.model_fields_set:
                raise invalid("both_forms", member=member, field=f"{name}s", short=member)
        return self


class ProcessCreate(ProcessFields):
    """A new process."""

    model_config = example(
        name="Onboard a supplier",
        kind="support",
        status="draft",
        criticality="medium",
        owner_id=1,
        departments=[{"department_id": 1, "relation": "owner"}, {"department_id": 2}],
        locations=[{"location_id": 1}],
        resources=[{"resource_id": 1, "usage": "writes"}],
        roles=[{"role_id": 1, "responsibility": "accountable"}, {"role_id": 2, "responsibility": "responsible"}],
    )


class ProcessReplace(ChangeFields, ProcessFields):
    """All fields of a process; omitted fields, including links, are reset to their defaults."""

    model_config = example(
        name="Lead the company", kind="management", status="active", department_ids=[1, 2], role_ids=[1]
    )


@merge_patch
class ProcessPatch(ChangeFields, ProcessFields):
    """Changes to a process: omitted fields are kept, `null` clears a nullable field.

    A list of links replaces only the links of its kind.
    """

    model_config = example(status="in_review", role_ids=[1, 2])


class ProcessDepartmentRead(Brief):
    """A department that takes part in a process."""

    relation: DepartmentRelation


class ProcessLocationRead(Brief):
    """A location where a process takes place."""


class ProcessResourceRead(Brief):
    """A resource that a process uses."""

    usage: ResourceUsage


class ProcessRoleRead(Brief):
    """A role with a responsibility in a process."""

    responsibility: RoleResponsibility


class ProcessRead(ObjectRead):
    """A process of the organisation with its links."""

    parent_id: int | None
    parent: Brief | None
    kind: ProcessKind
    status: ProcessStatus
    criticality: Criticality | None
    owner_id: int | None
    owner: Brief | None
    departments: list[ProcessDepartmentRead]
    locations: list[ProcessLocationRead]
    resources: list[ProcessResourceRead]
    roles: list[ProcessRoleRead]
