"""Turns that are not plain technical English are found in every kind of text, and in nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import plain_english
from tests.plain_english import TURNS, Exempt, Finding, Turn, findings

# A sentence with each turn; the turns are in brackets.
SENTENCES = [
    "Connections go to [whoever] waits.",
    "It serves [Whomever] the lock was given to.",
    "A name is looked up that [nobody] [is told].",
    "[Somebody] writes and [everybody] reads, [anybody] at all.",
    "It reads a file [for who] has it.",
    "It limits the body [of who] is not known.",
    "Only [those who] may read see it, and [one who] may not does not.",
    "A list takes the default of [what is absent].",
    "It returns [what became of] each item, and [what becomes of] the rest.",
    "[Mend] the file: what is [mended] is read again, which [mends] the register.",
    "The cells are [as RFC 4180 has it].",
    "Lines are as long as bodies, or [as lists or bodies have it].",
    "[Alike] are ordered by id.",
    "[Of a] reference that a row gives twice the first one counts.",
    "It ends. [Of the] attempts, of [those who] failed all are counted.",
    "[Of an] object only the id is read.",
    "A fault [is told] once, and all [are told], or may [be told].",
    "Without it the parameter [says nothing], and these [say nothing] either.",
    "Rows are [taken along], or we [take along] what is left.",
    "Search, then [bring in] a table.",
    "The rule [has a say] in it.",
    "All [but for] the first are equal.",
    "It is done [for the sake] of speed, [for whose sake] the planner walks.",
    "A link that [is there already] changes no row.",
    "Remove what no lock [of ours] holds, or a row [of theirs].",
    "It counts whatever [comes of] it.",
    "Passwords and [the like] are removed.",
    "[Who] waits is served in order. [What] follows is read later.",
    "The value [stands in] an address, [stand behind] it, [stood in] it.",
]
# Sentences with the same words in plain technical English.
PLAIN = [
    "Users are amended; the amendment is emended.",
    "It fails as soon as the client has it, as long as readers have it, and as many rows as have it.",
    "It is as fast as the process that has it.",
    "Users and administrators are treated alike.",
    "The order of the columns, and those of a list.",
    "The two are told apart by an id.",
    "It is not for users but for programs. It takes codes, but for these the case matters.",
    "Bring it in line, as brought in line with RFC 9457.",
    "It stands in for the server.",
    "It is one of ours, and ahead of ours.",
    "The likelihood, the likes, and income of a department.",
    "Take the table along the index.",
    "What. Why. It returns what the client sent.",
]


def source(docstring: str = "", comment: str = "", message: str = "") -> str:
    lines = [
        "def identifier() -> None:",
        f"    {docstring!r}",
        f"    # {comment}",
        f"    raise ValueError({message!r})",
    ]
    return "\n".join(lines) + "\n"


def document(description: str) -> str:
    operation = {"summary": "List", "description": description, "operationId": "list"}
    return json.dumps({"paths": {"/things": {"get": operation}}}, indent=2)


def found_in(root: Path, path: str, text: str, *exceptions: Exempt) -> list[Finding]:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return list(findings(root, exceptions))


def marked(sentence: str) -> tuple[str, list[str]]:
    """Return a sentence without its brackets, and the texts between them."""
    parts = sentence.replace("]", "[").split("[")
    return "".join(parts), parts[1::2]


PLACES: dict[str, tuple[str, int, Callable[[str], str]]] = {
    "docstring": ("app/core/module.py", 2, lambda text: source(docstring=text)),
    "comment": ("app/core/module.py", 3, lambda text: source(comment=text)),
    "message": ("app/core/module.py", 4, lambda text: source(message=text)),
    "test": ("tests/core/test_module.py", 2, lambda text: source(docstring=text)),
    "load test": ("locust/module.py", 3, lambda text: source(comment=text)),
    "page": ("docs/decisions/01-page.md", 3, lambda text: f"# Title\n\n{text}\n"),
    "item": ("README.md", 4, lambda text: f"# Title\n\nItems:\n- {text}\n"),
    "cell": ("locust/README.md", 3, lambda text: f"| a | b |\n| --- | --- |\n| 1 | {text} |\n"),
    "change": ("CHANGELOG.md", 1, lambda text: f"- {text}\n"),
    "description": ("docs/openapi.json", 6, document),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("sentence", SENTENCES)
def test_turn_is_found_with_its_line_in_every_kind_of_text(tmp_path: Path, place: str, sentence: str) -> None:
    path, line, written = PLACES[place]
    text, turns = marked(sentence)
    found = found_in(tmp_path, path, written(text))
    assert {each.turn for each in found} == set(turns)
    assert {(each.path, each.line) for each in found} == {(path, line)}


def test_every_turn_has_a_sentence() -> None:
    sentences = [marked(sentence) for sentence in SENTENCES]
    for turn in TURNS:
        assert any(list(turn.spans(text)) for text, _ in sentences), turn.pattern
        assert turn.hint, turn.pattern


@pytest.mark.parametrize("sentence", PLAIN)
def test_plain_english_is_let_through(tmp_path: Path, sentence: str) -> None:
    assert found_in(tmp_path, "README.md", f"{sentence}\n") == []


def test_turn_is_found_over_lines_of_every_kind_of_text(tmp_path: Path) -> None:
    texts = {
        "app/a.py": '"""First line.\n\nAll rows are returned but\nfor the last."""\n',
        "app/b.py": "# All rows are returned but\n# for the last.\nx = 1  # but\n# for\n",
        "app/c.py": 'raise ValueError(\n    "All rows are returned but "\n    "for the last."\n)\n',
        "app/d.py": "raise ValueError(f\"As {name:>{width}} has it, and {join(['mend'])}\")\n",
        "docs/a.md": "All rows are returned but\nfor the last.\n",
    }
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text, "utf-8")
    assert [(each.path, each.line, each.turn) for each in findings(tmp_path, ())] == [
        ("app/a.py", 3, "but for"),
        ("app/b.py", 1, "but for"),
        ("app/c.py", 2, "but for"),
        ("app/d.py", 1, "mend"),
        ("app/d.py", 1, "As {} has it"),
        ("docs/a.md", 1, "but for"),
    ]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("app/module.py", "def mend(whoever, *, nobody=None):\n    return whoever.somebody(mend=nobody)\n"),
        ("app/module.py", "class Alike:\n    mended: int\n"),
        ("app/module.py", '"""Set `mend`, ``whoever`` or `as {name} has it`."""\n'),
        ("app/module.py", "x = f'{mend} {whoever.nobody} {somebody!r:>{everybody}}'\n"),
        ("app/module.py", "x = 'mend_it', 'is_told', 'nobody_else'\n"),
        ("docs/page.md", "Set `mend`,\nor `whoever\nhas it`.\n"),
        ("docs/page.md", "```bash\nmend --whoever  # Of a file\n\n\necho nobody\n```\n\nText.\n"),
        ("docs/page.md", "- An item:\n\n  ```sql\n  SELECT mend FROM whoever\n  ```\n\n  Text.\n"),
        ("docs/page.md", "[Text](mend.md#whoever) and <https://whoever.example/mend>.\n"),
        ("docs/openapi.json", document("Set `mend` or `whoever`.")),
        ("docs/openapi.json", json.dumps({"operationId": "mend", "enum": ["whoever"], "title": {"mend": 1}}, indent=2)),
        ("tests/plain_english.py", '"""Whoever."""\n'),
        ("tests/test_plain_english.py", '"""Whoever."""\n'),
        ("alembic/module.py", '"""Whoever."""\n'),
        ("docs/image.txt", "Whoever.\n"),
    ],
)
def test_identifiers_code_and_other_files_are_left_alone(tmp_path: Path, path: str, text: str) -> None:
    assert found_in(tmp_path, path, text) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("def told(value, *, mine=1):\n    return value\n", [1, 1]),
        ("class Room:\n    hidden: int\n\n    def _let_others(self):\n        self.settled = 1\n", [1, 2, 4, 5]),
        ("MOST_ROWS, _LONGEST = 1, 2\n", [1, 1]),
        ("def tell(row):\n    return row.told(hidden=1), 'told', row.mine\n", []),
        ("MAX_ROWS = 1\nalmost = mined = foretold = 1\n", []),
    ],
)
def test_names_are_nouns_and_imperative_verbs(tmp_path: Path, text: str, lines: list[int]) -> None:
    assert sorted(each.line for each in found_in(tmp_path, "app/module.py", text)) == lines


def test_exception_lets_its_text_stay_and_no_other(tmp_path: Path) -> None:
    exempt = Exempt("README.md", "the user `nobody` or nobody", "Unix's own name.")
    text = "Run it as the user `nobody`\nor nobody. But nobody writes.\n"
    assert [each.line for each in found_in(tmp_path, "README.md", text)] == [2, 2]
    (found,) = found_in(tmp_path, "README.md", text, exempt)
    assert (found.line, found.turn) == (2, "nobody")


@pytest.mark.parametrize("text", ["The user nobody.\n", "The user root.\n"])
def test_exception_that_is_not_in_use_is_a_finding(tmp_path: Path, text: str) -> None:
    exempt = Exempt("docs/page.md", "The user nobody", "Unix's own name.")
    found = found_in(tmp_path, "README.md", text, exempt)
    assert [each.path for each in found][-1] == "docs/page.md"
    assert str(found[-1]) == (
        'docs/page.md: "The user nobody": no finding needs this exception; remove it from EXCEPTIONS'
    )


def test_command_prints_the_findings_in_their_order_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plain_english, "ROOT", tmp_path)
    monkeypatch.setattr(plain_english, "EXCEPTIONS", ())
    assert plain_english.main() == 0
    (tmp_path / "README.md").write_text("# Alike\n\nMend it for nobody.\n", "utf-8")
    assert plain_english.main() == 1
    assert capsys.readouterr().err.splitlines() == [
        'README.md:1: "Alike": name the noun: ties, equal values',
        'README.md:3: "nobody": name the subject: no user, another transaction, every client',
        'README.md:3: "Mend": fix, repair, correct',
    ]


def test_text_that_the_document_repeats_is_found_once(tmp_path: Path) -> None:
    text = json.dumps([{"description": "Nobody."}, {"title": "Nobody."}, {"summary": "Nobody reads."}], indent=2)
    assert [each.line for each in found_in(tmp_path, "docs/openapi.json", text)] == [3, 9]


def test_turn_takes_any_white_space() -> None:
    assert Turn("take along", "export").expression.search("take\n  along")
