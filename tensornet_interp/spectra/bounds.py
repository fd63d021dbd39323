"""Bounds on eigenvalues of interaction matrices, of which a part is known."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.numerics import nonzero
from tensornet_interp.spectra.matrices import Matrices, rounding_share


class Bounds(NamedTuple):
    """`near` bounds |value i - some eigenvalue|, `place` bounds ||value i| - the i-th largest magnitude|."""

    near: Tensor
    place: Tensor


def enclose(values: Tensor, coupling: Tensor, rest: Tensor, k: int) -> Bounds:
    """Return error bounds for the values as eigenvalues of M = [[diag(values), coupling^T], [coupling, C]].

    C is unknown except for ||C|| <= rest (block,). values: (block, j), j >= k, largest magnitude first; coupling:
    (block, n, j), n rows with all coupling. With S(c) = [[diag(values), coupling^T], [coupling, c I]], S(-rest) <= M <=
    S(rest) as quadratic forms. So the i-th largest eigenvalue of M is at most the i-th largest of S(rest), or rest, and
    at least the i-th largest value (Cauchy). The same holds for the smallest. Merged by magnitude, these bounds enclose
    the i-th largest magnitude; they are quadratic in the coupling if the value is above rest. For every rest, the norm
    of a value's coupling column (the residual of its Ritz vector) bounds its distance to some eigenvalue.
    """
    j = values.shape[1]
    top, rest = values[:, :k], rest[:, None]
    matrix = pad(torch.diag_embed(values), (0, coupling.shape[1], 0, coupling.shape[1]))  # (block, j + n, j + n)
    matrix[:, j:, :j] = coupling  # eigvalsh reads the lower triangle
    corner = matrix.diagonal(dim1=1, dim2=2)[:, j:]
    corner[:] = rest
    above = torch.linalg.eigvalsh(matrix).flip(1)[:, :k].maximum(rest)  # at least the i-th largest eigenvalue
    corner[:] = -rest
    below = (-torch.linalg.eigvalsh(matrix)[:, :k]).maximum(rest)  # at least minus the i-th smallest
    rank = torch.where(top > 0, (top > 0).cumsum(1), (top <= 0).cumsum(1)) - 1  # among the values of its sign
    limit = torch.where(top > 0, above.gather(1, rank), below.gather(1, rank))
    near = torch.minimum(torch.linalg.vector_norm(coupling[:, :, :k], dim=1), limit - top.abs())
    merged = torch.cat([above, below], 1).sort(dim=1, descending=True).values[:, :k]
    return Bounds(near.clamp_min(0), (merged - top.abs()).clamp_min(0))


class Problem(NamedTuple):
    """A problem consists of matrices and of bounds (block,) on their norms and on rounding errors."""

    matrices: Matrices
    norms: Tensor  # at least ||M||_F^2
    rounding: Tensor  # error of a product with a unit vector
    floor: Tensor  # the smallest norm that a difference of squared norms can show
    tails: Tensor  # (block, j): what `Shared.outside` gives for a basis of j vectors, 0 if this is not known

    @classmethod
    def of(cls, matrices: Matrices, norms: Tensor, scales: Tensor) -> "Problem":
        """Return the problem of matrices with these squared norms and upper bounds on their norms (block,)."""
        share = rounding_share(*matrices.left.shape)
        tails = torch.zeros_like(norms)[:, None]
        return cls(matrices, norms + share * scales.square(), share * scales, share**0.5 * scales, tails)

    def single(self, left: Tensor, right: Tensor, tails: Tensor) -> "Problem":
        """Return the problem in float32, each matrix divided by its norm, with typical (not worst-case) rounding.

        left, right: the factors in float32. tails: of these matrices before they are divided.
        """
        length, eps = nonzero(self.norms).sqrt(), torch.finfo(torch.float32).eps
        weights = (self.matrices.weights / length[:, None]).to(torch.float32)
        rounding, floor = (self.rounding / length).clamp_min(10 * eps), (self.floor / length).clamp_min(3 * eps**0.5)
        matrices, squares = Matrices(left, right, weights), length.square()
        return Problem(matrices, self.norms / squares, rounding, floor, tails / squares[:, None])

    def at(self, index: Tensor | slice) -> "Problem":
        """Return the problem of the blocks that `index` selects."""
        matrices = self.matrices._replace(weights=self.matrices.weights[index])
        return Problem(matrices, *(part[index] for part in self[1:]))


class Verdict(NamedTuple):
    """A verdict says how well Ritz values are known."""

    bounds: Tensor  # (block, k)
    close: Tensor  # (block,), whether each value is close to an eigenvalue
    proven: Tensor  # (block,)
    missing: Tensor  # (block,), bound on the squared norm of M outside of the subspace

    @classmethod
    def of(
        cls, problem: Problem, values: Tensor, coupling: Tensor, k: int, tolerance: float, tail: Tensor | None = None
    ) -> "Verdict":
        """Return the verdict on Ritz values (block, j), from their coupling (block, n, j) to other vectors.

        tail: (block,), what `Shared.outside` gives; default: what the problem expects for as many values.
        """
        missing = (problem.norms - values.square().sum(1) - 2 * coupling.square().sum((1, 2))).clamp_min(0)
        rounding, blind = problem.rounding[:, None], 2 * problem.floor[:, None]
        tail = problem.tails[:, min(values.shape[1], problem.tails.shape[1] - 1)] if tail is None else tail
        size, rest = values[:, :k].abs(), (missing - tail).clamp_min(0).sqrt()
        wanted = (tolerance * size).maximum(2 * rounding)
        near = torch.linalg.vector_norm(coupling[:, :, :k], dim=1)
        place = torch.full_like(near, torch.inf)
        # if the rest is much larger than the values, the enclosure proves nothing and `near` is the residual
        some = (rest[:, None] - size <= near.maximum(wanted).maximum(blind)).any(1).nonzero()[:, 0]
        if len(some):
            near[some], place[some] = enclose(values[some], coupling[some], rest[some], k)
        near, place = near + rounding, place + rounding
        proven = (place <= near.maximum(torch.where(size <= blind, blind, wanted))).all(1)
        return cls(torch.where(proven[:, None], near.maximum(place), near), (near <= wanted).all(1), proven, missing)
