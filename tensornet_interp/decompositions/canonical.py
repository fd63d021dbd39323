"""The canonical form of a sum of rank-one terms, and the similarity of two terms."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tensornet_interp.balance import balance, times_power
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import cross_gram
from tensornet_interp.numerics import nonzero, unit_columns


def canonical_cp(layer: BilinearLayer) -> dict[str, Tensor]:
    """Return the fields of the `CPResult` that equals a layer: weights, outputs, left and right.

    B[out, in1, in2] = sum_rank weights[rank] outputs[out, rank] left[in1, rank] right[in2, rank]

    Each column of a factor has unit norm, and its entry of largest magnitude is positive; the weight takes the sign.
    The term with the largest weight magnitude comes first. A zero term has weight 0.
    """
    (core,), exponent = balance(layer)
    weights = torch.ones_like(core.down[0])
    factors = {}
    for name, factor in (("outputs", core.down), ("left", core.left), ("right", core.right)):
        columns, norms = unit_columns(factor)
        signs = columns.gather(0, columns.abs().argmax(0, keepdim=True))[0].sign()  # (rank,)
        signs = torch.where(signs == 0, torch.ones_like(signs), signs)
        factors[name] = columns * signs
        weights = weights * norms * signs
    order = weights.abs().argsort(descending=True, stable=True)
    made = {"weights": times_power(weights[order], exponent)}
    made |= {name: factor[:, order] for name, factor in factors.items()}
    return {name: array.to(layer.down.dtype) for name, array in made.items()}


def congruence(first: BilinearLayer, second: BilinearLayer) -> tuple[Tensor, Tensor]:
    """Return the congruence (rank, rank') of every term of one layer with every term of another.

    congruence = |c . c'| max(|l . l'| |r . r'|, |l . r'| |r . l'|)

    c, l and r are columns of down, left and right, scaled to unit norm. The congruence of equal terms is 1. The second
    returned value is boolean, (rank, rank'): True if the second product in the maximum is larger, so left and right of
    the two terms are swapped.
    """
    (c, l, r), (c2, l2, r2) = (  # noqa: E741 - the letters of the formula
        [unit_columns(factor.to(torch.float64))[0] for factor in (layer.down, layer.left, layer.right)]
        for layer in (first, second)
    )
    straight, crossed = ((l.T @ l2) * (r.T @ r2)).abs(), ((l.T @ r2) * (r.T @ l2)).abs()
    return (c.T @ c2).abs() * torch.maximum(straight, crossed), crossed > straight


def block_congruence(first: BilinearLayer, blocks: Tensor, second: BilinearLayer, blocks2: Tensor) -> Tensor:
    """Return the congruence (block, block') of sums of terms of two layers: the magnitude of the cosine of the two.

    |<T, T'>| / (||T|| ||T'||), T = sum of the terms of a block, symmetrized

    blocks: (rank,), the block of each term, from 0 on without a gap. A zero block has congruence 0.
    """
    sides = [(_units(layer), one_hot(own).to(torch.float64)) for layer, own in ((first, blocks), (second, blocks2))]

    def products(a: tuple[BilinearLayer, Tensor], b: tuple[BilinearLayer, Tensor]) -> Tensor:
        return a[1].T @ ((a[0].down.T @ b[0].down) * cross_gram(a[0], b[0])) @ b[1]

    norms = [nonzero(products(side, side).diagonal()).sqrt() for side in sides]
    return (products(*sides) / norms[0][:, None] / norms[1]).abs()


def _units(layer: BilinearLayer) -> BilinearLayer:
    """Return the layer in float64 with input vectors of unit norm and a largest output entry of 1."""
    (core,), _ = balance(layer.to(dtype=torch.float64))
    (left, m), (right, n) = unit_columns(core.left), unit_columns(core.right)
    down = core.down * (m * n)
    return BilinearLayer(down=down / nonzero(down.abs().max()), left=left, right=right)
