"""Small numerical tools that every room needs: a division guard, unit columns, an interval of a mean."""

import torch
from scipy.special import stdtrit
from torch import Tensor

__all__ = ["nonzero", "t_quantile", "unit_columns"]


def nonzero(values: Tensor) -> Tensor:
    """Return values to divide by: positive ones unchanged, 1 in the place of the others."""
    return torch.where(values > 0, values, torch.ones_like(values))


def unit_columns(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """matrix[i, rank] = columns[i, rank] norms[rank], columns of unit norm; a column of zeros stays zero."""
    norms = torch.linalg.vector_norm(matrix, dim=0)
    return matrix / nonzero(norms), norms


def t_quantile(count: int, confidence: float) -> float:
    """Return t of the interval mean +- t standard_error: Student's quantile (1 + confidence) / 2, count - 1 degrees."""
    return float(stdtrit(count - 1, (1 + confidence) / 2))
