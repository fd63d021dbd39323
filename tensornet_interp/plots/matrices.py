"""Figures of matrices: heat maps with labels and a colour bar."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.checks import check_names, check_number, check_tensor, check_text
from tensornet_interp.plots.images import DIVERGING, to_numpy
from tensornet_interp.plots.sheets import LABEL, SMALL, Sheet, fitted, plain

_CELL, _NARROW = 0.38, 0.17  # inches: of a cell with its number, of one with a label alone
_MOST_NUMBERS = 30  # the most rows or columns for which the cells show their numbers


def similarity_matrix(
    matrix: Tensor,
    labels: Sequence[str],
    title: str = "",
    *,
    columns: Sequence[str] | None = None,
    high: float = 1.0,
    measure: str = "similarity",
) -> Figure:
    """Draw a matrix of similarities (network, network) as a heat map, with one label per row and per column.

    Colours run from 0 to `high`. If a value is negative, colours are symmetric about 0, which is white.
    labels: the labels of the rows. columns: the labels of the columns; by default, those of the rows. Give both, for
    example, for the outputs of two layers. measure: what the numbers are, for the colour bar.
    """
    check_tensor("matrix", matrix, ("network", "network"))
    columns = labels if columns is None else columns
    check_names("labels", labels, matrix.shape[0], "row")
    check_names("columns", columns, matrix.shape[1], "column")
    check_text("title", title, empty=True)
    check_number("high", high)
    check_text("measure", measure)
    values = to_numpy(matrix)
    signed = float(values.min()) < 0
    end = max(high, float(np.abs(values).max())) if signed else high
    written = max(values.shape) <= _MOST_NUMBERS
    figure, axes = heat_map(
        values,
        labels,
        columns,
        cell=_CELL if written else _NARROW,
        cmap=DIVERGING if signed else "viridis",
        limits=(-end if signed else 0.0, end),
        legend=plain(measure),
        title=title,
    )
    if written:
        cell_numbers(axes, values, end, signed=signed)
    return figure


def cell_numbers(axes: Axes, values: np.ndarray, end: float, *, signed: bool) -> None:
    """Write the value into every cell of a heat map whose colours end at `end`, symmetric about 0 if signed."""
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.6 * end if signed else value < 0.6 * end
        text = f"{value:.2f}".replace("-0.00", "0.00")
        axes.text(column, row, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    cell: float,
    cmap: str,
    limits: tuple[float, float],
    legend: str,
    axis_names: tuple[str, str] = ("", ""),
    title: str = "",
) -> tuple[Sheet, Axes]:
    """Draw a matrix with a colour bar and return the figure and its axes.

    rows, columns: labels; if one of them is empty, no labels are drawn. cell: the size of an entry in inches. limits:
    the values at both ends of the colours. legend: the label of the colour bar. axis_names: the names of the two axes,
    rows first.
    """
    size = min(cell, 16 / max(values.shape))
    height, width = (size * n for n in values.shape)
    height, width = max(height, 0.5), max(width, 0.5)
    left, under = (0.35 if name else 0.15 for name in axis_names)
    row_labels: list[str] = []
    column_labels: list[str] = []
    if len(rows) and len(columns):
        row_labels, widest, _ = fitted(rows, 2.4, LABEL, 1)
        column_labels, highest, _ = fitted(columns, 2.4, LABEL, 1)
        left, under = left + widest + 0.1, under + highest + 0.1
    figure = Sheet(left + width + 1.3, height + under + 0.15, title)
    axes = figure.panel(left, 0.1, width, height)
    image = axes.imshow(values, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.set_xticks(range(len(column_labels)), column_labels, rotation=90, fontsize=LABEL)
    axes.set_yticks(range(len(row_labels)), row_labels, fontsize=LABEL)
    axes.tick_params(length=0)
    axes.set_xlabel(axis_names[1], fontsize=LABEL)
    axes.set_ylabel(axis_names[0], fontsize=LABEL)
    bar = figure.colorbar(image, cax=figure.panel(left + width + 0.15, 0.1, 0.14, max(height, 1.0)))
    bar.ax.tick_params(labelsize=SMALL)
    bar.ax.locator_params(nbins=5)
    bar.set_label(legend, fontsize=LABEL)
    return figure, axes
