"""What the schema's constraints mean to a client, by their names."""

from functools import cache

from sqlalchemy import ForeignKeyConstraint

from app.core.database_errors import IntegrityViolation
from app.domains.shared.models import Base, RegisterObject
from app.utils.exceptions import Conflict, Duplicate, Fault, RegisterError, UnknownReference


def error_for(violation: IntegrityViolation) -> RegisterError | None:
    """Return the error a client can act on, or None when the constraint guards against our own mistakes only."""
    name = violation.constraint
    if violation.is_reference:
        fault = Fault(_foreign_keys().get(name, ""), "unknown_reference", "No such object is registered.")
        return UnknownReference("The request names an object that does not exist.", errors=[fault])
    if name in _own_parents():
        fault = Fault("/parent_id", "unknown_reference", "No such object is registered.")
        return UnknownReference("The request names an object that does not exist.", errors=[fault])
    if name in _declared_conflicts():
        pointer, detail = _declared_conflicts()[name]
        return Conflict(detail, errors=[Fault(pointer, "conflict", detail)])
    if key := _unique_keys().get(name):
        fault = duplicate_key_fault(*key)
        return Duplicate(fault.detail, errors=[fault])
    return None


def duplicate_key_fault(noun: str, column: str) -> Fault:
    """Return the fault of a key that another object has."""
    return Fault(f"/{column}", Duplicate.code, f"A {noun} with this {column} exists already.")


@cache
def _unique_keys() -> dict[str, tuple[str, str]]:
    """Return noun and column of each key that a client chooses: the indexes are named `uq_<table>_<column>`."""
    keys = {}
    for mapper in Base.registry.mappers:
        if issubclass(mapper.class_, RegisterObject):
            table = mapper.class_.__tablename__
            for column in mapper.columns:
                keys[f"uq_{table}_{column.name}"] = (mapper.class_.noun, column.name)
    return keys


@cache
def _declared_conflicts() -> dict[str, tuple[str, str]]:
    """Return pointer and detail of each unique index that declares a `models.conflict`."""
    indexes = (index for table in Base.metadata.tables.values() for index in table.indexes)
    return {str(index.name): index.info["conflict"] for index in indexes if "conflict" in index.info}


@cache
def _own_parents() -> frozenset[str]:
    """Return the checks that no object stands below itself: who makes one can't know its id yet."""
    return frozenset(f"ck_{name}_parent_id" for name in Base.metadata.tables)


@cache
def _foreign_keys() -> dict[str, str]:
    return {
        str(constraint.name): f"/{constraint.column_keys[0]}"
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, ForeignKeyConstraint)
    }
