"""Schemas of user requests and responses."""

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from app.core.permissions import AccessLevel
from app.domains.shared.schemas import (
    Brief,
    ChangeFields,
    ObjectFields,
    ObjectRead,
    Reference,
    example,
    keep_omitted,
    merge_patch,
)
from app.domains.shared.texts import normalised, reject_ignorable
from app.utils.text.email_addresses import EMAIL_LENGTH, check_email


def _normalise_email(value: str) -> str:
    return check_email(normalised(value, EMAIL_LENGTH))


Email = Annotated[
    str,
    Field(max_length=EMAIL_LENGTH),
    AfterValidator(reject_ignorable),
    AfterValidator(_normalise_email),
    WithJsonSchema(
        {
            "type": "string",
            "format": "email",
            "maxLength": EMAIL_LENGTH,
            "description": "E-mail address for signing in, unique ignoring case.",
            "examples": ["ada.byron@register.example"],
        }
    ),
]


class UserFields(ObjectFields):
    email: Email
    department_id: Reference | None = None
    manager_id: Reference | None = None
    access_level: AccessLevel = "viewer"
    is_active: bool = True


class UserCreate(UserFields):
    """A new user."""

    model_config = example(name="Ada Byron", email="ada.byron@register.example", department_id=1, access_level="editor")


@keep_omitted("access_level", "is_active")
class UserReplace(ChangeFields, UserFields):
    """All fields of a user; omitted fields are reset to their defaults, but `access_level` and `is_active` are kept."""

    model_config = example(name="First administrator", email="admin@register.example", access_level="admin")


@merge_patch
class UserPatch(ChangeFields, UserFields):
    """Changes to a user: omitted fields are kept, `null` clears a nullable field."""

    model_config = example(description="Creates the first objects.")


class UserRead(ObjectRead):
    """A person of the organisation."""

    email: str
    department_id: int | None
    department: Brief | None
    manager_id: int | None
    manager: Brief | None
    access_level: AccessLevel
    is_active: bool
