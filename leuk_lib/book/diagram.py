"""Directed acyclic graphs as SVG: boxes in ranks, arrows, links, and a description in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

from leuk_lib import quoting

# Colours for a light and a dark background, where no page styles the figure.
STYLE_FILE = (
    "<style>.box{fill:#f7f7f4;stroke:#0f6e84}.name{fill:#0b3d49}.word{fill:#333}.arrow{stroke:#5a5a5a}.tip{fill:#5a5a5a}"
    "@media(prefers-color-scheme:dark){.box{fill:#16262b;stroke:#5cc3d8}.name{fill:#d5f0f6}.word{fill:#ddd}"
    ".arrow{stroke:#aaa}.tip{fill:#aaa}}</style>"
)
LINE_HEIGHT = 16  # pixels


@dataclass(frozen=True)
class Node:
    """One box: its name, its title, the nodes whose arrows end in it, its lines of text, and its link."""

    name: str
    title: str
    inputs: tuple[str, ...]
    words: tuple[str, ...] = ()
    link: str = ""


@dataclass(frozen=True)
class Size:
    """Width and height of a box and of the gaps between boxes, pixels."""

    box: tuple[int, int] = (118, 92)
    gap: tuple[int, int] = (26, 20)


def ranks(nodes: Sequence[Node]) -> dict[str, int]:
    """Return ``{name: length of the longest path to it}``. Nodes of the same rank have no arrow between them.

    A node without inputs comes right before the first node that reads it, so that no long arrow passes behind others.

    >>> ranks([Node("b", "B", ("a",)), Node("a", "A", ()), Node("c", "C", ("b", "late")), Node("late", "Late", ())])
    {'a': 0, 'late': 1, 'b': 1, 'c': 2}

    Raises:
        ValueError: If the graph has a cycle, or if an input is not a node.
    """
    inputs = {node.name: node.inputs for node in nodes}
    if unknown := {name for given in inputs.values() for name in given} - set(inputs):
        raise ValueError(f"no node named {', '.join(sorted(unknown))}")
    rank: dict[str, int] = {}
    for name in TopologicalSorter(inputs).static_order():
        rank[name] = 1 + max((rank[other] for other in inputs[name]), default=-1)
    for name, given in inputs.items():
        if not given:
            rank[name] = min((rank[other] for other in inputs if name in inputs[other]), default=1) - 1
    return rank


def ancestors_of(nodes: Sequence[Node]) -> dict[str, set[str]]:
    """Return ``{name: all nodes from which a path leads to it}``."""
    inputs = {node.name: node.inputs for node in nodes}
    ancestors: dict[str, set[str]] = {}
    for name in ranks(nodes):  # in topological order
        ancestors[name] = set(inputs[name]).union(*(ancestors[other] for other in inputs[name]))
    return ancestors


def arrows(nodes: Sequence[Node]) -> list[tuple[str, str]]:
    """Return the ``(start, end)`` of every arrow that no longer path implies (the transitive reduction)."""
    ancestors = ancestors_of(nodes)
    return [
        (name, node.name)
        for node in nodes
        for name in node.inputs
        if not any(name in ancestors[other] for other in node.inputs)
    ]


def layout(nodes: Sequence[Node]) -> dict[str, tuple[int, float]]:
    """Return ``{name: (rank, position within the rank)}``, each rank centred."""
    rank = ranks(nodes)
    by_rank = [[node.name for node in nodes if rank[node.name] == level] for level in range(max(rank.values()) + 1)]
    most = max(map(len, by_rank))
    return {
        name: (level, position + (most - len(group)) / 2)
        for level, group in enumerate(by_rank)
        for position, name in enumerate(group)
    }


def describe(nodes: Sequence[Node], opening: str) -> str:
    """Describe the figure in words, for those who cannot see it."""
    titles = {node.name: node.title for node in nodes}
    return f"{opening} Arrows: {', '.join(f'{titles[start]} to {titles[end]}' for start, end in arrows(nodes))}."


def svg(nodes: Sequence[Node], opening: str, upright: bool = False, size: Size | None = None, style: str = "") -> str:
    """Return the figure as one line of SVG.

    Args:
        nodes: The boxes.
        opening: First sentence of the figure's description.
        upright: Draw from top to bottom, for narrow screens, instead of from left to right.
        size: Sizes of boxes and gaps.
        style: A ``<style>`` element. Without it the page styles the classes ``box``, ``name``, ``word``, ``arrow``
            and ``tip``.
    """
    size = size or Size()
    places = layout(nodes)
    step = tuple(box + gap for box, gap in zip(size.box, size.gap, strict=True))
    at = {name: (place, level) if upright else (level, place) for name, (level, place) in places.items()}
    corners = {name: (1 + x * step[0], 1 + y * step[1]) for name, (x, y) in at.items()}
    wide, high = (max(corner[axis] for corner in corners.values()) + size.box[axis] + 1 for axis in (0, 1))
    parts = [_arrow(corners[start], corners[end], size.box, upright) for start, end in arrows(nodes)]
    for node in nodes:
        box = _box(corners[node.name], node, size.box)
        label = quoting.html(": ".join(filter(None, (node.title, " ".join(node.words)))))
        parts.append(f'<a href="{quoting.html(node.link)}" aria-label="{label}">{box}</a>' if node.link else box)
    role = "group" if any(node.link for node in nodes) else "img"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high:g}" width="{wide:g}" height="{high:g}" role="{role}" '
        f'aria-label="{quoting.html(describe(nodes, opening))}" font-family="system-ui,sans-serif" font-size="12.5">{style}'
        + "".join(parts) + "</svg>"
    )  # fmt: skip


def _arrow(start: tuple[float, float], end: tuple[float, float], box: tuple[int, int], upright: bool) -> str:
    """Draw a line from one box to another, and its tip."""
    if upright:
        x1, y1, x2, y2 = start[0] + box[0] / 2, start[1] + box[1], end[0] + box[0] / 2, end[1]
        line, tip = (x1, y1, x2, y2 - 6), f"{x2:g},{y2:g} {x2 - 5:g},{y2 - 8:g} {x2 + 5:g},{y2 - 8:g}"
    else:
        x1, y1, x2, y2 = start[0] + box[0], start[1] + box[1] / 2, end[0], end[1] + box[1] / 2
        line, tip = (x1, y1, x2 - 6, y2), f"{x2:g},{y2:g} {x2 - 8:g},{y2 - 5:g} {x2 - 8:g},{y2 + 5:g}"
    ends = " ".join(f'{name}="{value:g}"' for name, value in zip(("x1", "y1", "x2", "y2"), line, strict=True))
    return f'<line class="arrow" {ends} stroke-width="1.5"/><polygon class="tip" points="{tip}"/>'


def _box(corner: tuple[float, float], node: Node, box: tuple[int, int]) -> str:
    x, y = corner
    text = f'<text class="name" x="{x + 9:g}" y="{y + 22:g}" font-weight="bold" font-size="13.5">{quoting.html(node.title)}</text>'
    for position, words in enumerate(node.words):
        text += f'<text class="word" x="{x + 9:g}" y="{y + 43 + position * LINE_HEIGHT:g}">{quoting.html(words)}</text>'
    return f'<rect class="box" x="{x:g}" y="{y:g}" width="{box[0]}" height="{box[1]}" rx="6" stroke-width="1.5"/>{text}'
