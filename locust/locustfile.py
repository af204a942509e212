"""A realistic load on the register: about 80 % reads and 20 % writes over all six collections.

Users read all registered objects, but change only those they created themselves, so no two users ever write to the
same object: a conflict (409, 412) is a fault of the service and counts as a failure. A user deletes its objects when it
stops. Each user has a separate session of one account: LOCUST_EMAIL and LOCUST_PASSWORD, or the demo data's
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

from auth_session import AuthSession
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment
from locust.exception import StopTest

from locust import FastHttpUser, between, events, task

API = "/api/v1"
# Ordered so that objects refer only to earlier collections; they are deleted in reverse order.
COLLECTIONS = ("departments", "locations", "resources", "roles", "users", "processes")
TREES = ("processes", "departments", "locations")
LINKS = {"departments": "department", "locations": "location", "resources": "resource", "roles": "role"}
# Marks a run's own objects, which may be deleted at any time, so other users must not read or refer to them.
OWN_CODE_PREFIX = "LOAD-"
MAX_OBJECTS = 200
# Own objects of a user: processes, and the other objects together.
MAX_OWN = 3
# Objects created in each empty collection for the time of a run.
FIRST_OBJECTS = 5
# Long enough for a user to finish its task and to delete its objects.
STOP_SECONDS = 30.0
CLEAN_UP = "clean-up"
NOT_FOUND = 404

CRITICALITIES = ("low", "medium", "high", "critical", None)
STATUSES = ("draft", "in_review", "active", "retired")
SORTS = ("id", "name", "-name", "code", "-updated_at", "created_at", "-updated_at,name")

# One word, several words, prefixes, codes, a misspelt word, a non-ASCII word, and no match.
SEARCHES = ("invoice", "supplier order", "pay", "P-3.2", "procurment", "Zürich", "zzzz")
GROUPS = (
    *(("processes", group) for group in ("status", "criticality", "owner", "department", "role")),
    ("resources", "kind"),
    ("users", "department"),
)

Body = dict[str, Any]


@dataclass(slots=True)
class ObjectRef:
    """A registered object, as the users of a run address it."""

    collection: str
    id: int
    code: str | None
    etag: str | None = None
    parent_id: int | None = None

    @property
    def reference(self) -> str:
        """The id or, half of the time if there is one, the code."""
        return f"code:{self.code}" if self.code and _one_in(2) else str(self.id)


class Client:
    """Signs in, and sends requests named by route template, so that Locust's rows match those of the metrics."""

    def __init__(self, session: FastHttpSession) -> None:
        self._session = session
        self._auth = AuthSession(session)
        # Collections and codes of objects that may exist, although their creation was cut off or failed.
        self.uncertain: list[tuple[str, str]] = []

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
        """Send a request to `url`, or else to the template filled with the references."""
        if url is None:
            values = iter(references)
            url = API + re.sub(r"{\w+}", lambda _: quote(str(next(values)), safe=":"), template)
            url += f"?{urlencode(query)}" if query else ""
        headers = self._auth.header() | (headers or {})
        return self._session.request(method, url, name=API + template, json=body, headers=headers)

    def create(self, collection: str, body: Body) -> ObjectRef | None:
        """Create an object with a unique code, and return the object if that succeeded."""
        code = f"{OWN_CODE_PREFIX}{uuid4().hex}"
        self.uncertain.append((collection, code))
        response = self.send("POST", f"/{collection}", body={"code": code, **body})
        if not _is_success(response):
            return None
        self.uncertain.remove((collection, code))
        return ObjectRef(collection, response.json()["id"], code, response.headers["ETag"], body.get("parent_id"))

    def clean_up(self, created: list[ObjectRef]) -> None:
        """Delete the created objects, and those that may have been created; a 404 of the latter is not a failure.

        These requests have a separate row, because real users do not delete so many objects together.
        """
        while created:
            item = created.pop()
            self._delete(f"{API}/{item.collection}/{item.id}")
        while self.uncertain:
            collection, code = self.uncertain.pop()
            with self._delete(f"{API}/{collection}/code:{code}", catch_response=True) as response:
                if response.status_code == NOT_FOUND:
                    response.success()

    def sign_out(self) -> None:
        """End the session; later requests get 401."""
        self._auth.sign_out()

    def _delete(self, url: str, **arguments: Any) -> Any:
        headers = self._auth.header()
        return self._session.request("DELETE", url, name=CLEAN_UP, headers=headers, **arguments)


