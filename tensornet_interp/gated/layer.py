"""Gated layers: bilinear layers with a function of one number on the left half."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from tensornet_interp.affine import lift_vectors
from tensornet_interp.checks import check_alike, check_size, check_tensor
from tensornet_interp.formats import check_factors, linear_factors, owned
from tensornet_interp.gated.gates import Gate, check_gate, gate_function
from tensornet_interp.names import AS_GIVEN, Names, check_description
from tensornet_interp.numerics import without_autocast
from tensornet_interp.places import move
from tensornet_interp.store import register_type

_BIASES = {"left_bias": "rank", "right_bias": "rank", "bias": "out"}


@register_type("GatedLayer")
@dataclass(frozen=True, eq=False, kw_only=True)
class GatedLayer:
    """A gated layer is the MLP of most language models. It is not a tensor; `linearize` finds a bilinear layer near it.

    y = down(gate(left x + left_bias) * (right x + right_bias)) + bias

    gate: a name, such as "silu" (SwiGLU), "gelu" (GEGLU) or "relu" (ReGLU), as configs have it, or any function of one
    number that acts on every entry of a tensor; only a name can be saved. Columns of the factors are hidden units.
    name, history, basis and names: as for `BilinearLayer`.
    Raises ValueError if sizes, dtypes or devices differ, if entries are not finite, for an unknown gate, and for a
    function whose entries depend on each other, such as a softmax. Source: Shazeer (arXiv 2002.05202).

    Example:
    >>> layer = GatedLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2), gate="relu")
    >>> layer(torch.tensor([-2.0, 3.0]))
    tensor([9.])
    """

    down: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank)
    gate: Gate
    left_bias: Tensor | None = None  # (rank,)
    right_bias: Tensor | None = None  # (rank,)
    bias: Tensor | None = None  # (out,)
    name: str = ""
    history: tuple[str, ...] = ()
    basis: str = AS_GIVEN
    names: Names = Names()  # noqa: RUF009

    constant_in = constant_out = False  # calls take and return vectors without a constant

    def __post_init__(self) -> None:
        check_factors(self.down, self.left, self.right)
        sizes = {"rank": self.rank, "out": len(self.down)}
        for side, mode in _BIASES.items():
            if (value := getattr(self, side)) is not None:
                check_size(mode, layer=sizes[mode], **{side: len(check_tensor(side, value, (mode,)))})
                check_alike(down=self.down, **{side: value})
        check_gate(self.gate)
        check_description(self, inputs=len(self.left), outputs=len(self.down))

    @classmethod
    def from_weights(
        cls,
        *,
        left: Tensor,
        right: Tensor,
        down: Tensor,
        gate: Gate,
        left_bias: Tensor | None = None,
        right_bias: Tensor | None = None,
        bias: Tensor | None = None,
        name: str = "",
        history: tuple[str, ...] = (),
        basis: str = AS_GIVEN,
        share: bool = False,
    ) -> Self:
        """Make the layer of `nn.Linear` weights: left, right (rank, in), down (out, rank), and biases.

        share: if False, the layer is a copy without gradients. If True, its factors are views of the weights.
        """
        factors = linear_factors(left, right, down, share)
        given = {"left_bias": left_bias, "right_bias": right_bias, "bias": bias}
        for side, value in given.items():
            if value is not None:
                check_tensor(side, value, (_BIASES[side],))
        biases: dict[str, Any] = {
            side: value if share or value is None else owned(value) for side, value in given.items()
        }
        return cls(**factors, **biases, gate=gate, name=name, history=history, basis=basis)

    @property
    def rank(self) -> int:
        """Return the number of hidden units."""
        return self.down.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (out, in, in)."""
        return (self.down.shape[0], self.left.shape[0], self.left.shape[0])

    @without_autocast
    def __call__(self, x: Tensor) -> Tensor:
        """Return y of the equation above, (..., in) -> (..., out).

        Cost: 2 * rank * (2 * in + out) flops per sample.
        """
        gate, up = self.halves(x)
        y = (gate_function(self.gate)(gate) * up) @ self.down.T
        return y if self.bias is None else y + self.bias

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return left x + left_bias, which the gate takes, and right x + right_bias: (..., in) -> (..., rank)."""
        x = lift_vectors("x", x, len(self.left), constant=False, like=self.left)
        u, v = x @ self.left, x @ self.right
        return (
            u if self.left_bias is None else u + self.left_bias,
            v if self.right_bias is None else v + self.right_bias,
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "GatedLayer":
        """Return the layer on a device and in a dtype."""
        arrays = {name: getattr(self, name) for name in ("down", "left", "right", *_BIASES)}
        moved: dict[str, Any] = {
            name: move(name, value, device, dtype) for name, value in arrays.items() if value is not None
        }
        return replace(self, **moved)

    def __repr__(self) -> str:
        out, inputs, _ = self.shape
        gate = self.gate if isinstance(self.gate, str) else getattr(self.gate, "__name__", type(self.gate).__name__)
        sizes = f"out={out}, in={inputs}, rank={self.rank}, {str(self.down.dtype)[6:]}"
        return f"GatedLayer({self.name!r}, {sizes}, gate={gate}, basis={self.basis!r})"
