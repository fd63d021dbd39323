"""The tangents of a sum of components: how far white noise would move each component of a least-squares fit.

A component is c (x) M, an output vector c times a symmetric matrix M = sum_v share_v sym(x_v p_v^T). Its tangents are
dc (x) M and c (x) sym(dx_v p_v^T). H = J^T J is their Gram matrix in compressed coordinates. It splits into three parts
that do not mix: changes inside span C and span X, changes of outputs orthogonal to span C, and changes of input vectors
orthogonal to span X. So no array of size out * in^2 is made.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import unit_columns

_TIED = 1e-12  # 1 - |left . right| of a component whose two input vectors count as one
_SINGULAR = 1e-12  # an eigenvalue of H below this share of the largest is zero: the component is not determined
_MOVES = 1e-8  # share of a direction without curvature that moves a component


@dataclass(frozen=True, eq=False)
class Tangents:
    """The tangents at the components of a result, in float64; every vector has unit norm, and a zero one stays zero.

    H is taken without the sizes of the components, because these cancel in relative errors.
    """

    outputs: Tensor  # (out, component): c
    vectors: Tensor  # (in, vector): x_v
    partners: Tensor  # (in, vector): p_v
    shares: Tensor  # (vector,)
    owner: Tensor  # (vector,): the component of each vector
    scales: Tensor  # (component,): a component of the result is scale * c (x) M
    gauge: tuple[Tensor, Tensor]  # changes of the parameters that change nothing: (n, component), (n, vector, vector)

    @property
    def parameters(self) -> int:
        """Return the number of free numbers: those of all vectors without those of the gauge."""
        return self.outputs.numel() + self.vectors.numel() - len(self.gauge[0])

    @property
    def unknowns(self) -> int:
        """Return the size of the largest matrix that is inverted, that of the changes inside both spans."""
        return self._inside_outputs.numel() + self._inside_vectors.numel()

    def standard_error(self, noise: float) -> Tensor:
        """Return noise * sqrt(tr H_rr P_rr) / |component r|, (component,), where P is the inverse of H off the gauge.

        The error is infinite for a component that can move without changing the sum.
        """
        total = self._inside.trace + self._outputs.trace + self._inputs.trace
        norms = self.scales * self._gram.diagonal().clamp_min(0).sqrt()
        return torch.where(total.isinf(), torch.inf, noise * total.sqrt() / norms)

    def explained(self, residual: BilinearLayer) -> float:
        """Return the squared norm of the part of a residual, symmetrized, that lies in the span of the tangents.

        It is the decrease of the squared error that a Gauss-Newton step predicts, and 0 at a least-squares fit.
        """
        left, right = residual.left.T @ self.vectors, residual.right.T @ self.vectors  # (hidden, vector)
        to, fro = residual.left.T @ self.partners, residual.right.T @ self.partners
        hidden = (left * fro + right * to) * self.shares / 2
        by_output = residual.down @ hidden @ self._one_hot  # (out, component)
        along = residual.down.T @ self.outputs[:, self.owner] / 2  # (hidden, vector)
        by_vector = residual.left @ (along * fro) + residual.right @ (along * to)  # (in, vector)
        bases = self._bases
        inside = torch.cat([(basis.T @ g).T.flatten() for basis, g in zip(bases, (by_output, by_vector), strict=True)])
        rest = [g - basis @ (basis.T @ g) for basis, g in zip(bases, (by_output, by_vector), strict=True)]
        found = inside @ self._inside.inverse @ inside
        for part, g in zip((self._outputs, self._inputs), rest, strict=True):
            found = found + ((g @ part.inverse) * g).sum()
        return float(found)

    @cached_property
    def _one_hot(self) -> Tensor:
        count = self.outputs.shape[1]
        return one_hot(self.owner, count).to(self.outputs.dtype)

    @cached_property
    def _bases(self) -> tuple[Tensor, Tensor]:
        return torch.linalg.qr(self.outputs).Q, torch.linalg.qr(self.vectors).Q

    @property
    def _inside_outputs(self) -> Tensor:
        return self._bases[0].T @ self.outputs

    @property
    def _inside_vectors(self) -> Tensor:
        return self._bases[1].T @ self.vectors

    @cached_property
    def _products(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return c . c' of the components of two vectors, x . x', p . p', and x . p', each (vector, vector)."""
        outputs = (self.outputs.T @ self.outputs)[self.owner][:, self.owner]
        x, p = self.vectors, self.partners
        return outputs, x.T @ x, p.T @ p, x.T @ p

    @cached_property
    def _gram(self) -> Tensor:
        """Return <M_r, M_s>, (component, component)."""
        _, xx, pp, xp = self._products
        terms = torch.outer(self.shares, self.shares) * (xx * pp + xp * xp.T) / 2
        return self._one_hot.T @ terms @ self._one_hot

    @cached_property
    def _outputs(self) -> "_Part":
        """Changes of the outputs that are orthogonal to all of them."""
        count = self.outputs.shape[0] - self._bases[0].shape[1]
        return _Part.of(self._gram, torch.eye(len(self._gram), dtype=self._gram.dtype, device=self._gram.device), count)

    @cached_property
    def _inputs(self) -> "_Part":
        """Changes of the input vectors that are orthogonal to all of them."""
        outputs, _, pp, _ = self._products
        return _Part.of(outputs * pp / 2, self._one_hot, self.vectors.shape[0] - self._bases[1].shape[1])

    @cached_property
    def _inside(self) -> "_Part":
        """Changes inside both spans, in the order (component, span C), (vector, span X)."""
        c, x, p = self._inside_outputs, self._inside_vectors, self._bases[1].T @ self.partners
        outputs, _, pp, xp = self._products
        (wide, rank), (deep, count) = c.shape, x.shape
        half = self.shares[:, None] / 2
        # M_r p_v: first the part of each vector u of component r, (u, v, deep)
        image = (half * pp)[:, :, None] * x.T[:, None, :] + (half * xp)[:, :, None] * p.T[:, None, :]
        image = torch.zeros_like(image[:1]).repeat(rank, 1, 1).index_add_(0, self.owner, image)
        cross = torch.einsum("iv,rvj->rivj", c[:, self.owner], image).reshape(rank * wide, count * deep)
        eye = [torch.eye(size, dtype=c.dtype, device=c.device) for size in (wide, deep)]
        own = torch.einsum("vu,iu,jv->viuj", outputs / 2, p, p).reshape(count * deep, count * deep)
        own += torch.kron(outputs * pp / 2, eye[1])
        matrix = torch.cat([torch.cat([torch.kron(self._gram, eye[0]), cross], 1), torch.cat([cross.T, own], 1)])
        to_outputs, to_vectors = self.gauge
        changes = torch.cat(
            [
                torch.einsum("gr,ir->gri", to_outputs, c).flatten(1),
                torch.einsum("gvu,iu->gvi", to_vectors, x).flatten(1),
            ],
            1,
        )
        gauge = torch.linalg.qr(changes.T).Q
        owners = torch.cat(
            [torch.arange(rank, device=c.device).repeat_interleave(wide), self.owner.repeat_interleave(deep)]
        )
        return _Part.of(matrix, one_hot(owners, rank).to(c.dtype), 1, gauge)


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of H that does not mix with the others: its inverse off the gauge, and tr H_rr P_rr per component."""

    inverse: Tensor
    trace: Tensor  # (component,)

    @classmethod
    def of(cls, matrix: Tensor, owners: Tensor, count: int, gauge: Tensor | None = None) -> "_Part":
        """Return the part with this matrix (n, n), which stands `count` times in H.

        owners: (n, component), 1 where a row belongs to a component. gauge: orthonormal columns (n, number).
        """

        def traces(other: Tensor) -> Tensor:
            return (((matrix * other) @ owners) * owners).sum(0)

        if not count:
            return cls(torch.zeros_like(matrix), torch.zeros_like(owners[0]))
        fixed = matrix if gauge is None else matrix + gauge @ gauge.T
        root, failed = torch.linalg.cholesky_ex(fixed)
        if not failed:
            inverse = torch.cholesky_inverse(root)
            # the Frobenius norm is at least the largest eigenvalue
            if float(fixed.norm() * inverse.norm()) < 0.1 / _SINGULAR:
                return cls(inverse, count * traces(inverse))
        values, vectors = torch.linalg.eigh(fixed)
        known = values > _SINGULAR * values[-1]
        free = vectors[:, ~known]
        inverse = (vectors[:, known] / values[known]) @ vectors[:, known].T
        # a change without curvature that moves a component leaves it undetermined
        loose = traces(free @ free.T) > _MOVES
        return cls(inverse, torch.where(loose, torch.inf, count * traces(inverse)))


def cp_tangents(outputs: Tensor, left: Tensor, right: Tensor) -> Tangents:
    """Return the tangents of terms c (x) sym(a b^T) with columns c, a, b of any length, but not 0.

    If a and b of a term are parallel up to 1e-12, they count as one vector, which changes in both places.
    """
    (c, k), (a, m), (b, n) = (unit_columns(factor) for factor in (outputs, left, right))
    tied = 1 - (a * b).sum(0).abs() < _TIED
    rank, free = torch.arange(len(tied), device=tied.device), torch.nonzero(~tied)[:, 0]
    x, p = torch.cat([a, b[:, free]], 1), torch.cat([torch.where(tied, a, b), a[:, free]], 1)
    owner = torch.cat([rank, free])
    shares = torch.where(tied, 1.0, 0.5).to(c)[owner]
    to_outputs = one_hot(owner, len(tied)).to(c)
    to_vectors = -torch.diag_embed(torch.eye(len(owner), dtype=c.dtype, device=c.device))
    return Tangents(c, x, p, shares, owner, k * m * n, (to_outputs, to_vectors))


def block_tangents(outputs: Tensor, values: Tensor, vectors: Tensor) -> Tangents:
    """Return the tangents of blocks c (x) sum_l value_l v_l v_l^T, none of them 0; pairs with value 0 are left out.

    outputs: (out, block). values: (block, pair). vectors: (block, in, pair).
    """
    c, lengths = unit_columns(outputs)
    owner, pair = torch.nonzero(values, as_tuple=True)
    x, norms = unit_columns(vectors[owner, :, pair].T)
    weights = values[owner, pair] * norms.square()
    largest = torch.stack([weights[owner == block].abs().max() for block in range(len(values))])
    shares = weights / largest[owner]
    blocks = one_hot(owner, len(values)).to(c)  # (vector, block)
    first, second = torch.nonzero((owner[:, None] == owner).triu(1), as_tuple=True)
    turn = c.new_zeros(len(first), len(owner), len(owner))
    at = torch.arange(len(first), device=c.device)
    turn[at, first, second], turn[at, second, first] = 1, -1  # v_l + v_m dt, v_m - v_l dt
    eye = torch.eye(len(values), dtype=c.dtype, device=c.device)
    to_outputs = torch.cat([eye, c.new_zeros(len(first), len(values))])
    to_vectors = torch.cat([-torch.diag_embed(blocks.T * shares), turn])
    return Tangents(c, x, x, shares, owner, lengths * largest, (to_outputs, to_vectors))
