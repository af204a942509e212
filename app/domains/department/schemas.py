"""What clients send and get of departments."""

from app.domains.shared.schemas import Brief, ObjectRead, Reference, TreeFields, merge_patch


class DepartmentFields(TreeFields):
    head_id: Reference | None = None


class DepartmentCreate(DepartmentFields):
    """A department to register."""


class DepartmentReplace(DepartmentFields):
    """Everything a department is to be from now on; what is absent takes its default."""


@merge_patch
class DepartmentPatch(DepartmentFields):
    """The changes to a department."""


class DepartmentRead(ObjectRead):
    """A unit of the organisation."""

    parent_id: int | None
    parent: Brief | None
    head_id: int | None
    head: Brief | None
