"""Moments of data that are not there, as controls for the metric of the data."""

import torch
from torch import Tensor

from tensornet_interp import Moments


def rotation(size: int, seed: int) -> Tensor:
    """Return a random rotation (size, size)."""
    draw = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(draw).Q


def turned(moments: Moments, seed: int) -> Moments:
    """Return the moments of the inputs after a random rotation: the same eigenvalues along other directions."""
    q = rotation(len(moments.mean), seed)
    return Moments(q @ moments.mean, q @ moments.covariance @ q.T, moments.count, "turned at random")


def permuted(moments: Moments, seed: int) -> Moments:
    """Return the moments of the inputs after a random permutation of the coordinates."""
    order = torch.randperm(len(moments.mean), generator=torch.Generator().manual_seed(seed))
    return Moments(moments.mean[order], moments.covariance[order][:, order], moments.count, "permuted")
