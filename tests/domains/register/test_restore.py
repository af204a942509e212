"""Imports of exports and of local files."""

import asyncio
import json
import os
import pty
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypedDict

import click
import pytest
from click.testing import CliRunner
from sqlalchemy import URL, text

from app.cli import cli
from app.domains.department.service import DepartmentService
from app.domains.register import restore as register_import
from app.domains.register import table_files as table_import
from app.domains.register.demo_data import load_demo_data
from app.domains.register.export import export_register
from app.domains.register.restore import import_register
from app.domains.register.table_files import import_table
from app.domains.role.service import RoleService
from app.domains.shared import trees
from app.domains.shared.imports.columns import members_of
from app.domains.shared.imports.importing import ImportResult, import_file
from app.domains.user.administrators import first_administrator
from app.main import create_app
from app.utils.exceptions import RegisterError
from tests.builders import make, make_department, make_user
from tests.catalogue import COLLECTIONS
from tests.conftest import LONG_TIMEOUT_ENV, Committed, connected, new_database, settings_for, text_of
from tests.domains.shared.test_import import fill
from tests.test_cli import run_command

OWN = {"created_at", "updated_at", "created_by", "updated_by", "version"}


class Options(TypedDict):
    collection: str | None
    mapping: tuple[str, ...]
    match_ids: bool
    raw: bool


@dataclass
class Source:
    """A register with the demo data and names that are hard to encode, and the directory of its export."""

    register: Committed
    directory: Path


@pytest.fixture(scope="module")
async def source(server_url: URL, template: URL, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Source]:
    async with new_database(server_url, template.database) as url:
        register = Committed(create_app(settings_for(url)), url)
        async with register.app.state.database.transaction() as session:
            caller = await first_administrator(session)
            assert caller is not None
            await load_demo_data(session, caller, with_passwords=False)
        await fill(register.client)
        await make_cycles(register)
        await make_old(register)
        directory = tmp_path_factory.mktemp("source")
        await export(url, directory)
        yield Source(register, directory)
        await register.client.aclose()
        await register.app.state.database.dispose()


async def make_cycles(register: Committed) -> None:
    """Create objects that refer to each other across collections and to later objects, and namesakes without keys."""
    client = register.client
    first, second, third = [await make_user(client, name="Twin") for _ in range(3)]
    below = await make_department(client, name="Below", head_id=second["id"])
    above = await make_department(client, name="Above")
    await client.patch(f"/departments/{below['id']}", json={"parent_id": above["id"]})
    await client.patch(f"/users/{first['id']}", json={"manager_id": second["id"], "department_id": below["id"]})
    # Registers that are older than the rule may have cycles of managers.
    async with connected(register.url) as connection:
        cycle = "UPDATE users SET manager_id = $1 WHERE id = $2"
        await connection.executemany(cycle, [(first["id"], second["id"]), (third["id"], third["id"])])
    child, parent = [await make(client, "processes", name="Twin") for _ in range(2)]
    moved = await client.patch(f"/processes/{child['id']}", json={"parent_id": parent["id"]})
    assert moved.status_code == 200, moved.text
    # Registers that are older than the limit may have deeper trees.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "MAX_DEPTH", 2 * trees.MAX_DEPTH)
        parents = [None, *({"code": f"DEEP-{number}"} for number in range(trees.MAX_DEPTH))]
        items = [
            {"op": "create", "data": {"name": "Deep", "code": f"DEEP-{number}", "parent_id": parent}}
            for number, parent in enumerate(parents)
        ]
        deep = await client.post("/departments/bulk", json={"items": items})
        assert deep.status_code == 200, deep.text


async def make_old(register: Committed) -> None:
    """Give objects texts that were accepted before invisible characters were trimmed and rejected."""
    old = "name = chr(8203) || name || chr(8203), external_id = 'old' || chr(8203), description = chr(8203)"
    async with register.app.state.database.transaction() as session:
        for name in COLLECTIONS:
            more = ", email = 'o' || chr(847) || 'ld@x.example'" if name == "users" else ""
            # The `id` of this object is the highest.
            await session.execute(text(f"UPDATE {name} SET {old}{more} WHERE id = (SELECT max(id) FROM {name})"))


async def export(url: URL, directory: Path) -> None:
    await export_register(settings_for(url), text_of(url), directory, with_history=False, force=True)


async def import_(url: URL, directory: Path) -> Counter[str]:
    return await import_register(settings_for(url), text_of(url), directory)


@pytest.fixture
async def empty_register(server_url: URL, template: URL) -> AsyncIterator[URL]:
    """A register with only the first administrator, in which new ids differ from those of the source."""
    async with new_database(server_url, template.database) as url:
        async with connected(url) as connection:
            for table in COLLECTIONS:
                await connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), 1000)")
        yield url


