"""Where iterative fits start: from the largest eigencomponents or from random terms."""

import torch
from torch import Tensor

from tensornet_interp.decompositions.compress import unfolding
from tensornet_interp.decompositions.eigen import eigenpairs
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import cross_gram
from tensornet_interp.numerics import nonzero, without_autocast

_EIGEN_FLOPS = 1e11  # what a start may cost: some seconds
_PUSH = 1e-2  # how far parallel factors are moved apart, as a share of their length; its square is the error made

Triple = tuple[Tensor, Tensor, Tensor]  # outputs (out, rank), left (in, rank), right (in, rank)


def eigen_start(layer: BilinearLayer, rank: int) -> Triple:
    """Return the eigencomponents of largest magnitude over all outputs, at most `rank`; left and right are one object.

    Eigenvalues go into the outputs. Cost: 9 out in^3 flops. If that is above 1e11, only the first left singular vectors
    of the output unfolding are used, and not all outputs.
    """
    outputs, values, vectors = _components(layer, rank)
    chosen = values.abs().flatten().topk(min(rank, values.numel())).indices
    block, pair = chosen // values.shape[1], chosen % values.shape[1]
    inputs = vectors[block, :, pair].T
    return outputs[:, block] * values[block, pair], inputs, inputs


def paired_start(layer: BilinearLayer, rank: int) -> Triple:
    """Return at most `rank` terms that each hold a positive and a negative eigencomponent of one output, largest first.

    p v v^T - q w w^T = sym((sqrt(p) v + sqrt(q) w)(sqrt(p) v - sqrt(q) w)^T)

    So one term with separate left and right factors does the work of two terms with one factor. The k-th largest
    eigencomponents of both signs make a pair; if one sign has fewer, the others make terms alone. Cost: that of
    `eigen_start`.
    """
    outputs, values, vectors = _components(layer, rank)
    count = min(rank, values.shape[1])
    order = values.argsort(dim=1, descending=True)
    ends = torch.stack([order[:, :count], order.flip(1)[:, :count]])  # (2, block, pair): most positive, most negative
    sign = torch.tensor([1.0, -1.0], dtype=values.dtype, device=values.device)[:, None, None]
    size = (sign * values.gather(1, ends.movedim(0, 1).flatten(1)).unflatten(1, (2, count)).movedim(1, 0)).clamp_min(0)
    chosen = size.square().sum(0).flatten().topk(min(rank, size[0].numel())).indices
    block, pair = chosen // count, chosen % count
    plus, minus = (
        vectors[block, :, end[block, pair]].T * s[block, pair].sqrt() for end, s in zip(ends, size, strict=True)
    )
    return outputs[:, block], plus + minus, plus - minus


def fit_outputs(layer: BilinearLayer, left: Tensor, right: Tensor) -> Tensor:
    """Return the outputs (out, rank) with which these input factors come nearest to the layer, by least squares."""
    terms = BilinearLayer(down=torch.ones_like(left[:1]), left=left, right=right)
    gram = cross_gram(terms, terms)
    gram.diagonal().add_(1e-10 * gram.diagonal().mean())  # dependent terms share what they hold
    return torch.linalg.solve(gram, (layer.down @ cross_gram(layer, terms)).T).T


def random_start(layer: BilinearLayer, rank: int, seed: int, *, tied: bool = False, scale: float = 1.0) -> Triple:
    """Return terms with standard normal input factors and outputs by least squares; `scale` multiplies the outputs."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layer.shape[1], rank)
    left = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(layer.down)
    right = left if tied else torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(layer.down)
    return scale * fit_outputs(layer, left, right), left, right


def untie(terms: Triple, seed: int) -> Triple:
    """Move the left and right factor of a term apart if they are parallel; return all terms.

    u and +-u become u + n and +-(u - n) with a small random n, so that u u^T becomes u u^T - n n^T. Parallel factors
    have the same gradient up to its sign: a fit that moves both would keep them parallel for good.
    """
    outputs, left, right = terms
    lengths, dots = left.norm(dim=0), (left * right).sum(0)
    parallel = dots.abs() >= (1 - 1e-9) * lengths * right.norm(dim=0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(left.shape, generator=generator, dtype=torch.float64, device="cpu").to(left)
    noise = _PUSH * parallel * noise / left.shape[0] ** 0.5  # (in, rank)
    return outputs, left + lengths * noise, right - dots / nonzero(lengths) * noise


def join(first: Triple, second: Triple) -> Triple:
    """Return the terms of both, in this order; left and right are one object if they are in both."""
    outputs, left = torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1)
    if first[1] is first[2] and second[1] is second[2]:
        return outputs, left, left
    return outputs, left, torch.cat([first[2], second[2]], 1)


@without_autocast
def _components(layer: BilinearLayer, rank: int) -> Triple:
    """Return output directions (out, block), and eigenvalues (block, pair) and eigenvectors (block, in, pair) of each.

    The number of pairs per block is 16 more than four times `rank` shared among the blocks. If that is well below the
    size, they come from subspace iteration in float32, since a start need not be exact.
    """
    n_out, n_in, _ = layer.shape
    affordable = max(1, int(_EIGEN_FLOPS / (9 * n_in**3)))
    directions = torch.eye(n_out, dtype=layer.down.dtype, device=layer.down.device)
    if n_out > affordable:
        directions = unfolding(layer, "out")[0][:, :affordable].T
    count = 4 * -(-rank // len(directions)) + 16
    if 3 * count > n_in:
        values, vectors = eigenpairs(layer, directions, min(n_in, 2 * layer.rank))
        return directions.T, values, vectors
    half = torch.float32  # of the work in float64
    matrices = layer.to(dtype=half).interaction_matrix(directions.to(half))  # (block, in, in)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(n_in, count, generator=generator, dtype=torch.float64, device="cpu").to(matrices)
    basis = torch.linalg.qr(matrices @ probe).Q
    basis = torch.linalg.qr(matrices @ (matrices @ basis)).Q  # (block, in, count)
    values, rotation = torch.linalg.eigh(basis.mT @ matrices @ basis)
    return directions.T, values.to(directions), (basis @ rotation).to(directions)
