"""Strict JSON: RFC 8259 and the house rules."""

import json
from typing import Any


def parse_json(text: bytes) -> Any:
    """Return the parsed text.

    Raises `json.JSONDecodeError` for bytes that are not UTF-8, a byte order mark, NaN and infinities, duplicate member
    names, too deep nesting, and integers with too many digits.
    """
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique_members, parse_constant=_reject_constant)
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


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _RejectedError("an object has the same field twice")
    return members


def _reject_constant(_name: str) -> Any:
    raise _RejectedError("NaN and infinities are not allowed")
