"""Exact compression: decompositions work on a layer of unit norm with fewer input coordinates."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tensornet_interp.balance import balance, times_power, without_names
from tensornet_interp.inner_products.frobenius import Measured, frobenius
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import cross_gram, input_gram
from tensornet_interp.numerics import TALL, cholesky_qr, nonzero, unit_columns

DENSE_ELEMENTS = 2**25  # entries of a compressed dense tensor (out, r, r) that are still cheap (256 MB)


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed layer is scale * core, float64; the inputs of the core are coordinates in an orthonormal basis.

    The core has norm 1, or 0 if the layer is zero.
    """

    core: BilinearLayer  # (out, r, r)
    basis: Tensor | None  # (in, r); None is the identity
    scale: Tensor  # ()
    norm: Measured  # of the balanced layer

    def expand(self, vectors: Tensor) -> Tensor:
        """Convert vectors from the coordinates of the core, (..., r, n), to those of the layer, (..., in, n)."""
        if self.basis is None:
            return vectors
        blocks = vectors.movedim(-2, 0)  # (r, ..., n): one matrix product, not one per block
        return (self.basis @ blocks.flatten(1)).unflatten(1, blocks.shape[1:]).movedim(0, -2)

    def project(self, vectors: Tensor) -> Tensor:
        """Convert vectors from the coordinates of the layer, (in, n), to those of the core, (r, n).

        The part of a vector that is orthogonal to the basis is lost.
        """
        return vectors if self.basis is None else self.basis.T @ vectors

    def restore(self, terms: tuple[Tensor, Tensor, Tensor]) -> BilinearLayer:
        """Return terms of the core, (out, n), (r, n), (r, n), as a layer with the original coordinates and scale."""
        outputs, left, right = terms
        return BilinearLayer(down=self.scale * outputs, left=self.expand(left), right=self.expand(right))


def compress(layer: BilinearLayer, *, inputs: bool = True) -> Compressed:
    """Return a layer as scale * core, where the inputs of the core are coordinates in an orthonormal basis.

    The basis spans the columns of left and right. It has r vectors, where r is the rank of [left, right], at most
    min(in, 2 * hidden) with hidden the number of hidden units. For a layer after an embedding, r is at most the width
    of the embedding. If gradients are needed, r is always min(in, 2 * hidden).
    inputs: if False, the input coordinates stay unchanged, and only the scale is split off.
    Only the rounding of float64 is lost, whatever the dtype of the layer. Differentiable. Cost: 2 * in * (2 * hidden)^2
    flops.
    """
    (core,), exponent = balance(without_names(layer))
    found = _basis(core) if inputs else None
    basis = None
    if found is not None:
        basis, coordinates = found
        core = replace(core, left=coordinates[:, : core.rank], right=coordinates[:, core.rank :])
    norm = frobenius(core)
    size = norm.value
    scale = times_power(size, exponent)
    if bool(size > 0) and not 0 < float(scale.detach()) < math.inf:
        raise ValueError(f"the norm of {layer!r} is about 2^{exponent}, beyond the range of float64; rescale it")
    return Compressed(replace(core, down=core.down / nonzero(size)), basis, scale, norm)


