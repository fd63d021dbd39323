"""Figures of eigendecompositions: spectra, eigenvectors, and the output directions that outputs share."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.checks import (
    check_int,
    check_kind,
    check_mapping,
    check_names,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.compare import DETERMINED, ComponentTrust
from tensornet_interp.names import Shape
from tensornet_interp.plots.blocks import block_names, caption, check_count, pixels, result_view
from tensornet_interp.plots.images import to_numpy
from tensornet_interp.plots.inputs import output_names, vector_view
from tensornet_interp.plots.sheets import LABEL, Sheet, bare, fitted, line_height, numbers, signs
from tensornet_interp.spectral import SpectralResult

_WIDEST = 13.0  # inches: more columns continue in further rows
GAP = 0.12  # inches between cells
UNDER = 0.2  # inches for the scale below a cell
_SMALL = 0.01  # eigenvalues below this share of the largest magnitude are left out of a spectrum ...
_LEAST = 10  # ... if there are more of them than this


def spectrum(
    result: SpectralResult,
    block: int,
    shape: Shape | None = None,
    *,
    name: str = "",
    count: int | None = None,
    trust: ComponentTrust | None = None,
) -> Figure:
    """Draw the eigenvalues of a block, and its `count` most positive (top) and most negative (bottom) eigenvectors.

    Of a result in a metric, patterns are drawn, and the title says so. If more than 10 eigenvalues are below 1 % of the
    largest magnitude, the spectrum leaves these out. shape: (height, width) of inputs that are images. name: the name
    of the block in the title. By default, both come from the result, as far as it knows them. count: by default 4, or
    the rank if that is smaller. trust: that of `component_trust`; each eigenvalue then has an error bar, the noise, and
    is hollow if its eigenvector is undetermined.
    """
    view = result_view(result, shape)
    check_int("block", block, 0, len(result.eigenvalues) - 1)
    count = check_count(count, result, 4)
    check_text("name", name, empty=True)
    values = to_numpy(result.eigenvalues[block])
    order = np.argsort(values)[::-1]
    pitch = line_height(LABEL) + view.height + UNDER + GAP
    height, left = max(2 * pitch, 2.6), 4.4
    what = "" if result.metric is None else " and its patterns"
    title = caption(result, f"Interaction matrix of {name or block_names(result)[block]}{what}")
    figure = Sheet(left + count * (view.width + GAP) + 0.2, height, title, view.note)
    axes = figure.panel(0.8, 0.3, left - 1.1, height - 0.8)
    if trust is None:
        _draw_spectrum(axes, values[order])
    else:
        errors = check_kind("trust", trust, ComponentTrust, "; component_trust(result, layer) gives one")
        check_size("block", result=len(result.eigenvalues), trust=len(errors.standard_error))
        check_size("rank", result=result.rank, trust=errors.standard_error[block].numel())
        loose = to_numpy(errors.standard_error[block].reshape(-1).clamp_max(1.0)) >= DETERMINED
        _draw_spectrum(axes, values[order], to_numpy(errors.noise[block].reshape(-1))[order], loose[order])
    rows = (order[:count], order[::-1][:count])
    texts = numbers(values[np.concatenate(rows)])
    for row, picks in enumerate(rows):
        for column, pick in enumerate(picks):
            cell = figure.panel(left + column * (view.width + GAP), 0.2 + row * pitch, view.width, view.height)
            view.draw(cell, pixels(result, block, int(pick)), texts[row * count + column])
    return figure


def _draw_spectrum(
    axes: Axes, values: np.ndarray, noise: np.ndarray | None = None, loose: np.ndarray | None = None
) -> None:
    """Draw sorted eigenvalues against their number; if many of them are small, a grey gap stands for these.

    noise: error bars. loose: where eigenvectors are undetermined, and so points are hollow.
    """

    def mark(places: np.ndarray, part: np.ndarray) -> None:
        if noise is None or loose is None:
            return
        axes.errorbar(places, values[part], noise[part], fmt="none", ecolor="0.3", elinewidth=0.8, capsize=2)
        hollow = loose[part]
        axes.plot(places[hollow], values[part][hollow], "o", color="C0", markerfacecolor="white", markersize=5)

    small = np.flatnonzero(np.abs(values) < _SMALL * np.abs(values).max())
    numbers_of = np.arange(1, len(values) + 1)
    axes.axhline(0, color="0.7", linewidth=0.8)
    axes.set_xlabel("eigenvalue number, largest first", fontsize=LABEL)
    axes.set_ylabel("eigenvalue", fontsize=LABEL)
    axes.tick_params(labelsize=LABEL)
    axes.set_title("spectrum", fontsize=LABEL)
    if len(small) <= _LEAST:
        axes.plot(numbers_of, values, ".-", markersize=4, linewidth=0.8)
        mark(numbers_of, np.arange(len(values)))
        axes.locator_params(axis="x", integer=True)
        return
    first, last = small[0], small[-1] + 1  # the values are sorted, so the small ones stand together
    gap = max(2, (len(values) - len(small)) // 8)
    places = np.concatenate([numbers_of[:first], numbers_of[last:] - (last - first) + gap])
    kept = np.concatenate([values[:first], values[last:]])
    mark(places, np.r_[:first, last : len(values)])
    for part in (places <= first, places > first):
        axes.plot(places[part], kept[part], ".-", color="C0", markersize=4, linewidth=0.8)
    axes.axvspan(first + 0.5, first + gap + 0.5, color="0.93", zorder=0)
    axes.set_title(f"spectrum, without {len(small)} values below {_SMALL:.0%} of the largest (grey)", fontsize=LABEL)
    ends = sorted({1, int(first), int(last) + 1, len(values)} - {0, len(values) + 1})
    axes.set_xticks([end if end <= first else end - (last - first) + gap for end in ends], [str(end) for end in ends])


def eigenvectors(
    result: SpectralResult,
    shape: Shape | None = None,
    names: Sequence[str] | None = None,
    *,
    count: int | None = None,
) -> Figure:
    """Draw the `count` most positive and most negative eigenvectors of every block, one column per block.

    Of a result in a metric, patterns are drawn, and the title says so. A cell is empty if a block has fewer than
    `count` eigenvalues of that sign. shape: (height, width) of inputs that are images. names: one per block. By
    default, both come from the result, as far as it knows them. count: by default 2, or the rank if that is 1. Blocks
    that do not fit side by side continue below. Raises ValueError unless there is one name per block.
    """
    view = result_view(result, shape)
    blocks = len(result.eigenvalues)
    names = block_names(result) if names is None else check_names("names", names, blocks, "block")
    count = check_count(count, result, 2)
    left = 0.35
    columns = min(blocks, max(1, int((_WIDEST - left) / (view.width + GAP))))
    labels, _, head = fitted(names, view.width, LABEL, 3)
    pitch = line_height(LABEL) + view.height + UNDER
    band = head + 2 * count * pitch + GAP
    bands = -(-blocks // columns)
    title = caption(result, "Leading eigenvectors with their eigenvalues")
    figure = Sheet(left + columns * (view.width + GAP) + 0.1, bands * band + 0.1, title, view.note)
    picked = [_extremes(result.eigenvalues[block], count) for block in range(blocks)]
    texts = iter(
        numbers(float(result.eigenvalues[b, i]) for b, picks in enumerate(picked) for i in picks if i is not None)
    )
    shown = {(b, i): next(texts) for b, picks in enumerate(picked) for i in picks if i is not None}
    for start in range(0, blocks, columns):
        for row in range(2 * count):
            top = start // columns * band + head + row * pitch + line_height(LABEL) + 0.05
            for block in range(start, min(start + columns, blocks)):
                pick = picked[block][row]
                cell = figure.panel(left + (block - start) * (view.width + GAP), top, view.width, view.height)
                above = f"{labels[block]}\n" if row == 0 else ""
                if pick is None:
                    bare(cell)
                    cell.set_title(above.rstrip("\n") and f"{labels[block]}\n ", fontsize=LABEL)
                else:
                    view.draw(cell, pixels(result, block, pick), f"{above}{shown[block, pick]}")
                if block == start:
                    side = f"positive {row + 1}" if row < count else f"negative {2 * count - row}"
                    cell.set_ylabel(side, fontsize=LABEL)
    return figure


def _extremes(values: Tensor, count: int) -> list[int | None]:
    """Return the places of the `count` most positive and then the most negative values; None if there are fewer."""
    order = values.argsort(descending=True).tolist()
    positive = [i for i in order if values[i] > 0][:count]
    negative = [i for i in order if values[i] < 0][-count:]
    return [*positive, *[None] * (2 * count - len(positive) - len(negative)), *negative]


def output_directions(
    result: SpectralResult,
    shape: Shape | None = None,
    names: Sequence[str] | None = None,
    *,
    directions: int = 4,
    count: int | None = None,
) -> Figure:
    """Draw shared output directions, one row each: their weights on every output and their leading eigenvectors.

    result: the result of `output_svd`. Bars show the weights; to their right are the `count` most positive and most
    negative eigenvectors, or in a metric their patterns. A direction and its eigenvalues may change sign together.
    shape: (height, width) of inputs that are images. names: one per output. By default, both come from the result, as
    far as it knows them. directions: the number of rows; there are fewer if the result has fewer directions. count: by
    default 2, or the rank if that is 1.
    """
    view = result_view(result, shape)
    outputs = to_numpy(result.drop_constant().outputs)
    names = output_names(result, len(outputs), names)
    count = check_count(count, result, 2)
    if result.singular_values is None:
        raise ValueError("result has no singular values; decompose the layer by 'output_svd'")
    singular = to_numpy(result.singular_values)
    rows = min(check_int("directions", directions, 1), result.outputs.shape[1])
    labels, widest, _ = fitted(names, 2.2, LABEL - 1, 1)
    flat = widest <= 0.2
    under = line_height(LABEL) + 0.05 if flat else widest + 0.1  # labels of the bars, upright if they are long
    width, left = max(2.4, 0.17 * len(names)), 0.6
    pitch = line_height(LABEL) + max(view.height + UNDER, 0.9 + under) + GAP
    title = caption(result, "Output directions by singular value, most positive and most negative eigenvectors")
    title = title.replace(", basis: ", "\nbasis: ", 1)
    figure = Sheet(left + width + 0.2 + 2 * count * (view.width + GAP), rows * pitch + 0.1, title, view.note)
    limit = 1.05 * float(np.abs(outputs[:, :rows]).max())
    for block in range(rows):
        top = block * pitch + line_height(LABEL) + 0.1
        bars = figure.panel(left, top, width, pitch - line_height(LABEL) - GAP - under)
        bars.bar(range(len(names)), outputs[:, block], color=signs(outputs[:, block]))
        bars.axhline(0, color="0.4", linewidth=0.8)
        bars.set_xticks(range(len(names)), labels, fontsize=LABEL - 1, rotation=0 if flat else 90)
        bars.tick_params(axis="y", labelsize=LABEL - 1)
        bars.set_ylim(-limit, limit)
        share = singular[block] ** 2 / (singular**2).sum()
        bars.set_title(f"direction {block + 1}: σ = {singular[block]:.3g}, {share:.0%} of the norm²", fontsize=LABEL)
        order = result.eigenvalues[block].argsort(descending=True).tolist()
        picks = [*order[:count], *order[-count:]]
        for column, (pick, text) in enumerate(
            zip(picks, numbers(result.eigenvalues[block, picks].tolist()), strict=True)
        ):
            place = left + width + 0.2 + column * (view.width + GAP)
            view.draw(figure.panel(place, top, view.width, view.height), pixels(result, block, pick), text)
    return figure


def compared_vectors(
    vectors: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    shape: Shape | None = None,
    *,
    input_names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw vectors (count, in) of several models: one row per model, one column per vector.

    shape: (height, width) if the vectors are images; without it they are drawn as bars with `input_names`.
    values: numbers above the vectors, such as eigenvalues, (count,) per model; a model without an entry has no numbers.
    Every vector has its own scale, with zero in the middle.
    """
    check_text("title", title, empty=True)
    check_mapping("values", values)
    if not check_mapping("vectors", vectors):
        raise ValueError("vectors is empty: give the vectors (count, in) of at least one model")
    first = next(iter(vectors.values()))
    for name, rows in vectors.items():
        check_tensor(f"vectors['{name}']", rows, ("vector", "in"))
        check_size("in", vectors=first.shape[1], **{f"vectors['{name}']": rows.shape[1]})
        if name in values:
            check_tensor(f"values['{name}']", values[name], ("vector",))
            check_size("vector", vectors=len(rows), values=len(values[name]))
    view = vector_view("vectors", first.shape[1], shape, input_names)
    count = max(len(rows) for rows in vectors.values())
    labels, left, _ = fitted(vectors, 1.6, LABEL, 4)
    pitch = line_height(LABEL) + view.height + UNDER
    left += 0.3
    figure = Sheet(left + count * (view.width + GAP) + 0.1, len(vectors) * pitch + 0.1, title, view.note)
    for row, (label, (name, drawn)) in enumerate(zip(labels, vectors.items(), strict=True)):
        texts = numbers(values[name].tolist()) if name in values else [""] * count
        for column in range(count):
            place = left + column * (view.width + GAP), row * pitch + line_height(LABEL) + 0.05
            cell = figure.panel(*place, view.width, view.height)
            if column < len(drawn):
                view.draw(cell, drawn[column], texts[column])
            else:
                cell.set_axis_off()
            if column == 0:
                cell.set_ylabel(label, fontsize=LABEL, rotation=0, ha="right", va="center")
    return figure
