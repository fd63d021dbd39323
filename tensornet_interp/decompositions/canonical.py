"""The canonical form of a sum of rank-one terms, and how alike two terms are."""

import torch
from torch import Tensor

from tensornet_interp.layer import BilinearLayer


def nonzero(values: Tensor) -> Tensor:
    """The values to divide by: positive ones as they are, 1 for the others."""
    return torch.where(values > 0, values, torch.ones_like(values))


def unit_columns(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """matrix[i, rank] = columns[i, rank] norms[rank], columns of unit norm; a column of zeros stays as it is."""
    norms = torch.linalg.vector_norm(matrix, dim=0)
    return matrix / nonzero(norms), norms


def canonical_cp(layer: BilinearLayer) -> dict[str, Tensor]:
    """weights[rank] outputs[out, rank] left[in1, rank] right[in2, rank]: the fields of a `CPResult`, the same tensor.

    Unit-norm factors, the entry of largest magnitude of every column positive, the sign in the weight, the largest
    weight magnitude first. A term that is zero has weight 0.
    """
    weights = torch.ones_like(layer.down[0])
    factors = {}
    for name, factor in (("outputs", layer.down), ("left", layer.left), ("right", layer.right)):
        columns, norms = unit_columns(factor)
        signs = columns.gather(0, columns.abs().argmax(0, keepdim=True))[0].sign()  # (rank,)
        signs = torch.where(signs == 0, torch.ones_like(signs), signs)
        factors[name] = columns * signs
        weights = weights * norms * signs
    order = weights.abs().argsort(descending=True, stable=True)
    return {"weights": weights[order]} | {name: factor[:, order] for name, factor in factors.items()}


def congruence(first: BilinearLayer, second: BilinearLayer) -> tuple[Tensor, Tensor]:
    """|c . c'| max(|l . l'| |r . r'|, |l . r'| |r . l'|) of unit-norm c, l, r: (rank, rank'), 1 for equal terms.

    Also whether left and right are swapped between the two, (rank, rank').
    """
    (c, l, r), (c2, l2, r2) = (  # noqa: E741 - the letters of the formula
        [unit_columns(factor.to(torch.float64))[0] for factor in (layer.down, layer.left, layer.right)]
        for layer in (first, second)
    )
    straight, crossed = ((l.T @ l2) * (r.T @ r2)).abs(), ((l.T @ r2) * (r.T @ l2)).abs()
    return (c.T @ c2).abs() * torch.maximum(straight, crossed), crossed > straight
