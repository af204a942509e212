"""Every code block of every page is well formed, and is checked by the rules of `tests/documentation_blocks.py`.

The CHANGELOG follows its format.
"""

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI
from sqlalchemy import URL, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.config import VERSION
from app.domains.department.models import Department
from app.domains.register.demo_data import DEMO_PASSWORD, DEMO_USERS
from tests.conftest import COMMAND_ENV, LONG_TIMEOUT_ENV, connected, new_database, text_of
from tests.documentation import Block, Fault, blocks_and_faults, faults_of_changelog, read_blocks
from tests.documentation_blocks import (
    API,
    ELSEWHERE,
    HISTORY,
    NOT_RUN,
    OPERATIONS,
    PLACEHOLDERS,
    README,
    REFUSED,
    SCHEMAS,
    SHELLS,
    Shell,
    blocks_to_run,
    command_of_cron,
    entry_of,
    faults_of_tables,
    missing_program,
    project_folder,
    script_of,
)
from tests.test_add_a_domain import steps_of

BLOCKS, FAULTS = blocks_and_faults(Path(__file__).parents[1])
# The present faults of the tables; tests of the tables compare with them.
KNOWN = set(faults_of_tables(BLOCKS))
_, EDITOR, _ = DEMO_USERS


def each_block(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks_to_run(BLOCKS, *languages), ids=str)


def test_fences_of_every_page_are_well_formed() -> None:
    assert [str(fault) for fault in FAULTS] == []
    assert len(BLOCKS) > 40


RUN_TOGETHER = """\
- **Signing in for the first time.** Print a token and set a password with it, once the service answers:

  ```bash docker run --rm process-register password-link admin@register.example curl
  https://register.example/api/v1/auth/set-password -d '{"token": "…"}' ```

  Another paragraph.
"""


@pytest.mark.parametrize(
    ("page", "faults"),
    [
        ("```bash\nmake\n```\n", []),
        ("- An item:\n\n  ```bash\n  make\n  ```\n\n  More.\n1. One:\n\n   ```text\n   x\n   ```\n", []),
        ("- An item\n\n```bash\nmake\n```\n", []),
        ("- An item\n  - in another:\n\n    ```sh\n    make\n    ```\n\n  ```sh\n  make\n  ```\n", []),
        ("````text\n```bash\nmake\n```\n````\n", []),
        (RUN_TOGETHER, [(3, "only the language may follow"), (4, "a line of its own")]),
        ("Text ```make``` more.\n", [(1, "a line of its own")]),
        ("Run: ```bash\nmake\n```\n", [(1, "a line of its own"), (3, "no language"), (3, "not closed")]),
        ("```bash make\n```\n", [(1, "only the language may follow"), (2, "no language"), (2, "not closed")]),
        ("```\nmake\n```\n", [(1, "no language")]),
        ("```bash\nmake\n", [(1, "not closed")]),
        ("~~~bash\nmake\n", [(1, "made of backticks")]),
        ("  ```bash\n  make\n  ```\n", [(1, "begins where the line begins")]),
        ("- An item:\n\n    ```bash\n    make\n    ```\n", [(3, "begins where the line begins")]),
        ("- An item:\n\n  ```bash\nmake\n  ```\n", [(3, "begins before its fence")]),
        ("- An item:\n\n  ```bash\n  make\n```\n", [(3, "not in the same column")]),
    ],
)
def test_fault_of_a_fence_is_found(page: str, faults: list[tuple[int, str]]) -> None:
    _, found = read_blocks("page.md", page)
    assert [fault.line for fault in found] == [line for line, _ in faults]
    assert all(words in fault.text for fault, (_, words) in zip(found, faults, strict=True))


def test_block_is_found_after_a_broken_one_and_without_its_indentation() -> None:
    page = f"{RUN_TOGETHER}\n  ```sh\n  if true; then\n    make\n  fi\n  ```\n"
    blocks, _ = read_blocks("page.md", page)
    assert blocks == [Block("page.md", 8, "sh", "if true; then\n  make\nfi\n")]
    assert str(Fault("page.md", 3, "broken")) == "page.md:3: broken"


def test_every_block_is_run_or_listed() -> None:
    assert sorted(KNOWN) == []


