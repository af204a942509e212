"""The database operations of the command line."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from pydantic import ValidationError
from sqlalchemy import literal, select

from app.core.caller import Caller
from app.core.config import Settings
from app.core.database import Database, RegisterSession
from app.domains.auth.credentials import create_password_link
from app.domains.auth.schemas import PasswordLink
from app.domains.register.demo_data import load_demo_data
from app.domains.register.housekeeping import clean_up
from app.domains.shared.models import folded, table_of
from app.domains.user.administrators import NOT_INITIALISED, first_administrator
from app.domains.user.models import User
from app.domains.user.schemas import UserCreate
from app.domains.user.service import UserService
from app.utils.text.email_addresses import comparable_email
from app.utils.validation import error_text


async def seed_demo_data(settings: Settings, url: str) -> None:
    async with unit_of_work(settings, url) as (session, caller):
        await load_demo_data(session, caller, with_passwords=settings.env != "production")


async def issue_password_link(settings: Settings, url: str, email: str) -> PasswordLink:
    async with unit_of_work(settings, url) as (session, caller):
        has_email = folded(table_of(User).c.email) == folded(literal(comparable_email(email)), "email")
        user_id = await session.scalar(select(User.id).where(has_email))
        if user_id is None:
            raise click.ClickException(f"There is no user with the e-mail address {email}.")
        return await create_password_link(session, caller, user_id)


async def clean_up_all(settings: Settings, url: str) -> dict[str, int]:
    database = Database(url, settings)
    try:
        return await clean_up(database, settings.history_days)
    finally:
        await database.dispose()


async def create_administrator(settings: Settings, url: str, email: str, name: str) -> PasswordLink:
    async with unit_of_work(settings, url) as (session, caller):
        try:
            body = UserCreate(email=email, name=name, access_level="admin")
        except ValidationError as error:
            faults = (f"{fault['loc'][0]}: {error_text(fault)}" for fault in error.errors())
            raise click.UsageError(" ".join(faults)) from error
        user = await UserService(session, caller).create(body)
        return await create_password_link(session, caller, user.id)


@asynccontextmanager
async def unit_of_work(settings: Settings, url: str) -> AsyncIterator[tuple[RegisterSession, Caller]]:
    """Yield a session and the first administrator as the caller; commit at the end.

    Raises `click.ClickException` if the register is not initialised.
    """
    database = Database(url, settings)
    try:
        async with database.transaction() as session:
            caller = await first_administrator(session)
            if caller is None:
                raise click.ClickException(NOT_INITIALISED)
            yield session, caller
    finally:
        await database.dispose()
