"""Networks as float64 layers with entries near 1 and a logarithm, so that no inner product overflows or vanishes."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork


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


def rescale(layer: BilinearLayer, exponents: tuple[int, ...]) -> BilinearLayer:
    """The float64 layer with its factors divided by 2^exponents: exact, since powers of two do not round."""
    wide = layer.to(dtype=torch.float64)
    down, left, right = (
        factor / math.ldexp(1.0, exponent)
        for factor, exponent in zip((wide.down, wide.left, wide.right), exponents, strict=True)
    )
    return replace(wide, down=down, left=left, right=right)


def largest_entry(tensor: Tensor) -> Tensor:
    """Largest magnitude, or 1 of a zero tensor: what is divided out and carried as a logarithm."""
    largest = tensor.detach().abs().max()
    return torch.where(largest > 0, largest, torch.ones_like(largest))
