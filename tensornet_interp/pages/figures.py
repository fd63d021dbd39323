"""Figures of a page, drawn with Bokeh: spectra, curves, scatter plots, trees, and cells with one vector each."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.optional import optional
from tensornet_interp.pages.parts import Figure
from tensornet_interp.plots.images import to_numpy
from tensornet_interp.plots.inputs import InputView, largest
from tensornet_interp.plots.sheets import visible

POSITIVE, NEGATIVE = "#d6604d", "#4393c3"
LINES = ("#4393c3", "#d6604d", "#4d9221", "#8073ac", "#bf812d", "#35978f", "#c51b7d", "#878787")
MOST_POINTS = 4_000  # of one figure
_BARS = 8  # the most entries that are drawn as bars
_LABEL = 20  # characters of a label; hovering shows the rest
_CELL = "clamp(76px, 10vw, 118px)"  # the least width of an image
_BAR_CELL = "clamp(165px, 22vw, 240px)"  # likewise of bars, whose names take more of it if they are long
LETTER, _LEAST_BARS = 6, 110  # pixels
_BARE: dict[str, Any] = {  # the page itself is the background, in light and in dark
    "toolbar_location": None,
    "background_fill_alpha": 0,
    "border_fill_alpha": 0,
    "outline_line_color": None,
}
STEPS = 32  # of each half of the colours
_RED, _WHITE, _BLUE = (178, 24, 43), (255, 255, 255), (33, 102, 172)


def bokeh(module: str) -> Any:
    """Return a module of Bokeh, such as "plotting"."""
    return optional(f"bokeh.{module}", "for a report as a page", extra="report")


def spectrum(values: Sequence[float], title: str, label: str, *, ordered: bool = False) -> Figure:
    """Draw values as bars, by magnitude unless they are ordered; of very many, only the first are drawn."""
    shown = list(values if ordered else sorted(values, key=abs, reverse=True))[:400]
    axes = bare_axes(220, "number", label)
    source = {"x": list(range(1, len(shown) + 1)), "y": shown, "color": [_sign(value) for value in shown]}
    bars = axes.vbar(x="x", top="y", width=0.8, color="color", source=source_of(source))
    hover(axes, [bars], [("number", "@x"), ("value", "@y{0.0000e+0}")])
    more = f", {len(shown)} of {len(values)}" if len(shown) < len(values) else ""
    return Figure(f"{title}{more}", axes)


def strips(series: Mapping[str, Sequence[float]], title: str, label: str) -> Figure:
    """Draw one strip of points per name, such as the eigenvalues of every output; hovering shows number and value."""
    names = list(series)
    axes = bare_axes(max(150, 60 + 22 * len(names)), label, "")
    points = [(row, number, value) for row, name in enumerate(names) for number, value in enumerate(series[name])]
    points = sorted(points, key=lambda point: -abs(point[2]))[:MOST_POINTS]
    source = {
        "x": [value for _, _, value in points],
        "y": [row for row, _, _ in points],
        "name": [names[row] for row, _, _ in points],
        "number": [number + 1 for _, number, _ in points],
        "color": [_sign(value) for _, _, value in points],
    }
    dots = axes.scatter(x="x", y="y", size=7, color="color", alpha=0.6, source=source_of(source))
    row_names(axes, names)
    hover(axes, [dots], [("of", "@name"), ("number", "@number"), ("value", "@x{0.0000e+0}")])
    return Figure(title, axes, "460px")


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    x: str,
    y: str,
    *,
    log: bool = False,
    whole: float | None = None,
) -> Figure:
    """Draw one line per name through points (x, y); hovering shows both. `whole` is the height of a dashed line."""
    axes = bare_axes(260, x, y, x_axis_type="log" if log else "linear")
    marks = []
    for at, (name, (across, up)) in enumerate(series.items()):
        source = source_of({"x": list(across), "y": list(up), "name": [name] * len(across)})
        style = {"color": LINES[at % len(LINES)], "source": source}
        legend = {"legend_label": plain(name)} if len(series) > 1 else {}
        axes.line("x", "y", line_width=2, **style, **legend)
        marks.append(axes.scatter("x", "y", size=7, **style, **legend))
    if whole is not None:
        axes.add_layout(
            bokeh("models").Span(location=whole, dimension="width", line_dash="dashed", line_color="#888888")
        )
    if log:
        ticks = sorted({value for across, _ in series.values() for value in across})
        axes.xaxis.ticker = bokeh("models").FixedTicker(ticks=ticks)
        axes.xaxis.major_label_overrides = {tick: f"{tick:g}" for tick in ticks}
    rows = [(x, "@x"), (y, "@y{0.0000}")]
    hover(axes, marks, [("", "@name"), *rows] if len(series) > 1 else rows)
    _legend(axes, len(series))
    return Figure(title, axes, "340px")


def scatter(
    points: Sequence[Mapping[str, Any]], title: str, x: str, y: str, by: str, shown: Sequence[str], *, log: bool = False
) -> Figure:
    """Draw records as points, one colour per value of `by`; hovering shows the fields `shown`."""
    scale = "log" if log else "linear"
    axes = bare_axes(320, x.replace("_", " "), y.replace("_", " "), x_axis_type=scale, y_axis_type=scale)
    names = list(dict.fromkeys(str(point[by]) for point in points))
    marks = []
    for at, name in enumerate(names):
        own = [point for point in points if str(point[by]) == name][:MOST_POINTS]
        source = {f"c{i}": [point.get(key) for point in own] for i, key in enumerate(shown)}
        source |= {"x": [point[x] for point in own], "y": [point[y] for point in own]}
        legend = {"legend_label": plain(name)} if len(names) > 1 else {}
        marks.append(axes.scatter("x", "y", size=9, color=LINES[at % len(LINES)], source=source_of(source), **legend))
    hover(axes, marks, [(key.replace("_", " "), f"@c{i}") for i, key in enumerate(shown)])
    _legend(axes, len(names))
    return Figure(title, axes, "460px")


def tree(nodes: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw a tree: every node has a place (x, y), the place of its parent (x0, y0), an eigenvalue and a score >= 0."""
    depth = len({node["y"] for node in nodes})
    axes = bare_axes(110 + 90 * depth, "", "")
    columns = {key: [node[key] for node in nodes] for key in nodes[0]}
    largest_score = max(columns["score"], default=0.0) or 1.0
    columns["color"] = [_sign(value) for value in columns["eigenvalue"]]
    columns["width"] = [1 + 5 * score / largest_score for score in columns["score"]]
    columns["size"] = [8 + 10 * score / largest_score for score in columns["score"]]
    source = source_of(columns)
    axes.segment("x0", "y0", "x", "y", line_color="color", line_width="width", line_alpha=0.5, source=source)
    dots = axes.scatter("x", "y", size="size", color="color", source=source)
    axes.scatter([nodes[0]["x0"]], [nodes[0]["y0"]], size=14, color="#888888")
    axes.xaxis.visible = axes.yaxis.visible = False
    axes.xgrid.grid_line_color = axes.ygrid.grid_line_color = None
    rows = [("layer", "@layer"), ("component", "@component"), ("eigenvalue", "@eigenvalue{0.0000e+0}")]
    hover(axes, [dots], [*rows, ("score", "@score{0.0000}")])
    return Figure(title, axes, "460px")


