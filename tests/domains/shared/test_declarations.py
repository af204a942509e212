"""The declarations of lists fit the fields of their objects: a new field without filters fails here."""

from datetime import datetime
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import MISSING, BaseModel
from sqlalchemy import Table

from app.domains.role.service import HOLDERS
from app.domains.shared.collection import LinkSet
from app.domains.shared.models import Base, Criticality, model_of
from app.domains.shared.query.representations import find_schema
from tests.catalogue import COLLECTIONS, LINKS, LISTS, MODELS, REFERENCE_TARGETS, TREES, every_collection

EQUALITY = ("", "__not")
PATTERNS = ("__ic", "__sw")
COMPARISONS = ("__gt", "__gte", "__lt", "__lte")


def link_filters(links: LinkSet, end: str) -> set[str]:
    """Return the filters of a kind of links: by the object at one end, by its subtree, and by the own field."""
    names = {end, f"{end}__not", f"{end}__null", f"{end.removesuffix('_id')}_match"}
    if model_of(links.table.c[end]).__tablename__ in TREES:
        names |= {f"{end.removesuffix('_id')}_within", f"{end.removesuffix('_id')}_within__not"}
    if links.detail is not None:
        names |= {links.detail, *({f"{links.detail}_match"} if links.is_repeatable else ())}
    return names


def links_the_other_way(collection: str) -> set[str]:
    """Return the filters by links that the documents of the collection do not list."""
    kinds = [*(links for each in COLLECTIONS for links in LINKS[each]), HOLDERS]
    towards = [links for links in kinds if links.target_model is MODELS[collection]]
    names = {name for links in towards for name in link_filters(links, links.owner)}
    # Roles do not list their holders.
    return names | (link_filters(HOLDERS, HOLDERS.target) if collection == "roles" else set())


def subtree_filters(collection: str) -> set[str]:
    """Return the filters by subtrees: of the object's own tree and of the trees it refers to."""
    return {
        name + suffix
        for member, target in REFERENCE_TARGETS[collection].items()
        for name in ("within" if member == "parent_id" else f"{member.removesuffix('_id')}_within",)
        for suffix in EQUALITY
        if target in TREES
    }


# These filters of linked objects replace those of a foreign key.
LINK_FILTERS = {
    links.field: link_filters(links, links.target) for collection in COLLECTIONS for links in LINKS[collection]
}
# The filters by the place in a tree.
PLACES = {"level", "level__not", "has_children"}
# Filters without a field: subtrees, places in a tree, and links in the other direction.
BESIDES = {
    collection: subtree_filters(collection)
    | (PLACES if collection in TREES else set())
    | links_the_other_way(collection)
    for collection in COLLECTIONS
}


def bare(annotation: Any) -> Any:
    """Return a type without constraints, null, and what stands for a field that is not requested."""
    if get_origin(annotation) is Annotated:
        return bare(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        (annotation,) = (each for each in get_args(annotation) if each is not type(None) and each is not MISSING)
        return bare(annotation)
    return annotation


def is_nullable(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return is_nullable(get_args(annotation)[0])
    return type(None) in get_args(annotation)


def partial_texts(table: Table) -> set[str]:
    """Return the texts of the trigram index, which serves `__ic` and `__sw`."""
    (trigrams,) = (index for index in table.indexes if index.name == f"ix_{table.name}_text")
    return {label.name.removeprefix("folded_") for label in trigrams.expressions}  # type: ignore[union-attr]


def suffixes(name: str, annotation: Any, partial: set[str]) -> tuple[str, ...]:
    """Return the suffixes for the type of a field; `partial` are the texts in the trigram index."""
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
    """Return the parameters that the fields of a list's objects require."""
    names, partial = set(BESIDES[collection]), partial_texts(Base.metadata.tables[collection])
    for name, field in schema.model_fields.items():
        annotation = get_type_hints(schema, include_extras=True)[name]
        if find_schema(field.annotation) is None:
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
    assert declared == expected(collection, query.read_schema)
    assert declared <= query.model_fields.keys()


@every_collection
def test_filters_by_links_read_the_collection_that_lists_the_links(collection: str) -> None:
    reads = LISTS[collection].declaration.reads
    for links in (*(links for each in COLLECTIONS for links in LINKS[each]), HOLDERS):
        # The holders of roles are read with the permission to read users.
        stating = "users" if links is HOLDERS else links.owner_model.__tablename__
        for end, other in ((links.owner, links.target), (links.target, links.owner)):
            if model_of(links.table.c[end]) is not MODELS[collection]:
                continue
            of_tree = {name for name in link_filters(links, other) if "_within" in name}
            for name in link_filters(links, other) - of_tree:
                assert reads.get(name, collection) == stating, name
            assert {reads[name] for name in of_tree} <= {model_of(links.table.c[other]).__tablename__}


def test_field_without_filters_is_detected() -> None:
    class Grown(LISTS["roles"].read_schema):  # type: ignore[misc]
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
def test_sorts_and_groups_are_fields_of_the_objects(collection: str) -> None:
    query = LISTS[collection]
    assert query.declaration.sorts.keys() <= query.read_schema.model_fields.keys()
    for name, grouping in query.declaration.groups.items():
        member = f"{name}s" if grouping.links else name
        assert member in query.read_schema.model_fields
        # The key of a group is a value of the filter of its column.
        assert grouping.column in query.declaration.parameters
