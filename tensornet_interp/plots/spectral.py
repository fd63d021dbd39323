"""Figures of eigendecompositions: spectra, eigenvectors, truncation, and what they say of one input."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.checks import check_int, check_size, check_tensor
from tensornet_interp.plots.images import Shape, image_cell, pixels, to_numpy
from tensornet_interp.spectral import SpectralResult


def spectrum(result: SpectralResult, block: int, shape: Shape, *, name: str = "", count: int = 4) -> Figure:
    """Eigenvalues of one block, and its `count` most positive (above) and most negative (below) eigenvectors."""
    check_int("block", block, 0, len(result.eigenvalues) - 1)
    values = to_numpy(result.eigenvalues[block])
    order = np.argsort(values)[::-1]
    figure = Figure(figsize=(5 + 1.5 * count, 3.6), layout="constrained")
    grid = figure.add_gridspec(2, count + 3)
    axes = figure.add_subplot(grid[:, :3])
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.plot(range(1, len(values) + 1), values[order], ".-", markersize=4, linewidth=0.8)
    axes.set(xlabel="eigenvalue number, largest first", ylabel="eigenvalue", title="spectrum")
    for row, picks in enumerate((order[:count], order[::-1][:count])):
        for column, pick in enumerate(picks):
            cell = figure.add_subplot(grid[row, 3 + column])
            image_cell(cell, pixels(result, block, int(pick)), shape, f"{values[pick]:+.3g}")
    figure.suptitle(f"Interaction matrix of {name or f'block {block}'}, basis: {result.report.basis}")
    return figure


def eigenvectors(result: SpectralResult, shape: Shape, names: Sequence[str], *, count: int = 2) -> Figure:
    """The `count` most positive and most negative eigenvectors of every block: a row each, a column a block."""
    blocks = len(result.eigenvalues)
    figure = Figure(figsize=(1.15 * blocks + 0.6, 1.35 * 2 * count + 0.6), layout="constrained")
    grid = figure.subplots(2 * count, blocks, squeeze=False)
    for block in range(blocks):
        order = result.eigenvalues[block].argsort(descending=True).tolist()
        for row, pick in enumerate([*order[:count], *order[-count:]]):
            title = f"{float(result.eigenvalues[block, pick]):+.2g}"
            image_cell(
                grid[row, block], pixels(result, block, pick), shape, f"{names[block]}\n{title}" if row == 0 else title
            )
    for row in range(2 * count):
        grid[row, 0].set_ylabel(f"positive {row + 1}" if row < count else f"negative {2 * count - row}", fontsize=8)
    figure.suptitle(f"Leading eigenvectors with their eigenvalues, basis: {result.report.basis}")
    return figure


def output_directions(
    result: SpectralResult, shape: Shape, names: Sequence[str], *, directions: int = 4, count: int = 2
) -> Figure:
    """Shared output directions, a row each: what they add to every class, and their leading eigenvectors.

    result: of `output_svd`. Bars: the direction's part in every output; to the right its `count` most positive and
    most negative eigenvectors. A direction and its eigenvalues may change sign together.
    """
    check_size("out", names=len(names), result=result.drop_constant().outputs.shape[0])
    if result.singular_values is None:
        raise ValueError("result has no singular values; decompose the layer by 'output_svd'")
    rows = min(check_int("directions", directions, 1), result.outputs.shape[1])
    outputs, singular = to_numpy(result.drop_constant().outputs), to_numpy(result.singular_values)
    figure = Figure(figsize=(3.4 + 1.5 * 2 * count, 1.75 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, 1 + 2 * count, squeeze=False, width_ratios=[2.2] + [1.0] * (2 * count))
    limit = 1.05 * float(np.abs(outputs[:, :rows]).max())
    for block, (bars, *cells) in enumerate(grid):
        bars.bar(range(len(names)), outputs[:, block], color=np.where(outputs[:, block] > 0, "tab:red", "tab:blue"))
        bars.axhline(0, color="0.4", linewidth=0.8)
        bars.set_xticks(range(len(names)), list(names), fontsize=7, rotation=0 if max(map(len, names)) < 3 else 90)
        bars.set_ylim(-limit, limit)
        share = singular[block] ** 2 / (singular**2).sum()
        bars.set_title(f"direction {block + 1}: σ = {singular[block]:.3g}, {share:.0%} of the norm²", fontsize=8)
        order = result.eigenvalues[block].argsort(descending=True).tolist()
        for cell, pick in zip(cells, [*order[:count], *order[-count:]], strict=True):
            image_cell(cell, pixels(result, block, pick), shape, f"{float(result.eigenvalues[block, pick]):+.2g}")
    figure.suptitle(
        "Output directions by singular value, most positive and most negative eigenvectors\n"
        f"basis: {result.report.basis}",
        fontsize=10,
    )
    return figure


def compared_vectors(
    vectors: Mapping[str, Tensor], values: Mapping[str, Tensor], shape: Shape, *, title: str = ""
) -> Figure:
    """Vectors (count, in) of several models side by side: a row a model, named, a column a vector, its value above.

    values: (count,) of each model, such as eigenvalues; a model without them has none above its images. Every image has
    its own colour limits, zero in the middle.
    """
    if not vectors:
        raise ValueError("vectors is empty: give the vectors (count, in) of at least one model")
    for name, images in vectors.items():
        check_tensor(f"vectors['{name}']", images, ("vector", "in"))
        if name in values:
            check_size("vector", vectors=len(images), values=len(values[name]))
    count = max(len(images) for images in vectors.values())
    figure = Figure(figsize=(1.15 * count + 1.9, 1.4 * len(vectors) + 0.4), layout="constrained")
    grid = figure.subplots(len(vectors), count, squeeze=False)
    for row, (name, images) in zip(grid, vectors.items(), strict=True):
        row[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
        for cell in row[len(images) :]:
            cell.set_axis_off()
        for column, image in enumerate(images):
            value = f"{float(values[name][column]):+.2g}" if name in values else ""
            image_cell(row[column], image, shape, value)
    figure.suptitle(title, fontsize=10)
    return figure


def truncation_curves(records: Sequence[Mapping[str, float | str]], *, accuracy: float, loss: float) -> Figure:
    """Accuracy and cross-entropy against components per class, one line per ranking; dashed: the whole model."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, key, whole in ((left, "accuracy", accuracy), (right, "cross_entropy", loss)):
        axes.axhline(whole, color="0.4", linestyle="--", linewidth=1, label="whole model")
        for ranking in dict.fromkeys(str(record["ranking"]) for record in records):
            rows = [record for record in records if record["ranking"] == ranking]
            axes.plot(
                [r["components"] for r in rows], [r[key] for r in rows], "o-", markersize=4, label=f"by {ranking}"
            )
        axes.set_xscale("log", base=2)
        ticks = sorted({int(record["components"]) for record in records})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set(
            xlabel="eigenvectors kept a class", ylabel=key.replace("_", "-") + (" (nats)" if key != "accuracy" else "")
        )
    left.legend()
    return figure


