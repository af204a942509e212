"""Shows by measuring that hashing passwords holds nobody up, and that times betray no e-mail address.

    python locust/sign_in_rush.py rush      what other requests take, without and with 20 sign-ins a second
    python locust/sign_in_rush.py times     what sign-ins take, of known and of unknown addresses

It needs a server with the demo data that throttles nobody; README.md says how to start it.
"""

import argparse
import asyncio
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from statistics import median, quantiles
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import uvloop

TOKEN = "/api/v1/auth/token"  # noqa: S105 - a path
ROUTES = ("/api/v1/processes?limit=20", "/api/v1/processes/1")
READERS = 4
# Between the requests of one reader, so that what is measured is the server and not this script.
PAUSE_SECONDS = 0.02
SIGN_INS_A_SECOND = 20
ROUNDS = 6
WARM_UP_SECONDS, ROUND_SECONDS = 2.0, 8.0
MOST_RATIO = 2.0

PAIRS = 250
MOST_DIFFERENCE = 0.05

# Those of app/domains/register/demo_data.py, one of each access level.
DEMO_USERS = ("helena.marsh@tarnbeck.example", "amara.okafor@tarnbeck.example", "owen.tarrant@tarnbeck.example")
PASSWORD = "try-the-register"  # noqa: S105 - in the documentation for everybody to read
WRONG_PASSWORD = "try-another-word"  # noqa: S105
Times = dict[str, list[float]]


class Reader:
    """Sends GET requests over one connection.

    A client with all comforts takes as long as the server does, and that would hide half of what the server lost.
    """

    def __init__(self, host: str, access_token: str) -> None:
        self._address = urlsplit(host)
        self._headers = f"Host: {self._address.netloc}\r\nAuthorization: Bearer {access_token}\r\n\r\n"

    async def connect(self) -> None:
        self._incoming, self._outgoing = await asyncio.open_connection(self._address.hostname, self._address.port or 80)

    async def get(self, path: str) -> None:
        """Send a request and read all of the answer. Ends the script unless that is 200."""
        self._outgoing.write(f"GET {path} HTTP/1.1\r\n{self._headers}".encode())
        head = (await self._incoming.readuntil(b"\r\n\r\n")).decode().lower()
        if not head.startswith("http/1.1 200 "):
            sys.exit(f"GET {path} was answered with {head.splitlines()[0]}")
        await self._incoming.readexactly(int(head.partition("\r\ncontent-length:")[2].split()[0]))

    def close(self) -> None:
        self._outgoing.close()


async def read(readers: Sequence[Reader], seconds: float) -> Times:
    """Return what the routes took, in milliseconds, asked by a few readers for a while."""
    times: Times = defaultdict(list)
    end = time.perf_counter() + seconds

    async def go_on(number: int, reader: Reader) -> None:
        await asyncio.sleep(PAUSE_SECONDS * number / len(readers))
        for route in itertools.cycle(ROUTES):
            if time.perf_counter() >= end:
                return
            begin = time.perf_counter()
            await reader.get(route)
            times[route].append((time.perf_counter() - begin) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(go_on(number, reader) for number, reader in enumerate(readers)))
    return times


