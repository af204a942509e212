"""A realistic load on the register: about 80 % reads and 20 % writes over all six collections.

Users read whatever is registered, but change only what they made themselves, so no two of them ever write to the same
object: a conflict (409, 412) would be a fault of the service, and counts as one. What a user made it deletes when it
stops. Each has a session of its own, all of one account: LOCUST_EMAIL and LOCUST_PASSWORD, or the demo data's
administrator.
"""

import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from random import choice, randrange, sample
from threading import Lock, Semaphore
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment
from locust.exception import StopTest
from signed_in import SignedIn

from locust import FastHttpUser, between, events, task

API = "/api/v1"
# In an order in which an object may refer to those before it; they are deleted the other way round.
COLLECTIONS = ("departments", "locations", "resources", "roles", "users", "processes")
TREES = ("processes", "departments", "locations")
LINKS = {"departments": "department", "locations": "location", "resources": "resource", "roles": "role"}
# Marks what a run makes: it may be gone at any time, so that nobody else may read it or refer to it.
OWN_CODE = "LOAD-"
MOST_KNOWN = 200
# Of processes, and of the other objects together.
MOST_OWN = 3
# What a register that is empty gets of each collection for the time of a run.
FIRST_OBJECTS = 5
# Long enough for a user to finish its task and to delete what it made.
STOP_SECONDS = 30.0
CLEAN_UP = "clean-up"
GONE = 404

CRITICALITIES = ("low", "medium", "high", "critical", None)
STATUSES = ("draft", "in_review", "active", "retired")
SORTS = ("id", "name", "-name", "code", "-updated_at", "created_at", "-updated_at,name")

# Words, several of them, beginnings, codes, what is misspelt, and what nobody has.
SEARCHES = ("invoice", "supplier order", "pay", "P-3.2", "procurment", "Zürich", "zzzz")
GROUPS = (
    *(("processes", group) for group in ("status", "criticality", "owner", "department", "role")),
    ("resources", "kind"),
    ("users", "department"),
)

Body = dict[str, Any]


@dataclass(slots=True)
class Known:
    """An object that the users of a run know."""

    collection: str
    id: int
    code: str | None
    etag: str | None = None
    parent_id: int | None = None

    @property
    def reference(self) -> str:
        """Its id or, as often if it has one, its code."""
        return f"code:{self.code}" if self.code and _one_in(2) else str(self.id)


class Client:
    """Signs in, sends requests and names them by route template, so that Locust's rows are those of the metrics."""

    def __init__(self, session: FastHttpSession) -> None:
        self._session = session
        self._signed_in = SignedIn(session)
        # Codes of objects that may exist although nobody said so: their creation was cut off or answered with an error.
        self.doubtful: list[tuple[str, str]] = []

    def send(
        self,
        method: str,
        template: str,
        *references: object,
        body: Body | None = None,
        query: Body | None = None,
        headers: dict[str, str] | None = None,
        url: str | None = None,
    ) -> Any:
        """Send a request to `url`, or else to the address that the template and its references make."""
        if url is None:
            values = iter(references)
            url = API + re.sub(r"{\w+}", lambda _: quote(str(next(values)), safe=":"), template)
            url += f"?{urlencode(query)}" if query else ""
        headers = self._signed_in.header() | (headers or {})
        return self._session.request(method, url, name=API + template, json=body, headers=headers)

    def create(self, collection: str, body: Body) -> Known | None:
        """Register an object under a code of ours, and return it if that went well."""
        code = f"{OWN_CODE}{uuid4().hex}"
        self.doubtful.append((collection, code))
        response = self.send("POST", f"/{collection}", body={"code": code, **body})
        if not _went_well(response):
            return None
        self.doubtful.remove((collection, code))
        return Known(collection, response.json()["id"], code, response.headers["ETag"], body.get("parent_id"))

    def clean_up(self, made: list[Known]) -> None:
        """Delete what was made, and what may have been; that the latter was not is no failure.

        These requests have a row of their own: they come all at once, which is not how people delete.
        """
        while made:
            known = made.pop()
            self._delete(f"{API}/{known.collection}/{known.id}")
        while self.doubtful:
            collection, code = self.doubtful.pop()
            with self._delete(f"{API}/{collection}/code:{code}", catch_response=True) as response:
                if response.status_code == GONE:
                    response.success()

    def sign_out(self) -> None:
        """End the session; what is sent afterwards is refused."""
        self._signed_in.sign_out()

    def _delete(self, url: str, **arguments: Any) -> Any:
        headers = self._signed_in.header()
        return self._session.request("DELETE", url, name=CLEAN_UP, headers=headers, **arguments)


