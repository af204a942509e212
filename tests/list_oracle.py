"""A naive computation of lists and statistics over exported objects.

Written from the description of the filters in `docs/06-api.md`, not from their SQL: plain loops over the objects of an
export, without indexes. Only ASCII is folded.
"""

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Object = Mapping[str, Any]
# The parameters of a request, in their order; a parameter may occur several times.
Query = Sequence[tuple[str, str]]
# The id of a linked object and the link's own field, None if the link has none.
Link = tuple[int, str | None]
Test = Callable[[Object], bool]

TREES = ("departments", "locations", "processes")
REFERENCES: dict[str, dict[str, str]] = {
    "departments": {"parent_id": "departments", "head_id": "users"},
    "locations": {"parent_id": "locations"},
    "processes": {"parent_id": "processes", "owner_id": "users"},
    "resources": {"owner_department_id": "departments", "location_id": "locations"},
    "roles": {"department_id": "departments"},
    "users": {"department_id": "departments", "manager_id": "users"},
}
IGNORING_CASE = frozenset({"code", "email"})
NUMBERS = frozenset({"latitude", "longitude", "version"})


@dataclass(frozen=True)
class Kind:
    """A kind of links, seen from one collection: the collection at the other end, and the link's own field, if any.

    `member` lists the links in the objects of `states`. `repeatable` says whether two objects may have several links.
    """

    target: str
    states: str
    member: str
    detail: str | None = None
    repeatable: bool = False

    @property
    def noun(self) -> str:
        return NOUNS[self.target]


NOUNS = {
    "departments": "department",
    "locations": "location",
    "processes": "process",
    "resources": "resource",
    "roles": "role",
    "users": "user",
}
_DETAILS = {
    "departments": ("relation", False),
    "locations": (None, False),
    "resources": ("usage", False),
    "roles": ("responsibility", True),
}
KINDS: dict[str, tuple[Kind, ...]] = {
    "processes": tuple(Kind(name, "processes", name, *detail) for name, detail in _DETAILS.items()),
    **{name: (Kind("processes", "processes", name, *detail),) for name, detail in _DETAILS.items()},
    "users": (Kind("roles", "roles", "holders"),),
}
KINDS["roles"] += (Kind("users", "roles", "holders"),)


