"""Interaction matrices that are never formed: their products with vectors, their norms, and the rounding of both."""

from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.layer import BilinearLayer

_GRAM_ROWS = 512  # rows of the Gram matrix of hidden units in memory at once


class Matrices(NamedTuple):
    """These arrays define M[block] = 1/2 (left D right^T + right D left^T), D = diag(weights[block]), in float64."""

    left: Tensor  # (in, hidden)
    right: Tensor  # (in, hidden)
    weights: Tensor  # (block, hidden)

    def __call__(self, x: Tensor) -> Tensor:
        """Return M times the rows x (block, n, in); cost: 8 * in * hidden flops per row, shared by all blocks."""
        rows, half = x.flatten(0, 1), self.weights[:, None, :] / 2
        by_left = (rows @ self.left).view(*x.shape[:2], -1).mul_(half).flatten(0, 1)  # (block * n, hidden)
        by_right = (rows @ self.right).view(*x.shape[:2], -1).mul_(half).flatten(0, 1)
        return torch.addmm(by_left @ self.right.T, by_right, self.left.T).view(x.shape)

    def lengths(self) -> Tensor:
        """Return ||left|| ||right|| of every hidden unit, (hidden,)."""
        return torch.linalg.vector_norm(self.left, dim=0) * torch.linalg.vector_norm(self.right, dim=0)

    def scales(self, lengths: Tensor | None = None) -> Tensor:
        """Return sum_hidden |weights| ||left|| ||right||, (block,): an upper bound on the norm of M.

        This number times `rounding_share` bounds the rounding error of M times a unit vector. lengths: those of the
        hidden units, if they are known.
        """
        return self.weights.abs() @ (self.lengths() if lengths is None else lengths)


def rounding_share(n_in: int, hidden: int) -> float:
    """Return 4 * (in + hidden) * eps, which bounds the relative rounding error of sums over both modes."""
    return 4 * (n_in + hidden) * torch.finfo(torch.float64).eps


def squared_norms(layer: BilinearLayer, weights: Tensor) -> Tensor:
    """Return ||M||_F^2 per row of weights (block, hidden): weights^T C weights, C = Gram matrix of hidden units.

    C is that of `moments.cross_gram`. Flops: 4 * hidden^2 * in for all blocks together, plus hidden^2 per block.
    Memory: 512 rows of C at a time.
    """
    total = torch.zeros_like(weights[:, 0])
    for start in range(0, layer.rank, _GRAM_ROWS):
        left, right = (side[:, start : start + _GRAM_ROWS].T for side in (layer.left, layer.right))  # (rows, in)
        later = [side[:, start:] for side in (layer.left, layer.right)]  # C is symmetric
        gram = (left @ later[0]).mul_(right @ later[1])  # (rows, hidden - start)
        gram = gram.addcmul_(left @ later[1], right @ later[0]).mul_(0.5)
        gram[:, len(left) :] *= 2
        total += (weights[:, start : start + _GRAM_ROWS] @ gram).mul_(weights[:, start:]).sum(1)
    return total
