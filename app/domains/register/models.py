"""What is kept of imports of whole registers: which objects became of those of an export."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Identity, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.domains.shared.models import Base


class RegisterImport(Base):
    """An export that is, or was, imported as a whole; known again by what is in it.

    `run` counts how often that was begun, and `finished_at` is null until it was done so often. The row, with those of
    its `ImportedObject`s, goes a month after the last batch. Neither refers to others by a foreign key, which nobody
    would need: ids are never given again.
    """

    __tablename__ = "register_imports"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    digest: Mapped[bytes] = mapped_column(LargeBinary, unique=True)
    run: Mapped[int] = mapped_column(Integer)
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    used_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class ImportedObject(Base):
    """Which object here became of one that has `old_id` in an export, and which run it was last written by."""

    __tablename__ = "imported_objects"

    import_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    collection: Mapped[str] = mapped_column(String(64), primary_key=True)
    old_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    new_id: Mapped[int] = mapped_column(BigInteger)
    run: Mapped[int] = mapped_column(Integer)
