"""Networks as float64 layers with entries near 1, times a logarithmic scale: no inner product overflows or vanishes."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.numerics import nonzero


@dataclass(frozen=True, eq=False)
class Stack:
    """A network: exp(log_scale) times float64 `layers`, bottom first, with the largest entry of each factor near 1."""

    layers: tuple[BilinearLayer, ...]
    log_scale: float

    def __len__(self) -> int:
        return len(self.layers)


def as_stack(network: BilinearNetwork) -> Stack:
    """Rescale a network exactly: the scale of a layer counts once per copy of it, 2^(layers above) times."""
    layers, log_scale = [], 0.0
    for layer in network.layers:
        exponents = factor_exponents(layer)
        layers.append(rescale(layer, exponents))
        log_scale = 2 * log_scale + sum(exponents) * math.log(2)
    return Stack(tuple(layers), log_scale)


def factor_exponents(*layers: BilinearLayer) -> tuple[int, ...]:
    """Return e for down, left and right: the largest entry of all layers is in [2^e, 2^(e + 1)); 0 if all are zero."""
    exponents = []
    for factors in zip(*((layer.down, layer.left, layer.right) for layer in layers), strict=True):
        largest = max(float(factor.detach().abs().max()) for factor in factors)
        exponents.append(math.frexp(largest)[1] - 1 if largest else 0)
    return tuple(exponents)


def common_exponents(a: BilinearLayer, b: BilinearLayer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return exponents of equal sum for both layers: rescaled they keep their ratio, and the larger has entries near 1.

    The exponents of left (and those of right) are equal for both layers if they differ by at most one, so that aligned
    factors stay aligned. If they differ by more, each layer has its own, and the exponents of down make up for it.
    """
    both = (factor_exponents(a), factor_exponents(b))
    total = max(map(sum, both))
    inputs = [(max(pair),) * 2 if abs(pair[0] - pair[1]) <= 1 else pair for pair in zip(*both, strict=True)][1:]
    first, second = ((total - left - right, left, right) for left, right in zip(*inputs, strict=True))
    return first, second


def rescale(layer: BilinearLayer, exponents: tuple[int, ...]) -> BilinearLayer:
    """Return the float64 layer with its factors divided by 2^exponents: exact, since powers of two do not round."""
    wide = layer.to(dtype=torch.float64)
    down, left, right = (
        # neither power overflows; the first is 0 below what a float can hold
        factor * math.ldexp(1.0, -exponent) if exponent > 0 else factor / math.ldexp(1.0, exponent)
        for factor, exponent in zip((wide.down, wide.left, wide.right), exponents, strict=True)
    )
    return replace(wide, down=down, left=left, right=right)


def largest_entry(tensor: Tensor) -> Tensor:
    """Return the largest magnitude, or 1 for a zero tensor; callers divide by it and carry its logarithm."""
    return nonzero(tensor.detach().abs().max())
