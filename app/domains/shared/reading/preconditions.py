"""Conditional requests: `If-Match` and `If-None-Match` (RFC 9110, section 13).

The entity tag of an object is `"<version>.<digest>"`, with the digest of one representation. `If-Match` and writes
compare the version only, so that the tag of any representation of the object can be used.
"""

import re
from dataclasses import dataclass

from fastapi import Request

from app.utils.exceptions import BadRequest, Fault, PreconditionFailed
from app.utils.fault_codes import described_pattern, text_of

IF_MATCH, IF_NONE_MATCH = "If-Match", "If-None-Match"

# A list may have empty elements (RFC 9110, section 5.6.1). No text matches in two ways, so matching takes linear time.
_TAG = r'(W/)?"[!#-~\x80-\xff]*"'
TAGS_PATTERN = described_pattern(
    rf"^(\*|[ \t,]*{_TAG}([ \t]*,[ \t,]*{_TAG})*[ \t,]*)$", text_of("entity_tags", header="The header")
)
_TAGS = re.compile(TAGS_PATTERN)
_PARTS = re.compile(r'(W/)?"([^"]*)"')
_READS = frozenset({"GET", "HEAD"})
# At most 18 digits: any such number fits into 64 bits.
_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


@dataclass(frozen=True, slots=True)
class EntityTags:
    """The value of a header: `*`, or entity tags without their quotation marks."""

    is_any: bool
    strong: frozenset[str]
    weak: frozenset[str]

    def has_version(self, version: str, *, weakly: bool) -> bool:
        """Return whether a tag has this version; `weakly` also one with `W/` (RFC 9110, section 8.8.3.2)."""
        tags = self.strong | self.weak if weakly else self.strong
        return self.is_any or any(_version(tag) == version for tag in tags)


@dataclass(frozen=True, slots=True)
class Preconditions:
    """The conditions of a request. A header that was not sent is None."""

    if_match: EntityTags | None = None
    if_none_match: EntityTags | None = None

    @classmethod
    async def provide(cls, request: Request) -> "Preconditions":
        """Return the conditions of a request.

        Raises `BadRequest` if a header is neither `*` nor a list of tags. A read ignores such an `If-None-Match`, which
        only saves traffic there; a write must not ignore a condition.
        """
        lines: dict[bytes, list[bytes]] = {}
        # Few requests have these headers, and a look-up by name would call a function for each header.
        for name, value in request.scope["headers"]:
            if name in {b"if-match", b"if-none-match"}:
                lines.setdefault(name, []).append(value)
        if not lines:
            return UNCONDITIONAL
        if_match = entity_tags(IF_MATCH, lines.get(b"if-match"))
        try:
            return cls(if_match, entity_tags(IF_NONE_MATCH, lines.get(b"if-none-match")))
        except BadRequest:
            if request.method not in _READS:
                raise
            return cls(if_match)

    @property
    def versions(self) -> list[int] | None:
        """The versions that `If-Match` permits, None for any."""
        if self.if_match is None or self.if_match.is_any:
            return None
        versions = set(map(_version, self.if_match.strong))
        return [int(version) for version in versions if _VERSION.fullmatch(version)]

    def unmet_by(self, version: int) -> str | None:
        """Return the header whose condition a write of an object with this version does not meet, or None.

        `If-Match` precedes `If-None-Match` (RFC 9110, section 13.2.2).
        """
        if self.if_match is not None and not self.if_match.has_version(str(version), weakly=False):
            return IF_MATCH
        if self.if_none_match is not None and self.if_none_match.has_version(str(version), weakly=True):
            return IF_NONE_MATCH
        return None

    def is_current(self, etag: str) -> bool:
        """Return whether `If-None-Match` has the entity tag of a representation, which a read need not return again.

        Raises `PreconditionFailed` if `If-Match` does not have its version.
        """
        if self.if_match is not None and not self.if_match.has_version(_version(etag.strip('"')), weakly=False):
            raise precondition_failed(IF_MATCH, etag)
        tags = self.if_none_match
        return tags is not None and (tags.is_any or etag.strip('"') in tags.strong | tags.weak)


# The conditions of most requests, and of writes by the service itself.
UNCONDITIONAL = Preconditions()


def precondition_failed(header: str, etag: str) -> PreconditionFailed:
    """Return the error for a header whose condition the current representation, which has this tag, does not meet."""
    detail = text_of("precondition_failed:if_match" if header == IF_MATCH else "precondition_failed:if_none_match")
    return PreconditionFailed(detail, headers={"ETag": etag})


def entity_tags(name: str, lines: list[bytes] | None) -> EntityTags | None:
    """Return the tags of a header, whose lines are one list (RFC 9110, section 5.3), or None if it was not sent.

    Raises `BadRequest` if the value is neither `*` nor a list of entity tags.
    """
    if lines is None:
        return None
    value = b", ".join(lines).decode("latin-1").strip(" \t")
    if not _TAGS.fullmatch(value):
        fault = Fault.of(f"/{name}", "entity_tags", source="header", header=name)
        raise BadRequest(fault.detail, errors=[fault])
    tags = _PARTS.findall(value)
    strong, weak = (frozenset(opaque for prefix, opaque in tags if prefix == kind) for kind in ("", "W/"))
    return EntityTags(value == "*", strong, weak)


def _version(opaque: str) -> str:
    return opaque.partition(".")[0]
