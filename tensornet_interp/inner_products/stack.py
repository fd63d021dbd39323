"""Networks as float64 layers with entries near 1, times a logarithmic scale: no inner product overflows or vanishes."""

import math
from dataclasses import dataclass

from torch import Tensor

from tensornet_interp.balance import balance
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.numerics import nonzero


@dataclass(frozen=True, eq=False)
class Stack:
    """A network: exp(log_scale) times float64 `layers`, bottom first, balanced as `balance` does."""

    layers: tuple[BilinearLayer, ...]
    log_scale: float

    def __len__(self) -> int:
        return len(self.layers)


def as_stack(network: BilinearNetwork) -> Stack:
    """Rescale a network exactly: the scale of a layer counts once per copy of it, 2^(layers above) times."""
    layers, log_scale = [], 0.0
    for layer in network.layers:
        (core,), exponent = balance(layer)
        layers.append(core)
        log_scale = 2 * log_scale + exponent * math.log(2)
    return Stack(tuple(layers), log_scale)


def largest_entry(tensor: Tensor) -> Tensor:
    """Return the largest magnitude, or 1 for a zero tensor; callers divide by it and carry its logarithm."""
    return nonzero(tensor.detach().abs().max())