def content_of(directory: Path) -> dict[str, Any]:
    """Return the content of an export, with the position of each object in its file instead of its id."""
    files = {name: read(directory, name) for name in (*COLLECTIONS, "role_holders")}
    places = {name: {each["id"]: place for place, each in enumerate(files[name])} for name in COLLECTIONS}
    where = {"parent": None, "head": "users", "owner": "users", "manager": "users", "location": "locations"}
    where |= {"department": "departments", "owner_department": "departments", "role": "roles", "user": "users"}

    def placed(name: str, document: dict[str, Any]) -> dict[str, Any]:
        shown = {}
        for member, value in document.items():
            if member in OWN or member == "id":
                continue
            if member.endswith("_id") and member != "external_id":
                shown[member] = value and places[where[member.removesuffix("_id")] or name][value]
            elif isinstance(value, list):
                shown[member] = [entry | {"id": places[member][entry["id"]]} for entry in value]
            elif isinstance(value, dict):
                shown[member] = {key: each for key, each in value.items() if key != "id"}
            else:
                shown[member] = value
        return shown

    return {name: [placed(name, each) for each in files[name]] for name in files}


def read(directory: Path, name: str) -> list[Any]:
    return [json.loads(line) for line in (directory / f"{name}.ndjson").read_bytes().split(b"\n") if line]


async def changes_of(url: URL) -> Counter[tuple[str, int, str]]:
    """Return the number of changes by collection, object and action."""
    async with connected(url) as connection:
        rows = await connection.fetch("SELECT type, object_id, action FROM changes")
    return Counter(tuple(row) for row in rows)


async def number_of_changes(url: URL) -> int:
    async with connected(url) as connection:
        number: int = await connection.fetchval("SELECT count(*) FROM changes")
    return number


