"""Bilinear layers as CP tensors, whose rank is the hidden width."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from tensornet_interp.affine import affine_matrix, check_direction, check_inputs, lift_vectors
from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_text,
)
from tensornet_interp.contraction import Modes, Term, contract, mode_sizes
from tensornet_interp.formats import check_factors, cp_factors, dense_factors, linear_factors, module_factors
from tensornet_interp.modules import LayerModule, layer_modules
from tensornet_interp.names import AS_GIVEN, CHANGED, Named, Names, check_description
from tensornet_interp.numerics import without_autocast
from tensornet_interp.places import move
from tensornet_interp.store import register_type

__all__ = ["AS_GIVEN", "CHANGED", "BilinearLayer", "BilinearMap", "TensorNetwork"]

_MODES = ("out", "in1", "in2")


class TensorNetwork(ABC):
    """A tensor network has open `modes` and `terms()`: a layer, a stack of layers or a decomposition of a layer."""

    @property
    @abstractmethod
    def modes(self) -> Modes:
        """Return the open modes, in the order of the axes of `to_tensor()`."""

    @abstractmethod
    def terms(self) -> tuple[Term, ...]:
        """Return the arrays of the network; an array that is used more than once is the same object every time."""

    @property
    def sizes(self) -> dict[str, int]:
        """Return the size of every open mode."""
        sizes = mode_sizes(self.terms())
        return {mode: sizes[mode] for mode in self.modes}

    def to_tensor(self, *, max_elements: float = DEFAULT_MAX_ELEMENTS) -> Tensor:
        """Return the dense tensor over `modes`, for small networks. Memory: the product of the sizes of the modes."""
        return contract(self, max_elements=max_elements)

    def to_layer(self) -> "BilinearLayer":
        """Return the same map as a CP tensor, exactly.

        Most subclasses avoid the dense tensor (out * in^2). Raises ValueError if the modes are not (out, in1, in2).
        """
        if self.modes != _MODES:
            kind, todo = type(self).__name__, "rename its modes"
            if "position" in self.modes:
                todo = "it mixes positions: a SequenceNetwork stacks such maps, and similarity compares them"
            raise ValueError(f"a layer has the modes {_MODES}, but this {kind} has {self.modes}; {todo}")
        return BilinearLayer(**dense_factors(self.to_tensor()))


class BilinearMap(Named, TensorNetwork):
    """A bilinear map is a layer or a decomposition of a layer: y[out] = sum B[out, in1, in2] x1[in1] x2[in2].

    A subclass defines only `terms()` and `to_layer()`. If `constant_in` is true, input coordinate 0 is the constant 1
    of a lifted layer; a call takes inputs without it. If `constant_out` is true, output coordinate 0 is constant.
    """

    constant_in: bool
    constant_out: bool

    @property
    def modes(self) -> Modes:
        """Return the modes ("out", "in1", "in2")."""
        return _MODES

    @abstractmethod
    def to_layer(self) -> "BilinearLayer":
        """Return the same map as a CP tensor, exactly, with its name, history and constant coordinates."""

    def drop_constant(self) -> "BilinearMap":
        """Return the same function without the constant output coordinate, as the last part of a network needs it."""
        return self.to_layer().drop_constant()

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BilinearMap":
        """Return the map on a device and in a dtype; its arrays are converted before they are multiplied."""
        return self.to_layer().to(device, dtype)

    def to_module(self) -> LayerModule:
        """Return down(left(x) * right(x)) as a torch module of three `nn.Linear`, with copies of the weights."""
        return layer_modules([self.drop_constant().to_layer()], constant=self.constant_in)[0]

    def multilinear(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """Return B(x1, x2) over all coordinates, constant ones included: (..., in) -> (..., out)."""
        return self.to_layer().multilinear(x1, x2)

    def __call__(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """Return B(x1, x2), by default B(x1, x1): (..., in) -> (..., out), without constant coordinates.

        The results of symmetric decompositions (eigen, symmetric_cp) give (B(x1, x2) + B(x2, x1)) / 2.

        Example:
        >>> BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.ones(1, 2))(torch.ones(2))
        tensor([2.])
        """
        x1 = self.lift_input("x1", x1)
        y = self.multilinear(x1, None if x2 is None else self.lift_input("x2", x2))
        return y[..., 1:] if self.constant_out else y

    @without_autocast
    def contributions(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """Return what every component adds to every output: down[out, r] (left[:, r] . x1)(right[:, r] . x2).

        The shape is (..., out, rank), and the sum over rank is exactly the output. Memory: batch * out * rank.
        """
        layer, x1 = self.to_layer(), self.lift_input("x1", x1)
        x2 = check_inputs(x1, None if x2 is None else self.lift_input("x2", x2), layer.left)
        parts = layer.down * ((x1 @ layer.left) * (x2 @ layer.right))[..., None, :]
        return parts[..., 1:, :] if self.constant_out else parts

    @without_autocast
    def interaction_matrix(self, direction: Tensor) -> Tensor:
        """Return the symmetrized matrix M[in1, in2] = sum_out direction[out] B[out, in1, in2] of each direction.

        direction: (..., out), constant output included. Result: (..., in, in).
        Cost: 2 * directions * in^2 * rank flops.
        """
        check_direction(direction, self.sizes["out"], self.terms()[0].data)
        layer = self.to_layer()
        matrix = (layer.left * (direction @ layer.down)[..., None, :]) @ layer.right.mT
        return (matrix + matrix.mT) / 2

    def lift_input(self, name: str, x: Tensor) -> Tensor:
        """Check plain inputs `x` (..., in) and return them; if this map is lifted, put the constant 1 in front."""
        return lift_vectors(name, x, self.sizes["in1"], constant=self.constant_in, like=self.terms()[0].data)


@register_type("BilinearLayer")
@dataclass(frozen=True, eq=False, kw_only=True)  # a tensor has no single truth value
class BilinearLayer(BilinearMap):
    """A bilinear layer `y = down((left x) * (right x))` is a CP tensor.

    B[out, in1, in2] = sum_rank down[out, rank] left[in1, rank] right[in2, rank]

    The rank is the hidden width, and columns are hidden units. `name`: the model and the layer. `history`: the changes
    of the weights. `basis`: the coordinates of the inputs, such as "pixels" or "residual stream after the norm".
    `names`: see `with_names`. Raises ValueError if sizes, dtypes or devices differ, or if entries are not finite.
    """

    down: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank)
    name: str = ""
    history: tuple[str, ...] = ()
    basis: str = AS_GIVEN
    constant_in: bool = False
    constant_out: bool = False
    names: Names = Names()  # noqa: RUF009

    def __post_init__(self) -> None:
        check_factors(self.down, self.left, self.right)
        check_description(self, inputs=len(self.left), outputs=len(self.down))

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
        share: bool = False,
    ) -> Self:
        """Make the layer `down((left x) * (right x))` of `nn.Linear` weights.

        left, right: (rank, in). down: (out, rank). For a layer with biases, pass the result on to `lift`.
        share: if False, the layer is a copy without gradients. If True, its factors are views of the weights: gradients
        flow to the weights, and training steps change the layer; its `repr` says "with gradients".
        """
        return cls(**linear_factors(left, right, down, share), name=name, history=history, basis=basis)

    @classmethod
    def from_cp(cls, cp_tensor: Any, name: str = "", history: tuple[str, ...] = (), basis: str = AS_GIVEN) -> Self:
        """Copy a TensorLy CP tensor `(weights, [down, left, right])` to a layer; `down` absorbs the weights."""
        return cls(**cp_factors(cp_tensor), name=name, history=history, basis=basis)

    @classmethod
    def from_tensor(cls, tensor: Tensor, name: str = "", history: tuple[str, ...] = (), basis: str = AS_GIVEN) -> Self:
        """Copy a dense tensor (out, in1, in2) exactly to a CP tensor, without arithmetic. Rank: in * min(in, out)."""
        return cls(**dense_factors(tensor, own=True), name=name, history=history, basis=basis)

    @classmethod
    def from_torch_bilinear(
        cls, module: torch.nn.Bilinear, name: str = "", basis: str = AS_GIVEN, *, inputs: str = "one"
    ) -> Self:
        """Make the layer module(x, x) from the symmetric part of the weight, or module(x1, x2) of cat([x1, x2]).

        module: a `torch.nn.Bilinear` without bias. inputs: "one" for module(x, x), or "two" for module(x1, x2).
        """
        return cls(**module_factors(module, inputs), name=name, basis=basis)

    @property
    def cp(self) -> CPTensor:
        """Return a `CPTensor` of the same storage with weights of one, which every TensorLy function accepts."""
        return CPTensor((torch.ones_like(self.down[0]), [self.down, self.left, self.right]))

    @property
    def rank(self) -> int:
        """Return the number of hidden units."""
        return self.down.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (out, in, in), constant coordinates included."""
        return (self.down.shape[0], self.left.shape[0], self.left.shape[0])

    def __repr__(self) -> str:
        sizes = f"out={self.shape[0]}, in={self.shape[1]}, rank={self.rank}"
        extra = f", lifted in={self.constant_in} out={self.constant_out}" * (self.constant_in or self.constant_out)
        extra += ", with gradients" * any(term.data.requires_grad for term in self.terms())
        return f"BilinearLayer({self.name!r}, {sizes}, {str(self.down.dtype)[6:]}{extra}, basis={self.basis!r})"

    def terms(self) -> tuple[Term, ...]:
        """Return three terms that share the mode "rank"."""
        return (Term(self.down, ("out", "rank")), Term(self.left, ("in1", "rank")), Term(self.right, ("in2", "rank")))

    def to_layer(self) -> "BilinearLayer":
        """Return this layer unchanged."""
        return self

    @without_autocast
    def multilinear(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """Return B(x1, x2) over all coordinates, (..., in) -> (..., out).

        Cost: 2 * rank * (2 * in + out) flops per sample.
        """
        x2 = check_inputs(x1, x2, self.left)
        return ((x1 @ self.left) * (x2 @ self.right)) @ self.down.T

    def symmetrize(self) -> "BilinearLayer":
        """Return the same function with the symmetric tensor (B[out, i, j] + B[out, j, i]) / 2 and twice the rank."""
        pairs = ((self.down / 2, self.down / 2), (self.left, self.right), (self.right, self.left))
        down, left, right = (torch.cat(pair, 1) for pair in pairs)
        return replace(self, down=down, left=left, right=right, history=(*self.history, "symmetrized"))

    @without_autocast
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
        """Absorb linear maps exactly: return `outputs @ layer(inputs @ x + input_bias) + output_bias` as a layer.

        inputs: (in, new in), an embedding or the decoder of a dictionary. outputs: (new out, out), an unembedding or a
        head. Both have the layout of `nn.Linear.weight`. Biases need a lifted layer; its constant coordinate stays.
        basis: the name of the new input coordinates, by default "changed". note: a text that is added to the history.
        Cost: 2 rank in (new in) + rank out (new out). Raises ValueError if sizes do not match.
        """
        check_text("basis", basis, empty=True)
        check_text("note", note, empty=True)
        left, right, down, new_basis = self.left, self.right, self.down, self.basis
        if inputs is not None or input_bias is not None:
            full = affine_matrix("input", inputs, input_bias, axis=0, like=left, constant=self.constant_in)
            left, right = full.T @ left, full.T @ right
            new_basis = basis or CHANGED
            note = note or f"inputs from basis '{self.basis}' to '{new_basis}'"
        elif basis:
            raise ValueError(f"basis={basis!r} names the coordinates of new inputs; give inputs or input_bias with it")
        if outputs is not None or output_bias is not None:
            down = affine_matrix("output", outputs, output_bias, axis=1, like=down, constant=self.constant_out) @ down
        history = (*self.history, note or "change of basis")
        names = self.names.without(inputs=inputs is not None, outputs=outputs is not None)
        return replace(self, down=down, left=left, right=right, history=history, basis=new_basis, names=names)

    def drop_constant(self) -> "BilinearLayer":
        """Return the same function without the constant output coordinate, as the last layer of a network needs it."""
        history = (*self.history, "constant output dropped")
        return replace(self, down=self.down[1:], constant_out=False, history=history) if self.constant_out else self

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BilinearLayer":
        """Return the layer on a device and in a dtype."""
        down, left, right = (move(name, getattr(self, name), device, dtype) for name in ("down", "left", "right"))
        return replace(self, down=down, left=left, right=right)
