"""Clients generated from the OpenAPI document compile under strict settings, and work."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.domains.register.demo_data import DEMO_PASSWORD, DEMO_USERS
from app.domains.search.schemas import TYPES
from tests.conftest import COMMAND_ENV

pytestmark = pytest.mark.clients

HERE = Path(__file__).parent
TOOLS = HERE / "node_modules"
_, EDITOR, _ = DEMO_USERS

# The operations that both programs call, with the statuses of the responses.
CALLS = sorted(
    [
        *("sign_in 200", "list_processes 200", "get_department 200", "get_department_tree 200", "get_department 404"),
        "count_processes 200",
        *("create_department 201", "create_department 422", "replace_department 200", "replace_department 412"),
        *("update_department 200", "create_process 201", "link_process_department 204", "delete_process 204"),
        *("delete_department 409", "delete_department 204", "follow_changes 200"),
        *("create_role 201", "replace_role_holders 204", "get_role 200", "delete_role 204"),
    ]
)


def run(*command: str | Path, cwd: Path) -> str:
    """Run a tool and return its output. Fails with the output if the tool fails."""
    environment = COMMAND_ENV | {"NO_COLOR": "1"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def document(root: Path) -> Path:
    return root / "docs" / "openapi.json"


def test_typescript_client_compiles_strictly_and_works(live_server: str, document: Path, tmp_path: Path) -> None:
    assert TOOLS.exists(), "run `make test` or `make test-clients`"
    for name in ("package.json", "tsconfig.json", "calls.ts"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(TOOLS)
    tools = TOOLS / ".bin"
    options = ("--output", "schema.ts", "--default-non-nullable", "false")
    printed = run(tools / "openapi-typescript", document, *options, cwd=tmp_path)
    assert re.fullmatch(r"✨ openapi-typescript \S+\n🚀 \S+ → schema\.ts \[\S+\]\n*", printed), printed
    run(tools / "tsc", cwd=tmp_path)
    calls = run("node", "calls.ts", live_server, EDITOR, DEMO_PASSWORD, cwd=tmp_path)
    assert sorted(calls.splitlines()) == CALLS


def test_python_client_compiles_strictly_and_works(live_server: str, document: Path, tmp_path: Path) -> None:
    printed = run(
        *("openapi-python-client", "generate", "--meta", "none"),
        *("--path", document, "--output-path", tmp_path / "process_register_client"),
        cwd=tmp_path,
    )
    # The generator does not support `text/csv`, so the client has no operations that import files.
    warnings = {line for line in printed.splitlines() if line.startswith(("WARNING", "ERROR"))}
    assert warnings == {
        f"WARNING parsing POST /api/v1/{name}/import within {name}. Endpoint will not be generated." for name in TYPES
    }
    shutil.copy(HERE / "calls.py", tmp_path)
    run("mypy", "--config-file", HERE / "mypy.ini", "process_register_client", "calls.py", cwd=tmp_path)
    calls = run("python", "calls.py", live_server, EDITOR, DEMO_PASSWORD, cwd=tmp_path)
    assert sorted(calls.splitlines()) == CALLS
