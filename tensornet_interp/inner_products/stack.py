"""Write networks as float64 layers with entries near 1 and a logarithmic scale, so that products do not overflow."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.balance import balance
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.numerics import nonzero


@dataclass(frozen=True, eq=False)
class Stack:
    """A stack represents a network as exp(log_scale) times the network of float64 `layers`, bottom first.

    Each layer is balanced as by `balance`.
    """

    layers: tuple[BilinearLayer, ...]
    log_scale: float

    def __len__(self) -> int:
        return len(self.layers)


def as_stack(network: BilinearNetwork) -> Stack:
    """Return a network as a stack, rescaled without rounding.

    The scale of a layer counts once per copy of the layer in the tree: 2^(number of layers above) times.
    """
    layers, log_scale = [], 0.0
    for layer in network.to(dtype=torch.float64).layers:  # arrays are widened before they are multiplied
        (core,), exponent = balance(layer)
        layers.append(core)
        log_scale = 2 * log_scale + exponent * math.log(2)
    return Stack(tuple(layers), log_scale)


def largest_entry(tensor: Tensor) -> Tensor:
    """Return the largest magnitude in the tensor, or 1 for a zero tensor, without gradients.

    Callers divide the tensor by this number and keep its logarithm.
    """
    return nonzero(tensor.detach().abs().max())
