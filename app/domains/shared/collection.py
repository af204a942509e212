"""What a collection is: its model and schemas, the links that its objects list, and the rules that hold for it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import MISSING, BaseModel
from sqlalchemy import Table

from app.domains.shared.models import Base, RegisterObject, model_of, table_of
from app.domains.shared.rules import Link, Rule
from app.domains.shared.schemas import ObjectFields, ObjectRead


@dataclass(frozen=True, slots=True)
class LinkSet:
    """One kind of links of a collection.

    `field` is the member of bodies that lists them. `owner` and `target` are the columns of both ends, `detail` is
    that of the link's own field, if it has one, and `default` what it is where a body lists just ids.
    """

    field: str
    model: type[Base]
    owner: str
    target: str
    detail: str | None = None
    default: str | None = None

    @property
    def short(self) -> str:
        """The member of bodies that lists just ids."""
        return f"{self.target}s"

    @property
    def table(self) -> Table:
        return table_of(self.model)

    @property
    def owner_model(self) -> type[RegisterObject]:
        return model_of(self.table.c[self.owner])

    @property
    def target_model(self) -> type[RegisterObject]:
        return model_of(self.table.c[self.target])

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.target,) if self.detail is None else (self.target, self.detail)

    @property
    def is_repeatable(self) -> bool:
        """Whether an object may have several links to another one, which differ in `detail`."""
        return self.detail is not None and self.detail in self.table.primary_key.columns

    def arguments(self, links: Iterable[Link]) -> dict[str, list[Any]]:
        """Return the statement's arrays, sorted and without repetitions, so that all writers lock in one order."""
        wanted = sorted(set(links), key=lambda link: (link[0], link[1] or ""))
        arrays: dict[str, list[Any]] = {f"{self.field}_{self.target}": [target for target, _ in wanted]}
        if self.detail is not None:
            arrays[f"{self.field}_{self.detail}"] = [detail for _, detail in wanted]
        return arrays


@dataclass(frozen=True, slots=True)
class Collection:
    """The declaration of a collection, from which its reads and writes are derived.

    `read` is the schema of its objects as clients get them, `body` that of a whole object as clients send it: a merge
    patch is checked against it once it is merged. `links` are the lists of links that bodies have; `rules` are asked
    of every write.
    """

    model: type[RegisterObject]
    read: type[ObjectRead]
    body: type[ObjectFields]
    links: tuple[LinkSet, ...] = ()
    rules: tuple[type[Rule], ...] = ()

    @property
    def name(self) -> str:
        """The plural under which clients know it, and the name of its table."""
        name: str = self.model.__tablename__
        return name

    @property
    def noun(self) -> str:
        """What an error message calls one of its objects."""
        return self.model.noun


# Set by the register itself, in every collection.
_OWN_COLUMNS = frozenset({"id", "created_at", "updated_at", "created_by_id", "updated_by_id", "version"})


@cache
def writable_columns(model: type[Base]) -> tuple[str, ...]:
    """Return the columns that come from bodies."""
    columns = table_of(model).c
    return tuple(column.name for column in columns if column.name not in _OWN_COLUMNS and column.computed is None)


def values_of(model: type[Base], body: Any) -> dict[str, Any]:
    """Return the values that a whole body has for the writable columns."""
    return {name: getattr(body, name) for name in writable_columns(model)}


@cache
def foreign_keys(model: type[RegisterObject]) -> dict[str, type[RegisterObject]]:
    """Return the writable columns that refer to other objects, and the models they refer to."""
    columns = (table_of(model).c[name] for name in writable_columns(model))
    return {column.name: model_of(column) for column in columns if column.foreign_keys}


def wanted_links(body: BaseModel, link_set: LinkSet) -> list[Link] | None:
    """Return the links that a body lists in either form, or None when it is a patch that leaves them as they are."""
    if link_set.short in body.model_fields_set:
        return [(target, link_set.default) for target in getattr(body, link_set.short) or ()]
    links, target, detail = getattr(body, link_set.field), link_set.target, link_set.detail
    if links is MISSING:
        return None
    if detail is None:
        return [(getattr(link, target), None) for link in links or ()]
    return [(getattr(link, target), getattr(link, detail)) for link in links or ()]


def named_targets(body: BaseModel, link_set: LinkSet) -> list[tuple[str, type[RegisterObject], int]]:
    """Return pointer, model and id of every object that a body links to."""
    short = link_set.short in body.model_fields_set
    place = f"/{link_set.short}/{{}}" if short else f"/{link_set.field}/{{}}/{link_set.target}"
    links = wanted_links(body, link_set) or ()
    return [(place.format(index), link_set.target_model, target) for index, (target, _) in enumerate(links)]
