"""A private PostgreSQL that tests break and repair."""

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
from sqlalchemy import URL, make_url

from app.core.local_postgres import EmbeddedPostgres
from app.core.permissions import SCOPES
from app.core.tokens import API_TOKEN, Tokens, new_token
from app.utils.db_init import initialise
from tests.conftest import connected, give_admin_token, settings_for
from tests.faults.processes import processes
from tests.waiting import wait_until

# The settings of PostgreSQL in production: each commit is on disk before it is acknowledged.
DURABLE: Mapping[str, str] = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
# A killed process loses no data that it has passed to the operating system, so tests that kill it need no fsync.
WITHOUT_FSYNC: Mapping[str, str] = {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "on"}
# Errors of a connection that cannot be opened, or is lost.
OUTAGES = (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)

# Several users, because one user may not take all database connections.
WRITER_TOKENS = tuple(new_token(API_TOKEN) for _ in range(4))
_ADD_EDITOR = """
    WITH editor AS (INSERT INTO users (name, email, access_level) VALUES ($1, $2, 'editor') RETURNING id)
    INSERT INTO api_tokens (user_id, name, token_hash, scopes, expires_at)
    SELECT id, 'Tests', $3, $4, now() + interval '1 day' FROM editor
"""


class Postgres:
    """A PostgreSQL server with a register. Its address is the same after each start."""

    def __init__(self, data_dir: Path, settings: Mapping[str, str]) -> None:
        self._data_dir = data_dir
        self._server = EmbeddedPostgres(data_dir, report=lambda _: None, settings=settings)
        self.url: URL = make_url("postgresql://")

    @property
    def log(self) -> str:
        return (self._data_dir / "postgres" / "server.log").read_text(errors="replace")

    def start(self) -> None:
        self.url = make_url(self._server.start())

    def initialise(self) -> None:
        """Create the schema, the administrator with `ADMIN_TOKEN`, and an editor for each of `WRITER_TOKENS`."""

        async def create() -> None:
            await initialise(settings_for(self.url), self.url, lambda _: None, demo_data=False)
            await give_admin_token(self.url)
            tokens = Tokens(settings_for(self.url))
            async with connected(self.url) as connection:
                for number, token in enumerate(WRITER_TOKENS):
                    values = f"Writer {number}", f"writer-{number}@register.example", tokens.api_token_hashes(token)[0]
                    await connection.execute(_ADD_EDITOR, *values, sorted(SCOPES))

        asyncio.run(create())

    def stop(self) -> None:
        """Shut the server down. It aborts running transactions."""
        self._server.stop()

    def kill(self) -> None:
        """Kill the main process of the server with SIGKILL; the other processes end by themselves."""
        os.kill(self._pid, signal.SIGKILL)
        self._server.stop()

    def kill_a_backend(self) -> None:
        """Kill the process of one connection of the service with SIGKILL. PostgreSQL then restarts by itself."""
        (row,) = self.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'process-register' LIMIT 1")
        os.kill(row["pid"], signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all processes of the server with SIGSTOP during the block."""
        # The main process is first, so it starts no further ones.
        stopped = [self._pid]
        os.kill(self._pid, signal.SIGSTOP)
        try:
            for process in processes():
                if process.parent == self._pid:
                    os.kill(process.pid, signal.SIGSTOP)
                    stopped.append(process.pid)
            yield
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def lock_held(self, statement: str) -> Iterator[None]:
        """Hold the locks of a statement in another session during the block."""
        with asyncio.Runner() as runner:
            session = connected(self.url)
            connection = runner.run(session.__aenter__())
            try:
                runner.run(connection.execute(f"BEGIN; {statement}"))
                yield
                runner.run(connection.execute("ROLLBACK"))
            finally:
                runner.run(session.__aexit__(None, None, None))

    def query(self, sql: str) -> list[asyncpg.Record]:
        """Run a query on a new connection. Raises one of `OUTAGES` if the server does not answer."""

        async def run() -> list[asyncpg.Record]:
            async with connected(self.url) as connection:
                rows: list[asyncpg.Record] = await connection.fetch(sql)
                return rows

        return asyncio.run(run())

    def fetch(self, sql: str) -> list[asyncpg.Record]:
        """Run a query once the server accepts connections."""
        rows: list[asyncpg.Record] = []

        def succeeds() -> bool:
            with suppress(*OUTAGES):
                rows.extend(self.query(sql))
                return True
            return False

        wait_until(succeeds)
        return rows

    def fill_the_log(self) -> None:
        """Write to the log (WAL) on a full disk until the server has stopped itself."""

        def has_stopped() -> bool:
            with suppress(*OUTAGES):
                self.query("SELECT pg_switch_wal(), pg_logical_emit_message(true, '', repeat(' ', 100000))")
            return not self._pid_file.exists()

        wait_until(has_stopped)
        self.stop()

    @property
    def _pid(self) -> int:
        return int(self._pid_file.read_text().split()[0])

    @property
    def _pid_file(self) -> Path:
        return self._data_dir / "postgres" / "data" / "postmaster.pid"
