"""Figures of the decision about one input, of activations, and of the accuracy after truncation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.checks import (
    check_alike,
    check_int,
    check_mapping,
    check_number,
    check_records,
    check_size,
    check_tensor,
)
from tensornet_interp.names import Shape
from tensornet_interp.plots.blocks import block_names, pixels, result_view
from tensornet_interp.plots.images import to_numpy
from tensornet_interp.plots.inputs import output_names, vector_view
from tensornet_interp.plots.sheets import LABEL, Sheet, fitted, legend, line_height, numbers
from tensornet_interp.spectral import SpectralResult

_MOST = 12  # outputs that get a bar
_LABELS = {
    "accuracy": "accuracy",
    "cross_entropy": "cross-entropy (nats)",
    "r_squared": "R squared",
    "relative_mse": "squared error / variance",
}


def truncation_curves(
    records: Sequence[Mapping[str, Any]], *, accuracy: float | None = None, loss: float | None = None
) -> Figure:
    """Draw what is left against components per output: one line per ranking.

    records: from `truncation_curve`. If they have accuracies, the panels are accuracy and cross-entropy, with those of
    the whole model dashed; `accuracy` and `loss` are these two numbers. Records made without labels have none, and the
    panels are R squared, dashed at 1, and the relative squared error.
    Raises ValueError if `accuracy` or `loss` is given for records without accuracies.
    """
    check_records("records", records, ("ranking", "components", "accuracy", "cross_entropy"))
    for name, value in (("accuracy", accuracy), ("loss", loss)):
        if value is not None:
            check_number(name, value)
    labelled = all(record["accuracy"] is not None for record in records)
    if not labelled:
        check_records("records", records, ("r_squared", "relative_mse"))
        if accuracy is not None or loss is not None:
            raise ValueError("records were made without labels: they have no accuracy to compare with; leave it out")
    panels = {"accuracy": accuracy, "cross_entropy": loss} if labelled else {"r_squared": 1.0, "relative_mse": None}
    figure = Sheet(9, 3.6, layout="constrained")
    for axes, (key, whole) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        if whole is not None:
            axes.axhline(whole, color="0.4", linestyle="--", linewidth=1, label="whole model")
        for ranking in dict.fromkeys(str(record["ranking"]) for record in records):
            rows = [record for record in records if record["ranking"] == ranking and record[key] is not None]
            axes.plot(
                [r["components"] for r in rows], [r[key] for r in rows], "o-", markersize=4, label=f"by {ranking}"
            )
        axes.set_xscale("log", base=2)
        ticks = sorted({int(record["components"]) for record in records})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set(xlabel="eigenvectors kept per output", ylabel=_LABELS[key])
    legend(figure.axes[0])
    return figure


def explanation(
    result: SpectralResult,
    x: Tensor,
    shape: Shape | None = None,
    names: Sequence[str] | None = None,
    *,
    label: int | None = None,
    count: int = 4,
) -> Figure:
    """Draw the decision about one input: the input, the outputs, and the components that matter most.

    Components are ranked by |contribution| to the margin, which is the largest output minus the second largest. If
    there is only one output, they are ranked by |contribution| to this output. If there are more than 12 outputs, the
    12 largest are drawn.
    x: (in,), the input without a constant coordinate. shape: (height, width) of inputs that are images. names: one per
    output. By default, both come from the result, as far as it knows them. label: the number of the right output, if it
    is known. count: the number of components.
    """
    view = result_view(result, shape)
    check_tensor("x", x, ("in",))
    n_out = len(result.drop_constant().outputs)
    names = output_names(result, n_out, names)
    if label is not None:
        check_int("label", label, 0, n_out - 1, "an output")
    count = min(check_int("count", count, 1), result.eigenvalues.numel())
    with torch.no_grad():
        parts = result.contributions(x[None])[0]  # (out, block, rank)
    outputs = parts.sum((1, 2))
    best = outputs.argsort(descending=True, stable=True)[:_MOST].tolist()
    margin = parts[best[0]] - (parts[best[1]] if n_out > 1 else 0)  # (block, rank)
    top = margin.flatten().abs().argsort(descending=True, stable=True)[:count].tolist()
    rest = float(margin.sum()) - float(margin.flatten()[top].sum())
    total, *shares, others = numbers([float(margin.sum()), *margin.flatten()[top].tolist(), rest], digits=4)
    if n_out == 1:
        title = f"{names[0]} = {total}, all other components {others}"
    else:
        kind = "Decision" if label is None else "A right decision" if best[0] == label else "A wrong decision"
        title = f"{kind}: margin {names[best[0]]} over {names[best[1]]} = {total}, all other components {others}"
    title = title if result.metric is None else f"{title}; patterns in the metric of the data"
    shown = sorted(best)
    bar_labels, widest, row = fitted([names[i] for i in shown], 1.8, LABEL, 2)
    blocks, _, head = fitted(block_names(result), view.width, LABEL, 3)
    heads = head / line_height(LABEL)
    height = max(view.height, len(shown) * (row + 0.02), 1.0)
    above, gap = line_height(LABEL) * (heads + 2) + 0.1, 0.15
    start = gap + view.width + gap + widest + 0.1
    note = f"{view.note} Outputs: the largest is red, the next one orange." if n_out > 1 else view.note
    figure = Sheet(start + 1.7 + count * (view.width + gap), above + height + 0.5, title, note)
    middle = above + (height - view.height) / 2
    (given,), _, _ = fitted(["input" if label is None else f"input, label {names[label]}"], view.width, LABEL, 5)
    view.draw(figure.panel(gap, middle, view.width, view.height), x, given, weights=False)
    bars = figure.panel(start, above, 1.4, height)
    first, second = best[0], best[1] if n_out > 1 else None
    colors = ["tab:red" if i == first else "tab:orange" if i == second else "0.7" for i in shown]
    bars.barh(range(len(shown)), to_numpy(outputs[shown]), color=colors)
    bars.set_yticks(range(len(shown)), bar_labels, fontsize=LABEL)
    bars.invert_yaxis()
    bars.axvline(0, color="0.5", linewidth=0.6)
    bars.tick_params(axis="x", labelsize=LABEL - 1)
    bars.locator_params(axis="x", nbins=4)
    bars.set_xlabel("output" if len(shown) == n_out else f"{len(shown)} largest of {n_out} outputs", fontsize=LABEL)
    (decided,), _, _ = fitted([f"decides {names[first]}"], 1.5 + widest, LABEL, 3)
    if n_out > 1:
        bars.set_title(decided, fontsize=LABEL, loc="right")
    values = numbers(result.eigenvalues.flatten()[top].tolist())
    for column, (index, value, share) in enumerate(zip(top, values, shares, strict=True)):
        block, rank = divmod(index, margin.shape[1])
        title = f"{blocks[block]}\nλ={value}\nmargin {share}" if n_out > 1 else f"λ={value}\nadds {share}"
        place = start + 1.55 + column * (view.width + gap)
        view.draw(figure.panel(place, middle, view.width, view.height), pixels(result, block, rank), title)
    return figure


def activations(
    eigenvalue: float,
    vector: Tensor,
    inputs: Mapping[str, Tensor],
    shape: Shape | None = None,
    *,
    input_names: Sequence[str] | None = None,
) -> Figure:
    """Draw an eigenvector v and inputs x by name; below each x are v . x and the activation eigenvalue (v . x)^2.

    shape: (height, width) if v and x are images; without it they are drawn as bars with `input_names`.
    """
    check_number("eigenvalue", eigenvalue)
    check_tensor("vector", vector, ("in",))
    view = vector_view("vector", len(vector), shape, input_names)
    if not check_mapping("inputs", inputs):
        raise ValueError("inputs is empty: give the inputs to draw by name")
    for name, x in inputs.items():
        check_tensor(f"inputs[{name!r}]", x, ("in",))
        check_size("in", vector=len(vector), **{f"inputs[{name!r}]": len(x)})
        check_alike(vector=vector, **{f"inputs[{name!r}]": x})
    width = max(view.width, 1.3)
    titles, _, head = fitted(inputs, width, LABEL, 3)
    head = max(head, 2 * line_height(LABEL)) + 0.1
    figure = Sheet((width + 0.2) * (len(inputs) + 1) + 0.2, head + view.height + 0.6, "", view.note)

    def cell(column: int) -> tuple[float, float, float, float]:
        return 0.2 + column * (width + 0.2) + (width - view.width) / 2, head, view.width, view.height

    view.draw(figure.panel(*cell(0)), vector, f"eigenvector v\nλ = {eigenvalue:+.3g}")
    products = [float(vector @ x) for x in inputs.values()]
    texts = numbers(products), numbers([eigenvalue * product**2 for product in products])
    for column, (title, x, product, activation) in enumerate(zip(titles, inputs.values(), *texts, strict=True), 1):
        axes = figure.panel(*cell(column))
        view.draw(axes, x, title, weights=False)
        axes.set_xlabel(f"{axes.get_xlabel()}\nv·x = {product}\nλ(v·x)² = {activation}", fontsize=LABEL)
    return figure
