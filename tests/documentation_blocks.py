"""The rules by which `tests/test_documentation.py` checks the code blocks of the pages.

A block is run by default: shell commands against a server with the demo data, in the order of the page and in one
shell; SQL on the same database; Python in a coroutine. JSON is validated against a schema of the OpenAPI document. A
block that cannot run in a test is listed in `NOT_RUN` with the reason. An entry must fit exactly one block.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.documentation import Block
from tests.waiting import HANG_TIMEOUT

SHELLS = ("bash", "sh", "cron")
ADDRESS = "http://127.0.0.1:8000"
# Programs that a machine may lack: without its program a block is skipped. `.ci/run` installs both.
OPTIONAL_PROGRAMS = ("jq", "promtool")


@dataclass(frozen=True)
class Named:
    """The block of a page that contains a text. A line feed in the text may be the beginning of the block."""

    page: str
    text: str

    def among(self, blocks: list[Block]) -> list[Block]:
        return [block for block in blocks if block.page == self.page and self.text in f"\n{block.code}"]


README, DOCKER, API, HISTORY = "README.md", "docs/03-docker.md", "docs/06-api.md", "docs/10-history.md"
OPERATIONS, LOAD, MONITORING = "docs/07-operations.md", "locust/README.md", "prometheus/README.md"

_DOCKER = "needs a Docker daemon and images"
NOT_RUN = {
    Named(README, "make run"): "serves until Ctrl-C; tests/test_cli.py runs `python -m app run`",
    Named(README, "docker compose up"): _DOCKER,
    Named(README, "make check"): "runs this test",
    Named("docs/00-architecture.md", "──►"): "a diagram; tests/test_readme.py compares its names with the packages",
    Named(DOCKER, "docker compose up"): _DOCKER,
    Named(DOCKER, "docker compose logs"): _DOCKER,
    Named(DOCKER, "run --build --rm tests"): _DOCKER,
    Named(DOCKER, "run --rm tests python -m pytest"): _DOCKER,
    Named(DOCKER, "docker build"): _DOCKER,
    Named(DOCKER, "process-register init"): _DOCKER,
    Named(DOCKER, "process-register password-link"): _DOCKER,
    Named(DOCKER, "pg_restore"): _DOCKER,
    Named(DOCKER, "api export /files"): _DOCKER,
    Named(DOCKER, "process-register export /files"): _DOCKER,
    Named(API, "npx openapi-typescript"): "needs packages of npm; tests/clients runs both generators with them",
    Named(API, "reference = code"): "a grammar; tests/domains/shared/test_export.py has cells of all kinds",
    Named(LOAD, "\nmake load\n"): "loads a server for a minute",
    Named(LOAD, "LOCUST_EMAIL="): "loads a server for a minute",
    Named(LOAD, "--run-time 5m"): "loads a server for minutes",
    Named(LOAD, "locustfile.py --host"): "loads a server until Ctrl-C",
    Named(LOAD, "docker compose --profile load"): _DOCKER,
    Named(LOAD, "SIGN_IN_ATTEMPTS=1000000"): "serves until Ctrl-C",
    Named(LOAD, "make sign-in-rush"): "measures for two minutes",
    Named(LOAD, "sign_in_rush.py rush"): "measures for a minute",
    Named(MONITORING, "docker compose --profile monitoring"): _DOCKER,
    Named(MONITORING, "apt-get download"): "needs root and the network; `.ci/run` does the same",
    Named(MONITORING, "docker run"): _DOCKER,
}
# The blocks of a page that a test in another file runs, by their languages.
ELSEWHERE = {
    "docs/08-add-a-domain.md": (("python", "sh", "diff"), "tests/test_add_a_domain.py"),
    HISTORY: (("sql",), "tests/test_grants.py"),
    "docs/11-extend-a-domain.md": (("python", "sh", "diff"), "tests/test_add_a_domain.py"),
    OPERATIONS: (("sql",), "tests/test_folding_migration.py"),
}
SCHEMAS = {
    Named(API, '"group_by"'): "Stats",
    Named(API, '"owner_id": {'): "ProcessCreate",
    Named(API, '"op"'): "BulkDepartments",
    Named(API, '"index"'): "BulkAnswer",
    Named(API, '"plan_id"'): "ImportAnswer",
    Named(API, '"/problems/'): "Problem",
    Named(HISTORY, '"actor"'): "ChangeRead",
}
# Every other call must succeed.
REFUSED = (Named(README, "-X DELETE"),)
# The value of a reader's own text; an ellipsis without a value fails.
PLACEHOLDERS = {"/srv/register": "$PROJECT"}
# Blocks whose commands work on a register without objects.
ON_EMPTY_REGISTER = (Named(OPERATIONS, "app import departments.csv"),)
_TABLES = (NOT_RUN, SCHEMAS, dict.fromkeys((*REFUSED, *ON_EMPTY_REGISTER), ""))


def entry_of(table: dict[Named, str], block: Block, blocks: list[Block]) -> str | None:
    return next((table[named] for named in table if block in named.among(blocks)), None)


def _is_elsewhere(block: Block) -> bool:
    return block.language in ELSEWHERE.get(block.page, ((), ""))[0]


def blocks_to_run(blocks: list[Block], *languages: str) -> list[Block]:
    return [
        block
        for block in blocks
        if block.language in languages and not _is_elsewhere(block) and entry_of(NOT_RUN, block, blocks) is None
    ]


def faults_of_tables(blocks: list[Block]) -> Iterator[str]:
    """Yield the blocks that no test checks, and the entries that do not fit exactly one block."""
    for block in blocks:
        is_run = block.language in (*SHELLS, "sql", "python") or entry_of(SCHEMAS, block, blocks) is not None
        is_monitoring = block.page == MONITORING and block.language in ("yaml", "promql")
        if not (is_run or is_monitoring or _is_elsewhere(block) or entry_of(NOT_RUN, block, blocks)):
            yield f"{block}: no test checks this block: add it to SCHEMAS, or to NOT_RUN with the reason\n{block.code}"
    for named in (named for table in _TABLES for named in table):
        if (number := len(named.among(blocks))) != 1:
            yield f"{named.page} has {number} blocks with {named.text!r}: an entry must fit exactly one"
    for page, (languages, _) in ELSEWHERE.items():
        for language in languages:
            if not any((block.page, block.language) == (page, language) for block in blocks):
                yield f"{page} has no block of {language}: remove it from ELSEWHERE"


def missing_program(block: Block) -> str | None:
    needed = (name for name in OPTIONAL_PROGRAMS if re.search(rf"\b{name}\b", block.code))
    return next((name for name in needed if not shutil.which(name)), None)


def command_of_cron(line: str) -> str:
    """Return the command of a line of /etc/cron.d: five fields of time, a user, the command."""
    found = re.fullmatch(r"(?:[\d*,/-]+\s+){5}[\w-]+\s+(\S.*)\n", line)
    assert found, line
    return f"{found[1]}\n"


def script_of(block: Block) -> str:
    """Return the commands of a block in the form in which they run, in the folder of the project."""
    code = command_of_cron(block.code) if block.language == "cron" else block.code
    for placeholder, value in PLACEHOLDERS.items():
        code = code.replace(placeholder, value)
    assert "…" not in code, f"{block}: give the placeholder a value in PLACEHOLDERS"
    assert "://" not in code.replace(ADDRESS, ""), f"{block}: a test calls its own server only: list it in NOT_RUN"
    register = "EMPTY" if any(block in named.among([block]) for named in ON_EMPTY_REGISTER) else "DEMO"
    return f'cd "$PROJECT"; export DATABASE_URL="${register}_REGISTER"\n{code}'


@dataclass
class Shell:
    """Runs the commands of a page in one shell, once, and keeps the output of each block.

    Each page has a new home directory, below `homes`: pages write to the same paths there.
    """

    blocks: list[Block]
    folder: Path
    homes: Path
    server: str
    environment: dict[str, str]
    _printed: dict[str, dict[Block, str]] = field(default_factory=dict)

    def printed(self, page: str) -> dict[Block, str]:
        """Return the output of each block of a page. Fails with the first block that fails."""
        if page not in self._printed:
            of_page = [block for block in blocks_to_run(self.blocks, *SHELLS) if block.page == page]
            home = self.homes / page.replace("/", "-")
            home.mkdir()
            self._printed[page] = self._run([block for block in of_page if not missing_program(block)], home)
        return self._printed[page]

    def text(self, page: str, text: str) -> str:
        """Return the output of the block of a page that contains a text."""
        (block,) = Named(page, text).among(self.blocks)
        return self.printed(page)[block]

    def _run(self, blocks: list[Block], home: Path) -> dict[Block, str]:
        # No block prints a NUL, which therefore separates the outputs.
        script = "".join(f"{script_of(block)}printf '\\0'\n" for block in blocks)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace(ADDRESS, self.server)],
            cwd=self.folder,
            env=self.environment | {"HOME": str(home)},
            capture_output=True,
            check=False,
            timeout=HANG_TIMEOUT,
        )
        *outputs, rest = done.stdout.decode().split("\0")
        if done.returncode:
            pytest.fail(f"{blocks[len(outputs)]} exits with {done.returncode}\n{rest}\n{done.stderr.decode()}")
        return dict(zip(blocks, outputs, strict=True))


def project_folder(root: Path, folder: Path, environment: str) -> None:
    """Fill a folder with links to the project's files, and to an environment as `.venv`.

    A command that writes into its working directory does not write into the project.
    """
    for path in root.iterdir():
        if not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    (folder / ".venv").symlink_to(environment)
