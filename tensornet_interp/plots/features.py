"""Figures of dictionary features: interactions, coordinates in eigenvectors, and how faithful few eigenpairs are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.checks import (
    check_int,
    check_kind,
    check_names,
    check_records,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.features import FeatureInteractions
from tensornet_interp.plots.images import DIVERGING, to_numpy
from tensornet_interp.plots.matrices import heat_map
from tensornet_interp.plots.sheets import LABEL, SMALL, Sheet, line_height, measure, numbers, readable, wrap

_MANY = 40  # the most rows of a heat map that get labels, and the most features that get a line each
_GRID = 200  # points per side of the grid for contours
_SIDE = 4.6  # inches: the side of the plane


def interaction_submatrix(
    interactions: FeatureInteractions, n: int, names: Sequence[str] | None = None, *, pairs: str = "all"
) -> Figure:
    """Draw Q[features, features] as a heat map, for the features that take part in the n strongest interactions.

    n: the number of interactions. names: one per feature of the dictionary; by default, features are numbered. pairs:
    "all", "self" (a feature with itself) or "cross" (two different features). With more than 40 features, the axes have
    no labels.
    """
    check_kind("interactions", interactions, FeatureInteractions)
    features, matrix = interactions.smallest_submatrix(n, pairs=pairs)
    labels = _picked(names, len(interactions), features)
    limit = float(matrix.abs().max()) or 1.0
    kind = "" if pairs == "all" else f"{pairs} "
    named = labels if len(features) <= _MANY else []
    figure, _ = heat_map(
        to_numpy(matrix),
        named,
        named,
        cell=0.24 if named else 0.05,
        cmap=DIVERGING,
        limits=(-limit, limit),
        legend="Q[feature1, feature2]",
        axis_names=("feature1", "feature2"),
        title=f"{len(features)} features hold the top {n} {kind}interactions\nbasis: {interactions.basis}",
    )
    return figure


def eigenvector_plane(
    coordinates: Tensor,
    eigenvalues: Tensor,
    names: Sequence[str] | None = None,
    *,
    count: int = 8,
    basis: str = "",
    name: str = "",
) -> Figure:
    """Draw vectors x as points (v1 . x, v2 . x) in the plane of two eigenvectors, with lines of equal activation.

    activation = eigenvalue1 (v1 . x)^2 + eigenvalue2 (v2 . x)^2

    coordinates: (vector, rank) with rank at least 2, such as `projections(...).coordinates`. eigenvalues: (rank,). Only
    the first two eigenvectors are drawn. The lines are hyperbolas if the signs of the eigenvalues differ, otherwise
    ellipses. Positive activations have red lines, negative ones blue lines.
    names: one per vector; by default, vectors are numbered. The `count` vectors furthest from the origin are labelled.
    A label that would cover another label is left out. basis: the basis of the inputs, for the title. name: the name of
    the direction, for the title.
    """
    check_tensor("coordinates", coordinates, ("vector", "rank"))
    check_tensor("eigenvalues", eigenvalues, ("rank",))
    check_size("rank", coordinates=coordinates.shape[1], eigenvalues=eigenvalues.shape[0])
    if len(eigenvalues) < 2:
        raise ValueError("a plane needs 2 eigenvectors, got 1")
    count = check_int("count", count, 0)
    check_text("basis", basis, empty=True)
    check_text("name", name, empty=True)
    points, (first, second) = to_numpy(coordinates[:, :2]), eigenvalues[:2].tolist()
    furthest = np.argsort(-np.hypot(*points.T), kind="stable")[:count]
    labels = _picked(names, len(points), furthest.tolist())
    title = f"Plane of the two leading eigenvectors{f' of {name}' if name else ''}; lines: equal activation, red"
    title += " positive, blue negative" + (f"\nbasis: {basis}" if basis else "")
    figure = Sheet(6.6, _SIDE + 0.7, title)
    axes = figure.panel(0.9, 0.1, _SIDE, _SIDE)
    line, activation, levels = plane_grid(points, first, second, _GRID)
    limit = float(line[-1])
    if levels:
        colors = ["tab:blue"] * 5 + ["0.6"] + ["tab:red"] * 5
        contours = axes.contour(line, line, activation, levels=levels, colors=colors, linewidths=0.9, alpha=0.6)
        bar = figure.colorbar(contours, cax=figure.panel(0.9 + _SIDE + 0.15, 0.1, 0.15, _SIDE), ticks=levels)
        bar.set_ticklabels(numbers(levels))
        bar.ax.tick_params(labelsize=SMALL)
        bar.set_label("activation", fontsize=LABEL)
    axes.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    axes.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    axes.plot(*points.T, ".", color="0.55", markersize=4, zorder=2)
    axes.plot(*points[furthest].T, "o", color="black", markersize=4, zorder=3)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit))
    axes.set(xlabel=f"v1 · x, eigenvalue {first:+.3g}", ylabel=f"v2 · x, eigenvalue {second:+.3g}")
    _name_points(axes, points[furthest], labels, limit)
    return figure


def plane_grid(
    points: np.ndarray, first: float, second: float, side: int
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Return the coordinates of a grid around points (point, 2), the activation there, and levels for contours.

    activation[row, column] = first x[column]^2 + second x[row]^2

    There are five negative levels, zero and five positive ones, in steps that give lines at even distances along the
    axes; without any activation there is no level.
    """
    limit = 1.25 * float(np.abs(points).max()) or 1.0
    line = np.linspace(-limit, limit, side)
    activation = first * line[None, :] ** 2 + second * line[:, None] ** 2
    steps = (float(np.abs(activation).max()) * np.linspace(0, 1, 6)[1:] ** 2).tolist()
    levels = [*(-step for step in reversed(steps)), 0.0, *steps]
    return line, activation, levels if activation.any() else []


