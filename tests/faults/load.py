"""A writing load that records what was acknowledged, and afterwards compares the register with it."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from typing import Any
from uuid import uuid4

import httpx

from app.utils.exceptions import (
    OutcomeUnknown,
    RegisterError,
    RequestInFlight,
    ServiceUnavailable,
    TooManyRequests,
    error_classes,
)
from tests.faults.conftest import Size
from tests.faults.postgres import WRITER_TOKENS, Postgres
from tests.faults.service import Service
from tests.waiting import wait_until

# The fields of an object that are known, or None if the object does not exist.
State = Mapping[str, Any] | None

WRITERS = 4
# Seconds between a failed request and the next one of the same writer.
_PAUSE = 0.02
_HISTORY = "SELECT object_code, count(*) AS rows, bool_or(action = 'deleted') AS deleted FROM changes GROUP BY 1"
# Errors before the request was sent, after which nothing can have changed.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout)


def _codes(*bases: type[RegisterError]) -> set[str]:
    return {error.code for base in bases for error in error_classes(base)}


_DOCUMENTED = _codes(ServiceUnavailable, TooManyRequests)


class Load:
    """Writers that create, replace, change and delete objects, each its own ones.

    `outcomes` counts the acknowledged writes as "acknowledged", requests without a response as "disconnected", and the
    other responses by error code. `violations` has each response that the documentation does not allow.
    """

    def __init__(self, service: Service, postgres: Postgres, writers: int) -> None:
        self._service = service
        self._postgres = postgres
        self._name = uuid4().hex[:8]
        tokens = islice(cycle(WRITER_TOKENS), writers)
        self._writers = [_Writer(service, f"{self._name}-{number}", token) for number, token in enumerate(tokens)]

    @property
    def outcomes(self) -> Counter[str]:
        return sum((writer.outcomes for writer in self._writers), Counter())

    @property
    def violations(self) -> list[str]:
        return [violation for writer in self._writers for violation in writer.violations]

    @property
    def refused(self) -> int:
        """The number of requests that were not acknowledged."""
        return self.outcomes.total() - self.outcomes["acknowledged"]

    def start(self) -> None:
        for writer in self._writers:
            writer.start()

    def stop(self) -> None:
        for writer in self._writers:
            writer.stopping.set()
        for writer in self._writers:
            writer.join()

    def rounds(self, size: Size) -> Iterator[None]:
        """Yield for each fault of a test, before which and after the last of which writes are acknowledged."""
        for _ in range(size.rounds):
            self.wait_for_writes(size.writes)
            yield
        self.wait_for_writes(size.writes)

    def wait_for_writes(self, number: int) -> None:
        """Return once the load has so many further acknowledged writes."""
        self._wait_for(number, lambda: self.outcomes["acknowledged"])

    def wait_for_refusals(self, number: int) -> None:
        """Return once so many further requests were not acknowledged."""
        self._wait_for(number, lambda: self.refused)

    def _wait_for(self, number: int, counted: Callable[[], int]) -> None:
        goal = counted() + number

        def is_reached() -> bool:
            assert not self.violations, self.violations
            assert all(writer.is_alive() for writer in self._writers), "a writer failed"
            return counted() >= goal

        wait_until(is_reached)

    def verify(self) -> None:
        """Compare the register with the acknowledged writes, after the load has stopped and the service is ready.

        An acknowledged object equals its last response, an interrupted write happened as a whole or not at all, and
        the history has one row for each version.
        """
        assert not self.violations, self.violations
        assert not self._service.tracebacks(), self._service.tracebacks()
        self._compare()
        for writer in self._writers:
            writer.repeat_interrupted()
        assert not self.violations, self.violations
        self._compare()

    def _compare(self) -> None:
        found = _read_all(self._service, "processes", self._name) | _read_all(self._service, "departments", self._name)
        history = {row["object_code"]: (row["rows"], row["deleted"]) for row in self._postgres.fetch(_HISTORY)}
        for writer in self._writers:
            for code, states in writer.possible.items():
                state = found.get(code)
                assert any(_is_as(state, each) for each in states), f"{code} is {state} instead of one of {states}"
                rows, is_deleted = history.get(code, (0, False))
                if state is not None:
                    assert rows == state["version"], f"{code} has gaps in its history"
                elif code in writer.deleted:
                    assert is_deleted, f"the history misses the deletion of {code}"
            halves = [pair for pair in writer.pairs if (pair[0] in found) != (pair[1] in found)]
            assert not halves, f"requests were executed in part: {halves}"
        unexpected = found.keys() - {code for writer in self._writers for code in writer.possible}
        assert not unexpected, f"objects that no request created: {unexpected}"


@contextmanager
def writing_load(service: Service, postgres: Postgres, writers: int = WRITERS) -> Iterator[Load]:
    """Run a load during the block."""
    load = Load(service, postgres, writers)
    load.start()
    try:
        yield load
    finally:
        load.stop()


class _Writer(threading.Thread):
    """One client, which sends one request at a time."""

    def __init__(self, service: Service, name: str, token: str) -> None:
        super().__init__(name=name, daemon=True)
        self.stopping = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.violations: list[str] = []
        # The states in which an object may be, by its code.
        self.possible: dict[str, list[State]] = {}
        self.deleted: set[str] = set()
        # The codes of objects that one request creates.
        self.pairs: list[tuple[str, str]] = []
        self._interrupted: list[_Write] = []
        self._service = service
        self._token = token

    def run(self) -> None:
        with self._service.client(self._token) as http:
            for number in count():
                if self.stopping.is_set():
                    return
                self._write_a_process(http, f"{self.name}-{number}", delete=number % 2 == 0)
                self._write_a_pair(http, f"{self.name}-{number}")

    def repeat_interrupted(self) -> None:
        """Repeat each interrupted request that has an `Idempotency-Key`: all its objects then exist once."""
        with self._service.client(self._token) as http:
            for write in self._interrupted:
                response = _repeat(http, write)
                if not response.is_success:
                    self.violations.append(f"repeated POST {write.path}: {response.status_code} {response.text}")
                self.possible |= {code: [state] for code, state in write.after.items()}

    def _write_a_process(self, http: httpx.Client, code: str, *, delete: bool) -> None:
        path = f"/processes/code:{code}"
        body = {"code": code, "name": "Created"}
        writes = [_Write.post("/processes", {code: body}, body)]
        for number in range(2):
            body = body | {"name": f"Replaced {number}"}
            writes.append(_Write("PUT", path, {code: body}, body))
        change = {"description": "Changed"}
        writes.append(_Write("PATCH", path, {code: body | change}, change))
        if delete:
            writes.append(_Write("DELETE", path, {code: None}))
        if all(self._send(http, write) for write in writes) and delete:
            self.deleted.add(code)

    def _write_a_pair(self, http: httpx.Client, code: str) -> None:
        first, second = f"{code}-A", f"{code}-B"
        items = [{"code": each, "name": "Created in a pair"} for each in (first, second)]
        self.pairs.append((first, second))
        body = {"items": [{"op": "create", "data": item} for item in items]}
        self._send(http, _Write.post("/departments/bulk", {first: items[0], second: items[1]}, body))

    def _send(self, http: httpx.Client, write: "_Write") -> bool:
        """Send a write, note which states of its objects are possible then, and return whether it was acknowledged."""
        for code in write.after:
            self.possible.setdefault(code, [None])
        try:
            response = http.request(write.method, write.path, json=write.body, headers=write.key)
        except httpx.TransportError as error:
            self._on_failure(write, "disconnected", is_unsent=isinstance(error, _UNSENT))
            return False
        if response.is_success:
            self._on_success(write, response)
            return True
        outcome = _documented_code(response)
        if outcome is None:
            self.violations.append(f"{write.method} {write.path}: {response.status_code} {response.text}")
        else:
            self._on_failure(write, outcome, is_unsent=outcome != OutcomeUnknown.code)
        return False

    def _on_success(self, write: "_Write", response: httpx.Response) -> None:
        self.outcomes["acknowledged"] += 1
        is_document = bool(response.content) and len(write.after) == 1
        for code, state in write.after.items():
            self.possible[code] = [response.json() if is_document else state]

    def _on_failure(self, write: "_Write", outcome: str, *, is_unsent: bool) -> None:
        self.outcomes[outcome] += 1
        if not is_unsent:
            for code, state in write.after.items():
                self.possible[code] = [*self.possible[code], state]
            if write.key:
                self._interrupted.append(write)
        time.sleep(_PAUSE)


@dataclass(frozen=True)
class _Write:
    """A request, and the states of its objects afterwards, by code."""

    method: str
    path: str
    after: Mapping[str, State]
    body: Mapping[str, Any] | None = None
    key: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def post(cls, path: str, after: Mapping[str, State], body: Mapping[str, Any]) -> "_Write":
        return cls("POST", path, after, body, {"Idempotency-Key": uuid4().hex})


def _repeat(http: httpx.Client, write: _Write) -> httpx.Response:
    """Return the response to a repeated request, once its first attempt is no longer in progress."""
    responses: list[httpx.Response] = []

    def is_executed() -> bool:
        responses.append(http.post(write.path, json=write.body, headers=write.key))
        return (
            responses[-1].status_code != RequestInFlight.status or responses[-1].json()["code"] != RequestInFlight.code
        )

    wait_until(is_executed, _PAUSE)
    return responses[-1]


def _documented_code(response: httpx.Response) -> str | None:
    """Return the code of a response that asks to repeat the request later, or None for another response."""
    is_problem = response.headers.get("content-type") == "application/problem+json"
    if response.status_code not in {429, 503} or not is_problem or "retry-after" not in response.headers:
        return None
    code: str = response.json()["code"]
    return code if code in _DOCUMENTED else None


def _is_as(found: State, expected: State) -> bool:
    if found is None or expected is None:
        return found is expected
    return all(found[name] == value for name, value in expected.items())


def _read_all(service: Service, collection: str, prefix: str) -> dict[str, Mapping[str, Any]]:
    """Return the objects whose codes begin with a text."""
    found: dict[str, Mapping[str, Any]] = {}
    path = f"/api/v1/{collection}?code__sw={prefix}&limit=200"
    with service.client() as http:
        while path:
            response = http.get(f"{service.address}{path}")
            assert response.status_code == 200, response.text
            found |= {document["code"]: document for document in response.json()["items"]}
            path = response.links.get("next", {}).get("url", "")
    return found
