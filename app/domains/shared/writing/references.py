"""References by key in bodies: finds their objects, for single writes and batches alike, by one statement."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any

from pydantic import ValidationError
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Executable,
    Integer,
    Select,
    Table,
    Text,
    any_,
    bindparam,
    case,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.domains.shared.collection import Collection, LinkSet, foreign_keys, reference_models
from app.domains.shared.history.record import constant
from app.domains.shared.models import RegisterObject, folded, table_of
from app.domains.shared.references import MAX_ID, Key, KeyedBody, KeyedPlace, referenced_key
from app.domains.shared.rules import RuleViolation, missing_scopes
from app.domains.shared.schemas import ObjectFields
from app.domains.shared.writing.single_statement import next_id
from app.utils.exceptions import Fault, Forbidden, InvalidContent
from app.utils.validation import MAX_FAULTS, faults_of, summary


@dataclass(slots=True, eq=False)
class KeyReference:
    """A reference by key: its place in the body, and the key of the object."""

    place: KeyedPlace
    model: type[RegisterObject]
    key: Key
    # The name that the object must have, if the reference has one.
    name: Any = None

    @property
    def pointer(self) -> str:
        return self.place.pointer


class ReferenceLookup:
    """Finds the objects of references by id and by key."""

    def __init__(self, session: RegisterSession, model: type[RegisterObject], links: tuple[LinkSet, ...]) -> None:
        self._session = session
        self._model = model
        self._links = links
        self._wanted: dict[type[RegisterObject], dict[str, set[Any]]] = {
            target: {"id": set(), "code": set(), "external_id": set()} for target in referenced_models(model, links)
        }
        self._found: dict[tuple[type[RegisterObject], Key], int] = {}
        # The names of the found objects, if they were asked for.
        self.names: dict[tuple[type[RegisterObject], int], str] = {}
        # The ids that were drawn for new objects.
        self.new_ids: list[int] = []

    def ids(self, model: type[RegisterObject]) -> set[Any]:
        """Return the set of the ids to find, for the caller to add to."""
        return self._wanted[model]["id"]

    def add(self, model: type[RegisterObject], key: Key) -> None:
        """Add a key to find."""
        column, value = key
        self._wanted[model][column].add(value)

    @property
    def is_empty(self) -> bool:
        return not any(values for keys in self._wanted.values() for values in keys.values())

    async def run(self, *, new: int = 0, with_names: bool = False) -> None:
        """Find the objects, and draw the ids of `new` ones, by one statement."""
        arrays = {
            f"{model.__tablename__}_{column}s": list(values)
            for model, keys in self._wanted.items()
            for column, values in keys.items()
        }
        statement = _find_references(self._model, self._links)
        values = {"new": new, "with_names": with_names, **arrays}
        models = {model.__tablename__: model for model in self._wanted}
        for kind, object_id, code, external_id, name in await self._session.execute(statement, values):
            if kind is None:
                self.new_ids.append(object_id)
                continue
            model = models[kind]
            keys = {"id": object_id, "code": code, "external_id": external_id}
            self._found |= {(model, key): object_id for key in keys.items()}
            if with_names:
                self.names[model, object_id] = name
        self.new_ids.sort()

    def find(self, model: type[RegisterObject], key: Key) -> int | None:
        """Return the id of the object with a key that was added, or None if there is none."""
        return self._found.get((model, key))

    def unknown_ids(self) -> dict[type[RegisterObject], set[int]]:
        """Return the ids that no object has, by model."""
        unknown = {
            model: {key for key in keys["id"] if (model, ("id", key)) not in self._found}
            for model, keys in self._wanted.items()
        }
        return {model: ids for model, ids in unknown.items() if ids}


def unreadable_keys(caller: Caller, references: Iterable[KeyReference]) -> dict[KeyReference, RuleViolation]:
    """Return the references by external ids that the caller may not read, with their violations.

    Briefs show the ids and codes of other objects, but not their external ids.
    """
    violations: dict[str, RuleViolation] = {}

    def violation_of(name: str) -> RuleViolation:
        if name not in violations:
            (violations[name],) = missing_scopes(caller, [f"{name}:read"])
        return violations[name]

    names = ((each, each.model.__tablename__) for each in references if each.key[0] == "external_id")
    return {each: violation_of(name) for each, name in names if name not in caller.readable}


async def with_ids(session: RegisterSession, caller: Caller, collection: Collection, body: KeyedBody) -> ObjectFields:
    """Return a body with ids in place of keys.

    A key without an object is replaced by an id that no object has: the write then rejects it together with all other
    faults. Raises `Forbidden` for external ids that the caller may not read, and `InvalidContent`.
    """
    references, faults = _read_references(collection, body)
    _require_readable(caller, references)
    unknown = await _replace_keys(session, collection, references)
    try:
        resolved: ObjectFields = body.schema.model_validate(body.data)
    except ValidationError as error:
        faults += [*unknown, *faults_of(error)]
    else:
        if not faults:
            return resolved
        faults += unknown
    raise InvalidContent(summary(len(faults)), errors=faults[:MAX_FAULTS])


def _read_references(collection: Collection, body: KeyedBody) -> tuple[list[KeyReference], list[Fault]]:
    """Return the references by key, and the faults of the invalid ones; replace all by different unused ids."""
    models = reference_models(collection.model, collection.links)
    references: list[KeyReference] = []
    faults: list[Fault] = []
    for number, place in enumerate(body.places):
        try:
            references.append(KeyReference(place, models[str(place.location[0])], referenced_key(place)))
        except InvalidContent as error:
            faults += error.errors
        place.replace(MAX_ID - number)
    return references, faults


async def _replace_keys(
    session: RegisterSession, collection: Collection, references: Sequence[KeyReference]
) -> list[Fault]:
    """Replace the references by the ids of their objects; return the faults of those without an object."""
    lookup = ReferenceLookup(session, collection.model, collection.links)
    for reference in references:
        lookup.add(reference.model, reference.key)
    if references:
        await lookup.run()
    unknown = []
    for reference in references:
        found = lookup.find(reference.model, reference.key)
        if found is None:
            unknown.append(Fault.of(reference.pointer, "unknown_reference"))
        else:
            reference.place.replace(found)
    return unknown


def _require_readable(caller: Caller, references: Sequence[KeyReference]) -> None:
    violations = unreadable_keys(caller, references)
    if violations:
        scopes = {scope for violation in violations.values() for scope in violation.scopes}
        first = next(iter(violations.values()))
        shown = islice(violations.items(), MAX_FAULTS)
        faults = [violation.as_fault(reference.pointer) for reference, violation in shown]
        raise Forbidden(first.detail, scopes=scopes, errors=faults)


@cache
def referenced_models(model: type[RegisterObject], links: Sequence[LinkSet]) -> tuple[type[RegisterObject], ...]:
    """Return the models that objects of this one can refer to, ordered by the names of their tables."""
    models = {*foreign_keys(model).values(), *(link.target_model for link in links)}
    return tuple(sorted(models, key=lambda model: model.__tablename__))


@cache
def _find_references(model: type[RegisterObject], links: Sequence[LinkSet]) -> Executable:
    """Return the statement that finds the objects to which bodies refer, and draws `new` ids for new objects.

    Its parameters are `new`; three arrays for each collection that can be referred to: `{collection}_ids`,
    `{collection}_codes`, folded, and `{collection}_external_ids`; and `with_names`, whether to return names
    instead of NULL. The drawn ids are rows without a `type`.
    """
    queries: list[Select[Any]] = []
    for target in referenced_models(model, links):
        table = table_of(target)
        kind, code = constant(table.name).label("type"), folded(table.c.code)
        name = case((bindparam("with_names", type_=Boolean), table.c.name))
        query = select(kind, table.c.id, code, table.c.external_id, name)
        queries.append(query.where(matches_keys(table, f"{table.name}_")))
    numbers = func.generate_series(literal_column("1", Integer), bindparam("new", type_=Integer))
    new_ids = select(null(), next_id(model), null(), null(), null())
    return union_all(*queries, new_ids.select_from(numbers.alias("number")))


def matches_keys(table: Table, prefix: str) -> ColumnElement[bool]:
    """Return the condition on the arrays `{prefix}ids`, `{prefix}codes`, folded, and `{prefix}external_ids`."""
    ids = bindparam(f"{prefix}ids", type_=ARRAY(BigInteger))
    codes = bindparam(f"{prefix}codes", type_=ARRAY(Text))
    external_ids = bindparam(f"{prefix}external_ids", type_=ARRAY(Text))
    return or_(table.c.id == any_(ids), folded(table.c.code) == any_(codes), table.c.external_id == any_(external_ids))
