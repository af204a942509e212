"""Who may do what: the one table of scopes, and how a route declares the one it needs.

A caller has a scope when the access level of the user includes it and the token was not narrowed to others. Each route
declares what it needs as its `openapi_extra`; the same declaration is enforced (`core/http/routing.py`) and documented.
"""

from typing import TYPE_CHECKING, Any, Literal, get_args

AccessLevel = Literal["viewer", "editor", "admin"]
LEVELS: tuple[AccessLevel, ...] = get_args(AccessLevel)

# The least access levels that read and write each collection.
_COLLECTIONS: dict[str, tuple[AccessLevel, AccessLevel]] = {
    "processes": ("viewer", "editor"),
    "departments": ("viewer", "editor"),
    "locations": ("viewer", "editor"),
    "resources": ("viewer", "editor"),
    "roles": ("viewer", "editor"),
    "users": ("viewer", "admin"),
}
# The least access level that has each scope. `admin` stands for the credentials of others and the changes of users,
# `operations:read` for metrics and pages that are not public.
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
# To a type checker any text; schemas know the scopes, and `requires` refuses others.
if TYPE_CHECKING:
    Scope = str
else:
    Scope = Literal[tuple(SCOPES)]

# What a route may declare instead of a scope.
PUBLIC = "public"
AUTHENTICATED = "authenticated"
# Credentials are managed by somebody who signed in: a leaked API token must not be able to make more of its kind.
SESSION = "session"
# Likewise for the credentials of others.
ADMIN_SESSION = "admin-session"

DECLARATION = "x-permission"
PASSWORD_SCHEME = "signIn"  # noqa: S105 - the name of a scheme
TOKEN_SCHEME = "apiToken"  # noqa: S105


def scopes_of(level: AccessLevel) -> frozenset[Scope]:
    """Return the scopes of an access level."""
    rank = LEVELS.index(level)
    return frozenset(scope for scope, least in SCOPES.items() if LEVELS.index(least) <= rank)


def requires(permission: str) -> dict[str, Any]:
    """Return the declaration of a route, for its `openapi_extra`: a scope, or one of the constants above.

    Raises `ValueError` for anything else.
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
        # Only OAuth 2 has scopes in OpenAPI; what a token needs stands in the declaration.
        schemes.append({TOKEN_SCHEME: []})
    return {DECLARATION: permission, "security": schemes}