def cell(view: InputView, vector: Tensor, title: str, *, weights: bool = True) -> Figure:
    """Draw a vector of the input space in the form of the inputs: as an image, or as bars of its largest entries."""
    if view.shape is None:
        return bars(vector, [view.name(i) for i in largest(vector, _BARS)], title, of=len(vector))
    values = to_numpy(vector).astype("float32").reshape(view.shape)
    height, width = view.shape
    limit = float(abs(values).max()) or 1.0
    signed = weights or bool(values.min() < 0)
    models = bokeh("models")
    axes = models.Plot(  # without axes: a page has many of these
        aspect_ratio=width / height,
        sizing_mode="scale_width",
        x_range=models.Range1d(-0.5, width - 0.5),
        y_range=models.Range1d(height - 0.5, -0.5),
        min_border=0,
        **_BARE,
    )
    colours = models.LinearColorMapper(palette=palette(signed), low=-limit if signed else 0.0, high=limit)
    glyph = models.Image(image="image", x=-0.5, y=-0.5, dw=width, dh=height, color_mapper=colours)
    image = axes.add_glyph(source_of({"image": [values]}), glyph)
    hover(axes, [image], [("row", "$y{0}"), ("column", "$x{0}"), ("value", "@image{0.000000}")])
    return Figure(title, axes, _CELL, f"±{limit:.3g}" if signed else f"0 to {limit:.3g}")


