"""Counts and lists in English sentences."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 process`, `2,000 processes`. The plural is the noun with an `s` by default."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def truncated(lines: Sequence[str], most: int) -> list[str]:
    """Return the first lines, followed by a line with the number of further ones if there are more than `most`."""
    return [*lines[:most], *([f"… and {len(lines) - most} more."] if len(lines) > most else [])]


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters; a longer one ends in an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def joined(parts: Sequence[str], word: str = "and") -> str:
    """Return the parts as in a sentence: `a`, `a and b`, `a, b and c`."""
    return f" {word} ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
