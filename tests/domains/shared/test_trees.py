"""Trees compared with a model in Python."""

from dataclasses import dataclass, field

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import make
from tests.catalogue import every_tree
from tests.domains.shared.properties import draw_examples

NODES = 7
moves = st.lists(st.tuples(st.integers(0, NODES - 1), st.none() | st.integers(0, NODES - 1)), min_size=1, max_size=12)


@dataclass
class Model:
    """The parents of nodes by number, and the rules of moves."""

    parents: list[int | None] = field(default_factory=lambda: [None] * NODES)

    def ancestors(self, node: int) -> list[int]:
        """Return the ancestors of a node, the root first."""
        parent = self.parents[node]
        return [] if parent is None else [*self.ancestors(parent), parent]

    def move(self, node: int, parent: int | None) -> bool:
        if parent is not None and (parent == node or node in self.ancestors(parent)):
            return False
        self.parents[node] = parent
        return True

    def descendants(self, node: int, depth: int = 0) -> list[tuple[int, int]]:
        """Return node and depth, depth first; the names are in the order of the numbers."""
        children = [child for child in range(NODES) if self.parents[child] == node]
        below = [item for child in children for item in self.descendants(child, depth + 1)]
        return [(node, depth), *below]


def test_model_is_correct() -> None:
    model = Model()
    assert model.move(1, 0)
    assert model.move(2, 1)
    assert not model.move(0, 2)
    assert model.ancestors(2) == [0, 1]
    assert model.descendants(0) == [(0, 0), (1, 1), (2, 2)]


@every_tree
@pytest.mark.parametrize("steps", draw_examples(moves, 8))
async def test_moves_never_form_a_cycle_and_trees_equal_the_model(
    client: httpx.AsyncClient, collection: str, steps: list[tuple[int, int | None]]
) -> None:
    model = Model()
    ids = [(await make(client, collection, name=f"N{number}"))["id"] for number in range(NODES)]
    for node, parent in steps:
        body = {"parent_id": None if parent is None else ids[parent]}
        response = await client.patch(f"/{collection}/{ids[node]}", json=body)
        assert response.status_code == (200 if model.move(node, parent) else 409)
    for node in range(NODES):
        tree = (await client.get(f"/{collection}/{ids[node]}/tree")).json()["items"]
        assert [(item["id"], item["depth"]) for item in tree] == [(ids[n], d) for n, d in model.descendants(node)]
        above = (await client.get(f"/{collection}/{ids[node]}/ancestors")).json()["items"]
        assert [item["id"] for item in above] == [ids[n] for n in model.ancestors(node)]


@given(moves)
def test_model_has_no_cycles_either(steps: list[tuple[int, int | None]]) -> None:
    model = Model()
    for node, parent in steps:
        model.move(node, parent)
    assert all(node not in model.ancestors(node) for node in range(NODES))


# An operation, its object and the new parent, as indexes modulo the number of objects.
steps = st.lists(
    st.tuples(st.sampled_from(["create", "create", "move", "move", "delete"]), st.integers(0, 11), st.integers(0, 11)),
    min_size=4,
    max_size=16,
)


@every_tree
@pytest.mark.parametrize("sequence", draw_examples(steps, 8))
async def test_objects_are_created_moved_and_deleted_in_any_order(
    client: httpx.AsyncClient, collection: str, sequence: list[tuple[str, int, int]]
) -> None:
    parents: dict[int, int | None] = {}

    def path_of(key: int) -> list[int]:
        parent = parents[key]
        return [key] if parent is None else [*path_of(parent), key]

    def children_of(key: int) -> list[int]:
        return [child for child, parent in parents.items() if parent == key]

    for number, (what, first, second) in enumerate(sequence):
        # The last choice is no parent.
        parent = [*parents, None][second % (len(parents) + 1)]
        if what == "create" or not parents:
            made = await make(client, collection, name=f"N{number:02}", parent_id=parent)
            parents[made["id"]] = parent
            continue
        key = list(parents)[first % len(parents)]
        if what == "move":
            response = await client.patch(f"/{collection}/{key}", json={"parent_id": parent})
            if parent is not None and key in path_of(parent):
                assert (response.status_code, response.json()["code"]) == (409, "cycle")
            else:
                assert (response.status_code, response.json()["parent_id"]) == (200, parent)
                parents[key] = parent
        else:
            response = await client.delete(f"/{collection}/{key}")
            if children := children_of(key):
                assert response.status_code == 409
                assert response.json()["dependants"]["counts"] == {collection: len(children)}
            else:
                assert response.status_code == 204
                del parents[key]

    for key in parents:
        above = (await client.get(f"/{collection}/{key}/ancestors")).json()["items"]
        assert [item["id"] for item in above] == path_of(key)[:-1]
        tree = (await client.get(f"/{collection}/{key}/tree")).json()["items"]
        nodes = {item["id"]: (item["parent_id"], item["depth"], item["children"]) for item in tree}
        assert len(nodes) == len(tree)
        assert nodes == {
            node: (parents[node], path_of(node).index(node) - path_of(node).index(key), len(children_of(node)))
            for node in parents
            if key in path_of(node)
        }
