"""Results whose report holds the relative error of what is returned."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from tensornet_interp.decompositions.compress import DENSE_ELEMENTS
from tensornet_interp.inner_products.distance import relative_error
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.report import Report
from tensornet_interp.results import Result

R = TypeVar("R", bound=Result)


def measured(kind: type[R], layer: BilinearLayer, report: Report, error: Callable[[R], float], **fields: Any) -> R:
    """Return the result of that kind with these fields; its report gets error(result).

    The error is measured on the result itself, so the rounding of its fields to the layer's dtype counts.
    """
    result = kind(report=report, constant_in=layer.constant_in, constant_out=layer.constant_out, **fields)
    return replace(result, report=replace(report, relative_error=error(result)))


@torch.no_grad()
def measure(result: BilinearMap, layer: BilinearLayer, scale: Tensor, squared: float) -> float:
    """Return ||symmetrized layer - result|| / ||symmetrized layer||, the rounding of the result to its dtype included.

    scale: the norm of the layer. If it is 0, every result is zero, and so is the error.
    squared: the relative squared error that the method itself knows, with a rounding error of 1e-15. It is used if this
    and the rounding of the dtype are small beside it, or if a measurement would take more than 2^25 entries (out r^2
    with r = min(in, 2 (hidden + rank of the result))). Otherwise the difference of layer and result is measured, and
    always if the layer is so small that its rounding underflows.
    """
    if not bool(scale > 0):
        return 0.0
    known = max(0.0, squared)
    width = min(layer.shape[1], 2 * (layer.rank + result.to_layer().rank))
    dtype = torch.finfo(layer.down.dtype)
    if float(scale) * dtype.eps < dtype.tiny:
        return relative_error(result, layer)
    if known > max(1e-10, (100 * dtype.eps) ** 2) or layer.shape[0] * width**2 > DENSE_ELEMENTS:
        return known**0.5
    return relative_error(result, layer)
