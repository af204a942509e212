"""Initialises a database: schema, first administrator, demo data.

Every step is idempotent, also when replicas start together: the first does the work, and the others find it done.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import URL, select

from app.core.caller import SYSTEM_CALLER, Caller
from app.core.config import Settings
from app.core.database import Database, RegisterSession
from app.core.migrations import upgrade
from app.core.passwords import Passwords
from app.domains.auth.credentials import store_password
from app.domains.auth.models import Credential
from app.domains.collections import COLLECTIONS
from app.domains.register.demo_data import load_demo_data
from app.domains.user.administrators import first_administrator
from app.domains.user.models import User
from app.domains.user.schemas import UserCreate
from app.domains.user.service import UserService
from app.utils.exceptions import CommonPassword
from app.utils.fault_codes import text_of

Report = Callable[[str], None]

# Start-up may wait for the initialisation by another replica.
_STATEMENT_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Administrator:
    """The first administrator, with the password if it was just generated: it cannot be read later."""

    email: str
    has_password: bool
    new_password: str | None = None


async def initialise(settings: Settings, url: str | URL, report: Report, *, demo_data: bool) -> Administrator:
    """Prepare a database for serving requests, and return the first administrator."""
    report("Upgrading the schema …")
    await asyncio.to_thread(upgrade, url)
    init_settings = settings.model_copy(
        update={
            "statement_timeout": _STATEMENT_TIMEOUT_SECONDS,
            "lock_timeout": _STATEMENT_TIMEOUT_SECONDS,
            "pool_size": 1,
        }
    )
    database = Database(url, init_settings)
    try:
        async with database.transaction() as session:
            await session.lock("first data")
            caller = await first_administrator(session)
            if caller is None:
                report(f"Creating the first administrator, {settings.first_admin_email} …")
                body = UserCreate(
                    name=settings.first_admin_name, email=settings.first_admin_email, access_level="admin"
                )
                await UserService(session, SYSTEM_CALLER).create(body)
                caller = await first_administrator(session)
                assert caller is not None
            new_password = await _set_password(session, caller, settings)
            if demo_data and await _is_empty(session):
                report("Loading the demo data …")
                await load_demo_data(session, caller, with_passwords=settings.env != "production")
            email: str = await session.scalar(select(User.email).where(User.id == caller.id)) or ""
            has_password = await _has_password(session, caller)
    finally:
        await database.dispose()
    return Administrator(email, has_password, new_password)


async def _set_password(session: RegisterSession, caller: Caller, settings: Settings) -> str | None:
    """Set the first administrator's password unless one is set; return it if it was generated.

    Raises `CommonPassword` if the password of the settings is easy to guess.
    """
    if await _has_password(session, caller):
        return None
    if weakness := settings.first_admin_weakness():
        raise CommonPassword(f"FIRST_ADMIN_PASSWORD is rejected. {text_of(weakness)}")
    configured = settings.first_admin_password
    if configured is None and settings.env == "production":
        return None  # a generated password would end up in the logs of the job
    password = configured.get_secret_value() if configured is not None else secrets.token_urlsafe(12)
    await store_password(session, caller, caller.user_id, await Passwords(1).hash(password))
    return password if configured is None else None


async def _has_password(session: RegisterSession, caller: Caller) -> bool:
    query = select(Credential.user_id).where(Credential.user_id == caller.id)
    return await session.scalar(query) is not None


async def _is_empty(session: RegisterSession) -> bool:
    for entry in COLLECTIONS:
        model = entry.collection.model
        # The users always include the first administrator.
        if model is not User and await session.scalar(select(model.id).limit(1)) is not None:
            return False
    return True
