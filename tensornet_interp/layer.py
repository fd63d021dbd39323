"""A bilinear layer as what it is: a CP tensor of rank equal to its hidden width."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from tensornet_interp.affine import affine_matrix, check_direction, lift_vectors
from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_alike,
    check_bool,
    check_notes,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.contraction import Modes, Term, contract, mode_sizes
from tensornet_interp.formats import cp_factors, dense_factors

__all__ = ["AS_GIVEN", "CHANGED", "BilinearLayer", "BilinearMap", "TensorNetwork"]

AS_GIVEN, CHANGED = "as given", "changed"  # bases that name no coordinates
_MODES = ("out", "in1", "in2")


class TensorNetwork(ABC):
    """Anything with open `modes` and `terms()`: a layer, a stack of layers, a decomposition of one."""

    @property
    @abstractmethod
    def modes(self) -> Modes:
        """The open modes, in the order of `to_tensor()`."""

    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """The arrays of the network; the same array object wherever a part is used more than once."""

    @property
    def sizes(self) -> dict[str, int]:
        """Size of every open mode."""
        sizes = mode_sizes(self.terms())
        return {mode: sizes[mode] for mode in self.modes}

    def to_tensor(self, *, max_elements: float = DEFAULT_MAX_ELEMENTS) -> Tensor:
        """The dense tensor over `modes`: an oracle for small networks. Cost: the product of the sizes of the modes."""
        return contract(self, max_elements=max_elements)

    def to_layer(self) -> "BilinearLayer":
        """The same map as a CP tensor, exactly; made dense here (out * in^2), which subclasses that can avoid do.

        Raises ValueError if the modes are not ("out", "in1", "in2").
        """
        if self.modes != _MODES:
            raise ValueError(
                f"a layer has the modes {_MODES}, got {self.modes} of a {type(self).__name__}; rename its modes, or"
                " project it to these"
            )
        return BilinearLayer.from_tensor(self.to_tensor())


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
        return _MODES

    @abstractmethod
    def to_layer(self) -> "BilinearLayer":
        """The same map as a CP tensor, exactly, with its name, history and constant coordinates."""

    def drop_constant(self) -> "BilinearMap":
        """Without the constant output coordinate, as the last part of a network must be; the function is the same."""
        return self.to_layer().drop_constant()

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
        check_direction(direction, self.sizes["out"], self.terms()[0].data)
        layer = self.to_layer()
        matrix = (layer.left * (direction @ layer.down)[..., None, :]) @ layer.right.mT
        return (matrix + matrix.mT) / 2

    def lift_input(self, name: str, x: Tensor) -> Tensor:
        """Plain inputs `x` (..., in) checked, with the constant 1 put in front where this map is lifted."""
        return lift_vectors(name, x, self.sizes["in1"], constant=self.constant_in, like=self.terms()[0].data)


@dataclass(frozen=True, eq=False, kw_only=True)  # a tensor has no single truth value
class BilinearLayer(BilinearMap):
    """B[out, in1, in2] = sum_rank down[out, rank] left[in1, rank] right[in2, rank].

    The layer `y = down((left x) * (right x))` as a CP tensor: the rank is the hidden width, columns are hidden units.
    `name` says which layer of which model it is, `history` what was done to its weights, `basis` which coordinates its
    inputs are written in: "pixels", "embedding", "residual stream after the norm".
    Raises if sizes, dtypes or devices differ, or entries are not finite.
    """

    down: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank)
    name: str = ""
    history: tuple[str, ...] = ()
    basis: str = AS_GIVEN
    constant_in: bool = False
    constant_out: bool = False

    def __post_init__(self) -> None:
        check_tensor("down", self.down, ("out", "rank"))
        check_tensor("left", self.left, ("in", "rank"))
        check_tensor("right", self.right, ("in", "rank"))
        check_size("rank", left=self.left.shape[1], right=self.right.shape[1], down=self.down.shape[1])
        check_size("in", left=self.left.shape[0], right=self.right.shape[0])
        check_alike(down=self.down, left=self.left, right=self.right)
        check_text("name", self.name, empty=True)
        check_text("basis", self.basis)
        object.__setattr__(self, "history", check_notes("history", self.history))
        check_bool("constant_in", self.constant_in)
        check_bool("constant_out", self.constant_out)

    @classmethod
    def from_weights(
        cls,
        *,
        left: Tensor,
        right: Tensor,
        down: Tensor,
        name: str = "",
        history: tuple[str, ...] = (),
        basis: str = AS_GIVEN,
    ) -> Self:
        """`down((left x) * (right x))` from `nn.Linear` weights: left, right (rank, in), down (out, rank).

        Biases are not weights: a layer that has them goes through `lift`.
        """
        check_tensor("left", left, ("rank", "in"))
        check_tensor("right", right, ("rank", "in"))
        check_tensor("down", down, ("out", "rank"))
        return cls(down=down, left=left.T, right=right.T, name=name, history=history, basis=basis)

    @classmethod
    def from_cp(cls, cp_tensor: Any, name: str = "", history: tuple[str, ...] = (), basis: str = AS_GIVEN) -> Self:
        """From a TensorLy CP tensor `(weights, [down, left, right])`; the weights go into `down`."""
        down, left, right = cp_factors(cp_tensor)
        return cls(down=down, left=left, right=right, name=name, history=history, basis=basis)

    @classmethod
    def from_tensor(cls, tensor: Tensor, name: str = "", history: tuple[str, ...] = (), basis: str = AS_GIVEN) -> Self:
        """A dense tensor (out, in1, in2) written as a CP tensor without arithmetic: rank in * min(in, out)."""
        down, left, right = dense_factors(tensor)
        return cls(down=down, left=left, right=right, name=name, history=history, basis=basis)

    @classmethod
    def from_torch_bilinear(cls, module: torch.nn.Bilinear, name: str = "", basis: str = AS_GIVEN) -> Self:
        """`torch.nn.Bilinear` applied to one input twice: its weight is the dense tensor. A bias must be lifted."""
        if module.bias is not None:
            raise ValueError(
                "the torch.nn.Bilinear has a bias, which a bilinear layer has not; lift it:"
                " lift(BilinearLayer.from_tensor(module.weight.detach()), bias=module.bias.detach())"
            )
        return cls.from_tensor(module.weight.detach(), name, basis=basis)

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

    def __repr__(self) -> str:
        sizes = f"out={self.shape[0]}, in={self.shape[1]}, rank={self.rank}"
        lifted = self.constant_in or self.constant_out
        extra = f", lifted in={self.constant_in} out={self.constant_out}" if lifted else ""
        dtype = str(self.down.dtype).removeprefix("torch.")
        return f"BilinearLayer({self.name!r}, {sizes}, {dtype}{extra}, basis={self.basis!r})"

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
        basis: str = "",
        note: str = "",
    ) -> "BilinearLayer":
        """The layer of `outputs @ layer(inputs @ x + input_bias) + output_bias`: linear maps absorbed, exactly.

        inputs (in, new in): an embedding, a dictionary's decoder; outputs (new out, out): an unembedding or a head.
        Both in `nn.Linear.weight` layout. The constant coordinate of a lifted layer is kept, which is what makes
        biases possible; on a layer that is not lifted they are an error. basis: the coordinates of the new inputs, by
        default "changed", never those from before. `note` is added to the history.
        Cost: 2 rank in (new in) + rank out (new out).
        """
        left, right, down, new_basis = self.left, self.right, self.down, self.basis
        if inputs is not None or input_bias is not None:
            full = affine_matrix("input", inputs, input_bias, axis=0, like=left, constant=self.constant_in)
            left, right = full.T @ left, full.T @ right
            new_basis = basis or CHANGED
            note = note or f"inputs from basis '{self.basis}' to '{new_basis}'"
        elif basis:
            raise ValueError(f"basis={basis!r} is that of new inputs; give inputs or input_bias with it")
        if outputs is not None or output_bias is not None:
            full = affine_matrix("output", outputs, output_bias, axis=1, like=down, constant=self.constant_out)
            down = full @ down
        history = (*self.history, note or "change of basis")
        return replace(self, down=down, left=left, right=right, history=history, basis=new_basis)

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
