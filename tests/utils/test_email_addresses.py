"""E-mail addresses have one canonical form."""

import pytest

from app.utils.text.email_addresses import canonical_email, comparable_email, comparable_part_of_email


@pytest.mark.parametrize(
    ("address", "canonical"),
    [
        ("ada@xn--mnchen-3ya.example", "ada@münchen.example"),
        ("Ada@XN--MNCHEN-3YA.Example", "Ada@münchen.example"),
        ("ada@MÜNCHEN.example", "ada@münchen.example"),
        ("ada@mu\u0308nchen.example", "ada@münchen.example"),
        ("ada@sub.xn--mnchen-3ya.xn--wgv71a119e.example", "ada@sub.münchen.日本語.example"),
        ("ada@xn--strae-oqa.example", "ada@straße.example"),
        ("ada@strasse.example", "ada@strasse.example"),
        ("ada@register.example", "ada@register.example"),
        ("a\u0308@register.example", "ä@register.example"),
    ],
)
def test_domain_is_in_unicode(address: str, canonical: str) -> None:
    assert canonical_email(address) == canonical_email(canonical) == comparable_email(address) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "ada",
        "@",
        "ada@",
        "ada@xn--.example",
        "ada@xn--a.example",
        "ada@xn--99999999.example",
        "ada@xn--" + "9" * 59 + ".example",
        "ada@xn--\udc80.example",
        "ada@" + "xn--mnchen-3ya." * 40 + "example",
        "\0",
    ],
)
def test_text_that_is_no_address_stays(text: str) -> None:
    assert comparable_email(text) == text
    with pytest.raises(ValueError, match=r"."):
        canonical_email(text)


@pytest.mark.parametrize(
    ("part", "comparable"),
    [
        ("@xn--mnchen-3ya.example", "@münchen.example"),
        ("xn--mnchen-3ya", "münchen"),
        ("ada@sub.XN--MNCHEN-3YA.xn--wgv71a119e.ex", "ada@sub.münchen.日本語.ex"),
        ("xn--mnchen-3ya@xn--mnchen-3ya", "xn--mnchen-3ya@münchen"),
        ("ada@xn--mnch", "ada@xn--mnch"),
        ("ada@xn--99999999.", "ada@xn--99999999."),
        ("axn--mnchen-3ya", "axn--mnchen-3ya"),
        ("xn--mnchen-3ya_", "xn--mnchen-3ya_"),
        ("", ""),
        ("ada", "ada"),
    ],
)
def test_complete_labels_of_a_part_are_in_unicode(part: str, comparable: str) -> None:
    assert comparable_part_of_email(part) == comparable
