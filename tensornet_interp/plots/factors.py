"""Figures of CP components: two input vectors per component, and the outputs."""

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from tensornet_interp.checks import check_int, check_kind, check_size
from tensornet_interp.compare import DETERMINED, ComponentTrust
from tensornet_interp.names import Shape
from tensornet_interp.numerics import nonzero
from tensornet_interp.plots.images import DIVERGING, to_numpy
from tensornet_interp.plots.inputs import input_view, output_names
from tensornet_interp.plots.sheets import LABEL, Sheet, fitted, line_height, signs
from tensornet_interp.results import CPResult


def components(
    result: CPResult,
    shape: Shape | None = None,
    names: Sequence[str] | None = None,
    *,
    count: int | None = None,
    trust: ComponentTrust | None = None,
) -> Figure:
    """Draw CP components, one column per component, largest weight first: two input vectors and the outputs.

    weight c sym(l r^T) = weight c / 4 ((l + r)(l + r)^T - (l - r)(l - r)^T)

    c, l and r are the output vector and the two input vectors of a component. Top: the vector l + r; its squared
    product with x, times weight c / 4, adds to the outputs. Middle: the vector l - r; its squared product with x, times
    weight c / 4, is subtracted. Bottom: weight c as bars. Every vector has its own scale, and its norm is its title.
    shape: (height, width) of inputs that are images. names: one per output. By default, both come from the result, as
    far as it knows them. count: by default 8, or the rank if that is smaller. trust: that of `component_trust`; the
    standard error of each component then stands below its bars, and the bars of undetermined components are hollow.
    Signs: the sign of r is chosen so that l . r >= 0, hence |l + r| >= |l - r|; if r changes its sign, the weight does
    too. Then the largest entry of each vector is made positive, which changes no squared product. If l and r are
    orthogonal, the sign of r is undefined, so it is also undefined which of the two vectors adds.
    """
    outputs, plus, minus = gauged(result)
    errors = _standard_errors(trust, result)
    count = (
        min(8, result.rank) if count is None else check_int("count", count, 1, result.rank, "the rank of the result")
    )
    names = output_names(result, len(outputs), names)
    view = input_view(result, len(plus), shape)
    labels, widest, row = fitted(names, 1.8, LABEL - 1, 1)
    left, gap = max(0.4, widest + 0.2), 0.15
    pitch = line_height(LABEL) + view.height + 0.25
    below = max(0.5, len(names) * (row + 0.02))
    title = f"The {count} largest of {result.rank} components, basis: {result.report.basis}"
    under = 0.5 if errors is None else 0.5 + line_height(LABEL)
    figure = Sheet(left + count * (view.width + gap) + 0.1, 2 * pitch + below + under, title, view.note)
    limit = 1.1 * float(outputs[:, :count].abs().max()) or 1.0
    rows = (("left + right", plus, "+"), ("left − right", minus, "−"))
    for at, (label, vectors, sign) in enumerate(rows):
        for column in range(count):
            place = left + column * (view.width + gap), at * pitch + line_height(LABEL) + 0.05
            cell = figure.panel(*place, view.width, view.height)
            view.draw(cell, vectors[:, column], f"|l {sign} r| = {float(vectors[:, column].norm()):.2f}")
            if column == 0:
                cell.set_ylabel(label, fontsize=LABEL)
    for column in range(count):
        bars = figure.panel(left + column * (view.width + gap), 2 * pitch + 0.15, view.width, below)
        weights = to_numpy(outputs[:, column])
        filled = errors is None or errors[column] < DETERMINED
        bars.barh(range(len(names)), weights, color=signs(weights) if filled else "none", edgecolor=signs(weights))
        bars.axvline(0, color="0.6", linewidth=0.6)
        bars.set_yticks(range(len(names)), labels if column == 0 else [""] * len(names), fontsize=LABEL - 1)
        bars.locator_params(axis="x", nbins=3)
        bars.tick_params(axis="x", labelsize=LABEL - 2)
        bars.set_xlim(-limit, limit)
        bars.invert_yaxis()
        if errors is not None:
            bars.set_xlabel(f"error {errors[column]:.2g}", fontsize=LABEL - 1)
    figure.axes[2 * count].set_title("weight × output", fontsize=LABEL, loc="left")
    return figure


def outputs_map(result: CPResult, names: Sequence[str] | None = None, *, trust: ComponentTrust | None = None) -> Figure:
    """Draw outputs[out, rank] of unit norm as a heat map, largest weight first, with bars of |weight| above.

    The signs are those of `components`. names: one per output; by default, the names that the result knows, or numbers.
    trust: that of `component_trust`; each bar then has an error bar, |weight| times the standard error of the component
    (at most |weight|), and the bars of undetermined components are hollow.
    """
    outputs, _, _ = gauged(result)
    errors = _standard_errors(trust, result)
    names = output_names(result, len(outputs), names)
    weights = outputs.norm(dim=0)
    labels, widest, row = fitted(names, 2.2, LABEL, 2)
    left, width, height = widest + 0.55, min(9.0, max(2.0, 0.12 * result.rank)), max(1.2, len(names) * (row + 0.06))
    figure = Sheet(left + width + 1.1, height + 1.6, f"Outputs of {result.rank} components")
    top = figure.panel(left, 0.1, width, 0.8)
    places, heights = range(1, result.rank + 1), to_numpy(weights)
    if errors is None:
        top.bar(places, heights, color="0.5", width=0.9)
    else:
        colors = ["0.5" if error < DETERMINED else "none" for error in errors]
        reach = [height * min(error, 1.0) for height, error in zip(heights, errors, strict=True)]
        top.bar(places, heights, color=colors, edgecolor="0.5", width=0.9, yerr=reach, ecolor="0.2")
    top.set_ylabel("|weight|", fontsize=LABEL)
    top.tick_params(axis="y", labelsize=LABEL - 1)
    top.set_xticks([])
    unit = to_numpy(outputs / nonzero(weights))
    axes = figure.panel(left, 1.05, width, height)
    shown = axes.imshow(
        unit, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", extent=(0.5, result.rank + 0.5, len(names) - 0.5, -0.5)
    )
    top.set_xlim(axes.get_xlim())
    axes.set_yticks(range(len(names)), labels, fontsize=LABEL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.tick_params(axis="x", labelsize=LABEL - 1)
    axes.set_xlabel("component, largest weight first", fontsize=LABEL)
    axes.set_ylabel("output", fontsize=LABEL)
    bar = figure.colorbar(shown, cax=figure.panel(left + width + 0.15, 1.05, 0.12, height), ticks=[-1, 0, 1])
    bar.ax.tick_params(labelsize=LABEL - 1)
    bar.set_label("output weight, unit norm" if height > 1.5 else "weight", fontsize=LABEL)
    return figure


def _standard_errors(trust: ComponentTrust | None, result: CPResult) -> list[float] | None:
    """Return the standard errors in the order of the figure, or None."""
    if trust is None:
        return None
    errors = check_kind("trust", trust, ComponentTrust, "; component_trust(result, layer) gives one").standard_error
    check_size("component", result=result.rank, trust=errors.numel())
    order = result.weights.abs().argsort(descending=True, stable=True)
    return [float(error) for error in errors.flatten()[order.to(errors.device)]]


def gauged(result: CPResult) -> tuple[Tensor, Tensor, Tensor]:
    """Return weight * outputs (out, rank), and left + right and left - right (in, rank), largest weight first.

    The arrays do not contain constant coordinates.
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
