"""A consumer of the feed of changes, which keeps a copy of the register as the documentation shows."""

import json
from pathlib import Path
from typing import Any

import httpx

from tests.documentation import read_blocks
from tests.domains.change.feed import NDJSON

PAGE = "docs/06-api.md"
# Fields of objects that no change has.
SET_BY_THE_REGISTER = {"id", "created_at", "created_by", "updated_at", "updated_by", "version"}


class Consumer:
    """The copy of processes and roles, kept by the code of the page."""

    def __init__(self, root: Path, client: httpx.AsyncClient) -> None:
        self._client = client
        blocks, _ = read_blocks(PAGE, (root / PAGE).read_text("utf-8"))
        (block,) = (block for block in blocks if "def take_change" in block.code)
        self._code: dict[str, Any] = {"__name__": PAGE}
        exec(block.code, self._code)  # noqa: S102 - a page of the project
        self.copy: dict[tuple[str, int], Any] = {}

    async def take_change(self, change: dict[str, Any]) -> None:
        await self._code["take_change"](self.copy, change, self._read)

    async def take_exports(self) -> None:
        for path in ("/processes", "/roles?embed=holders"):
            response = await self._client.get(path, headers=NDJSON)
            assert response.status_code == 200, response.text
            for line in response.text.splitlines():
                self._code["take_object"](self.copy, path[1:].partition("?")[0], json.loads(line))

    async def _read(self, collection: str, object_id: int) -> dict[str, Any] | None:
        embed = "?embed=holders" if collection == "roles" else ""
        response = await self._client.get(f"/{collection}/{object_id}{embed}")
        assert response.status_code in {200, 404}, response.text
        document: dict[str, Any] = response.json()
        return document if response.status_code == 200 else None

    async def assert_equal(self) -> None:
        """Fail unless each copied object is deleted, or has the fields and links of the register."""
        assert self.copy
        for key, copied in self.copy.items():
            document = await self._read(*key)
            assert copied.is_deleted == (document is None), key
            if document is not None:
                values = {name: value for name, (_, value) in copied.values.items()}
                assert _comparable(values) == _comparable(self._code["values_of"](document)), key


def _comparable(values: dict[Any, Any]) -> dict[Any, Any]:
    """Return the fields that are set, and which objects are linked, without the names of other objects."""
    given = {name: value for name, value in values.items() if value is not None and name not in SET_BY_THE_REGISTER}
    fields = {name: value for name, value in given.items() if not isinstance(value, dict)}
    return fields | {name: "linked" for name in given if isinstance(name, tuple)}
