"""Starting points of iterative fits: the largest eigencomponents, or random terms."""

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


def as_layer(terms: Triple) -> BilinearLayer:
    """Return the sum of terms as a layer, which shares their arrays."""
    down, left, right = terms
    return BilinearLayer(down=down, left=left, right=right)


def eigen_start(layer: BilinearLayer, rank: int) -> Triple:
    """Return the eigencomponents of largest magnitude over all outputs, at most `rank`; left and right are one object.

    The outputs are multiplied by the eigenvalues. Cost: at most 9 * out * in^3 flops. If that is above 1e11, the first
    left singular vectors of the output unfolding take the place of the single outputs, as many as fit into this cost.
    """
    outputs, values, vectors = _components(layer, rank)
    chosen = values.abs().flatten().topk(min(rank, values.numel())).indices
    block, pair = chosen // values.shape[1], chosen % values.shape[1]
    inputs = vectors[block, :, pair].T
    return outputs[:, block] * values[block, pair], inputs, inputs


def paired_start(layer: BilinearLayer, rank: int) -> Triple:
    """Return at most `rank` terms, largest first; each combines a positive and a negative eigencomponent of one output.

    p v v^T - q w w^T = sym((sqrt(p) v + sqrt(q) w)(sqrt(p) v - sqrt(q) w)^T)

    So one term with separate left and right factors replaces two terms with equal factors. The k-th largest positive
    and the k-th largest negative eigencomponent form a pair. If one sign has fewer eigencomponents, the rest of the
    other sign form terms alone. Cost: that of `eigen_start`.
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
    """Return the output factor (out, rank) that fits the layer best with these input factors (least squares)."""
    terms = BilinearLayer(down=torch.ones_like(left[:1]), left=left, right=right)
    gram = cross_gram(terms, terms)
    gram.diagonal().add_(1e-10 * gram.diagonal().mean())  # dependent terms share what they hold
    return torch.linalg.solve(gram, (layer.down @ cross_gram(layer, terms)).T).T


def random_start(layer: BilinearLayer, rank: int, seed: int, *, tied: bool = False, scale: float = 1.0) -> Triple:
    """Return terms with standard normal input factors; their outputs are fitted to the layer by least squares.

    scale: a number that multiplies the outputs after the fit.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (layer.shape[1], rank)
    left = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(layer.down)
    right = left if tied else torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(layer.down)
    return scale * fit_outputs(layer, left, right), left, right


def untie(terms: Triple, seed: int) -> Triple:
    """Return the terms after moving the left and right factors of a term apart if they are parallel.

    u and s u become u + n and s (u - n), with a small random n and any number s. So u u^T becomes u u^T - n n^T.
    Without this, the two parallel factors would have parallel gradients, and a fit would keep them parallel.
    """
    outputs, left, right = terms
    lengths, dots = left.norm(dim=0), (left * right).sum(0)
    parallel = dots.abs() >= (1 - 1e-9) * lengths * right.norm(dim=0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(left.shape, generator=generator, dtype=torch.float64, device="cpu").to(left)
    noise = _PUSH * parallel * noise / left.shape[0] ** 0.5  # (in, rank)
    return outputs, left + lengths * noise, right - dots / nonzero(lengths) * noise


def join(first: Triple, second: Triple) -> Triple:
    """Return the terms of both arguments; left and right are one object if they are one object in both."""
    outputs, left = torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1)
    if first[1] is first[2] and second[1] is second[2]:
        return outputs, left, left
    return outputs, left, torch.cat([first[2], second[2]], 1)


@without_autocast
def _components(layer: BilinearLayer, rank: int) -> Triple:
    """Return output directions (out, block) with their eigenvalues (block, pair) and eigenvectors (block, in, pair).

    A start need not be exact. So each block gets 4 * ceil(rank / blocks) + 16 eigenpairs, from subspace iteration in
    float32, if three times this number is at most in. Otherwise each block gets all its eigenpairs in float64.
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
    narrow, directions32 = layer.to(dtype=half), directions.to(half)
    if 8 * count > n_in:
        matrices = narrow.interaction_matrix(directions32)  # (block, in, in)
    both = torch.cat([narrow.left, narrow.right], 1)
    shares = (directions32 @ narrow.down / 2).repeat(1, 2)[:, :, None]  # (block, 2 hidden, 1)

    def product(vectors: Tensor) -> Tensor:
        """Return the product of every interaction matrix with its vectors, (block, in, count)."""
        if 8 * count > n_in:
            return matrices @ vectors
        return both @ (shares * (both.T @ vectors).roll(layer.rank, -2))

    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(n_in, count, generator=generator, dtype=torch.float64, device="cpu").to(both)
    basis = torch.linalg.qr(product(probe)).Q
    basis = torch.linalg.qr(product(product(basis))).Q  # (block, in, count)
    values, rotation = torch.linalg.eigh(basis.mT @ product(basis))
    return directions.T, values.to(directions), (basis @ rotation).to(directions)
