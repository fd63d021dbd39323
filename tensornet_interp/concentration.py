"""Measure how few entries hold most of a vector, and how much of the vector is on inputs that data rarely use."""

import torch
from torch import Tensor

from tensornet_interp.checks import check_batch, check_int, check_mask, check_share, check_tensor
from tensornet_interp.float64 import needs_float64
from tensornet_interp.numerics import nonzero

__all__ = ["energy_share", "participation", "rare_inputs"]


@needs_float64
def participation(values: Tensor, dim: int = -1) -> Tensor:
    """Return the effective number of entries of a vector along `dim`, in float64.

    (sum |values|)^2 / sum values^2

    The number does not depend on the scale of the vector. It is 1 for a single nonzero entry, n for n equal entries,
    and 0 if all entries are zero. For eigenvalues it is the effective rank. For an eigenvector (dim = in) it is the
    number of inputs over which the vector is spread.
    """
    check_tensor("values", values, ("...",) * getattr(values, "ndim", 1), finite=False)
    check_int("dim", dim, -values.ndim, values.ndim - 1, f"values has {values.ndim} axes")
    magnitude = values.abs().to(torch.float64)
    magnitude = magnitude / nonzero(magnitude.detach().amax(dim, keepdim=True))  # squares must not over- or underflow
    squared = magnitude.square().sum(dim)
    return magnitude.sum(dim).square() / nonzero(squared)


@needs_float64
def rare_inputs(x: Tensor, share: float = 0.01) -> Tensor:
    """Return True for every pixel that is active in less than `share` of the images x (batch, in): boolean (in,).

    rare[in] = mean_batch [x > 0] < share

    Pixels that are never active are rare too; `rare_inputs(x) & (x > 0).any(0)` excludes them. Without input noise,
    data never changes the weights of such pixels, so these weights keep their initial values.
    Raises ValueError if `share` is not in (0, 1].
    """
    check_tensor("x", x, ("batch", "in"))
    check_share("share", share, low_open=True, high_open=False)
    return (x > 0).to(torch.float64).mean(0) < share


@needs_float64
def energy_share(vectors: Tensor, mask: Tensor) -> Tensor:
    """Return the share of the squared norm of vectors (..., in) that is on the inputs of a boolean mask (in,).

    sum_in mask vectors^2 / sum_in vectors^2

    The share is from 0 to 1, and 0 for a zero vector. A random vector without a preference has the share
    `mask.double().mean()` on average. Vectors are rows here, but eigenvectors are columns: pass
    `result.eigenvectors.mT`.
    Raises TypeError if the mask is not boolean, ValueError if sizes differ.
    """
    check_batch("vectors", vectors, "in", finite=False)
    check_mask("mask", mask, ("in",), (vectors.shape[-1],))
    wide = vectors.to(torch.float64)
    squared = (wide / nonzero(wide.abs().amax(-1, keepdim=True))).square()  # a share depends on no scale
    total = squared.sum(-1)
    return squared[..., mask].sum(-1) / nonzero(total)
