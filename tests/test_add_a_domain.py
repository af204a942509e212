"""The steps of the pages that add a domain and extend one are complete: they are run on a copy of the project."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL

from app.core.migrations import head_revision
from tests.conftest import COMMAND_ENV, new_database, text_of
from tests.waiting import HANG_TIMEOUT

COPIED = ("app", "alembic", "docs", "tests", "alembic.ini", "pyproject.toml")
NOT_COPIED = shutil.ignore_patterns("__pycache__", "node_modules", ".*")
PAGES = ("docs/08-add-a-domain.md", "docs/11-extend-a-domain.md")
# The Makefile is not copied; its target runs `tests/new_revision.py`.
DRAFT = re.compile(r'make migration NAME="(.+)"\n')
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`([\w./]+/[\w./]+\.py)`")
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"
# The paths that the pages write, except those that are formatted afterwards.
WRITTEN = (
    *("app/domains/contract", "app/domains/location", "app/domains/process", "app/domains/collections.py"),
    *("app/core", "app/models"),
)
# The tests of the added code, verbose so that their names are printed.
RUN_TESTS = (
    *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-vv"),
    *("-k", "contracts or locations or test_registration or test_collections"),
    *("tests/test_contract.py", "tests/test_registration.py", "tests/domains/shared/test_collections.py"),
    *("tests/domains/shared/test_declarations.py", "tests/domains/shared/test_text_filters.py"),
    "tests/domains/process/test_router.py",
)


@dataclass(frozen=True)
class Step:
    """A code block of a page: a new file, differences, or commands."""

    language: str
    code: str
    # The first path that the paragraph above names.
    path: str | None


def steps_of(page: str) -> list[Step]:
    steps = []
    for block in BLOCK.finditer(page):
        above = page[: block.start()].rstrip().rpartition("\n\n")[2]
        named = PATH.search(above)
        steps.append(Step(block[1], block[2], named and named[1]))
    return steps


def edit(project: Path, differences: str) -> None:
    """Apply differences: `+++` names a file, `@@` separates two places in it.

    The file must contain the unmarked and removed lines of a place exactly once.
    """
    for part in differences.split("+++ ")[1:]:
        path, _, places = part.partition("\n")
        file = project / path
        for place in places.split("@@\n"):
            lines = place.splitlines(keepends=True)
            assert {line[0] for line in lines} <= set(" +-"), place
            old = "".join(line[1:] for line in lines if line[0] in " -")
            new = "".join(line[1:] for line in lines if line[0] in " +")
            text = file.read_text("utf-8")
            assert ("\n" + text).count("\n" + old) == 1, f"{path} has these lines not exactly once:\n{old}"
            file.write_text(("\n" + text).replace("\n" + old, "\n" + new)[1:], "utf-8")


class Project:
    """A copy of this project, and a database at its last revision."""

    def __init__(self, path: Path, database: URL, server: URL) -> None:
        self.path = path
        self.last = head_revision()
        self._environment = COMMAND_ENV | {"ENV": "test"}
        self._database, self._server = text_of(database), text_of(server)

    def run(self, *command: str, server: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a command on the database, or on the server with all databases."""
        environment = self._environment | {"DATABASE_URL": self._server if server else self._database}
        return subprocess.run(
            command,
            cwd=self.path,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANG_TIMEOUT,
        )

    def succeed(self, *command: str, server: bool = False) -> str:
        done = self.run(*command, server=server)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
        return done.stdout

    def follow(self, step: Step) -> None:
        """Apply a step; `LAST` and `NEXT` are placeholders of revision numbers."""
        following = f"{int(self.last) + 1:04}"
        code = step.code.replace("NEXT", following).replace("LAST", self.last)
        if step.language == "diff":
            edit(self.path, code)
        elif drafted := DRAFT.fullmatch(code):
            self.succeed(sys.executable, "-m", "tests.new_revision", drafted[1], server=True)
        elif step.language == "sh":
            self.succeed("bash", "-ec", code)
        else:
            assert step.language == "python"
            assert step.path is not None
            file = self.path / step.path.replace("NEXT", following)
            file.parent.mkdir(exist_ok=True)
            file.write_text(code, "utf-8")
        if "NEXT" in step.code or DRAFT.fullmatch(code):
            self.last = following
            self.succeed(sys.executable, "-m", "app", "migrate")


@pytest.fixture(scope="module")
def steps(root: Path) -> list[Step]:
    if (root / "app/domains/contract/models.py").exists():
        pytest.skip("The steps of the pages were applied here: app/domains/contract exists.")
    return [step for page in PAGES for step in steps_of((root / page).read_text("utf-8"))]


@pytest.fixture
async def project(root: Path, tmp_path: Path, server_url: URL) -> AsyncIterator[Project]:
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, tmp_path / name, ignore=NOT_COPIED)
        else:
            shutil.copy(root / name, tmp_path / name)
    async with new_database(server_url) as database:
        project = Project(tmp_path, database, server_url)
        project.succeed(sys.executable, "-m", "app", "migrate")
        yield project


async def test_page_adds_a_collection_a_kind_of_link_and_a_field(project: Project, steps: list[Step]) -> None:
    for step in steps:
        project.follow(step)
    project.succeed(sys.executable, "-c", LINT_IMPORTS)
    for command in (("check",), ("format", "--check")):
        project.succeed(sys.executable, "-m", "ruff", *command, *WRITTEN)
    project.succeed(sys.executable, "-m", "tests.schema_check", server=True)
    # The service finds the revision by the text of the file.
    head = "from app.core.migrations import head_revision; print(head_revision())"
    assert project.succeed(sys.executable, "-c", head).strip() == project.last
    document = json.loads(project.succeed(sys.executable, "-m", "app", "openapi"))
    paths = document["paths"]
    of_collection = [methods for path, methods in paths.items() if path.startswith("/api/v1/contracts")]
    assert {method for methods in of_collection for method in methods} == {"get", "post", "put", "patch", "delete"}
    assert paths["/api/v1/processes/{reference}/contracts/{contract}"].keys() == {"put", "delete"}
    assert paths["/api/v1/contracts/{reference}/processes"].keys() == {"get"}
    filters = {each["name"] for each in paths["/api/v1/locations"]["get"]["parameters"]}
    assert {name for name in filters if name.startswith("cost_center")} == {
        *("cost_center", "cost_center__not", "cost_center__null")
    }
    held = project.succeed(*RUN_TESTS, server=True)
    added = (
        r"\[contracts\]",
        r"\[locations\]",
        "every_collection_has_its_layer",
        r"one_link_is_added.*\[id-contracts\]",
    )
    for name in added:
        assert re.search(rf"{name} PASSED", held), held


async def test_collection_without_its_migration_is_detected(project: Project, steps: list[Step]) -> None:
    registration = next(number for number, step in enumerate(steps) if step.language == "diff")
    for step in steps[: registration + 1]:
        if "create_collection" not in step.code:
            project.follow(step)
    checked = project.run(sys.executable, "-m", "tests.schema_check", server=True)
    assert checked.returncode == 1
    assert "contracts" in checked.stdout
