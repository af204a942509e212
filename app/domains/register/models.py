"""Tables of imports of whole registers, and of the local ids of the imported objects."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Identity, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.domains.shared.models import Base


class RegisterImport(Base):
    """An export that is being or was imported, identified by the digest of its content.

    `run` counts the imports of the export; `finished_at` is null while the last run is unfinished. Housekeeping deletes
    the row and its `ImportedObject`s 30 days after a run last began or finished. Neither table needs foreign keys,
    because ids are never reused.
    """

    __tablename__ = "register_imports"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    run: Mapped[int] = mapped_column(Integer)
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    used_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ImportedObject(Base):
    """Maps an exported id to the local id, with the run that last wrote the object."""

    __tablename__ = "imported_objects"

    import_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    collection: Mapped[str] = mapped_column(String(64), primary_key=True)
    old_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    new_id: Mapped[int] = mapped_column(BigInteger)
    run: Mapped[int] = mapped_column(Integer)