@pytest.mark.parametrize(
    ("language", "code"),
    [("ruby", "puts 1\n"), ("", "x\n"), ("text", "a table\n"), ("json", "{}\n"), ("yaml", "a: 1\n"), ("diff", "+\n")],
)
def test_new_block_that_no_test_checks_is_a_fault(language: str, code: str) -> None:
    new = Block(API, 1, language, code)
    (fault,) = set(faults_of_tables([*BLOCKS, new])) - KNOWN
    assert fault.startswith(f"{new}: no test checks this block")


@pytest.mark.parametrize("language", ["bash", "sh", "cron", "sql", "python"])
def test_new_block_of_a_language_that_runs_is_run(language: str) -> None:
    blocks = [*BLOCKS, Block(API, 1, language, "true\n")]
    assert set(faults_of_tables(blocks)) <= KNOWN
    assert blocks[-1] in blocks_to_run(blocks, language)


@pytest.mark.parametrize("named", [*NOT_RUN, *SCHEMAS, *REFUSED])
def test_entry_without_exactly_one_block_is_a_fault(named: Any) -> None:
    gone = [block for block in BLOCKS if block not in named.among(BLOCKS)]
    assert f"{named.page} has 0 blocks with {named.text!r}: an entry must fit exactly one" in faults_of_tables(gone)
    twice = [*gone, *2 * [Block(named.page, 1, "bash", named.text)]]
    assert f"{named.page} has 2 blocks with {named.text!r}: an entry must fit exactly one" in faults_of_tables(twice)


def test_entry_of_a_missing_language_is_a_fault() -> None:
    gone = [block for block in BLOCKS if (block.page, block.language) != (HISTORY, "sql")]
    assert set(faults_of_tables(gone)) - KNOWN == {f"{HISTORY} has no block of sql: remove it from ELSEWHERE"}


def test_placeholder_and_foreign_address_are_refused() -> None:
    for code in ("curl -d password=…\n", "curl https://register.example\n"):
        with pytest.raises(AssertionError, match=r"^page\.md:1 "):
            script_of(Block("page.md", 1, "bash", code))
    for placeholder in PLACEHOLDERS:
        assert any(placeholder in block.code for block in blocks_to_run(BLOCKS, *SHELLS)), placeholder


def test_tests_that_run_blocks_elsewhere_name_the_page(root: Path) -> None:
    for page, (languages, file) in ELSEWHERE.items():
        assert page in (root / file).read_text("utf-8")
        if file == "tests/test_add_a_domain.py":
            steps = [(step.language, step.code) for step in steps_of((root / page).read_text("utf-8"))]
            assert steps == [(block.language, block.code) for block in BLOCKS if block.page == page]
            assert {language for language, _ in steps} == set(languages)


@pytest.mark.parametrize("block", [block for named in NOT_RUN for block in named.among(BLOCKS)], ids=str)
def test_block_that_is_not_run_has_valid_syntax(block: Block) -> None:
    assert block.language in {*SHELLS, "python", "text"}
    if block.language in SHELLS:
        code = command_of_cron(block.code) if block.language == "cron" else block.code
        done = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    elif block.language == "python":
        compile(block.code, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.fixture(scope="module")
async def empty_register(server_url: URL, template: URL) -> AsyncIterator[URL]:
    async with new_database(server_url, template.database) as url:
        yield url


@pytest.fixture(scope="module")
def shell(
    live_server: str,
    served_database: URL,
    empty_register: URL,
    root: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Shell:
    project = tmp_path_factory.mktemp("project")
    project_folder(root, project, sys.prefix)
    form = ("-d", f"username={EDITOR}", "-d", f"password={DEMO_PASSWORD}")
    pair = subprocess.run(["curl", "-sf", f"{live_server}/api/v1/auth/token", *form], capture_output=True, check=True)
    environment = (
        COMMAND_ENV
        | LONG_TIMEOUT_ENV
        | {
            "ENV": "test",
            "PROJECT": str(project),
            "PYTHONPATH": str(project),
            # The pages describe how to get a token.
            "TOKEN": json.loads(pair.stdout)["access_token"],
            "DEMO_REGISTER": text_of(served_database),
            "EMPTY_REGISTER": text_of(empty_register),
        }
    )
    return Shell(BLOCKS, project, tmp_path_factory.mktemp("homes"), live_server, environment)


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in blocks_to_run(BLOCKS, *SHELLS)))
def test_commands_of_every_page_succeed(shell: Shell, page: str) -> None:
    refused = {block for named in REFUSED for block in named.among(BLOCKS)}
    for block, printed in shell.printed(page).items():
        is_problem = re.search(r'"type": ?"/problems/', printed) is not None
        assert is_problem == (block in refused), f"{block}\n{printed}"
    left_out = [block for block in blocks_to_run(BLOCKS, *SHELLS) if block.page == page and missing_program(block)]
    if left_out:
        pytest.skip(f"{', '.join(f'{block} needs {missing_program(block)}' for block in left_out)}.")


