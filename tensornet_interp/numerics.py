"""Provide small numerical tools: safe divisors, unit columns, rounding errors, Student's quantile, autocast off."""

import functools
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch
from scipy.special import stdtrit
from torch import Tensor

__all__ = [
    "at_largest",
    "eigenvalue_noise",
    "nonzero",
    "row_noise",
    "t_interval",
    "t_quantile",
    "unit_columns",
    "without_autocast",
]

P = ParamSpec("P")
R = TypeVar("R")

EPS = torch.finfo(torch.float64).eps


def nonzero(values: Tensor) -> Tensor:
    """Return safe divisors: positive values unchanged, and 1 in place of all other values."""
    return torch.where(values > 0, values, torch.ones_like(values))


def at_largest(n: int, scores: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
    """Return the entries of every array at the n largest scores, or at all if there are fewer, largest first."""
    best = scores.topk(min(n, len(scores))).indices
    return tuple(array[best] for array in arrays)


def unit_columns(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns of a matrix scaled to unit norm, and their norms; a column of zeros stays zero.

    matrix[i, rank] = columns[i, rank] * norms[rank]
    """
    largest = matrix.detach().abs().amax(0)
    scaled = matrix / nonzero(largest)  # squares neither over- nor underflow
    norms = torch.linalg.vector_norm(scaled, dim=0)
    return scaled / nonzero(norms), norms * largest


def row_noise(rows: Tensor, dtype: torch.dtype) -> float:
    """Return the share of the largest singular value of `rows` (row, size) below which others are rounding errors.

    Rounding the entries to `dtype` changes singular values by about eps / 2 times the root mean square of the entries,
    times sqrt(row) + sqrt(size). For float64 the cut is the usual one, max(row, size) * eps.
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
    """Return the rounding errors of eigenvalues (..., rank) of matrices (size, size), in float64 and in the same shape.

    Computing in float64 has an error of 10 * size * eps times the largest eigenvalue. A dtype narrower than float64
    adds its own eps times the largest eigenvalue, because the weights were rounded to it, and its eps times each
    eigenvalue, because this is rounded too.
    """
    wide = values.abs().to(torch.float64)
    largest = wide.amax(-1, keepdim=True)
    work = (10 * size * EPS * largest).expand_as(wide)
    return work if values.dtype == torch.float64 else work + torch.finfo(values.dtype).eps * (largest + wide)


def t_quantile(count: int, confidence: float) -> float:
    """Return the factor t of the confidence interval mean +- t * standard_error for the mean of `count` numbers.

    t is Student's quantile at (1 + confidence) / 2 with count - 1 degrees of freedom.
    """
    return float(stdtrit(count - 1, (1 + confidence) / 2))


def t_interval(values: Tensor, confidence: float) -> tuple[float, float]:
    """Return the ends of the confidence interval of the mean of values (n,): mean -+ t_quantile * std / sqrt(n).

    The ends are NaN for fewer than two values.
    """
    if len(values) < 2:
        return math.nan, math.nan
    reach = t_quantile(len(values), confidence) * float(values.std()) / len(values) ** 0.5
    middle = float(values.mean())
    return middle - reach, middle + reach


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function with `torch.autocast` switched off during each call.

    Autocast would round matrix products to half precision. Use this decorator on functions that multiply tensors in the
    caller's dtype. Autocast does not change float64, so functions that work only in float64 do not need it.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return run
