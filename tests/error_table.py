"""Writes `docs/12-error-codes.md`, the table of all codes with their texts: `python -m tests.error_table`.

With `--print`, it prints the page instead; `make check` compares that with the file.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from app.core.database_errors import IntegrityViolation
from app.utils.exceptions import Gone, RegisterError, error_classes
from app.utils.fault_codes import TEXTS, code_of

PAGE = Path(__file__).parents[1] / "docs" / "12-error-codes.md"
HEAD = """# Error codes

This page is generated from `app/utils/exceptions.py` and `app/utils/fault_codes.py` by `make error-codes`. Codes are
part of the API; texts are for people and may change. `docs/06-api.md` describes problem documents.

## Problems

`code` of a problem document. The text is its `detail`, unless the response names the cause more precisely.
`GET` of the type explains it.

| code | status | title | type | text |
| --- | --- | --- | --- | --- |
"""
FAULTS = """
## Errors of a request

`errors[].code` of a problem document, with its `detail`. `{…}` is replaced by a limit, a name or a number, `{format}`
by the description of the format, `{reason}` by the cause, and `{hint}` by the nearest known names. Values that a client
sent are never repeated.

| code | text |
| --- | --- |
"""


def problem_classes() -> Iterator[type[RegisterError]]:
    """Yield the classes of the errors that clients receive."""
    for error in error_classes(RegisterError):
        # `IntegrityViolation` is always replaced by one of the others, and only subclasses of `Gone` are raised.
        if error not in {RegisterError, IntegrityViolation, Gone} and error.__module__.startswith("app."):
            yield error


def page() -> str:
    """Return the page."""
    classes: dict[str, type[RegisterError]] = {}
    for error in problem_classes():
        classes.setdefault(error.code, error)
    problems = [
        f"| `{error.code}` | {error.status} | {error.title} | `/problems/{error.name}` | {error.text} |"
        for error in sorted(classes.values(), key=lambda error: (error.status, error.code))
    ]
    faults = [f"| `{code_of(key)}` | {_cell(text)} |" for key, text in sorted(TEXTS.items())]
    return HEAD + "\n".join(problems) + "\n" + FAULTS + "\n".join(dict.fromkeys(faults)) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        sys.stdout.write(page())
    else:
        PAGE.write_text(page(), "utf-8")