def bars(vector: Tensor, names: Sequence[str], title: str, *, of: int) -> Figure:
    """Draw the largest entries of a vector as signed bars; `names` are theirs, and `of` counts all entries."""
    values = to_numpy(vector[torch.tensor(largest(vector, len(names)), device=vector.device)]).tolist()
    axes = bare_axes(46 + 20 * len(names), "", "", min_border=2)
    source = {"x": values, "y": list(range(len(names))), "name": list(names), "color": [_sign(x) for x in values]}
    drawn = axes.hbar(y="y", right="x", height=0.75, color="color", source=source_of(source))
    row_names(axes, names)
    axes.x_range = bokeh("models").Range1d(1.05 * min(0.0, *values), 1.05 * max(0.0, *values) or 1.0)
    axes.xaxis.ticker = bokeh("models").BasicTicker(desired_num_ticks=3)
    hover(axes, [drawn], [("", "@name"), ("value", "@x{0.000000}")])
    longest = min(_LABEL, max(map(len, map(plain, names)), default=0))
    width = f"max({_BAR_CELL}, {_LEAST_BARS + LETTER * longest}px)"
    return Figure(title, axes, width, f"{len(names)} largest of {of}" if len(names) < of else "")


def plain(text: str) -> str:
    """Return a text that Bokeh does not read as a formula, with visible line ends and outer spaces."""
    text = visible(text)
    for mark in ("$$", "\\(", "\\["):
        text = text.replace(mark, f"{mark[0]}\u200b{mark[1]}")
    return text


def short(name: str) -> str:
    """Return a `plain` name; a long one ends with an ellipsis."""
    name = plain(name)
    return name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…"


def bare_axes(height: int, x: str, y: str, **options: Any) -> Any:
    """Return axes as wide as their place on the page."""
    axes = bokeh("plotting").figure(height=height, sizing_mode="stretch_width", tools="", **_BARE, **options)
    axes.xaxis.axis_label, axes.yaxis.axis_label = plain(x), plain(y)
    axes.axis.axis_label_text_font_style = "normal"
    axes.axis.minor_tick_line_color = None
    return axes


def row_names(axes: Any, names: Sequence[str]) -> None:
    """Write a name at every row, the first one at the top; long names end with an ellipsis."""
    labels = [short(name) for name in names]
    axes.yaxis.ticker = bokeh("models").FixedTicker(ticks=list(range(len(names))))
    axes.yaxis.major_label_overrides = dict(enumerate(labels))
    axes.y_range = bokeh("models").Range1d(len(names) - 0.4, -0.6)
    axes.ygrid.grid_line_color = None


def hover(axes: Any, marks: Sequence[Any], rows: Sequence[tuple[str, str]]) -> None:
    """Show these rows of names and fields if the pointer is over one of the marks."""
    axes.add_tools(bokeh("models").HoverTool(tooltips=[(name, text) for name, text in rows], renderers=list(marks)))


def _legend(axes: Any, count: int) -> None:
    if count > 1:
        axes.legend.click_policy = "hide"
        axes.legend.background_fill_alpha = 0
        axes.legend.border_line_color = None
        axes.legend.label_text_font_size = "11px"
        axes.add_layout(axes.legend[0], "below")
        axes.legend.ncols = 2
        axes.legend.location = "left"


def source_of(columns: Mapping[str, Any]) -> Any:
    """Return columns as Bokeh reads them."""
    return bokeh("models").ColumnDataSource(dict(columns))


def _sign(value: float) -> str:
    return POSITIVE if value > 0 else NEGATIVE


def palette(signed: bool) -> list[str]:
    """Return colours from blue over white to red, or from white to black."""
    if not signed:
        return [_mixed(_WHITE, (0, 0, 0), at / (2 * STEPS)) for at in range(2 * STEPS + 1)]
    ups = [at / STEPS for at in range(1, STEPS + 1)]
    down = [_mixed(_WHITE, _BLUE, up) for up in reversed(ups)]
    return [*down, "#ffffff", *(_mixed(_WHITE, _RED, up) for up in ups)]


def _mixed(low: tuple[int, int, int], high: tuple[int, int, int], share: float) -> str:
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))
