"""Groupings of statistics: by a field, by a reference, or by links.

A domain declares its groupings in its `lists.py`, beside filters and sorts.
"""

from dataclasses import dataclass

from app.domains.shared.models import Base


@dataclass(frozen=True, slots=True)
class LinkTable:
    """A link table; `owner` is the column that refers to the counted objects.

    `detail` is the link's own field; a filter of that name also restricts the counted links.
    """

    model: type[Base]
    owner: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Grouping:
    """A column, of the objects or of their links, whose values are the groups."""

    column: str
    # Whether the column is the id of another object, whose brief is shown.
    is_reference: bool = False
    links: LinkTable | None = None


def field_groups(*names: str) -> dict[str, Grouping]:
    """Return the groupings by these fields."""
    return {name: Grouping(name) for name in names}


def reference_groups(*names: str) -> dict[str, Grouping]:
    """Return the groupings by these references."""
    return {name: Grouping(f"{name}_id", is_reference=True) for name in names}


def link_groups(model: type[Base], owner: str, target: str, *, detail: str | None = None) -> dict[str, Grouping]:
    """Return the grouping by linked objects; `owner` and `target` are the columns of the two ends."""
    return {target.removesuffix("_id"): Grouping(target, is_reference=True, links=LinkTable(model, owner, detail))}
