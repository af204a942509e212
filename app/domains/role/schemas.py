"""Schemas of role requests and responses."""

from app.domains.shared.schemas import Brief, ObjectFields, ObjectRead, Reference, example, merge_patch


class RoleFields(ObjectFields):
    department_id: Reference | None = None


class RoleCreate(RoleFields):
    """A role to register."""

    model_config = example(name="Data steward", description="Keeps master data clean.", department_id=1)


class RoleReplace(RoleFields):
    """Everything a role is to be from now on; what is absent takes its default."""

    model_config = example(name="Managing director", department_id=1)


@merge_patch
class RolePatch(RoleFields):
    """The changes to a role."""

    model_config = example(description="Answers for the whole company.")


class RoleRead(ObjectRead):
    """A job function, which any number of users may hold."""

    department_id: int | None
    department: Brief | None
