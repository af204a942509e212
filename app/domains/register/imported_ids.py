"""Which objects became of those of an export. It is kept beside what is written, in the same transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Executable, text

from app.core.database import Database, RegisterSession
from app.domains.shared.schemas import NO_TEXT

# A collection and an id of the register that was exported.
Old = tuple[str, int]

# One that was finished begins anew, and one that was not goes on.
_BEGIN = text(
    """
    INSERT INTO register_imports AS i (digest, run, used_at) VALUES (:digest, 1, now())
        ON CONFLICT (digest) DO UPDATE
       SET run = i.run + (i.finished_at IS NOT NULL)::int, finished_at = NULL, used_at = now()
    RETURNING id, run
    """
)
_FINISH = text("UPDATE register_imports SET finished_at = now(), used_at = now() WHERE id = :import_id")
_LOOK_UP = text(
    """
    SELECT m.collection, m.old_id, m.new_id
      FROM unnest(CAST(:collections AS text[]), CAST(:old_ids AS bigint[])) AS old (collection, id)
      JOIN imported_objects m ON m.import_id = :import_id AND m.collection = old.collection AND m.old_id = old.id
    """
)
_RECORD = text(
    """
    INSERT INTO imported_objects (import_id, collection, old_id, new_id, run)
    SELECT :import_id, :collection, m.old_id, m.new_id, :run
      FROM unnest(CAST(:old_ids AS bigint[]), CAST(:new_ids AS bigint[])) AS m (old_id, new_id)
        ON CONFLICT (import_id, collection, old_id) DO UPDATE SET new_id = EXCLUDED.new_id, run = EXCLUDED.run
    """
)


@dataclass(frozen=True, slots=True)
class ImportedId:
    """The object here that an exported one is, None if there is none yet, and whether this run has written it."""

    id: int | None
    is_done: bool


class ImportedIds:
    """The ids of one import, in one run of it."""

    def __init__(self, import_id: int, run: int) -> None:
        self._import_id = import_id
        self._run = run

    @classmethod
    async def begin(cls, database: Database, digest: bytes) -> "ImportedIds":
        """Begin to import what has this digest, or go on with it."""
        async with database.transaction() as session:
            row = (await session.execute(_BEGIN, {"digest": digest})).one()
        return cls(row.id, row.run)

    async def lock(self, session: RegisterSession) -> None:
        """Wait until nobody else writes a batch of the same import, and tell that it is in use."""
        await session.lock(f"import {self._import_id}")

    async def find(
        self,
        session: RegisterSession,
        table: str,
        documents: Sequence[Mapping[str, Any]],
        moments: Sequence[str | None],
    ) -> dict[int, ImportedId]:
        """Return which objects here these are, which were made at these moments.

        As recorded; or else, where the export came from, the one with the same id that was made at the same moment; or
        else the one with the external id, the code or the e-mail, if none of those before it says that it is another.
        """
        keys = {
            f"{name}s": [_key(document.get(name)) for document in documents]
            for name in ("external_id", "code", "email")
        }
        old_ids = [document["id"] for document in documents]
        values = {"import_id": self._import_id, "old_ids": old_ids, "created_ats": moments, **keys}
        rows = await session.execute(_find(table), values)
        return {row.old_id: ImportedId(row.id, row.run == self._run and row.is_there) for row in rows}

    async def look_up(self, session: RegisterSession, wanted: Iterable[Old]) -> dict[Old, int]:
        """Return what became of these objects, as far as they have been imported."""
        pairs = list(wanted)
        if not pairs:
            return {}
        collections, old_ids = [collection for collection, _ in pairs], [key for _, key in pairs]
        values = {"import_id": self._import_id, "collections": collections, "old_ids": old_ids}
        rows = await session.execute(_LOOK_UP, values)
        return {(row.collection, row.old_id): row.new_id for row in rows}

    async def record(self, session: RegisterSession, table: str, ids: Mapping[int, int]) -> None:
        """Keep which old ids became which new ones."""
        values = {
            "import_id": self._import_id,
            "run": self._run,
            "collection": table,
            "old_ids": list(ids),
            "new_ids": list(ids.values()),
        }
        await session.execute(_RECORD, values)

    async def finish(self, database: Database) -> None:
        """Tell that all is done: whoever imports the same again begins anew."""
        async with database.transaction() as session:
            await session.execute(_FINISH, {"import_id": self._import_id})


def _key(value: Any) -> str | None:
    """Return a text that an object can be found by. What else a line says there is for its schema to refuse."""
    return value if isinstance(value, str) and not NO_TEXT.search(value) else None


@cache
def _find(table: str) -> Executable:
    # The names of tables are ours (S608); only users have an e-mail.
    email = "o.email" if table == "users" else "NULL"
    same_id = "coalesce(o.external_id = old.external_id, true)"
    same_code = "coalesce(lower(o.code) = lower(old.code), true)"
    return text(
        f"""
        SELECT old.id AS old_id, m.run, o.id IS NOT NULL AS is_there,
               coalesce(o.id,
                        (SELECT o.id FROM {table} o
                          WHERE o.id = old.id AND o.created_at = CAST(old.at AS timestamptz)),
                        (SELECT o.id FROM {table} o WHERE o.external_id = old.external_id),
                        (SELECT o.id FROM {table} o WHERE lower(o.code) = lower(old.code) AND {same_id}),
                        (SELECT o.id FROM {table} o
                          WHERE lower({email}) = lower(old.email) AND {same_id} AND {same_code})) AS id
          FROM unnest(CAST(:old_ids AS bigint[]), CAST(:created_ats AS text[]), CAST(:external_ids AS text[]),
                      CAST(:codes AS text[]), CAST(:emails AS text[])) AS old (id, at, external_id, code, email)
          LEFT JOIN imported_objects m
            ON m.import_id = :import_id AND m.collection = '{table}' AND m.old_id = old.id
          LEFT JOIN {table} o ON o.id = m.new_id
        """  # noqa: S608
    )
