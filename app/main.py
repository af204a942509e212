"""The application: middleware, error handlers, routers, and the state of the process."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.api.api import TAGS, include_routers
from app.api.description import DESCRIPTION
from app.api.docs import add_docs, prepare_docs
from app.api.openapi import use_own_openapi
from app.api.problems import add_problem_handlers
from app.core.config import VERSION, Settings, get_settings
from app.core.database import Database
from app.core.http.authorisation import Authenticator
from app.core.http.bodies import UnfinishedBodies, large_body_places
from app.core.http.connections import CONNECTIONS, Connections
from app.core.http.long_polls import LongPolls
from app.core.http.middleware import (
    HeadMiddleware,
    RequestHeadMiddleware,
    TrailingSlashMiddleware,
    TrustedHostsMiddleware,
)
from app.core.http.rate_limit import RateLimitMiddleware
from app.core.http.routing import collect_known_parameters
from app.core.http.security_headers import SecurityHeadersMiddleware
from app.core.http.streaming import Streams
from app.core.migrations import head_revision
from app.core.passwords import Passwords
from app.core.readiness import Readiness
from app.core.server.memory import freeze_startup_objects
from app.core.server.stopping import prepare_stop
from app.core.tokens import Tokens
from app.domains.auth.callers import Callers
from app.domains.collections import prepare_common_statements
from app.domains.shared.history.feed_state import Epochs
from app.utils.logging_middleware import RequestMiddleware
from app.utils.logging_service import configure_logging
from app.utils.metrics import Metrics
from app.utils.password_strength import SERVICE_NAME

EXPOSED_HEADERS = (
    *("Content-Disposition", "ETag", "Idempotency-Replayed", "Link", "Location"),
    *("Retry-After", "WWW-Authenticate", "X-Request-ID"),
)
LAG_INTERVAL_SECONDS = 0.5
# Reading an integer takes quadratic time. This is the lowest limit that Python permits.
MAX_INTEGER_DIGITS = 640


def application() -> FastAPI:
    """Return the application of a server process. Raises `pydantic.ValidationError` for invalid settings."""
    settings = get_settings()
    configure_logging(settings.log_level, as_json=settings.env == "production")
    return create_app(settings)


def create_app(settings: Settings) -> FastAPI:
    """Return a new application. It connects to the database when it starts, or at the first request that needs it."""
    sys.set_int_max_str_digits(MAX_INTEGER_DIGITS)
    app = FastAPI(
        title=SERVICE_NAME,
        version=VERSION,
        summary="The processes of an organisation, their participants and their dependencies.",
        description=DESCRIPTION,
        openapi_tags=TAGS,
        contact={"name": "The maintainers of Process Register"},
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=[{"url": "/", "description": "This server"}],
        lifespan=_lifespan,
        redirect_slashes=False,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.metrics = Metrics()
    app.state.database = Database(settings.database_url or "postgresql://", settings)
    app.state.epochs = Epochs(app.state.database)
    app.state.streams = Streams(app.state.database, settings)
    app.state.large_bodies = large_body_places()
    app.state.unfinished_bodies = UnfinishedBodies(settings.max_unfinished_body_bytes)
    app.state.metrics.watch_pool(app.state.database.engine, settings.pool_size)
    app.state.readiness = Readiness(app.state.database, head_revision())
    app.state.long_polls = LongPolls(settings.wait_concurrency, app.state.readiness)
    app.state.passwords = Passwords(settings.hashing_concurrency)
    app.state.tokens = Tokens(settings)
    callers = Callers(app.state.database, app.state.tokens)
    app.state.authenticator = Authenticator(callers.find, callers.read_user, settings.caller_cache_seconds)
    app.state.database.forget_callers = app.state.authenticator.forget_users
    include_routers(app, settings)
    add_docs(app, settings)
    add_problem_handlers(app)
    use_own_openapi(app)
    _add_middleware(app, settings)
    return app


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    # The middleware added last is the outermost.
    if settings.rate_limit is not None:
        app.add_middleware(RateLimitMiddleware, rate=settings.rate_limit, authenticator=app.state.authenticator)
    app.add_middleware(TrailingSlashMiddleware)
    app.add_middleware(HeadMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_credentials=settings.cors_allow_credentials,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
    if "*" not in settings.trusted_hosts:
        app.add_middleware(TrustedHostsMiddleware, hosts=settings.trusted_hosts)
    app.add_middleware(RequestHeadMiddleware, limit=settings.max_header_bytes)
    app.add_middleware(RequestMiddleware, metrics=app.state.metrics)
    app.add_middleware(SecurityHeadersMiddleware, readiness=app.state.readiness)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    prepare_stop(app.state.readiness, app.state.settings.drain_seconds)
    collect_known_parameters(app.routes, app.openapi()["paths"])
    prepare_docs(app)
    connections = Connections(app.state.settings, app.state.metrics)
    work = (
        *(_measure_lag(app.state.metrics), connections.watch()),
        *(prepare_common_statements(), app.state.epochs.begin_at_start()),
    )
    tasks = [asyncio.create_task(each) for each in work]
    with freeze_startup_objects():
        yield {CONNECTIONS: connections}
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await app.state.database.dispose()


async def _measure_lag(metrics: Metrics) -> None:
    while True:
        due = time.monotonic() + LAG_INTERVAL_SECONDS
        await asyncio.sleep(LAG_INTERVAL_SECONDS)
        metrics.event_loop_lag.set(max(0.0, time.monotonic() - due))
