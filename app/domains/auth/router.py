"""Routes of sign-in, of the caller, and of credentials."""

from typing import Annotated

from fastapi import Depends, Form, Response

from app.core.permissions import ADMIN_SESSION, AUTHENTICATED, PUBLIC, SESSION, requires
from app.domains.auth.schemas import (
    ApiTokenCreate,
    ApiTokenMade,
    ApiTokenRead,
    ChangePassword,
    Me,
    PasswordLink,
    Refresh,
    SessionRead,
    SetPassword,
    SignIn,
    TokenPair,
)
from app.domains.auth.service import AccountService
from app.domains.auth.sign_in import SignInService
from app.domains.shared.responses import BODY
from app.domains.shared.router import (
    LIST,
    Page,
    PageParameters,
    PathId,
    Reference,
    api_router,
    no_content,
    page_response,
    problems,
)
from app.utils.exceptions import Conflict, NotFound, RefreshRejected, TooManyRequests, WrongCredentials
from app.utils.oauth_errors import ISSUES_TOKENS

router = api_router("/auth", ["auth"])
# Registered before `/users/{reference}`, which would match `me`.
me = api_router("/users/me", ["me"])
api_tokens = api_router("/api-tokens", ["api tokens"])
users = api_router("/users", ["users"])

REQUIRES_NOTHING, REQUIRES_SESSION, REQUIRES_ADMIN = requires(PUBLIC), requires(SESSION), requires("admin")
REQUIRES_ADMIN_SESSION = requires(ADMIN_SESSION)

SignInServiceDep = Annotated[SignInService, Depends(SignInService.provide)]
Service = Annotated[AccountService, Depends(AccountService.provide)]


@router.post(
    "/token",
    responses=problems(WrongCredentials, TooManyRequests, *BODY),
    openapi_extra=REQUIRES_NOTHING | ISSUES_TOKENS,
)
async def sign_in(service: SignInServiceDep, form: Annotated[SignIn, Form()]) -> TokenPair:
    """Sign in with e-mail address and password (OAuth 2 password grant)."""
    return await service.sign_in(form)


@router.post("/refresh", responses=problems(RefreshRejected, *BODY), openapi_extra=REQUIRES_NOTHING | ISSUES_TOKENS)
async def refresh_token(service: SignInServiceDep, body: Refresh) -> TokenPair:
    """Exchange a refresh token for a new token pair.

    A repeat within ten seconds returns the same refresh token; later reuse ends the session.
    """
    return await service.refresh(body)


@router.post("/set-password", responses=problems(*BODY), openapi_extra=REQUIRES_NOTHING)
async def set_password(service: SignInServiceDep, body: SetPassword) -> TokenPair:
    """Set a password with a link token and sign in.

    Ends all other sessions of the user.
    """
    return await service.set_password(body)


@router.post("/logout", status_code=204, openapi_extra=REQUIRES_SESSION)
async def sign_out(service: Service) -> Response:
    """End the current session."""
    await service.end_own_session()
    return no_content()


@router.post("/logout-all", status_code=204, openapi_extra=REQUIRES_SESSION)
async def sign_out_everywhere(service: Service) -> Response:
    """End all sessions of the caller, including the current one."""
    await service.end_all_sessions()
    return no_content()


@router.get("/sessions", response_model=Page[SessionRead], responses=LIST, openapi_extra=REQUIRES_SESSION)
async def list_sessions(service: Service, query: PageParameters) -> Response:
    """List the sessions of the caller, newest first."""
    return page_response(await service.sessions(query), query)


@router.delete("/sessions/{session}", status_code=204, responses=problems(NotFound), openapi_extra=REQUIRES_SESSION)
async def end_session(service: Service, session: PathId) -> Response:
    """End one of the caller's sessions."""
    await service.end_session(session)
    return no_content()


@me.get("", openapi_extra=requires(AUTHENTICATED))
async def get_me(service: Service) -> Me:
    """Get the caller and the caller's permissions."""
    return await service.me()


@me.post("/password", status_code=204, responses=problems(TooManyRequests, *BODY), openapi_extra=REQUIRES_SESSION)
async def change_own_password(service: Service, body: ChangePassword) -> Response:
    """Change the caller's password.

    Ends all other sessions of the caller.
    """
    await service.change_password(body)
    return no_content()


@me.get("/tokens", response_model=Page[ApiTokenRead], responses=LIST, openapi_extra=REQUIRES_SESSION)
async def list_own_api_tokens(service: Service, query: PageParameters) -> Response:
    """List the caller's API tokens, newest first."""
    return page_response(await service.own_api_tokens(query), query)


@me.post("/tokens", status_code=201, responses=problems(Conflict, *BODY), openapi_extra=REQUIRES_SESSION)
async def create_own_api_token(service: Service, body: ApiTokenCreate) -> ApiTokenMade:
    """Create an API token for a program.

    The token is returned only in this response. A user may have 100 valid tokens.
    """
    return await service.create_api_token(body)


@me.delete("/tokens/{token}", status_code=204, responses=problems(NotFound), openapi_extra=REQUIRES_SESSION)
async def revoke_own_api_token(service: Service, token: PathId) -> Response:
    """Revoke one of the caller's API tokens."""
    await service.revoke_api_token(token, own=True)
    return no_content()


@api_tokens.get("", response_model=Page[ApiTokenRead], responses=LIST, openapi_extra=REQUIRES_ADMIN)
async def list_api_tokens(service: Service, query: PageParameters) -> Response:
    """List the API tokens of all users, newest first."""
    return page_response(await service.all_api_tokens(query), query)


@api_tokens.delete("/{token}", status_code=204, responses=problems(NotFound), openapi_extra=REQUIRES_ADMIN)
async def revoke_api_token(service: Service, token: PathId) -> Response:
    """Revoke an API token of any user."""
    await service.revoke_api_token(token, own=False)
    return no_content()


@users.post(
    "/{reference}/password-links",
    status_code=201,
    responses=problems(NotFound, Conflict),
    openapi_extra=REQUIRES_ADMIN_SESSION,
)
async def create_password_link(service: Service, reference: Reference) -> PasswordLink:
    """Create a link token with which a user sets a first or a new password.

    The token is valid once, for 24 hours, and replaces the user's previous link token.
    """
    return await service.create_password_link(reference)