@dataclass
class Register:
    """What every user of a run reads and links to: objects that no user changes."""

    known: dict[str, list[Known]] = field(default_factory=dict)
    _made: list[Known] = field(default_factory=list)
    _lock: Any = field(default_factory=Lock)

    def discover(self, client: Client) -> None:
        """Find out what there is, and make a few objects of what there is not. The first user does so for all."""
        with self._lock:
            if "processes" in self.known:
                return
            for collection in COLLECTIONS:
                self.known[collection] = self._existing(client, collection) or self._create(client, collection)
                if not self.known[collection]:
                    raise StopTest(f"There are no {collection}, and none could be made.")

    def forget(self, client: Client) -> None:
        """Delete what `discover` made, so that the next run begins anew."""
        client.clean_up(self._made)
        self.known.clear()

    def pick(self, collection: str) -> Known:
        return choice(self.known[collection])

    def some(self, collection: str, most: int = 5) -> list[int]:
        """Return different ids, in no order."""
        known = self.known[collection]
        return [one.id for one in sample(known, randrange(min(most, len(known)) + 1))]

    def _existing(self, client: Client, collection: str) -> list[Known]:
        found: list[Known] = []
        url = f"{API}/{collection}?limit={MOST_KNOWN}"
        while url and len(found) < MOST_KNOWN:
            response = client.send("GET", f"/{collection}", url=url)
            if not _went_well(response):
                raise StopTest(f"The register does not answer: {response.error or response.status_code}")
            page = response.json()
            objects = (item for item in page["items"] if not (item["code"] or "").startswith(OWN_CODE))
            found += [Known(collection, item["id"], item["code"]) for item in objects]
            url = page["next"]
        return found

    def _create(self, client: Client, collection: str) -> list[Known]:
        made: list[Known] = []
        for number in range(FIRST_OBJECTS):
            body: Body = {"name": f"First of the {collection}, number {number}"}
            if made and collection in TREES:
                body["parent_id"] = made[0].id
            if collection == "processes":
                body |= {f"{link}_ids": self.some(linked) for linked, link in LINKS.items()}
            if known := client.create(collection, body):
                made.append(known)
                self._made.append(known)
        return made


register = Register()
shares: Counter[str] = Counter()
# Users who stop together delete a few at a time: their rush is not what is to be measured.
cleaning = Semaphore(4)