def explanation(
    result: SpectralResult, x: Tensor, shape: Shape, names: Sequence[str], *, label: int, count: int = 4
) -> Figure:
    """One input taken apart: the image, the outputs, and the components that add most to the decision.

    Components are ranked by |contribution| to the largest output minus the second largest.
    """
    with torch.no_grad():
        parts = result.contributions(x[None])[0]  # (out, block, rank)
    outputs = parts.sum((1, 2))
    first, second = outputs.topk(2).indices.tolist()
    margin = parts[first] - parts[second]  # (block, rank)
    top = margin.flatten().abs().topk(min(count, margin.numel())).indices.tolist()
    figure = Figure(figsize=(4.6 + 1.7 * count, 3.0), layout="constrained")
    grid = figure.add_gridspec(1, 4 + count, width_ratios=[1.5, 0.2, 1.6, 0.2] + [1.2] * count)
    image_cell(figure.add_subplot(grid[0]), x, shape, f"input, label {names[label]}", cmap="gray_r", symmetric=False)
    bars = figure.add_subplot(grid[2])
    colors = ["tab:red" if i == first else "tab:orange" if i == second else "0.7" for i in range(len(outputs))]
    bars.barh(list(names), to_numpy(outputs), color=colors)
    bars.invert_yaxis()
    bars.set(xlabel="output", title=f"decides {names[first]}")
    for column, index in enumerate(top):
        block, rank = divmod(index, margin.shape[1])
        title = (
            f"{names[block]}, λ={float(result.eigenvalues[block, rank]):+.2g}\nmargin {float(margin[block, rank]):+.2f}"
        )
        image_cell(figure.add_subplot(grid[4 + column]), pixels(result, block, rank), shape, title)
    rest = float(margin.sum()) - float(margin.flatten()[top].sum())
    verdict = "right" if first == label else "wrong"
    figure.suptitle(
        f"A {verdict} decision: margin {names[first]} over {names[second]} = {float(margin.sum()):.2f},"
        f" all other components {rest:+.2f}"
    )
    return figure


def activations(eigenvalue: float, vector: Tensor, inputs: Mapping[str, Tensor], shape: Shape) -> Figure:
    """What eigenvalue (v . x)^2 does: the eigenvector, and named inputs x with their v . x and their activation."""
    figure = Figure(figsize=(1.9 * (len(inputs) + 1), 2.7), layout="constrained")
    axes = figure.subplots(1, len(inputs) + 1)
    image_cell(axes[0], vector, shape, f"eigenvector v\nλ = {eigenvalue:+.3g}")
    for cell, (name, x) in zip(axes[1:], inputs.items(), strict=True):
        image_cell(cell, x, shape, name, cmap="gray_r", symmetric=False)
        product = float(vector @ x)
        cell.set_xlabel(f"v·x = {product:+.2f}\nλ(v·x)² = {eigenvalue * product**2:+.3g}", fontsize=9)
    return figure