def test_first_calls_of_the_readme_have_the_described_results(shell: Shell) -> None:
    calls = (
        *("/processes/code:P-3.2.1 ", "/departments/code:FIN/processes?", '"code": "P-99"', "-X PATCH", "-X DELETE"),
        "/processes/code:P-99/changes",
    )
    process, page, created, changed, refusal, history = (json.loads(shell.text(README, call)) for call in calls)
    assert (process["code"], process["name"]) == ("P-3.2.1", process["name"])
    assert all(process[links] for links in ("departments", "locations", "resources", "roles"))
    assert page["total"] >= len(page["items"]) > 0
    assert all("FIN" in [link["code"] for link in item["departments"]] for item in page["items"])
    assert (created["code"], created["version"], created["departments"][0]["relation"]) == ("P-99", 1, "owner")
    assert (changed["status"], changed["criticality"], changed["version"]) == ("active", "critical", 2)
    assert (refusal["status"], refusal["code"]) == (409, "still_referenced")
    assert [change["action"] for change in history["items"]] == ["updated", "created"]


def test_calls_for_many_objects_of_the_readme_have_the_described_results(shell: Shell) -> None:
    calls = ("/search?", "Accept: text/csv", "/departments/bulk?", "/departments/import?")
    found, table, batch, plan = (shell.text(README, call) for call in calls)
    ranks = [(item["type"], item["rank"]) for item in json.loads(found)["items"]]
    assert ("processes", 5) in ranks
    header, *rows = table.split("\r\n")
    assert header == "code,name,owner"
    assert len(rows) > 2
    assert json.loads(batch)["counts"] == {"created": 1, "updated": 1, "unchanged": 0, "deleted": 0, "failed": 0}
    assert json.loads(plan)["counts"] == {"create": 2, "change": 0, "unchanged": 0, "fault": 0}
    assert json.loads(plan)["plan_id"]


async def test_lists_of_a_register_fill_an_empty_one_in_two_passes(
    shell: Shell, served_database: URL, empty_register: URL
) -> None:
    shell.printed(OPERATIONS)
    heads = """
        SELECT departments.code, users.email FROM departments LEFT JOIN users ON users.id = head_id
         WHERE departments.code IS NOT NULL ORDER BY departments.code
        """
    async with connected(served_database) as demo, connected(empty_register) as filled:
        rows = [tuple(row) for row in await demo.fetch(heads)]
        assert any(email for _, email in rows)
        assert [tuple(row) for row in await filled.fetch(heads)] == rows


@each_block("json")
def test_json_is_valid_by_its_schema(block: Block, root: Path) -> None:
    name = entry_of(SCHEMAS, block, BLOCKS)
    assert name, f"{block} has no entry in SCHEMAS"
    components = json.loads((root / "docs/openapi.json").read_text("utf-8"))["components"]
    for schema in components["schemas"].values():
        # An example has documented members only.
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    schema = {"$ref": f"#/components/schemas/{name}", "components": components}
    jsonschema_rs.validate(schema, json.loads(block.code), validate_formats=True)


@each_block("sql")
async def test_sql_runs_on_a_register_with_objects(
    block: Block,
    live_server: str,  # noqa: ARG001 - it loads the demo data
    served_database: URL,
) -> None:
    async with connected(served_database) as connection:
        await connection.execute(block.code)
        assert not connection.is_in_transaction()


