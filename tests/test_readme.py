"""The names and links of the pages exist. `tests/test_documentation.py` runs their code blocks."""

import re
from pathlib import Path

import httpx

from app.core.permissions import LEVELS
from app.domains.register.demo_data import DEMO_PASSWORD, DEMO_USERS
from tests.documentation import paths_of_pages
from tests.waiting import HANG_TIMEOUT


def test_architecture_names_every_package_and_module_of_shared(root: Path) -> None:
    page = (root / "docs" / "00-architecture.md").read_text("utf-8")
    shared = root / "app" / "domains" / "shared"
    packages = {path.parent.name for path in shared.glob("*/__init__.py")}
    rows = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == packages
    drawn = page.partition("```")[2].partition("```")[0]
    modules = {path.stem for path in shared.glob("*.py")} - {"__init__"}
    assert packages | modules <= set(re.findall(r"\w+", drawn))


def test_demo_users_are_those_there_are(live_server: str, root: Path) -> None:
    rows = re.findall(r"^\| `(\S+)` \((\w+)\) \|", (root / "README.md").read_text("utf-8"), re.MULTILINE)
    assert rows == list(zip(DEMO_USERS, LEVELS, strict=True))
    for email, level in rows:
        form = {"username": email, "password": DEMO_PASSWORD}
        pair = httpx.post(f"{live_server}/api/v1/auth/token", data=form, timeout=HANG_TIMEOUT).json()
        headers = {"Authorization": f"Bearer {pair['access_token']}"}
        me = httpx.get(f"{live_server}/api/v1/users/me", headers=headers, timeout=HANG_TIMEOUT).json()
        assert me["access_level"] == level


def test_every_make_target_that_is_named_exists(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in paths_of_pages(root):
        named = set(re.findall(r"(?:`|^(?:[A-Z_]+=\S+ )*)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, page.name


def test_every_link_between_pages_leads_somewhere(root: Path) -> None:
    for page in paths_of_pages(root):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
