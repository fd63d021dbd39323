"""Interaction matrices that are never formed: their products with vectors, their norms, and the rounding of both."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import cross_gram
from tensornet_interp.numerics import nonzero

RANDOM = 0.03  # share of a random vector in the start vector, lest it has no part of an eigenvector
_GRAM_ROWS = 512  # rows of the Gram matrix of hidden units in memory at once


class Matrices(NamedTuple):
    """These arrays define M[block] = 1/2 (left D right^T + right D left^T), D = diag(weights[block]), in float64."""

    left: Tensor  # (in, hidden)
    right: Tensor  # (in, hidden)
    weights: Tensor  # (block, hidden)

    def __call__(self, x: Tensor) -> Tensor:
        """Return M times the rows x (block, n, in), or x (1, n, in) for all blocks.

        Cost: 8 * in * hidden flops per row, in products that all blocks share; half of this for rows that they share.
        """
        rows, weights = x.flatten(0, 1), self.weights[:, None, :]
        products = [(rows @ side).view(*x.shape[:2], -1) for side in (self.left, self.right)]  # (block, n, hidden)
        by_left, by_right = (
            (one.mul_(weights) if len(one) == len(weights) else one * weights).flatten(0, 1) for one in products
        )
        image = torch.addmm(by_left @ self.right.T, by_right, self.left.T, beta=0.5, alpha=0.5)
        return image.view(len(weights), *x.shape[1:])

    def lengths(self) -> Tensor:
        """Return ||left|| ||right|| of every hidden unit, (hidden,)."""
        return (self.left.square().sum(0) * self.right.square().sum(0)).sqrt()

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

    C is their `cross_gram`. Flops: 4 * hidden^2 * in for all blocks together, plus hidden^2 per block.
    Memory: 512 rows of C at a time.
    """
    total = torch.zeros_like(weights[:, 0])
    for start in range(0, layer.rank, _GRAM_ROWS):
        rows, later = slice(start, start + _GRAM_ROWS), slice(start, None)  # C is symmetric
        gram = cross_gram(_units(layer, rows), _units(layer, later))  # (rows, hidden - start)
        gram[:, len(gram) :] *= 2
        total += (weights[:, rows] @ gram).mul_(weights[:, later]).sum(1)
    return total


def _units(layer: BilinearLayer, units: slice) -> BilinearLayer:
    return replace(layer, down=layer.down[:, units], left=layer.left[:, units], right=layer.right[:, units])


def start_vectors(matrices: Matrices, k: int, seed: int) -> Tensor:
    """Return k start vectors (k, in) for all blocks: the first leans to where left and right are large, as M does."""
    draws = torch.randn(
        (k + 1, len(matrices.left)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu"
    ).to(matrices.left)
    lengths = torch.linalg.vector_norm(draws, dim=1, keepdim=True)
    first, *others = draws / lengths
    leaning = matrices.left @ (first @ matrices.left) + matrices.right @ (first @ matrices.right)
    leaning = leaning / nonzero(torch.linalg.vector_norm(leaning))
    return torch.stack([leaning + RANDOM * others[0], *others[1:]])