@asynccontextmanager
async def rush(client: httpx.AsyncClient, statuses: list[int]) -> AsyncIterator[None]:
    """Have people sign in at a steady rate, half of them with a wrong password, and collect what they were answered."""
    running: set[asyncio.Task[None]] = set()

    async def sign_in(number: int) -> None:
        email = (*DEMO_USERS, f"{uuid4().hex}@tarnbeck.example")[number // 2 % 4]
        statuses.append(await attempt(client, email, PASSWORD if number % 2 else WRONG_PASSWORD))

    async def keep_coming() -> None:
        begin = time.perf_counter()
        for number in itertools.count():
            # The next one does not wait for the last one: people don't.
            await asyncio.sleep(begin + number / SIGN_INS_A_SECOND - time.perf_counter())
            task = asyncio.create_task(sign_in(number))
            running.add(task)
            task.add_done_callback(running.discard)

    coming = asyncio.create_task(keep_coming())
    try:
        yield
    finally:
        coming.cancel()
        await asyncio.gather(*running)


async def attempt(client: httpx.AsyncClient, email: str, password: str) -> int:
    """Try to sign in, and return the status. Ends the script when the server throttles."""
    response = await client.post(TOKEN, data={"username": email, "password": password})
    if response.status_code not in {200, 401}:
        sys.exit(f"A sign-in was answered with {response.status_code}: {response.text}")
    return response.status_code


async def measure_rush(host: str, rounds: int) -> bool:
    """Alternate quiet rounds and busy ones, print what requests took, and return whether that stayed within limits."""
    quiet: Times = defaultdict(list)
    busy: Times = defaultdict(list)
    statuses: list[int] = []
    async with httpx.AsyncClient(base_url=host, timeout=30) as client:
        pair = await client.post(TOKEN, data={"username": DEMO_USERS[0], "password": PASSWORD})
        if pair.is_error:
            sys.exit(f"{DEMO_USERS[0]} can't sign in: {pair.text}")
        token = pair.json()["access_token"]
        readers = [Reader(host, token) for _ in range(READERS)]
        for reader in readers:
            await reader.connect()
        await read(readers, WARM_UP_SECONDS)
        for _ in range(rounds):
            add(quiet, await read(readers, ROUND_SECONDS))
            async with rush(client, statuses):
                add(busy, await read(readers, ROUND_SECONDS))
        for reader in readers:
            reader.close()
        await client.post("/api/v1/auth/logout", headers={"Authorization": f"Bearer {token}"})
    right = statuses.count(200)
    tell(f"{len(statuses)} sign-ins in {rounds * ROUND_SECONDS:.0f} s: {right} right, {len(statuses) - right} wrong")
    return compare(quiet, busy) <= MOST_RATIO


def compare(quiet: Times, busy: Times) -> float:
    """Print the percentiles of each route, and return the largest ratio of the 99th."""
    worst = 0.0
    tell(f"{'ms':32} {'n':>5} {'p50':>8} {'with':>7} {'ratio':>6} {'p99':>8} {'with':>7} {'ratio':>6}")
    for route in ROUTES:
        line = f"GET {route:28} {len(quiet[route]):5}"
        for percentile in (50, 99):
            usual, loaded = (quantiles(times[route], n=100)[percentile - 1] for times in (quiet, busy))
            line += f" {usual:8.2f} {loaded:7.2f} {loaded / usual:6.2f}"
        tell(line)
        worst = max(worst, loaded / usual)
    return worst


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def add(times: Times, more: Times) -> None:
    for route, values in more.items():
        times[route] += values


async def measure_times(host: str, pairs: int) -> bool:
    """Try wrong passwords of known and of unknown addresses in turn, one after the other, and compare the medians."""
    times: dict[str, list[float]] = {"known": [], "unknown": []}
    async with httpx.AsyncClient(base_url=host) as client:
        for number in range(pairs + 10):
            known = DEMO_USERS[number % len(DEMO_USERS)]
            # As long as the known one, and of a domain that is known; each of the two is the first of a pair in turn.
            unknown = f"{uuid4().hex[: known.index('@')]}{known[known.index('@') :]}"
            both: Sequence[tuple[str, str]] = [("known", known), ("unknown", unknown)]
            for kind, email in both if number % 2 else reversed(both):
                begin = time.perf_counter()
                await attempt(client, email, WRONG_PASSWORD)
                times[kind].append((time.perf_counter() - begin) * 1000)
    # The first few find caches empty.
    known_median, unknown_median = (median(values[10:]) for values in times.values())
    difference = unknown_median / known_median - 1
    tell(f"{2 * pairs} sign-ins in turn, all refused")
    tell(f"median of known addresses {known_median:.2f} ms, of unknown ones {unknown_median:.2f} ms: {difference:+.1%}")
    return abs(difference) <= MOST_DIFFERENCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rush", "times"))
    parser.add_argument("--host", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each kind, for `rush`")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="of sign-ins, for `times`")
    chosen = parser.parse_args()
    if chosen.what == "rush":
        is_good = uvloop.run(measure_rush(chosen.host, chosen.rounds))
    else:
        is_good = uvloop.run(measure_times(chosen.host, chosen.pairs))
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
