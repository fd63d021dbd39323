"""Networks as float64 layers with entries near 1 and a logarithm, so that no inner product overflows or vanishes."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.numerics import nonzero


@dataclass(frozen=True, eq=False)
class Stack:
    """exp(log_scale) times the network of `layers`, bottom first; float64, the largest entry of each factor near 1."""

    layers: tuple[BilinearLayer, ...]
    log_scale: float

    def __len__(self) -> int:
        return len(self.layers)


def as_stack(network: BilinearNetwork) -> Stack:
    """The network, rescaled exactly: a layer's scale counts once for every copy of it, 2^(layers above)."""
    layers, log_scale = [], 0.0
    for layer in network.layers:
        exponents = factor_exponents(layer)
        layers.append(rescale(layer, exponents))
        log_scale = 2 * log_scale + sum(exponents) * math.log(2)
    return Stack(tuple(layers), log_scale)


def factor_exponents(*layers: BilinearLayer) -> tuple[int, ...]:
    """e of down, left, right: the largest entry over all layers is in [2^e, 2^(e + 1)); 0 where all are zero."""
    exponents = []
    for factors in zip(*((layer.down, layer.left, layer.right) for layer in layers), strict=True):
        largest = max(float(factor.detach().abs().max()) for factor in factors)
        exponents.append(math.frexp(largest)[1] - 1 if largest else 0)
    return tuple(exponents)


def common_exponents(a: BilinearLayer, b: BilinearLayer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Exponents of equal sum for both, so that rescaled they keep their ratio, entries near 1 in the larger of the two.

    The inputs' are equal where they differ by one at most: aligned factors stay aligned. Further apart, as where left
    is large and right small in one layer only, each has its own, and the outputs' make up for it.
    """
    both = (factor_exponents(a), factor_exponents(b))
    total = max(map(sum, both))
    inputs = [(max(pair),) * 2 if abs(pair[0] - pair[1]) <= 1 else pair for pair in zip(*both, strict=True)][1:]
    first, second = ((total - left - right, left, right) for left, right in zip(*inputs, strict=True))
    return first, second


def rescale(layer: BilinearLayer, exponents: tuple[int, ...]) -> BilinearLayer:
    """The float64 layer with its factors divided by 2^exponents: exact, since powers of two do not round."""
    wide = layer.to(dtype=torch.float64)
    down, left, right = (
        # neither power overflows; the first is 0 below what a float can hold
        factor * math.ldexp(1.0, -exponent) if exponent > 0 else factor / math.ldexp(1.0, exponent)
        for factor, exponent in zip((wide.down, wide.left, wide.right), exponents, strict=True)
    )
    return replace(wide, down=down, left=left, right=right)


def largest_entry(tensor: Tensor) -> Tensor:
    """Largest magnitude, or 1 of a zero tensor: what is divided out and carried as a logarithm."""
    return nonzero(tensor.detach().abs().max())
