"""Schemas of sign-in and credential requests and responses."""

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from app.core.passwords import MAX_LENGTH, MIN_LENGTH
from app.core.permissions import SCOPES, AccessLevel, Scope
from app.domains.shared.schemas import NO_TEXT, Brief, Instant, Name, Schema, example
from app.domains.user.models import EMAIL_LENGTH

MAX_API_TOKEN_DAYS = 365
DEFAULT_API_TOKEN_DAYS = 90
MAX_TOKEN_LENGTH = 128

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _reject_surrogates(secret: SecretStr) -> SecretStr:
    if _SURROGATE.search(secret.get_secret_value()):
        raise PydanticCustomError("surrogate", "Text may not contain surrogates")
    return secret


def _clean_text(value: str) -> str:
    if NO_TEXT.search(value):
        raise PydanticCustomError("control_character", "Text may not contain NUL or surrogates")
    return unicodedata.normalize("NFC", value.strip())


# Only a new password must have the minimum length.
Password = Annotated[SecretStr, Field(max_length=MAX_LENGTH), AfterValidator(_reject_surrogates)]
NewPassword = Annotated[
    SecretStr,
    Field(
        min_length=MIN_LENGTH,
        max_length=MAX_LENGTH,
        description="No common one.",
        examples=["correct-horse-battery-staple"],
    ),
    AfterValidator(_reject_surrogates),
]
OpaqueToken = Annotated[SecretStr, Field(max_length=MAX_TOKEN_LENGTH), AfterValidator(_reject_surrogates)]


def _check_scopes(value: str) -> str:
    if not SCOPES.keys() >= set(value.split()):
        raise PydanticCustomError("unknown_scope", "Scopes must be known ones, separated by spaces")
    return value


class SignIn(BaseModel):
    """The form of OAuth 2's password grant (RFC 6749, section 4.3.2); fields that it does not know are ignored."""

    model_config = example(
        username="owen.tarrant@tarnbeck.example",
        password="try-the-register",  # noqa: S106 - the password of the demo data
    ) | ConfigDict(extra="ignore")

    grant_type: Literal["password"] = "password"
    username: Annotated[str, Field(max_length=EMAIL_LENGTH, description="E-mail address."), AfterValidator(_clean_text)]
    password: Password
    scope: Annotated[
        str,
        Field(max_length=1000, description="Scopes to narrow the session to, separated by spaces."),
        AfterValidator(_check_scopes),
    ] = ""


class Refresh(Schema):
    """A refresh token, to be exchanged."""

    model_config = example(refresh_token="prr_…")  # noqa: S106 - a public example, like those below

    refresh_token: OpaqueToken


class SetPassword(Schema):
    """The token of a link, and the password to be."""

    model_config = example(token="prl_…", password="correct-horse-battery-staple")  # noqa: S106

    token: OpaqueToken
    password: NewPassword


class ChangePassword(Schema):
    """The password that was, and the one to be."""

    model_config = example(old_password="try-the-register", new_password="correct-horse-battery-staple")  # noqa: S106

    old_password: Password
    new_password: NewPassword


class TokenPair(Schema):
    """An access token for the `Authorization` header, and the refresh token with which to get the next."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: Annotated[int, Field(description="Seconds until the access token expires.")]
    refresh_token: Annotated[str, Field(description="Valid once, for 30 days.")]
    scope: Annotated[str, Field(description="The session's scopes, separated by spaces.")]


class SessionRead(Schema):
    """A place where the user is signed in."""

    id: int
    created_at: Instant
    last_used_at: Annotated[Instant, Field(description="When it was last refreshed.")]
    expires_at: Instant
    address: Annotated[str, Field(description="IP address, of IPv6 the /64 network.", examples=["192.0.2.7"])]
    user_agent: str | None
    scopes: Annotated[list[Scope] | None, Field(description="Null when it was not narrowed.")]
    current: Annotated[bool, Field(description="Whether this request belongs to it.")]


class PasswordLink(Schema):
    """The token of a link by which a user sets a password, once. It is shown here and never again."""

    token: Annotated[str, Field(examples=["prl_…"])]
    expires_at: Instant


class ApiTokenCreate(Schema):
    """An API token to make."""

    model_config = example(name="Nightly export", scopes=["processes:read", "departments:read"], expires_in_days=30)

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES), description="What it may do.")]
    expires_in_days: Annotated[int, Field(ge=1, le=MAX_API_TOKEN_DAYS)] = DEFAULT_API_TOKEN_DAYS


class ApiTokenRead(Schema):
    """What is known of an API token."""

    id: int
    name: str
    scopes: list[Scope]
    user: Brief
    created_at: Instant
    expires_at: Instant
    last_used_at: Annotated[Instant | None, Field(description="To within a minute.")]


class ApiTokenMade(ApiTokenRead):
    """A new API token. It is shown here and never again."""

    token: Annotated[str, Field(examples=["prt_…"])]


class Me(Schema):
    """The caller."""

    id: int
    code: str | None
    name: str
    email: str
    access_level: AccessLevel
    scopes: Annotated[list[Scope], Field(description="What this token may do.")]
    department: Brief | None
