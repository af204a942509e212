"""Makes a database ready: schema, first administrator, demo data.

Every step may run at every start, and from several replicas at once: the first does the work, the others find it done.
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

Report = Callable[[str], None]

# Start-up may wait for another replica that does the same.
_STATEMENT_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Administrator:
    """The first administrator, and the password if it was made just now: nobody can find it out later."""

    email: str
    has_password: bool
    new_password: str | None = None


async def initialise(settings: Settings, url: str | URL, report: Report, *, demo_data: bool) -> Administrator:
    """Bring a database to where requests can be served, and return the first administrator."""
    report("Bringing the schema up to date …")
    await asyncio.to_thread(upgrade, url)
    patient = settings.model_copy(
        update={
            "statement_timeout": _STATEMENT_TIMEOUT_SECONDS,
            "lock_timeout": _STATEMENT_TIMEOUT_SECONDS,
            "pool_size": 1,
        }
    )
    database = Database(url, patient)
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
            new_password = await _give_password(session, caller, settings)
            if demo_data and await _is_empty(session):
                report("Loading the demo data …")
                await load_demo_data(session, caller, with_passwords=settings.env != "production")
            email: str = await session.scalar(select(User.email).where(User.id == caller.id)) or ""
            has_password = await _has_password(session, caller)
    finally:
        await database.dispose()
    return Administrator(email, has_password, new_password)


async def _give_password(session: RegisterSession, caller: Caller, settings: Settings) -> str | None:
    """Give the first administrator a password, unless there is one; return it when it was made here."""
    if await _has_password(session, caller):
        return None
    given = settings.first_admin_password
    if given is None and settings.env == "production":
        return None  # what a production job prints ends up in its logs
    password = given.get_secret_value() if given is not None else secrets.token_urlsafe(12)
    await store_password(session, caller, caller.user_id, await Passwords(1).hash(password))
    return password if given is None else None


async def _has_password(session: RegisterSession, caller: Caller) -> bool:
    query = select(Credential.user_id).where(Credential.user_id == caller.id)
    return await session.scalar(query) is not None


async def _is_empty(session: RegisterSession) -> bool:
    for entry in COLLECTIONS:
        model = entry.collection.model
        # Of users there is the first administrator.
        if model is not User and await session.scalar(select(model.id).limit(1)) is not None:
            return False
    return True
