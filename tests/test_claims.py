"""Each claim of `docs/09-security.md` and `docs/guarantees.md` names existing tests."""

import re
from pathlib import Path

import pytest

PAGES = ("09-security.md", "guarantees.md")


def defined_tests(folder: Path) -> set[str]:
    """Return the names of the tests in a folder."""
    return {
        name
        for file in folder.glob("**/test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text("utf-8"), re.MULTILINE)
    }


def rows_of_tables(page: str) -> list[str]:
    """Return the rows of all tables whose last column is "tests"."""
    tables = re.findall(r"^\|.*\| tests \|\n\|(?: --- \|)+\n((?:\|.*\n)+)", page, re.MULTILINE)
    return [row for table in tables for row in table.splitlines()]


@pytest.mark.parametrize("name", PAGES)
def test_every_named_test_exists(root: Path, name: str) -> None:
    page = (root / "docs" / name).read_text("utf-8")
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 50
    defined = defined_tests(root / "tests")
    assert [each for each in named if each not in defined] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_row_names_its_tests(root: Path, name: str) -> None:
    rows = rows_of_tables((root / "docs" / name).read_text("utf-8"))
    assert rows
    assert [row for row in rows if not re.search(r"`test_\w+`\S* \|$", row)] == []


def test_tests_of_faults_are_marked(root: Path) -> None:
    page = (root / "docs" / "guarantees.md").read_text("utf-8")
    injected = defined_tests(root / "tests" / "faults")
    named = re.findall(r"`(test_\w+)`(\\\*)?", page)
    assert [name for name, mark in named if (name in injected) != bool(mark)] == []
    assert injected - {name for name, _ in named} == set()


def test_every_claim_about_security_names_its_tests(root: Path) -> None:
    page = (root / "docs" / "09-security.md").read_text("utf-8")
    risks, _ = page.split("\n## In production\n")
    claims = re.findall(r"^- .*(?:\n  .*)*", risks, re.MULTILINE)
    assert len(claims) > 20
    assert [claim for claim in claims if not re.search(r"`test_\w+`", claim)] == []


def test_security_page_has_the_ten_risks_of_2023(root: Path) -> None:
    page = (root / "docs" / "09-security.md").read_text("utf-8")
    assert re.findall(r"^## (API\d+): ", page, re.MULTILINE) == [f"API{number}" for number in range(1, 11)]


@pytest.mark.parametrize("name", ["docs/09-security.md", "docs/guarantees.md", "CHANGELOG.md"])
def test_nothing_is_said_twice(root: Path, name: str) -> None:
    """A merge may leave both versions of a row or of a list entry, or the end of one below another."""
    page = (root / name).read_text("utf-8")
    rows = [row.split(" | ")[0] for row in rows_of_tables(page)]
    entries = [" ".join(entry.split()) for entry in re.findall(r"^- .*(?:\n  .*)*", page, re.MULTILINE)]
    beginnings = [entry[:60] for entry in entries]
    assert [each for each in rows if rows.count(each) > 1] == []
    assert [each for each in beginnings if beginnings.count(each) > 1] == []
    assert [entry for entry in entries if entry.count("(") != entry.count(")")] == []
