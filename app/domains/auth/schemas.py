"""Schemas of sign-in and credential requests and responses."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from app.core.passwords import MAX_LENGTH, MIN_LENGTH
from app.core.permissions import SCOPES, AccessLevel, Scope
from app.domains.shared.schemas import Brief, Instant, Schema, example
from app.domains.shared.texts import UNSTORABLE_CHARACTER, Name, normalised
from app.utils.fault_codes import invalid
from app.utils.text.email_addresses import EMAIL_LENGTH, comparable_email

MAX_API_TOKEN_DAYS = 365
DEFAULT_API_TOKEN_DAYS = 90
MAX_TOKEN_LENGTH = 128

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _reject_surrogates(secret: SecretStr) -> SecretStr:
    if _SURROGATE.search(secret.get_secret_value()):
        raise invalid("surrogate")
    return secret


def _clean_username(value: str) -> str:
    if UNSTORABLE_CHARACTER.search(value):
        raise invalid("control_character:stored")
    return comparable_email(normalised(value.strip(), EMAIL_LENGTH))


# Only a new password must have the minimum length.
Password = Annotated[SecretStr, Field(max_length=MAX_LENGTH), AfterValidator(_reject_surrogates)]
NewPassword = Annotated[
    SecretStr,
    Field(
        min_length=MIN_LENGTH,
        max_length=MAX_LENGTH,
        description="Must be hard to guess: a common word, the user's name or e-mail address, or a repetition is "
        "rejected.",
        examples=["correct-horse-battery-staple"],
    ),
    AfterValidator(_reject_surrogates),
]
OpaqueToken = Annotated[SecretStr, Field(max_length=MAX_TOKEN_LENGTH), AfterValidator(_reject_surrogates)]


def _check_scopes(value: str) -> str:
    if not SCOPES.keys() >= set(value.split()):
        raise invalid("unknown_scope")
    return value


class SignIn(BaseModel):
    """The form of the OAuth 2 password grant (RFC 6749, section 4.3.2); unknown fields are ignored."""

    model_config = example(
        username="owen.tarrant@tarnbeck.example",
        password="try-the-register",  # noqa: S106 - the password of the demo data
    ) | ConfigDict(extra="ignore")

    grant_type: Literal["password"] = "password"
    username: Annotated[
        str, Field(max_length=EMAIL_LENGTH, description="E-mail address."), AfterValidator(_clean_username)
    ]
    password: Password
    scope: Annotated[
        str,
        Field(
            max_length=1000,
            description="Scopes of the session, separated by spaces; all scopes of the user by default.",
        ),
        AfterValidator(_check_scopes),
    ] = ""


class Refresh(Schema):
    """The refresh token to exchange."""

    model_config = example(refresh_token="prr_…")  # noqa: S106 - a public example, like those below

    refresh_token: OpaqueToken


class SetPassword(Schema):
    """The link token and the new password."""

    model_config = example(token="prl_…", password="correct-horse-battery-staple")  # noqa: S106

    token: OpaqueToken
    password: NewPassword


class ChangePassword(Schema):
    """The current and the new password."""

    model_config = example(old_password="try-the-register", new_password="correct-horse-battery-staple")  # noqa: S106

    old_password: Password
    new_password: NewPassword


class TokenPair(Schema):
    """An access token for the `Authorization` header, and a refresh token to exchange for the next pair."""

    access_token: str
    token_type: Literal["bearer"]
    expires_in: Annotated[int, Field(description="Seconds until the access token expires.")]
    refresh_token: Annotated[str, Field(description="Can be used once, within 30 days.")]
    scope: Annotated[str, Field(description="Scopes of the session, with the included ones, separated by spaces.")]


class SessionRead(Schema):
    """A session of the user."""

    id: int
    created_at: Instant
    last_used_at: Annotated[Instant, Field(description="Time of the last refresh.")]
    expires_at: Instant
    address: Annotated[
        str,
        Field(description="IP address of the client; for IPv6 only its /64 network.", examples=["192.0.2.7"]),
    ]
    user_agent: str | None
    scopes: Annotated[list[Scope] | None, Field(description="Null if the session is not limited to certain scopes.")]
    current: Annotated[bool, Field(description="Whether this request belongs to the session.")]


class PasswordLink(Schema):
    """The token of a link with which a user sets a password once; it is returned only here."""

    token: Annotated[str, Field(examples=["prl_…"])]
    expires_at: Instant


class ApiTokenCreate(Schema):
    """A new API token."""

    model_config = example(name="Nightly export", scopes=["processes:read", "departments:read"], expires_in_days=30)

    name: Name
    scopes: Annotated[
        list[Scope],
        Field(
            min_length=1,
            max_length=len(SCOPES),
            description="Scopes of the token; `x:write` includes `x:read`. It never exceeds the scopes of its user.",
        ),
    ]
    expires_in_days: Annotated[int, Field(ge=1, le=MAX_API_TOKEN_DAYS)] = DEFAULT_API_TOKEN_DAYS


class ApiTokenRead(Schema):
    """An API token, without its secret."""

    id: int
    name: str
    scopes: list[Scope]
    user: Brief
    created_at: Instant
    expires_at: Instant
    last_used_at: Annotated[Instant | None, Field(description="Time of the last use, accurate to a minute.")]


class ApiTokenMade(ApiTokenRead):
    """A new API token with its secret, which is returned only here."""

    token: Annotated[str, Field(examples=["prt_…"])]


class Me(Schema):
    """The caller with the scopes of the token of this request."""

    id: int
    code: str | None
    name: str
    email: str
    access_level: AccessLevel
    scopes: Annotated[list[Scope], Field(description="Scopes of the token of this request, with the included ones.")]
    department: Brief | None
