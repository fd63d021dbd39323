"""The canonical form of a sum of rank-one terms, and how similar two terms are."""

import torch
from torch import Tensor

from tensornet_interp.balance import balance, times_power
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import unit_columns


def canonical_cp(layer: BilinearLayer) -> dict[str, Tensor]:
    """Return the layer as the fields of a `CPResult`: weights, outputs, left, right.

    sum_rank weights[rank] outputs[out, rank] left[in1, rank] right[in2, rank] is the tensor of the layer.
    Columns have unit norm, and their entry of largest magnitude is positive; the sign goes into the weight. The largest
    weight magnitude comes first. A term that is zero has weight 0.
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
    """Return the congruence of every term of one layer with every term of another, (rank, rank'); 1 for equal terms.

    |c . c'| max(|l . l'| |r . r'|, |l . r'| |r . l'|) with c, l, r the columns of down, left, right at unit norm.
    The second value, (rank, rank'), says whether left and right are swapped between the two terms.
    """
    (c, l, r), (c2, l2, r2) = (  # noqa: E741 - the letters of the formula
        [unit_columns(factor.to(torch.float64))[0] for factor in (layer.down, layer.left, layer.right)]
        for layer in (first, second)
    )
    straight, crossed = ((l.T @ l2) * (r.T @ r2)).abs(), ((l.T @ r2) * (r.T @ l2)).abs()
    return (c.T @ c2).abs() * torch.maximum(straight, crossed), crossed > straight
