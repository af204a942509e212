"""Checks that password hashing delays no other request, and that response times reveal no e-mail address.

    python locust/sign_in_rush.py rush      times of other requests, without and with 20 sign-ins a second
    python locust/sign_in_rush.py times     times of sign-ins with known and with unknown addresses

It needs a server with the demo data and without throttling; README.md shows how to start it.
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
# Between the requests of one reader, so that the server is measured and not this script.
PAUSE_SECONDS = 0.02
SIGN_INS_A_SECOND = 20
ROUNDS = 6
WARM_UP_SECONDS, ROUND_SECONDS = 2.0, 8.0
MAX_RATIO = 2.0

PAIRS = 250
MAX_DIFFERENCE = 0.05

# Users of app/domains/register/demo_data.py, one of each access level.
DEMO_USERS = ("helena.marsh@tarnbeck.example", "amara.okafor@tarnbeck.example", "owen.tarrant@tarnbeck.example")
PASSWORD = "try-the-register"  # noqa: S105 - documented
WRONG_PASSWORD = "try-another-word"  # noqa: S105
Times = dict[str, list[float]]


class Reader:
    """Sends GET requests over one connection.

    An HTTP library takes as long as the server itself, which would hide half of a slowdown.
    """

    def __init__(self, host: str, access_token: str) -> None:
        self._address = urlsplit(host)
        self._headers = f"Host: {self._address.netloc}\r\nAuthorization: Bearer {access_token}\r\n\r\n"

    async def connect(self) -> None:
        self._incoming, self._outgoing = await asyncio.open_connection(self._address.hostname, self._address.port or 80)

    async def get(self, path: str) -> None:
        """Send a request and read the whole response. Ends the script unless its status is 200."""
        self._outgoing.write(f"GET {path} HTTP/1.1\r\n{self._headers}".encode())
        head = (await self._incoming.readuntil(b"\r\n\r\n")).decode().lower()
        if not head.startswith("http/1.1 200 "):
            sys.exit(f"GET {path} returned {head.splitlines()[0]}")
        await self._incoming.readexactly(int(head.partition("\r\ncontent-length:")[2].split()[0]))

    def close(self) -> None:
        self._outgoing.close()


async def read(readers: Sequence[Reader], seconds: float) -> Times:
    """Return the response times of the routes in milliseconds, measured by the readers for some seconds."""
    times: Times = defaultdict(list)
    end = time.perf_counter() + seconds

    async def keep_reading(number: int, reader: Reader) -> None:
        await asyncio.sleep(PAUSE_SECONDS * number / len(readers))
        for route in itertools.cycle(ROUTES):
            if time.perf_counter() >= end:
                return
            begin = time.perf_counter()
            await reader.get(route)
            times[route].append((time.perf_counter() - begin) * 1000)
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(keep_reading(number, reader) for number, reader in enumerate(readers)))
    return times


@asynccontextmanager
async def rush(client: httpx.AsyncClient, statuses: list[int]) -> AsyncIterator[None]:
    """Sign in at a steady rate, half of the time with a wrong password, and collect the statuses."""
    running: set[asyncio.Task[None]] = set()

    async def sign_in(number: int) -> None:
        email = (*DEMO_USERS, f"{uuid4().hex}@tarnbeck.example")[number // 2 % 4]
        statuses.append(await attempt(client, email, PASSWORD if number % 2 else WRONG_PASSWORD))

    async def keep_signing_in() -> None:
        begin = time.perf_counter()
        for number in itertools.count():
            # At a fixed rate, independent of the responses, as people sign in.
            await asyncio.sleep(begin + number / SIGN_INS_A_SECOND - time.perf_counter())
            task = asyncio.create_task(sign_in(number))
            running.add(task)
            task.add_done_callback(running.discard)

    arrivals = asyncio.create_task(keep_signing_in())
    try:
        yield
    finally:
        arrivals.cancel()
        await asyncio.gather(*running)


async def attempt(client: httpx.AsyncClient, email: str, password: str) -> int:
    """Try to sign in, and return the status. Ends the script if the server throttles."""
    response = await client.post(TOKEN, data={"username": email, "password": password})
    if response.status_code not in {200, 401}:
        sys.exit(f"A sign-in returned {response.status_code}: {response.text}")
    return response.status_code


async def measure_rush(host: str, rounds: int) -> bool:
    """Alternate quiet and busy rounds, print the response times, and return whether they are within the limit."""
    quiet: Times = defaultdict(list)
    busy: Times = defaultdict(list)
    statuses: list[int] = []
    async with httpx.AsyncClient(base_url=host, timeout=30) as client:
        pair = await client.post(TOKEN, data={"username": DEMO_USERS[0], "password": PASSWORD})
        if pair.is_error:
            sys.exit(f"{DEMO_USERS[0]} cannot sign in: {pair.text}")
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
    accepted = statuses.count(200)
    rejected = len(statuses) - accepted
    print_line(f"{len(statuses)} sign-ins in {rounds * ROUND_SECONDS:.0f} s: {accepted} accepted, {rejected} rejected")
    return compare(quiet, busy) <= MAX_RATIO


def compare(quiet: Times, busy: Times) -> float:
    """Print the percentiles of each route, and return the largest ratio of the 99th."""
    worst = 0.0
    print_line(f"{'ms':32} {'n':>5} {'p50':>8} {'with':>7} {'ratio':>6} {'p99':>8} {'with':>7} {'ratio':>6}")
    for route in ROUTES:
        line = f"GET {route:28} {len(quiet[route]):5}"
        for percentile in (50, 99):
            before, during = (quantiles(times[route], n=100)[percentile - 1] for times in (quiet, busy))
            line += f" {before:8.2f} {during:7.2f} {during / before:6.2f}"
        print_line(line)
        worst = max(worst, during / before)
    return worst


def print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def add(times: Times, more: Times) -> None:
    for route, values in more.items():
        times[route] += values


async def measure_times(host: str, pairs: int) -> bool:
    """Try wrong passwords for known and unknown addresses alternately, and compare the medians."""
    times: dict[str, list[float]] = {"known": [], "unknown": []}
    async with httpx.AsyncClient(base_url=host) as client:
        for number in range(pairs + 10):
            known = DEMO_USERS[number % len(DEMO_USERS)]
            # The same length and domain as the known address; the two alternate as the first of a pair.
            unknown = f"{uuid4().hex[: known.index('@')]}{known[known.index('@') :]}"
            pair: Sequence[tuple[str, str]] = [("known", known), ("unknown", unknown)]
            for kind, email in pair if number % 2 else reversed(pair):
                begin = time.perf_counter()
                await attempt(client, email, WRONG_PASSWORD)
                times[kind].append((time.perf_counter() - begin) * 1000)
    # Skip the first pairs, which run with empty caches.
    known_median, unknown_median = (median(values[10:]) for values in times.values())
    difference = unknown_median / known_median - 1
    print_line(f"{2 * pairs} sign-ins, all rejected")
    print_line(f"median: known {known_median:.2f} ms, unknown {unknown_median:.2f} ms ({difference:+.1%})")
    return abs(difference) <= MAX_DIFFERENCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=("rush", "times"))
    parser.add_argument("--host", default="http://127.0.0.1:8000")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="quiet and busy rounds of `rush` (each)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of sign-ins of `times`")
    arguments = parser.parse_args()
    if arguments.measurement == "rush":
        has_passed = uvloop.run(measure_rush(arguments.host, arguments.rounds))
    else:
        has_passed = uvloop.run(measure_times(arguments.host, arguments.pairs))
    sys.exit(0 if has_passed else 1)


if __name__ == "__main__":
    main()
