"""Exports of the whole register."""

import asyncio
import json
import os
import pty
import resource
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import URL, make_url

from app.core.config import VERSION
from app.core.migrations import head_revision
from app.domains.register import export as register_export
from app.domains.register.export import Manifest, export_register
from app.utils.exceptions import RegisterError, ServiceUnavailable
from app.utils.wording import counted
from tests.builders import make, make_department, make_process, make_user
from tests.catalogue import COLLECTIONS, IN_ORDER_OF_REFERENCES, LINKS
from tests.conftest import ADMIN_TOKEN, LONG_TIMEOUT_ENV, Committed, connected, settings_for, text_of

# In the order of their files.
EXPORTED = (*IN_ORDER_OF_REFERENCES, "role_holders")
FILES = {*(f"{name}.ndjson" for name in EXPORTED), "manifest.json"}


async def export(url: URL, directory: Path, *, with_history: bool = False, force: bool = False) -> Manifest:
    return await export_register(settings_for(url), text_of(url), directory, with_history=with_history, force=force)


async def run_sql(url: URL, sql: str) -> None:
    async with connected(url) as connection:
        await connection.execute(sql)


def lines(directory: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in (directory / f"{name}.ndjson").read_bytes().splitlines()]


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@contextmanager
def after_the_snapshot(monkeypatch: pytest.MonkeyPatch, url: URL, sql: str) -> Iterator[None]:
    """Run SQL on another connection after the snapshot is taken and before files are written."""
    read = register_export._revision_and_time

    async def read_and_run_sql(snapshot: Any) -> Any:
        identity = await read(snapshot)
        await run_sql(url, sql)
        return identity

    with monkeypatch.context() as patched:
        patched.setattr(register_export, "_revision_and_time", read_and_run_sql)
        yield


async def test_files_have_the_documents_of_the_api(committed: Committed, tmp_path: Path) -> None:
    client = committed.client
    department = await make_department(client, code="D-1", name="Zürich\n", description="a\nb\u2028c")
    others = [name for name in COLLECTIONS if name not in {"departments", "processes", "users"}]
    made = {name: await make(client, name) for name in others}
    role = made["roles"]
    user = await make_user(client, department_id=department["id"])
    await client.patch(f"/departments/{department['id']}", json={"head_id": user["id"]})
    await client.put(f"/roles/{role['id']}/holders/{user['id']}")
    parent = await make_process(client, owner_id=user["id"], department_ids=[department["id"]])
    links = {each.short: [made[each.field]["id"]] for each in LINKS["processes"] if each.field in made}
    assert links.keys() >= {"location_ids", "resource_ids", "role_ids"}
    await make_process(client, parent_id=parent["id"], **links)
    directory = tmp_path / "new" / "export"
    manifest = await export(committed.url, directory, with_history=True)

    for collection in COLLECTIONS:
        items = (await client.get(f"/{collection}")).json()["items"]
        assert lines(directory, collection) == items
        assert items
    assert lines(directory, "role_holders") == [{"role_id": role["id"], "user_id": user["id"]}]
    changes = (await client.get("/changes?limit=200")).json()["items"]
    assert lines(directory, "changes") == changes[::-1]

    assert names(directory) == FILES | {"changes.ndjson"} == {*manifest.files, "manifest.json"}
    assert (manifest.format, manifest.service_version, manifest.schema_revision) == (1, VERSION, head_revision())
    assert Manifest.model_validate_json((directory / "manifest.json").read_bytes()) == manifest
    for name, entry in manifest.files.items():
        content = (directory / name).read_bytes()
        assert (entry.rows, entry.bytes) == (content.count(b"\n"), len(content))
        assert entry.sha256 == sha256(content).hexdigest()


