"""Figures of CP components: two images each, and their outputs."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.checks import check_int, check_kind, check_names
from tensornet_interp.numerics import nonzero
from tensornet_interp.plots.images import DIVERGING, Shape, check_shape, image_cell, to_numpy
from tensornet_interp.results import CPResult


def components(result: CPResult, shape: Shape, names: Sequence[str], *, count: int = 8) -> Figure:
    """Draw CP components as two images and their outputs: one column per component, largest weight first.

    weight c sym(l r^T) = weight c / 4 ((l + r)(l + r)^T - (l - r)(l - r)^T)

    Top: the image l + r, whose squared product with x adds to the outputs, times weight c / 4. Middle: the image
    l - r, whose squared product is subtracted. Bottom: weight c as bars. Every image has its own colour limits and its
    norm as title. names: one per output.
    Signs: r has the sign with l . r >= 0, so that |l + r| >= |l - r|, and the weight takes the change of sign. Then
    the largest entry of each image is made positive, which changes no product. If l and r are orthogonal, the sign of r
    is undefined, and so is which image adds.
    """
    outputs, plus, minus = _gauge(result)
    count = check_int("count", count, 1, result.rank, "the rank of the result")
    check_names("names", names, len(outputs), "output")
    check_shape(shape, len(plus))
    figure = Figure(figsize=(1.3 * count + 0.5, 2.9 + 0.16 * len(names)), layout="constrained")
    grid = figure.subplots(3, count, squeeze=False, height_ratios=[1.3, 1.3, 0.16 * len(names)])
    limit = 1.1 * float(outputs[:, :count].abs().max()) or 1.0
    for number in range(count):
        for axes, image, sign in zip(grid[:2, number], (plus[:, number], minus[:, number]), "+−", strict=True):
            image_cell(axes, image, shape, f"|l {sign} r| = {float(image.norm()):.2f}")
        bars = grid[2, number]
        weights = to_numpy(outputs[:, number])
        bars.barh(range(len(names)), weights, color=["tab:red" if w > 0 else "tab:blue" for w in weights])
        bars.axvline(0, color="0.6", linewidth=0.6)
        bars.set_yticks(range(len(names)), list(names) if number == 0 else [""] * len(names), fontsize=7)
        bars.tick_params(axis="x", labelsize=7)
        bars.set_xlim(-limit, limit)
        bars.invert_yaxis()
    for axes, label in zip(grid[:, 0], ("left + right", "left − right", "weight × output"), strict=True):
        axes.set_ylabel(label, fontsize=8)
    figure.suptitle(f"The {count} largest of {result.rank} components, basis: {result.report.basis}", fontsize=10)
    return figure


def outputs_map(result: CPResult, names: Sequence[str]) -> Figure:
    """Draw outputs[out, rank] of unit norm as a heat map, largest weight first, with |weight| above.

    Signs are those of `components`. names: one per output.
    """
    outputs, _, _ = _gauge(result)
    check_names("names", names, len(outputs), "output")
    weights = outputs.norm(dim=0)
    figure = Figure(figsize=(min(12.0, 3 + 0.12 * result.rank), 1.6 + 0.2 * len(names)), layout="constrained")
    top, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 0.25 * len(names)])
    top.bar(range(1, result.rank + 1), to_numpy(weights), color="0.5", width=0.9)
    top.set_ylabel("|weight|", fontsize=8)
    unit = to_numpy(outputs / nonzero(weights))
    shown = axes.imshow(
        unit, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", extent=(0.5, result.rank + 0.5, len(names) - 0.5, -0.5)
    )
    axes.set_yticks(range(len(names)), list(names), fontsize=8)
    axes.set(xlabel="component, largest weight first", ylabel="output")
    figure.colorbar(shown, ax=axes, label="output weight, unit norm")
    figure.suptitle(f"Outputs of {result.rank} components", fontsize=10)
    return figure


def _gauge(result: CPResult) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight * outputs (out, rank), and left + right and left - right (in, rank), largest weight first.

    Constant coordinates are left out.
    """
    check_kind("result", result, CPResult, "; decompose(layer, 'cp') gives one")
    order = result.weights.abs().argsort(descending=True, stable=True)
    outputs, left, right = ((result.outputs * result.weights)[:, order], result.left[:, order], result.right[:, order])
    turn = torch.where((left * right).sum(0) < 0, -1.0, 1.0).to(right)
    images = [left + turn * right, left - turn * right]
    for number, image in enumerate(images):
        largest = image.gather(0, image.abs().argmax(0, keepdim=True))[0]
        images[number] = image * torch.where(largest < 0, -1.0, 1.0).to(image)
    plus, minus = (image[int(result.constant_in) :] for image in images)
    return (outputs * turn)[int(result.constant_out) :], plus, minus
