"""Compute Frobenius products of symmetrized layers, with bounds on the rounding errors, even if hidden units cancel.

There are two ways to compute the product <A, B> of two layers; eps is the rounding unit of float64.
- The sum over pairs of hidden units, <A, B> = sum_hg (down^T down')[h, g] C[h, g], is fast. C[h, g] is the inner
  product of the hidden units h and g (see `cross_gram`). The rounding error is about eps * S * S', where S is
  sum_h ||down_h|| ||left_h|| ||right_h||. If hidden units cancel, the result is much smaller than S * S', and all its
  digits may be wrong.
- The sum over the entries of the tensor takes one output at a time, in compressed input coordinates. It costs more,
  but its rounding error is only about eps * S times the norm.

The functions here use the first way if its bound is small enough, otherwise the second.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.balance import balance
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import cholesky_qr

EPS = torch.finfo(torch.float64).eps
SAFETY = 10.0  # rounding of sums and of the change of coordinates, in units of eps times the sizes of all terms
RESOLVED = 1e-9  # largest accepted relative rounding error of the sum over pairs of hidden units
CHEAP_FLOPS = 1e11  # if the sum over entries costs more (over a second or two), COARSE replaces RESOLVED
COARSE = 1e-3
CHUNK = 2**20  # pairs of hidden units in a block (8 MB: the system maps blocks of 32 MB anew at every use)


class Measured(NamedTuple):
    """A computed norm `value`; the exact norm differs from this value by at most `rounding`."""

    value: Tensor  # ()
    rounding: float


def unit_sizes(layer: BilinearLayer) -> Tensor:
    """Return ||down_h|| ||left_h|| ||right_h|| per hidden unit h, (rank,), without a graph of gradients.

    Their sum bounds the norm of the layer.
    """
    down, left, right = (part.detach().square().sum(0) for part in (layer.down, layer.left, layer.right))
    return (down * left * right).sqrt()


def output_sizes(layer: BilinearLayer) -> Tensor:
    """Return sum_h |down[out, h]| ||left_h|| ||right_h||, (out,), an upper bound on the norm of each B[out]."""
    return layer.down.abs() @ (
        torch.linalg.vector_norm(layer.left, dim=0) * torch.linalg.vector_norm(layer.right, dim=0)
    )


def frobenius(layer: BilinearLayer) -> Measured:
    """Return the norm ||B|| of the symmetrized tensor of a float64 layer from `balance`, and a bound on its rounding.

    Cost in flops: 2 * rank^2 * (4 * in + out) by pairs of hidden units, or 2 * out' * r^2 * rank by entries, with
    r = min(in, 2 * rank) and out' = min(out, rank).
    """
    total = float(unit_sizes(layer).sum())
    squared = pair_sum(layer, layer)
    rounding = SAFETY * EPS * total**2
    n_out, n_in, _ = layer.shape
    flops = 2.0 * min(n_out, layer.rank) * min(n_in, 2 * layer.rank) ** 2 * layer.rank
    accepted = RESOLVED if flops <= CHEAP_FLOPS else COARSE
    if 0 < rounding <= accepted * float(squared.detach()):
        value = squared.sqrt()
        return Measured(value, rounding / float(value.detach()))
    compressed = compress_sides(layer)
    if layer.shape[0] > layer.rank:  # the norm does not change under an isometry of the outputs
        compressed = (torch.linalg.qr(layer.down, mode=_mode(layer.down)).R, *compressed[1:])
    norms = torch.stack([torch.linalg.vector_norm(matrix) for matrix in _matrices(*compressed)])
    return Measured(torch.linalg.vector_norm(norms), SAFETY * EPS * total)


class Distance(NamedTuple):
    """A computed relative error `error`, and an upper bound `bound` on the exact relative error."""

    error: float
    bound: float


def distance(approximation: BilinearLayer, reference: BilinearLayer) -> Distance:
    """Return ||A - B|| / ||B|| for the symmetrized tensors of two layers of any dtype and scale.

    A is the approximation. B is the reference and must not be zero. If the ranks are equal and corresponding hidden
    units differ little, the difference keeps every digit. Cost: as `frobenius` for a layer whose rank is three times
    that of A, or the sum of both ranks if they differ.
    """
    if not all(bool(part.any()) for part in (approximation.down, approximation.left, approximation.right)):
        return Distance(1.0, 1.0)
    own = balance(reference)
    size = frobenius(own.layers[0])
    (a, b), exponent = balance(approximation, reference)
    lost = frobenius(aligned(b, a))
    value, least = float(size.value.detach()), float(size.value.detach()) - size.rounding
    error, more = float(lost.value.detach()), lost.rounding

    def relative(numerator: float, denominator: float) -> float:
        if not denominator > 0:
            return math.inf
        mantissa, extra = math.frexp(numerator / denominator)
        power = extra + exponent - own.exponent
        return math.ldexp(mantissa, power) if power < 1024 else math.inf

    return Distance(relative(error, value), relative(error + more, least))


def aligned(old: BilinearLayer, new: BilinearLayer) -> BilinearLayer:
    """Return the layer new - old over all coordinates, with the hidden units of both concatenated.

    If the ranks are equal, with P = down, W = left^T, V = right^T of `old` and primes for `new`, the factors are
    ([P' - P, P', P'], [W; W' - W; W'], [V; V; V' - V]). If corresponding hidden units differ little, these factors keep
    every digit of the difference.
    """
    if old.rank == new.rank:
        down = torch.cat([new.down - old.down, new.down, new.down], 1)
        left = torch.cat([old.left, new.left - old.left, new.left], 1)
        right = torch.cat([old.right, old.right, new.right - old.right], 1)
    else:
        down = torch.cat([new.down, -old.down], 1)
        left, right = torch.cat([new.left, old.left], 1), torch.cat([new.right, old.right], 1)
    return BilinearLayer(down=down, left=left, right=right)


def output_products(a: BilinearLayer, b: BilinearLayer) -> tuple[Tensor, Tensor]:
    """Return <A[out], B[out]> of two float64 layers from `balance`, (out,), and bounds on the rounding errors, (out,).

    Cost: as `frobenius`, with rank * rank' pairs of hidden units, or the entries in coordinates that serve both layers.
    """
    sizes = [output_sizes(layer).detach() for layer in (a, b)]
    values = pair_sum(a, b, by_output=True)
    rounding = SAFETY * EPS * sizes[0] * sizes[1]
    rank = a.rank + b.rank
    flops = 2.0 * a.shape[0] * min(a.shape[1], 2 * rank) ** 2 * rank
    accepted = RESOLVED if flops <= CHEAP_FLOPS else COARSE
    if bool((rounding <= accepted * values.detach().abs()).all()):
        return values, rounding
    sides = compress_sides(a, b)
    first, second = zip(*(side.split([a.rank, b.rank], 1) for side in sides), strict=True)
    products, bounds = [], []
    for x, y, of_x, of_y in zip(_matrices(*first), _matrices(*second), *sizes, strict=True):
        products.append((x * y).sum())
        bounds.append(SAFETY * EPS * (of_x * y.detach().norm() + of_y * x.detach().norm()))
    return torch.stack(products), torch.stack(bounds)


def pair_sum(a: BilinearLayer, b: BilinearLayer, *, by_output: bool = False) -> Tensor:
    """Return sum_hg (down^T down')[h, g] C[h, g] as a scalar, or one such sum per output, (out,).

    C[h, g] is the inner product of hidden unit h of a and hidden unit g of b. The hidden units of a are taken in
    blocks.
    """
    total = a.down.new_zeros(a.shape[0] if by_output else ())
    for rows in torch.arange(a.rank, device=a.down.device).split(max(1, CHUNK // b.rank)):
        down, left, right = a.down[:, rows], a.left[:, rows], a.right[:, rows]
        crossed = left.T @ b.right
        back = crossed.T if a is b and len(rows) == a.rank else right.T @ b.left
        gram = ((left.T @ b.left) * (right.T @ b.right) + crossed * back) / 2
        if by_output:
            total = total + ((down @ gram) * b.down).sum(1)
        else:
            total = total + ((down.T @ b.down) * gram).sum()
    return total


def compress_sides(*layers: BilinearLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Return down, left and right of all layers' hidden units, with the inputs compressed without loss.

    The compressed inputs are coordinates in one orthonormal basis of at most 2 * rank vectors, where rank counts the
    hidden units of all layers. The inputs stay as they are if there are no more than 2 * rank of them.
    """
    down, left, right = (torch.cat([getattr(layer, side) for layer in layers], 1) for side in ("down", "left", "right"))
    both = torch.cat([left, right], 1)
    if both.shape[0] > both.shape[1]:
        found = cholesky_qr(both)
        triangle = torch.linalg.qr(both, mode=_mode(both)).R if found is None else found[1]
        left, right = triangle.split(left.shape[1], 1)
    return down, left, right


def _matrices(down: Tensor, left: Tensor, right: Tensor) -> Iterator[Tensor]:
    """Yield the symmetric matrix of every output, one at a time, (r, r)."""
    for row in down:
        matrix = (left * row) @ right.T
        yield (matrix + matrix.T) / 2


def _mode(matrix: Tensor) -> str:
    return "reduced" if matrix.requires_grad else "r"
