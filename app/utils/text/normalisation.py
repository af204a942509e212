"""Unicode normalisation (UAX #15) in time proportional to the text.

Normalisation sorts the combining marks after each letter, which takes quadratic time for a long run of marks. A text is
therefore normalised only within two bounds: its length, and the length of its runs of marks.
"""

import re
import unicodedata

# As in the Stream-Safe Text Format of UAX #15. No language needs more.
MAX_COMBINING_MARKS = 30
# Decomposed text (NFD), such as macOS sends, has up to four characters for one of NFC: U+1F82 is the longest.
MAX_DECOMPOSITION = 4

# No marks themselves, but they decompose into marks: three into two, and those of half width in NFKD.
_MARKS_AFTER_DECOMPOSITION = str.maketrans(
    dict.fromkeys("\u0f73\u0f75\u0f81", "\u0f71\u0f72") | dict.fromkeys("\uff9e\uff9f", "\u3099")
)
_TOO_MANY_MARKS = re.compile(rb"[^\x00]{%d}" % (MAX_COMBINING_MARKS + 1))


class TextTooLongError(ValueError):
    """A text has more characters than any text of its maximum length that is not normalised yet."""


class TooManyMarksError(ValueError):
    """A text has more than `MAX_COMBINING_MARKS` combining marks in a row."""


def to_nfc(text: str, max_length: int) -> str:
    """Return a text in Unicode NFC, in which it may have up to `max_length` characters.

    The result may still be longer. Raises `TextTooLongError` for a text that has more than `MAX_DECOMPOSITION` times as
    many characters, and `TooManyMarksError`.
    """
    if len(text) > MAX_DECOMPOSITION * max_length:
        raise TextTooLongError
    if text.isascii():
        return text
    # The combining class of each character, 0 for all characters that are not marks.
    classes = bytes(map(unicodedata.combining, text.translate(_MARKS_AFTER_DECOMPOSITION)))
    if _TOO_MANY_MARKS.search(classes):
        raise TooManyMarksError
    return unicodedata.normalize("NFC", text)
