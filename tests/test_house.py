"""Rules of the packages and their imports that import contracts cannot express."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domains.collections import COLLECTIONS, Entry

APP = Path(__file__).parents[1] / "app"
SHARED = "app.domains.shared."
# The file of `shared` that a file of a domain may import; others import its models only.
NAMESAKES = {
    "models": {"models"},
    "schemas": {"schemas", "texts"},
    "lists": {"lists"},
    "rules": {"rules", "trees"},
    "service": {"service", "trees"},
    "router": {"router"},
}

# The types of statements that a function returns.
STATEMENTS = {"CompoundSelect", "Executable", "FastStatement", "Select"}


def modules(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the path below `app/` and the syntax tree of each module in the folders."""
    for folder in folders:
        for path in sorted((APP / folder).rglob("*.py")):
            yield str(path.relative_to(APP)), ast.parse(path.read_text("utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """Return the modules that a module imports from, and the imported names, which may be modules, too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def importers(package: str) -> set[str]:
    """Return the modules that import a package or a part of it."""
    return {
        path
        for path, tree in modules("")
        if any(name == package or name.startswith(f"{package}.") for name in imported(tree))
    }


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        # Work in threads must end with its request.
        ("anyio.to_thread", ("core/threads.py",)),
        # The driver, and the dialect of PostgreSQL.
        ("asyncpg", ("core/", "domains/shared/reading/")),
        ("sqlalchemy.dialects.postgresql", ("core/", "domains/shared/", "domains/register/")),
    ],
)
def test_package_is_used_in_few_places(package: str, allowed: tuple[str, ...]) -> None:
    found = importers(package)
    assert found
    assert {path for path in found if not path.startswith(allowed)} == set()


@pytest.mark.parametrize("entry", COLLECTIONS, ids=lambda entry: entry.name)
def test_file_of_a_domain_imports_its_namesake_in_shared(entry: Entry) -> None:
    domain = entry.service.__module__.split(".")[2]
    namesakes = 0
    for path, tree in modules(f"domains/{domain}"):
        used = {name.removeprefix(SHARED).split(".")[0] for name in imported(tree) if name.startswith(SHARED)}
        allowed = NAMESAKES.get(Path(path).stem, {"models"})
        assert used <= allowed, f"{path} imports {used - allowed} of shared"
        namesakes += bool(used)
    assert namesakes >= 5  # the number of files that every domain has


def names_in(tree: ast.AST) -> Iterator[str]:
    """Yield the identifiers and the string literals of a module or a part of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def test_core_and_shared_name_no_collection() -> None:
    # Users are excluded, because every object refers to its author.
    names = {entry.name for entry in COLLECTIONS} - {"users"} | {entry.service.__name__ for entry in COLLECTIONS}
    found = {path for path, tree in modules("core", "domains/shared") if names & set(names_in(tree))}
    # The table of scopes, and an example in the documentation.
    assert found == {"core/permissions.py", "domains/shared/schemas.py"}


def test_every_package_has_a_docstring() -> None:
    packages = [path for path, tree in modules("") if path.endswith("__init__.py") and not ast.get_docstring(tree)]
    assert packages == ["__init__.py"]


def last_part(name: str) -> str:
    return name.rpartition(".")[2]


def test_statements_for_one_module_are_private() -> None:
    trees = dict(modules(""))
    names = {
        path: {*names_in(tree), *(name.rsplit(".")[-1] for name in imported(tree))} for path, tree in trees.items()
    }
    built = [
        (path, node.name)
        for path, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if node.returns is not None and STATEMENTS & set(names_in(node.returns))
    ]
    assert built
    used = {name for path, name in built for other in names if other != path and name in names[other]}
    assert [(path, name) for path, name in built if name not in used] == []
