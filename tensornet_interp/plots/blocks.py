"""Helpers for figures of spectral results: the view of the inputs, and the names of the blocks."""

from torch import Tensor

from tensornet_interp.checks import check_int, check_kind
from tensornet_interp.names import Shape
from tensornet_interp.plots.inputs import InputView, input_view, output_names
from tensornet_interp.spectral import SpectralResult

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
    """Return an eigenvector without the constant coordinate of a lifted input."""
    vector = result.eigenvectors[block, :, rank]
    return vector[1:] if result.constant_in else vector
