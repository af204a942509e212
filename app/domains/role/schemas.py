"""What clients send and get of roles."""

from app.domains.shared.schemas import Brief, ObjectFields, ObjectRead, Reference, merge_patch


class RoleFields(ObjectFields):
    department_id: Reference | None = None


class RoleCreate(RoleFields):
    """A role to register."""


class RoleReplace(RoleFields):
    """Everything a role is to be from now on; what is absent takes its default."""


@merge_patch
class RolePatch(RoleFields):
    """The changes to a role."""


class RoleRead(ObjectRead):
    """A job function, which any number of users may hold."""

    department_id: int | None
    department: Brief | None