def number_deferred(directory: Path, name: str, batch: int) -> int:
    """Return how many objects of a file have deferred references: to a user, or to a later batch of the same file."""
    documents, number = read(directory, name), 0
    for place, each in enumerate(documents):
        last = documents[min(place // batch * batch + batch, len(documents)) - 1]["id"]
        above = each.get("parent_id") or each.get("manager_id") or 0
        number += above > last or each.get("head_id") is not None
    return number


@pytest.mark.parametrize("batch", [7, 1000])
async def test_round_trip_into_an_empty_register_is_identical(
    source: Source, empty_register: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(register_import, "BATCH", batch)
    earlier = await changes_of(empty_register)
    counts = await import_(empty_register, source.directory)
    total = sum(len(read(source.directory, name)) for name in COLLECTIONS)
    # The first administrator exists already, and is the same in both registers.
    assert counts == {"created": total - 1, "unchanged": 1}
    numbers = {name: len(read(source.directory, name)) for name in (*COLLECTIONS, "role_holders")}
    changes = await changes_of(empty_register) - earlier
    assert Counter(name for name, _, action in changes if action == "created") == {
        name: numbers[name] - (name == "users") for name in COLLECTIONS
    }
    assert sum(number for (_, _, action), number in changes.items() if action == "linked") == numbers["role_holders"]
    updated = Counter(name for name, _, action in changes if action == "updated")
    assert updated == {
        name: number for name in COLLECTIONS if (number := number_deferred(source.directory, name, batch))
    }
    assert changes.total() == sum(numbers.values()) - 1 + updated.total()
    await export(empty_register, tmp_path)
    expected = content_of(source.directory)
    assert content_of(tmp_path) == expected
    assert len(expected["processes"]) > 20
    assert len(expected["role_holders"]) > 5
    # A repeated import changes nothing and records no changes.
    before = await number_of_changes(empty_register)
    assert await import_(empty_register, source.directory) == {"unchanged": total}
    await export(empty_register, tmp_path)
    assert content_of(tmp_path) == expected
    assert await number_of_changes(empty_register) == before


async def test_import_into_the_source_reverts_changes(source: Source, tmp_path: Path) -> None:
    url, client = source.register.url, source.register.client
    before = await number_of_changes(url)
    total = sum(len(read(source.directory, name)) for name in COLLECTIONS)
    # Objects without a code and an external id are identified, too.
    assert await import_(url, source.directory) == {"unchanged": total}
    assert await number_of_changes(url) == before
    keyless = next(each for each in read(source.directory, "processes") if each["name"] == "Twin")
    await client.patch(f"/processes/{keyless['id']}", json={"name": "Changed", "code": "NEW"})
    assert await import_(url, source.directory) == {"unchanged": total - 1, "updated": 1}
    assert (await client.get(f"/processes/{keyless['id']}")).json()["name"] == "Twin"
    (change, *_) = (await client.get(f"/processes/{keyless['id']}/changes")).json()["items"]
    assert (change["actor"]["name"], change["message"][:29]) == (
        "First administrator",
        "Import of the export of 2026-",
    )
    await export(url, tmp_path)
    assert content_of(tmp_path) == content_of(source.directory)


async def test_objects_with_the_same_keys_are_updated_and_others_stay(source: Source, empty_register: URL) -> None:
    register = Committed(create_app(settings_for(empty_register)), empty_register)
    keyed = next(each for each in read(source.directory, "departments") if each["code"])
    other = await make_department(register.client, code=keyed["code"].lower(), name="Other")
    alone = await make_department(register.client, name="Alone")
    counts = await import_(empty_register, source.directory)
    assert counts["updated"] == 1
    now = (await register.client.get(f"/departments/{other['id']}")).json()
    assert (now["code"], now["name"]) == (keyed["code"], keyed["name"])
    assert (await register.client.get(f"/departments/{alone['id']}")).json() == alone
    await register.client.aclose()
    await register.app.state.database.dispose()


async def test_different_stronger_keys_make_different_objects(
    source: Source, empty_register: URL, tmp_path: Path
) -> None:
    register = Committed(create_app(settings_for(empty_register)), empty_register)
    for code, key in (("C1", "E1"), ("C3", None)):
        await make_department(register.client, code=code, external_id=key)
    await make_user(register.client, external_id="U1", email="first@x.example")
    await make_user(register.client, code="U2", email="second@x.example")
    before = {name: await documents(register, name) for name in ("departments", "users")}

    def renumber(files: dict[str, list[Any]], _manifest: dict[str, Any]) -> None:
        for name in COLLECTIONS:
            # Without the first administrator, which is the same in both registers.
            files[name] = files[name][1:4] if name in before else []
        files["role_holders"] = []
        plain = {"parent_id": None, "head_id": None, "manager_id": None, "department_id": None}
        for each, (key, code) in zip(files["departments"], [("E9", "C1"), ("E1", "C2"), ("E3", "c3")], strict=True):
            each.update(plain | {"external_id": key, "code": code})
        emails = [("U9", None, "first@x.example"), ("U1", None, "new@x.example"), (None, "U3", "second@x.example")]
        for each, keys in zip(files["users"], emails, strict=True):
            each.update(plain | dict(zip(("external_id", "code", "email"), keys, strict=True)))
        files["users"].append(files["users"][2] | {"id": 10**6, "code": "U2", "email": "third@x.example"})

    counts = await import_(empty_register, altered(source, tmp_path, renumber))
    assert counts == {"created": 3, "updated": 4}
    after = {name: await documents(register, name) for name in before}
    for name, key, member, value in (
        ("departments", "C1", "code", "C2"),
        ("departments", "C3", "external_id", "E3"),
        ("users", "first@x.example", "email", "new@x.example"),
        ("users", "second@x.example", "email", "third@x.example"),
    ):
        (old,) = (each["id"] for each in before[name] if key in {each["code"], each.get("email")})
        (now,) = (each for each in after[name] if each["id"] == old)
        assert now[member] == value
    await register.client.aclose()
    await register.app.state.database.dispose()


async def documents(register: Committed, collection: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await register.client.get(f"/{collection}")).json()["items"]
    return items


def altered(source: Source, directory: Path, change: Callable[[dict[str, list[Any]], dict[str, Any]], None]) -> Path:
    """Write a copy of the source export with changes of its files and its manifest."""
    manifest = json.loads((source.directory / "manifest.json").read_bytes())
    files = {name: read(source.directory, name) for name in (*COLLECTIONS, "role_holders")}
    change(files, manifest)
    for name, documents in files.items():
        content = b"".join(json.dumps(each).encode() + b"\n" for each in documents)
        (directory / f"{name}.ndjson").write_bytes(content)
        if f"{name}.ndjson" in (manifest["files"] or {}):
            entry = {"rows": len(documents), "bytes": len(content), "sha256": sha256(content).hexdigest()}
            manifest["files"][f"{name}.ndjson"] = entry
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def in_manifest(**members: Any) -> Callable[[Any, Any], None]:
    return lambda _files, manifest: manifest.update(members)


def in_line(file: str, place: int, /, **members: Any) -> Callable[[Any, Any], None]:
    return lambda files, _manifest: files[file][place].update(members)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_manifest(format=2), "The export has format 2, but this version of the service reads 1."),
        (
            in_manifest(schema_revision="9999"),
            "This version of the service does not support schema revision 9999 of the export.",
        ),
        (in_manifest(files={}), "The export is incomplete: its manifest does not list departments.ndjson."),
        (in_manifest(files=None), "is not the manifest of an export"),
        (in_line("departments", 0, id=10**6), "departments.ndjson, line 2, id: Must be greater than the id of"),
        (in_line("departments", 1, id="2"), "departments.ndjson, line 2, id: Must be greater than the id of"),
        (in_line("departments", 2, name="a\0b"), "departments.ndjson, line 3, name: Must not contain control"),
        (in_line("departments", 3, head_id=10**6), "departments.ndjson, line 4, head_id: Refers to an object that"),
        (in_line("roles", 2, department_id=10**6), "roles.ndjson, line 3, department_id: Refers to an object that"),
        (in_line("processes", 0, roles=[{"id": "x"}]), "processes.ndjson, line 1, roles: Refers to an object that"),
        (in_line("role_holders", 4, user_id=10**6), "role_holders.ndjson, line 5, user_id: Refers to an object"),
    ],
)
async def test_error_names_the_line(
    source: Source, empty_register: URL, tmp_path: Path, change: Any, message: str
) -> None:
    with pytest.raises(RegisterError) as raised:
        await import_(empty_register, altered(source, tmp_path, change))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("file", "place", "member", "value", "message"),
    [
        ("departments", 0, "parent_id", [1], "Refers to an object that"),
        ("departments", 0, "parent_id", 10**30, "Refers to an object that"),
        ("departments", 0, "parent_id", True, "Refers to an object that"),
        ("departments", 0, "code", {"a": 1}, "Must be a string"),
        ("departments", 0, "code", "\0", "A code has 1 to 64 letters"),
        ("departments", 0, "external_id", "\ud800", "Must be a string"),
        ("departments", 0, "created_at", "garbage", "Must be an instant with its offset"),
        ("departments", 0, "created_at", "2026-11-26T13:11:05", "Must be an instant with its offset"),
        ("departments", 0, "created_at", "0001-01-01T00:00:00+23:00", "Must be an instant with its offset"),
        ("departments", 0, "created_at", 5, "Must be an instant with its offset"),
        ("users", 1, "email", ["x@x.example"], "Must be a string"),
        ("users", 1, "email", "\0", ""),
        ("processes", 0, "roles", {"id": 1}, "Must be an array of objects."),
        ("processes", 0, "roles", 5, "Must be an array of objects."),
        ("processes", 0, "roles", None, "Must be an array of objects."),
        ("processes", 0, "roles", [1], "Must be an array of objects."),
        ("processes", 0, "departments", [{"id": [1]}], "Refers to an object that"),
        ("processes", 0, "departments", [{"relation": "owner"}], "Refers to an object that"),
        ("role_holders", 0, "role_id", [1], "Refers to an object that"),
        ("role_holders", 0, "role_id", 10**30, "Refers to an object that"),
        ("role_holders", 0, "user_id", {}, "Refers to an object that"),
    ],
)
async def test_invalid_member_is_reported_and_its_batch_is_not_written(
    source: Source, empty_register: URL, tmp_path: Path, file: str, place: int, member: str, value: Any, message: str
) -> None:
    with pytest.raises(RegisterError) as raised:
        await import_(empty_register, altered(source, tmp_path, in_line(file, place, **{member: value})))
    assert str(raised.value).startswith(f"{file}.ndjson, line {place + 1}, {member}: {message}")
    async with connected(empty_register) as connection:
        written = await connection.fetchval("SELECT count(*) FROM imported_objects WHERE collection = $1", file)
        holders = await connection.fetchval("SELECT count(*) FROM role_holders")
    assert (written, holders) == (0, 0)


