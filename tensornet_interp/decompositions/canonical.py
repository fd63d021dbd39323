"""The canonical form of a sum of rank-one terms, and the similarity of two terms."""

import torch
from torch import Tensor

from tensornet_interp.balance import balance, times_power
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import unit_columns


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
