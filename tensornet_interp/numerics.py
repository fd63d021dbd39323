"""Small numerical tools for every room: a division guard, unit columns, rounding errors, Student's quantile."""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch
from scipy.special import stdtrit
from torch import Tensor

__all__ = ["eigenvalue_noise", "nonzero", "row_noise", "t_quantile", "unit_columns", "without_autocast"]

P = ParamSpec("P")
R = TypeVar("R")

EPS = torch.finfo(torch.float64).eps


def nonzero(values: Tensor) -> Tensor:
    """Return values to divide by: positive values unchanged, 1 in the place of all others."""
    return torch.where(values > 0, values, torch.ones_like(values))


def unit_columns(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns of a matrix, scaled to unit norm, and their norms; a column of zeros stays zero.

    matrix[i, rank] = columns[i, rank] norms[rank]
    """
    largest = matrix.detach().abs().amax(0)
    scaled = matrix / nonzero(largest)  # squares neither over- nor underflow
    norms = torch.linalg.vector_norm(scaled, dim=0)
    return scaled / nonzero(norms), norms * largest


def row_noise(rows: Tensor, dtype: torch.dtype) -> float:
    """Return the cut below which singular values of rows (row, size) are rounding errors of a dtype.

    The cut is a share of the largest singular value. Rounding the entries to the dtype changes singular values by about
    eps / 2 of the mean entry times sqrt(row) + sqrt(size). Float64 keeps its usual cut, max(row, size) eps.
    """
    eps = torch.finfo(dtype).eps
    if dtype == torch.float64:
        return max(rows.shape) * eps
    wide = rows.detach().to(torch.float64)
    largest = float(wide.abs().max())
    if not largest > 0:
        return eps
    wide = wide / largest  # squares neither over- nor underflow
    noise = eps / 2 * wide.square().mean().sqrt() * sum(size**0.5 for size in rows.shape)
    return float(noise / torch.linalg.matrix_norm(wide, 2))


def eigenvalue_noise(values: Tensor, size: int) -> Tensor:
    """Return the rounding error of eigenvalues (..., rank) of matrices (size, size), float64, of the same shape.

    Computing in float64 costs 10 size eps of the largest eigenvalue. A narrower dtype adds its eps of the largest,
    since the weights were rounded to it, and its eps of each value, since the value is rounded too.
    """
    wide = values.abs().to(torch.float64)
    largest = wide.amax(-1, keepdim=True)
    work = (10 * size * EPS * largest).expand_as(wide)
    return work if values.dtype == torch.float64 else work + torch.finfo(values.dtype).eps * (largest + wide)


def t_quantile(count: int, confidence: float) -> float:
    """Return t of the interval mean +- t standard_error of `count` numbers.

    It is Student's quantile at (1 + confidence) / 2 with count - 1 degrees of freedom.
    """
    return float(stdtrit(count - 1, (1 + confidence) / 2))


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function to be called outside of `torch.autocast`, which would round its products to half precision.

    Every product of tensors that may be in the caller's dtype belongs in such a function. Autocast leaves float64
    alone, so work in float64 needs none.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return run