async def test_files_are_private_and_contain_no_credentials(committed: Committed, tmp_path: Path) -> None:
    async with connected(committed.url) as connection:
        hashes = [row[0] for row in await connection.fetch("SELECT password_hash FROM credentials")]
        hashes += [row[0].hex() for row in await connection.fetch("SELECT token_hash FROM api_tokens")]
    assert len(hashes) == 2
    directory = tmp_path / "export"
    before = os.umask(0)
    try:
        await export(committed.url, directory, with_history=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not any(secret in path.read_text("utf-8") for secret in (*hashes, ADMIN_TOKEN))


async def test_export_is_one_snapshot(committed: Committed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await make_department(committed.client, name="first")
    sql = "INSERT INTO departments (name) VALUES ('second'); UPDATE users SET name = 'renamed'"
    with after_the_snapshot(monkeypatch, committed.url, sql):
        await export(committed.url, tmp_path)
    (department,) = lines(tmp_path, "departments")
    (user,) = lines(tmp_path, "users")
    assert (department["name"], department["created_by"]["name"]) == ("first", user["name"])
    await export(committed.url, tmp_path, force=True)
    assert [row["name"] for row in lines(tmp_path, "departments")] == ["first", "second"]


async def test_earlier_export_is_replaced_only_with_force(committed: Committed, tmp_path: Path) -> None:
    await export(committed.url, tmp_path, with_history=True)
    (tmp_path / "notes.txt").write_text("notes")
    before = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(RegisterError, match=r"is not empty\. Use --force"):
        await export(committed.url, tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before
    await make_department(committed.client)
    manifest = await export(committed.url, tmp_path, force=True)
    assert manifest.files["departments.ndjson"].rows == len(lines(tmp_path, "departments")) == 1
    assert names(tmp_path) == FILES | {"notes.txt"}  # the history, which the new manifest does not name, is deleted


async def test_lost_connection_keeps_the_earlier_export(
    committed: Committed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND xact_start IS NOT NULL AND application_name = 'process-register'"
    )
    old, new = tmp_path / "old", tmp_path / "new"
    await export(committed.url, old)
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    await make_department(committed.client)
    for directory in (old, new):
        with after_the_snapshot(monkeypatch, committed.url, kill), pytest.raises(ServiceUnavailable):
            await export(committed.url, directory, force=True)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert names(new) == set()


async def test_full_disk_is_reported_and_leaves_no_files(committed: Committed, tmp_path: Path) -> None:
    # A limit on file sizes causes the same kind of `OSError` as a full disk, with another text.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(RegisterError, match=r"^Cannot write .*/users\.ndjson: File too large\.$"):
            await export(committed.url, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == set()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run a block as an unprivileged user, if the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


async def test_errors_of_the_file_system_are_reported(committed: Committed, tmp_path: Path) -> None:
    forbidden, file = tmp_path / "forbidden", tmp_path / "file"
    forbidden.mkdir(mode=0o500)
    file.touch()
    with unprivileged(), pytest.raises(RegisterError, match=r"^Cannot write .*/forbidden/\S+: Permission denied\.$"):
        await export(committed.url, forbidden / "export")
    with pytest.raises(RegisterError, match=r"^Cannot write .*/file/export: Not a directory\.$"):
        await export(committed.url, file / "export")


async def test_unavailable_database_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable, match=r"^The database cannot be reached at the moment\.$"):
        await export(make_url("postgresql://unknown@127.0.0.1:9/none"), tmp_path)
    assert names(tmp_path) == set()


async def test_missing_or_other_schema_is_reported(empty: URL, committed: Committed, tmp_path: Path) -> None:
    with pytest.raises(RegisterError, match=r"^The register is not initialised\. Run `python -m app init` first \("):
        await export(empty, tmp_path)
    await run_sql(committed.url, "UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(RegisterError, match=f"has schema revision 0001, but .* requires {head_revision()}"):
        await export(committed.url, tmp_path)
    assert names(tmp_path) == set()


async def test_missing_privilege_is_reported(committed: Committed, tmp_path: Path) -> None:
    role = f"test_{uuid4().hex}"
    await run_sql(
        committed.url,
        f"CREATE ROLE {role}; GRANT SELECT ON alembic_version TO {role}; "
        f"ALTER DATABASE {committed.url.database} SET role = {role}",
    )
    try:
        with pytest.raises(RegisterError, match="cannot read the whole register: permission denied for table "):
            await export(committed.url, tmp_path)
    finally:
        await run_sql(committed.url.set(database="postgres"), f"ALTER DATABASE {committed.url.database} RESET role")
        await run_sql(committed.url, f"DROP OWNED BY {role}; DROP ROLE {role}")


@asynccontextmanager
async def command(root: Path, directory: Path, url: str, stderr: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "export", str(directory)),
        cwd=root,
        env=os.environ | LONG_TIMEOUT_ENV | {"ENV": "test", "DATABASE_URL": url},
        stderr=stderr,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_progress_is_one_line_per_file(
    committed: Committed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await make_department(committed.client)
    capsys.readouterr()  # discards the log
    await export(committed.url, tmp_path)
    numbers = dict.fromkeys(EXPORTED, 0) | {"departments": 1, "users": 1}
    output = capsys.readouterr()
    assert output.err == "".join(f"{name}.ndjson: {counted(n, 'row')}\n" for name, n in numbers.items())
    assert output.out == ""


async def test_command_shows_a_progress_bar_on_a_terminal(committed: Committed, root: Path, tmp_path: Path) -> None:
    reader, writer = pty.openpty()
    async with command(root, tmp_path, text_of(committed.url), writer) as process:
        os.close(writer)
        assert await process.wait() == 0
    output = os.read(reader, 10_000).decode()
    os.close(reader)
    assert "Exporting" in output
    assert "100%" in output
    assert ".ndjson" not in output
    assert output.splitlines()[-1] == f"Exported 1 row to {tmp_path}."
    assert names(tmp_path) == FILES


async def test_terminated_command_leaves_no_files_and_fails(committed: Committed, root: Path, tmp_path: Path) -> None:
    async with connected(committed.url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE processes")
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'processes'::regclass)"
        async with command(root, tmp_path, text_of(committed.url), asyncio.subprocess.DEVNULL) as process:
            while not await connection.fetchval(waits):
                assert process.returncode is None
                await asyncio.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 128 + signal.SIGTERM
    assert names(tmp_path) == set()
