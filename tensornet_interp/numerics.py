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
    "TALL",
    "at_largest",
    "cholesky_qr",
    "eigenvalue_noise",
    "largest_entries",
    "nonzero",
    "row_noise",
    "t_interval",
    "t_quantile",
    "thin_qr",
    "unit_columns",
    "without_autocast",
]

P = ParamSpec("P")
R = TypeVar("R")

EPS = torch.finfo(torch.float64).eps
TALL = 8  # rows per column from which Cholesky factors of Gram matrices are faster than Householder reflections


def nonzero(values: Tensor) -> Tensor:
    """Return safe divisors: positive values unchanged, and 1 in place of all other values."""
    return torch.where(values > 0, values, torch.ones_like(values))


def largest_entries(columns: Tensor) -> Tensor:
    """Return the largest magnitude in each column, without a graph of gradients; no array of magnitudes is made."""
    columns = columns.detach()
    return torch.maximum(columns.amax(0), -columns.amin(0))


def at_largest(n: int, scores: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
    """Return the entries of every array at the n largest scores, or at all if there are fewer, largest first."""
    best = scores.topk(min(n, len(scores))).indices
    return tuple(array[best] for array in arrays)


def unit_columns(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns of a matrix scaled to unit norm, and their norms; a column of zeros stays zero.

    matrix[i, rank] = columns[i, rank] * norms[rank]
    """
    largest = largest_entries(matrix)
    scaled = matrix / nonzero(largest)  # squares neither over- nor underflow
    norms = torch.linalg.vector_norm(scaled, dim=0)
    return scaled / nonzero(norms), norms * largest


def cholesky_qr(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the QR decomposition of a tall matrix of clearly independent columns; None if it is another matrix.

    The factor R is the Cholesky factor of the Gram matrix, so matrix products replace Householder reflections, which
    are faster for fewer than 8 rows per column. A second pass makes Q orthonormal to rounding if the first left it
    within 1/2, which holds for condition numbers of the unit columns up to about 1e7. Source: Yamamoto et al.,
    Electron. Trans. Numer. Anal. 44, 2015 (CholeskyQR2).
    """
    if matrix.requires_grad or matrix.shape[0] < TALL * matrix.shape[1]:
        return None
    unit = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    basis, triangle = matrix, unit
    for passed in range(2):
        gram = basis.T @ basis
        if passed and not bool((gram - unit).norm() < 0.5):
            return None
        root, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            return None
        basis = torch.linalg.solve_triangular(root.T, basis, upper=True, left=False)
        triangle = root.T @ triangle
    return basis, triangle


def thin_qr(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q (rows, n) with orthonormal columns and R (n, n), upper triangular: matrix = Q R, for n <= rows."""
    found = cholesky_qr(matrix)
    if found is None:
        basis, triangle = torch.linalg.qr(matrix)
        return basis, triangle
    return found


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