def _name_points(axes: Axes, places: np.ndarray, labels: Sequence[str], limit: float) -> None:
    """Write labels beside their points, away from the origin, or in another corner if they would cover a label."""
    taken: list[tuple[float, float, float, float]] = []
    inches = _SIDE / (2 * limit)
    for place, label in zip(places, labels, strict=True):
        text = wrap(readable(label), _SIDE / 3, LABEL, 2)
        width, height = measure(text, LABEL), line_height(LABEL) * (1 + text.count("\n"))
        x, y = (place + limit) * inches
        right, up = place[0] >= 0, place[1] >= 0
        for to_right, to_top in ((right, up), (not right, up), (right, not up), (not right, not up)):
            box = (
                x + (0.07 if to_right else -0.07 - width),
                y + (0.06 if to_top else -0.06 - height),
                x + (0.07 + width if to_right else -0.07),
                y + (0.06 + height if to_top else -0.06),
            )
            outside = min(box) < 0 or max(box) > _SIDE
            if outside or any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                continue
            taken.append(box)
            axes.annotate(
                text,
                place,
                xytext=(5 if to_right else -5, 4 if to_top else -4),
                textcoords="offset points",
                ha="left" if to_right else "right",
                va="bottom" if to_top else "top",
                fontsize=LABEL,
                gid="name",
            )
            break


def correlation_by_rank(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the correlation of k eigenpairs with the true activation: over all tokens (left) and active tokens (right).

    records: the records of `low_rank_correlation`. Thin lines are features (up to 40), the thick line is the mean of
    all features, and the band holds the middle half of them. Features with an undefined correlation are left out, and
    the title counts these.
    """
    keys = ("k", "feature", "correlation", "active_correlation", "basis")
    check_records("records", records, keys, "low_rank_correlation gives them")
    title = f"Activation of features from k leading eigenpairs\nbasis: {records[0]['basis']}"
    figure = Sheet(9, 3.4, title, layout="constrained")
    ks = sorted({record["k"] for record in records})
    for axes, key, title in zip(
        figure.subplots(1, 2, sharey=True),
        ("correlation", "active_correlation"),
        ("all tokens", "active tokens"),
        strict=True,
    ):
        lines: dict[int, dict[int, float]] = {}
        for record in records:
            if math.isfinite(record[key]):
                lines.setdefault(record["feature"], {})[record["k"]] = record[key]
        for line in list(lines.values()) if len(lines) <= _MANY else []:
            axes.plot(list(line), list(line.values()), color="tab:blue", alpha=0.25, linewidth=0.8)
        drawn = [k for k in ks if any(k in line for line in lines.values())]
        values = [[line[k] for line in lines.values() if k in line] for k in drawn]
        if drawn:
            low, high = ([np.quantile(column, q) for column in values] for q in (0.25, 0.75))
            axes.fill_between(drawn, low, high, color="tab:blue", alpha=0.15, linewidth=0, label="middle half")
            axes.plot(drawn, [np.mean(column) for column in values], "o-", color="tab:blue", label="mean of features")
            axes.legend(fontsize=8, loc="lower right")
        axes.set_xscale("log", base=2)
        axes.set_xticks(ks, [str(k) for k in ks])
        axes.grid(True, color="0.92")
        left_out = len({record["feature"] for record in records}) - len(lines)
        axes.set(xlabel="eigenpairs k", title=title + (f" ({left_out} features undefined)" if left_out else ""))
    figure.axes[0].set_ylabel("correlation with the true activation")
    return figure


def _picked(names: Sequence[str] | None, size: int, picks: Sequence[int]) -> list[str]:
    if names is not None:
        check_names("names", names, size, "vector")
    return [str(at) if names is None else names[at] for at in picks]
