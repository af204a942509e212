"""The names and links of the pages exist. `tests/test_documentation.py` runs their code blocks."""

import re
from collections import Counter
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


def test_demo_users_of_the_readme_exist(live_server: str, root: Path) -> None:
    rows = re.findall(r"^\| `(\S+)` \((\w+)\) \|", (root / "README.md").read_text("utf-8"), re.MULTILINE)
    assert rows == list(zip(DEMO_USERS, LEVELS, strict=True))
    for email, level in rows:
        form = {"username": email, "password": DEMO_PASSWORD}
        pair = httpx.post(f"{live_server}/api/v1/auth/token", data=form, timeout=HANG_TIMEOUT).json()
        headers = {"Authorization": f"Bearer {pair['access_token']}"}
        me = httpx.get(f"{live_server}/api/v1/users/me", headers=headers, timeout=HANG_TIMEOUT).json()
        assert me["access_level"] == level


def test_every_named_make_target_exists(root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in paths_of_pages(root):
        named = set(re.findall(r"(?:`|^(?:[A-Z_]+=\S+ )*)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, page.name


def test_every_link_between_pages_has_a_target(root: Path) -> None:
    for page in paths_of_pages(root):
        for path, _, anchor in links_of(page.read_text("utf-8")):
            target = page.parent / path if path else page
            assert target.exists(), (page.name, path)
            assert not anchor or anchor in anchors_of(target.read_text("utf-8")), (page.name, path, anchor)


def test_anchors_are_those_of_github() -> None:
    page = (
        "# The `make check` target\n\n## Replace SECRET_KEY\n## API1: Broken *object* level, e.g. `If-Match`\n"
        "### See [other](x.md#y)  \n```sh\n# a comment\n```\n## Über uns & 2.0\n#hashtag\n## Limits\n## Limits ##\n"
    )
    assert anchors_of(page) == {
        "the-make-check-target",
        "replace-secret_key",
        "api1-broken-object-level-eg-if-match",
        "see-other",
        "über-uns--20",
        "limits",
        "limits-1",
    }


def test_links_in_code_are_none() -> None:
    page = "[a](b.md#c) `[x](y.md)` [d](#e) [f](https://example.org/#g) ![h](i.png)\n\n```text\n[x](y.md)\n```\n"
    assert links_of(page) == [("b.md", "#", "c"), ("", "#", "e"), ("i.png", "", "")]


_FENCED = re.compile(r"^ *(`{3,})[^`\n]*\n(?:.*\n)*? *\1`* *$", re.MULTILINE)


def links_of(text: str) -> list[tuple[str, str, str]]:
    """Return path, `#` and anchor of the links of a page to pages and files of the project."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCED.sub("", text))
    targets = re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose)
    return [target.partition("#") for target in targets]


def anchors_of(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page; equal anchors are numbered."""
    seen: Counter[str] = Counter()
    anchors = set()
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)? *$", _FENCED.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        anchors.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return anchors
