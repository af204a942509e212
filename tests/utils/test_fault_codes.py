"""The texts of faults: complete, in one voice, and without regular expressions."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic_core.core_schema import ErrorType

from app.domains.auth.schemas import SetPassword
from app.domains.shared.collection import cycle_key, self_references
from app.utils import password_strength
from app.utils.exceptions import Fault
from app.utils.fault_codes import (
    OWN_TEXTS,
    PYDANTIC_TEXTS,
    TEXTS,
    UNKNOWN_PATTERN_TEXT,
    UNKNOWN_TYPE_TEXT,
    code_of,
    invalid,
    pattern_text,
)
from app.utils.validation import error_text, summary
from app.utils.wording import counted, joined, truncated
from tests.catalogue import MODELS
from tests.error_table import PAGE, page, problem_classes

# Pydantic's errors that no schema or query of the service can cause: types that none of them has, and Python's own.
UNUSED = re.compile(
    "arguments?_.*|.*_argument|multiple_argument_values|assertion_error|value_error|bytes_.*|callable_type|complex_.*"
    "|counter_type|dataclass_.*|date_.*|datetime_(future|past)|decimal_.*|default_factory_not_called|deque_type"
    "|ellipsis_error|fraction_.*|frozen_.*|get_attribute_error|invalid_key|is_.*_of|iterable_type|iteration_error"
    "|json_.*|mapping_type|missing_sentinel_error|multiple_of|named_tuple_type|needs_python_object|no_such_attribute"
    "|ordered_dict_type|recursion_.*|set_.*|string_not_ascii|time_.*|timezone_(naive|offset)|tuple_type|union_tag_.*"
    "|unexpected_.*|url_.*|uuid_version"
)
# The functions with the key of a text as an argument, and the position of that argument.
TAKES_KEY = {"mapping_fault": 0, "of": 1, "add_fault": 1, "invalid": 0, "text_of": 0, "BadCellError": 0}
TAKES_KEY |= {"_message_error": 0, "_request_error": 0, "_header_fault": 0, "_fault": 2}


def calls(root: Path) -> Iterator[tuple[Path, str, ast.Call]]:
    """Yield each call in the application: its file, and the name of the function."""
    for path in sorted((root / "app").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                yield path, name, node


def keys_of(node: ast.AST) -> set[str]:
    """Return the texts in an expression that look like keys."""
    texts = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))
    return {text for text in texts if re.fullmatch(r"[a-z0-9_]+(:[a-z_]+)?", text)}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_table_of_all_codes_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "Run `make error-codes`."


def test_texts_are_sentences_in_one_voice() -> None:
    texts = [*TEXTS.values(), *(error.text for error in problem_classes())]
    for text in (*texts, UNKNOWN_TYPE_TEXT, UNKNOWN_PATTERN_TEXT):
        assert re.match(r"[A-Z`{]", text), text
        assert text.endswith((".", "}")), text
        assert not re.search(r"Input should|Value error|dictionary|\bPython\b|\bvalid (string|integer|number)", text), (
            text
        )


def test_standard_text_of_an_error_has_no_placeholders() -> None:
    assert {error.code: placeholders(error.text) for error in problem_classes() if placeholders(error.text)} == {}


def test_every_error_of_pydantic_has_a_text_unless_it_cannot_occur() -> None:
    types = set(get_args(ErrorType))
    assert {code_of(key) for key in PYDANTIC_TEXTS} <= types
    assert types - PYDANTIC_TEXTS.keys() == {kind for kind in types if UNUSED.fullmatch(kind)}


def test_faults_have_texts_of_the_catalogue_only(root: Path) -> None:
    # Rules have their own texts; all other faults are created by `Fault.of` and `invalid`.
    made = {path.name for path, name, _ in calls(root) if name == "Fault"}
    assert made == {"rules.py", "validation.py"}
    assert {path.name for path, name, _ in calls(root) if name == "PydanticCustomError"} == {"fault_codes.py"}


def test_every_text_is_used_with_its_values(root: Path) -> None:
    used: set[str] = set()
    for path, name, call in calls(root):
        place = TAKES_KEY.get(name)
        if place is None or len(call.args) <= place:
            continue
        keys = keys_of(call.args[place])
        if name == "of" and not isinstance(call.func, ast.Attribute):
            continue
        used |= keys & TEXTS.keys()
        assert name == "of" or keys <= TEXTS.keys(), (path, keys - TEXTS.keys())
        given = {keyword.arg for keyword in call.keywords}
        if None not in given and name in {"of", "add_fault", "invalid", "text_of", "_fault"}:
            for key in keys & TEXTS.keys():
                assert placeholders(TEXTS[key]) <= given, (path, key)
    # These are chosen by an expression.
    used |= {"forbidden", "forbidden:token", "idempotency_key_reused", *password_strength._KEYS.values()}
    used |= {cycle_key(name) for model in MODELS.values() for name in self_references(model)}
    assert OWN_TEXTS.keys() - used == set()


def test_unknown_code_has_no_fault() -> None:
    with pytest.raises(KeyError):
        Fault.of("", "nonsense")
    with pytest.raises(KeyError):
        invalid("nonsense")
    with pytest.raises(KeyError):
        Fault.of("", "duplicate", noun="role")


def nodes(node: Any, document: Any, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Yield all objects in a part of an OpenAPI document, and in what it refers to."""
    if isinstance(node, list):
        for each in node:
            yield from nodes(each, document, seen)
    elif isinstance(node, dict):
        yield node
        yield from nodes(list(node.values()), document, seen)
        name = str(node.get("$ref", "")).rpartition("/")[2]
        if name in document["components"]["schemas"] and name not in seen:
            seen.add(name)
            yield from nodes(document["components"]["schemas"][name], document, seen)


