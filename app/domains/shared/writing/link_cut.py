"""Link-cut trees: a forest whose trees are joined and split, and whose roots are found, in logarithmic time.

Each tree is divided into paths. Each path is a splay tree in the order of depth, so that the nodes nearer to the root
are on the left. The time is amortised: a sequence of operations on `n` nodes takes O(log n) each on average.
"""

from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Node:
    """A node of a forest; at first the root of its own tree. The fields are those of the splay tree."""

    left: "Node | None" = None
    right: "Node | None" = None
    # The parent in the splay tree; of its root, the parent in the forest of the uppermost node of the path.
    above: "Node | None" = None


def link(root: Node, parent: Node) -> None:
    """Make the root of a tree a child of a node of another tree."""
    _access(root)
    root.above = parent


def cut(node: Node) -> None:
    """Make a node the root of its own tree, with the nodes below it."""
    _access(node)
    if node.left is not None:
        node.left.above = None
        node.left = None


def root_of(node: Node) -> Node:
    """Return the root of the tree of a node."""
    _access(node)
    while node.left is not None:
        node = node.left
    _splay(node)
    return node


def _access(node: Node) -> None:
    """Make the path from the root to a node one of the paths, and the node the root of its splay tree."""
    below: Node | None = None
    top: Node | None = node
    while top is not None:
        _splay(top)
        top.right = below
        below, top = top, top.above
    _splay(node)


def _splay(node: Node) -> None:
    while (parent := _path_parent(node)) is not None:
        grandparent = _path_parent(parent)
        if grandparent is not None:
            is_straight = (parent.left is node) is (grandparent.left is parent)
            _rotate(parent if is_straight else node)
        _rotate(node)


def _path_parent(node: Node) -> Node | None:
    parent = node.above
    return parent if parent is not None and (parent.left is node or parent.right is node) else None


def _rotate(node: Node) -> None:
    """Exchange a node with its parent in the splay tree."""
    parent = node.above
    assert parent is not None
    grandparent = parent.above
    if grandparent is not None and grandparent.left is parent:
        grandparent.left = node
    elif grandparent is not None and grandparent.right is parent:
        grandparent.right = node
    if parent.left is node:
        inner = parent.left = node.right
        node.right = parent
    else:
        inner = parent.right = node.left
        node.left = parent
    if inner is not None:
        inner.above = parent
    parent.above, node.above = node, grandparent
