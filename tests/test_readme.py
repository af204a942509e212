"""The commands of the README work as written, and the pages agree with the code."""

import json
import re
import subprocess
from pathlib import Path

import httpx

from app.core.permissions import LEVELS
from app.domains.register.demo_data import DEMO_PASSWORD, DEMO_USERS
from tests.waiting import HANG_TIMEOUT


def answers_to_calls_of(section: str, live_server: str, root: Path) -> list[str]:
    text = (root / "README.md").read_text("utf-8").replace("http://127.0.0.1:8000", live_server)
    blocks = re.compile(r"^```bash\n(.+?)\n```$", re.MULTILINE | re.DOTALL)
    (sign_in,) = (block for block in blocks.findall(text) if block.startswith("TOKEN="))
    of_section = blocks.findall(text.partition(f"\n## {section}\n")[2].partition("\n## ")[0])
    calls = [block for block in of_section if block.startswith("curl ")]
    # In one shell, as a person types them; a NUL, which no answer has, stands between the answers.
    script = "\n".join((sign_in, *(f"{call}; printf '\\0'" for call in calls)))
    done = subprocess.run(["bash", "-ec", script], capture_output=True, check=True, timeout=HANG_TIMEOUT)
    return done.stdout.decode().split("\0")[:-1]


def test_first_calls_work_as_written(live_server: str, root: Path) -> None:
    answers = answers_to_calls_of("First calls", live_server, root)
    assert len(answers) == 6
    process, page, created, changed, refusal, history = map(json.loads, answers)
    assert (process["code"], process["name"]) == ("P-3.2.1", process["name"])
    assert all(process[links] for links in ("departments", "locations", "resources", "roles"))
    assert page["total"] >= len(page["items"]) > 0
    assert all("FIN" in [link["code"] for link in item["departments"]] for item in page["items"])
    assert (created["code"], created["version"], created["departments"][0]["relation"]) == ("P-99", 1, "owner")
    assert (changed["status"], changed["criticality"], changed["version"]) == ("active", "critical", 2)
    assert (refusal["status"], refusal["code"]) == (409, "still_referenced")
    assert [change["action"] for change in history["items"]] == ["updated", "created"]


def test_calls_for_many_objects_work_as_written(live_server: str, root: Path) -> None:
    found, table, batch, plan = answers_to_calls_of("Search, export and import", live_server, root)
    ranks = [(item["type"], item["rank"]) for item in json.loads(found)["items"]]
    assert ("processes", 5) in ranks
    header, *rows = table.split("\r\n")
    assert header == "code,name,owner"
    assert len(rows) > 2
    assert json.loads(batch)["counts"] == {"created": 1, "updated": 1, "unchanged": 0, "deleted": 0, "failed": 0}
    assert json.loads(plan)["counts"] == {"create": 2, "change": 0, "unchanged": 0, "fault": 0}
    assert json.loads(plan)["plan_id"]


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
    for page in (root / "README.md", *(root / "docs").glob("**/*.md")):
        named = set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE))
        assert named <= targets, page.name


def test_every_link_between_pages_leads_somewhere(root: Path) -> None:
    pages = [root / "README.md", *(root / "docs").glob("**/*.md"), *root.glob("*/README.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
