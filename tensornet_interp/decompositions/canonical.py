"""The canonical form of a sum of rank-one terms."""

import torch
from torch import Tensor

from tensornet_interp.layer import BilinearLayer


def unit_columns(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """matrix[i, rank] = columns[i, rank] norms[rank], columns of unit norm; a column of zeros stays as it is."""
    norms = torch.linalg.vector_norm(matrix, dim=0)
    return matrix / torch.where(norms > 0, norms, torch.ones_like(norms)), norms


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
