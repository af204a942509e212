"""Entity tags (RFC 9110, section 8.8.3): `"<version>.<digest>"`."""

import re

_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def names_version(if_match: str, version: int) -> bool:
    """Return whether `If-Match` allows a write: a tag from any representation of this version does."""
    if if_match.strip() == "*":
        return True
    return any(tag.partition(".")[0] == str(version) for tag in _TAG.findall(if_match))


def names_representation(if_none_match: str, etag: str) -> bool:
    """Return whether `If-None-Match` already has these very bytes."""
    return if_none_match.strip() == "*" or etag.strip('"') in _TAG.findall(if_none_match)