def unfolding(core: BilinearLayer, mode: str, *, max_elements: int = DENSE_ELEMENTS) -> tuple[Tensor, Tensor, float]:
    """Return left singular vectors (size, n), singular values (n,) and the floor of the unfolding along one mode.

    mode: "out" or "in", the rows of the unfolding. The floor is a share of the largest singular value: smaller values
    are rounding errors.
    If the compressed dense tensor has at most `max_elements` entries (out * r^2), the singular values are those of the
    dense unfolding, and the floor is the rounding of float64. Above this limit, mode "out" uses down @ L, where L L^T
    is the Cholesky factorization of the Gram matrix of the hidden units, if the hidden units are independent. In all
    other cases the eigenvalues of a Gram matrix are used, and the floor is the square root of that rounding.
    """
    eps = torch.finfo(torch.float64).eps
    n_out, n_in, _ = core.shape
    if n_out * n_in**2 <= max_elements:
        tensor = core.interaction_matrix(torch.eye(n_out, dtype=torch.float64, device=core.down.device))
        matrix = tensor.reshape(n_out, -1) if mode == "out" else tensor.transpose(0, 1).reshape(n_in, -1)
        left, values = _left_singular(matrix)
        return left, values, max(matrix.shape) * eps
    if mode == "in":
        squares, vectors = torch.linalg.eigh(input_gram(core))
        return vectors.flip(1), squares.flip(0).clamp_min(0).sqrt(), n_in * eps**0.5
    gram = cross_gram(core, core)
    lengths = gram.diagonal().sqrt()
    lengths = nonzero(lengths)
    gram.div_(lengths).div_(lengths[:, None])
    root, failed = torch.linalg.cholesky_ex(gram)
    diagonal = root.diagonal()
    smallest = float(diagonal.detach().min())
    if not failed and smallest > 1e-5:
        left, values = _left_singular((core.down * lengths) @ root)
        return left, values, core.rank * eps / smallest**2
    squares, vectors = torch.linalg.eigh(gram)
    left, values = _left_singular((core.down * lengths) @ (vectors * squares.clamp_min(0).sqrt()))
    return left, values, core.rank * eps**0.5


def _left_singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left singular vectors and the singular values of a matrix.

    A matrix with more columns than rows is first reduced to the factor R of the QR decomposition of its transpose.
    """
    if matrix.shape[1] > matrix.shape[0]:
        matrix = torch.linalg.qr(matrix.T, mode="r" if not matrix.requires_grad else "reduced").R.T
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return left, values


def _basis(layer: BilinearLayer) -> tuple[Tensor, Tensor] | None:
    """Return an orthonormal basis (in, r) of span [left, right], and [left, right] in its coordinates (r, 2 rank).

    Return None if r would not be smaller than in.
    """
    both = torch.cat([layer.left, layer.right], 1)  # (in, 2 rank)
    tall = both.shape[0] > both.shape[1]
    if not both.requires_grad:
        # of unit columns, or what is small beside another column would count as rounding
        columns, norms = unit_columns(both)
        found = _independent_basis(columns) if tall else None
        if found is not None:
            return found[0], found[1] * norms
        narrow = _narrow_basis(columns, layer.rank)
        if narrow is not None:
            return narrow, narrow.T @ both
    if not tall:
        return None
    basis, triangle = torch.linalg.qr(both)
    return basis, triangle


def _independent_basis(both: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the QR decomposition of clearly independent columns, fewer than the rows; None if they depend."""
    if both.shape[0] >= TALL * both.shape[1]:
        return cholesky_qr(both)
    basis, triangle = torch.linalg.qr(both)
    independent = bool(triangle.diagonal().abs().min() > 10 * _noise(both) * both.norm())
    return (basis, triangle) if independent else None


def _narrow_basis(both: Tensor, rank: int) -> Tensor | None:
    """Return an orthonormal basis of the columns if their rank is below the smaller side of the matrix; else None.

    If the first `rank` columns are independent and span all others, the basis is theirs. Otherwise the basis comes from
    the smaller Gram matrix. In both cases it is returned only if what it leaves out is rounding.
    """
    tall = both.shape[0] > both.shape[1]

    def holds(basis: Tensor, matrix: Tensor) -> bool:
        return bool((matrix - basis @ (basis.T @ matrix)).norm() <= 10 * _noise(both) * matrix.norm())

    if rank < both.shape[0]:
        basis, triangle = torch.linalg.qr(both[:, :rank])
        if bool(triangle.diagonal().abs().min() > 1e-3) and holds(basis, both[:, rank:]):
            return basis
    squares, vectors = torch.linalg.eigh(both.T @ both if tall else both @ both.T)
    kept = squares > max(_noise(both) ** 2, 1e-13) * squares[-1]
    if not kept.any() or kept.all():
        return None
    basis = torch.linalg.qr(both @ vectors[:, kept] if tall else vectors[:, kept]).Q
    return basis if holds(basis, both) else None


def _noise(columns: Tensor) -> float:
    """Return the rounding error of sums over a column, as a share of its norm."""
    return torch.finfo(torch.float64).eps * columns.shape[0] ** 0.5
