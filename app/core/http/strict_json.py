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
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("Not UTF-8", "", 0) from error
    except RecursionError as error:
        raise json.JSONDecodeError("Nested too deep", "", 0) from error
    except ValueError as error:  # an integer with more digits than Python parses
        raise json.JSONDecodeError("Number too long", "", 0) from error


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise json.JSONDecodeError("Member named twice", "", 0)
    return members


def _reject_constant(_name: str) -> Any:
    raise json.JSONDecodeError("NaN and infinities are not JSON", "", 0)
