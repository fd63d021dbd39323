"""Represent a stack of bilinear layers, or of decompositions of layers, as one tensor network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from tensornet_interp.cards import Card
from tensornet_interp.checks import DEFAULT_MAX_ELEMENTS, check_alike, check_int
from tensornet_interp.contraction import Modes, Plan, Term, rename
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.modules import layer_modules
from tensornet_interp.names import Named, Names
from tensornet_interp.stepwise import Planner, through
from tensornet_interp.store import register_type

__all__ = ["BilinearNetwork", "as_network", "check_network", "wide_layer"]


@register_type("BilinearNetwork", ["parts"])
class BilinearNetwork(Named, TensorNetwork):
    """A bilinear network is a stack of L parts, bottom first: y = part_L(... part_1(x)).

    Each part is a layer or a decomposition of a layer; a part of another class with modes (out, in1, in2) is replaced
    by its dense tensor. The network is homogeneous of degree 2^L in its input, including the constant coordinate if it
    is lifted. The constant output coordinate of a lifted last part is dropped. The open modes of `terms()` are "out",
    "in1", ..., f"in{2**L}". Raises ValueError if sizes do not match, or if lifted and plain layers are mixed.
    """

    def __init__(self, parts: Sequence[TensorNetwork]) -> None:
        if not isinstance(parts, Iterable):
            raise TypeError(f"a network is made from a list of parts, bottom first; got one {type(parts).__name__}")
        checked = [check_network(f"part {i}", part) for i, part in enumerate(parts)]
        maps = [part if isinstance(part, BilinearMap) else part.to_layer() for part in checked]
        if not maps:
            raise ValueError("a network needs at least one part")
        maps[-1] = maps[-1].drop_constant()
        for i, (below, above) in enumerate(pairwise(maps)):
            if below.constant_out != above.constant_in:
                raise ValueError(
                    f"part {i} {'has' if below.constant_out else 'lacks'} the constant output coordinate that part"
                    f" {i + 1} {'expects' if above.constant_in else 'does not take'}; lift every layer or none"
                )
            size_below, size_above = below.sizes["out"], above.sizes["in1"]
            if size_below != size_above:
                raise ValueError(f"part {i} has {size_below} outputs but part {i + 1} takes {size_above} inputs")
        check_alike(**{f"part {i}": part.to_layer().down for i, part in enumerate(maps)})
        self.parts = tuple(maps)

    @property
    def layers(self) -> tuple[BilinearLayer, ...]:
        """Return every part as a layer (a CP tensor), bottom first."""
        return tuple(part.to_layer() for part in self.parts)

    @property
    def modes(self) -> Modes:
        """Return the open modes ("out", "in1", ..., "in{2**L}")."""
        return ("out", *(f"in{i + 1}" for i in range(2 ** len(self.parts))))

    @property
    def constant_in(self) -> bool:
        """Return True if input coordinate 0 is the constant 1, which every call adds to its input."""
        return self.parts[0].constant_in

    @property
    def names(self) -> Names:
        """Return the names of the inputs of the first part and of the outputs of the last one."""
        return replace(self.parts[0].names, output_names=self.parts[-1].output_names)

    def _renamed(self, names: Names) -> Self:
        """Return the network with these names of the inputs of the first part and of the outputs of the last one."""
        parts = list(self.parts)
        parts[0] = parts[0].with_names(input_names=names.input_names, input_shape=names.input_shape)
        parts[-1] = parts[-1].with_names(output_names=names.output_names)
        return type(self)(parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, i: int) -> BilinearMap:
        return self.parts[check_int("part", i, -len(self), len(self) - 1)]

    def __iter__(self) -> Iterator[BilinearMap]:
        return iter(self.parts)

    def __repr__(self) -> str:
        return "BilinearNetwork([\n" + "".join(f"  {part!r},\n" for part in self.parts) + "])"

    def _card(self) -> Card:
        rows = [(f"part {i}", repr(part)) for i, part in enumerate(self.parts)]
        sizes = self.parts[-1].sizes["out"], self.parts[0].sizes["in1"] - self.constant_in
        return Card(f"BilinearNetwork: {len(self)} parts, out={sizes[0]}, in={sizes[1]}", rows)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output (..., out) for inputs x (..., in), computed layer by layer, without constant coordinates.

        A part that decomposes a lifted layer may output another constant than 1. The next part takes this constant, as
        in the contraction of `terms()`.
        """
        return self.multilinear(self.parts[0].lift_input("x", x))

    def multilinear(self, x: Tensor) -> Tensor:
        """Return the output (..., out) for inputs (..., in), both over all coordinates, constant ones included."""
        for part in self.parts:
            x = part.multilinear(x)
        return x

    def terms(self) -> tuple[Term, ...]:
        """Return the terms of a tree of 2^L - 1 parts.

        All copies of a part share its arrays, so `contract` computes each contraction of the copies once.
        """
        return self._tree(len(self.parts) - 1, "out", 1)

    def to_layer(self) -> BilinearLayer:
        """Return the only part as a layer, with its name, history and constant input.

        Raises ValueError for a network of more than one part.
        """
        if len(self) > 1:
            raise ValueError(
                f"a network of {len(self)} parts is no single layer; take its parts one by one: network[i] or"
                " network.layers"
            )
        return self.parts[0].to_layer()

    def to_module(self) -> torch.nn.Sequential:
        """Return a torch module of the same function, one `LayerModule` per part, with parameters to train.

        (..., in) -> (..., out), without constant coordinates: what the constant brings is the biases of the modules.
        The parameters are copies. `weights.from_module` makes a network of it again.
        """
        return torch.nn.Sequential(*layer_modules(self.layers, constant=self.constant_in))

    def plan(self, batch: int) -> tuple[Plan, ...]:
        """Return the plan of every part's contraction for `batch` inputs, evaluated one after the other.

        Planning takes time in proportion to the number of parts; `plan(circuits.evaluation(network, x))`, which plans
        the whole tree of 2^L - 1 copies, does not. The flops are those of the forward pass.
        """
        planner = Planner()
        size = check_int("batch", batch, 1, DEFAULT_MAX_ELEMENTS), self.parts[0].sizes["in1"]
        x = torch.empty(size, dtype=self.parts[0].terms()[0].data.dtype, device="meta")
        for part in self.parts:
            x = through(part, x, planner)
        return tuple(planner.plans)

    def replace(self, i: int, part: TensorNetwork) -> "BilinearNetwork":
        """Return the network with part i replaced by `part`, for example by a decomposition of that layer."""
        i = check_int("part", i, -len(self), len(self) - 1) % len(self)
        return BilinearNetwork([*self.parts[:i], part, *self.parts[i + 1 :]])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BilinearNetwork":
        """Return the network with the arrays of every part on a device and in a dtype; None leaves either unchanged."""
        return BilinearNetwork([part.to(device, dtype) for part in self.parts])

    def _tree(self, level: int, out: str, copy: int) -> tuple[Term, ...]:
        """Return the terms of copy `copy` of the part at `level` and of all parts below; `out` is the output mode."""
        below = [2 * copy - 1, 2 * copy]
        legs = [f"in{i}" if level == 0 else f"bond{level}.{i}" for i in below]
        terms = self.parts[level].terms()
        inner = {mode for term in terms for mode in term.modes} - {"out", "in1", "in2"}
        # without the underscore, a part's own mode "bond" could get the name of a leg
        stems = {mode: f"{mode}_" if mode.startswith("bond") else mode for mode in inner}
        names = {mode: f"{stems[mode]}{level}.{copy}" for mode in inner}
        tree = rename(terms, names | {"out": out, "in1": legs[0], "in2": legs[1]})
        if level == 0:
            return tree
        return (*tree, *self._tree(level - 1, legs[0], below[0]), *self._tree(level - 1, legs[1], below[1]))