class Register:
    """The objects of an export, by collection; those of roles list their holders."""

    def __init__(self, objects: Mapping[str, Sequence[Object]]) -> None:
        self.objects = objects
        self.by_id = {name: {each["id"]: each for each in all_} for name, all_ in objects.items()}

    def select(self, collection: str, query: Query, counted: Sequence[Kind] = ()) -> list[Object]:
        """Return the objects that the parameters select, by id.

        The own field of `counted` links alone selects no objects: it selects the links that statistics count.
        """
        parameters = _Parameters(query)
        links = [self._links(collection, kind, parameters, is_counted=kind in counted) for kind in KINDS[collection]]
        tests = [test for test in links if test is not None]
        word = parameters.one("q")
        if word is not None:
            tests.append(lambda each: word.lower() in f"{each['name']} {each['description']}".lower().split())
        # The remaining parameters are those of fields.
        tests += [*self._tree(collection, parameters), *self._fields(collection, parameters)]
        found = (each for each in self.objects[collection] if all(test(each) for test in tests))
        return sorted(found, key=lambda each: each["id"])

    def below(self, path: tuple[str, str], collection: str, query: Query) -> list[Object]:
        """Return the objects of `collection` that are linked to the object `path`, and that the parameters select.

        The own field of the links describes the link of the path.
        """
        target, reference = path
        (kind,) = (kind for kind in KINDS[collection] if kind.target == target)
        id_ = self.resolve(target, reference)
        linked = [each for each in self.objects[collection] if id_ in self._details(collection, kind, each)]
        if kind.detail in {name for name, _ in query}:
            query = [*query, (f"{kind.noun}_id", str(id_))]
        selected = {each["id"] for each in self.select(collection, query)}
        return [each for each in linked if each["id"] in selected]

    def stats(self, collection: str, query: Query, group_by: str) -> tuple[int, Counter[tuple[str | None, ...]]]:
        """Return the number of selected objects, and that of each combination of keys of the groupings."""
        names = group_by.split(",")
        kinds = {kind.noun: kind for kind in KINDS[collection] if collection == "processes"}
        selected = self.select(collection, query, [kinds[name] for name in names if name in kinds])
        groups: Counter[tuple[str | None, ...]] = Counter()
        for each in selected:
            combinations: list[tuple[str | None, ...]] = [()]
            for name in names:
                keys = self._keys(collection, each, name, kinds.get(name), query)
                combinations = [(*head, key) for head in combinations for key in keys]
            groups.update(set(combinations))
        return len(selected), groups

    def _keys(self, collection: str, each: Object, name: str, kind: Kind | None, query: Query) -> set[str | None]:
        if kind is None:
            value = each[f"{name}_id"] if f"{name}_id" in each else each[name]
            return {None if value is None else str(value).lower() if isinstance(value, bool) else str(value)}
        wanted = {value for parameter, value in query if parameter == kind.detail}
        match = next((value for parameter, value in query if parameter == f"{kind.detail}_match"), "any")
        found = self._details(collection, kind, each)
        return {str(id_) for id_, own in found.items() if _has_details(own, wanted, match)} or {None}

    def _details(self, collection: str, kind: Kind, each: Object) -> dict[int, set[str | None]]:
        """Return the ids of the linked objects, each with the own fields of its links."""
        found: dict[int, set[str | None]] = {}
        for id_, detail in self.links(collection, kind, each):
            found.setdefault(id_, set()).add(detail)
        return found

    def links(self, collection: str, kind: Kind, each: Object) -> list[Link]:
        """Return the links of an object of the collection."""
        if kind.states == collection:
            return [(link["id"], link.get(kind.detail or "")) for link in each[kind.member]]
        return [
            (other["id"], link.get(kind.detail or ""))
            for other in self.objects[kind.states]
            for link in other[kind.member]
            if link["id"] == each["id"]
        ]

    def resolve(self, collection: str, reference: str) -> int | None:
        """Return the id of the object that a reference names, or None."""
        column, separator, key = reference.partition(":")
        if not separator:
            return int(reference)
        for each in self.objects[collection]:
            value = each[column]
            if value == key or (column == "code" and value is not None and value.lower() == key.lower()):
                id_: int = each["id"]
                return id_
        return None

    def subtree(self, collection: str, reference: str) -> set[int | None]:
        """Return the ids of an object and of all objects below it."""
        root = self.resolve(collection, reference)
        found = {root} & self.by_id[collection].keys()
        while more := {
            each["id"] for each in self.objects[collection] if each["parent_id"] in found and each["id"] not in found
        }:
            found |= more
        return found

    def level(self, collection: str, each: Object) -> int:
        """Return the level of an object in its tree; that of roots is 1."""
        level = 1
        while each["parent_id"] is not None:
            each, level = self.by_id[collection][each["parent_id"]], level + 1
        return level

    def _ids(self, collection: str, references: Iterable[str]) -> set[int | None]:
        """Return the ids of the named objects, with None for each name of no object."""
        return {self._known(collection, self.resolve(collection, each)) for each in references}

    def _known(self, collection: str, id_: int | None) -> int | None:
        return id_ if id_ in self.by_id[collection] else None

    def _fields(self, collection: str, parameters: "_Parameters") -> Iterator[Test]:
        references = REFERENCES[collection] | {"created_by_id": "users", "updated_by_id": "users", "id": collection}
        names = parameters.remaining()
        for field in sorted({_field_of(name) for name in names}):
            target = references.get(field)
            positive, negative = list[Test](), list[Test]()
            for name in sorted(each for each in names if _field_of(each) == field):
                base, _, suffix = name.partition("__")
                if suffix == "null":
                    continue
                values = parameters.read(name)
                if suffix in _COMPARISONS:
                    positive.append(_comparison(field, suffix, values[0]))
                    continue
                if base != field:
                    wanted: set[Any] = self.subtree(target or "", values[0])
                elif target:
                    wanted = self._ids(target, values) - {None}
                else:
                    wanted = {_comparable(field, value) for value in values}
                (negative if suffix == "not" else positive).append(_membership(field, wanted))
            is_null = parameters.flag(f"{field}__null")
            yield _field_test(field, positive, negative, is_null)

    def _tree(self, collection: str, parameters: "_Parameters") -> Iterator[Test]:
        levels = {int(value) for value in parameters.read("level")}
        if levels:
            yield lambda each: self.level(collection, each) in levels
        excluded = {int(value) for value in parameters.read("level__not")}
        if excluded:
            yield lambda each: self.level(collection, each) not in excluded
        has_children = parameters.flag("has_children")
        if has_children is not None:
            parents = {each["parent_id"] for each in self.objects.get(collection, ())}
            yield lambda each: (each["id"] in parents) is has_children

    def _links(self, collection: str, kind: Kind, parameters: "_Parameters", *, is_counted: bool) -> Test | None:
        noun, target = kind.noun, kind.target
        wanted = self._ids(target, parameters.read(f"{noun}_id"))
        excluded = self._ids(target, parameters.read(f"{noun}_id__not"))
        within = [self.subtree(target, root) for root in parameters.read(f"{noun}_within")]
        not_within = [self.subtree(target, root) for root in parameters.read(f"{noun}_within__not")]
        match = parameters.one(f"{noun}_match")
        details = set(parameters.read(kind.detail)) if kind.detail else set()
        detail_match = (parameters.one(f"{kind.detail}_match") if kind.detail else None) or "any"
        is_null = parameters.flag(f"{noun}_id__null")
        names_links = bool(wanted or excluded or within or not_within or match) or is_null is not None
        if not names_links and (is_counted or not details):
            return None

        def test(each: Object) -> bool:
            found = self._details(collection, kind, each)
            holds: set[int | None] = {id_ for id_, own in found.items() if _has_details(own, details, detail_match)}
            near = holds.intersection(*within)
            named = near & wanted if wanted else near
            positive, negative = list[bool](), list[bool]()
            if match == "none":
                positive.append(not named)
            elif match == "all":
                positive.append(wanted <= near)
            elif wanted or within:
                positive.append(bool(named))
            negative += [not holds & others for others in (excluded, *not_within)]
            if is_null is False:
                negative.append(bool(holds))
            if is_null:
                return all(negative) and ((bool(positive) and all(positive)) or not holds)
            is_absence = excluded or not_within
            return all(negative) and all(positive or [bool(is_absence or holds)])

        return test


