"""The columns that the files of a collection can have.

They are the members of the objects in lists and in bodies. Members that the register itself sets are ignored, and those
that responses have only on request are rejected. A reference may also be given by external id alone, in a column such
as `parent_external_id`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from app.core.http.hints import name_hint
from app.domains.shared.collection import Collection, LinkSet, foreign_keys, links_by_name
from app.domains.shared.models import RegisterObject
from app.domains.shared.query.representations import members_on_request
from app.domains.shared.reading.documents import documents_of
from app.utils.exceptions import Fault, InvalidContent
from app.utils.text.invisible import trimmed
from app.utils.validation import MAX_FAULTS, json_pointer

# Limits per file.
MAX_HINTS = 10
MAX_COMPARED_NAMES = 50

Kind = Literal["text", "number", "boolean", "id", "brief", "external_id", "ids", "links", "read_only", "on_request"]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the objects in files; `field` is the member of bodies that it is converted to."""

    name: str
    kind: Kind
    field: str = ""
    target: type[RegisterObject] | None = None
    link: LinkSet | None = None


Columns = Mapping[str, Member | None]


def members_of(collection: Collection) -> dict[str, Member]:
    """Return the members that the columns of a collection's files can be, by name."""
    columns = foreign_keys(collection.model)
    links = links_by_name(collection.links)
    members = {name: Member(name, "read_only") for name in documents_of(collection).header(None)}
    members |= {name: Member(name, "on_request") for name in members_on_request(collection.read)}
    for name, info in collection.body.model_fields.items():
        if name in columns:
            members[name] = Member(name, "id", name, columns[name])
            brief = name.removesuffix("_id")
            members[brief] = Member(brief, "brief", name, columns[name])
            external = f"{brief}_external_id"
            members[external] = Member(external, "external_id", name, columns[name])
        elif name in links:
            kind: Kind = "links" if name == links[name].field else "ids"
            members[name] = Member(name, kind, name, links[name].target_model, links[name])
        elif _has(info.annotation, bool):
            members[name] = Member(name, "boolean", name)
        else:
            members[name] = Member(name, "number" if _has(info.annotation, float) else "text", name)
    return members


def _has(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_has(argument, kind) for argument in get_args(annotation))


class Hints:
    """Suggests known names for the first `MAX_HINTS` unknown names of a file, because comparing names is slow."""

    def __init__(self) -> None:
        self._hints: dict[tuple[str, tuple[str, ...]], str] = {}

    def of(self, name: str, known: Iterable[str], kind: str) -> str:
        """Return the sentence with the nearest known name, or with all known names, which are of this kind."""
        key = (name, tuple(filter(None, known)))
        if key not in self._hints and len(self._hints) < MAX_HINTS:
            self._hints[key] = name_hint(*key, kind)
        return self._hints.get(key, "")


def name_columns(
    known: Mapping[str, Member],
    names: Sequence[str],
    mapping: Sequence[str],
    hints: Hints,
    *,
    table: bool,
    row: int,
) -> Columns:
    """Return the member for each name in a file, None for names to be ignored.

    A mapping entry is `name:member`, or `name:` to ignore the name. The result for NDJSON lacks unknown names. Raises
    `InvalidContent` for an unknown or duplicate name in the header of a `table`, which is the row number `row`, for
    two names of one member, for a member that responses have only on request, and for a malformed mapping entry or one
    with an unknown name or member.
    """
    faults: list[Fault] = []
    mapped = _read_mapping(mapping, names, hints, faults, table=table)
    columns: dict[str, Member | None] = {}
    used: set[str] = set()
    for name, count in Counter(names).items():
        if count > 1 and name:
            faults.append(Fault.of(json_pointer([row, name]), "duplicate_column"))
        member = mapped.get(name, _normalise(name) if table else name)
        if not member and (table or name in mapped):
            columns[name] = None
        elif member not in known:
            if table or name in mapped:
                hint = hints.of(member, known, "fields")
                faults.append(Fault.of(json_pointer([row, name]), "unknown_column:member", hint=hint))
        elif known[member].kind == "on_request":
            faults.append(Fault.of(json_pointer([row, name]), "unknown_column:on_request", name=name))
        elif member in used:
            faults.append(Fault.of(json_pointer([row, name]), "duplicate_column:member", member=member))
        else:
            columns[name] = known[member]
            used.add(member)
    if faults:
        raise InvalidContent("The columns of the file do not match the collection.", errors=faults[:MAX_FAULTS])
    return columns


def _read_mapping(
    mapping: Sequence[str], names: Sequence[str], hints: Hints, faults: list[Fault], *, table: bool
) -> dict[str, str]:
    """Return the members that the mapping sets, by name in the file; add faults for invalid entries."""
    mapped: dict[str, str] = {}
    for place, entry in enumerate(mapping):
        name, colon, member = entry.rpartition(":")
        name = trimmed(name) if table else name  # as in the header
        mapping_fault = partial(Fault.of, json_pointer(["map", place]), source="query")
        if not colon:
            faults.append(mapping_fault("mapping"))
        elif "\0" in entry:
            # PostgreSQL cannot store it with a plan.
            faults.append(mapping_fault("mapping:nul"))
        elif name in mapped:
            faults.append(mapping_fault("mapping:repeated"))
        else:
            mapped[name] = member
            if name not in names:
                # Comparing with more names would be too slow.
                known = names if len(names) <= MAX_COMPARED_NAMES else ()
                faults.append(mapping_fault("unknown_column", hint=hints.of(name, known, "columns")))
    return mapped


def _normalise(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")