@each_block("python")
async def test_python_runs(
    block: Block,
    app: FastAPI,
    connection: AsyncConnection,  # noqa: ARG001 - rolls back the statements of the block
) -> None:
    code = compile(block.code, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {"Department": Department, "func": func, "select": select}
    # The block is part of a service.
    names |= {"code": "FIN", "ids": [1], "statement": text("SELECT CAST(:ids AS bigint[])")}
    async with app.state.database.transaction() as session:
        result = eval(code, names | {"self": SimpleNamespace(session=session)})  # noqa: S307 - a page of the project
        if inspect.iscoroutine(result):
            await result


def promtool_accepts(folder: Path, kind: str, *options: str, text: str) -> None:
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed.")
    (folder / "file.yml").write_text(text, "utf-8")
    command = ["promtool", "check", kind, *options, "file.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@each_block("yaml")
def test_yaml_is_a_scrape_configuration(block: Block, tmp_path: Path) -> None:
    promtool_accepts(tmp_path, "config", "--syntax-only", text=f"scrape_configs:\n{block.code}")


@each_block("promql")
def test_queries_are_valid(block: Block, tmp_path: Path) -> None:
    queries = [query.strip() for query in re.split(r"^#.*$", block.code, flags=re.MULTILINE) if query.strip()]
    assert len(queries) > 1
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    # JSON is YAML.
    promtool_accepts(tmp_path, "rules", text=json.dumps({"groups": [{"name": "page", "rules": rules}]}))


def test_changelog_follows_its_format(root: Path) -> None:
    assert list(faults_of_changelog((root / "CHANGELOG.md").read_text("utf-8"), VERSION)) == []


RELEASED = (
    "# Changelog\n\n## 0.2.0 - 2026-12-01\n\n### Added\n\n- One.\n\n## 0.1.0 - 2026-11-23\n\n### Fixed\n\n- One.\n"
)
UNRELEASED = RELEASED.replace("## 0.2.0", "## Unreleased\n\n### Added\n\n- Two.\n\n## 0.2.0")


@pytest.mark.parametrize(
    ("changelog", "version", "faults"),
    [
        (RELEASED, "0.2.0", []),
        (UNRELEASED, "0.2.0", []),
        (UNRELEASED, "0.3.0", []),
        (RELEASED, "0.3.0", ["The newest version is 0.2.0, but that of the service is 0.3.0."]),
        (UNRELEASED, "0.1.0", ["The newest version is 0.2.0, but that of the service is 0.1.0."]),
        (RELEASED.replace("# Changelog", "# Changes", 1), "0.2.0", ["The title is not '# Changelog'."]),
        (RELEASED.replace("0.2.0 -", "0.2 -"), "0.1.0", ["'0.2 - 2026-12-01' is neither Unreleased nor a version."]),
        (RELEASED.replace("-12-01", "-13-01"), "0.2.0", ["'2026-13-01' is no date."]),
        (RELEASED.replace("-12-01", "-11-01"), "0.2.0", ["The versions or their dates do not descend."]),
        (RELEASED.replace("0.1.0", "0.10.0"), "0.2.0", ["The versions or their dates do not descend."]),
        (RELEASED.replace("Fixed", "Repaired"), "0.2.0", ["0.1.0 has the sections Repaired."]),
        (
            UNRELEASED.replace("Two.\n", "Two.\n\n### Added\n\n- Three.\n"),
            "0.2.0",
            ["Unreleased has the sections Added, Added."],
        ),
        (
            UNRELEASED.replace("Two.\n", "Two.\n\n### Security\n\n- Four.\n\n### Fixed\n\n- Three.\n"),
            "0.2.0",
            ["Unreleased has the sections Added, Security, Fixed."],
        ),
        (RELEASED.replace("### Fixed\n\n- One.\n", ""), "0.2.0", ["0.1.0 has the sections ."]),
        (RELEASED.replace("- One.\n", "", 1), "0.2.0", ["Added of 0.2.0 is no list of changes."]),
        (
            RELEASED.replace("- One.", "One."),
            "0.2.0",
            [f"{name} is no list of changes." for name in ("Added of 0.2.0", "Fixed of 0.1.0")],
        ),
        (
            RELEASED.replace("0.2.0 - 2026-12-01", "Unreleased").replace("0.1.0 - 2026-11-23", "Unreleased"),
            "0.1.0",
            ["'Unreleased' is not the first heading.", "No version is released."],
        ),
    ],
)
def test_fault_of_a_changelog_is_found(changelog: str, version: str, faults: list[str]) -> None:
    assert list(faults_of_changelog(changelog, version)) == faults
