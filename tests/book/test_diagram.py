"""Diagrams: ranks, implied arrows, links, and the two figures of the book."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leuk_lib.book import architecture, pipeline
from leuk_lib.book.diagram import Node, ancestors_of, arrows, layout, ranks, svg
from leuk_lib.stages import STAGES

SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Nodes that read earlier ones only, in any order."""
    count = draw(st.integers(1, 7))
    nodes = [
        Node(f"n{i}", f"Node {i} <&>", tuple(draw(st.sets(st.sampled_from([f"n{j}" for j in range(i)])))) if i else ())
        for i in range(count)
    ]
    return draw(st.permutations(nodes))


@given(graphs())
def test_arrows_keep_every_path_and_none_is_implied(nodes: list[Node]) -> None:
    kept = arrows(nodes)
    thin = [Node(node.name, node.title, tuple(start for start, end in kept if end == node.name)) for node in nodes]
    assert ancestors_of(thin) == ancestors_of(nodes)
    for start, end in kept:
        rest = [Node(n.name, n.title, tuple(i for i in n.inputs if (i, n.name) != (start, end))) for n in thin]
        assert start not in ancestors_of(rest)[end]


@given(graphs())
def test_arrows_lead_to_higher_ranks_and_boxes_do_not_overlap(nodes: list[Node]) -> None:
    rank, places = ranks(nodes), layout(nodes)
    assert all(rank[start] < rank[end] for start, end in arrows(nodes))
    assert len(set(places.values())) == len(nodes)


@given(graphs(), st.booleans())
def test_svg_is_well_formed_and_boxes_lie_inside_it(nodes: list[Node], upright: bool) -> None:
    figure = ElementTree.fromstring(svg(nodes, "A <figure>.", upright))
    _, _, wide, high = map(float, figure.attrib["viewBox"].split())
    boxes = [
        {key: float(box.attrib[key]) for key in ("x", "y", "width", "height")} for box in figure.iter(f"{SVG}rect")
    ]
    assert len(boxes) == len(nodes)
    for box in boxes:
        assert box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= wide and box["y"] + box["height"] <= high
    assert len(list(figure.iter(f"{SVG}line"))) == len(arrows(nodes))


def test_cycles_and_unknown_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        ranks([Node("a", "a", ("b",)), Node("b", "b", ("a",))])
    with pytest.raises(ValueError, match="no node named c"):
        ranks([Node("a", "a", ("c",))])


def test_pipeline_figure_follows_the_stages() -> None:
    assert arrows(pipeline.nodes(STAGES)) == [
        ("data", "alhe"), ("alhe", "acdb_gan"), ("alhe", "fcmae"), ("acdb_gan", "wpat"), ("fcmae", "wpat"),
        ("wpat", "comparison"), ("comparison", "trust"), ("leakage", "results"), ("trust", "results"), ("results", "claims"),
    ]  # fmt: skip
    assert set(pipeline.WORDS) == {spec.name for spec in STAGES}


def test_every_box_of_the_pipeline_is_a_named_link() -> None:
    links = {spec.name: f"chapters/{spec.name}.html" for spec in STAGES}
    page = pipeline.page_figure(STAGES, links)
    for diagram in ElementTree.fromstring(f"<div>{page}</div>"):
        (figure,) = diagram
        assert "Arrows: 1 Data to 2 ALHE" in figure.attrib["aria-label"]
        boxes = list(figure.iter(f"{SVG}a"))
        assert [link.attrib["href"] for link in boxes] == list(links.values())
        assert all(spec.title in link.attrib["aria-label"] for spec, link in zip(STAGES, boxes, strict=True))
    assert "\n" not in page.strip()  # a blank line would end the HTML block


def test_readme_figure_is_up_to_date(root: Path) -> None:
    committed = (root / pipeline.README_FIGURE).read_text(encoding="utf-8")
    assert committed == pipeline.readme_figure(), "run `python -m leuk_lib.book.pipeline`"
    assert f"]({pipeline.README_FIGURE})" in (root / "README.md").read_text(encoding="utf-8")


def test_import_graph_follows_the_code() -> None:
    pairs, summaries = architecture.imports(), architecture.packages()
    assert ("wpat", "fcmae") in pairs and ("runs", "data") not in pairs
    assert {name for pair in pairs for name in pair} <= set(summaries)
    assert all(summaries.values()), "a package without a docstring"
    page = architecture.architecture_page()
    assert page.count("<rect") == len(summaries)
    row = [line for line in page.splitlines() if line.startswith("| `wpat` |")][-1]
    assert f"| {pairs['wpat', 'fcmae']} |" in row
