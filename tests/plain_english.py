"""Refuses turns of phrase that are not plain technical English: `python -m tests.plain_english`, part of `make check`.

It reads the docstrings, comments and string literals of `app/`, `tests/` and `locust/`, the Markdown pages and the
CHANGELOG outside code, and the titles, summaries and descriptions of `docs/openapi.json`. It also reads the names that
`app/` and `locust/` define. Each finding is printed as `path:line: "turn": hint`. The exit status is 1 if there is a
finding, or an exception that excuses none.
"""

import ast
import io
import json
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.documentation import PAGES

ROOT = Path(__file__).parents[1]
SOURCES = ("app/**/*.py", "tests/**/*.py", "locust/**/*.py")
# The list of turns and its tests quote the turns.
UNREAD = ("tests/plain_english.py", "tests/test_plain_english.py")
NAMED_SOURCES = ("app/**/*.py", "locust/**/*.py")
DOCUMENT = "docs/openapi.json"


@dataclass(frozen=True)
class Turn:
    """A turn to refuse: a regular expression in which a blank stands for any white space, and the replacement.

    It is let through if `unless`, an expression, is found between the beginning of the sentence and the turn.
    """

    pattern: str
    hint: str
    ignore_case: bool = True
    unless: str | None = None
    expression: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = rf"\b(?:{self.pattern})\b".replace(" ", r"\s+")
        object.__setattr__(self, "expression", re.compile(text, re.IGNORECASE if self.ignore_case else 0))

    def spans(self, prose: str) -> Iterator[tuple[int, int]]:
        """Yield where the turn begins and ends, each time it is used."""
        for found in self.expression.finditer(prose):
            sentence = re.split(r"[.:;]\s", prose[: found.start()])[-1]
            if self.unless is None or not re.search(self.unless, sentence):
                yield found.span()


# A turn is listed only if plain technical English does not use it: "none is", "at once" and "of its own" are not.
TURNS = (
    Turn("(?:who|whom|whoso)ever", "name the subject: the user, the client, the caller"),
    Turn("nobody|somebody|anybody|everybody", "name the subject: no user, another transaction, every client"),
    Turn("(?:for|of|by) who", "name the noun: for users that …"),
    Turn("(?:Who|Whom|Whose|What)(?= [a-z])", "begin with a noun or an imperative verb", ignore_case=False),
    Turn("(?:those|ones?) who", "name the noun: users that …"),
    Turn("what is absent", "an omitted member"),
    Turn("what (?:becomes|became) of", "name the result"),
    Turn("mend(?:s|ed|ing)?", "fix, repair, correct"),
    # Not "as soon as …", "as long as …", nor "as the process that has it".
    Turn(
        r"(?<!soon\s)(?<!long\s)(?<!far\s)(?<!well\s)(?<!many\s)(?<!much\s)as(?! (?:soon|long|far|well|many|much|if) )"
        r"(?: [^\s.,:;()]+){1,5}?(?<!that)(?<!which) ha(?:ve|s|d) it",
        "as in …, according to …",
    ),
    Turn("Alike", "name the noun: ties, equal values", ignore_case=False),
    Turn(
        "Of (?:an?|the|those|these|this|that|each|all|what|wh[oi]\\w+|such|two|its)",
        "begin with the subject",
        ignore_case=False,
    ),
    # Not "is told apart".
    Turn("(?:is|are|was|were|be|been|being) told(?! apart)", "is reported, is returned, is sent"),
    Turn("sa(?:y|ys|id|ying) nothing", "has no meaning, has no effect, is ignored"),
    Turn("t(?:ake|akes|aken|aking|ook) along", "export"),
    # Not "bring in line".
    Turn("br(?:ing|ings|inging|ought) in(?! line)", "import, add"),
    Turn("ha(?:ve|s|d) (?:a|no) say", "affects, takes part in"),
    # Not "not for … but for", nor a new clause: ", but for codes the case matters".
    Turn(r"(?<!,\s)but for", "except, apart from", unless=r"\b(?:not|only)\b|n't\b"),
    Turn("for(?: [^\\s.,:;]+){1,4}? sake", "because of, in order to"),
    Turn("(?:is|are|was|were) there already", "exists already"),
    # Not "one of ours", nor "ahead of ours".
    Turn(r"(?<!one\s)(?<!ahead\s)of (?:ours|theirs|yours|hers|mine)", "our, their, your"),
    Turn("comes of", "results from, follows from"),
    Turn("the like", "similar …, or name them"),
    # Not "stands in for".
    Turn("st(?:ands?|ood) (?:in(?! for)|behind)", "is in, has, contains, implements"),
)

# Names of functions, classes, parameters and variables: a participle or pronoun names no value, and limits are `MAX_…`.
NAMES = (
    (
        re.compile(
            "told|settled|taken|listed|hidden|walk(s|ed)|looked_up|looks_up|apart|ours|theirs|mine|drawn|let_others"
        ),
        "name a value by a noun and an action by an imperative verb",
    ),
    (re.compile("(MOST|LONGEST|LARGEST|DEEPEST|SHORTEST)(_.+)?"), "begin the name of a limit with MAX or MIN"),
    (re.compile("Refusal|Room"), "use the term of art: violation, error, limiter"),
)


@dataclass(frozen=True)
class Exempt:
    """A text that may stay although it has a turn, and why."""

    path: str
    text: str
    reason: str


EXCEPTIONS = (
    Exempt("app/core/local_postgres.py", "nobody", "the name of an account"),
    Exempt("tests/core/test_local_postgres.py", "nobody", "the name of an account"),
)


@dataclass(frozen=True)
class Passage:
    """Consecutive lines of text of a file, from `line` up to `last_line`."""

    path: str
    text: str
    line: int
    last_line: int


