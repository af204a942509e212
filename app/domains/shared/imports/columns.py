"""What the columns of a collection's files can be.

They are the members of the objects as lists show them, and as bodies take them. What the register sets itself is passed
over. A reference may also be the bare external id, in `parent_external_id`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from app.core.http.hints import name_hint
from app.domains.shared.collection import Collection, LinkSet, foreign_keys
from app.domains.shared.models import RegisterObject
from app.domains.shared.reading.documents import documents_of
from app.utils.exceptions import Fault, InvalidContent
from app.utils.validation import json_pointer

# Of one file.
MAX_HINTS = 10
MAX_COMPARED_NAMES = 50

Kind = Literal["text", "number", "boolean", "id", "brief", "external_id", "ids", "links", "own"]


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the objects, as files have it; `field` is the one of bodies that it becomes."""

    name: str
    kind: Kind
    field: str = ""
    target: type[RegisterObject] | None = None
    link: LinkSet | None = None


Columns = Mapping[str, Member | None]


def members_of(collection: Collection) -> dict[str, Member]:
    """Return what the columns of a collection's files can be."""
    columns = foreign_keys(collection.model)
    links = {name: link for link in collection.links for name in (link.field, link.short)}
    members = {name: Member(name, "own") for name in documents_of(collection).header(None)}
    for name, info in collection.body.model_fields.items():
        if name in columns:
            members[name] = Member(name, "id", name, columns[name])
            brief = name.removesuffix("_id")
            members[brief] = Member(brief, "brief", name, columns[name])
            bare = f"{brief}_external_id"
            members[bare] = Member(bare, "external_id", name, columns[name])
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
    """What the first few unknown names of a file may have meant: comparing them takes long, and nobody reads more."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, tuple[str, ...]], str] = {}

    def after(self, sentence: str, name: str, known: Iterable[str]) -> str:
        """Return the sentence, with what may have been meant behind it."""
        key = (name, tuple(filter(None, known)))
        if key not in self._told and len(self._told) < MAX_HINTS:
            self._told[key] = name_hint(*key)
        return f"{sentence} {self._told.get(key, '')}".rstrip()


def name_columns(
    known: Mapping[str, Member],
    names: Sequence[str],
    mapping: Sequence[str],
    hints: Hints,
    *,
    table: bool,
    row: int,
) -> Columns:
    """Return which member each name in a file stands for, None for those that are to be passed over.

    An entry of the mapping is a name in the file and, behind a colon, that of a member, or nothing. What is unknown is
    missing in the result for NDJSON. Raises `InvalidContent` for what is unknown or there twice in a `table`, whose
    header is the `row` of that number, and for an entry that is none, or of another name.
    """
    faults: list[Fault] = []
    chosen = _chosen(mapping, names, hints, faults)
    columns: dict[str, Member | None] = {}
    taken: set[str] = set()
    for name, count in Counter(names).items():
        if count > 1 and name:
            detail = "There is another column with this name."
            faults.append(Fault(json_pointer([row, name]), "duplicate_column", detail))
        member = chosen.get(name, _plain(name) if table else name)
        if not member and (table or name in chosen):
            columns[name] = None
        elif member not in known:
            if table or name in chosen:
                detail = hints.after("There is no such member.", member, known)
                faults.append(Fault(json_pointer([row, name]), "unknown_column", detail))
        elif member in taken:
            faults.append(Fault(json_pointer([row, name]), "duplicate_column", f"Another column is {member}, too."))
        else:
            columns[name] = known[member]
            taken.add(member)
    if faults:
        raise InvalidContent("The columns of the file are not those of the collection.", errors=faults)
    return columns


def _chosen(mapping: Sequence[str], names: Sequence[str], hints: Hints, faults: list[Fault]) -> dict[str, str]:
    """Return what the client chose, by the names in the file."""
    chosen: dict[str, str] = {}
    for place, entry in enumerate(mapping):
        name, colon, member = entry.rpartition(":")
        wrong = partial(Fault, json_pointer(["map", place]), source="query")
        if not colon:
            faults.append(wrong("mapping", "Write a mapping as column:member."))
        elif "\0" in entry:
            # No plan could keep it.
            faults.append(wrong("mapping", "A mapping cannot have the character NUL."))
        elif name in chosen:
            faults.append(wrong("mapping", "This column is mapped already."))
        else:
            chosen[name] = member
            if name not in names:
                # Nobody reads more names than that.
                known = names if len(names) <= MAX_COMPARED_NAMES else ()
                detail = hints.after("There is no such column in the file.", name, known)
                faults.append(wrong("unknown_column", detail))
    return chosen


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.lower()).strip("_")