async def test_altered_files_are_rejected_before_any_write(source: Source, empty_register: URL, tmp_path: Path) -> None:
    before = await number_of_changes(empty_register)
    altered(source, tmp_path, lambda _files, _manifest: None)
    path = tmp_path / "users.ndjson"
    content = path.read_bytes()
    for changed, message in (
        (content.replace(b"Twin", b"Twim"), "was changed after the export. Its checksum does not match the manifest."),
        (content[:-10], f"It has {len(content) - 10:,} bytes instead of {len(content):,}."),
        (None, "The export is incomplete: "),
    ):
        path.unlink() if changed is None else path.write_bytes(changed)
        with pytest.raises(RegisterError, match=re.escape(message)):
            await import_(empty_register, tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(RegisterError, match=r"is not an export: it has no manifest\.json"):
        await import_(empty_register, tmp_path)
    assert await number_of_changes(empty_register) == before


# The command line, killed in its third batch.
KILLED_IMPORT = """
import os, signal
from app.cli import main
from app.domains.register import restore as register_import

async def write_or_die(*arguments, batches=iter(range(2)), **options):
    if next(batches, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    return await write_batch(*arguments, **options)

write_batch, register_import.write_batch = register_import.write_batch, write_or_die
register_import.BATCH = 20
main()
"""


async def test_killed_import_can_be_continued(
    source: Source, empty_register: URL, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register_import, "BATCH", 20)
    environment = os.environ | LONG_TIMEOUT_ENV | {"DATABASE_URL": text_of(empty_register), "ENV": "test"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED_IMPORT, "import", str(source.directory)), cwd=root, env=environment
    )
    assert await process.wait() == -signal.SIGKILL
    counts = await import_(empty_register, source.directory)
    assert counts["done"] >= 40
    assert counts["created"] >= 40
    assert set(counts) <= {"done", "created", "unchanged"}
    await export(empty_register, tmp_path)
    assert content_of(tmp_path) == content_of(source.directory)


