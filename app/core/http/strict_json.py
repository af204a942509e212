"""Strict JSON: RFC 8259 and the house rules."""

import json
from typing import Any

MAX_MEMBERS = 100_000
# The parser holds the interpreter's lock until an object ends: half a second for one of a million members.
_MAX_UNCHECKED_BYTES = 256 * 1024
_CHUNK_BYTES = 64 * 1024


def parse_json(text: bytes) -> Any:
    """Return the parsed text.

    Raises `json.JSONDecodeError` for bytes that are not UTF-8, a byte order mark, NaN and infinities, duplicate member
    names, too deep nesting, objects with more than `MAX_MEMBERS` members, and integers with too many digits.
    """
    try:
        if len(text) > _MAX_UNCHECKED_BYTES:
            _reject_long_objects(text)
        return json.loads(
            text.decode(), object_pairs_hook=_unique_members, parse_float=_float, parse_constant=_reject_constant
        )
    except _RejectedError as error:
        raise json.JSONDecodeError(str(error), "", 0) from error
    except json.JSONDecodeError as error:
        # A line of NDJSON is parsed alone: "line 1" would not be its number in the file.
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        place = f"there is a syntax error in {line}column {error.colno}"
        raise json.JSONDecodeError(place, "", error.pos) from error
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("it is not UTF-8", "", 0) from error
    except RecursionError as error:
        raise json.JSONDecodeError("it is nested too deeply", "", 0) from error
    except ValueError as error:  # an integer with more digits than Python parses
        raise json.JSONDecodeError("a number has too many digits", "", 0) from error


class _RejectedError(Exception):
    """JSON that Python accepts but this service rejects; the message is the reason."""


def _reject_long_objects(text: bytes) -> None:
    """Raise `_RejectedError` for an object with many more members than `MAX_MEMBERS` before it is parsed.

    Counts the colons of consecutive chunks without braces, outside of strings. All of them belong to one object.
    """
    members = end = 0
    is_in_string = False
    while end < len(text):
        start, end = end, end + _CHUNK_BYTES
        chunk = text[start:end]
        if (len(chunk) - len(chunk.rstrip(b"\\"))) % 2:  # an escape continues after the chunk
            end += 1
            chunk = text[start:end]
        parts = chunk.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')
        outside = b"".join(parts[is_in_string::2])
        is_in_string ^= len(parts) % 2 == 0
        members = 0 if b"{" in outside or b"}" in outside else members + outside.count(b":")
        if members > MAX_MEMBERS:
            raise _too_many_members()


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_MEMBERS:
        raise _too_many_members()
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _RejectedError("an object has the same field twice")
    return members


def _too_many_members() -> _RejectedError:
    return _RejectedError(f"an object has more than {MAX_MEMBERS:,} fields")


def _float(text: str) -> float:
    # Unlike the parser's own conversion, a call lets other threads run.
    return float(text)


def _reject_constant(_name: str) -> Any:
    raise _RejectedError("NaN and infinities are not allowed")
