"""Represent a network as a tree of components: a layer's eigenvectors are output directions of the layer below."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tensornet_interp.balance import balance, rescale, times_power
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, entries

_PRINTED = 4  # children of a component that `str` prints


@register_type("Level")
@dataclass(frozen=True, eq=False)
class Level:
    """A level holds the components that read the input of one layer, best first.

    Component i of the level is a child of component parents[i] of the level above and contributes to its coordinate.
    """

    layer: int
    parents: Tensor  # (component,) whole numbers; 0 at the top, where the parent is the output
    eigenvalues: Tensor  # (component,)
    vectors: Tensor  # (component, in), unit norm, the constant coordinate of a lifted network included
    scores: Tensor  # (component,)

    def __len__(self) -> int:
        return len(self.eigenvalues)

    def to(self, dtype: torch.dtype) -> "Level":
        """Return the level in another dtype; the indices in `parents` do not change."""
        floats = (self.eigenvalues, self.vectors, self.scores)
        return Level(self.layer, self.parents, *(tensor.to(dtype) for tensor in floats))


@register_type("Component")
@dataclass(frozen=True, eq=False)
class Component:
    """A component is one node of the tree; its contribution is added to the coordinate of its parent.

    contribution = eigenvalue * coordinate^2, coordinate = vector . (input of the layer)
    """

    layer: int
    number: int  # place of the component in its level
    eigenvalue: float
    score: float
    vector: Tensor  # (in,)
    children: tuple["Component", ...]  # best first; none at the lowest layer


@register_type("Circuit")
@dataclass(frozen=True, eq=False)
class Circuit:
    """A circuit is the tree of components that produce one output of a network.

    direction . f(x) = sum_i eigenvalue_i c_i^2, c_i = sum_j eigenvalue_ij c_ij^2, ..., c = vector . x at the leaves

    A call returns the output of the kept components, which is the exact output if all components were kept.
    `coordinates`, `contributions` and `ablations` use the whole network, so the choice of kept components does not
    change them.
    """

    network: BilinearNetwork
    direction: Tensor  # (out,)
    levels: tuple[Level, ...]  # top layer first
    ranking: str  # what the scores measure, as a share of the output
    name: str = ""

    @needs_float64
    def __call__(self, x: Tensor) -> Tensor:
        """Return the output of the kept components, (..., in) -> (...); cost: 2 * in flops per leaf and sample."""
        return times_power(*self._output(self._lift(x))).to(x.dtype)

    def _output(self, z: Tensor) -> tuple[Tensor, int]:
        """Return the kept components' output for lifted inputs, divided by 2^exponent, and the exponent; float64."""
        value, exponent = rescale(z @ self.levels[-1].vectors.to(torch.float64).T)  # (..., component)
        for level, above in self._upward():
            eigenvalues, own = rescale(level.eigenvalues)
            parts = eigenvalues * value.square()
            value, more = rescale(parts.new_zeros(*parts.shape[:-1], above).index_add(-1, level.parents, parts))
            exponent = 2 * exponent + own + more
        return value[..., 0], exponent

    def _truth(self, z: Tensor) -> tuple[Tensor, int]:
        """Return the network's output along the direction, divided by 2^exponent, and the exponent; float64."""
        exponent = 0
        for layer in self.network.to(dtype=torch.float64).layers:
            (core,), own = balance(layer)
            z, more = rescale(core.multilinear(z))
            exponent = 2 * exponent + own + more
        direction, own = rescale(self.direction)
        return z @ direction, exponent + own

    @needs_float64
    def coordinates(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the coordinate vector . (input of the layer) of every component.

        x: (..., in). The result has one tensor (..., component) per level, top level first.
        """
        return tuple(values.to(x.dtype) for values in self._coordinates(x))

    @needs_float64
    def contributions(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the contribution eigenvalue * coordinate^2 of every component to the coordinate of its parent.

        Shapes are those of `coordinates`. If all components were kept, the contributions of a component's children sum
        to its coordinate.
        """
        pairs = zip(self.levels, self._coordinates(x), strict=True)
        return tuple((level.eigenvalues * values * values).to(x.dtype) for level, values in pairs)

    @needs_float64
    def ablations(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the exact decrease of the output if one component is removed and all others stay, for every component.

        x: (..., in). The result has one tensor (..., component) per level, top level first. At the top level the
        decrease is the contribution. Memory: samples * components numbers.
        """
        values = self._coordinates(x)
        changes = []
        for depth, (level, value) in enumerate(zip(self.levels, values, strict=True)):
            change = level.eigenvalues * value * value
            changes.append(carry_up(change, level.parents, self.levels[:depth], values[:depth]).to(x.dtype))
        return tuple(changes)

    @needs_float64
    def relative_error(self, x: Tensor) -> float:
        """Return the relative error of the output of the kept components over inputs x (..., in).

        ||circuit(x) - direction . f(x)|| / ||direction . f(x)||

        Raises ValueError if the output is zero for every x.
        """
        z, _ = rescale(self._lift(x))  # the error of a homogeneous map does not depend on the scale of x
        (kept, of_kept), (output, of_output) = self._output(z), self._truth(z)
        if not output.any():
            raise ValueError("the relative error is undefined: the output is zero on every x")
        return float((times_power(kept, of_kept - of_output) - output).norm() / output.norm())

    def records(self) -> list[Record]:
        """Return one record per component; those of the lowest layer have entries if the inputs have names."""
        lowest, names = self.levels[-1].layer, self.network.input_names
        return [
            {
                "layer": level.layer,
                "component": number,
                "parent": parent,
                "eigenvalue": eigenvalue,
                "score": score,
                "inputs": entries(vector, names, self.network[0].constant_in) if level.layer == lowest else None,
            }
            for level in self.levels
            for number, (parent, eigenvalue, score, vector) in enumerate(
                zip(
                    level.parents.tolist(),
                    level.eigenvalues.tolist(),
                    level.scores.tolist(),
                    level.vectors,
                    strict=True,
                )
            )
        ]

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """Return the components of the top layer, best first, each with its children."""
        children: list[list[Component]] = []
        for level, above in self._upward():
            grouped: list[list[Component]] = [[] for _ in range(above)]
            rows = zip(level.parents.tolist(), level.eigenvalues.tolist(), level.scores.tolist(), strict=True)
            for number, (parent, eigenvalue, score) in enumerate(rows):
                below = tuple(children[number]) if children else ()
                node = Component(level.layer, number, eigenvalue, score, level.vectors[number], below)
                grouped[parent].append(node)
            children = grouped
        return tuple(children[0])

    def __repr__(self) -> str:
        sizes = " + ".join(str(len(level)) for level in self.levels)
        name = f"{self.name!r}, " if self.name else ""
        return f"Circuit({name}layers={len(self.levels)}, components={sizes}, score: {self.ranking})"

    def __str__(self) -> str:
        lines = [repr(self)]

        def add(components: Sequence[Component], indent: str) -> None:
            for node in components[:_PRINTED]:
                constant = self.network[node.layer].constant_in
                share = f", constant coordinate {float(node.vector[0]):+.2f}" if constant else ""
                lines.append(
                    f"{indent}layer {node.layer}: eigenvalue {node.eigenvalue:+.4g}, score {node.score:.3g}{share}"
                )
                add(node.children, indent + "  ")
            if len(components) > _PRINTED:
                lines.append(f"{indent}... and {len(components) - _PRINTED} more")

        add(self.components, "  ")
        return "\n".join(lines)

    def _upward(self) -> Iterator[tuple[Level, int]]:
        """Return the levels, lowest first, each with the number of components one level up (1 above the top)."""
        counts = [1, *(len(level) for level in self.levels)]
        return zip(reversed(self.levels), reversed(counts[:-1]), strict=True)

    def _lift(self, x: Tensor) -> Tensor:
        """Return float64 inputs with the constant coordinate of a lifted network."""
        return self.network[0].lift_input("x", x).to(torch.float64)

    def _coordinates(self, x: Tensor) -> list[Tensor]:
        """Return the coordinates of every component, float64, one tensor per level."""
        inputs = layer_inputs(self.network.to(dtype=torch.float64).layers, self._lift(x))
        return [inputs[level.layer] @ level.vectors.to(torch.float64).T for level in self.levels]


def carry_up(
    change: Tensor, parents: Tensor, above: Sequence[Level], values: Sequence[Tensor], bound: bool = False
) -> Tensor:
    """Return, per component, how much the output decreases if the coordinate of its parent decreases by `change`.

    change: (..., component); parents: (component,), places in the lowest level of `above`. One level up, a coordinate c
    decreases by eigenvalue * (c^2 - (c - change)^2). values: the coordinates c of the levels `above`. If bound=True,
    the values are magnitudes and `change` is negative; the result then bounds how much the output can change.
    """
    for level, value in zip(reversed(above), reversed(values), strict=True):
        eigenvalues = level.eigenvalues.abs() if bound else level.eigenvalues
        change = eigenvalues[parents] * change * (2 * value[..., parents] - change)
        parents = level.parents[parents]
    return change


def layer_inputs(layers: Sequence[BilinearLayer], x: Tensor) -> list[Tensor]:
    """Return the input of every layer and then the network's output, with constant coordinates."""
    inputs = [x]
    for layer in layers:
        inputs.append(layer.multilinear(inputs[-1]))
    return inputs
