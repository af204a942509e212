"""Schemas of role requests and responses."""

from typing import Annotated

from pydantic import MISSING, Field

from app.domains.shared.schemas import (
    MAX_LINKS,
    Brief,
    ChangeFields,
    ObjectFields,
    ObjectRead,
    OnRequest,
    Reference,
    ReferringBody,
    Schema,
    example,
    merge_patch,
)


class RoleFields(ObjectFields):
    department_id: Reference | None = None


class RoleCreate(RoleFields):
    """A new role."""

    model_config = example(name="Data steward", description="Keeps master data clean.", department_id=1)


class RoleReplace(ChangeFields, RoleFields):
    """All fields of a role; omitted fields are reset to their defaults."""

    model_config = example(name="Managing director", department_id=1)


@merge_patch
class RolePatch(ChangeFields, RoleFields):
    """Changes to a role: omitted fields are kept, `null` clears a nullable field."""

    model_config = example(description="Answers for the whole company.")


class RoleHolders(ReferringBody):
    """All holders of a role."""

    model_config = example(user_ids=[1])

    user_ids: Annotated[list[Reference], Field(max_length=MAX_LINKS)]


class RoleHoldersItem(Schema):
    """All holders of one role."""

    role_id: Reference
    user_ids: Annotated[list[Reference], Field(max_length=MAX_LINKS)]


class RoleRead(ObjectRead):
    """A job function, held by any number of users."""

    department_id: int | None
    department: Brief | None
    holders: Annotated[
        list[Brief] | MISSING,
        OnRequest("users:read"),
        Field(description="Users who hold the role; only if `embed` or `fields` names it."),
    ] = MISSING
