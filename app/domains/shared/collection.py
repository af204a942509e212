"""Declarations of collections: models, schemas, kinds of links, and rules."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from pydantic import MISSING, BaseModel
from sqlalchemy import Table

from app.domains.shared.models import Base, RegisterObject, model_of, table_of
from app.domains.shared.rules import Link, Rule
from app.domains.shared.schemas import ObjectFields, ObjectRead

# Every change sets these members; the history has its own columns for them.
BOOKKEEPING = ("id", "version", "created_at", "updated_at", "created_by", "updated_by")


@dataclass(frozen=True, slots=True)
class LinkSet:
    """One kind of links of a collection.

    `field` is the member of bodies that lists the links. `owner` and `target` are the columns of the two ends. `detail`
    is the column of the link's own field, if any, and `default` its value if a body lists ids only.
    """

    field: str
    model: type[Base]
    owner: str
    target: str
    detail: str | None = None
    default: str | None = None

    @property
    def short(self) -> str:
        """The member of bodies that lists the links by id only."""
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
        """Whether an object may have several links to the same target, which differ in `detail`."""
        return self.detail is not None and self.detail in self.table.primary_key.columns

    def arguments(self, links: Iterable[Link]) -> dict[str, list[Any]]:
        """Return the array arguments of a statement, without duplicates and sorted: one lock order for all writers."""
        ordered = sorted(set(links), key=lambda link: (link[0], link[1] or ""))
        arrays: dict[str, list[Any]] = {f"{self.field}_{self.target}": [target for target, _ in ordered]}
        if self.detail is not None:
            arrays[f"{self.field}_{self.detail}"] = [detail for _, detail in ordered]
        return arrays


@cache
def links_by_name(links: tuple[LinkSet, ...]) -> Mapping[str, LinkSet]:
    """Return the members of bodies that list links, each with the kind of its links."""
    return {name: link for link in links for name in (link.field, link.short)}


@dataclass(frozen=True, slots=True)
class Collection:
    """The declaration of a collection, from which its reads and writes are derived.

    `read` is the schema of objects in responses. `body` is the schema of a whole object in requests; the result of a
    merge patch is also validated against it. `links` are the kinds of links that bodies list. `rules` check every
    write. `history_members` are the members that the history records, but no body has.
    """

    model: type[RegisterObject]
    read: type[ObjectRead]
    body: type[ObjectFields]
    links: tuple[LinkSet, ...] = ()
    rules: tuple[type[Rule], ...] = ()
    history_members: tuple[str, ...] = ()

    @property
    def recorded_members(self) -> tuple[str, ...]:
        """The members that `before` and `after` of a change may have."""
        names = dict.fromkeys((*self.read.model_fields, *self.history_members))
        return tuple(name for name in names if name not in BOOKKEEPING)

    @property
    def name(self) -> str:
        """The name in paths, a plural, which is also the name of the table."""
        name: str = self.model.__tablename__
        return name

    @property
    def noun(self) -> str:
        """The singular for error messages."""
        return self.model.noun


# Columns that the register sets itself, in every collection.
_MANAGED_COLUMNS = frozenset({"id", "created_at", "updated_at", "created_by_id", "updated_by_id", "version"})


@cache
def writable_columns(model: type[Base]) -> tuple[str, ...]:
    """Return the names of the columns that bodies set."""
    columns = table_of(model).c
    return tuple(column.name for column in columns if column.name not in _MANAGED_COLUMNS and column.computed is None)


def values_of(model: type[Base], body: Any) -> dict[str, Any]:
    """Return the values of the writable columns in a whole body."""
    names = writable_columns(model)
    return dict(zip(names, attrgetter(*names)(body), strict=True))


@cache
def foreign_keys(model: type[RegisterObject]) -> dict[str, type[RegisterObject]]:
    """Return the models that writable columns refer to, by the name of the column."""
    columns = (table_of(model).c[name] for name in writable_columns(model))
    return {column.name: model_of(column) for column in columns if column.foreign_keys}


@cache
def reference_models(model: type[RegisterObject], links: tuple[LinkSet, ...]) -> Mapping[str, type[RegisterObject]]:
    """Return the models that the members of bodies refer to, by the member with the reference or the list of links."""
    return foreign_keys(model) | {name: link.target_model for name, link in links_by_name(links).items()}


@cache
def self_references(model: type[RegisterObject]) -> tuple[str, ...]:
    """Return the writable columns that refer to objects of the same collection."""
    return tuple(name for name, target in foreign_keys(model).items() if target is model)


def cycle_key(column: str) -> str:
    """Return the key of the text of a cycle by a column that refers to the same collection."""
    return "cycle" if column == "parent_id" else f"cycle:{column}"


def body_links(body: BaseModel, link_set: LinkSet) -> list[Link] | None:
    """Return the links that a body lists in either form, or None if a patch leaves them unchanged."""
    if link_set.short in body.model_fields_set:
        return [(target, link_set.default) for target in getattr(body, link_set.short) or ()]
    links, target, detail = getattr(body, link_set.field), link_set.target, link_set.detail
    if links is MISSING:
        return None
    if detail is None:
        return [(getattr(link, target), None) for link in links or ()]
    return [(getattr(link, target), getattr(link, detail)) for link in links or ()]


def body_link_targets(body: BaseModel, link_set: LinkSet) -> list[tuple[str, type[RegisterObject], int]]:
    """Return JSON pointer, model and id of every object that a body links to."""
    short = link_set.short in body.model_fields_set
    pointer = f"/{link_set.short}/{{}}" if short else f"/{link_set.field}/{{}}/{link_set.target}"
    links = body_links(body, link_set) or ()
    return [(pointer.format(index), link_set.target_model, target) for index, (target, _) in enumerate(links)]
