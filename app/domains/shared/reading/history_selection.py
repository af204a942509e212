"""The selection of changes by the filters of the lists of changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import product
from typing import Any, get_args

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Select,
    String,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    func,
    literal_column,
    or_,
    select,
    true,
)

from app.domains.shared.history.models import Change, utc_day
from app.domains.shared.history.record import constant
from app.domains.shared.models import ChangeAction, RegisterObject, folded, table_of
from app.domains.shared.query.orders import FIRST_POSITION, LAST_POSITION, Condition, Start, opaque_parameter
from app.domains.shared.reading.documents import by_id

ACTIONS: tuple[str, ...] = get_args(ChangeAction)


@dataclass(frozen=True, slots=True)
class ObjectOfChanges:
    """The object that `condition` selects by its parameter `key`; with `by_id` it may have been deleted."""

    model: type[RegisterObject]
    condition: Condition

    @property
    def type(self) -> ColumnElement[str]:
        return constant(self.model.__tablename__)

    @property
    def id(self) -> ColumnElement[Any]:
        if self.condition is by_id:
            return bindparam("key", type_=BigInteger)
        table = table_of(self.model).alias("named")
        return select(table.c.id).where(self.condition(table)).scalar_subquery()

    def __call__(self, source: FromClause) -> ColumnElement[bool]:
        """Return the condition that a change is of this object."""
        return and_(source.c.type == self.type, source.c.object_id == self.id)


@dataclass(frozen=True, slots=True)
class ChangeFilters:
    """The values of the filters of a list of changes; None for a filter that does not apply."""

    types: tuple[str, ...]
    # Whether `types` are fewer than those of the whole history.
    by_type: bool
    actions: Sequence[str] | None = None
    members: Sequence[str] | None = None
    code: str | None = None
    object_id: int | None = None
    actor_id: int | None = None
    since: datetime | None = None
    before_id: int | None = None

    def selection(self, object_: ObjectOfChanges | None = None) -> "ChangeSelection":
        """Return the selection, restricted to the changes of the object, if there is one."""
        names = ("actions", "members", "code", "object_id", "actor_id", "since", "before_id")
        given = {name for name in names if getattr(self, name) is not None} | ({"types"} if self.by_type else set())
        return ChangeSelection(frozenset(given), object_)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the statements of the selection."""
        # Without duplicates, because each action is looked up separately.
        actions, members = (list(dict.fromkeys(names)) for names in (self.actions or ACTIONS, self.members or ()))
        return {
            "type": next(iter(self.types), None),
            "types": list(self.types),
            "actions": actions,
            "members": members,
            "member_keys": [".".join(key) for key in product(self.types, actions, members)],
            "code": self.code,
            "object_id": self.object_id,
            "actor_id": self.actor_id,
            "since": self.since,
            "before_id": self.before_id,
        }


@dataclass(frozen=True, slots=True)
class ChangeSelection:
    """The condition of the changes that filters select, as a key of cached statements: it has names, no values."""

    filters: frozenset[str]
    object: ObjectOfChanges | None = None

    def __call__(self, source: FromClause) -> ColumnElement[bool]:
        """Return the condition on the rows of `source`."""
        return and_(self.ids_between(source.c.id, "first"), *self.conditions(source))

    def conditions(self, source: FromClause, *, indexed: frozenset[str] = frozenset()) -> list[ColumnElement[bool]]:
        """Return the conditions of the filters on other values than `id`, except those in `indexed`."""
        conditions: dict[str, ColumnElement[bool]] = {
            "types": source.c.type == any_(_texts("types")),
            "actions": source.c.action == any_(_texts("actions")),
            "members": or_(*(source.c[name].has_any(_texts("members")) for name in ("before", "after"))),
            "code": folded(source.c.object_code) == code_key(),
            "object_id": source.c.object_id == bindparam("object_id", type_=BigInteger),
            "actor_id": source.c.actor_id == actor_key(),
            "since": source.c.at >= _since(),
        }
        chosen = [condition for name, condition in conditions.items() if name in self.filters - indexed]
        if "code" in self.filters:
            chosen.append(source.c.object_code.is_not(None))  # `ix_changes_code` is partial
        if self.object is not None and "object" not in indexed:
            chosen.append(self.object(source))
        return [literal_column("true"), *chosen]

    def bounds(self, start: Start) -> tuple[ColumnElement[int], ColumnElement[int]]:
        """Return the ids between which, without them, the selected changes lie: after or before the position."""
        position = cast(opaque_parameter("key_0", Text()), BigInteger)
        lower: list[ColumnElement[int]] = [FIRST_POSITION]
        upper: list[ColumnElement[int]] = [LAST_POSITION]
        if start != "first":
            (upper if start == "after" else lower).append(position)
        if "before_id" in self.filters:
            upper.append(bindparam("before_id", type_=BigInteger))
        if "since" in self.filters:
            lower.append(func.coalesce(_first_id_since() - literal_column("1"), LAST_POSITION))
        return func.greatest(*lower, type_=BigInteger), func.least(*upper, type_=BigInteger)

    def ids_between(self, id_: ColumnElement[int], start: Start) -> ColumnElement[bool]:
        """Return the condition that an id lies between the bounds."""
        lower, upper = self.bounds(start)
        return and_(id_ > lower, id_ < upper)


def has_member(source: FromClause) -> ColumnElement[bool]:
    """Return the condition that a change has one of the members, in the form of the index on them.

    The parameter has each of them together with each selected type and action, as the function of the database returns
    them. To call it for each row takes ten times as long as to look for the names.
    """
    columns = (source.c[name] for name in ("type", "action", "before", "after"))
    members = func.change_members(*columns, type_=ARRAY(Text))
    return members.bool_op("&&")(bindparam("member_keys", type_=ARRAY(Text)))


def code_key() -> ColumnElement[str]:
    return folded(bindparam("code", type_=String), "code")


def actor_key() -> ColumnElement[int]:
    return bindparam("actor_id", type_=BigInteger)


def _texts(name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=ARRAY(String))


def _since() -> ColumnElement[datetime]:
    return bindparam("since", type_=DateTime(timezone=True))


@cache
def _first_id_since() -> ColumnElement[int]:
    """Return the least id of the changes since the beginning of the day of `since`, or NULL.

    A clock that was set back makes times decrease, so the first id of each day is looked up.
    """
    table = table_of(Change)
    first, later = table.alias("first"), table.alias("later")
    days = _first_of_day(first, utc_day(first.c.at) >= utc_day(_since())).cte("days", recursive=True)
    following = _first_of_day(later, utc_day(later.c.at) > days.c.day).lateral("following")
    days = days.union_all(select(following.c.day, following.c.id).select_from(days.join(following, true())))
    return select(func.min(days.c.id)).scalar_subquery()


def _first_of_day(source: FromClause, condition: ColumnElement[bool]) -> Select[Any]:
    day = utc_day(source.c.at)
    return select(day.label("day"), source.c.id).where(condition).order_by(day, source.c.id).limit(literal_column("1"))