@dataclass(frozen=True)
class Finding:
    """A turn and its place; an exception that is not in use has the line 0."""

    path: str
    line: int
    turn: str
    hint: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f'{place}: "{self.turn}": {self.hint}'


# Code in Markdown, which docstrings and comments use, too.
FENCE = re.compile(r"^[ ]*(`{3,}|~{3,})[^`\n]*\n(?:.*\n)*?[ ]*\1[`~]*[ ]*$", re.MULTILINE)
SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)
TARGET = re.compile(r"(?<=\])\([^)\s]*\)|<https?:[^>]*>")
PARAGRAPH = re.compile(r"(?:^.*\S.*\n?)+", re.MULTILINE)
# Line by line, so that a finding has its line; examples have such members, too, and are texts as well.
DESCRIBED = re.compile(r'"(?:title|summary|description)":\s*("(?:[^"\\]|\\.)*")')


def without(text: str, *expressions: re.Pattern[str]) -> str:
    """Return the text with dots in place of every match; lines and offsets stay the same."""
    for expression in expressions:
        text = expression.sub(lambda found: re.sub(r"[^\n]", "·", found[0]), text)
    return text


class _Strings(ast.NodeVisitor):
    """Collects the string literals of a module; an f-string is one text with `{}` for each of its values."""

    def __init__(self) -> None:
        self.found: list[tuple[str, int, int]] = []

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._add(node, node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        parts = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            elif isinstance(part, ast.FormattedValue):
                parts.append("{}")
                self.visit(part.value)
        self._add(node, "".join(parts))

    def _add(self, node: ast.expr, text: str) -> None:
        self.found.append((text, node.lineno, node.end_lineno or node.lineno))


def _comments(source: str) -> Iterator[tuple[str, int, int]]:
    """Yield the comments of a module; comments on consecutive lines, in the same column, are one text."""
    block: list[str] = []
    first, column = 0, 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, start = token.start
            if block and (line, start) != (first + len(block), column):
                yield "\n".join(block), first, first + len(block) - 1
                block = []
            if not block:
                first, column = line, start
            block.append(token.string.lstrip("#"))
    if block:
        yield "\n".join(block), first, first + len(block) - 1


def _texts_of_source(source: str) -> Iterator[tuple[str, int, int]]:
    strings = _Strings()
    strings.visit(ast.parse(source))
    yield from strings.found
    yield from _comments(source)


def _defined_names(source: str) -> Iterator[tuple[str, int]]:
    """Yield the names that a module defines, each with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def name_findings(root: Path) -> Iterator[Finding]:
    """Yield the names that `NAMES` refuses. An underscore in front makes no difference."""
    for file in sorted(file for pattern in NAMED_SOURCES for file in root.glob(pattern)):
        for name, line in _defined_names(file.read_text("utf-8")):
            for expression, hint in NAMES:
                if expression.fullmatch(name.strip("_")):
                    yield Finding(file.relative_to(root).as_posix(), line, name, hint)


def _texts_of_page(page: str) -> Iterator[tuple[str, int, int]]:
    page = without(page, FENCE)
    for paragraph in PARAGRAPH.finditer(page):
        line = page.count("\n", 0, paragraph.start()) + 1
        yield paragraph[0], line, line + paragraph[0].count("\n")


def _texts_of_document(document: str) -> Iterator[tuple[str, int, int]]:
    # A text that many operations repeat is one text of the code, and is reported once.
    lines: dict[str, int] = {}
    for described in DESCRIBED.finditer(document):
        lines.setdefault(described[1], document.count("\n", 0, described.start()) + 1)
    for text, line in lines.items():
        yield json.loads(text), line, line


def passages(root: Path) -> Iterator[Passage]:
    """Yield every text of a project that must be plain English."""
    readers = [
        *((pattern, _texts_of_source) for pattern in SOURCES),
        *((pattern, _texts_of_page) for pattern in PAGES),
        (DOCUMENT, _texts_of_document),
    ]
    for pattern, texts_of in readers:
        for file in sorted(root.glob(pattern)):
            path = file.relative_to(root).as_posix()
            if path in UNREAD:
                continue
            for text, line, last_line in texts_of(file.read_text("utf-8")):
                yield Passage(path, text, line, last_line)


def _excused(passage: Passage, start: int, end: int, exceptions: Iterable[Exempt]) -> Exempt | None:
    """Return the exception with a text that covers this part of the passage. White space makes no difference."""
    for exempt in exceptions:
        if exempt.path == passage.path:
            text = r"\s+".join(map(re.escape, exempt.text.split()))
            if any(each.start() <= start and end <= each.end() for each in re.finditer(text, passage.text)):
                return exempt
    return None


def findings(root: Path, exceptions: Iterable[Exempt]) -> Iterator[Finding]:
    """Yield the turns that are found, and each exception that excuses none."""
    exceptions = tuple(exceptions)
    unused = set(exceptions)
    for passage in passages(root):
        prose = without(passage.text, FENCE, SPAN, TARGET)
        for turn in TURNS:
            for start, end in turn.spans(prose):
                if exempt := _excused(passage, start, end, exceptions):
                    unused.discard(exempt)
                    continue
                line = min(passage.line + prose.count("\n", 0, start), passage.last_line)
                yield Finding(passage.path, line, " ".join(passage.text[start:end].split()), turn.hint)
    yield from name_findings(root)
    for exempt in sorted(unused, key=lambda each: (each.path, each.text)):
        yield Finding(exempt.path, 0, exempt.text, "no finding needs this exception; remove it from EXCEPTIONS")


def main() -> int:
    found = sorted(dict.fromkeys(findings(ROOT, EXCEPTIONS)), key=lambda each: (each.path, each.line))
    for each in found:
        sys.stderr.write(f"{each}\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