@dataclass
class Register:
    """The objects that every user of a run reads and links to, and no user changes."""

    objects: dict[str, list[ObjectRef]] = field(default_factory=dict)
    _created: list[ObjectRef] = field(default_factory=list)
    _lock: Any = field(default_factory=Lock)

    def discover(self, client: Client) -> None:
        """Load the registered objects, and create a few in empty collections. The first user does so for all users."""
        with self._lock:
            if "processes" in self.objects:
                return
            for collection in COLLECTIONS:
                self.objects[collection] = self._load(client, collection) or self._create(client, collection)
                if not self.objects[collection]:
                    raise StopTest(f"There are no {collection}, and none could be created.")

    def clean_up(self, client: Client) -> None:
        """Delete the objects that `discover` created, so that the next run discovers again."""
        client.clean_up(self._created)
        self.objects.clear()

    def pick(self, collection: str) -> ObjectRef:
        return choice(self.objects[collection])

    def sample_ids(self, collection: str, max_count: int = 5) -> list[int]:
        """Return distinct ids, in random order."""
        objects = self.objects[collection]
        return [item.id for item in sample(objects, randrange(min(max_count, len(objects)) + 1))]

    def _load(self, client: Client, collection: str) -> list[ObjectRef]:
        refs: list[ObjectRef] = []
        url = f"{API}/{collection}?limit={MAX_OBJECTS}"
        while url and len(refs) < MAX_OBJECTS:
            response = client.send("GET", f"/{collection}", url=url)
            if not _is_success(response):
                raise StopTest(f"The register does not respond: {response.error or response.status_code}")
            page = response.json()
            objects = (item for item in page["items"] if not (item["code"] or "").startswith(OWN_CODE_PREFIX))
            refs += [ObjectRef(collection, item["id"], item["code"]) for item in objects]
            url = page["next"]
        return refs

    def _create(self, client: Client, collection: str) -> list[ObjectRef]:
        created: list[ObjectRef] = []
        for number in range(FIRST_OBJECTS):
            body: Body = {"name": f"First of the {collection}, number {number}"}
            if created and collection in TREES:
                body["parent_id"] = created[0].id
            if collection == "processes":
                body |= {f"{link}_ids": self.sample_ids(linked) for linked, link in LINKS.items()}
            if item := client.create(collection, body):
                created.append(item)
                self._created.append(item)
        return created


register = Register()
shares: Counter[str] = Counter()
# Users that stop together clean up a few at a time, because the run does not measure their deletions.
cleaning = Semaphore(4)


