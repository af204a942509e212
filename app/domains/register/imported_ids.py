"""Maps exported ids to local ids. A mapping is stored in the transaction that writes the objects."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Executable, text

from app.core.database import Database, RegisterSession
from app.domains.shared.texts import UNSTORABLE_CHARACTER
from app.utils.text.email_addresses import comparable_email

# The collection and the id of an object in the exported register.
ExportedId = tuple[str, int]

# A finished import starts a new run; an unfinished one resumes its run.
_BEGIN = text(
    """
    INSERT INTO register_imports AS i (digest, run, used_at) VALUES (:digest, 1, now())
        ON CONFLICT (digest) DO UPDATE
       SET run = i.run + (i.finished_at IS NOT NULL)::int, finished_at = NULL, used_at = now()
    RETURNING id, run
    """
)
_FINISH = text("UPDATE register_imports SET finished_at = now(), used_at = now() WHERE id = :import_id")
_RESOLVE = text(
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
    """The local id of an exported object, None if there is no such object yet, and whether this run has written it."""

    id: int | None
    is_done: bool


class ImportedIds:
    """The ids of one run of an import."""

    def __init__(self, import_id: int, run: int) -> None:
        self._import_id = import_id
        self._run = run

    @classmethod
    async def begin(cls, database: Database, digest: bytes) -> "ImportedIds":
        """Begin or resume the import of the export with this digest."""
        async with database.transaction() as session:
            row = (await session.execute(_BEGIN, {"digest": digest})).one()
        return cls(row.id, row.run)

    async def lock(self, session: RegisterSession) -> None:
        """Take the advisory lock that serialises the batches of the import, until the transaction ends."""
        await session.lock(f"import {self._import_id}")

    async def find(
        self,
        session: RegisterSession,
        table: str,
        documents: Sequence[Mapping[str, Any]],
        created_ats: Sequence[str | None],
    ) -> dict[int, ImportedId]:
        """Return the local ids of exported documents, by exported id.

        The local object is the first that exists of: the one recorded by this import; the one with the same id and
        `created_at`, which is the exported object itself; the one with the same `external_id`; the one with the same
        code, unless the external ids differ; the one with the same e-mail address, unless the external ids or the codes
        differ.
        """
        keys = {
            f"{name}s": [_key(document.get(name)) for document in documents]
            for name in ("external_id", "code", "email")
        }
        keys["emails"] = [address and comparable_email(address) for address in keys["emails"]]
        old_ids = [document["id"] for document in documents]
        values = {"import_id": self._import_id, "old_ids": old_ids, "created_ats": created_ats, **keys}
        rows = await session.execute(_find(table), values)
        return {row.old_id: ImportedId(row.id, row.run == self._run and row.exists) for row in rows}

    async def resolve(self, session: RegisterSession, exported_ids: Iterable[ExportedId]) -> dict[ExportedId, int]:
        """Return the local ids of those exported ids that have been imported."""
        pairs = list(exported_ids)
        if not pairs:
            return {}
        collections, old_ids = [collection for collection, _ in pairs], [key for _, key in pairs]
        values = {"import_id": self._import_id, "collections": collections, "old_ids": old_ids}
        rows = await session.execute(_RESOLVE, values)
        return {(row.collection, row.old_id): row.new_id for row in rows}

    async def record(self, session: RegisterSession, table: str, ids: Mapping[int, int]) -> None:
        """Record the local ids, by exported id, of the objects of a collection."""
        values = {
            "import_id": self._import_id,
            "run": self._run,
            "collection": table,
            "old_ids": list(ids),
            "new_ids": list(ids.values()),
        }
        await session.execute(_RECORD, values)

    async def finish(self, database: Database) -> None:
        """Record that the run is finished; importing the same export again starts a new run."""
        async with database.transaction() as session:
            await session.execute(_FINISH, {"import_id": self._import_id})


def _key(value: Any) -> str | None:
    """Return a value if it is a storable text, else None: the schema rejects the line later."""
    return value if isinstance(value, str) and not UNSTORABLE_CHARACTER.search(value) else None


@cache
def _find(table: str) -> Executable:
    # S608: the table name is a constant. Only users have an e-mail address.
    email = "o.email" if table == "users" else "NULL"
    same_id = "coalesce(o.external_id = old.external_id, true)"
    same_code = "coalesce(fold(o.code) = fold(old.code), true)"
    return text(
        f"""
        SELECT old.id AS old_id, m.run, o.id IS NOT NULL AS exists,
               coalesce(o.id,
                        (SELECT o.id FROM {table} o
                          WHERE o.id = old.id AND o.created_at = CAST(old.at AS timestamptz)),
                        (SELECT o.id FROM {table} o WHERE o.external_id = old.external_id),
                        (SELECT o.id FROM {table} o WHERE fold(o.code) = fold(old.code) AND {same_id}),
                        (SELECT o.id FROM {table} o
                          WHERE fold_email({email}) = fold_email(old.email) AND {same_id} AND {same_code})) AS id
          FROM unnest(CAST(:old_ids AS bigint[]), CAST(:created_ats AS text[]), CAST(:external_ids AS text[]),
                      CAST(:codes AS text[]), CAST(:emails AS text[])) AS old (id, at, external_id, code, email)
          LEFT JOIN imported_objects m
            ON m.import_id = :import_id AND m.collection = '{table}' AND m.old_id = old.id
          LEFT JOIN {table} o ON o.id = m.new_id
        """  # noqa: S608
    )
