"""What the README tells people to type does what it says."""

import json
import re
import subprocess
from pathlib import Path


def test_five_calls_work_as_written(live_server: str, root: Path) -> None:
    calls = re.findall(r"^curl .*$", (root / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(calls) == 5
    answers = []
    for call in calls:
        command = call.replace("http://127.0.0.1:8000", live_server)
        done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=30)
        answers.append(json.loads(done.stdout))
    process, page, created, changed, refusal = answers
    assert (process["code"], process["name"]) == ("P-3.2.1", process["name"])
    assert all(process[links] for links in ("departments", "locations", "resources", "roles"))
    assert page["total"] >= len(page["items"]) > 0
    assert all("FIN" in [link["code"] for link in item["departments"]] for item in page["items"])
    assert (created["code"], created["version"], created["departments"][0]["relation"]) == ("P-99", 1, "owner")
    assert (changed["status"], changed["criticality"], changed["version"]) == ("active", "critical", 2)
    assert (refusal["status"], refusal["code"]) == (409, "still_referenced")


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
