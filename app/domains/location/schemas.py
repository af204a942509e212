"""Schemas of location requests and responses."""

from functools import cache
from importlib.resources import files
from typing import Annotated, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from app.domains.location.models import ADDRESS_LENGTH, TIMEZONE_LENGTH, LocationKind
from app.domains.shared.schemas import Brief, ChangeFields, ObjectRead, TreeFields, example, merge_patch
from app.domains.shared.texts import multiple_lines
from app.utils.fault_codes import invalid


@cache
def countries() -> frozenset[str]:
    """Return the codes of ISO 3166-1 alpha-2, from the table in the IANA time zone database (tzdata)."""
    lines = (files("tzdata") / "zoneinfo" / "iso3166.tab").read_text("utf-8").splitlines()
    return frozenset(line.split("\t")[0] for line in lines if not line.startswith("#"))


@cache
def _timezones() -> frozenset[str]:
    return frozenset((files("tzdata") / "zones").read_text("utf-8").split())


def _check_country(value: str) -> str:
    if value not in countries():
        raise invalid("country")
    return value


def _check_timezone(value: str) -> str:
    if value not in _timezones():
        raise invalid("timezone")
    return value


Country = Annotated[
    str,
    AfterValidator(_check_country),
    WithJsonSchema(
        {"type": "string", "enum": sorted(countries()), "description": "Country code (ISO 3166-1 alpha-2)."}
    ),
]
Timezone = Annotated[
    str,
    AfterValidator(_check_timezone),
    # Not an enum: the list changes several times a year and would double the size of the document.
    WithJsonSchema(
        {
            "type": "string",
            "format": "timezone",
            "maxLength": TIMEZONE_LENGTH,
            "description": "Name of a time zone in the IANA database.",
            "examples": ["Europe/Zurich"],
        }
    ),
]
Latitude = Annotated[float, Field(ge=-90, le=90, description="Degrees (WGS 84); requires `longitude`.")]
Longitude = Annotated[float, Field(ge=-180, le=180, description="Degrees (WGS 84); requires `latitude`.")]


class LocationFields(TreeFields):
    kind: LocationKind = "site"
    address: Annotated[str, *multiple_lines(ADDRESS_LENGTH)] | None = None
    country: Country | None = None
    timezone: Timezone | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None


class WholeLocation(LocationFields):
    @model_validator(mode="after")
    def _check_coordinates(self) -> Self:
        if (self.latitude is None) != (self.longitude is None):
            raise invalid("coordinates", member="longitude" if self.longitude is None else "latitude")
        return self


class LocationCreate(WholeLocation):
    """A new location."""

    model_config = example(
        name="Milan showroom", kind="site", country="IT", timezone="Europe/Rome", latitude=45.4642, longitude=9.19
    )


class LocationReplace(ChangeFields, WholeLocation):
    """All fields of a location; omitted fields are reset to their defaults."""

    model_config = example(name="Europe", kind="region")


@merge_patch
class LocationPatch(ChangeFields, LocationFields):
    """Changes to a location: omitted fields are kept, `null` clears a nullable field."""

    model_config = example(address="1 Boiler Lane", timezone="Europe/London")


class LocationRead(ObjectRead):
    """A place where work is done."""

    parent_id: int | None
    parent: Brief | None
    kind: LocationKind
    address: str | None
    country: Country | None
    timezone: str | None
    latitude: float | None
    longitude: float | None