async def test_command_imports_a_file_of_one_collection(empty_register: URL, tmp_path: Path, root: Path) -> None:
    file = tmp_path / "departments-2026-11-26.csv"
    file.write_text("Kürzel;name;parent\nB;Below;A\nA;Above;\n", "utf-8")
    settings, url = settings_for(empty_register), text_of(empty_register)
    options: Options = {"collection": None, "mapping": ("Kürzel:code",), "match_ids": False, "raw": False}
    assert await import_table(settings, url, file, dry_run=True, **options) == {"create": 2}
    done = run_command(root, "import", str(file), "--map", "Kürzel:code", DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "2 rows created.\n")
    assert await import_table(settings, url, file, dry_run=False, **options) == {"unchanged": 2}
    options["mapping"] = ()
    with pytest.raises(RegisterError) as raised:
        await import_table(settings, url, file, dry_run=False, **options)
    known = ", ".join(members_of(DepartmentService.collection))
    assert str(raised.value).splitlines() == [
        "The columns of the file do not match the collection.",
        f"{file.name}/1/Kürzel: Objects have no such field. Known fields: {known}.",
    ]
    # Names of columns may contain line breaks and terminal sequences.
    file.write_text('name,"x\nError: \x1b[2J"\nA,\n', "utf-8")
    with pytest.raises(RegisterError) as raised:
        await import_table(settings, url, file, dry_run=False, **options)
    assert str(raised.value).splitlines()[1].startswith(rf"{file.name}/1/x\nError: \x1b[2J: ")
    file.write_text("code,name\nA,\n", "utf-8")
    with pytest.raises(RegisterError, match=r"(?s)Nothing was imported\..*\.csv/2/name: "):
        await import_table(settings, url, file, dry_run=False, **options)
    named = r"The collection of x\.csv is unknown\. Set --collection to processes, .* or users\."
    with pytest.raises(click.UsageError, match=named):
        await import_table(settings, url, tmp_path / "x.csv", dry_run=False, **options)
    with pytest.raises(click.UsageError, match=r"roles\.txt is neither a \.csv nor a \.ndjson file"):
        await import_table(settings, url, tmp_path / "roles.txt", dry_run=False, **options)


async def test_import_shows_a_progress_bar_on_a_terminal(
    source: Source, empty_register: URL, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        await import_(empty_register, source.directory)
        terminal.flush()
        shown = os.read(reader, 10_000).decode()
    os.close(reader)
    assert shown.startswith("\r")
    assert "Importing" in shown
    assert shown.count("100%") == 1
    assert shown.endswith("\r\n")
    assert capsys.readouterr() == ("", "")


async def test_command_has_a_longer_timeout_than_requests(
    empty_register: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "roles.csv"
    file.write_text("name\nx\n", "utf-8")
    seen = []

    async def import_and_read_timeout(service: RoleService, *arguments: Any, **options: Any) -> ImportResult:
        imported = await import_file(service, *arguments, **options)
        seen.append(await service.session.scalar(text("SHOW statement_timeout")))
        return imported

    monkeypatch.setattr(table_import, "import_file", import_and_read_timeout)
    options: Options = {"collection": None, "mapping": (), "match_ids": False, "raw": False}
    await import_table(settings_for(empty_register), text_of(empty_register), file, dry_run=False, **options)
    assert seen == ["10min"]


def test_export_is_imported_without_the_options_of_files(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["import", str(tmp_path), "--dry-run"])
    assert (done.exit_code, "Options are not allowed" in done.output) == (2, True)
