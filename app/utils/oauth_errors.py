"""The errors of RFC 6749, section 5.2, for the routes that issue tokens."""

import re
from collections.abc import Sequence
from typing import Literal

from app.utils.exceptions import Fault, InternalError, ServiceUnavailable, TooManyRequests, Unauthorized

# Part of the `openapi_extra` of these routes.
OAUTH = "x-oauth-errors"
ISSUES_TOKENS = {OAUTH: True}

OAuthError = Literal[
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "server_error",
    "temporarily_unavailable",
    "unsupported_grant_type",
]

# Section 5.2 has no error for requests that may succeed later. These are the ones of section 4.1.2.1.
_BY_STATUS: dict[int, OAuthError] = {
    Unauthorized.status: "invalid_grant",
    TooManyRequests.status: "temporarily_unavailable",
    InternalError.status: "server_error",
    ServiceUnavailable.status: "temporarily_unavailable",
}
# The code of a field that the route does not have.
_UNKNOWN_FIELD = "extra_forbidden"
# Characters that section 5.2 does not permit.
_NOT_ALLOWED = re.compile(r"[^ !#-\[\]-~]")


def oauth_members(status: int, detail: str, faults: Sequence[Fault] = ()) -> dict[str, str]:
    """Return `error` and `error_description`, in printable ASCII without `"` and `\\` as the RFC demands.

    The description is the first fault of the body with its field, or else the `detail`.
    """
    descriptions = (f"{fault.pointer[1:]}: {fault.detail}" for fault in faults if fault.source == "body")
    description = next(descriptions, detail).removeprefix(": ").replace('"', "'")
    return {"error": _oauth_error(status, faults), "error_description": _NOT_ALLOWED.sub("?", description)}


def _oauth_error(status: int, faults: Sequence[Fault]) -> OAuthError:
    fields = {fault.pointer for fault in faults if fault.source == "body" and fault.code != _UNKNOWN_FIELD}
    if "/grant_type" in fields:
        return "unsupported_grant_type"
    if fields == {"/scope"}:
        return "invalid_scope"
    return _BY_STATUS.get(status, "invalid_request")
