"""Business rules: what must hold of the writes of one collection, whether they come one at a time or by the thousand.

A rule is a class. Single writes, links, deletes, batches, imports and restores describe what they are about to do as
`Write`s and ask it; so a rule is said once. `Rules` is the set of a collection's rules at work on one unit of writes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.permissions import Scope
from app.domains.shared.models import RegisterObject
from app.utils.exceptions import Fault, Forbidden, RegisterError

# The id of the object on the other side, and the value of the link's own field, if it has one.
Link = tuple[int, str | None]
# The columns of an object that clients write, by name; of an object that exists also `id`, `version`, `created_by_id`.
Values = Mapping[str, Any]


@dataclass(eq=False, slots=True)
class Write:
    """One write of one object. `before` is None when it is created, `after` when it is deleted.

    `added` and `removed` have the links that come and go, by the member that lists them; a link whose own field changes
    is in both. They are filled in when a rule's `concerns` holds, and not for a delete, which takes all links along.
    `id` is None for an object that a single write creates, until it exists. `is_rejected` is set once a rule, or
    anything else, rejects the write: the object then stays as it was before.
    """

    model: type[RegisterObject]
    id: int | None
    before: Values | None
    after: Values | None
    added: dict[str, set[Link]] = field(default_factory=dict)
    removed: dict[str, set[Link]] = field(default_factory=dict)
    is_rejected: bool = False

    def changes(self, *columns: str) -> bool:
        """Return whether it gives one of these columns of an existing object another value."""
        before, after = self.before, self.after
        return before is not None and after is not None and any(before[name] != after[name] for name in columns)

    def replace_links(self, field: str, before: set[Link], after: set[Link]) -> None:
        """Note which links of a list come and go."""
        self.added[field], self.removed[field] = after - before, before - after

    def new_links(self) -> dict[str, set[Link]]:
        """Return the links that come, by the member that lists them, but for those whose own field alone changes."""
        replaced = {field: {target for target, _ in links} for field, links in self.removed.items()}
        found = {
            field: {link for link in links if link[0] not in replaced.get(field, ())}
            for field, links in self.added.items()
        }
        return {field: links for field, links in found.items() if links}

    @property
    def result(self) -> Values | None:
        """The object as it is when all is written: as before when the write is refused."""
        return self.before if self.is_rejected else self.after


@dataclass(frozen=True, slots=True)
class RuleViolation:
    """Why a rule refuses a write: the error, with a pointer into the body, "" for the write as a whole.

    A rule that clients should know by a code of its own has a subclass of `Conflict` in `utils/exceptions.py`.
    """

    error: type[RegisterError]
    detail: str
    pointer: str = ""
    # What the caller lacks; only with `Forbidden`.
    scope: Scope | None = None

    def as_error(self) -> RegisterError:
        """Return the error that a single write raises."""
        if self.scope is not None:
            return Forbidden(self.detail, scope=self.scope)
        faults = [Fault(self.pointer, self.error.code, self.detail)] if self.pointer else []
        return self.error(self.detail, errors=faults)


def missing_scope(caller: Caller, scope: Scope, pointer: str = "") -> Iterator[RuleViolation]:
    """Yield the refusal of a caller who does not have a scope."""
    try:
        caller.require(scope)
    except Forbidden as error:
        yield RuleViolation(Forbidden, error.detail, pointer, scope)


class Rule:
    """What must hold of the writes of one collection. There is one instance for each unit of writes.

    A rule is asked of every delete, of an update that changes a column it watches, and of what it concerns. A single
    write of which no rule is asked takes the fast path. The methods are called in the order in which they stand here.
    """

    # Columns whose change the rule is asked of. Creations change none: a rule about new objects says so in `concerns`.
    watches: tuple[str, ...] = ()
    # Whether it also holds for what is restored from an export of a whole register, which may be older than the rule.
    applies_to_restores: bool = False

    def __init__(self, caller: Caller) -> None:
        self.caller = caller

    def concerns(self, values: Values) -> bool:  # noqa: ARG002 - for rules to use, as below
        """Return whether the rule can refuse an object with these values although no watched column changes.

        They are the values after the write. With them a link is set or removed, too.
        """
        return False

    def lock(self, write: Write) -> str | None:  # noqa: ARG002
        """Return the name of the advisory lock that the write needs, if any.

        It is not waited for while a row is locked, so that no two writers wait for each other.
        """
        return None

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        """Read what the checks need to know of all writes of the unit. The objects and the advisory locks are held.

        Writes that were refused before may refer to ids that no object has.
        """

    def check(self, write: Write) -> Iterator[RuleViolation]:  # noqa: ARG002
        """Yield why a write that the rule is asked of is refused, whatever else is written with it."""
        yield from ()

    def check_together(self, writes: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:  # noqa: ARG002
        """Yield which writes of the unit are refused because of what the others do.

        It is called again whenever writes were refused, until it refuses nothing more. A write is marked as refused
        before the next one is asked for.
        """
        yield from ()

    async def apply(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        """Do what goes with the writes that the rule is asked of, in the same transaction, after they are done.

        Some may have changed nothing, and those of a dry run are undone with what is done here.
        """

    def applies_to(self, write: Write) -> bool:
        """Return whether the rule has a say in a write."""
        return write.after is None or write.changes(*self.watches) or self.concerns(write.after)


class LocksUnavailableError(Exception):
    """Another transaction holds one of the advisory locks that rules want.

    Its rows must be given up before the locks are waited for, or two writers could wait for each other.
    """

    def __init__(self, names: set[str]) -> None:
        super().__init__()
        self.names = names


class Rules:
    """The rules of a collection at work on one unit of writes: one write, or a batch."""

    def __init__(self, rules: Sequence[type[Rule]], caller: Caller, *, restoring: bool = False) -> None:
        self._rules = [rule(caller) for rule in rules if rule.applies_to_restores or not restoring]

    @property
    def watched(self) -> tuple[str, ...]:
        """The columns that rules watch."""
        return tuple(sorted({name for rule in self._rules for name in rule.watches}))

    def concern(self, values: Values) -> bool:
        """Return whether a rule can refuse an object with these values."""
        return any(rule.concerns(values) for rule in self._rules)

    def locks(self, writes: Sequence[Write]) -> set[str]:
        """Return the names of the advisory locks that the writes need."""
        found = (rule.lock(write) for rule in self._rules for write in writes)
        return {name for name in found if name is not None}

    async def take_locks(self, session: RegisterSession, writes: Sequence[Write], held: set[str]) -> None:
        """Take the advisory locks that the writes need besides those that are `held`, without waiting.

        Raises `LocksUnavailableError` with the names of all that are needed.
        """
        names = self.locks(writes)
        for name in sorted(names - held):
            if not await session.try_lock(name):
                raise LocksUnavailableError(names)

    async def load(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        """Let all rules read what they need."""
        for rule in self._rules:
            await rule.load(session, writes)

    def check(self, writes: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        """Yield the refusals of each write by itself."""
        for rule in self._rules:
            for write in filter(rule.applies_to, writes):
                for refusal in rule.check(write):
                    write.is_rejected = True
                    yield write, refusal

    def check_together(self, writes: Sequence[Write]) -> Iterator[tuple[Write, RuleViolation]]:
        """Yield the refusals that come from what the writes do together."""
        for rule in self._rules:
            for write, refusal in rule.check_together(writes):
                write.is_rejected = True
                yield write, refusal

    async def apply(self, session: RegisterSession, writes: Sequence[Write]) -> None:
        """Let all rules do what goes with the writes."""
        for rule in self._rules:
            asked = [write for write in writes if rule.applies_to(write)]
            if asked:
                await rule.apply(session, asked)
