"""Writes the next revision from the models: `make migration NAME="Cost centers"`.

It compares the models with a throwaway database at the head revision. The file is a draft: read and correct it. The
last line printed is its entry in `LANDED` (`tests/test_migrations.py`), once it is finished.
"""

import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from alembic import command
from app.core.migrations import alembic_config, head_revision
from tests.schema_check import migrated_database

_MARKERS = re.compile(r"^ *# #+ .*\n", re.MULTILINE)


def main() -> int:
    name = sys.argv[1] if len(sys.argv) == 2 else ""
    if not name:
        print('Give the revision a name: make migration NAME="Cost centers".', file=sys.stderr)  # noqa: T201
        return 2
    with migrated_database() as url:
        number = f"{int(head_revision()) + 1:04}"
        script = command.revision(alembic_config(url), name, autogenerate=True, rev_id=number)
    assert script is not None
    assert not isinstance(script, list)
    path = Path(script.path)
    path.write_text(_MARKERS.sub("", path.read_text("utf-8")), "utf-8")
    for step in (("check", "--fix", "--quiet"), ("format", "--quiet")):
        subprocess.run([sys.executable, "-m", "ruff", *step, str(path)], check=True)
    print(f'"{path.name}": "{sha256(path.read_bytes()).hexdigest()}",')  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
