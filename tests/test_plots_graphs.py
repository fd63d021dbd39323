"""Figures of feature graphs show their strongest edges, with all ends, signs and values."""

import pytest
from drawn_texts import cut_off, drawn_texts, overlapping
from test_graphs import DIRECTION, HELD_OUT, PLACES, TEXT, X, network
from test_plots_attention import names

from tensornet_interp.graphs import feature_graph
from tensornet_interp.plots import draw_feature_graph

NAMES = {place: names(item.features) for place, item in PLACES["before and behind"].items()}


def graph_of(mode="given", kind="before and behind"):
    text, more = (X, {}) if mode == "given" else (TEXT, {"mode": mode, "held_out": HELD_OUT})
    return feature_graph(network(), PLACES[kind], [(3, "out"), DIRECTION], text, features=8, nodes=8, **more)


def shown(figure, kind):
    """Texts and lines by their name, of one kind."""
    (axes,) = figure.axes
    artists = [*axes.texts, *axes.lines]
    return {item.get_gid(): item for item in artists if (item.get_gid() or "").split(" ")[0] == kind}


@pytest.mark.parametrize("mode", ["given", "averaged"])
@pytest.mark.parametrize("count", [1, 12, 40])
@pytest.mark.parametrize("named", [None, NAMES], ids=["numbers", "names"])
def test_no_text_is_cut_off_or_meets_another(mode, count, named):
    made = draw_feature_graph(graph_of(mode), named, count=count, title=" ".join(names(3)))
    drawn = drawn_texts(made)
    assert cut_off(made, drawn) == []
    assert overlapping(drawn) == []


def test_every_edge_has_its_nodes_its_colour_and_its_line_in_the_list():
    graph = graph_of("averaged")
    figure = draw_feature_graph(graph, count=50)
    edges = graph.top(50)
    assert len(edges) == 50
    nodes = {f"node {at}" for edge in edges for at in (edge.target, *edge.sources)}
    assert set(shown(figure, "node")) == nodes
    for gid, text in shown(figure, "node").items():
        node = graph.nodes[int(gid.split()[1])]
        assert text.get_text() == ("direction" if node.kind == "direction" else str(node.feature))
    pairs = {f"pair {number}": edge for number, edge in enumerate(edges) if len(edge.sources) == 2}
    dots = shown(figure, "pair")
    assert set(dots) == set(pairs)
    assert pairs
    for gid, edge in pairs.items():
        assert dots[gid].get_color() == ("tab:red" if edge.value > 0 else "tab:blue")
    lines = [text.get_text() for text in shown(figure, "line").values()]
    for line, edge in zip(lines, edges, strict=True):
        assert line.startswith(f"{graph.nodes[edge.target].label} ← {graph.nodes[edge.sources[0]].label}")
        assert ("×" in line) == (len(edge.sources) == 2)
        assert all(f"h{part}.{head}" in line for path in edge.paths for part, head in path)


def test_nodes_of_a_row_stand_in_the_order_of_their_positions():
    graph = graph_of()
    rows = {}
    for gid, text in shown(draw_feature_graph(graph, count=50), "node").items():
        node = graph.nodes[int(gid.split()[1])]
        rows.setdefault((node.part, node.place), []).append((text.get_position()[0], node.position))
    assert max(len({position for _, position in row}) for row in rows.values()) > 2
    for row in rows.values():
        positions = [position for _, position in sorted(row)]
        assert positions == sorted(positions)


def test_positions_and_names_stand_below_the_number():
    graph = graph_of()
    figure = draw_feature_graph(graph, {(3, "out"): [f"token{i}" for i in range(9)]}, count=20)
    found = [(graph.nodes[int(gid.split()[1])], text.get_text()) for gid, text in shown(figure, "node").items()]
    for node, text in found:
        lines = text.split("\n")
        if node.kind == "direction":
            continue
        assert lines[0] == str(node.feature)
        assert lines[-1] == f"@ {node.position}"
        assert (f"token{node.feature}" in lines) == ((node.part, node.place) == (3, "out"))
    assert any(node.part == 3 for node, _ in found)


def test_too_many_edges_are_refused():
    with pytest.raises(ValueError, match=r"from 1 to 60 .*could not be read"):
        draw_feature_graph(graph_of(), count=61)
