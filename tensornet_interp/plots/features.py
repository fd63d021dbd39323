"""Figures of dictionary features: interactions, coordinates in eigenvectors, and how faithful few eigenpairs are."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
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

_MANY = 40  # the most rows of a heat map that get labels, and the most features that get a line each
_GRID = 200  # points per side of the grid for contours


def interaction_submatrix(
    interactions: FeatureInteractions, n: int, names: Sequence[str] | None = None, *, pairs: str = "all"
) -> Figure:
    """Draw Q[features, features] as a heat map, for the features that take part in the n strongest interactions.

    names: one per feature of the dictionary, by default its number. Above 40 features the axes have no labels.
    """
    check_kind("interactions", interactions, FeatureInteractions)
    features, matrix = interactions.smallest_submatrix(n, pairs=pairs)
    labels = _picked(names, len(interactions), features)
    size = len(features)
    side = 2.6 + min(0.24 * size, 8.0)
    figure = Figure(figsize=(side + 1.4, side), layout="constrained")
    axes = figure.subplots()
    values = to_numpy(matrix)
    limit = float(np.abs(values).max()) or 1.0
    image = axes.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit)
    if size <= _MANY:
        axes.set_xticks(range(size), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(size), labels, fontsize=8)
    axes.tick_params(length=0)
    axes.set(xlabel="feature2", ylabel="feature1")
    figure.colorbar(image, ax=axes, label="Q[feature1, feature2]", shrink=0.8)
    kind = "" if pairs == "all" else f"{pairs} "
    figure.suptitle(f"{size} features hold the top {n} {kind}interactions\nbasis: {interactions.basis}", fontsize=10)
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

    coordinates: (vector, rank >= 2), such as `projections(...).coordinates`; eigenvalues: (rank,). The first two of
    both are drawn. The lines are hyperbolas if the signs of the eigenvalues differ, else ellipses; red is positive,
    blue negative. The `count` vectors furthest from the origin get their names. basis: of the inputs, name: of the
    direction; both are for the title.
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
    figure = Figure(figsize=(6.6, 5.6), layout="constrained")
    axes = figure.subplots()
    limit = 1.25 * float(np.abs(points).max()) or 1.0
    line = np.linspace(-limit, limit, _GRID)
    activation = first * line[None, :] ** 2 + second * line[:, None] ** 2
    largest = float(np.abs(activation).max())
    if largest:
        # squares of even steps give lines at even distances along the axes
        steps = largest * np.linspace(0, 1, 6)[1:] ** 2
        levels = [*-steps[::-1], 0, *steps]
        colors = ["tab:blue"] * 5 + ["0.6"] + ["tab:red"] * 5
        contours = axes.contour(line, line, activation, levels=levels, colors=colors, linewidths=0.9, alpha=0.6)
        axes.clabel(contours, fontsize=7, fmt="%.2g")
    axes.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    axes.axvline(0, color="0.85", linewidth=0.8, zorder=0)
    axes.plot(*points.T, ".", color="0.55", markersize=4, zorder=2)
    axes.plot(*points[furthest].T, "o", color="black", markersize=4, zorder=3)
    for at, label in zip(furthest, labels, strict=True):
        place = points[at]
        axes.annotate(
            label,
            place,
            xytext=(5 if place[0] >= 0 else -5, 4 if place[1] >= 0 else -4),
            textcoords="offset points",
            ha="left" if place[0] >= 0 else "right",
            va="bottom" if place[1] >= 0 else "top",
            fontsize=8,
        )
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set(xlabel=f"v1 · x, eigenvalue {first:+.3g}", ylabel=f"v2 · x, eigenvalue {second:+.3g}")
    title = f"Plane of the two leading eigenvectors{f' of {name}' if name else ''}; lines: equal activation"
    figure.suptitle(f"{title}\nbasis: {basis}" if basis else title, fontsize=10)
    return figure


def correlation_by_rank(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how well the activation of k eigenpairs correlates with the true one: all tokens left, active tokens right.

    records: from `low_rank_correlation`. Thin lines are features (up to 40), the thick line is their mean, and the band
    holds the middle half. Features whose correlation is undefined are left out, and the title counts them.
    """
    keys = ("k", "feature", "correlation", "active_correlation", "basis")
    check_records("records", records, keys, "low_rank_correlation gives them")
    figure = Figure(figsize=(9, 3.8), layout="constrained")
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
    figure.suptitle(f"Activation of features from k leading eigenpairs\nbasis: {records[0]['basis']}", fontsize=10)
    return figure


def _picked(names: Sequence[str] | None, size: int, picks: Sequence[int]) -> list[str]:
    if names is not None:
        check_names("names", names, size, "vector")
    # tokens may hold dollar signs, which matplotlib takes for mathematics
    return [str(at) if names is None else names[at].replace("$", r"\$") for at in picks]
