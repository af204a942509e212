"""Which members of an object an answer shows: `fields` and `embed`.

The plain members are columns of the object itself; the embedded ones show what it refers or links to, and cost a look
into other tables. What is not asked for is not queried.
"""

from functools import cache
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator
from pydantic_core import PydanticCustomError

from app.core.http.hints import name_hint
from app.domains.shared.schemas import ObjectRead

# More than all members of any collection together need.
MAX_NAMES_LENGTH = 1000

# The members to show; None stands for all.
Members = frozenset[str] | None


def nested(annotation: Any) -> type[BaseModel] | None:
    """Return the schema inside `Schema`, `Schema | None` or `list[Schema]`; None of anything else."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(nested, get_args(annotation))), None)


@cache
def embedded(schema: type[BaseModel]) -> frozenset[str]:
    """Return the members of a schema that show other objects."""
    return frozenset(name for name, field in schema.model_fields.items() if nested(field.annotation))


class RepresentationQuery(BaseModel):
    """The parameters that choose the members of an answer; `representation` adds the names of a schema."""

    # Not `strict`: what stands in an address is text. Built when first needed, see `lists.FilterQuery`.
    model_config = ConfigDict(defer_build=True, extra="forbid")

    shown: ClassVar[type[BaseModel]] = ObjectRead

    fields: str | None = None
    embed: str | None = None

    @property
    def members(self) -> Members:
        """The members to show: those of `fields` and `embed`; without `fields` all plain ones, without both all."""
        known = frozenset(self.shown.model_fields)
        also = frozenset() if self.embed is None else frozenset(self.embed.split(",")) - {"none"}
        if self.fields is not None:
            members = also | frozenset(self.fields.split(","))
        elif self.embed is not None:
            members = also | (known - embedded(self.shown))
        else:
            members = known
        return None if members == known else members

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, value: str) -> str:
        return _known(value, tuple(cls.shown.model_fields))

    @field_validator("embed")
    @classmethod
    def _known_embeds(cls, value: str) -> str:
        if value == "none":
            return value
        if "none" in value.split(","):
            raise PydanticCustomError("unknown_member", "`none` goes with no other name")
        return _known(value, (*_embeddable(cls.shown), "none"))


def representation(schema: type[BaseModel]) -> dict[str, Any]:
    """Return the fields that choose among the members of a schema, for `create_model`."""
    return {
        "fields": (str | None, _names(tuple(schema.model_fields), "", _FIELDS, ["id,name"])),
        "embed": (str | None, _names(_embeddable(schema), "none|", _EMBED, ["none"])),
    }


def representation_query(name: str, schema: type[BaseModel]) -> type[RepresentationQuery]:
    """Return the model of the parameters of one object."""
    model = create_model(name, __base__=RepresentationQuery, **representation(schema))
    model.shown = schema
    return model


_FIELDS = (
    "Names of the members to show, in any order: the others are absent from the answer, and not queried. "
    "What `embed` names is shown as well."
)
_EMBED = (
    "Names of the references and links to show, all by default; `none` leaves the object's own members. "
    "The others are absent from the answer, and not queried. What `fields` names is shown as well."
)


def _embeddable(schema: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name in schema.model_fields if name in embedded(schema))


def _names(known: tuple[str, ...], alone: str, description: str, examples: list[str]) -> Any:
    names = "|".join(known)
    # Checked by `_known`, which names the nearest; a pattern of the field itself would answer first.
    pattern = f"^({alone}({names})(,({names}))*)$"
    return Field(
        None,
        max_length=MAX_NAMES_LENGTH,
        description=description,
        examples=examples,
        json_schema_extra={"pattern": pattern},
    )


def _known(value: str, known: tuple[str, ...]) -> str:
    for name in value.split(","):
        if name not in known:
            raise PydanticCustomError(
                "unknown_member", "There is no such member. {hint}", {"hint": name_hint(name, known)}
            )
    return value
