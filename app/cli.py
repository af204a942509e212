"""The command line: arguments, help and output of each command. `app/tasks.py` and the domains do the work."""

import asyncio
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from app.core.config import Settings, describe_faults, get_settings
from app.core.database_errors import IntegrityViolation
from app.core.local_postgres import EmbeddedPostgres, EmbeddedPostgresError
from app.core.migrations import MigrationRejectedError
from app.utils.exceptions import RegisterError
from app.utils.wording import counted, printable

# Each command imports its modules when it is called: importing all takes seconds, and megabytes in every server.
if TYPE_CHECKING:
    from app.domains.auth.schemas import PasswordLink
    from app.utils.db_init import Administrator

# Texts for those outcomes of an import whose names do not fit into a sentence.
_OUTCOMES = {"create": "created", "change": "changed", "done": "already imported"}


class _Group(click.Group):
    """A group whose errors are printable: they may repeat names and texts of files."""

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command. Raises `click.UsageError` or `click.ClickException` with a printable message."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise click.UsageError(printable(error.format_message()), error.ctx) from error
        except click.ClickException as error:
            raise click.ClickException(printable(error.format_message())) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Process Register: the processes of an organisation, their participants and their dependencies.

    Settings are read from the environment and from .env; docs/04-configuration.md lists them.
    """


@cli.command()
def run() -> None:
    """Initialise the database and serve the API. Without DATABASE_URL, a private PostgreSQL is started."""
    from app.utils.db_init import initialise

    signal.signal(signal.SIGTERM, _exit)
    settings = get_settings()
    _reject_port_in_use(settings)
    with _database_url(settings) as url:
        demo_data = settings.demo_data and settings.env != "production"
        administrator = asyncio.run(initialise(settings, url, _report, demo_data=demo_data))
        # Server processes read their settings from the environment.
        os.environ["DATABASE_URL"] = url
        get_settings.cache_clear()
        settings = get_settings()
        _report("")
        _report(f"  Documentation   {_address(settings)}/docs")
        _report(f"  Administrator   {administrator.email}")
        _report(f"  Password        {_password_of(administrator)}")
        _report("  Press Ctrl-C to stop. The data is kept.")
        _report("")
        _serve(settings, reload=False)


@cli.command()
@click.option("--reload", is_flag=True, help="Restart when a source file changes.")
def serve(*, reload: bool) -> None:
    """Serve the API. The database must be initialised."""
    _required_url()
    _serve(get_settings(), reload=reload)


@cli.command()
def migrate() -> None:
    """Upgrade the schema. Several replicas may run it at the same time."""
    from app.core.migrations import upgrade

    upgrade(_required_url())
    _report("The schema is up to date.")


@cli.command()
@click.option("--demo-data", is_flag=True, help="Also load the demo data if the register is empty.")
def init(*, demo_data: bool) -> None:
    """Upgrade the schema and create the first administrator. It is safe to run this command at every start."""
    from app.utils.db_init import initialise

    administrator = asyncio.run(initialise(get_settings(), _required_url(), _report, demo_data=demo_data))
    _report(f"Ready. The first administrator is {administrator.email}.")
    _report(f"Password: {_password_of(administrator)}")


@cli.command()
def seed() -> None:
    """Load the demo data."""
    from app.tasks import seed_demo_data

    asyncio.run(seed_demo_data(get_settings(), _required_url()))
    _report("The demo data is loaded.")


@cli.command("create-admin")
@click.argument("email")
@click.option("--name", default="Administrator", show_default=True, help="Name of the administrator.")
def create_admin(email: str, name: str) -> None:
    """Create an administrator, and print a token with which to set the password."""
    from app.tasks import create_administrator

    settings = get_settings()
    with _database_url(settings) as url:
        link = asyncio.run(create_administrator(settings, url, email, name))
    _report(f"Created the administrator {email}.")
    _show_link(settings, link)


@cli.command("password-link")
@click.argument("email")
def password_link(email: str) -> None:
    """Print a token with which a user sets a first or a new password."""
    from app.tasks import issue_password_link

    settings = get_settings()
    with _database_url(settings) as url:
        link = asyncio.run(issue_password_link(settings, url, email))
    _show_link(settings, link)


@cli.command()
def housekeeping() -> None:
    """Delete expired rows, and old history if HISTORY_DAYS is set. Run this command daily."""
    from app.tasks import clean_up_all

    for name, number in asyncio.run(clean_up_all(get_settings(), _required_url())).items():
        _report(f"{name}: {number:,} deleted")


@cli.command()
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--with-history", is_flag=True, help="Also write the history.")
@click.option("--force", is_flag=True, help="Replace an earlier export in DIR.")
def export(directory: Path, **options: bool) -> None:
    """Export the whole register to DIR. The export is a consistent snapshot."""
    from app.domains.register.export import export_register

    settings = get_settings()
    with _database_url(settings) as url:
        manifest = asyncio.run(export_register(settings, url, directory, **options))
    _report(f"Exported {counted(sum(file.rows for file in manifest.files.values()), 'row')} to {directory}.")


@cli.command("import")
@click.argument("source", metavar="DIR|FILE", type=click.Path(exists=True, path_type=Path))
@click.option("--collection", help="Collection of FILE (default: from the file name).")
@click.option("--map", "mapping", multiple=True, metavar="COLUMN:FIELD", help="Read a column of FILE as this field.")
@click.option("--match-ids", is_flag=True, help="Rows of FILE with an id update the object with this id.")
@click.option("--raw", is_flag=True, help="Read cells of FILE as they are (keep leading apostrophes).")
@click.option("--dry-run", is_flag=True, help="Check FILE and report the changes without making them.")
def import_(source: Path, **options: Any) -> None:
    """Import an export or a file.

    DIR is a directory that `export` wrote; an interrupted import of it is resumed. FILE is a CSV or NDJSON file of one
    collection.
    """
    from app.domains.register.restore import import_register
    from app.domains.register.table_files import import_table

    settings = get_settings()
    if source.is_dir() and any(options.values()):
        raise click.UsageError("Options are not allowed when a directory is imported. Remove them, or name a file.")
    with _database_url(settings) as url:
        imported = (
            import_register(settings, url, source)
            if source.is_dir()
            else import_table(settings, url, source, **options)
        )
        counts = asyncio.run(imported)
    noun = "object" if source.is_dir() else "row"
    outcomes = (f"{counted(number, noun)} {_OUTCOMES.get(name, name)}" for name, number in counts.items())
    _report(f"{'Dry run: ' if options['dry_run'] else ''}{', '.join(outcomes)}.")


@cli.command()
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Output file (default: standard output)."
)
def openapi(output: Path | None) -> None:
    """Print the OpenAPI document."""
    from app.main import create_app

    document = json.dumps(create_app(Settings(_env_file=None)).openapi(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(document, nl=False)
    else:
        output.write_text(document, "utf-8")


def main() -> None:
    """Run the command line. Errors that a user can correct are printed as sentences, without a traceback."""
    # Without a handler, SIGTERM would leave a partial export, or a private server that is still running.
    signal.signal(signal.SIGTERM, _exit_with_signal)
    sys.excepthook = _report_traceback
    try:
        cli(prog_name="python -m app")
    except ValidationError as error:
        for message in describe_faults(error):
            _report(f"Invalid setting: {message}")
        sys.exit(2)
    except IntegrityViolation as violation:
        from app.domains.shared.writing.constraints import error_for

        _report(f"Error: {error_for(violation) or violation.constraint}")
        sys.exit(1)
    except (EmbeddedPostgresError, MigrationRejectedError, RegisterError) as error:
        _report(f"Error: {error}")
        sys.exit(1)


def _address(settings: Settings) -> str:
    """Return the service's URL on this machine."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104 - compared, not bound
    return f"http://{host}:{settings.port}"


