"""Figures of stacks over positions: parts from bottom to top, positions from left to right."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from tensornet_interp.attention import AttentionLayer, LinearMap, Part, SequenceNetwork
from tensornet_interp.checks import check_int, check_kind, check_text
from tensornet_interp.layer import BilinearMap
from tensornet_interp.plots.networks import canvas
from tensornet_interp.plots.sheets import LABEL, SMALL, TITLE, line_height, measure, plain, readable, wrap

_COLORS = {"attention": "#fce5cd", "bilinear": "#cfe2f3", "linear": "#d9ead3"}
_COLUMN, _ROW, _BOX = 1.5, 1.25, 0.42  # inches
_NAMES, _SKIP = 1.7, 0.62  # inches: the widest name of a part, from a stream to its residual
_MOST_PARTS = 40


def draw_sequence(network: SequenceNetwork, *, positions: int = 3, title: str = "") -> Figure:
    """Draw the parts of a stack from bottom to top, for the first positions from left to right.

    A box over all positions is attention; its lines join each position (above) with the sources that its mask allows
    (below). A box per position is a map. The line around a box is a residual, and "norm" stands in front of a part that
    has one. Numbers are sizes of the vectors between the parts.
    positions: how many positions are drawn. title: by default, the number of parts.
    Raises ValueError for more than 40 parts, because such a figure could not be read.
    """
    check_kind("network", network, SequenceNetwork)
    most = min((part.map.positions for part in network if isinstance(part.map, AttentionLayer)), default=12)
    count = min(most, check_int("positions", positions, 1, 12, "so that the figure can be read"))
    check_text("title", title, empty=True)
    if len(network) > _MOST_PARTS:
        raise ValueError(
            f"the network has {len(network)} parts, but a figure holds at most {_MOST_PARTS}; draw some of its parts,"
            " such as SequenceNetwork(network.parts[:10])"
        )
    names = [wrap(readable(_name(part, i)), _NAMES, LABEL, 3) for i, part in enumerate(network)]
    left = max(measure(name, LABEL) for name in names) + 0.35
    width = max(left + _COLUMN * count + 0.3, 3.6)
    title = wrap(plain(title or f"{len(network)} parts over positions"), width - 0.3, TITLE)
    head = line_height(TITLE) * (1 + title.count("\n")) + 0.3
    height = head + _ROW * len(network) + 0.85
    figure, axes = canvas(width, height, title)
    xs = [left + _COLUMN * (i + 0.4) for i in range(count)]
    for i, x in enumerate(xs):
        axes.text(x, 0.18, f"position {i}", fontsize=SMALL, ha="center", va="center", color="0.4", gid=f"position {i}")
    for i, part in enumerate(network):
        y = 0.45 + _ROW * i
        _draw_part(axes, part, i, xs, y, first=i == 0)
        axes.text(0.15, y + _ROW / 2, names[i], fontsize=LABEL, va="center", gid=f"name {i}")
    for x in xs:
        axes.plot([x, x], [height - head - 0.4, height - head - 0.15], color="0.45", linewidth=1, zorder=1)
    return figure


def _draw_part(axes: Axes, part: Part, i: int, xs: list[float], y: float, *, first: bool) -> None:
    """Draw one part between the heights y and y + row, with the stream below it."""
    size = part.map.sizes["in1"] - bool(getattr(part.map, "constant_in", False))
    bottom, top = y + 0.45, y + 0.45 + _BOX
    middle, end = (bottom + top) / 2, y + _ROW
    for x in xs:
        axes.plot([x, x], [y, bottom], color="0.45", linewidth=1, zorder=1)
        axes.plot([x, x], [top, end], color="0.45", linewidth=1, zorder=1)
        if part.residual:
            path = [x, x + _SKIP, x + _SKIP, x], [y + 0.12, y + 0.12, end - 0.14, end - 0.14]
            axes.plot(*path, color="0.45", linewidth=1, zorder=1, gid=f"residual {i}")
            axes.text(
                x, end - 0.14, "+", fontsize=LABEL, ha="center", va="center", zorder=3, **_boxed("circle,pad=0.1")
            )
        if part.norm is not None:
            box = _boxed("round,pad=0.15")
            axes.text(x, y + 0.27, "norm", fontsize=SMALL, ha="center", va="center", zorder=3, gid=f"norm {i}", **box)
    axes.text(xs[0] - 0.06, y + 0.05, str(size), fontsize=SMALL, ha="right", va="center", color="0.4", gid=f"size {i}")
    kind, text = _described(part)
    edges = [(xs[0], xs[-1])] if kind == "attention" else [(x, x) for x in xs]
    for low, high in edges:
        style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": _COLORS.get(kind, "white")}
        corner, wide = (low - 0.5, bottom), high - low + 1.0
        axes.add_patch(FancyBboxPatch(corner, wide, _BOX, edgecolor="0.3", zorder=2, **style))
        if isinstance(part.map, AttentionLayer):
            mask = part.map.mask.flatten(0, -3).abs().amax(0)
            for s, t in mask[: len(xs), : len(xs)].nonzero().tolist():
                axes.plot([xs[t], xs[s]], [bottom, top], color="0.6", linewidth=0.7, zorder=2.5, gid=f"source {i}")
        label = wrap(text, wide - 0.06, SMALL, 2)
        box = {"boxstyle": "square,pad=0.1", "facecolor": _COLORS.get(kind, "white"), "edgecolor": "none"}
        where: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL, "zorder": 4, "linespacing": 1.0}
        axes.text((low + high) / 2, middle, label, bbox=box, gid=f"part {i}", **where)


def _boxed(style: str) -> dict[str, Any]:
    return {"bbox": {"boxstyle": style, "facecolor": "white", "edgecolor": "0.4"}}


def _name(part: Part, i: int) -> str:
    return getattr(part.map, "name", "") or f"part {i}"


def _described(part: Part) -> tuple[str, str]:
    """Return the kind of a map and its sizes as text."""
    map = part.map
    if isinstance(map, AttentionLayer):
        pattern = "softmax" if map.softmax else f"{len(map.queries)} scores" if map.queries else "given pattern"
        return "attention", f"{map.heads} heads, {pattern}"
    kind = "linear" if isinstance(map, LinearMap) else "bilinear" if isinstance(map, BilinearMap) else ""
    return kind, f"{kind or type(map).__name__} to {map.sizes['out']}"
