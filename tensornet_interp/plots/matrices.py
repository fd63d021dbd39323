"""Figures of matrices of similarities."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.checks import check_names, check_number, check_tensor, check_text
from tensornet_interp.plots.images import to_numpy

_CELL = 0.36  # inches
_MOST_NUMBERS = 30  # the most networks for which the cells show their numbers


def similarity_matrix(
    matrix: Tensor, labels: Sequence[str], title: str = "", *, columns: Sequence[str] | None = None, high: float = 1.0
) -> Figure:
    """Draw similarities (network, network) as a heat map, with one label per network.

    Colours run from the smallest value, or 0 if that is smaller, to `high`. columns: labels of the columns, if they
    differ from those of the rows, for example for the outputs of two layers.
    """
    check_tensor("matrix", matrix, ("network", "network"))
    columns = labels if columns is None else columns
    check_names("labels", labels, matrix.shape[0], "row")
    check_names("columns", columns, matrix.shape[1], "column")
    check_text("title", title, empty=True)
    check_number("high", high)
    values, count = to_numpy(matrix), max(len(labels), len(columns))
    side = max(_CELL * count, 2.4)
    figure = Figure(figsize=(side + 2.3, side + 1.5), layout="constrained")
    axes = figure.subplots()
    low = min(float(values.min()), 0.0)
    image = axes.imshow(values, cmap="viridis", vmin=low, vmax=high)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    for (row, column), value in [] if count > _MOST_NUMBERS else _cells(values.tolist()):
        color = "black" if value > low + 0.6 * (high - low) else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=color)
    figure.colorbar(image, ax=axes, label="similarity", shrink=0.8)
    axes.set_title(title, fontsize=10)
    return figure


def _cells(values: list[list[float]]) -> list[tuple[tuple[int, int], float]]:
    return [((row, column), value) for row, line in enumerate(values) for column, value in enumerate(line)]