class RegisterUser(FastHttpUser):
    """Somebody who looks things up most of the time and keeps a few processes of their own up to date.

    A task sends one request, except `edit_process`, which reads before it writes. So with these weights there are
    76 + 4 reads to 16 + 4 writes.
    """

    wait_time = between(0.1, 2)
    connection_timeout = 5.0
    network_timeout = 15.0

    def on_start(self) -> None:
        self.api = Client(self.client)
        self.own: list[Known] = []
        self.working = False
        self.next_page: str | None = None
        self.walk: str | None = None
        self.remembered: tuple[Known, str] | None = None
        register.discover(self.api)
        self.working = True

    def on_stop(self) -> None:
        if not hasattr(self, "api"):
            return  # signing in was refused
        # What is left to do is no part of the mix.
        self.working = False
        with cleaning:
            self.api.clean_up(self.own)
            self.api.sign_out()

    def context(self) -> Body:
        return {"in_the_mix": getattr(self, "working", False)}

    # Reads

    @task(12)
    def get_process(self) -> None:
        self._get(register.pick("processes"))

    @task(10)
    def get_other_object(self) -> None:
        self._get(register.pick(choice(COLLECTIONS[:-1])))

    @task(2)
    def revalidate_process(self) -> None:
        if self.remembered is None:
            process = register.pick("processes")
            response = self._get(process)
            self.remembered = (process, response.headers["ETag"]) if _went_well(response) else None
        else:
            process, etag = self.remembered
            self._get(process, {"If-None-Match": etag})
            self.remembered = None

    @task(10)
    def list_processes(self) -> None:
        # Every other time a person turns the page; otherwise a new list is begun.
        following = self.next_page if _one_in(2) else None
        response = self.api.send("GET", "/processes", url=following, query=_page())
        self.next_page = response.json()["next"] if _went_well(response) else None

    @task(6)
    def list_other_objects(self) -> None:
        self.api.send("GET", f"/{choice(COLLECTIONS[:-1])}", query=_page())

    @task(8)
    def list_processes_of_one(self) -> None:
        linked = register.pick(choice(tuple(LINKS)))
        template = f"/{linked.collection}/{{reference}}/processes"
        self.api.send("GET", template, linked.reference, query=_page())

    @task(3)
    def list_role_holders(self) -> None:
        self.api.send("GET", "/roles/{reference}/holders", register.pick("roles").reference)

    @task(4)
    def show_process_tree(self) -> None:
        reference = register.pick("processes").reference
        self.api.send("GET", "/processes/{reference}/tree", reference, query={"depth": choice((1, 2, 100))})

    @task(4)
    def show_process_ancestors(self) -> None:
        self.api.send("GET", "/processes/{reference}/ancestors", register.pick("processes").reference)

    @task(3)
    def show_other_tree(self) -> None:
        node = register.pick(choice(TREES[1:]))
        walk = choice(("tree", "ancestors"))
        self.api.send("GET", f"/{node.collection}/{{reference}}/{walk}", node.reference)

    @task(2)
    def list_changes(self) -> None:
        """Who changed it, when, and what."""
        known = register.pick(choice(COLLECTIONS))
        template = f"/{known.collection}/{{reference}}/changes"
        self.api.send("GET", template, known.reference, query={"limit": choice((20, 50))})

    @task(3)
    def search_processes(self) -> None:
        query = {"q": choice(SEARCHES), "status": choice(STATUSES), "limit": 20}
        self.api.send("GET", "/processes", query=query)

    @task(3)
    def search_everything(self) -> None:
        self.api.send("GET", "/search", query={"q": choice(SEARCHES)})

    @task(3)
    def count_objects(self) -> None:
        collection, group = choice(GROUPS)
        self.api.send("GET", f"/{collection}/stats", query={"group_by": group})

    @task(3)
    def walk_processes(self) -> None:
        """Read all processes in their order, a page each time, as programs do: from one cursor to the next."""
        response = self.api.send("GET", "/processes", url=self.walk, query={"limit": 50, "sort": "name"})
        self.walk = response.json()["next"] if _went_well(response) else None

    # Writes

    @task(4)
    def edit_process(self) -> None:
        """Read, change, write: the way that loses nobody's change."""
        process = self._own("processes")
        if process is None:
            self._create("processes")
            return
        response = self._get(process)
        if _went_well(response):
            process.etag = response.headers["ETag"]
            self._patch(process, _process_patch())

    @task(3)
    def create_process(self) -> None:
        if len(self._all_own("processes")) < MOST_OWN:
            self._create("processes")
        else:
            self._delete(self._all_own("processes")[0])

    @task(3)
    def replace_process(self) -> None:
        if process := self._own("processes"):
            self._replace(process)
        else:
            self._create("processes")

    @task(3)
    def change_link(self) -> None:
        process = self._own("processes")
        if process is None:
            self._create("processes")
            return
        collection, link = choice(tuple(LINKS.items()))
        template = f"/processes/{{reference}}/{collection}/{{{link}}}"
        ends = (process.reference, register.pick(collection).reference)
        if _one_in(3):
            self.api.send("DELETE", template, *ends)
        else:
            self.api.send("PUT", template, *ends, body=_link_body(collection))

    @task(2)
    def delete_process(self) -> None:
        if process := self._own("processes"):
            self._delete(process)
        else:
            self._create("processes")

    @task(5)
    def change_other_object(self) -> None:
        known = self._own(*COLLECTIONS[:-1])
        few = len(self._all_own(*COLLECTIONS[:-1])) < MOST_OWN
        if known is None or (few and _one_in(3)):
            self._create(choice(COLLECTIONS[:-1]))
        elif known.collection == "roles" and _one_in(2):
            template = "/roles/{reference}/holders/{user}"
            self.api.send("PUT", template, known.id, register.pick("users").reference)
            known.etag = None  # holders are part of the role's version
        else:
            choice((self._patch_description, self._replace, self._delete))(known)

    # What tasks are made of

    def _all_own(self, *collections: str) -> list[Known]:
        return [known for known in self.own if known.collection in collections]

    def _own(self, *collections: str) -> Known | None:
        own = self._all_own(*collections)
        return choice(own) if own else None

    def _get(self, known: Known, headers: dict[str, str] | None = None) -> Any:
        template = f"/{known.collection}/{{reference}}"
        return self.api.send("GET", template, known.reference, headers=headers)

    def _create(self, collection: str) -> None:
        if known := self.api.create(collection, _body(collection)):
            self.own.append(known)

    def _replace(self, known: Known) -> None:
        # Few changes move an object in its tree.
        body = _body(known.collection) | {"code": known.code}
        if known.collection in TREES:
            body["parent_id"] = known.parent_id
        template = f"/{known.collection}/{{reference}}"
        response = self.api.send("PUT", template, known.reference, body=body)
        known.etag = response.headers["ETag"] if _went_well(response) else None

    def _patch_description(self, known: Known) -> None:
        self._patch(known, {"description": _text()})

    def _patch(self, known: Known, body: Body) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        if known.etag is not None:
            headers["If-Match"] = known.etag
        template = f"/{known.collection}/{{reference}}"
        response = self.api.send("PATCH", template, known.reference, body=body, headers=headers)
        known.etag = response.headers["ETag"] if _went_well(response) else None
        if _went_well(response):
            known.parent_id = body.get("parent_id", known.parent_id)

    def _delete(self, known: Known) -> None:
        response = self.api.send("DELETE", f"/{known.collection}/{{reference}}", known.reference)
        if _went_well(response):
            self.own.remove(known)


