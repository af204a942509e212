"""The parameters `fields` and `embed`, which select the members of an object in a response.

Plain members are columns of the object itself. Embedded members show referenced or linked objects and need queries of
other tables. Members that are not selected are not queried.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

from app.core.http.hints import listed_name_hint
from app.core.permissions import Scope
from app.domains.shared.schemas import ObjectRead, OnRequest
from app.utils.fault_codes import described_pattern, invalid
from app.utils.wording import joined

# Longer than the names of all members of any collection.
MAX_NAMES_LENGTH = 1000

# The names of the members to show; None for those of `default_members`.
Members = frozenset[str] | None


def find_schema(annotation: Any) -> type[BaseModel] | None:
    """Return the schema in `Schema`, `Schema | None` or `list[Schema]`, else None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(find_schema, get_args(annotation))), None)


@cache
def embedded_members(schema: type[BaseModel]) -> frozenset[str]:
    """Return the names of the members of a schema that show other objects."""
    return frozenset(name for name, field in schema.model_fields.items() if find_schema(field.annotation))


@cache
def members_on_request(schema: type[BaseModel]) -> Mapping[str, Scope]:
    """Return the members of a schema that responses have only on request, each with the scope that it requires."""
    marks = ((name, mark) for name, field in schema.model_fields.items() for mark in field.metadata)
    return {name: mark.scope for name, mark in marks if isinstance(mark, OnRequest)}


def required_scopes(schema: type[BaseModel], names: Iterable[str]) -> list[Scope]:
    """Return the scopes of the members on request that have one of the names."""
    scopes = members_on_request(schema)
    return [scopes[name] for name in names if name in scopes]


@cache
def default_members(schema: type[BaseModel]) -> frozenset[str]:
    """Return the names of the members of a schema that responses have without `fields` and `embed`."""
    return frozenset(schema.model_fields) - members_on_request(schema).keys()


class RepresentationQuery(BaseModel):
    """The parameters that select the members of a response; `representation` adds the names of a schema."""

    # Not `strict`: query parameters are text. `defer_build`: see `pages.FilterQuery`.
    model_config = ConfigDict(defer_build=True, extra="forbid")

    read_schema: ClassVar[type[BaseModel]] = ObjectRead

    fields: str | None = None
    embed: str | None = None

    @property
    def members(self) -> Members:
        """The members of `fields` and `embed`; without `fields` also all plain members; without both, the default."""
        default = default_members(self.read_schema)
        embed = frozenset() if self.embed is None else frozenset(self.embed.split(",")) - {"none"}
        if self.fields is not None:
            members = embed | frozenset(self.fields.split(","))
        elif self.embed is not None:
            members = embed | (default - embedded_members(self.read_schema))
        else:
            members = default
        return None if members == default else members

    @field_validator("fields")
    @classmethod
    def _check_fields(cls, value: str) -> str:
        return _check_names(value, tuple(cls.read_schema.model_fields))

    @field_validator("embed")
    @classmethod
    def _check_embed(cls, value: str) -> str:
        if value == "none":
            return value
        if "none" in value.split(","):
            raise invalid("unknown_member:none")
        return _check_names(value, (*_embeddable(cls.read_schema), "none"))


def representation(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the fields `fields` and `embed` for a schema, as `create_model` takes them."""
    names = [f"`{name}` (requires `{scope}`)" for name, scope in members_on_request(schema).items()]
    default = f"all by default, except {joined(names)}." if names else "all by default."
    return {
        "fields": (str | None, _names_field(tuple(schema.model_fields), "", f"{_FIELDS}; {default}", ["id,name"])),
        "embed": (str | None, _names_field(_embeddable(schema), "none|", f"{_EMBED}; {default}", ["none"])),
    }


def representation_query(name: str, schema: type[BaseModel]) -> type[RepresentationQuery]:
    """Return the model of the parameters `fields` and `embed` for a schema."""
    model = create_model(name, __base__=RepresentationQuery, **representation(schema))
    model.read_schema = schema
    return model


_FIELDS = "Comma-separated names of the fields to return"
_EMBED = "Comma-separated names of the references and links to return, or `none`"


def _embeddable(schema: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name in schema.model_fields if name in embedded_members(schema))


def _names_field(names: tuple[str, ...], keyword: str, description: str, examples: list[str]) -> Any:
    alternatives = "|".join(names)
    # For OpenAPI only: `_check_names` validates, and suggests the nearest name.
    pattern = f"^({keyword}({alternatives})(,({alternatives}))*)$"
    return Field(
        None,
        max_length=MAX_NAMES_LENGTH,
        description=description,
        examples=examples,
        json_schema_extra={"pattern": described_pattern(pattern, "Must be names of fields, separated by commas.")},
    )


def _check_names(value: str, names: tuple[str, ...]) -> str:
    for name in value.split(","):
        if name not in names:
            raise invalid("unknown_member", hint=listed_name_hint(name, names, "fields"))
    return value
