"""What objects can be counted by: a value of theirs, what they refer to, or what they are linked to.

A domain declares its groups in its `lists.py`, beside filters and sorts.
"""

from dataclasses import dataclass

from app.domains.shared.models import Base


@dataclass(frozen=True, slots=True)
class LinkTable:
    """Where the links of objects stand: `owner` is the column of the objects' own end.

    `detail` is the link's own field; a filter of that name also chooses among the links that are counted.
    """

    model: type[Base]
    owner: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Grouping:
    """A column whose values are the groups, of the objects or of their links."""

    column: str
    # Whether it is the id of another object, which is shown.
    refers: bool = False
    links: LinkTable | None = None


def field_groups(*names: str) -> dict[str, Grouping]:
    """Count by fields of the objects."""
    return {name: Grouping(name) for name in names}


def reference_groups(*names: str) -> dict[str, Grouping]:
    """Count by what the objects refer to."""
    return {name: Grouping(f"{name}_id", refers=True) for name in names}


def link_groups(model: type[Base], owner: str, target: str, *, detail: str | None = None) -> dict[str, Grouping]:
    """Count by what the objects are linked to: `owner` and `target` are the columns of the two ends."""
    return {target.removesuffix("_id"): Grouping(target, refers=True, links=LinkTable(model, owner, detail))}
