"""The command line, run in separate processes."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL

from app.cli import cli
from app.domains.register.demo_data import DEMO_PASSWORD, DEMO_USERS
from app.domains.user.administrators import NOT_INITIALISED
from app.main import create_app
from tests.conftest import LONG_TIMEOUT_ENV, client_of, connected, new_database, settings_for, text_of
from tests.waiting import HANG_TIMEOUT, wait_until, wait_until_ready

# These tests choose their settings, independently of those of the suite.
OWN = {"DATABASE_URL", "HOST", "PORT", "ENV", "SECRET_KEY", "HISTORY_DAYS"}
SURROUNDINGS = LONG_TIMEOUT_ENV | {
    name: value for name, value in os.environ.items() if name not in OWN and not name.startswith("FIRST_ADMIN_")
}
ADMIN = "admin@register.example"
SHOWN_ONCE = re.compile(r"Password:? +(\S+)   \(shown only once; change it\)")
LOST = f"already set; to reset it, run: python -m app password-link {ADMIN}"


def run_command(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = SURROUNDINGS | variables
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG_TIMEOUT,
        check=False,
    )


def test_help_names_every_command(root: Path) -> None:
    done = run_command(root, "--help")
    assert done.returncode == 0
    for name, command in cli.commands.items():
        assert f"  {name} " in done.stdout
        assert command.help is not None
        # Long descriptions are cut off.
        assert command.help.split()[0] in done.stdout.partition(f"  {name} ")[2].splitlines()[0]
    served, managed = {"run", "serve", "migrate", "init", "seed"}, {"create-admin", "password-link", "housekeeping"}
    assert cli.commands.keys() == served | managed | {"export", "import", "openapi"}


def test_openapi_is_the_committed_document(root: Path) -> None:
    assert run_command(root, "openapi").stdout == (root / "docs/openapi.json").read_text("utf-8")


@pytest.mark.parametrize("command", ["migrate", "init", "seed", "housekeeping"])
def test_missing_database_is_reported_as_a_sentence(root: Path, command: str) -> None:
    done = run_command(root, command)
    assert done.returncode == 2
    assert "Set DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"PORT": "http"}, "PORT"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL"),
        ({"FIRST_ADMIN_EMAIL": "unknown"}, "FIRST_ADMIN_EMAIL"),
        ({"FIRST_ADMIN_PASSWORD": "eleven char"}, "FIRST_ADMIN_PASSWORD"),
        ({"FIRST_ADMIN_PASSWORD": "x" * 257}, "FIRST_ADMIN_PASSWORD"),
        ({"ENV": "production"}, "DATABASE_URL"),
        ({"ENV": "production", "DATABASE_URL": "postgresql://x"}, "SECRET_KEY"),
        ({"CORS_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "true"}, "CORS_ORIGINS"),
    ],
)
def test_invalid_setting_is_named(root: Path, variables: dict[str, str], name: str) -> None:
    done = run_command(root, "run", **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("Invalid setting: ")
    assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert not any(len(value) > 10 and value in done.stderr for value in variables.values())


@pytest.mark.parametrize("command", ["migrate", "init", "seed", "housekeeping", "export", "import"])
def test_unreachable_database_is_reported_as_a_sentence(root: Path, tmp_path: Path, command: str) -> None:
    file = tmp_path / "roles.csv"
    file.write_text("name\nA\n")
    argument = {"export": [str(tmp_path / "export")], "import": [str(file)]}.get(command, [])
    done = run_command(root, command, *argument, DATABASE_URL="postgresql://unknown@127.0.0.1:9/none")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


async def test_nonexistent_database_is_reported_as_a_sentence(root: Path, server_url: URL) -> None:
    done = run_command(root, "migrate", DATABASE_URL=text_of(server_url.set(database="no_such_database")))
    assert done.returncode == 1
    assert 'database "no_such_database" does not exist' in done.stderr
    assert "Traceback" not in done.stderr


async def test_commands_initialise_a_database(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        database = {"DATABASE_URL": text_of(url)}
        without_schema = run_command(root, "seed", **database)
        assert (without_schema.returncode, without_schema.stderr) == (
            1,
            f"Error: {NOT_INITIALISED}\n",
        )
        assert run_command(root, "migrate", **database).returncode == 0
        too_early = run_command(root, "seed", **database)
        assert (too_early.returncode, "init" in too_early.stderr) == (1, True)
        made = run_command(root, "init", **database, FIRST_ADMIN_EMAIL="root@register.example")
        assert "root@register.example" in made.stderr
        assert (
            run_command(root, "create-admin", "second@register.example", "--name", "Second", **database).returncode == 0
        )
        nonsense = run_command(root, "create-admin", "nonsense", **database)
        assert (nonsense.returncode, nonsense.stderr.splitlines()[-1]) == (
            2,
            "Error: email: Must be an e-mail address.",
        )
        twice = run_command(root, "create-admin", "SECOND@register.example", **database)
        assert (twice.returncode, "already exists" in twice.stderr) == (1, True)
        assert run_command(root, "seed", **database).returncode == 0
        async with connected(url) as connection:
            admins = await connection.fetch("SELECT email FROM users WHERE access_level = 'admin' ORDER BY id LIMIT 2")
        assert [row["email"] for row in admins] == ["root@register.example", "second@register.example"]


async def sign_in(url: URL, email: str, password: str) -> httpx.Response:
    """Try to sign in to an application in this process."""
    app = create_app(settings_for(url))
    async with client_of(app, None) as client:
        response = await client.post("/auth/token", data={"username": email, "password": password})
    await app.state.database.dispose()
    return response


async def set_password(url: URL, token: str, password: str) -> httpx.Response:
    app = create_app(settings_for(url))
    async with client_of(app, None) as client:
        response = await client.post("/auth/set-password", json={"token": token, "password": password})
    await app.state.database.dispose()
    return response


async def count(url: URL, table: str) -> Any:
    async with connected(url) as connection:
        return await connection.fetchval(f"SELECT count(*) FROM {table}")


async def test_init_generates_a_password_and_prints_it_once(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        first = run_command(root, "init", DATABASE_URL=text_of(url))
        password = SHOWN_ONCE.findall(first.stderr)
        assert (first.returncode, first.stdout, len(password)) == (0, "", 1)
        assert (await sign_in(url, ADMIN, password[0])).status_code == 200
        second = run_command(root, "init", DATABASE_URL=text_of(url))
        assert (second.returncode, second.stderr.splitlines()[-1]) == (0, f"Password: {LOST}")
        assert (await sign_in(url, ADMIN, password[0])).status_code == 200


async def test_configured_password_is_used_at_first_start_only_and_never_printed(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        for password in ("the one to be used", "another one, too late"):
            done = run_command(root, "init", DATABASE_URL=text_of(url), FIRST_ADMIN_PASSWORD=password)
            assert (done.returncode, done.stderr.splitlines()[-1]) == (0, f"Password: {LOST}")
            assert password not in done.stderr + done.stdout
        assert (await sign_in(url, ADMIN, "the one to be used")).status_code == 200
        assert (await sign_in(url, ADMIN, "another one, too late")).status_code == 401


async def test_init_in_production_prints_how_to_set_a_password(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        production = {"ENV": "production", "SECRET_KEY": "x" * 32, "DATABASE_URL": text_of(url)}
        made = run_command(root, "init", **production)
        command = f"password-link {ADMIN}"
        assert (made.returncode, made.stderr.splitlines()[-1]) == (
            0,
            f"Password: not set; to set it, run: python -m app {command}",
        )
        assert await count(url, "credentials") == 0
        link = run_command(root, *command.split(), **production)
        assert (await set_password(url, link.stdout.strip(), "first of its kind")).status_code == 200
        assert (await sign_in(url, ADMIN, "first of its kind")).status_code == 200
        assert run_command(root, "init", **production).stderr.splitlines()[-1] == f"Password: {LOST}"


async def test_new_administrator_sets_a_password_with_the_printed_token(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        database = {"DATABASE_URL": text_of(url)}
        assert run_command(root, "init", **database).returncode == 0
        made = run_command(root, "create-admin", "second@register.example", **database)
        assert made.returncode == 0
        assert re.fullmatch(r"prl_\w+\n", made.stdout)
        assert made.stdout.strip() not in made.stderr
        entered = await set_password(url, made.stdout.strip(), "second of its kind")
        assert (entered.status_code, "admin" in entered.json()["scope"].split()) == (200, True)
        assert (await sign_in(url, "second@register.example", "second of its kind")).status_code == 200


async def test_lost_password_is_replaced_by_the_newest_link(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        database = {"DATABASE_URL": text_of(url)}
        given = {"FIRST_ADMIN_PASSWORD": "forgotten by noon"}
        assert run_command(root, "init", **database, **given).returncode == 0
        older, newer = (run_command(root, "password-link", ADMIN.upper(), **database).stdout.strip() for _ in range(2))
        assert (await set_password(url, older, "remembered by dawn")).status_code == 422
        assert (await set_password(url, newer, "remembered by dawn")).status_code == 200
        assert (await sign_in(url, ADMIN, "forgotten by noon")).status_code == 401
        assert (await sign_in(url, ADMIN, "remembered by dawn")).status_code == 200
        unknown = run_command(root, "password-link", "unknown@register.example", **database)
        assert (unknown.returncode, unknown.stdout, unknown.stderr) == (
            1,
            "",
            "Error: There is no user with the e-mail address unknown@register.example.\n",
        )


async def test_commands_take_both_forms_of_an_address(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        given = {"DATABASE_URL": text_of(url), "FIRST_ADMIN_EMAIL": "chef@xn--mnchen-3ya.example"}
        assert run_command(root, "init", **given).returncode == 0
        for address in ("chef@münchen.example", "Chef@XN--MNCHEN-3YA.example"):
            assert run_command(root, "password-link", address, **given).returncode == 0
            again = run_command(root, "create-admin", address, **given)
            assert (again.returncode, "already exists" in again.stderr) == (1, True)


async def test_housekeeping_removes_expired_rows_and_prints_their_numbers(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        database = {"DATABASE_URL": text_of(url)}
        assert run_command(root, "init", **database).returncode == 0
        async with connected(url) as connection:
            await connection.execute(
                "INSERT INTO sign_in_attempts (key, attempts, ends_at)"
                " VALUES ('old', 1, now() - interval '1 second'), ('new', 1, now() + interval '1 day')"
            )
        done = run_command(root, "housekeeping", **database)
        assert (done.returncode, done.stderr.splitlines()) == (
            0,
            [
                "refresh tokens: 0 deleted",
                "sessions: 0 deleted",
                "password links: 0 deleted",
                "API tokens: 0 deleted",
                "familiar addresses: 0 deleted",
                "idempotency keys: 0 deleted",
                "idempotency usage: 0 deleted",
                "import plans: 0 deleted",
                "imported ids: 0 deleted",
                "imports: 0 deleted",
                "sign-in attempts: 1 deleted",
                "search words: 0 deleted",
            ],
        )
        assert await count(url, "sign_in_attempts") == 1
        thinned = run_command(root, "housekeeping", HISTORY_DAYS="1", **database)
        assert thinned.stderr.splitlines()[-2] == "changes: 0 deleted"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running(root: Path, data_dir: Path, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = SURROUNDINGS | {"DATA_DIR": str(data_dir), "PORT": str(port)}
    with (
        log.open("wb") as errors,
        subprocess.Popen([sys.executable, "-m", "app", "run"], cwd=root, env=environment, stderr=errors) as process,
    ):
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", process.poll)
            yield process
        finally:
            process.kill()


def servers_of(data_dir: Path) -> list[str]:
    """Return the command lines of the PostgreSQL processes of a data directory."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(data_dir) in line and "postgres" in line]


