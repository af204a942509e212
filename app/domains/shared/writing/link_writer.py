"""One link at a time: set and removed under a lock of its owner."""

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Executable

from app.core.database_errors import IntegrityViolation
from app.domains.shared.collection import LinkSet
from app.domains.shared.reading.keys import Key, not_found, select_id
from app.domains.shared.reading.reader import CollectionReader
from app.domains.shared.rules import Link, Values, Write
from app.domains.shared.writing.constraints import error_for
from app.domains.shared.writing.locked import LockedWriter
from app.domains.shared.writing.single_link import add_link, remove_link
from app.utils.exceptions import RegisterError


class LinkWriter(LockedWriter):
    """Writes the link between an object of a collection and the `target`, or the one with that `detail`."""

    def __init__(self, service: CollectionReader, link_set: LinkSet, target: Key, detail: str | None) -> None:
        super().__init__(service)
        self._link_set = link_set
        self._target = target
        self._detail = detail

    async def add(self, owner: Key, if_match: str | None) -> None:
        """Set the link, whatever it was before. Raises `Conflict` when the owner may have one such link only."""

        def with_link(present: set[Link], target_id: int) -> set[Link]:
            kept = present if self._link_set.is_repeatable else {link for link in present if link[0] != target_id}
            return kept | {(target_id, self._detail)}

        await self._change(owner, if_match, add_link(self._link_set, self._target.condition), with_link)

    async def remove(self, owner: Key, if_match: str | None) -> None:
        """Remove the link, or all links to the target when there is no `detail`."""

        def without_link(present: set[Link], target_id: int) -> set[Link]:
            return {link for link in present if link[0] != target_id or self._detail not in {None, link[1]}}

        statement = remove_link(self._link_set, self._target.condition, one_detail=self._detail is not None)
        await self._change(owner, if_match, statement, without_link)

    async def _change(
        self, owner: Key, if_match: str | None, statement: Executable, wanted: Callable[[set[Link], int], set[Link]]
    ) -> None:
        async def describe(current: Values) -> Write:
            write = Write(self.model, current["id"], current, current)
            if self.rules.concern(current):
                exists = select_id(self._link_set.target_model, self._target.condition)
                target_id = await self.session.scalar(exists, {"key": self._target.value})
                if target_id is not None:
                    await self.describe_links(write, [self._link_set], lambda _, present: wanted(present, target_id))
            return write

        write = await self.lock(owner, if_match, describe)
        try:
            await self.check_rules(write)
        except RegisterError as error:
            error.errors = ()  # they point into the body of an object, which this request does not have
            raise
        await self._run(statement, write)
        await self.rules.apply(self.session, [write])

    async def _run(self, statement: Executable, write: Write) -> None:
        values = {"object_id": write.id, "key": self._target.value, "detail": self._detail, **self.caller.signature()}
        try:
            found = (await self.session.execute(statement, values)).first()
        except IntegrityViolation as violation:
            if violation.is_reference:  # the target was deleted since the statement found it
                raise not_found(self._link_set.target_model) from violation
            error = error_for(violation)
            if error is None:
                raise
            # The body of this request has only the link's own field.
            error.errors = tuple(replace(fault, pointer=f"/{self._link_set.detail}") for fault in error.errors)
            raise error from violation
        if found is None:
            raise not_found(self._link_set.target_model)
