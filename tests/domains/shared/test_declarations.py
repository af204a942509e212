"""What lists declare is what their objects have: a field that is added without its filters fails here."""

from datetime import datetime
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from sqlalchemy import Table

from app.domains.shared.collection import LinkSet
from app.domains.shared.models import Base, Criticality
from app.domains.shared.query.representations import nested
from tests.catalogue import COLLECTIONS, LINKS, LISTS, REFERENCE_TARGETS, TREES, every_collection

EQUALITY = ("", "__not")
PATTERNS = ("__ic", "__sw")
COMPARISONS = ("__gt", "__gte", "__lt", "__lte")
# What is filtered by only some links, and by links the other way round.
MATCHES = {"roles": {"role_match"}}
OTHER_WAY = {"roles": {"user_id"}}


def link_filters(links: LinkSet) -> set[str]:
    """Return the filters of a kind of links: by the object on the other side, what is below it, and the own field."""
    names = {links.target, links.detail, *MATCHES.get(links.field, ())}
    if links.target_model.__tablename__ in TREES:
        names.add(f"{links.target.removesuffix('_id')}_within")
    return {name for name in names if name is not None}


def subtree_filters(collection: str) -> set[str]:
    """Return the filters by what an object stands below: an object of its own tree, or of one it refers to."""
    return {
        "within" if member == "parent_id" else f"{member.removesuffix('_id')}_within"
        for member, target in REFERENCE_TARGETS[collection].items()
        if target in TREES
    }


# What objects are linked to is filtered by these instead of a foreign key.
LINK_FILTERS = {links.field: link_filters(links) for collection in COLLECTIONS for links in LINKS[collection]}
# Filters of what is not a field: subtrees, and links the other way round.
BESIDES = {collection: subtree_filters(collection) | OTHER_WAY.get(collection, set()) for collection in COLLECTIONS}


def bare(annotation: Any) -> Any:
    """Return a type without constraints and null."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        (annotation,) = (each for each in get_args(annotation) if each is not type(None))
        return bare(annotation)
    return annotation


def is_nullable(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return is_nullable(get_args(annotation)[0])
    return type(None) in get_args(annotation)


def partial_texts(table: Table) -> set[str]:
    """Return the texts that are in the trigram index, which also serves what they contain and start with."""
    (trigrams,) = (index for index in table.indexes if index.name == f"ix_{table.name}_text")
    return {label.name.removeprefix("lower_") for label in trigrams.expressions}  # type: ignore[union-attr]


def suffixes(name: str, annotation: Any, partial: set[str]) -> tuple[str, ...]:
    """Return the suffixes that suit the type of a field; `partial` are the texts in the trigram index."""
    kind = bare(annotation)
    absent = ("__null",) if is_nullable(annotation) else ()
    if kind is bool:
        return ("",)
    if get_origin(kind) is Literal:
        return EQUALITY + absent
    if kind is int and name.endswith("_id"):
        return EQUALITY + absent
    if kind in {int, float, datetime}:
        return EQUALITY + COMPARISONS + absent
    assert kind is str, f"no filters are known for {name}: {kind}"
    return EQUALITY + (PATTERNS if name in partial else ()) + absent


def expected(collection: str, schema: type[BaseModel]) -> set[str]:
    """Return the parameters that the fields of what a list shows ask for."""
    names, partial = set(BESIDES[collection]), partial_texts(Base.metadata.tables[collection])
    for name, field in schema.model_fields.items():
        annotation = get_type_hints(schema, include_extras=True)[name]
        if nested(field.annotation) is None:
            names |= {name + suffix for suffix in suffixes(name, annotation, partial)}
        elif get_origin(bare(annotation)) is list:
            names |= LINK_FILTERS[name]
        elif f"{name}_id" not in schema.model_fields:  # it is shown as a brief only
            names |= {f"{name}_id{suffix}" for suffix in (*EQUALITY, "__null")}
    return names


@every_collection
def test_every_field_has_the_filters_of_its_type(collection: str) -> None:
    query = LISTS[collection]
    declared = query.declaration.parameters.keys() - {"q"}
    assert declared == expected(collection, query.shown)
    assert declared <= query.model_fields.keys()


def test_field_without_filters_would_be_noticed() -> None:
    class Grown(LISTS["roles"].shown):  # type: ignore[misc]
        budget: float | None
        level: Criticality
        cost_center: str | None

    missing = expected("roles", Grown) - LISTS["roles"].declaration.parameters.keys()
    budget = {"", "__not", "__gt", "__gte", "__lt", "__lte", "__null"}
    assert missing == {f"budget{suffix}" for suffix in budget} | {
        *("level", "level__not"),
        *("cost_center", "cost_center__not", "cost_center__null"),
    }


@every_collection
def test_sorts_and_groups_are_of_what_the_objects_have(collection: str) -> None:
    query = LISTS[collection]
    assert query.declaration.sorts.keys() <= query.shown.model_fields.keys()
    for name, grouping in query.declaration.groups.items():
        member = f"{name}s" if grouping.links else name
        assert member in query.shown.model_fields
        # A key of a group is what the filter of its column takes.
        assert grouping.column in query.declaration.parameters
