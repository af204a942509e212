"""Fast path, part 1: statements that are compiled once and run by the driver directly.

SQLAlchemy computes a cache key, looks up the compiled statement, converts parameters and wraps every row in a result
object each time a statement runs. For the large statements that read and write whole objects this costs more than the
rest of the request (`docs/decisions/07-session-and-fast-path.md` has the figures). A statement whose text never changes
can skip all of that: `prepare` compiles it once with SQLAlchemy's own compiler, and `RegisterSession.fetch` and
`RegisterSession.write_alone` (`app/core/database.py`) hand its text and its arguments to asyncpg.

Only the statements with a latency target (one object by id, pages of lists, writes of single objects) are prepared, and
those of whole lists, which are read through a cursor of the driver (`app/core/http/streaming.py`). All others are
ordinary statements for `session.execute`.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Executable
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement compiled for the driver: its SQL, and the names of its parameters in the driver's order."""

    sql: str
    names: tuple[str, ...]

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
    return Prepared(compiled.string, tuple(compiled.positiontup or ()))
