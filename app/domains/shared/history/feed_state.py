"""The state of the feed of changes: one row, and the beginning of epochs.

Within an epoch, the feed delivers changes in the order of their transactions. The ids of transactions belong to one
PostgreSQL cluster, so a register that continues in another one, or from an earlier state, begins a new epoch. The
changes that exist then are settled: the feed delivers them first, in the order of `id`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import UUID, uuid4

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    ColumnElement,
    FromClause,
    SmallInteger,
    String,
    Text,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Database, RegisterSession
from app.domains.shared.models import Base, table_of
from app.utils.exceptions import DatabaseBusy, DatabaseReadOnly, ServiceUnavailable

# The wait for transactions that were writing changes when an epoch begins.
MAX_CHECKS = 20
PAUSE_SECONDS = 0.1

# The cluster, its timeline and the database. The timeline is another after a failover and a point-in-time recovery.
_THIS_CLUSTER = """(
    SELECT concat_ws('/', s.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8), d.oid)
      FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database())"""
# The last id that was drawn. It is NULL in the view if none was, or to a role that may not draw one: then one is drawn.
_LAST_ID = text("""
    SELECT coalesce((SELECT last_value FROM pg_sequences WHERE format('%I.%I', schemaname, sequencename) = s.name),
                    nextval(s.name))
      FROM pg_get_serial_sequence('changes', 'id') AS s(name)""")
# The transactions that may have drawn the id of a change and not yet ended: an INSERT takes this lock first.
_WRITERS = text("""
    SELECT l.virtualtransaction FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
     WHERE d.datname = current_database() AND l.relation = 'changes'::regclass AND l.mode = 'RowExclusiveLock'
       AND l.pid IS DISTINCT FROM pg_backend_pid()""")


class FeedState(Base):
    """The only row, which the beginning of the first epoch creates."""

    __tablename__ = "feed_state"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    # Random: registers that are restored from the same dump must not have equal epochs.
    epoch: Mapped[UUID]
    cluster: Mapped[str] = mapped_column(String(64))
    # The system column `xmin` of this version of the row. A restored copy of the row has another one.
    row_version: Mapped[int] = mapped_column(BigInteger)
    # Changes up to this id are settled; all later ones have transaction ids of this cluster, of at least `live_from`.
    settled_through: Mapped[int] = mapped_column(BigInteger)
    live_from: Mapped[int] = mapped_column(BigInteger)
    # The number of times that housekeeping has deleted changes in this epoch, and the greatest position among them.
    thinnings: Mapped[int] = mapped_column(BigInteger)
    thinned_before: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))


def is_current(state: FromClause) -> ColumnElement[bool]:
    """Return the condition that the epoch of the state is that of this database; it is NULL without a state.

    It is false on a standby server, which cannot know whether it still follows the server that it did before.
    """
    is_here = case(
        (func.pg_is_in_recovery(type_=Boolean), literal_column("false", Boolean)),
        else_=state.c.cluster == literal_column(_THIS_CLUSTER, String),
    )
    return and_(_xmin(state) == state.c.row_version, is_here)


def horizon() -> ColumnElement[int]:
    """Return the id of the oldest transaction that is still running, or else of the next one."""
    return cast(cast(func.pg_snapshot_xmin(func.pg_current_snapshot()), Text), BigInteger)


class Epochs:
    """Begins the epochs of one database, in one process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._is_beginning = False
        # Tests replace the pause, so that they need not wait.
        self.pause: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def begin_at_start(self) -> None:
        """Begin an epoch if that of the state is not current, so that the first reader need not wait for it.

        Does not raise: if the database is unavailable or not migrated, the first reader begins the epoch.
        """
        with suppress(ServiceUnavailable, SQLAlchemyError):
            await self.begin()

    async def begin(self) -> None:
        """Begin an epoch, unless that of the state is current.

        Waits without a connection. Raises `DatabaseBusy` if a transaction that was writing changes does not end in
        time, or another task of this process is beginning the epoch, and `DatabaseReadOnly` on a standby server.
        """
        if self._is_beginning:
            raise DatabaseBusy
        self._is_beginning = True
        try:
            await self._begin()
        finally:
            self._is_beginning = False

    async def _begin(self) -> None:
        async with self._database.transaction() as session:
            if await session.scalar(select(func.pg_is_in_recovery())):
                raise DatabaseReadOnly("The feed is read from the primary server; this is a standby server.")
            if await _is_begun(session):
                return
            # Before the last id is read: no transaction that has ended already adds a later one.
            live_from = await session.scalar(select(horizon()))
            # A transaction that has drawn this id or a lower one holds its lock already, and is awaited. So every
            # change up to this id is committed or undone before the epoch begins, and every later one has a greater id.
            last_id = await session.scalar(_LAST_ID)
        await self._await_writers()
        async with self._database.transaction() as session:
            # Against other processes that begin one, and housekeeping: both hold their locks for few statements.
            await session.execute(text("LOCK TABLE feed_state IN SHARE ROW EXCLUSIVE MODE"))
            if not await _is_begun(session):
                await _replace_state(session, live_from=live_from, settled_through=last_id)

    async def _await_writers(self) -> None:
        writers = await self._writers()
        for _ in range(MAX_CHECKS):
            if not writers:
                return
            await self.pause(PAUSE_SECONDS)
            writers &= await self._writers()
        raise DatabaseBusy

    async def _writers(self) -> set[str]:
        async with self._database.transaction() as session:
            return set((await session.execute(_WRITERS)).scalars())


async def _is_begun(session: RegisterSession) -> bool:
    return bool(await session.scalar(select(is_current(table_of(FeedState)))))


async def _replace_state(session: RegisterSession, **values: int) -> None:
    """Replace the state by that of a new epoch, with the values of the columns that depend on the database."""
    state = table_of(FeedState)
    await session.execute(delete(state))
    row = {
        "id": 1,
        "epoch": uuid4(),
        "cluster": literal_column(_THIS_CLUSTER, String),
        "row_version": 0,
        "thinnings": 0,
        "thinned_before": [0, 0],
    }
    await session.execute(insert(state).values(row | values))
    # The new version has the same `xmin`, because it is written by the same transaction.
    await session.execute(update(state).values(row_version=_xmin(state)))


def _xmin(state: FromClause) -> ColumnElement[int]:
    return literal_column(f"{state.name}.xmin::text::bigint", BigInteger)  # type: ignore[attr-defined]
