"""Characters that Unicode displays as nothing: zero-width and filler characters, and controls of the text direction."""

import re
import unicodedata

# The property Default_Ignorable_Code_Point (Unicode 17, DerivedCoreProperties.txt), as the content of a class of a
# regular expression. It includes every Bidi_Control (PropList.txt) and every Variation_Selector.
IGNORABLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_IGNORABLE = re.compile(f"[{IGNORABLE}]")
# The second part backtracks once at most, from the end, so the work is in proportion to the text.
_CORE = re.compile(rf"[\s{IGNORABLE}]*+(.*[^\s{IGNORABLE}])?", re.DOTALL)
# Variation selectors and tags (Unicode, sections 23.4 and 23.9) choose the form of the character before them.
_FORM = re.compile("[\u180b-\u180d\u180f\ufe00-\ufe0f\U000e0020-\U000e007f\U000e0100-\U000e01ef]*+")
# General categories of characters of which no variation selector chooses a form: letters with case, modifiers, marks.
_WITHOUT_FORMS = frozenset({"Lu", "Ll", "Lt", "Lm", "Mn", "Me"})
# General categories of characters that are not displayed, or only with another one.
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Zs", "Zl", "Zp", "Mn", "Me"})


def has_ignorable(text: str) -> bool:
    """Return whether a text has a character that is displayed as nothing."""
    return not text.isascii() and _IGNORABLE.search(text) is not None


def is_visible(text: str) -> bool:
    """Return whether a text without control characters has a character that is displayed by itself."""
    if text.isascii():
        return not text.isspace() and text != ""
    return any(unicodedata.category(character) not in _INVISIBLE_CATEGORIES for character in _IGNORABLE.sub("", text))


def trimmed(text: str) -> str:
    """Return a text in Unicode NFC without the blanks and the characters displayed as nothing at its ends.

    A variation selector or tag stays if it chooses the form of the last character, as in emoji and CJK names.
    """
    if text.isascii():
        return text.strip()
    core = _CORE.match(text)
    if core is None or core[1] is None:
        return ""
    start, end = core.span(1)
    if unicodedata.category(text[end - 1]) not in _WITHOUT_FORMS and (form := _FORM.match(text, end)):
        end = form.end()
    return text[start:end]
