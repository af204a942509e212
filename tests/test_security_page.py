"""Each claim of `docs/09-security.md` names existing tests."""

import re
from pathlib import Path


def test_every_named_test_exists(root: Path) -> None:
    page = (root / "docs" / "09-security.md").read_text("utf-8")
    named = re.findall(r"`(test_\w+)`", page)
    defined = {
        name
        for file in (root / "tests").glob("**/test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text("utf-8"), re.MULTILINE)
    }
    assert [name for name in named if name not in defined] == []


def test_every_claim_names_its_tests(root: Path) -> None:
    page = (root / "docs" / "09-security.md").read_text("utf-8")
    risks, _ = page.split("\n## In production\n")
    claims = re.findall(r"^- .*(?:\n  .*)*", risks, re.MULTILINE)
    assert len(claims) > 20
    assert [claim for claim in claims if not re.search(r"`test_\w+`", claim)] == []


def test_page_has_the_ten_risks_of_2023(root: Path) -> None:
    page = (root / "docs" / "09-security.md").read_text("utf-8")
    assert re.findall(r"^## (API\d+): ", page, re.MULTILINE) == [f"API{number}" for number in range(1, 11)]
