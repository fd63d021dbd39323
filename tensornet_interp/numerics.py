"""Small numerical tools that every room needs: a division guard, unit columns, what is rounding, an interval."""

import torch
from scipy.special import stdtrit
from torch import Tensor

__all__ = ["eigenvalue_noise", "nonzero", "row_noise", "t_quantile", "unit_columns"]

EPS = torch.finfo(torch.float64).eps


def nonzero(values: Tensor) -> Tensor:
    """Return values to divide by: positive ones unchanged, 1 in the place of the others."""
    return torch.where(values > 0, values, torch.ones_like(values))


def unit_columns(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """matrix[i, rank] = columns[i, rank] norms[rank], columns of unit norm; a column of zeros stays zero."""
    largest = matrix.detach().abs().amax(0)
    scaled = matrix / nonzero(largest)  # squares of what is left neither over- nor underflow
    norms = torch.linalg.vector_norm(scaled, dim=0)
    return scaled / nonzero(norms), norms * largest


def row_noise(rows: Tensor, dtype: torch.dtype) -> float:
    """Return the share of the largest singular value of rows (row, size) below which others are rounding to a dtype.

    Rows that were given in a dtype depend on each other to its rounding: about eps / 2 of the mean entry times
    sqrt(row) + sqrt(size). Float64 keeps its usual cut, max(row, size) eps.
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
    """Return how far eigenvalues (..., rank) of matrices (size, size) may be off, float64, in their shape.

    The work is in float64: 10 size eps of the largest eigenvalue. A narrower dtype adds eps of the largest, since the
    weights were rounded to it, and eps of each value, since that is rounded too.
    """
    wide = values.abs().to(torch.float64)
    largest = wide.amax(-1, keepdim=True)
    work = (10 * size * EPS * largest).expand_as(wide)
    return work if values.dtype == torch.float64 else work + torch.finfo(values.dtype).eps * (largest + wide)


def t_quantile(count: int, confidence: float) -> float:
    """Return t of the interval mean +- t standard_error: Student's quantile (1 + confidence) / 2, count - 1 degrees."""
    return float(stdtrit(count - 1, (1 + confidence) / 2))
