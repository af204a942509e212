"""Permissions: the table of scopes, and the declaration of the permission that a route requires.

A caller has a scope if the user's access level includes it and the token was not narrowed to other scopes; `x:write`
includes `x:read`. Each route declares its permission in `openapi_extra`; the same declaration is enforced
(`core/http/routing.py`) and documented.
"""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

AccessLevel = Literal["viewer", "editor", "admin"]
LEVELS: tuple[AccessLevel, ...] = get_args(AccessLevel)

# The lowest access levels that may read and write each collection.
_COLLECTIONS: dict[str, tuple[AccessLevel, AccessLevel]] = {
    "processes": ("viewer", "editor"),
    "departments": ("viewer", "editor"),
    "locations": ("viewer", "editor"),
    "resources": ("viewer", "editor"),
    "roles": ("viewer", "editor"),
    "users": ("viewer", "admin"),
}
# The lowest access level that has each scope. `admin` covers the credentials of other users and the changes of users,
# `operations:read` covers metrics and pages that are not public.
SCOPES: dict[str, AccessLevel] = {
    **{
        f"{name}:{action}": level
        for name, levels in _COLLECTIONS.items()
        for action, level in zip(("read", "write"), levels, strict=True)
    },
    "changes:read": "viewer",
    "operations:read": "admin",
    "admin": "admin",
}
# Responses to writes contain the object, so the permission to write a collection includes the permission to read it.
_INCLUDED = {f"{name}:write": f"{name}:read" for name in _COLLECTIONS}
# A plain `str` to type checkers; schemas list the scopes, and `requires` rejects other values.
if TYPE_CHECKING:
    Scope = str
else:
    Scope = Literal[tuple(SCOPES)]

# The permissions that a route may declare instead of a scope.
PUBLIC = "public"
AUTHENTICATED = "authenticated"
# Managing credentials requires a sign-in: a leaked API token must not be able to create other tokens.
SESSION = "session"
# The same for the credentials of other users.
ADMIN_SESSION = "admin-session"

DECLARATION = "x-permission"
PASSWORD_SCHEME = "signIn"  # noqa: S105 - the name of a scheme
TOKEN_SCHEME = "apiToken"  # noqa: S105


@cache
def scopes_of(level: AccessLevel) -> frozenset[Scope]:
    """Return the scopes of an access level."""
    rank = LEVELS.index(level)
    return frozenset(scope for scope, lowest in SCOPES.items() if LEVELS.index(lowest) <= rank)


@cache
def readable_collections(scopes: frozenset[Scope]) -> frozenset[str]:
    """Return the names of the collections that a caller with these scopes may read."""
    return frozenset(name for name in _COLLECTIONS if f"{name}:read" in scopes)


def effective_scopes(level: AccessLevel, requested: Iterable[Scope] | None) -> frozenset[Scope]:
    """Return the scopes of a token: those it was created with, and those included in them, as far as the level permits.

    None as `requested` stands for all scopes of the access level.
    """
    if requested is None:
        return scopes_of(level)
    asked = frozenset(requested)
    return scopes_of(level) & (asked | {_INCLUDED[scope] for scope in asked & _INCLUDED.keys()})


def requires(permission: str) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that requires a scope or one of the constants above.

    Raises `ValueError` for any other permission.
    """
    if permission not in SCOPES and permission not in {PUBLIC, AUTHENTICATED, SESSION, ADMIN_SESSION}:
        raise ValueError(f"there is no permission {permission!r}")
    scopes: list[str] = [permission] if permission in SCOPES else []
    if permission == ADMIN_SESSION:
        scopes = ["admin"]
    schemes: list[dict[str, list[str]]] = []
    if permission != PUBLIC:
        schemes.append({PASSWORD_SCHEME: scopes})
    if permission not in {PUBLIC, SESSION, ADMIN_SESSION}:
        # Only OAuth 2 has scopes in OpenAPI; for a token, `x-permission` names the scope.
        schemes.append({TOKEN_SCHEME: []})
    return {DECLARATION: permission, "security": schemes}
