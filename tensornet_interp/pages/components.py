"""Components of results on a page: every vector in the form of its inputs, and tables of the largest entries."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from tensornet_interp.decompositions import TensorTrainResult
from tensornet_interp.factored import CPResult, TuckerResult
from tensornet_interp.pages.figures import bars, cell, curves, spectrum, strips
from tensornet_interp.pages.parts import Figure, Group, Section, Table, table_of
from tensornet_interp.plots.blocks import block_names, pixels
from tensornet_interp.plots.factors import gauged
from tensornet_interp.plots.inputs import InputView, input_view, largest, output_names
from tensornet_interp.plots.sheets import numbers
from tensornet_interp.results import Result
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.tables import HasRecords, Record

MOST_BLOCKS = 12  # blocks whose eigenvectors are drawn
_IMAGES, _BARS = 4, 3  # eigenvectors of either sign of a block
_MOST = 8  # components or columns that are drawn
_ENTRIES = 4  # that a table names
_OUTPUTS = 8  # bars of outputs


def component_sections(result: Result, most: int = MOST_BLOCKS) -> list[Section]:
    """Return the spectra, the drawn components and the table of components of a result."""
    view = view_of(result)
    match result:
        case SpectralResult():
            groups, figures = list(_blocks(result, view, most)), [_eigenvalues(result)]
            drawn, total, what = len(groups), len(result.eigenvalues), "blocks"
            rows = _eigen_records(result, view)
        case CPResult():
            groups, figures = [_cp_group(result, view, at) for at in range(min(most, _MOST, result.rank))], []
            drawn, total, what = len(groups), result.rank, "components"
            rows = _cp_records(result, view)
        case TuckerResult() | TensorTrainResult():
            groups = list(_factors(result, view, result.inputs))
            figures = list(_singular(result)) if isinstance(result, TuckerResult) else []
            drawn, total, what = min(_MOST, result.inputs.shape[1]), result.inputs.shape[1], "columns of the inputs"
            rows = named_records(result)
        case _:  # the type of a plugin
            groups, figures, drawn, total, what, rows = [], [], 0, 0, "", named_records(result)
    text = f"{_colours(view)} Basis of the inputs: {result.report.basis}."
    if drawn < total:
        text += f" {drawn} of {total} {what} are drawn; the table has all of them."
    return [
        Section("Components", text if groups else "", figures=figures, groups=groups, tables=[table_of("", rows)]),
    ]


def convergence_figures(result: Result) -> list[Figure]:
    """Return the curve of the relative error over the iterations, if the method iterates."""
    errors = result.report.convergence
    if len(errors) < 2:
        return []
    return [
        curves({"": (range(1, len(errors) + 1), errors)}, "relative error of the fit", "iteration", "relative error")
    ]


def view_of(part: Result) -> InputView:
    """Return the view of the inputs of a result: images, or bars with names."""
    return input_view(part, part.sizes["in1"] - part.constant_in)


def component_names(result: Result) -> Callable[[int], str]:
    """Return the function that names a component, by its place in `added`."""
    if isinstance(result, SpectralResult):
        blocks = block_names(result)
        return lambda at: f"{blocks[at // result.rank]}, {at % result.rank + 1}"
    return lambda at: f"component {at + 1}"


def vectors(result: Result, at: int) -> list[tuple[str, Tensor]]:
    """Return the vectors of a component, with what they are, by its place in `added`."""
    if isinstance(result, SpectralResult):
        block, number = divmod(at, result.rank)
        return [(f"λ = {float(result.eigenvalues[block, number]):.3g}", pixels(result, block, number))]
    layer = result.to_layer()
    return [(side, getattr(layer, side)[int(result.constant_in) :, at]) for side in ("left", "right")]


def added(result: Result, x: Tensor, outputs: Sequence[int]) -> Tensor:
    """Return what every component adds to an output, or to the difference of two outputs, (component,)."""
    if isinstance(result, SpectralResult):
        factor, activity = result.outputs, result.activations(x)  # (block, rank)
    else:
        layer = result.to_layer()
        z = result.lift_input("x", x)
        factor, activity = layer.down, ((z @ layer.left) * (z @ layer.right))[:, None]  # (component, 1)
    rows = factor[int(result.constant_out) :][list(outputs)]
    weights = rows[0] - rows[1] if len(rows) > 1 else rows[0]
    return (weights[:, None] * activity).flatten()


def _blocks(result: SpectralResult, view: InputView, most: int) -> Iterator[Group]:
    """Yield the figures of the blocks that have the largest eigenvalues, in their order."""
    names, outputs = block_names(result), result.drop_constant().outputs
    labels = output_names(result, len(outputs))
    count = _IMAGES if view.shape is not None else _BARS
    sizes = result.eigenvalues.abs().amax(1) * result.outputs.norm(dim=0)
    for block in sorted(largest(sizes, most)):
        values = result.eigenvalues[block]
        order = values.argsort(descending=True).tolist()
        picks = [at for at in order if values[at] > 0][:count] + [at for at in order if values[at] < 0][-count:]
        texts = numbers(values[picks].tolist())
        cells = [cell(view, pixels(result, block, at), f"λ = {text}") for at, text in zip(picks, texts, strict=True)]
        if names[block].startswith("block ") or result.singular_values is not None:
            best = largest(outputs[:, block], _OUTPUTS)
            cells.insert(0, bars(outputs[:, block], [labels[i] for i in best], "outputs", of=len(labels)))
        if picks:  # none has an eigenvalue other than 0
            yield Group(names[block], cells)


def _cp_group(result: CPResult, view: InputView, at: int) -> Group:
    outputs, plus, minus = gauged(result)
    names = output_names(result, len(outputs))
    shown = [names[i] for i in largest(outputs[:, at], _OUTPUTS)]
    return Group(
        f"component {at + 1}",
        [
            bars(outputs[:, at], shown, "weight × outputs", of=len(names)),
            cell(view, plus[:, at], f"left + right, norm {float(plus[:, at].norm()):.3g}"),
            cell(view, minus[:, at], f"left − right, norm {float(minus[:, at].norm()):.3g}"),
        ],
    )


def _factors(result: Result, view: InputView, inputs: Tensor) -> Iterator[Group]:
    """Yield the figures of the leading columns of the input factor and of the output factor."""
    plain = inputs[int(result.constant_in) :]
    outputs = result.outputs[int(result.constant_out) :]
    names = output_names(result, len(outputs))
    columns = range(min(_MOST, plain.shape[1]))
    yield Group("columns of the inputs", [cell(view, plain[:, at], f"column {at + 1}") for at in columns])
    yield Group(
        "columns of the outputs",
        [
            bars(column, [names[i] for i in largest(column, _OUTPUTS)], f"column {at + 1}", of=len(names))
            for at, column in enumerate(outputs.T[:_MOST])
        ],
    )


def _singular(result: TuckerResult) -> Iterator[Figure]:
    for values, side in zip(result.singular_values or (), ("output", "input"), strict=False):
        yield spectrum(values.tolist(), f"singular values of the {side} unfolding", "singular value", ordered=True)


def _eigenvalues(result: SpectralResult) -> Figure:
    names = block_names(result)
    chosen = sorted(largest(result.eigenvalues.abs().amax(1), 40))
    title = "eigenvalues" if len(chosen) == len(names) else f"eigenvalues, {len(chosen)} of {len(names)} blocks"
    return strips({names[block]: result.eigenvalues[block].tolist() for block in chosen}, title, "eigenvalue")


def _eigen_records(result: SpectralResult, view: InputView) -> Iterator[Record]:
    names = block_names(result)
    squares = result.eigenvalues.double().square()
    shares = (squares / squares.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)).tolist()
    for block, values in enumerate(result.eigenvalues.tolist()):
        for at, value in enumerate(values):
            yield {
                "block": names[block],
                "number": at + 1,
                "eigenvalue": value,
                "share_of_squares": shares[block][at],
                "largest_entries": _entries(view, pixels(result, block, at)),
            }


def _cp_records(result: CPResult, view: InputView) -> Iterator[Record]:
    outputs, plus, minus = gauged(result)
    names = output_names(result, len(outputs))
    for at, weight in enumerate(outputs.norm(dim=0).tolist()):
        yield {
            "component": at + 1,
            "magnitude": weight,
            "outputs": _listed(names, outputs[:, at]),
            "left + right": _entries(view, plus[:, at]),
            "left − right": _entries(view, minus[:, at]),
        }


def named_records(result: HasRecords) -> Iterator[Record]:
    """Yield the records of a result or a circuit with the largest entries of each vector as a text."""
    for record in result.records():
        yield {
            key: _listed(list(value), torch.tensor(list(value.values()), dtype=torch.float64, device="cpu"))
            if isinstance(value, dict)
            else value
            for key, value in record.items()
        }


def _entries(view: InputView, vector: Tensor) -> str | None:
    """Return the largest entries of an input vector by name; None if the inputs have no names."""
    return None if view.shape is not None or view.names is None else _listed(view.names, vector)


def _listed(names: Sequence[str], vector: Tensor) -> str:
    best = largest(vector, _ENTRIES)
    texts = numbers(vector[best].tolist(), 2)
    return ", ".join(f"{names[i].strip() or repr(names[i])} {text}" for i, text in zip(best, texts, strict=True))


def _colours(view: InputView) -> str:
    if view.shape is not None:
        return "Red is positive, blue is negative, white is 0; ± gives the values of the full colours."
    return "Red is positive, blue is negative; the largest entries come first."


def outputs_table(names: Sequence[str], norms: Sequence[float]) -> Table:
    """Return the table of outputs with the norm of their interaction matrices and its share of the whole norm."""
    total = sum(norm**2 for norm in norms) or 1.0
    records = [
        {"output": name, "norm": norm, "share_of_squares": norm**2 / total}
        for name, norm in zip(names, norms, strict=True)
    ]
    return table_of("Outputs", records, "norm: of the symmetrized interaction matrix of the output.")