class RegisterUser(FastHttpUser):
    """A user that mostly reads, and keeps a few own processes up to date.

    A task sends one request, except `edit_process`, which reads before it writes. With these weights there are 76 + 4
    reads to 16 + 4 writes.
    """

    wait_time = between(0.1, 2)
    connection_timeout = 5.0
    network_timeout = 15.0

    def on_start(self) -> None:
        self.api = Client(self.client)
        self.own: list[ObjectRef] = []
        self.is_working = False
        self.next_page: str | None = None
        self.next_walk_page: str | None = None
        self.last_read: tuple[ObjectRef, str] | None = None
        register.discover(self.api)
        self.is_working = True

    def on_stop(self) -> None:
        if not hasattr(self, "api"):
            return  # the sign-in failed
        # The remaining requests are not part of the mix.
        self.is_working = False
        with cleaning:
            self.api.clean_up(self.own)
            self.api.sign_out()

    def context(self) -> Body:
        return {"in_mix": getattr(self, "is_working", False)}

    # Reads

    @task(12)
    def get_process(self) -> None:
        self._get(register.pick("processes"))

    @task(10)
    def get_other_object(self) -> None:
        self._get(register.pick(choice(COLLECTIONS[:-1])))

    @task(2)
    def revalidate_process(self) -> None:
        if self.last_read is None:
            process = register.pick("processes")
            response = self._get(process)
            self.last_read = (process, response.headers["ETag"]) if _is_success(response) else None
        else:
            process, etag = self.last_read
            self._get(process, {"If-None-Match": etag})
            self.last_read = None

    @task(10)
    def list_processes(self) -> None:
        # Every other time the next page, otherwise a new list.
        url = self.next_page if _one_in(2) else None
        response = self.api.send("GET", "/processes", url=url, query=_page())
        self.next_page = response.json()["next"] if _is_success(response) else None

    @task(6)
    def list_other_objects(self) -> None:
        self.api.send("GET", f"/{choice(COLLECTIONS[:-1])}", query=_page())

    @task(8)
    def list_related_processes(self) -> None:
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
        """Read the history of an object."""
        item = register.pick(choice(COLLECTIONS))
        template = f"/{item.collection}/{{reference}}/changes"
        self.api.send("GET", template, item.reference, query={"limit": choice((20, 50))})

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
        """Read all processes as programs do: one page per task, from cursor to cursor."""
        response = self.api.send("GET", "/processes", url=self.next_walk_page, query={"limit": 50, "sort": "name"})
        self.next_walk_page = response.json()["next"] if _is_success(response) else None

    # Writes

    @task(4)
    def edit_process(self) -> None:
        """Read, change and write with `If-Match`, which prevents lost updates."""
        process = self._pick_own("processes")
        if process is None:
            self._create("processes")
            return
        response = self._get(process)
        if _is_success(response):
            process.etag = response.headers["ETag"]
            self._patch(process, _process_patch())

    @task(3)
    def create_process(self) -> None:
        if len(self._own_objects("processes")) < MAX_OWN:
            self._create("processes")
        else:
            self._delete(self._own_objects("processes")[0])

    @task(3)
    def replace_process(self) -> None:
        if process := self._pick_own("processes"):
            self._replace(process)
        else:
            self._create("processes")

    @task(3)
    def change_link(self) -> None:
        process = self._pick_own("processes")
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
        if process := self._pick_own("processes"):
            self._delete(process)
        else:
            self._create("processes")

    @task(5)
    def change_other_object(self) -> None:
        item = self._pick_own(*COLLECTIONS[:-1])
        can_create = len(self._own_objects(*COLLECTIONS[:-1])) < MAX_OWN
        if item is None or (can_create and _one_in(3)):
            self._create(choice(COLLECTIONS[:-1]))
        elif item.collection == "roles" and _one_in(2):
            template = "/roles/{reference}/holders/{user}"
            self.api.send("PUT", template, item.id, register.pick("users").reference)
            item.etag = None  # holders are part of the role's version
        else:
            choice((self._patch_description, self._replace, self._delete))(item)

    # Parts of tasks

    def _own_objects(self, *collections: str) -> list[ObjectRef]:
        return [item for item in self.own if item.collection in collections]

    def _pick_own(self, *collections: str) -> ObjectRef | None:
        own = self._own_objects(*collections)
        return choice(own) if own else None

    def _get(self, item: ObjectRef, headers: dict[str, str] | None = None) -> Any:
        template = f"/{item.collection}/{{reference}}"
        return self.api.send("GET", template, item.reference, headers=headers)

    def _create(self, collection: str) -> None:
        if item := self.api.create(collection, _body(collection)):
            self.own.append(item)

    def _replace(self, item: ObjectRef) -> None:
        # Few changes move an object in its tree.
        body = _body(item.collection) | {"code": item.code}
        if item.collection in TREES:
            body["parent_id"] = item.parent_id
        template = f"/{item.collection}/{{reference}}"
        response = self.api.send("PUT", template, item.reference, body=body)
        item.etag = response.headers["ETag"] if _is_success(response) else None

    def _patch_description(self, item: ObjectRef) -> None:
        self._patch(item, {"description": _text()})

    def _patch(self, item: ObjectRef, body: Body) -> None:
        headers = {"Content-Type": "application/merge-patch+json"}
        if item.etag is not None:
            headers["If-Match"] = item.etag
        template = f"/{item.collection}/{{reference}}"
        response = self.api.send("PATCH", template, item.reference, body=body, headers=headers)
        item.etag = response.headers["ETag"] if _is_success(response) else None
        if _is_success(response):
            item.parent_id = body.get("parent_id", item.parent_id)

    def _delete(self, item: ObjectRef) -> None:
        response = self.api.send("DELETE", f"/{item.collection}/{{reference}}", item.reference)
        if _is_success(response):
            self.own.remove(item)