def _has_details(found: set[str | None], wanted: set[str], match: str) -> bool:
    return not wanted or {"any": bool(found & wanted), "all": wanted <= found, "none": not found & wanted}[match]


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "ic": lambda value, part: part in value,
    "sw": lambda value, part: value.startswith(part),
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def _field_of(name: str) -> str:
    """Return the field that a parameter filters by."""
    base = name.partition("__")[0]
    return "id" if base == "within" else re.sub("_within$", "_id", base)


def _comparable(field: str, value: Any) -> Any:
    """Return a value as parameters write it, in lower case if case is ignored."""
    if isinstance(value, bool):
        return str(value).lower()
    if field in NUMBERS:
        return float(value)
    if field.endswith("_at"):
        return datetime.fromisoformat(value)
    return value.lower() if field in IGNORING_CASE else value


def _value(each: Object, field: str) -> Any:
    if field in {"created_by_id", "updated_by_id"}:
        brief = each[field.removesuffix("_id")]
        return brief and brief["id"]
    return None if each[field] is None else _comparable(field, each[field])


def _membership(field: str, wanted: set[Any]) -> Test:
    return lambda each: _value(each, field) in wanted


def _comparison(field: str, name: str, operand: str) -> Test:
    def test(each: Object) -> bool:
        value = _value(each, field)
        if value is None:
            return False
        if name in {"ic", "sw"}:
            return _COMPARISONS[name](value.lower(), operand.lower())
        if field.endswith("_at"):
            return _COMPARISONS[name](value, datetime.fromisoformat(operand))
        return _COMPARISONS[name](float(value), float(operand))

    return test


def _field_test(field: str, positive: list[Test], negative: list[Test], is_null: bool | None) -> Test:
    def test(each: Object) -> bool:
        if any(excludes(each) for excludes in negative):
            return False
        is_missing = _value(each, field) is None
        is_found = all(includes(each) for includes in positive)
        if is_null:
            return is_missing or (bool(positive) and is_found)
        return is_found and not (is_null is False and is_missing)

    return test


class _Parameters:
    """The parameters of a request, which knows those that were read."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._read: set[str] = set()

    def remaining(self) -> set[str]:
        return {name for name, _ in self._query} - self._read

    def read(self, name: str) -> list[str]:
        self._read.add(name)
        return [value for each, value in self._query if each == name]

    def one(self, name: str) -> str | None:
        return next(iter(self.read(name)), None)

    def flag(self, name: str) -> bool | None:
        value = self.one(name)
        return None if value is None else value == "true"
