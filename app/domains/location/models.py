"""The table of locations."""

from typing import Any, Literal, get_args

from sqlalchemy import CheckConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.domains.shared.models import RegisterObject, enumeration, reference, register_table

LocationKind = Literal["region", "country", "city", "site", "building", "floor", "room", "virtual"]

ADDRESS_LENGTH = 1000
TIMEZONE_LENGTH = 64


class Location(RegisterObject):
    __tablename__ = "locations"
    __table_args__ = register_table(
        __tablename__,
        enumeration("kind", get_args(LocationKind)),
        CheckConstraint("(latitude IS NULL) = (longitude IS NULL)", name="coordinates"),
        CheckConstraint("latitude BETWEEN -90 AND 90", name="latitude"),
        CheckConstraint("longitude BETWEEN -180 AND 180", name="longitude"),
        Index(f"ix_{__tablename__}_kind", "kind", "id"),
        Index(f"ix_{__tablename__}_latitude", "latitude", "id"),
        Index(f"ix_{__tablename__}_longitude", "longitude", "id"),
        tree=True,
        texts=("address", "country", "timezone"),
    )
    noun = "location"

    parent_id: Mapped[int | None] = reference("locations")
    kind: Mapped[str]
    address: Mapped[str | None] = mapped_column(String(ADDRESS_LENGTH))
    country: Mapped[str | None] = mapped_column(String(2))
    timezone: Mapped[str | None] = mapped_column(String(TIMEZONE_LENGTH))
    latitude: Mapped[float | None]
    longitude: Mapped[float | None]

    parent: Mapped[Any] = relationship("Location", foreign_keys=[parent_id], remote_side="Location.id", lazy="raise")
