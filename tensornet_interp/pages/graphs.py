"""The section of a page that shows a feature graph: its strongest edges, drawn and in tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from tensornet_interp.graphs import FeatureGraph, GraphNode
from tensornet_interp.graphs.graph import path_name
from tensornet_interp.pages.figures import NEGATIVE, POSITIVE, bare_axes, bokeh, hover, short, source_of
from tensornet_interp.pages.parts import Figure, Section, table_of
from tensornet_interp.plots.graphs import node_places, node_row, row_name
from tensornet_interp.tables import Record

_EDGES, _MOST = 20, 200  # edges that are drawn, and that the table has
_WIDTH, _ROW = 6.0, 120  # of the drawing; pixels of a row
_NAMED = 8  # the most features of a row that have their numbers written


def graph_section(graph: FeatureGraph, names: Mapping[tuple[int, str], Sequence[str]]) -> Section:
    """Return the section of a graph whose first seed is the feature of the page; names are by place."""
    labels = [_label(node, names) for node in graph.nodes]
    seed = next(target for target in graph.targets if target.node == 0)
    given = graph.mode == "given"
    text = "Edges add up to the pre-activation of their target: single features, and pairs of features."
    if given:
        text += " They are those of one prompt, at its attention patterns and norms; @ is the position of a feature."
        facts = [("pre-activation", f"{seed.value:+.4g}"), ("left out of the edges", f"{seed.left_out:+.4g}")]
    else:
        text += " They are averages over a text, at mean attention patterns and norms."
        facts = [
            ("R squared on held-out text", f"{seed.r_squared:.4g}"),
            ("with the kept features alone", f"{seed.r_squared_kept:.4g}"),
        ]
    facts += [
        ("left out of the weights", f"{seed.share_left_out:.2%}"),
        (
            "variance that dictionaries explain",
            ", ".join(f"{at}: {value:.1%}" for at, value in graph.explained.items()),
        ),
    ]
    section = Section("Circuit", text, facts, graph.warnings)
    if graph.top(1):
        section.figures = [_drawing(graph, labels)]
    own = [_record(graph, labels, edge) for edge in graph.edges_of(0)]
    best = [{"target": labels[edge.target]} | _record(graph, labels, edge) for edge in graph.top(_MOST) if edge.target]
    section.tables = [
        table_of("Edges to this feature", own, "value: what the edge adds to the pre-activation."),
        table_of("Strongest edges between other features", best),
    ]
    return section


def _label(node: GraphNode, names: Mapping[tuple[int, str], Sequence[str]]) -> str:
    listed = names.get((node.part, node.place), ())
    if node.kind != "feature" or node.feature >= len(listed):
        return node.label
    return f"{node.part} {node.place} {listed[node.feature]}" + (f" @ {node.position}" if node.position >= 0 else "")


def _record(graph: FeatureGraph, labels: Sequence[str], edge: Any) -> Record:
    ends = [labels[at] for at in edge.sources]
    paths = [path_name(path) for path in edge.paths]
    pair = {"second": ends[1], "second_path": paths[1]} if len(ends) > 1 else {"second": None, "second_path": None}
    return {"source": ends[0], "path": paths[0]} | pair | {"weight": edge.weight, "value": edge.value}


def _drawing(graph: FeatureGraph, labels: Sequence[str]) -> Figure:
    """Draw the strongest edges between features, the output at the top; a pair is a dot that joins its features."""
    edges = graph.top(_EDGES)
    rows: dict[tuple[int, int], list[int]] = {}
    for at in sorted({at for edge in edges for at in (edge.target, *edge.sources)}):
        rows.setdefault(node_row(graph.nodes[at]), []).append(at)
    order = sorted(rows)
    across = node_places(graph, edges, rows, order, _WIDTH, 0.0)
    levels = list(enumerate(reversed(order)))  # the output first
    places = {at: (across[at][0], -float(level)) for level, key in levels for at in rows[key]}
    shares = graph.shares(edges)
    most = max(shares) or 1.0
    lines, dots = [], []
    for edge, share in zip(edges, shares, strict=True):
        below, start = [places[at] for at in edge.sources], places[edge.target]
        ends = list(zip(below, ["dashed" if path else "solid" for path in edge.paths], strict=True))
        name = f"{' × '.join(labels[at] for at in edge.sources)} to {labels[edge.target]}"
        style = {"name": name, "value": edge.value, "color": POSITIVE if edge.value > 0 else NEGATIVE}
        style["width"] = 1 + 4 * share / most
        if len(below) > 1:
            joint = (2 * start[0] + sum(x for x, _ in below)) / (2 + len(below)), start[1] - 0.35
            dots.append(style | {"x": joint[0], "y": joint[1]})
            lines.append(style | {"xs": [start[0], joint[0]], "ys": [start[1], joint[1]], "dash": "solid"})
            start = joint
        lines += [style | {"xs": [start[0], x], "ys": [start[1], y], "dash": dash} for (x, y), dash in ends]
    axes = bare_axes(80 + _ROW * len(order), "", "")
    style = {"line_color": "color", "line_width": "width", "line_dash": "dash", "line_alpha": 0.6}
    drawn = axes.multi_line("xs", "ys", source=_columns(lines), **style)
    marks = [drawn]
    if dots:
        marks.append(axes.scatter("x", "y", size=6, color="color", source=_columns(dots)))
    _add_nodes(graph, axes, labels, places, rows)
    axes.yaxis.ticker = bokeh("models").FixedTicker(ticks=[-level for level, _ in levels])
    axes.yaxis.major_label_overrides = {-level: row_name(key) for level, key in levels}
    axes.y_range = bokeh("models").Range1d(0.6 - len(order), 0.4)
    axes.xaxis.visible = False
    axes.xgrid.grid_line_color = axes.ygrid.grid_line_color = None
    hover(axes, marks, [("edge", "@name"), ("value", "@value{0.0000}")])
    note = "Red edges add to their target, blue ones subtract; wider ones matter more; dashed ones run through a head."
    return Figure(f"the {len(edges)} strongest edges between features", axes, "460px", note)


def _add_nodes(
    graph: FeatureGraph,
    axes: Any,
    labels: Sequence[str],
    places: Mapping[int, tuple[float, float]],
    rows: Mapping[tuple[int, int], Sequence[int]],
) -> None:
    """Draw the nodes with their numbers, if a row has few of them; hovering shows the names."""
    listed = list(places)
    columns = {"x": [places[at][0] for at in listed], "y": [places[at][1] for at in listed]}
    source = columns | {"name": [labels[at] for at in listed]}
    drawn = axes.scatter("x", "y", size=11, color="#888888", line_color="#ffffff", source=source_of(source))
    hover(axes, [drawn], [("", "@name")])
    lowest = min(columns["y"])
    crowded = {at for row in rows.values() if len(row) > _NAMED for at in row}
    for at in listed:
        node = graph.nodes[at]
        text = short(str(node.feature) if node.kind == "feature" else node.kind)
        if at not in crowded:
            x, y = places[at]
            style = {"text_align": "center", "text_font_size": "11px", "y_offset": -20 if y == lowest else 7}
            axes.add_layout(bokeh("models").Label(x=x, y=y, text=text, **style))


def _columns(records: Sequence[Mapping[str, Any]]) -> Any:
    return source_of({key: [record[key] for record in records] for key in records[0]})