def as_network(part: TensorNetwork, name: str = "network") -> BilinearNetwork:
    """Return a network unchanged, and a layer or a decomposition of a layer as a network of one part.

    `name` is the name of the argument in error messages. Raises TypeError for any other object.
    """
    if isinstance(part, BilinearNetwork):
        return part
    return BilinearNetwork([check_network(name, part)])


def wide_layer(name: str, part: TensorNetwork) -> BilinearLayer:
    """Return a layer, a decomposition or a network of one part as a float64 layer.

    The arrays are converted before they are multiplied, so no product is rounded to a narrower dtype. `name` is the
    name of the argument in error messages. Raises TypeError as `check_network` and ValueError as `to_layer`.
    """
    part = check_network(name, part)
    wide = part.to(dtype=torch.float64) if isinstance(part, BilinearMap | BilinearNetwork) else part
    return wide.to_layer().to(dtype=torch.float64)


def check_network(name: str, value: object) -> TensorNetwork:
    """Return a layer, a decomposition or a network unchanged.

    Raises TypeError for any other object; the message says how to make a layer from it.
    """
    if isinstance(value, TensorNetwork):
        return value
    kind = type(value)
    if isinstance(value, torch.nn.Linear):
        todo = "absorb a linear map into the layer before or after it: layer.change_basis(inputs=... or outputs=...)"
    elif isinstance(value, torch.nn.Bilinear):
        todo = "make it a layer: BilinearLayer.from_torch_bilinear(module)"
    elif hasattr(value, "streams"):  # a SequenceNetwork
        todo = (
            "a stack over positions is no tensor network: use the map of one part, network[i].map, and put another in"
            " its place with network.replace(i, map)"
        )
    elif isinstance(value, torch.nn.Module) or callable(value):
        todo = (
            "only bilinear maps make one tensor network: a gate, a norm or a softmax is not bilinear. Retrain without"
            " it, fold it into a linear map (a norm with fixed statistics), or take the layers before it and the layers"
            " after it as two networks. If the module is bilinear, use its weights: BilinearLayer.from_weights, and"
            " lift for biases"
        )
    else:
        todo = "make a layer from weights: BilinearLayer.from_weights, from_tensor or from_cp"
    found = f"torch.nn.{kind.__name__}" if kind.__module__.startswith("torch.nn") else kind.__name__
    raise TypeError(f"{name} must be a layer, a decomposition of one or a network, got {found}; {todo}")
