"""Helpers for figures of spectral results: the view of the inputs, and the names of the blocks."""

import re

from torch import Tensor

from tensornet_interp.checks import check_int, check_kind
from tensornet_interp.names import Shape
from tensornet_interp.plots.inputs import InputView, input_view, output_names
from tensornet_interp.results import Result
from tensornet_interp.spectral import SpectralResult

_VECTORS = re.compile(r"\b(eigen)?vectors\b")
_OTHER = 1e-6  # a block belongs to one output if it adds to the others less than this share


def result_view(result: SpectralResult, shape: Shape | None) -> InputView:
    """Return the view that draws the eigenvectors; raise TypeError if `result` is not a SpectralResult."""
    size = check_kind("result", result, SpectralResult).eigenvectors.shape[1] - result.constant_in
    return input_view(result, size, shape)


def check_count(count: int | None, result: SpectralResult, default: int) -> int:
    """Return `count` after a check; by default, return `default`, or the rank of the result if that is smaller."""
    if count is None:
        return min(default, result.rank)
    return check_int("count", count, 1, result.rank, "the rank of the result")


def block_names(result: SpectralResult) -> list[str]:
    """Return one name per block: the output that it adds to, or "block" and its number if it adds to several."""
    outputs = result.outputs.detach().abs()
    plain = outputs[int(result.constant_out) :]
    names = output_names(result, len(plain))
    found = []
    for block, column in enumerate(plain.T):
        at = int(column.argmax())
        rest = outputs[:, block].sum() - column[at]
        found.append(names[at] if bool(rest <= _OTHER * column[at]) and bool(column[at] > 0) else f"block {block}")
    return found


def pixels(result: SpectralResult, block: int, rank: int) -> Tensor:
    """Return an eigenvector, or in a metric its pattern, without the constant coordinate of a lifted input."""
    vector = patterns_of(result, result.filters[block, :, rank, None])[:, 0]
    return vector[1:] if result.constant_in else vector


def patterns_of(result: Result, vectors: Tensor) -> Tensor:
    """Return what a figure draws of input vectors (in, rank): the vectors, or in a metric their patterns."""
    return vectors if result.metric is None else result.metric.apply(vectors)


def caption(result: Result, what: str) -> str:
    """Return the title of a figure of input vectors; it names the basis, and says if patterns in a metric are drawn.

    what: the text with "eigenvectors" or "vectors" in it, which the word "patterns" replaces.
    """
    if result.metric is None:
        return f"{what}, basis: {result.report.basis}"
    count = "" if result.metric.count is None else f" of {result.metric.count} inputs"
    return f"{_VECTORS.sub('patterns', what)}, basis: {result.report.basis}, in the metric{count}"