def _is_success(response: Any) -> bool:
    # Without a response the status is 0, and the client's `ok` is true.
    return bool(response.status_code) and bool(response.ok)


def _one_in(number: int) -> bool:
    return randrange(number) == 0


def _text() -> str:
    return f"Written by the load test: {uuid4()}. " * randrange(1, 6)


def _page() -> Body:
    return {"limit": choice((20, 20, 50, 100)), "sort": choice(SORTS), "offset": choice((0, 0, 0, 20))}


def _body(collection: str) -> Body:
    """Return the body of a new object of a collection, without a code."""
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
    return {f"{link}_ids": register.sample_ids(collection) for collection, link in LINKS.items()}


def _long_links() -> Body:
    # Only one link may have the first value.
    relations = ("owner", "participant", "supplier", "customer", "participant")
    responsibilities = ("accountable", "responsible", "consulted", "informed", "responsible")
    return {
        "departments": [
            {"department_id": key, "relation": relation}
            for key, relation in zip(register.sample_ids("departments"), relations, strict=False)
        ],
        "locations": [{"location_id": key} for key in register.sample_ids("locations")],
        "resources": [
            {"resource_id": key, "usage": choice(("uses", "reads", "writes", "produces"))}
            for key in register.sample_ids("resources")
        ],
        "roles": [
            {"role_id": key, "responsibility": responsibility}
            for key, responsibility in zip(register.sample_ids("roles"), responsibilities, strict=False)
        ],
    }


def _process_patch() -> Body:
    if _one_in(10):
        return {"parent_id": register.pick("processes").id}
    if _one_in(4):
        link = choice(("resource", "location"))
        return {f"{link}_ids": register.sample_ids(f"{link}s")}
    return choice(({"description": _text()}, {"status": choice(STATUSES)}, {"criticality": choice(CRITICALITIES)}))


def _link_body(collection: str) -> Body | None:
    """Return the link's own field, without the values that only one link of a process may have."""
    match collection:
        case "departments":
            return {"relation": choice(("participant", "supplier", "customer"))}
        case "resources":
            return {"usage": choice(("uses", "reads", "writes", "produces"))}
        case "roles":
            return {"responsibility": choice(("responsible", "consulted", "informed"))}
    return None


def set_stop_timeout(environment: Environment, **_: Any) -> None:
    """Set a stop timeout, without which Locust would cut off requests whose objects might then be left."""
    environment.stop_timeout = environment.stop_timeout or STOP_SECONDS


def count_shares(request_type: str, context: Body, **_: Any) -> None:
    if context.get("in_mix"):
        shares["reads" if request_type == "GET" else "writes"] += 1


def reset_shares(**_: Any) -> None:
    shares.clear()


def clean_up(environment: Environment, **_: Any) -> None:
    """Delete the objects that no single user owns, and log the shares of the mix."""
    if register.objects:  # empty if no user could sign in
        client = Client(FastHttpSession(environment.host, environment.events.request, user=None))
        register.clean_up(client)
        client.sign_out()
    if total := shares.total():
        logging.getLogger(__name__).info(
            "The tasks sent %d requests: %.1f %% reads, %.1f %% writes.",
            total,
            100 * shares["reads"] / total,
            100 * shares["writes"] / total,
        )


for event, listener in (
    (events.init, set_stop_timeout),
    (events.request, count_shares),
    (events.test_start, reset_shares),
    (events.test_stop, clean_up),
):
    event.add_listener(listener)  # type: ignore[no-untyped-call]
