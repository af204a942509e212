"""Business rules of collections, checked on single writes and batches alike.

A rule is a class. Single writes, links, deletes, batches, imports and restores describe the intended changes as
`Write`s and pass them to it, so each rule is implemented once. `Rules` applies the rules of a collection to one unit of
writes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.permissions import Scope
from app.domains.shared.models import RegisterObject
from app.utils.exceptions import Fault, Forbidden, RegisterError

# The id of the linked object, and the value of the link's own field, if any.
Link = tuple[int, str | None]
# The writable columns of an object, by name; for an existing object also `id`, `version` and `created_by_id`.
Values = Mapping[str, Any]


@dataclass(eq=False, slots=True)
class Write:
    """One write of one object. `before` is None for a creation, `after` for a deletion.

    `added` and `removed` have the new and the removed links, by the member that lists them; a link whose own field
    changes is in both. They are set if the `concerns` of a rule returns true, but not for a deletion, which removes all
    links. `id` is None for a single creation until the row is inserted. `is_rejected` is set when the write is
    rejected, by a rule or otherwise: the object then stays unchanged.
    """

    model: type[RegisterObject]
    id: int | None
    before: Values | None
    after: Values | None
    added: dict[str, set[Link]] = field(default_factory=dict)
    removed: dict[str, set[Link]] = field(default_factory=dict)
    is_rejected: bool = False

    def changes(self, *columns: str) -> bool:
        """Return whether the write updates an existing object and changes one of these columns."""
        before, after = self.before, self.after
        return before is not None and after is not None and any(before[name] != after[name] for name in columns)

    def replace_links(self, field: str, before: set[Link], after: set[Link]) -> None:
        """Set `added` and `removed` of a list of links."""
        self.added[field], self.removed[field] = after - before, before - after

    def new_links(self) -> dict[str, set[Link]]:
        """Return the added links by the member that lists them, except existing links whose own field changes."""
        replaced = {field: {target for target, _ in links} for field, links in self.removed.items()}
        new_links = {
            field: {link for link in links if link[0] not in replaced.get(field, ())}
            for field, links in self.added.items()
        }
        return {field: links for field, links in new_links.items() if links}

    @property
    def result(self) -> Values | None:
        """The values after all writes: those of `before` if the write is rejected."""
        return self.before if self.is_rejected else self.after


@dataclass(frozen=True, slots=True)
class RuleViolation:
    """The reason why a rule rejects a write. `pointer` points into the body; "" stands for the whole write.

    For a separate error code, add a subclass of `Conflict` to `utils/exceptions.py`.
    """

    error: type[RegisterError]
    detail: str
    pointer: str = ""
    # The scopes that the caller lacks; only with `Forbidden`.
    scopes: tuple[Scope, ...] = ()

    def as_error(self) -> RegisterError:
        """Return the error for a single write."""
        errors = [self.as_fault(self.pointer)] if self.pointer else []
        if self.scopes:
            return Forbidden(self.detail, scopes=self.scopes, errors=errors)
        return self.error(self.detail, errors=errors)

    def as_fault(self, pointer: str) -> Fault:
        """Return the fault at a pointer. Its text is that of the rule."""
        return Fault(pointer, self.error.code, self.detail)


def missing_scopes(caller: Caller, scopes: Iterable[Scope], pointer: str = "") -> Iterator[RuleViolation]:
    """Yield a violation if the caller does not have all of the scopes."""
    try:
        caller.require(*scopes)
    except Forbidden as error:
        yield RuleViolation(Forbidden, error.detail, pointer, error.scopes)


class Rule:
    """Base class of rules. Each unit of writes has its own instance.

    A rule applies to every delete, to an update that changes a watched column, and to a write that it concerns.
    A single write to which no rule applies takes the fast path. The methods are called in the order of their
    definition.
    """

    # The columns whose change the rule applies to. A creation changes no column: use `concerns_new` for new objects.
    watches: tuple[str, ...] = ()
    # Whether the rule also applies to the restore of an exported register, which may be older than the rule.
    applies_to_restores: bool = False

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def concerns(self, values: Values) -> bool:  # noqa: ARG002 - for subclasses, as below
        """Return whether the rule can reject a write with these values even if no watched column changes.

        `values` are the values after the write; setting or removing a link is also such a write.
        """
        return False

    def concerns_new(self, values: Values) -> bool:
        """Return whether the rule can reject a new object with these values; by default as `concerns` does."""
        return self.concerns(values)

    def lock(self, write: Write) -> str | None:  # noqa: ARG002
        """Return the name of the advisory lock that the write needs, if any.

        Lock order: the writer never waits for this lock while it holds row locks, which could deadlock.
        """
        return None

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        """Read the data that the checks need, for all writes of the unit. Their rows and advisory locks are held.

        Writes that are already rejected may refer to ids that do not exist.
        """

    def check(self, write: Write) -> Iterator[RuleViolation]:  # noqa: ARG002
        """Yield the violations of one write that the rule applies to, independent of the other writes of the unit."""
        yield from ()

    def check_together(self, rejected: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:  # noqa: ARG002
        """Yield the writes that violate the rule in combination with others of the unit.

        The method is called again after any rejection, until it yields nothing. Each write is marked as rejected before
        the generator resumes. `rejected` are the writes rejected since the last call, and before the first one; it may
        have others a second time. The work of a call must be in proportion to these, because a batch may have as many
        calls as writes.
        """
        yield from ()

    async def apply(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        """Make dependent changes after the writes that the rule applies to, in the same transaction.

        Some writes may have changed nothing. A dry run is rolled back, together with the changes made here.
        """

    def applies_to(self, write: Write) -> bool:
        """Return whether the rule applies to a write."""
        if write.after is None:
            return True
        if write.before is None:
            return self.concerns_new(write.after)
        return write.changes(*self.watches) or self.concerns(write.after)


class LocksUnavailableError(Exception):
    """Another transaction holds one of the advisory locks that rules need.

    The writer must release its row locks before it waits for the advisory locks `names`: this lock order
    prevents a deadlock.
    """

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names


class Rules:
    """The rules of a collection, applied to one unit of writes: a single write or a batch."""

    def __init__(self, rules: Sequence[type[Rule]], caller: Caller, *, restoring: bool = False) -> None:
        self._rules = [rule(caller) for rule in rules if rule.applies_to_restores or not restoring]

    @property
    def watched_columns(self) -> tuple[str, ...]:
        """The columns that at least one rule watches."""
        return tuple(sorted({name for rule in self._rules for name in rule.watches}))

    def concern(self, values: Values) -> bool:
        """Return whether at least one rule concerns these values; see `Rule.concerns`."""
        return any(rule.concerns(values) for rule in self._rules)

    def concern_new(self, values: Values) -> bool:
        """Return whether at least one rule concerns a new object with these values; see `Rule.concerns_new`."""
        return any(rule.concerns_new(values) for rule in self._rules)

    def locks(self, writes: Sequence[Write]) -> set[str]:
        """Return the names of the advisory locks that the writes need."""
        names = (rule.lock(write) for rule in self._rules for write in writes)
        return {name for name in names if name is not None}

    async def take_locks(self, session: RegisterSession, writes: Sequence[Write], held: set[str]) -> None:
        """Take the advisory locks that the writes need in addition to the `held` ones, without waiting.

        Raises `LocksUnavailableError`, with the names of all locks that the writes need, if one is not available.
        """
        names = self.locks(writes)
        for name in sorted(names - held):
            if not await session.try_lock(name):
                raise LocksUnavailableError(names)

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        """Call `load` of all rules."""
        for rule in self._rules:
            await rule.load(session, writes)

    def check(self, writes: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        """Yield the violations of each write by itself, and mark the writes as rejected."""
        for rule in self._rules:
            for write in filter(rule.applies_to, writes):
                for violation in rule.check(write):
                    write.is_rejected = True
                    yield write, violation

    def check_together(self, rejected: Iterable[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        """Yield the violations by combinations of writes, and mark the writes as rejected.

        `rejected` are the writes rejected since the last call, and before the first one.
        """
        known = list(rejected)
        for rule in self._rules:
            for write, violation in rule.check_together(tuple(known)):
                write.is_rejected = True
                known.append(write)
                yield write, violation

    async def apply(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        """Call `apply` of each rule with the writes it applies to, if any."""
        for rule in self._rules:
            affected = [write for write in writes if rule.applies_to(write)]
            if affected:
                await rule.apply(session, affected)
