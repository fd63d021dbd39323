"""Figures of features on a page: interactions as coloured cells, and features in the plane of two eigenvectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tensornet_interp.pages.figures import (
    LETTER,
    MOST_POINTS,
    NEGATIVE,
    POSITIVE,
    STEPS,
    bare_axes,
    bokeh,
    hover,
    palette,
    row_names,
    short,
    source_of,
)
from tensornet_interp.pages.parts import Figure
from tensornet_interp.plots.features import plane_grid
from tensornet_interp.plots.images import to_numpy
from tensornet_interp.plots.inputs import largest

_GRID = 61  # points per side of the grid for contours
_PLANE = 400  # pixels: the widest plane
_PHONE = 240  # pixels: the narrowest plane, on which labels must not cover each other
_LINE = 15  # pixels


def matrix(values: Tensor, names: Sequence[str], title: str) -> Figure:
    """Draw a symmetric matrix of a few named features as coloured cells; hovering shows both names and the value."""
    numbers = to_numpy(values)
    limit = float(abs(numbers).max()) or 1.0
    count, colours = len(names), palette(signed=True)
    axes = bare_axes(110 + 20 * count, "", "", min_border=2)
    cells = [(row, column, float(numbers[row, column])) for row in range(count) for column in range(count)]
    source = {
        "x": [column for _, column, _ in cells],
        "y": [row for row, _, _ in cells],
        "first": [names[row] for row, _, _ in cells],
        "second": [names[column] for _, column, _ in cells],
        "value": [value for *_, value in cells],
        "color": [colours[round((value / limit + 1) * STEPS)] for *_, value in cells],
    }
    drawn = axes.rect("x", "y", 1, 1, fill_color="color", line_color=None, source=source_of(source))
    row_names(axes, names)
    axes.xaxis.ticker = bokeh("models").FixedTicker(ticks=list(range(count)))
    axes.xaxis.major_label_overrides = axes.yaxis[0].major_label_overrides
    axes.xaxis.major_label_orientation = "vertical"
    axes.x_range = bokeh("models").Range1d(-0.5, count - 0.5)
    axes.y_range = bokeh("models").Range1d(count - 0.5, -0.5)
    axes.xgrid.grid_line_color = None
    hover(axes, [drawn], [("", "@first"), ("with", "@second"), ("value", "@value{0.000000}")])
    return Figure(title, axes, "340px", f"±{limit:.3g}")


def plane(points: Tensor, eigenvalues: Sequence[float], names: Sequence[str], title: str, *, labelled: int) -> Figure:
    """Draw points (point, 2) in the plane of two eigenvectors, with lines of equal activation.

    The `labelled` points that are furthest from the origin have their names, unless a name would cover another one.
    """
    first, second = eigenvalues
    line, activation, levels = plane_grid(to_numpy(points), first, second, _GRID)
    limit = float(line[-1])
    axes = bare_axes(_PLANE, f"v1 · x, eigenvalue {first:+.3g}", f"v2 · x, eigenvalue {second:+.3g}")
    axes.update(sizing_mode="scale_width", aspect_ratio=1, max_width=_PLANE)
    axes.x_range, axes.y_range = (bokeh("models").Range1d(-limit, limit) for _ in range(2))
    if levels:
        colours = [NEGATIVE] * 5 + ["#999999"] + [POSITIVE] * 5
        axes.contour(line, line, activation, levels, fill_color=None, line_color=colours, line_alpha=0.6)
    order = largest(points.norm(dim=1), MOST_POINTS)
    places = points[torch.tensor(order, device=points.device)].tolist()
    columns = {"x": [x for x, _ in places], "y": [y for _, y in places], "name": [names[at] for at in order]}
    dots = axes.scatter("x", "y", size=6, color="#888888", alpha=0.7, source=source_of(columns))
    texts = [short(name) for name in columns["name"][:labelled]]
    for x, y, text in _apart(places, texts, _PHONE / (2 * limit)):
        # a name goes towards the middle, where it stays inside
        to_left = x > 0
        axes.add_layout(
            bokeh("models").Label(
                x=x,
                y=y,
                text=text,
                text_align="right" if to_left else "left",
                text_font_size="11px",
                x_offset=-4 if to_left else 4,
                y_offset=3,
            )
        )
    hover(axes, [dots], [("", "@name"), ("v1 · x", "@x{0.0000}"), ("v2 · x", "@y{0.0000}")])
    shown = f"{len(places)} of {len(names)} features, the furthest from the origin" if len(places) < len(names) else ""
    return Figure(title, axes, "340px", shown)


def _apart(places: Sequence[Sequence[float]], texts: Sequence[str], pixels: float) -> list[tuple[float, float, str]]:
    """Return the texts with their places, without those that would cover an earlier one; `pixels` are per unit."""
    kept: list[tuple[float, float, str]] = []
    taken: list[tuple[float, float, float]] = []
    for (x, y), text in zip(places, texts, strict=False):
        width, across = LETTER * len(text), x * pixels
        low = across - width if x > 0 else across
        if all(low + width < left or right < low or abs(y * pixels - up) > _LINE for left, right, up in taken):
            taken.append((low, low + width, y * pixels))
            kept.append((x, y, text))
    return kept
