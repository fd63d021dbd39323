"""A subspace that all interaction matrices share: where their weights are large, much of each matrix is in it."""

from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.spectra.matrices import RANDOM, Matrices

_SINGLE = 1e-4  # the smallest tolerance that float32 can reach
_LARGEST = 32  # vectors of the subspace
_ITERATIONS = 2  # multiplications of random vectors by left left^T + right right^T


class Shared(NamedTuple):
    """A shared subspace gives every matrix M a start vector, and a bound on what a search has not found.

    The compression Q^T M Q is small, and it is linear in the weights: one product of matrices computes it for all.
    """

    basis: Tensor  # Q (in, size), orthonormal columns
    products: Tensor  # (hidden, size * (size + 1) / 2): the compression of every hidden unit, upper triangles

    @classmethod
    def of(cls, matrices: Matrices, seed: int, max_elements: int) -> "Shared | None":
        """Return a subspace for which `products` have at most `max_elements` numbers; None if it would be empty."""
        left, right, _ = matrices
        most = (isqrt(8 * (max_elements // left.shape[1]) + 1) - 1) // 2  # triangles of this size have enough room
        size = min(_LARGEST, len(left) // 4, most)
        if size < 1:
            return None
        generator = torch.Generator().manual_seed(seed)
        basis = torch.randn(len(left), size, generator=generator, dtype=torch.float64, device="cpu").to(left)
        for _ in range(_ITERATIONS):
            basis = torch.linalg.qr(left @ (left.T @ basis) + right @ (right.T @ basis)).Q
        i, j = torch.triu_indices(size, size, device=left.device)
        a, b = basis.T @ left, basis.T @ right  # (size, hidden)
        return cls(basis, ((a[i] * b[j] + a[j] * b[i]) / 2).T)

    def compressed(self, weights: Tensor) -> Tensor:
        """Return Q^T M Q, (block, size, size), for weights (block, hidden)."""
        size = self.basis.shape[1]
        i, j = torch.triu_indices(size, size, device=weights.device)
        found = weights.new_empty(len(weights), size, size)
        found[:, i, j] = found[:, j, i] = weights @ self.products
        return found

    def start(self, inside: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return from compressions a start vector of every block (block, in), and what `outside` will be, about.

        The second is (block, size): entry j is about the value of `outside` for a basis of j vectors.
        """
        values, vectors = torch.linalg.eigh(inside.to(torch.float32))  # neither needs to be exact
        order = values.abs().argsort(dim=1, descending=True)
        some = vectors.gather(2, order[:, None, :k].expand(-1, len(self.basis.T), -1)).sum(2)
        squares = values.gather(1, order).square().flip(1).cumsum(1).flip(1)  # entry j: the sum of those from j on
        return some @ self.basis.T.to(some), torch.nn.functional.pad(squares[:, 1:], (0, 1)).to(inside)

    def outside(self, inside: Tensor, basis: Tensor, image: Tensor, overlap: Tensor, rounding: Tensor) -> Tensor:
        """Return t (block,): the norm of M outside of a basis is at most sqrt(||M||_F^2 outside of it - t).

        inside: the compressions; basis (block, n, in), orthonormal rows; image = M basis, overlap = basis^T M basis.
        With P on the basis, all eigenvalues of Q^T (1 - P) M (1 - P) Q but the largest belong to t: a matrix of norm c
        that is a part of a matrix of Frobenius norm f leaves at most sqrt(c^2 + f^2 - (its own Frobenius norm)^2).
        """
        along, across = basis @ self.basis, image @ self.basis  # (block, n, size)
        both = across.mT @ along
        left = inside - both - both.mT + along.mT @ overlap @ along
        squares = torch.linalg.eigvalsh(left).square()
        known = (squares.sum(1) - squares.amax(1)).clamp_min(0).sqrt()
        return (known - 8 * len(self.basis.T) * rounding).clamp_min(0).square()


class Narrow(NamedTuple):
    """The factors of all matrices in float32, and a subspace that the matrices share."""

    left: Tensor
    right: Tensor
    shared: Shared | None

    @classmethod
    def of(cls, matrices: Matrices, tolerance: float, seed: int, max_elements: int) -> "Narrow | None":
        """Return what float32 works with; None for a tolerance that needs float64."""
        if tolerance < _SINGLE:
            return None
        shared = Shared.of(matrices, seed, max_elements)
        return cls(matrices.left.to(torch.float32), matrices.right.to(torch.float32), shared)

    def compressed(self, weights: Tensor, draws: Tensor, k: int) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return compressions of matrices, start vectors (block or 1, in), and the tails of their `Problem`."""
        if self.shared is None:
            return None, draws[:1], torch.zeros_like(weights[:, :1])
        inside = self.shared.compressed(weights)
        start, tails = self.shared.start(inside, k)
        return inside, start + RANDOM * draws[:1], tails