def _went_well(response: Any) -> bool:
    # Without an answer the status is 0, and the client's own `ok` is true.
    return bool(response.status_code) and bool(response.ok)


def _one_in(number: int) -> bool:
    return randrange(number) == 0


def _text() -> str:
    return f"Written by the load test: {uuid4()}. " * randrange(1, 6)


def _page() -> Body:
    return {"limit": choice((20, 20, 50, 100)), "sort": choice(SORTS), "offset": choice((0, 0, 0, 20))}


def _body(collection: str) -> Body:
    """Return a new object of any collection, without its code."""
    body: Body = {"name": f"Load test {uuid4().hex[:8]}", "description": _text()}
    if collection in TREES:
        body["parent_id"] = register.pick(collection).id
    match collection:
        case "departments":
            body["head_id"] = register.pick("users").id
        case "locations":
            body |= {"kind": "site", "country": "CH", "timezone": "Europe/Zurich", "latitude": 47.4, "longitude": 8.5}
        case "resources":
            body |= {
                "kind": choice(("application", "data_store", "equipment", "document")),
                "owner_department_id": register.pick("departments").id,
                "location_id": register.pick("locations").id,
                "criticality": choice(CRITICALITIES),
                "url": "https://register.example/load",
            }
        case "roles":
            body["department_id"] = register.pick("departments").id
        case "users":
            body |= {"email": f"{uuid4().hex}@load.example", "department_id": register.pick("departments").id}
        case "processes":
            body |= {
                "kind": choice(("core", "management", "support")),
                "status": choice(STATUSES),
                "criticality": choice(CRITICALITIES),
                "owner_id": register.pick("users").id,
                **(_short_links() if _one_in(2) else _long_links()),
            }
    return body


def _short_links() -> Body:
    return {f"{link}_ids": register.some(collection) for collection, link in LINKS.items()}


def _long_links() -> Body:
    # The first is the one that there can be only one of.
    relations = ("owner", "participant", "supplier", "customer", "participant")
    responsibilities = ("accountable", "responsible", "consulted", "informed", "responsible")
    return {
        "departments": [
            {"department_id": key, "relation": relation}
            for key, relation in zip(register.some("departments"), relations, strict=False)
        ],
        "locations": [{"location_id": key} for key in register.some("locations")],
        "resources": [
            {"resource_id": key, "usage": choice(("uses", "reads", "writes", "produces"))}
            for key in register.some("resources")
        ],
        "roles": [
            {"role_id": key, "responsibility": responsibility}
            for key, responsibility in zip(register.some("roles"), responsibilities, strict=False)
        ],
    }


def _process_patch() -> Body:
    if _one_in(10):
        return {"parent_id": register.pick("processes").id}
    if _one_in(4):
        return choice(({"resource_ids": register.some("resources")}, {"location_ids": register.some("locations")}))
    return choice(({"description": _text()}, {"status": choice(STATUSES)}, {"criticality": choice(CRITICALITIES)}))


def _link_body(collection: str) -> Body | None:
    """Return the link's own field; never one that a process can have only once, which another link may have."""
    match collection:
        case "departments":
            return {"relation": choice(("participant", "supplier", "customer"))}
        case "resources":
            return {"usage": choice(("uses", "reads", "writes", "produces"))}
        case "roles":
            return {"responsibility": choice(("responsible", "consulted", "informed"))}
    return None


def let_users_finish(environment: Environment, **_: Any) -> None:
    """Without a timeout Locust cuts requests off when it stops, and then nobody knows what has been made."""
    environment.stop_timeout = environment.stop_timeout or STOP_SECONDS


def count_shares(request_type: str, context: Body, **_: Any) -> None:
    if context.get("in_the_mix"):
        shares["reads" if request_type == "GET" else "writes"] += 1


def begin(**_: Any) -> None:
    shares.clear()


def clean_up(environment: Environment, **_: Any) -> None:
    """Delete what no single user owns, and tell how the mix came out."""
    if register.known:  # nothing is known when nobody could sign in
        client = Client(FastHttpSession(environment.host, environment.events.request, user=None))
        register.forget(client)
        client.sign_out()
    if total := shares.total():
        logging.getLogger(__name__).info(
            "The tasks sent %d requests: %.1f %% reads, %.1f %% writes.",
            total,
            100 * shares["reads"] / total,
            100 * shares["writes"] / total,
        )


for event, listener in (
    (events.init, let_users_finish),
    (events.request, count_shares),
    (events.test_start, begin),
    (events.test_stop, clean_up),
):
    event.add_listener(listener)  # type: ignore[no-untyped-call]
