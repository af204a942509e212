"""Entity tags (RFC 9110, section 8.8.3): `"<version>.<digest>"`."""

import re

_TAG = re.compile(r'(?:W/)?"([^"]*)"')
# At most 18 digits: any such number fits into 64 bits.
_VERSION = re.compile(r"([1-9][0-9]{0,17})(?:\.|$)", re.ASCII)


def versions_in(if_match: str | None) -> list[int] | None:
    """Return the versions in the tags of `If-Match`, None if any version is allowed."""
    if if_match is None or if_match.strip() == "*":
        return None
    return [int(tag[1]) for tag in map(_VERSION.match, _TAG.findall(if_match)) if tag is not None]


def matches_etag(if_none_match: str, etag: str) -> bool:
    """Return whether `If-None-Match` matches the entity tag of the current representation."""
    return if_none_match.strip() == "*" or etag.strip('"') in _TAG.findall(if_none_match)
