"""Layers as torch modules of three `nn.Linear`, whose parameters can be trained further."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

__all__ = ["HasFactors", "LayerModule", "layer_modules"]


class LayerModule(nn.Module):
    """A layer module computes down(left(x) * right(x)); its linear maps have biases if the layer was lifted."""

    def __init__(self, left: nn.Linear, right: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        self.left, self.right, self.down = left, right, down

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for plain inputs: (..., in) -> (..., out)."""
        return self.down(self.left(x) * self.right(x))


class HasFactors(Protocol):
    """An object has factors if it offers the tensors down, left and right."""

    @property
    def down(self) -> Tensor:
        """Return the factor of the outputs, (out, rank)."""

    @property
    def left(self) -> Tensor:
        """Return (in, rank)."""

    @property
    def right(self) -> Tensor:
        """Return (in, rank)."""


def layer_modules(layers: Sequence[HasFactors], *, constant: bool) -> list[LayerModule]:
    """Return modules of layers, bottom first; their parameters are copies.

    constant: whether the first input coordinate of the bottom layer is the constant 1. The weights of left and right at
    this coordinate become biases. The units that read only this coordinate become the bias of down. A constant output
    is dropped, because the biases of the next module replace it. If a layer gives the constant output only
    approximately, as some truncated layers do, it stays as an ordinary coordinate.
    """
    modules = []
    for i, layer in enumerate(layers):
        down, left, right = layer.down, layer.left, layer.right
        bias, literal = None, False
        if constant:
            fixed = ~left[1:].any(0) & ~right[1:].any(0)
            bias = down[:, fixed] @ (left[0] * right[0])[fixed]
            down, left, right = down[:, ~fixed], left[:, ~fixed], right[:, ~fixed]
            if i < len(layers) - 1:
                literal = bool(bias[0] == 1) and not bool(down[0].any())
                down, bias = down[literal:], bias[literal:]
        left_bias, right_bias = (left[0], right[0]) if constant else (None, None)
        inputs = slice(int(constant), None)
        modules.append(
            LayerModule(_linear(left[inputs].T, left_bias), _linear(right[inputs].T, right_bias), _linear(down, bias))
        )
        constant = literal
    return modules


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    n_out, n_in = weight.shape
    linear = nn.Linear(n_in, n_out, bias is not None, device=torch.device("meta"))  # draws no random numbers
    linear.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone())
    return linear
