"""Link lists: one PUT replaces any list with any other."""

from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st

from app.domains.department.models import DepartmentRelation
from app.domains.role.models import RoleResponsibility
from app.domains.shared.collection import LinkSet
from tests.builders import make, make_process
from tests.catalogue import LINKS, details_of
from tests.domains.shared.properties import draw_examples

TARGETS = 4
numbers = st.integers(0, TARGETS - 1)


def values(literal: Any, but: str | None = None) -> st.SearchStrategy[str]:
    return st.sampled_from([value for value in literal.__args__ if value != but])


# A process has at most one owner department and one accountable role, so these are added to the unrestricted links.
departments = st.tuples(st.dictionaries(numbers, values(DepartmentRelation, but="owner")), st.none() | numbers).map(
    lambda pair: set((pair[0] | ({} if pair[1] is None else {pair[1]: "owner"})).items())
)
roles = st.tuples(st.sets(st.tuples(numbers, values(RoleResponsibility, but="accountable"))), st.none() | numbers).map(
    lambda pair: pair[0] | (set() if pair[1] is None else {(pair[1], "accountable")})
)
OWN = {"departments": departments, "roles": roles}
DETAILS = {links.field: links.detail for links in LINKS["processes"]}


def any_links(link_set: LinkSet) -> st.SearchStrategy[set[tuple[int, str]]]:
    """Return sets of links that no rule restricts: one to each target, or several that differ in their own field."""
    details = st.sampled_from(details_of("processes", link_set) or ("",))
    if link_set.is_repeatable:
        return st.sets(st.tuples(numbers, details))
    return st.dictionaries(numbers, details).map(lambda links: set(links.items()))


all_links = st.fixed_dictionaries({each.field: OWN.get(each.field, any_links(each)) for each in LINKS["processes"]})

Links = dict[str, set[tuple[int, str]]]


def body_of(links: Links, ids: dict[str, list[int]]) -> dict[str, Any]:
    body: dict[str, Any] = {"name": "Linked"}
    for name, wanted in links.items():
        detail, target = DETAILS[name], f"{name.removesuffix('s')}_id"
        body[name] = [
            {target: ids[name][number]} | ({detail: value} if detail else {}) for number, value in sorted(wanted)
        ]
    return body


def links_of(process: dict[str, Any], ids: dict[str, list[int]]) -> Links:
    return {
        name: {(ids[name].index(link["id"]), link[detail] if detail else "") for link in process[name]}
        for name, detail in DETAILS.items()
    }


@pytest.mark.parametrize("states", draw_examples(st.lists(all_links, min_size=2, max_size=3), 25))
async def test_put_replaces_any_links_with_any_others(client: httpx.AsyncClient, states: list[Links]) -> None:
    ids = {name: [(await make(client, name))["id"] for _ in range(TARGETS)] for name in DETAILS}
    process = (await client.post("/processes", json=body_of(states[0], ids))).json()
    assert links_of(process, ids) == states[0]
    for before, after in pairwise(states):
        version = process["version"]
        response = await client.put(f"/processes/{process['id']}", json=body_of(after, ids))
        assert response.status_code == 200, response.text
        process = response.json()
        assert links_of(process, ids) == after
        assert process["version"] == version + (before != after)


@pytest.mark.parametrize("states", draw_examples(st.tuples(all_links, all_links), 15))
async def test_patch_replaces_only_the_list_it_names(client: httpx.AsyncClient, states: tuple[Links, Links]) -> None:
    ids = {name: [(await make(client, name))["id"] for _ in range(TARGETS)] for name in DETAILS}
    process = (await client.post("/processes", json=body_of(states[0], ids))).json()
    expected = states[0]
    for name in DETAILS:
        patch = {name: body_of(states[1], ids)[name]}
        process = (await client.patch(f"/processes/{process['id']}", json=patch)).json()
        expected = expected | {name: states[1][name]}
        assert links_of(process, ids) == expected


VALUES = {links.field: details_of("processes", links) for links in LINKS["processes"] if links.detail}
REPEATABLE = {links.field for links in LINKS["processes"] if links.is_repeatable}
# Set or remove, the number of the target, and the value of the link's own field.
calls = st.lists(st.tuples(st.booleans(), numbers, st.integers(0, 3)), min_size=3, max_size=10)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("sequence", draw_examples(calls, 12))
async def test_any_sequence_of_link_calls_matches_the_model(
    client: httpx.AsyncClient, kind: str, sequence: list[tuple[bool, int, int]]
) -> None:
    targets = [(await make(client, kind))["id"] for _ in range(TARGETS)]
    path = f"/processes/{(await make_process(client))['id']}"
    links: set[tuple[int, str]] = set()
    version = 1
    for sets, number, which in sequence:
        target, value = targets[number], VALUES[kind][which % len(VALUES[kind])]
        # A repeatable link keeps the other values of its field; any other link changes its field.
        others = links if kind in REPEATABLE and sets else {link for link in links if link[0] != target}
        wanted = others | {(target, value)} if sets else others
        url = f"{path}/{kind}/{target}"
        response = await client.put(url, json={DETAILS[kind]: value}) if sets else await client.delete(url)
        if len([detail for _, detail in wanted if detail in {"owner", "accountable"}]) > 1:
            assert (response.status_code, response.json()["code"]) == (409, "conflict")
            continue
        assert response.status_code == 204
        version += wanted != links
        links = wanted
    now = (await client.get(path)).json()
    assert [(link["id"], link[DETAILS[kind]]) for link in now[kind]] == sorted(links)
    assert now["version"] == version
