"""A bilinear layer as what it is: a CP tensor of rank equal to its hidden width."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import check_alike, check_size, check_tensor
from tensornet_interp.contraction import Modes, TensorNetwork, Term

__all__ = ["BilinearLayer", "BilinearMap", "as_layer", "as_wide_layer"]


class BilinearMap(TensorNetwork):
    """y[out] = sum B[out, in1, in2] x1[in1] x2[in2]: what a layer and every decomposition of a layer have in common.

    A subclass gives `terms()` and `to_layer()`; the rest follows. Where `constant_in` is set, input coordinate 0 is
    the constant 1 of a lifted layer, and calls take the plain x and add it; `constant_out` is the same for outputs.
    """

    constant_in: bool
    constant_out: bool

    @property
    def modes(self) -> Modes:
        """("out", "in1", "in2")."""
        return ("out", "in1", "in2")

    @abstractmethod
    def to_layer(self) -> "BilinearLayer":
        """The same map as a CP tensor; exact, no fit."""

    def drop_constant(self) -> "BilinearMap":
        """Without the constant output coordinate, as the last part of a network must be; the function is the same."""
        return self.to_layer().drop_constant()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BilinearMap":
        """The map on a device, in a dtype; its arrays are converted before they are multiplied."""
        return self.to_layer().to(device, dtype)

    def multilinear(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """B(x1, x2) over all coordinates, the constant ones of a lifted layer included: (..., in) -> (..., out)."""
        return self.to_layer().multilinear(x1, x2)

    def __call__(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """B(x1, x2), by default B(x1, x1): (..., in) -> (..., out), plain coordinates in and out.

        Example:
        >>> import torch
        >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2))
        >>> layer(torch.tensor([3.0, 4.0]))
        tensor([25.])
        """
        x1 = self.lift_input("x1", x1)
        y = self.multilinear(x1, None if x2 is None else self.lift_input("x2", x2))
        return y[..., 1:] if self.constant_out else y

    def contributions(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """down[out, r] (left[:, r] . x1)(right[:, r] . x2): what every component adds to every output.

        Shape (..., out, rank); the sum over rank is the output exactly. Memory: batch * out * rank.
        """
        layer = self.to_layer()
        x1 = self.lift_input("x1", x1)
        x2 = x1 if x2 is None else self.lift_input("x2", x2)
        parts = layer.down * ((x1 @ layer.left) * (x2 @ layer.right))[..., None, :]
        return parts[..., 1:, :] if self.constant_out else parts

    def interaction_matrix(self, direction: Tensor) -> Tensor:
        """M[in1, in2] = sum_out direction[out] B[out, in1, in2], symmetrized; a batch of directions is allowed.

        direction: (..., out), the constant coordinate of a lifted output included; result (..., in, in).
        Cost: directions * in^2 * rank.
        """
        check_direction(self, direction)
        layer = self.to_layer()
        matrix = (layer.left * (direction @ layer.down)[..., None, :]) @ layer.right.mT
        return (matrix + matrix.mT) / 2

    def lift_input(self, name: str, x: Tensor) -> Tensor:
        """Plain inputs `x` (..., in) checked, with the constant 1 put in front where this map is lifted."""
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise TypeError(f"{name} must be a tensor (..., in), got {type(x).__name__}")
        check_tensor(name, x, ("...",) * (x.ndim - 1) + ("in",))
        plain = self.sizes["in1"] - self.constant_in
        if x.shape[-1] != plain:
            lifted = " (the constant coordinate of a lifted layer is added by the call)" if self.constant_in else ""
            raise ValueError(f"mode 'in' has size {plain} in the layer but {x.shape[-1]} in {name}{lifted}")
        check_alike(layer=self.terms()[0].data, **{name: x})
        return torch.cat([torch.ones_like(x[..., :1]), x], dim=-1) if self.constant_in else x


@dataclass(frozen=True, eq=False, kw_only=True)  # a tensor has no single truth value
class BilinearLayer(BilinearMap):
    """B[out, in1, in2] = sum_rank down[out, rank] left[in1, rank] right[in2, rank].

    The layer `y = down((left x) * (right x))` as a CP tensor: the rank is the hidden width, columns are hidden units.
    `name` says which layer of which model it is, `history` what was done to its weights.
    Raises where sizes, dtypes or devices differ, or entries are not finite.
    """

    down: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank)
    name: str = ""
    history: tuple[str, ...] = ()
    constant_in: bool = False
    constant_out: bool = False

    def __post_init__(self) -> None:
        check_tensor("down", self.down, ("out", "rank"))
        check_tensor("left", self.left, ("in", "rank"))
        check_tensor("right", self.right, ("in", "rank"))
        check_size("rank", left=self.left.shape[1], right=self.right.shape[1], down=self.down.shape[1])
        check_size("in", left=self.left.shape[0], right=self.right.shape[0])
        check_alike(down=self.down, left=self.left, right=self.right)

    @classmethod
    def from_weights(
        cls, *, left: Tensor, right: Tensor, down: Tensor, name: str = "", history: Sequence[str] = ()
    ) -> "BilinearLayer":
        """`down((left x) * (right x))` from `nn.Linear` weights: left, right (rank, in), down (out, rank).

        Biases are not weights: a layer that has them goes through `lift`.
        """
        check_tensor("left", left, ("rank", "in"))
        check_tensor("right", right, ("rank", "in"))
        check_tensor("down", down, ("out", "rank"))
        return cls(down=down, left=left.T, right=right.T, name=name, history=tuple(history))

    @classmethod
    def from_cp(cls, cp_tensor: Any, name: str = "", history: Sequence[str] = ()) -> "BilinearLayer":
        """From a TensorLy CP tensor `(weights, [down, left, right])`; the weights go into `down`."""
        weights, factors = cp_tensor
        if len(factors) != 3:
            raise ValueError(f"a bilinear layer has 3 factors (down, left, right), got {len(factors)}")
        down, left, right = factors
        check_tensor("down", down, ("out", "rank"))
        if weights is not None:
            check_tensor("weights", weights, ("rank",))
            check_size("rank", down=down.shape[1], weights=weights.shape[0])
            down = down * weights
        return cls(down=down, left=left, right=right, name=name, history=tuple(history))

    @classmethod
    def from_tensor(cls, tensor: Tensor, name: str = "", history: Sequence[str] = ()) -> "BilinearLayer":
        """A dense tensor (out, in1, in2) written as a CP tensor without arithmetic: rank in * min(in, out)."""
        check_tensor("tensor", tensor, ("out", "in1", "in2"))
        check_size("in", in1=tensor.shape[1], in2=tensor.shape[2])
        n_out, n_in, _ = tensor.shape
        eye = torch.eye(n_in, dtype=tensor.dtype, device=tensor.device)
        left = eye.repeat_interleave(min(n_in, n_out), dim=1)  # (in, in * min)
        if n_in <= n_out:
            down, right = tensor.reshape(n_out, -1), eye.repeat(1, n_in)
        else:
            down = torch.eye(n_out, dtype=tensor.dtype, device=tensor.device).repeat(1, n_in)
            right = tensor.permute(2, 1, 0).reshape(n_in, -1)
        return cls(down=down, left=left, right=right, name=name, history=tuple(history))

    @classmethod
    def from_torch_bilinear(cls, module: torch.nn.Bilinear, name: str = "") -> "BilinearLayer":
        """`torch.nn.Bilinear` applied to one input twice: its weight is the dense tensor. A bias must be lifted."""
        if module.bias is not None:
            raise ValueError(
                "the torch.nn.Bilinear has a bias, which a bilinear layer has not; lift it:"
                " lift(BilinearLayer.from_tensor(module.weight.detach()), bias=module.bias.detach())"
            )
        return cls.from_tensor(module.weight.detach(), name)

    @property
    def cp(self) -> CPTensor:
        """The TensorLy `CPTensor` over the same storage, weights given, for every function of TensorLy."""
        ones = torch.ones(self.rank, dtype=self.down.dtype, device=self.down.device)
        return CPTensor((ones, [self.down, self.left, self.right]))

    @property
    def rank(self) -> int:
        """Number of hidden units."""
        return self.down.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(out, in, in), constant coordinates included."""
        return (self.down.shape[0], self.left.shape[0], self.left.shape[0])

    @property
    def basis(self) -> str:
        """The coordinates the inputs are written in: the last note on inputs in the history, or "inputs as given"."""
        return next((note for note in reversed(self.history) if note.startswith("inputs ")), "inputs as given")

    def __repr__(self) -> str:
        n_out, n_in, _ = self.shape
        extra = (
            f", lifted in={self.constant_in} out={self.constant_out}" if self.constant_in or self.constant_out else ""
        )
        dtype = str(self.down.dtype).removeprefix("torch.")
        return f"BilinearLayer({self.name!r}, out={n_out}, in={n_in}, rank={self.rank}, {dtype}{extra}, {self.basis})"

    def terms(self) -> tuple[Term, ...]:
        """Three terms that share the mode "rank"."""
        return (Term(self.down, ("out", "rank")), Term(self.left, ("in1", "rank")), Term(self.right, ("in2", "rank")))

    def to_layer(self) -> "BilinearLayer":
        """Itself."""
        return self

    def multilinear(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """B(x1, x2) over all coordinates: (..., in) -> (..., out). Cost: 2 rank (2 in + out) flops a sample."""
        return ((x1 @ self.left) * ((x1 if x2 is None else x2) @ self.right)) @ self.down.T

    def symmetrize(self) -> "BilinearLayer":
        """1/2 (B[out, in1, in2] + B[out, in2, in1]) with twice the hidden units; the same function of equal inputs."""
        return replace(
            self,
            down=torch.cat([self.down, self.down], 1) / 2,
            left=torch.cat([self.left, self.right], 1),
            right=torch.cat([self.right, self.left], 1),
            history=(*self.history, "symmetrized"),
        )

    def change_basis(
        self,
        inputs: Tensor | None = None,
        outputs: Tensor | None = None,
        *,
        input_bias: Tensor | None = None,
        output_bias: Tensor | None = None,
        note: str = "",
    ) -> "BilinearLayer":
        """The layer of `outputs @ layer(inputs @ x + input_bias) + output_bias`: linear maps absorbed, exactly.

        inputs (in, new in): an embedding, a dictionary's decoder; outputs (new out, out): an unembedding or a head.
        Both in `nn.Linear.weight` layout. The constant coordinate of a lifted layer is kept, which is what makes
        biases possible; on a layer that is not lifted they are an error. `note` is added to the history; a note such
        as "inputs in the pixel basis" becomes `basis`. Other inputs without such a note are "inputs changed", so that
        `basis` never names the coordinates from before. Cost: 2 rank in (new in) + rank out (new out).
        """
        left, right, down = self.left, self.right, self.down
        if inputs is not None or input_bias is not None:
            full = _affine("input", inputs, input_bias, 0, left.shape[0] - self.constant_in, self.constant_in, left)
            left, right = full.T @ left, full.T @ right
            if not note.startswith("inputs "):
                note = f"inputs changed: {note}" if note else "inputs changed"
        if outputs is not None or output_bias is not None:
            full = _affine(
                "output", outputs, output_bias, 1, down.shape[0] - self.constant_out, self.constant_out, down
            )
            down = full @ down
        history = (*self.history, note or "change of basis")
        return replace(self, down=down, left=left, right=right, history=history)

    def drop_constant(self) -> "BilinearLayer":
        """Without the constant output coordinate, as the last layer of a network must be; the function is the same."""
        if not self.constant_out:
            return self
        history = (*self.history, "constant output dropped")
        return replace(self, down=self.down[1:], constant_out=False, history=history)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BilinearLayer":
        """The layer on a device, in a dtype."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device=device or tensor.device, dtype=dtype or tensor.dtype)

        return replace(self, down=move(self.down), left=move(self.left), right=move(self.right))


def check_direction(part: BilinearMap, direction: object) -> None:
    """Raise unless the direction is a tensor (..., out) that fits the map."""
    if not isinstance(direction, Tensor) or direction.ndim == 0:
        raise TypeError(f"direction must be a tensor (..., out), got {direction!r}")
    check_tensor("direction", direction, ("...",) * (direction.ndim - 1) + ("out",))
    check_size("out", layer=part.sizes["out"], direction=direction.shape[-1])
    check_alike(layer=part.terms()[0].data, direction=direction)


def as_layer(part: TensorNetwork) -> BilinearLayer:
    """Any part with modes (out, in1, in2) as a layer; one that knows no shorter way is made dense (out * in^2)."""
    if isinstance(part, BilinearMap):
        return part.to_layer()
    if not isinstance(part, TensorNetwork):
        raise TypeError(f"expected a BilinearLayer or a decomposition of one, got {type(part).__name__}")
    if part.modes != ("out", "in1", "in2"):
        raise ValueError(f"a layer has modes ('out', 'in1', 'in2'), got {part.modes}")
    return BilinearLayer.from_tensor(part.to_tensor())


def as_wide_layer(part: TensorNetwork) -> BilinearLayer:
    """Any part as a float64 layer: its arrays are converted before they are multiplied, and nothing is rounded."""
    return as_layer(part.to(dtype=torch.float64) if isinstance(part, BilinearMap) else part).to(dtype=torch.float64)


def _affine(
    name: str, matrix: Tensor | None, bias: Tensor | None, axis: int, size: int, constant: bool, like: Tensor
) -> Tensor:
    """The matrix of a change of basis, [[1, 0], [bias, matrix]] where the mode has a constant coordinate."""
    if bias is not None and not constant:
        raise ValueError(f"{name}_bias needs a lifted layer, whose constant coordinate it is written to; see lift()")
    if matrix is None:
        matrix = torch.eye(size, dtype=like.dtype, device=like.device)
    check_tensor(f"{name}s", matrix, ("row", "column"))
    check_size(name.removesuffix("put"), layer=size, **{f"{name}s": matrix.shape[axis]})
    check_alike(layer=like, **{f"{name}s": matrix})
    if not constant:
        return matrix
    if bias is None:
        bias = matrix.new_zeros(matrix.shape[0])
    check_tensor(f"{name}_bias", bias, (name,))
    check_size(name, **{f"{name}s": matrix.shape[0], f"{name}_bias": bias.shape[0]})
    check_alike(layer=like, **{f"{name}_bias": bias})
    first = torch.cat([bias.new_ones(1), bias])[:, None]
    return torch.cat([first, pad(matrix, (0, 0, 1, 0))], 1)