def request_patterns(root: Path) -> set[str]:
    """Return the regular expressions of all bodies and parameters in the OpenAPI document."""
    document = json.loads((root / "docs" / "openapi.json").read_text("utf-8"))
    operations = [each for path in document["paths"].values() for each in path.values()]
    parts = [[each.get("parameters", []), each.get("requestBody", {})] for each in operations]
    return {node["pattern"] for node in nodes(parts, document, set()) if isinstance(node.get("pattern"), str)}


def test_every_pattern_has_a_text(root: Path) -> None:
    patterns = request_patterns(root)
    assert len(patterns) > 10
    assert [pattern for pattern in patterns if pattern_text(pattern) == UNKNOWN_PATTERN_TEXT] == []
    assert [text for text in map(pattern_text, patterns) if re.search(r"\^|\[|\\|\{\d", text)] == []


def test_length_of_a_secret_is_in_characters() -> None:
    with pytest.raises(ValidationError) as caught:
        SetPassword.model_validate({"token": "t" * 129, "password": "short"})
    assert [error_text(error) for error in caught.value.errors()] == [
        "Must have at most 128 characters.",
        "Must have at least 12 characters.",
    ]


def test_error_without_a_text_gets_a_general_one() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(bytes).validate_python(1)
    assert error_text(caught.value.errors()[0]) == UNKNOWN_TYPE_TEXT


def test_value_in_a_text_is_not_taken_for_a_placeholder() -> None:
    assert invalid("unknown_sort", place=1, hint="{member}").message() == "Sort field 1 is unknown. {member}"


def test_counts_are_singular_or_plural() -> None:
    assert [counted(number, "process", "processes") for number in (0, 1, 2)] == [
        "0 processes",
        "1 process",
        "2 processes",
    ]
    assert counted(20_000, "character") == "20,000 characters"
    assert [summary(1), summary(2), summary(150)] == [
        "The request has 1 error.",
        "The request has 2 errors.",
        "The request has more than 100 errors. The first 100 are listed.",
    ]


def test_lists_are_joined_as_in_a_sentence() -> None:
    assert [joined(list("abc")[:length], "or") for length in range(4)] == ["", "a", "a or b", "a, b or c"]


def test_lines_beyond_a_limit_are_counted() -> None:
    assert [truncated(list("abc")[:length], 2) for length in (0, 2, 3)] == [[], ["a", "b"], ["a", "b", "… and 1 more."]]
