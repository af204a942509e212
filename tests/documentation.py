"""The Markdown pages of the project, and their code blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

PAGES = ("README.md", "CHANGELOG.md", "docs/**/*.md", "locust/README.md", "prometheus/README.md")

_FENCE = re.compile(r"( *)(`{3,})(.*)")
_LANGUAGE = re.compile(r"[\w+-]+")
_ITEM = re.compile(r" *(?:[-*+]|\d+[.)]) +")


@dataclass(frozen=True)
class Block:
    """A code block; `line` is that of its opening fence, and `language` is empty if the fence has none."""

    page: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} ({self.language or 'no language'})"


@dataclass(frozen=True)
class Fault:
    """A fence that Markdown reads differently from its appearance."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def paths_of_pages(root: Path) -> list[Path]:
    return [path for pattern in PAGES for path in sorted(root.glob(pattern))]


def read_blocks(page: str, text: str) -> tuple[list[Block], list[Fault]]:
    """Return the blocks of a page and the faults of its fences.

    A line that looks like a fence but is none is skipped, so that the blocks after it are still found.
    """
    reader = _Reader(page)
    for number, line in enumerate(text.splitlines(), 1):
        reader.read(number, line)
    reader.end()
    return reader.blocks, reader.faults


class _Reader:
    def __init__(self, page: str) -> None:
        self._page = page
        self.blocks: list[Block] = []
        self.faults: list[Fault] = []
        # The columns at which the text of the open list items begins.
        self._columns: list[int] = []
        self._block: tuple[int, int, str, str] | None = None  # line, column, ticks, language
        self._code: list[str] = []

    def read(self, number: int, line: str) -> None:
        if self._block:
            self._read_code(line)
            return
        if line.strip():
            self._follow_lists(line)
        if "```" in line or line.lstrip().startswith("~~~"):
            self._open(number, line)

    def end(self) -> None:
        if self._block:
            self._fault(self._block[0], "this fence is not closed")

    def _fault(self, number: int, text: str) -> None:
        self.faults.append(Fault(self._page, number, text))

    def _follow_lists(self, line: str) -> None:
        column = len(line) - len(line.lstrip())
        while self._columns and self._columns[-1] > column:
            self._columns.pop()
        if item := _ITEM.match(line):
            self._columns.append(item.end())

    def _open(self, number: int, line: str) -> None:
        fence = _FENCE.fullmatch(line)
        if fence is None:
            self._fault(number, "a fence must be a line of its own, made of backticks")
            return
        column, ticks, language = len(fence[1]), fence[2], fence[3]
        if language and not _LANGUAGE.fullmatch(language):
            self._fault(number, "after the fence only the language may follow; the code begins on the next line")
            return
        if not language:
            self._fault(number, "this fence has no language; write ```text if it is no code")
        if column != (self._columns[-1] if self._columns else 0):
            self._fault(number, "a fence begins where the line begins, or where the text of its list item does")
        self._block = number, column, ticks, language
        self._code = []

    def _read_code(self, line: str) -> None:
        assert self._block
        number, column, ticks, language = self._block
        if line.strip().startswith(ticks) and not line.strip().strip("`"):
            if len(line) - len(line.lstrip()) != column:
                self._fault(number, "the two fences of this block are not in the same column")
            self.blocks.append(Block(self._page, number, language, "".join(self._code)))
            self._block = None
            return
        if line[:column].strip():
            self._fault(number, "a line of this block begins before its fence")
        self._code.append(f"{line[column:]}\n")


def blocks_and_faults(root: Path) -> tuple[list[Block], list[Fault]]:
    """Return the blocks of all pages, in their order, and the faults of all fences."""
    blocks, faults = [], []
    for path in paths_of_pages(root):
        of_page = read_blocks(path.relative_to(root).as_posix(), path.read_text("utf-8"))
        blocks += of_page[0]
        faults += of_page[1]
    return blocks, faults


_SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def faults_of_changelog(text: str, version: str) -> Iterator[str]:
    """Yield where a CHANGELOG departs from the format of Keep a Changelog, or from the version of the service.

    Versions and their dates descend, sections are in one order, and Unreleased, if there is one, comes first. The
    newest version is that of the service, or an older one if there are unreleased changes.
    """
    title, *parts = re.split(r"^## ", text, flags=re.MULTILINE)
    if not title.startswith("# Changelog\n"):
        yield "The title is not '# Changelog'."
    released: list[tuple[tuple[int, ...], date]] = []
    for number, part in enumerate(parts):
        heading, _, rest = part.partition("\n")
        name, _, day = heading.partition(" - ")
        if heading == "Unreleased":
            if number:
                yield "'Unreleased' is not the first heading."
        elif not re.fullmatch(r"\d+\.\d+\.\d+ - \S+", heading):
            yield f"{heading!r} is neither Unreleased nor a version."
        else:
            try:
                released.append((tuple(map(int, name.split("."))), date.fromisoformat(day)))
            except ValueError:
                yield f"{day!r} is no date."
                released.append((tuple(map(int, name.split("."))), date.max))
        yield from _faults_of_sections(name, rest)
    if any(newer[0] <= older[0] or newer[1] < older[1] for newer, older in pairwise(released)):
        yield "The versions or their dates do not descend."
    if not released:
        yield "No version is released."
    else:
        newest, current = released[0][0], tuple(map(int, version.split(".")))
        is_ahead = parts[0].startswith("Unreleased\n") and current > newest
        if current != newest and not is_ahead:
            yield f"The newest version is {'.'.join(map(str, newest))}, but that of the service is {version}."


def _faults_of_sections(version: str, text: str) -> Iterator[str]:
    _, *sections = re.split(r"^### ", text, flags=re.MULTILINE)
    names = [section.partition("\n")[0] for section in sections]
    if not names or names != [name for name in _SECTIONS if name in names]:
        yield f"{version} has the sections {', '.join(names)}."
    for name, section in zip(names, sections, strict=True):
        if not re.fullmatch(r"\n+(?:- .+\n(?:  .+\n)*)+\n*", section.partition("\n")[2]):
            yield f"{name} of {version} is no list of changes."
