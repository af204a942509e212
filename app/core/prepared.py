"""Fast path, part 1: statements that are compiled once and run by the driver directly.

SQLAlchemy computes a cache key, looks up the compiled statement, converts parameters and wraps every row in a result
object each time a statement runs. For the large statements that read and write whole objects this costs more than the
rest of the request (`docs/decisions/07-session-and-fast-path.md` has the figures). A statement whose text never changes
can skip all of that: `prepare` compiles it once with SQLAlchemy's own compiler, and `RegisterSession.fetch` and
`RegisterSession.write_alone` (`app/core/database.py`) hand its text and its arguments to asyncpg.

To build and compile a large statement takes up to 0.2 s, and filters, sort fields and `fields` combine to more
statements than any cache can hold. A `FastStatement` is therefore prepared in a thread at its first run, while the
process serves other requests.

The fast path serves the statements with a latency target (one object by id, writes of single objects), those of which
the parameters of a request choose the text (lists, statistics, searches), and those of whole lists, which are read
through a cursor of the driver (`app/core/http/streaming.py`). All others are ordinary statements for `session.execute`.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial, wraps
from typing import Any, ParamSpec, cast

from sqlalchemy import Executable, Table
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from app.utils.exceptions import CallerBusy, DatabaseBusy
from app.utils.request_context import current_user_id

P = ParamSpec("P")

# The number of statements that may wait to be prepared: as long as for a connection.
MAX_WAITING = 50
_TOO_MANY = "Too many new combinations of parameters are in use."
_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement compiled for the driver: its SQL, its parameters in the driver's order, and the tables it uses."""

    sql: str
    names: tuple[str, ...]
    tables: tuple[str, ...] = ()

    def arguments(self, values: dict[str, Any]) -> tuple[Any, ...]:
        """Return the values in the driver's order; further values are ignored. Raises `KeyError` if one is missing."""
        return tuple([values[name] for name in self.names])


def prepare(statement: Executable) -> Prepared:
    """Compile a statement once.

    Raises `ValueError` if the statement holds a value: each parameter must be a `bindparam` without a value.
    """
    compiled = statement.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
    if values := {name: value for name, value in compiled.params.items() if value is not None}:
        raise ValueError(f"values inside a prepared statement: {values}")
    return Prepared(compiled.string, tuple(compiled.positiontup or ()), _tables(statement))


def _tables(statement: Executable) -> tuple[str, ...]:
    """Return the names of the tables of a statement. Each shared part, such as a CTE, is visited once."""
    visited: dict[int, Any] = {}
    pending: list[Any] = [statement]
    while pending:
        element = pending.pop()
        if id(element) not in visited:
            visited[id(element)] = element
            pending += element.get_children()
    return tuple(sorted({element.name for element in visited.values() if isinstance(element, Table)}))


class _Compiler:
    """Prepares one statement after the other in a thread, so that the event loop gets at least half of the CPU time.

    The users whose statements wait take turns, so that no user waits for all statements of another one.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # By the id of the user, in the order of their turns. Statements outside of a request have the key None.
        self._queues: dict[int | None, deque[_Compilation]] = {}
        self._thread: threading.Thread | None = None

    def submit(self, build: Callable[[], Executable]) -> Future[Prepared]:
        """Return the future of the prepared statement.

        Raises `DatabaseBusy` if `MAX_WAITING` statements wait, and `CallerBusy` if half as many of the same user wait.
        """
        user = current_user_id()
        with self._changed:
            if user is not None and len(self._queues.get(user, ())) >= MAX_WAITING // 2:
                raise CallerBusy
            if sum(map(len, self._queues.values())) >= MAX_WAITING:
                raise DatabaseBusy(_TOO_MANY)
            compilation = _Compilation(build)
            self._queues.setdefault(user, deque()).append(compilation)
            if self._thread is None:
                # A daemon, because the process exits without the statements that still wait.
                self._thread = threading.Thread(target=self._run, name="compiler", daemon=True)
                self._thread.start()
            self._changed.notify()
        return compilation.future

    def _run(self) -> None:
        while True:
            self._next().run()

    def _next(self) -> "_Compilation":
        """Return the first statement of the user whose turn it is, and put the user behind the others."""
        with self._changed:
            while not self._queues:
                self._changed.wait()
            user = next(iter(self._queues))
            queue = self._queues.pop(user)
            compilation = queue.popleft()
            if queue:
                self._queues[user] = queue
            return compilation


class _Compilation:
    """A statement to build and compile, and the future of the result."""

    def __init__(self, build: Callable[[], Executable]) -> None:
        self._build = build
        self.future = Future[Prepared]()

    def run(self) -> None:
        try:
            self.future.set_result(prepare(self._build()))
        except BaseException as error:  # noqa: BLE001 - the caller gets it, and the thread goes on
            self.future.set_exception(error)


_COMPILER = _Compiler()


class FastStatement:
    """A statement of the fast path, built and compiled once, at its first run."""

    __slots__ = ("_build", "_future", "prepared")

    def __init__(self, build: Callable[[], Executable]) -> None:
        self._build = build
        self._future: Future[Prepared] | None = None
        # None before the first run.
        self.prepared: Prepared | None = None

    async def prepare(self, seconds: float | None = None) -> Prepared:
        """Return the prepared statement; concurrent callers wait for the same compilation.

        Raises `DatabaseBusy` if too many statements wait for theirs or if it takes longer than `seconds`, and
        `CallerBusy` if too many of the same user wait.
        """
        if self.prepared is None:
            self._future = self._future or _COMPILER.submit(self._build)
            try:
                async with asyncio.timeout(seconds):
                    # Shielded: a cancelled request does not end the compilation for which others wait.
                    self.prepared = await asyncio.shield(asyncio.wrap_future(self._future))
            except TimeoutError as error:
                raise DatabaseBusy(_TOO_MANY) from error
            finally:
                if self._future is not None and self._future.done():
                    self._future = None
        return self.prepared


def fast_statement(
    max_kept: int | None = None,
) -> Callable[[Callable[P, Executable]], Callable[P, FastStatement]]:
    """Decorate a function that builds a statement, so that it returns the `FastStatement` of its arguments.

    The function itself runs in the compiler's thread. The statements of the last `max_kept` combinations of arguments
    are kept, or those of all if it is None.
    """

    def decorate(build: Callable[P, Executable]) -> Callable[P, FastStatement]:
        @lru_cache(max_kept)
        @wraps(build)
        def statement(*args: P.args, **kwargs: P.kwargs) -> FastStatement:
            return FastStatement(partial(build, *args, **kwargs))

        # The type of a cached function has no parameters.
        return cast("Callable[P, FastStatement]", statement)

    return decorate