def wait_for_end(data_dir: Path) -> None:
    wait_until(lambda: not servers_of(data_dir), pause=0.1)


def test_run_starts_everything_keeps_the_data_and_stops_everything(root: Path, tmp_path: Path) -> None:
    data_dir, log, port = tmp_path / "data", tmp_path / "log", free_port()
    api = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=HANG_TIMEOUT)
    with api, running(root, data_dir, port, log) as first:
        output = log.read_text("utf-8")
        assert f"http://127.0.0.1:{port}/docs" in output
        assert f"  Administrator   {ADMIN}\n" in output
        (password,) = SHOWN_ONCE.findall(output)
        assert api.get("/processes").status_code == 401
        for email in DEMO_USERS:
            demo = api.post("/auth/token", data={"username": email, "password": DEMO_PASSWORD})
            assert demo.status_code == 200
        pair = api.post("/auth/token", data={"username": ADMIN, "password": password}).json()
        api.headers["Authorization"] = f"Bearer {pair['access_token']}"
        assert api.get("/processes?count=exact").json()["total"] > 100
        created = api.post("/roles", json={"code": "KEPT", "name": "Kept"})
        assert created.status_code == 201
        second = run_command(root, "run", DATA_DIR=str(data_dir), PORT=str(free_port()))
        assert second.returncode == 1
        assert re.fullmatch(r"Error: Another Process Register is already running on .*\n", second.stderr)
        first.send_signal(signal.SIGTERM)
        assert first.wait(HANG_TIMEOUT) == 0
        wait_for_end(data_dir)
        with running(root, data_dir, port, log) as again:
            output = log.read_text("utf-8")
            assert (SHOWN_ONCE.findall(output), f"  Password        {LOST}\n" in output) == ([], True)
            # Sessions outlive the process, too.
            assert api.get("/roles/code:KEPT").json() == created.json()
            again.kill()
            again.wait(HANG_TIMEOUT)
        wait_for_end(data_dir)
        with running(root, data_dir, port, log) as recovered:
            assert api.get("/roles/code:KEPT").json() == created.json()
            recovered.send_signal(signal.SIGINT)
            assert recovered.wait(HANG_TIMEOUT) == 0
        wait_for_end(data_dir)


async def test_run_in_production_loads_no_demo_data_unless_asked(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        port = free_port()
        settings = {"ENV": "production", "SECRET_KEY": "x" * 32, "DATABASE_URL": text_of(url), "PORT": str(port)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "run"), cwd=root, env=SURROUNDINGS | settings, stderr=subprocess.DEVNULL
        )
        try:
            address = f"http://127.0.0.1:{port}"
            await asyncio.to_thread(wait_until_ready, address, lambda: process.returncode)
            async with httpx.AsyncClient(base_url=address, timeout=HANG_TIMEOUT) as client:
                assert (await client.get("/api/v1/departments")).status_code == 401
            assert await count(url, "departments") == 0
        finally:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), HANG_TIMEOUT) == 0
        demo = await asyncio.to_thread(run_command, root, "init", "--demo-data", **settings)
        assert demo.returncode == 0
        assert await count(url, "departments") > 40
        # The demo users' password is public.
        assert await count(url, "credentials") == 0


def test_port_in_use_is_reported_before_the_initialisation(root: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = run_command(root, "run", PORT=str(port), DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr
    assert not (tmp_path / "data").exists()
