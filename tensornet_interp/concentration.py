"""Concentration: how few entries hold most of a vector, and how much of it lies on inputs that data rarely use."""

import torch
from torch import Tensor

from tensornet_interp.checks import check_share, check_size, check_tensor
from tensornet_interp.numerics import nonzero

__all__ = ["energy_share", "participation", "rare_inputs"]


def participation(values: Tensor, dim: int = -1) -> Tensor:
    """Return how many entries hold most of a vector, float64.

    (sum |values|)^2 / sum values^2 along `dim`

    It is (L1 / L2)^2 and does not depend on scale: 1 for a single entry, n for n equal ones, 0 if all are zero. For
    eigenvalues it is the effective rank, for an eigenvector (dim = in) the number of inputs that it is spread over.
    """
    magnitude = values.abs().to(torch.float64)
    magnitude = magnitude / nonzero(magnitude.detach().amax(dim, keepdim=True))  # free of scale, and so are its squares
    squared = magnitude.square().sum(dim)
    return magnitude.sum(dim).square() / nonzero(squared)


def rare_inputs(x: Tensor, share: float = 0.01) -> Tensor:
    """Return which pixels are active in few of the images x (batch, in): boolean (in,).

    rare[in] = mean_batch [x > 0] < share

    Pixels that are never active are rare too; `rare_inputs(x) & (x > 0).any(0)` leaves them out. Without input noise
    the data never changes the weights of such pixels, so they keep their initial values.
    Raises ValueError if share is not in (0, 1].
    """
    check_tensor("x", x, ("batch", "in"))
    check_share("share", share, low_open=True, high_open=False)
    return (x > 0).to(torch.float64).mean(0) < share


def energy_share(vectors: Tensor, mask: Tensor) -> Tensor:
    """Return the share of a vector's squared norm on the inputs of a boolean mask (in,), for vectors (..., in).

    sum_in mask vectors^2 / sum_in vectors^2

    It is from 0 to 1, and 0 for a zero vector; a vector without a preference has `mask.double().mean()` on average.
    Eigenvectors are columns: pass `result.eigenvectors.mT`.
    Raises TypeError if the mask is not boolean, ValueError if sizes differ.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a boolean tensor (in,), got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.ndim != 1 or vectors.ndim == 0:
        raise ValueError(f"mask must be (in,), vectors (..., in); got {tuple(mask.shape)} and {tuple(vectors.shape)}")
    check_size("in", vectors=vectors.shape[-1], mask=len(mask))
    wide = vectors.to(torch.float64)
    squared = (wide / nonzero(wide.abs().amax(-1, keepdim=True))).square()  # a share depends on no scale
    total = squared.sum(-1)
    return squared[..., mask].sum(-1) / nonzero(total)
