"""The command line: run, serve, migrate, init, seed, create-admin, openapi."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import click
import uvicorn
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.config import Settings, get_settings
from app.core.database import Database, IntegrityViolation, commit
from app.core.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from app.core.migrations import upgrade
from app.core.security import Caller, first_administrator
from app.domains.shared.constraints import explain
from app.domains.user.schemas import UserCreate
from app.domains.user.service import UserService
from app.main import create_app
from app.utils.db_init import initialise, load_demo_data
from app.utils.exceptions import RegisterError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Process Register: which processes we run, who takes part in them, what breaks when one goes away.

    Settings come from the environment and from .env; docs/04-configuration.md lists them.
    """


@cli.command()
def run() -> None:
    """Make everything ready and serve, with a private PostgreSQL when DATABASE_URL is not set."""
    settings = get_settings()
    _refuse_taken_port(settings)
    with _database_url(settings) as url:
        demo_data = settings.demo_data and settings.env != "production"
        email = asyncio.run(initialise(settings, url, _report, demo_data=demo_data))
        # Server processes read their settings from the environment.
        os.environ["DATABASE_URL"] = url
        get_settings.cache_clear()
        settings = get_settings()
        _report("")
        _report(f"  Documentation   http://{settings.host}:{settings.port}/docs")
        _report(f"  Administrator   {email}")
        _report("  Stop with Ctrl-C; the data is kept.")
        _report("")
        _serve(settings, reload=False)


@cli.command()
@click.option("--reload", is_flag=True, help="Start again when a source file changes.")
def serve(*, reload: bool) -> None:
    """Serve, on a database that is ready."""
    _required_url()
    _serve(get_settings(), reload=reload)


@cli.command()
def migrate() -> None:
    """Bring the schema up to date. May run from several replicas at once."""
    upgrade(_required_url())
    _report("The schema is up to date.")


@cli.command()
@click.option("--demo-data", is_flag=True, help="Load the demo data, too, if the register is empty.")
def init(*, demo_data: bool) -> None:
    """Bring the schema up to date and make the first administrator. May run at every start."""
    email = asyncio.run(initialise(get_settings(), _required_url(), _report, demo_data=demo_data))
    _report(f"Ready. The first administrator is {email}.")


@cli.command()
def seed() -> None:
    """Load the demo data."""
    asyncio.run(_seed(get_settings(), _required_url()))
    _report("The demo data is loaded.")


@cli.command("create-admin")
@click.argument("email")
@click.option("--name", default="Administrator", show_default=True)
def create_admin(email: str, name: str) -> None:
    """Make another administrator."""
    asyncio.run(_create_admin(get_settings(), _required_url(), email, name))
    _report(f"{email} is an administrator now.")


@cli.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of standard output.")
def openapi(output: Path | None) -> None:
    """Print the OpenAPI document."""
    document = json.dumps(create_app(Settings(_env_file=None)).openapi(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(document, nl=False)
    else:
        output.write_text(document, "utf-8")


def main() -> None:
    """Run the command line; a fault that a person can mend is told in words, without a traceback."""
    try:
        cli(prog_name="python -m app")
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_input=False):
            name = ".".join(map(str, fault["loc"])).upper()
            _report(f"Bad setting: {name + ': ' if name else ''}{fault['msg'].removeprefix('Value error, ')}")
        sys.exit(2)
    except IntegrityViolation as violation:
        _report(str(explain(violation) or violation.constraint))
        sys.exit(1)
    except (EmbeddedPostgresError, RegisterError) as error:
        _report(str(error))
        sys.exit(1)


def _report(line: str) -> None:
    click.echo(line, err=True)


def _required_url() -> str:
    url = get_settings().database_url
    if url is None:
        raise click.UsageError("Set DATABASE_URL, or use `python -m app run`, which brings a database of its own.")
    return url


@contextmanager
def _database_url(settings: Settings) -> Iterator[str]:
    """Yield the URL of the configured database, or of a private one for as long as the context lasts."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    # Without a handler, SIGTERM would end this process before the private server is stopped.
    signal.signal(signal.SIGTERM, _exit)
    with EmbeddedPostgres(settings.data_dir, report=_report) as url:
        yield url


def _refuse_taken_port(settings: Settings) -> None:
    """Find out now, not after a minute of installing and seeding."""
    try:
        with socket.create_server((settings.host, settings.port)):
            pass
    except OSError as error:
        place = f"{settings.host}:{settings.port}"
        raise click.ClickException(
            f"Cannot listen on {place} ({os.strerror(error.errno or 0)}). Choose another PORT."
        ) from error


def _exit(_number: int, _frame: Any) -> None:
    sys.exit(0)


def _serve(settings: Settings, *, reload: bool) -> None:
    # When it has stopped, uvicorn raises the signal again for the handler that was there before: ours exits with 0, and
    # what surrounds us is left in order.
    signal.signal(signal.SIGTERM, _exit)
    uvicorn.run(
        "app.main:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        reload=reload,
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.graceful_stop_seconds,
    )


async def _seed(settings: Settings, url: str) -> None:
    async with _unit_of_work(settings, url) as (session, caller):
        await load_demo_data(session, caller)


async def _create_admin(settings: Settings, url: str, email: str, name: str) -> None:
    async with _unit_of_work(settings, url) as (session, caller):
        try:
            body = UserCreate(email=email, name=name, access_level="admin")
        except ValidationError as error:
            faults = (f"{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
            raise click.UsageError("; ".join(faults)) from error
        await UserService(session, caller).create(body)


@asynccontextmanager
async def _unit_of_work(settings: Settings, url: str) -> AsyncIterator[tuple[AsyncSession, Caller]]:
    """Give a command its session and the first administrator as the caller, and commit at the end."""
    database = Database(url, settings)
    try:
        async with database.sessions() as session:
            try:
                caller = await first_administrator(session)
            except asyncpg.UndefinedTableError:
                caller = None
            if caller is None:
                raise click.ClickException("Run `python -m app init` first.")
            yield session, caller
            await commit(session)
    finally:
        await database.dispose()
