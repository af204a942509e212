"""Sets and removes one link under a row lock on its owner."""

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Executable

from app.core.database_errors import IntegrityViolation
from app.domains.shared.collection import LinkSet
from app.domains.shared.reading.keys import Key, not_found, select_id
from app.domains.shared.reading.preconditions import Preconditions
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.rules import Link, Values, Write
from app.domains.shared.writing.constraints import error_for
from app.domains.shared.writing.locked import LockedWriter
from app.domains.shared.writing.single_link import add_link, remove_link


class LinkWriter(LockedWriter):
    """Writes the links between an object of a collection and the `target`, or only the one with `detail`."""

    def __init__(self, service: CollectionReader, link_set: LinkSet, target: Key, detail: str | None) -> None:
        super().__init__(service)
        self._link_set = link_set
        self._target = target
        self._detail = detail

    async def add(self, owner: Key, conditions: Preconditions) -> None:
        """Set the link, replacing an existing one. Raises `Conflict` if the owner may have only one such link."""

        def with_link(links: set[Link], target_id: int) -> set[Link]:
            others = links if self._link_set.is_repeatable else {link for link in links if link[0] != target_id}
            return others | {(target_id, self._detail)}

        await self._change(owner, conditions, add_link(self._link_set, self._target.condition), with_link)

    async def remove(self, owner: Key, conditions: Preconditions) -> None:
        """Remove the link with `detail`, or all links to the target if `detail` is None."""

        def without_link(links: set[Link], target_id: int) -> set[Link]:
            return {link for link in links if link[0] != target_id or self._detail not in {None, link[1]}}

        statement = remove_link(self._link_set, self._target.condition, one_detail=self._detail is not None)
        await self._change(owner, conditions, statement, without_link)

    async def _change(
        self, owner: Key, conditions: Preconditions, statement: Executable, edit: Callable[[set[Link], int], set[Link]]
    ) -> None:
        async def build_write(current: Values) -> Write:
            write = Write(self.model, current["id"], current, current)
            if self.rules.concern(current):
                exists = select_id(self._link_set.target_model, self._target.condition)
                target_id = await self.session.scalar(exists, {"key": self._target.value})
                if target_id is not None:
                    await self.set_link_changes(write, [self._link_set], lambda _, links: edit(links, target_id))
            return write

        write = await self.lock(owner, conditions, build_write)
        await self.check_rules_of_links(write)
        await self._run(statement, write)
        await self.rules.apply(self.session, [write])

    async def _run(self, statement: Executable, write: Write) -> None:
        values = {"object_id": write.id, "key": self._target.value, "detail": self._detail, **self.caller.signature()}
        try:
            row = (await self.session.execute(statement, values)).first()
        except IntegrityViolation as violation:
            if violation.is_reference:  # the target was deleted after the statement's snapshot
                raise not_found(self._link_set.target_model) from violation
            error = error_for(violation)
            if error is None:
                raise
            # The only member in the body of this request is the link's own field.
            error.errors = tuple(replace(fault, pointer=f"/{self._link_set.detail}") for fault in error.errors)
            raise error from violation
        if row is None:
            raise not_found(self._link_set.target_model)
