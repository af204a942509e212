"""Errors of violated constraints, by the name of the constraint."""

from functools import cache

from sqlalchemy import ForeignKeyConstraint

from app.core.database_errors import IntegrityViolation
from app.domains.shared.models import Base, RegisterObject
from app.utils.exceptions import Conflict, Duplicate, Fault, RegisterError, UnknownReference


def error_for(violation: IntegrityViolation) -> RegisterError | None:
    """Return the error that a client can act on, or None if only a bug can violate the constraint."""
    name = violation.constraint
    if violation.is_reference:
        return UnknownReference(errors=[Fault.of(_foreign_keys().get(name, ""), "unknown_reference")])
    if name in _declared_conflicts():
        pointer, detail = _declared_conflicts()[name]
        return Conflict(detail, errors=[Fault.of(pointer, "conflict", reason=detail)])
    if key := _unique_keys().get(name):
        fault = duplicate_key_fault(*key)
        return Duplicate(fault.detail, errors=[fault])
    return None


def duplicate_key_fault(noun: str, column: str) -> Fault:
    """Return the fault for a key that another object has."""
    return Fault.of(f"/{column}", "duplicate", noun=noun, field=column)


@cache
def _unique_keys() -> dict[str, tuple[str, str]]:
    """Return noun and column of each unique index on a column of an object, named `uq_<table>_<column>`."""
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
def _foreign_keys() -> dict[str, str]:
    return {
        str(constraint.name): f"/{constraint.column_keys[0]}"
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, ForeignKeyConstraint)
    }
