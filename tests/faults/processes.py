"""The processes of the system, as /proc shows them (Linux)."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    group: int
    command: str


def processes() -> Iterator[Process]:
    """Yield the running processes."""
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):
            command = (directory / "cmdline").read_text(errors="replace")
            # The name, which is in brackets and may contain blanks, is followed by state, parent and group.
            _, parent, group, *_ = (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if command:  # a process that has ended, but not been waited for, has none
                yield Process(int(directory.name), int(parent), int(group), command)
