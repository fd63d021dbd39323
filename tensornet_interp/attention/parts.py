"""Parts of a stack over positions: linear maps, norms, and what a part adds to the residual stream."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.affine import lift_vectors
from tensornet_interp.checks import (
    check_alike,
    check_batch,
    check_bool,
    check_number,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.contraction import Modes, Term
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.numerics import without_autocast
from tensornet_interp.places import move
from tensornet_interp.store import register_type


@register_type("LinearMap")
@dataclass(frozen=True, eq=False, kw_only=True)
class LinearMap(TensorNetwork):
    """A linear map y = weight x + bias at every position, such as an embedding or a head, as a network of two modes.

    weight: (out, in). bias: (out,) or None. With a bias, coordinate 0 of the mode "in1" is the constant 1, which a call
    puts in front of its input. name: whose map it is.
    Raises ValueError if sizes, dtypes or devices differ, or if entries are not finite.
    """

    weight: Tensor
    bias: Tensor | None = None
    name: str = ""

    def __post_init__(self) -> None:
        check_tensor("weight", self.weight, ("out", "in"))
        if self.bias is not None:
            check_tensor("bias", self.bias, ("out",))
            check_size("out", weight=len(self.weight), bias=len(self.bias))
            check_alike(weight=self.weight, bias=self.bias)
        check_text("name", self.name, empty=True)

    @property
    def modes(self) -> Modes:
        """Return the modes ("out", "in1")."""
        return ("out", "in1")

    @property
    def constant_in(self) -> bool:
        """Return True if input coordinate 0 is the constant that holds the bias."""
        return self.bias is not None

    def terms(self) -> tuple[Term, ...]:
        """Return one term, whose first column is the bias if there is one."""
        matrix = self.weight if self.bias is None else torch.cat([self.bias[:, None], self.weight], 1)
        return (Term(matrix, ("out", "in1")),)

    def __repr__(self) -> str:
        bias = ", bias" * self.constant_in
        out, size = self.weight.shape
        return f"LinearMap({self.name!r}, out={out}, in={size}{bias}, {str(self.weight.dtype)[6:]})"

    @without_autocast
    def __call__(self, x: Tensor) -> Tensor:
        """Return weight x + bias: (..., in) -> (..., out)."""
        y = lift_vectors("x", x, self.weight.shape[1], constant=False, like=self.weight) @ self.weight.T
        return y if self.bias is None else y + self.bias

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "LinearMap":
        """Return the map on a device and in a dtype."""
        bias = None if self.bias is None else move("bias", self.bias, device, dtype)
        return replace(self, weight=move("weight", self.weight, device, dtype), bias=bias)


@register_type("Norm")
@dataclass(frozen=True, eq=False, kw_only=True)
class Norm:
    """A norm divides vectors by their root mean square; at fixed scales it is a linear map.

    norm(x) = weight * scale * x + bias with scale = 1 / sqrt(mean(x^2) + eps)

    centered: if True, the mean of x is subtracted first, as in `nn.LayerNorm`; if False, it is an RMS norm.
    weight, bias: (in,) or None. scale: None, or fixed scales, () or ([batch,] position); see `given`.
    Raises ValueError if sizes, dtypes or devices differ, or if entries are not finite.
    """

    centered: bool = False
    eps: float = 1e-5
    weight: Tensor | None = None
    bias: Tensor | None = None
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        check_bool("centered", self.centered)
        check_number("eps", self.eps, 0.0)
        for side in ("weight", "bias"):
            if getattr(self, side) is not None:
                check_tensor(side, getattr(self, side), ("in",))
        if self.weight is not None and self.bias is not None:
            check_size("in", weight=len(self.weight), bias=len(self.bias))
        if self.scale is not None:
            modes = ("batch", "position")[max(0, 2 - getattr(self.scale, "ndim", 0)) :]
            check_tensor("scale", self.scale, modes)
        if self.arrays():
            check_alike(**self.arrays())

    def arrays(self) -> dict[str, Tensor]:
        """Return every array that is not None by its name."""
        named = {"weight": self.weight, "bias": self.bias, "scale": self.scale}
        return {name: array for name, array in named.items() if array is not None}

    @without_autocast
    def scales(self, x: Tensor) -> Tensor:
        """Return the number that the norm multiplies each vector by, fixed or 1 / sqrt(mean(x^2) + eps).

        x: (..., in). Result: (...), or the fixed scales. It is what stays outside of a layer that `fold_norm` returns.
        """
        self._check(x)
        if self.scale is not None:
            return self.scale
        wide = self._centred(x)
        return torch.rsqrt(wide.square().mean(-1) + self.eps).to(x.dtype)

    def _centred(self, x: Tensor) -> Tensor:
        """Return vectors without their mean if the norm is centred, in float32 or wider: squares overflow in halves."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return wide - wide.mean(-1, keepdim=True) if self.centered else wide

    @without_autocast
    def __call__(self, x: Tensor) -> Tensor:
        """Return the normed vectors: (..., in) -> the same. Raises ValueError if fixed scales are not those of x."""
        scales = self.scales(x)
        y = self._centred(x) * scales[..., None]
        y = y if self.weight is None else y * self.weight
        return (y if self.bias is None else y + self.bias).to(x.dtype)

    def _check(self, x: Tensor) -> None:
        check_batch("x", x, "in", finite=False)
        if self.arrays():
            check_alike(x=x, **self.arrays())
        for side in ("weight", "bias"):
            if getattr(self, side) is not None:
                check_size("in", x=x.shape[-1], **{side: len(getattr(self, side))})
        if self.scale is not None and self.scale.ndim and self.scale.shape != x.shape[-1 - self.scale.ndim : -1]:
            raise ValueError(
                f"the norm has fixed scales of shape {tuple(self.scale.shape)}, and x has shape {tuple(x.shape)};"
                " give the norm of these inputs"
            )

    def given(self, x: Tensor) -> "Norm":
        """Return the affine map of these inputs ([batch,] position, in): the norm with their scales fixed."""
        self(check_batch("x", x, "in"))
        return replace(self, scale=self.scales(x))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Norm":
        """Return the norm on a device and in a dtype."""
        moved = {name: move(name, array, device, dtype) for name, array in self.arrays().items()}
        return replace(self, weight=moved.get("weight"), bias=moved.get("bias"), scale=moved.get("scale"))


@register_type("Part")
class Part(NamedTuple):
    """A part of a stack: y = residual x + map(norm(x)) + bias.

    map: an attention layer; or a map at every position, which is a bilinear map or a network with modes (out, in1).
    bias: (out,) or None, the bias of the output of an attention layer.
    """

    map: TensorNetwork
    residual: float = 0.0
    norm: Norm | None = None
    bias: Tensor | None = None
