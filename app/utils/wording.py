"""Texts for people: counts and lists in English sentences, and lines that a terminal shows as they are."""

from collections.abc import Sequence


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 process`, `2,000 processes`. The plural is the noun with an `s` by default."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def named(noun: str, names: Sequence[str]) -> str:
    """Return a noun with names: `scope admin`, `scopes admin and users:read`."""
    return f"{noun if len(names) == 1 else f'{noun}s'} {joined(names)}"


def truncated(lines: Sequence[str], most: int) -> list[str]:
    """Return the first lines, printable, followed by a line with the number of further ones if there are any."""
    return [*map(printable, lines[:most]), *([f"… and {len(lines) - most} more."] if len(lines) > most else [])]


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters; a longer one ends in an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def joined(parts: Sequence[str], word: str = "and") -> str:
    """Return the parts as in a sentence: `a`, `a and b`, `a, b and c`."""
    return f" {word} ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def printable(text: str) -> str:
    """Return a text in which each character that is not printable is an escape of Python, such as `\\x1b` or `\\u202e`.

    These are the characters that could forge a line or control a terminal: line breaks, control and format characters
    (escape sequences, bidirectional and zero-width characters), surrogates, and white space other than the space.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
