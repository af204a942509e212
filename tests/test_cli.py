"""The command line, as a person uses it: in processes of its own."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import httpx
import pytest
from sqlalchemy import URL

from tests.conftest import new_database, text_of, wait_until_ready

PATIENCE = 60

# Whatever the database and the address of the suite are, these tests choose their own.
SURROUNDINGS = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "HOST", "PORT"}}


def run_command(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = SURROUNDINGS | variables
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_help_names_every_command(root: Path) -> None:
    done = run_command(root, "--help")
    assert done.returncode == 0
    for command in ("run", "serve", "migrate", "init", "seed", "create-admin", "openapi"):
        assert f"  {command} " in done.stdout


def test_openapi_is_the_committed_document(root: Path) -> None:
    assert run_command(root, "openapi").stdout == (root / "docs/openapi.json").read_text("utf-8")


@pytest.mark.parametrize("command", ["migrate", "init", "seed"])
def test_missing_database_is_told_in_words(root: Path, command: str) -> None:
    done = run_command(root, command)
    assert done.returncode == 2
    assert "Set DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"PORT": "http"}, "PORT"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL"),
        ({"FIRST_ADMIN_EMAIL": "nobody"}, "FIRST_ADMIN_EMAIL"),
        ({"ENV": "production"}, "DATABASE_URL"),
        ({"ENV": "production", "DATABASE_URL": "postgresql://x"}, "SECRET_KEY"),
        ({"CORS_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "true"}, "CORS_ORIGINS"),
    ],
)
def test_bad_setting_is_named(root: Path, variables: dict[str, str], told: str) -> None:
    done = run_command(root, "run", **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("Bad setting: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["migrate", "init", "seed"])
def test_database_that_is_away_is_told_in_words(root: Path, command: str) -> None:
    done = run_command(root, command, DATABASE_URL="postgresql://nobody@127.0.0.1:9/none")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


async def test_database_that_does_not_exist_is_told_in_words(root: Path, server_url: URL) -> None:
    done = run_command(root, "migrate", DATABASE_URL=text_of(server_url.set(database="no_such_database")))
    assert done.returncode == 1
    assert 'database "no_such_database" does not exist' in done.stderr
    assert "Traceback" not in done.stderr


async def test_commands_make_a_database_ready(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        database = {"DATABASE_URL": text_of(url)}
        without_schema = run_command(root, "seed", **database)
        assert (without_schema.returncode, without_schema.stderr) == (1, "Error: Run `python -m app init` first.\n")
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
            "Error: email: Text must be an e-mail address",
        )
        twice = run_command(root, "create-admin", "SECOND@register.example", **database)
        assert (twice.returncode, "exists already" in twice.stderr) == (1, True)
        assert run_command(root, "seed", **database).returncode == 0
        connection = await asyncpg.connect(text_of(url))
        admins = await connection.fetch("SELECT email FROM users WHERE access_level = 'admin' ORDER BY id LIMIT 2")
        await connection.close()
        assert [row["email"] for row in admins] == ["root@register.example", "second@register.example"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def running(root: Path, data_dir: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    environment = SURROUNDINGS | {"DATA_DIR": str(data_dir), "PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, "-m", "app", "run"], cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}")
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
    end = time.monotonic() + PATIENCE
    while servers_of(data_dir):
        assert time.monotonic() < end, "PostgreSQL goes on running"
        time.sleep(0.1)


def test_run_starts_everything_keeps_the_data_and_stops_everything(root: Path, tmp_path: Path) -> None:
    data_dir, port = tmp_path / "data", free_port()
    api = f"http://127.0.0.1:{port}/api/v1"
    with running(root, data_dir, port) as first:
        assert httpx.get(f"{api}/processes?count=exact").json()["total"] > 100
        created = httpx.post(f"{api}/roles", json={"code": "KEPT", "name": "Kept"})
        assert created.status_code == 201
        second = run_command(root, "run", DATA_DIR=str(data_dir), PORT=str(free_port()))
        assert second.returncode == 1
        assert re.fullmatch(r"Another Process Register is already running on .*\n", second.stderr)
        first.send_signal(signal.SIGTERM)
        _, told = first.communicate(timeout=PATIENCE)
        assert first.returncode == 0
    assert f"http://127.0.0.1:{port}/docs" in told
    assert "admin@register.example" in told
    wait_for_end(data_dir)
    with running(root, data_dir, port) as again:
        assert httpx.get(f"{api}/roles/code:KEPT").json() == created.json()
        again.kill()
        again.communicate(timeout=PATIENCE)
    wait_for_end(data_dir)
    with running(root, data_dir, port) as recovered:
        assert httpx.get(f"{api}/roles/code:KEPT").json() == created.json()
        recovered.send_signal(signal.SIGINT)
        recovered.communicate(timeout=PATIENCE)
        assert recovered.returncode == 0
    wait_for_end(data_dir)


async def test_run_in_production_loads_no_demo_data_unless_asked(server_url: URL, root: Path) -> None:
    async with new_database(server_url) as url:
        port = free_port()
        settings = {"ENV": "production", "SECRET_KEY": "x" * 32, "DATABASE_URL": text_of(url), "PORT": str(port)}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app", "run"), cwd=root, env=os.environ | settings, stderr=subprocess.DEVNULL
        )
        try:
            address = await asyncio.to_thread(wait_until_ready, f"http://127.0.0.1:{port}")
            async with httpx.AsyncClient(base_url=f"{address}/api/v1") as client:
                assert (await client.get("/departments?count=exact")).json()["total"] == 0
        finally:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        asked = await asyncio.to_thread(run_command, root, "init", "--demo-data", **settings)
        assert asked.returncode == 0
        connection = await asyncpg.connect(text_of(url))
        assert await connection.fetchval("SELECT count(*) FROM departments") > 40
        await connection.close()


def test_port_that_is_taken_is_told_before_anything_is_made(root: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_command(root, "run", PORT=str(port), DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr
    assert not (tmp_path / "data").exists()
