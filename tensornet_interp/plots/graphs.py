"""Figures of feature graphs: features in rows by place, with their strongest edges, alone and in pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from tensornet_interp.checks import check_int, check_kind, check_mapping, check_names, check_text
from tensornet_interp.graphs import FeatureGraph, GraphEdge, GraphNode
from tensornet_interp.plots.networks import canvas
from tensornet_interp.plots.sheets import (
    LABEL,
    NEGATIVE,
    POSITIVE,
    SMALL,
    fitted,
    line_height,
    plain,
    readable,
    wrap,
)

_COLUMN, _ROW, _LEFT = 0.95, 1.15, 1.0  # inches
_MOST = 60  # edges that can still be read
_RANK = {"stream": 0, "in": 1, "out": 2}


def draw_feature_graph(
    graph: FeatureGraph,
    names: Mapping[tuple[int, str], Sequence[str]] | None = None,
    *,
    count: int = 20,
    title: str = "",
) -> Figure:
    """Draw the `count` strongest edges between features of a graph; the output is on top.

    A row is a place: the part of the network, and "stream" before its norm, "in" after it, or "out" behind its map. A
    dot joins the two features of a pair. Red edges add to their target, blue ones subtract; wider ones matter more for
    the seeds, as in `FeatureGraph.top`. Dashed lines run through a head. Below the number of a feature stand its name,
    if names has one, and its position in the prompt. The list names all edges with their values; h2.1 is head 1 of
    part 2, and a number in brackets is the offset of the source.
    names: one name per feature, by place, such as {(3, "out"): [...]}. title: by default, the graph in numbers.
    Raises ValueError for more than 60 edges, because such a figure could not be read.
    """
    check_kind("graph", graph, FeatureGraph)
    check_int("count", count, 1, _MOST, "a figure with more edges could not be read")
    check_text("title", title, empty=True)
    known = {} if names is None else check_mapping("names", names)
    for place, listed in known.items():
        check_names(f"names[{place!r}]", listed)
    edges = graph.top(count)
    used = {at for edge in edges for at in (edge.target, *edge.sources)} or {0}
    rows: dict[tuple[int, int], list[int]] = {}
    for at in sorted(used):
        rows.setdefault(node_row(graph.nodes[at]), []).append(at)
    order = sorted(rows)
    wide = max(_LEFT + _COLUMN * max(map(len, rows.values())) + 0.2, 4.5)
    lines = [_line(graph, edge) for edge in edges]
    values = [f"{edge.value:+.3g}" for edge in edges]
    column = fitted(lines, 6.0, SMALL, 1)[1] + fitted(values, 1.0, SMALL, 1)[1] + 0.2 if edges else 0.0
    width = wide + column + 0.3
    shown = title or f"{graph.mode.capitalize()} graph of features, its {len(edges)} strongest edges between features"
    note = "A red edge adds to its target, a blue one subtracts; a dot is a pair; dashed: through a head"
    text = wrap(plain(f"{shown}\n{note}"), width - 0.3, LABEL)
    head = line_height(LABEL) * (1 + text.count("\n")) + 0.6
    row = line_height(SMALL) + 0.03
    height = head + max(_ROW * (len(order) - 1) + 0.55, row * (len(edges) + 1))
    step = max(_ROW, (height - head - 0.55) / max(1, len(order) - 1))
    figure, axes = canvas(width, height, text, LABEL)
    places = node_places(graph, edges, rows, order, wide, height - head, step)
    for at, key in enumerate(reversed(order)):
        axes.text(0.12, height - head - step * at, row_name(key), fontsize=SMALL, va="center", color="0.4")
    shares = graph.shares(edges)
    most = max(shares, default=0.0) or 1.0
    for number, (edge, share) in enumerate(zip(edges, shares, strict=True)):
        x, y = places[edge.target]
        style: dict[str, Any] = {"color": POSITIVE if edge.value > 0 else NEGATIVE, "alpha": 0.65, "zorder": 1}
        style |= {"linewidth": 0.5 + 3 * share / most}
        below = [places[at] for at in edge.sources]
        start = x, y - 0.2
        if len(edge.sources) > 1:
            start = (2 * x + sum(place[0] for place in below)) / (2 + len(below)), y - 0.42
            axes.plot([x, start[0]], [y - 0.15, start[1]], gid=f"edge {number}", **style)
            axes.plot(*start, marker="o", markersize=3.5, color=style["color"], zorder=2, gid=f"pair {number}")
        for place, path in zip(below, edge.paths, strict=True):
            dash = "--" if path else "-"
            axes.plot([start[0], place[0]], [start[1], place[1] + 0.15], linestyle=dash, **style)
        y = height - head + 0.2 - row * number
        axes.text(wide + 0.1, y, lines[number], fontsize=SMALL, va="center", gid=f"line {number}")
        axes.text(width - 0.12, y, values[number], fontsize=SMALL, va="center", ha="right", color=style["color"])
    for at, (x, y) in places.items():
        node = graph.nodes[at]
        box = {"boxstyle": "round,pad=0.22", "facecolor": "white", "edgecolor": "0.4"}
        label = _label(node, known)
        axes.text(x, y, label, fontsize=SMALL, ha="center", va="center", bbox=box, zorder=3, gid=f"node {at}")
    return figure


def _line(graph: FeatureGraph, edge: GraphEdge) -> str:
    """Return an edge in words, such as "3 out 7 <- 2 in 4 x 2 in 9 (h2.1, -3)"."""
    ends = []
    for at, path, offset in zip(edge.sources, edge.paths, edge.offsets, strict=True):
        notes = [f"h{part}.{head}" for part, head in path] + [str(offset)] * (offset < 0)
        ends.append(graph.nodes[at].label + f" ({', '.join(notes)})" * bool(notes))
    return f"{graph.nodes[edge.target].label} ← {' × '.join(ends)}"


def node_row(node: GraphNode) -> tuple[int, int]:
    """Return the row of a node: its part and its place there, the output last."""
    return (10**9, 0) if node.part < 0 else (node.part, _RANK[node.place])


def row_name(row: tuple[int, int]) -> str:
    """Return the name of a row of nodes."""
    return "output" if row[0] == 10**9 else f"part {row[0]} {list(_RANK)[row[1]]}"


def _label(node: GraphNode, names: Mapping[tuple[int, str], Sequence[str]]) -> str:
    if node.part < 0:
        return "direction"
    listed = names.get((node.part, node.place), ())
    name = listed[node.feature] if node.feature < len(listed) else ""
    lines = [str(node.feature)] + [wrap(readable(name), _COLUMN - 0.15, SMALL, 1)] * bool(name.strip())
    return "\n".join(lines + [f"@ {node.position}"] * (node.position >= 0))


def node_places(
    graph: FeatureGraph,
    edges: Sequence[GraphEdge],
    rows: Mapping[tuple[int, int], list[int]],
    order: Sequence[tuple[int, int]],
    width: float,
    top: float,
    step_down: float = _ROW,
) -> dict[int, tuple[float, float]]:
    """Return the place of every node: a row by place, and in it, below the targets that it feeds."""
    found: dict[int, tuple[float, float]] = {}
    for level, key in enumerate(reversed(order)):

        def middle(at: int) -> float:
            above = [found[edge.target][0] for edge in edges if at in edge.sources and edge.target in found]
            return sum(above) / len(above) if above else width / 2

        listed = sorted(rows[key], key=lambda at: (graph.nodes[at].position, middle(at)))
        step = (width - _LEFT - 0.2) / len(listed)
        for place, at in enumerate(listed):
            found[at] = _LEFT + step * (place + 0.5), top - step_down * level
    return found
