"""The feed of changes, which delivers each committed change exactly once.

Unlike the list of changes, the feed is a protocol between requests: a reader holds a position, and every position that
it was given stays valid until the changes after it are deleted or the register is restored.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Self, get_args
from urllib.parse import quote, urlencode

from fastapi import Request, Response

from app.core.caller import Caller, CallerDep
from app.core.database import RegisterSession, SessionDep
from app.core.engine import Row
from app.core.http.long_polls import LongPolls
from app.core.http.streaming import Rows, StreamedResponse, Streams
from app.core.prepared import FastStatement
from app.core.tokens import Tokens
from app.domains.change.feed_schemas import FeedQuery
from app.domains.change.service import READ_SCOPES, excluded_for
from app.domains.shared.history.feed_state import Epochs
from app.domains.shared.models import ChangeAction
from app.domains.shared.query.formats import MEDIA_TYPES, Format, negotiate_format
from app.domains.shared.reading.change_feed import BEFORE_LIVE, feed_page, feed_state, feed_stream
from app.domains.shared.references import MAX_ID
from app.domains.shared.responses import JSON, Responses, compact, problems
from app.utils.exceptions import (
    BadRequest,
    DatabaseBusy,
    Fault,
    FeedExpired,
    FeedReset,
    Gone,
    InvalidContent,
    NotAcceptable,
)

NOW = "now"
# The context of sealed positions: the feed, with any filters.
_CONTEXT = "feed of changes"
# A request begins one epoch at most; the next attempt finds it.
_MAX_EPOCHS = 2
_FORMATS: tuple[Format, ...] = ("json", "ndjson")
_NDJSON_HEADERS = {"Content-Type": MEDIA_TYPES["ndjson"], "Vary": "Accept"}

FEED: Responses = {
    200: {
        "content": {
            MEDIA_TYPES["ndjson"]: {
                "schema": {
                    "type": "string",
                    "description": "One change per line, then a line with `position` and `has_more`.",
                }
            }
        }
    },
    **problems(BadRequest, NotAcceptable, FeedExpired, InvalidContent),
}


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the feed.

    `key` is that of the last change before it (`reading/change_feed.py`), and `thinnings` the number of deletions by
    housekeeping that the reader has seen. Without an epoch it is a position in any epoch.
    """

    key: tuple[int, int]
    epoch: str | None = None
    thinnings: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether settled changes may follow."""
        return self.key[0] == 0

    def check(self, state: Row) -> None:
        """Raise `FeedReset` or `FeedExpired` if the feed cannot continue here."""
        if self.epoch is None:
            return
        if self.epoch != str(state.epoch):
            raise FeedReset
        if self.thinnings < state.thinnings and self.key < tuple(state.thinned_before):
            raise FeedExpired


_OLDEST = Position((0, 0))
# Beyond all changes; the horizon takes its place.
_NOW = Position((MAX_ID, 0))


@dataclass(frozen=True, slots=True)
class Page:
    """One page: the documents of its changes, and where to continue."""

    items: list[bytes]
    end: Position
    has_more: bool


class Feed:
    """Reads the feed for one request."""

    def __init__(self, session: RegisterSession, caller: Caller, request: Request) -> None:
        self._session = session
        self._caller = caller
        self._request = request
        self._epochs: Epochs = request.app.state.epochs
        self._tokens: Tokens = request.app.state.tokens
        self._streams: Streams = request.app.state.streams
        self._long_polls: LongPolls = request.app.state.long_polls

    @classmethod
    async def provide(cls, session: SessionDep, caller: CallerDep, request: Request) -> Self:
        return cls(session, caller, request)

    async def read(self, query: FeedQuery) -> Response:
        """Return the response: a page, or the stream of all changes that can be delivered.

        With a limit, the lines are those of a page, so that the work for a response is limited, too.

        Raises `BadRequest` for an invalid position, `Gone` for one from which the feed cannot continue, and
        `Forbidden` if the query asks for a type that the caller may not see.
        """
        format_ = negotiate_format(self._request, _FORMATS)
        start = self._parse(query.after)
        if format_ == "json":
            return self._page_response(await self._page(start, query), query)
        if "limit" in query.model_fields_set:
            return self._lines_response(await self._page(start, query))
        if query.wait:
            one = query.model_copy(update={"limit": 1})
            # The stream has the change that ends the wait.
            start = (await self._read_page(_NOW, one)).end if start is _NOW else start
            await self._page(start, one)
        return await self._stream_response(start, query)

    def _parse(self, after: str | None) -> Position:
        if after is None:
            return _OLDEST
        if after == NOW:
            return _NOW
        payload = self._tokens.unseal(after, _CONTEXT)
        if payload is None:
            fault = Fault.of("/after", "bad_cursor:position", source="query")
            raise BadRequest(fault.detail, errors=[fault])
        epoch, thinnings, *key = json.loads(payload)
        return Position((key[0], key[1]), epoch, thinnings)

    def _seal(self, position: Position) -> str:
        return self._tokens.seal(compact([position.epoch, position.thinnings, *position.key]), _CONTEXT)

    async def _page(self, start: Position, query: FeedQuery) -> Page:
        """Return one page; if it would be empty, wait for a change as long as the query says."""
        first = latest = await self._read_page(start, query)
        if first.items or first.has_more or not query.wait:
            return first

        async def read() -> bool:
            nonlocal latest
            latest = await self._read_page(latest.end, query)
            return bool(latest.items) or latest.has_more

        scopes = self._caller.scopes
        await self._long_polls.repeat(read, self._request, query.wait)
        self._caller = self._request.state.caller
        return latest if self._caller.scopes == scopes else await self._read_page(first.end, query)

    async def _read_page(self, start: Position, query: FeedQuery) -> Page:
        values = self._values(start, query) | {"limit": query.limit}
        row = await self._fetch(feed_page(excluded_for(self._caller), is_settled=start.is_settled), values)
        start.check(row)
        if start.is_settled and not row.rows and row.end is None:
            return await self._read_page(_in_epoch(row, BEFORE_LIVE), query)
        items = zip(row.bodies or (), row.positions or (), strict=True)
        end, has_more = _end_of_page(row, start, query.limit)
        return Page([self._item(body, _in_epoch(row, key)) for body, key in items], end, has_more)

    async def _fetch(self, statement: FastStatement, values: dict[str, Any]) -> Row:
        """Return the row of a page in the current epoch. Raises `DatabaseBusy` if epochs follow each other."""
        for _ in range(_MAX_EPOCHS):
            row = await self._session.fetch(statement, **values)
            assert row is not None  # the statement has no condition
            if row.is_current:
                return row
            await self._epochs.begin()
        raise DatabaseBusy

    def _values(self, start: Position, query: FeedQuery) -> dict[str, Any]:
        if query.type is not None:
            self._caller.require(*(READ_SCOPES[type_] for type_ in query.type))
        types = query.type or [name for name, scope in READ_SCOPES.items() if scope in self._caller.scopes]
        actions = query.action or get_args(ChangeAction)
        return {"transaction_id": start.key[0], "id": start.key[1], "types": types, "actions": actions}

    def _item(self, body: bytes, position: Position) -> bytes:
        return body[:-1] + b',"position":"' + self._seal(position).encode() + b'"}'

    def _page_response(self, page: Page, query: FeedQuery) -> Response:
        position = self._seal(page.end)
        parameters = query.model_dump(exclude_defaults=True) | {"after": position}
        url = f"{quote(self._request.scope['path'])}?{urlencode(parameters, doseq=True)}"
        tail = compact({"position": position, "next": url, "has_more": page.has_more}).encode()
        body = b'{"items":[' + b",".join(page.items) + b"]," + tail[1:]
        return Response(body, headers={"Vary": "Accept"}, media_type=JSON)

    def _lines_response(self, page: Page) -> Response:
        body = b"".join([item + b"\n" for item in page.items]) + self._last_line(page.end, has_more=page.has_more)
        return Response(body, headers=_NDJSON_HEADERS)

    async def _stream_response(self, start: Position, query: FeedQuery) -> Response:
        batches, state = await self._open_stream(start, query)
        try:
            start.check(state)
        except Gone:
            await batches.aclose()
            raise
        lines = self._lines(batches, state)
        return StreamedResponse(lines, self._streams.stall_seconds, headers=_NDJSON_HEADERS)

    async def _open_stream(self, start: Position, query: FeedQuery) -> tuple[AsyncGenerator[Rows], Row]:
        """Return the batches of the changes after a position, and the state of the feed in the same snapshot."""
        excluded = excluded_for(self._caller)
        statements = [feed_stream(excluded, is_settled=False)]
        if start.is_settled:
            statements.insert(0, feed_stream(excluded, is_settled=True))
        for _ in range(_MAX_EPOCHS):
            batches = self._streams.read(feed_state(), self._values(start, query), *statements)
            (state,) = await anext(batches)
            if state.is_current:
                return batches, state
            await batches.aclose()
            await self._epochs.begin()
        raise DatabaseBusy

    async def _lines(self, batches: AsyncGenerator[Rows], state: Row) -> AsyncGenerator[bytes]:
        """Yield the changes as lines, and last a line with the position after them."""
        is_head = self._request.scope["state"].get("head", False)
        async with aclosing(batches):
            while not is_head and (rows := await anext(batches, None)) is not None:
                yield b"".join([self._item(row.body, _in_epoch(state, row.position)) + b"\n" for row in rows])
        yield self._last_line(_at_horizon(state), has_more=False)

    def _last_line(self, end: Position, *, has_more: bool) -> bytes:
        return compact({"position": self._seal(end), "has_more": has_more}).encode() + b"\n"


def _in_epoch(state: Row, key: tuple[int, int]) -> Position:
    return Position((key[0], key[1]), str(state.epoch), state.thinnings)


def _at_horizon(state: Row) -> Position:
    """Return the position after all changes that can be delivered."""
    return _in_epoch(state, (state.horizon, 0))


def _end_of_page(row: Row, start: Position, limit: int) -> tuple[Position, bool]:
    """Return the position after a page, and whether more changes may be deliverable."""
    if row.rows > limit:
        return _in_epoch(row, row.positions[-1]), True
    if row.end is not None:
        return _in_epoch(row, row.end), True
    if start.is_settled:
        return _in_epoch(row, BEFORE_LIVE), True
    return _at_horizon(row), False