def _report(*parts: str) -> None:
    click.echo(_printable_lines(" ".join(parts)), err=True)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _report_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _report("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def _required_url() -> str:
    url = get_settings().database_url
    if url is None:
        raise click.UsageError("Set DATABASE_URL, or use `python -m app run`, which starts a private database.")
    return url


@contextmanager
def _database_url(settings: Settings) -> Iterator[str]:
    """Yield the URL of the configured database, or of a private one that stops at the end of the context."""
    if settings.database_url is not None:
        yield settings.database_url
        return
    with EmbeddedPostgres(settings.data_dir, report=_report) as url:
        yield url


def _reject_port_in_use(settings: Settings) -> None:
    """Fail before the initialisation, which takes a minute, instead of after it."""
    try:
        with socket.create_server((settings.host, settings.port)):
            pass
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        raise click.ClickException(
            f"Cannot listen on {address}: {os.strerror(error.errno or 0)}. Choose another PORT."
        ) from error


def _exit(_number: int, _frame: Any, status: int = 0) -> None:
    # The signal may come twice, from the process group and from make. The second must not interrupt the clean-up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(status)


def _exit_with_signal(number: int, frame: Any) -> None:
    # The exit status by which shells report a signal.
    _exit(number, frame, 128 + number)


def _serve(settings: Settings, *, reload: bool) -> None:
    import uvicorn

    from app.core.http.protocol import GuardedProtocol

    # After its shutdown uvicorn raises the signal again for the previous handler. This one exits with 0, through the
    # `finally` of the enclosing contexts.
    signal.signal(signal.SIGTERM, _exit)
    uvicorn.run(
        "app.main:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        reload=reload,
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=",".join(settings.forwarded_allow_ips),
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.graceful_stop_seconds,
    )


def _password_of(administrator: "Administrator") -> str:
    """Return the new password, or else the command that sets one."""
    command = f"python -m app password-link {administrator.email}"
    if administrator.new_password is not None:
        return f"{administrator.new_password}   (shown only once; change it)"
    if administrator.has_password:
        return f"already set; to reset it, run: {command}"
    return f"not set; to set it, run: {command}"


def _show_link(settings: Settings, link: "PasswordLink") -> None:
    _report(f"Use this token once, before {link.expires_at:%Y-%m-%d %H:%M} UTC, to set a password:")
    click.echo(link.token)
    address = f"{_address(settings)}/api/v1/auth/set-password"
    _report(f"""curl {address} -H 'Content-Type: application/json' -d '{{"token": "…", "password": "…"}}'""")
