"""E-mail addresses in their canonical form: Unicode NFC, with the domain in lower case and in Unicode (RFC 5890).

`xn--` is the other form of a domain. Both mean the same domain, so addresses are brought to the canonical form before
they are stored or compared.
"""

import re

from email_validator import SPECIAL_USE_DOMAIN_NAMES, validate_email

from app.utils.fault_codes import invalid

# In characters, and in bytes of UTF-8 (RFC 5321, section 4.5.3.1.3, with erratum 1690 of RFC 3696).
EMAIL_LENGTH = 254

# Organisations use internal domains such as corp.local and home.arpa, which are not globally deliverable.
for _name in ("arpa", "local", "test"):
    SPECIAL_USE_DOMAIN_NAMES.remove(_name)

# A label in ASCII (RFC 5890) has at most 63 characters.
_A_LABEL = re.compile(r"(?<![^.@])xn--[a-z0-9-]{1,59}(?![^.])", re.ASCII | re.IGNORECASE)


def canonical_email(address: str) -> str:
    """Return an address in canonical form. Raises `ValueError` if it is not an address."""
    if len(address) > EMAIL_LENGTH:
        raise ValueError(f"An address has at most {EMAIL_LENGTH} characters.")
    # `EmailNotValidError` is a `ValueError`.
    return validate_email(address, check_deliverability=False, globally_deliverable=False).normalized


def check_email(address: str) -> str:
    """Return an address in canonical form. Raises the error of a validator if it is not an address."""
    try:
        return canonical_email(address)
    except ValueError as error:
        raise invalid("email") from error


def comparable_email(text: str) -> str:
    """Return an address in the form in which it would be stored. Any other text is returned unchanged."""
    try:
        return canonical_email(text)
    except ValueError:
        return text


def comparable_part_of_email(text: str) -> str:
    """Return a part of an address with the complete labels of its domain in canonical form.

    A text without `@` is taken for a part of a domain.
    """
    start = text.rfind("@") + 1
    return text[:start] + _A_LABEL.sub(lambda label: comparable_email(f"a@{label[0]}")[2:], text[start:])
