"""A network taken apart from the top: the eigenvectors of a layer are output directions of the layer below it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import BilinearNetwork

_PRINTED = 4  # children of a component that `str` prints


@dataclass(frozen=True, eq=False)
class Level:
    """The components that read the input of one layer, best first; component i has parent parents[i], one level up."""

    layer: int
    parents: Tensor  # (component,) whole numbers; 0 at the top, where the parent is the output
    eigenvalues: Tensor  # (component,)
    vectors: Tensor  # (component, in), unit norm, the constant coordinate of a lifted network included
    scores: Tensor  # (component,)

    def __len__(self) -> int:
        return len(self.eigenvalues)

    def to(self, dtype: torch.dtype) -> "Level":
        """The level in a dtype."""
        floats = (self.eigenvalues, self.vectors, self.scores)
        return Level(self.layer, self.parents, *(tensor.to(dtype) for tensor in floats))


@dataclass(frozen=True, eq=False)
class Component:
    """One node of the tree: it adds eigenvalue * (vector . input of the layer)^2 to the activation of its parent."""

    layer: int
    number: int  # its place in its level
    eigenvalue: float
    score: float
    vector: Tensor  # (in,)
    children: tuple["Component", ...]  # best first; none at the lowest layer


@dataclass(frozen=True, eq=False)
class Circuit:
    """direction . f(x) = sum_i eigenvalue_i a_i^2, a_i = sum_j eigenvalue_ij a_ij^2, ..., a = vector . x at the leaves.

    A tree of components, the top layer first. Called, it gives what the components that were kept reproduce; with
    complete widths that is the output exactly. `activations`, `contributions` and `ablations` are facts of the whole
    network: they do not depend on what else was kept.
    """

    network: BilinearNetwork
    direction: Tensor  # (out,)
    levels: tuple[Level, ...]  # top layer first
    ranking: str  # what the scores measure, as a share of the whole
    name: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        """The output as the kept components make it: (..., in) -> (...). Cost: 2 in flops a leaf and sample."""
        value = self._lift(x) @ self.levels[-1].vectors.to(torch.float64).T  # (..., component)
        for level, above in self._upward():
            parts = level.eigenvalues * value.square()
            value = parts.new_zeros(*parts.shape[:-1], above).index_add(-1, level.parents, parts)
        return value[..., 0].to(x.dtype)

    def activations(self, x: Tensor) -> tuple[Tensor, ...]:
        """vector . (input of the layer) of every component: one (..., component) a level, top first."""
        return tuple(values.to(x.dtype) for values in self._activations(x))

    def contributions(self, x: Tensor) -> tuple[Tensor, ...]:
        """eigenvalue * activation^2, what every component adds to the activation of its parent: as `activations`.

        With complete widths the children of a component sum to its activation.
        """
        pairs = zip(self.levels, self._activations(x), strict=True)
        return tuple((level.eigenvalues * values.square()).to(x.dtype) for level, values in pairs)

    def ablations(self, x: Tensor) -> tuple[Tensor, ...]:
        """How much the output falls when one component is removed from its place and all else stays: exact.

        (..., component) a level, top first; at the top it is the contribution. Memory: samples * components.
        """
        values = self._activations(x)
        changes = []
        for depth, (level, value) in enumerate(zip(self.levels, values, strict=True)):
            change = level.eigenvalues * value.square()
            changes.append(carry_up(change, level.parents, self.levels[:depth], values[:depth]).to(x.dtype))
        return tuple(changes)

    def relative_error(self, x: Tensor) -> float:
        """||circuit(x) - direction . f(x)|| / ||direction . f(x)|| over inputs x (..., in)."""
        output = (self.network(x) @ self.direction).to(torch.float64)
        if not output.any():
            raise ValueError("the relative error is undefined: the output is zero on every x")
        return float((self(x).to(torch.float64) - output).norm() / output.norm())

    @cached_property
    def components(self) -> tuple[Component, ...]:
        """The components of the top layer, best first, each with its children."""
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
        """Every level, lowest first, with the number of components above it; above the top is the output."""
        counts = [1, *(len(level) for level in self.levels)]
        return zip(reversed(self.levels), reversed(counts[:-1]), strict=True)

    def _lift(self, x: Tensor) -> Tensor:
        return self.network[0].lift_input("x", x).to(torch.float64)

    def _activations(self, x: Tensor) -> list[Tensor]:
        inputs = layer_inputs(self.network.to(dtype=torch.float64).layers, self._lift(x))
        return [inputs[level.layer] @ level.vectors.to(torch.float64).T for level in self.levels]


def carry_up(
    change: Tensor, parents: Tensor, above: Sequence[Level], values: Sequence[Tensor], bound: bool = False
) -> Tensor:
    """What the output loses when each activation of `parents` loses `change` (..., component).

    A level up that is eigenvalue * (a^2 - (a - change)^2). values: the activations of the levels `above`. bound: of
    magnitudes, with `change` negative: the most that the output can change.
    """
    for level, value in zip(reversed(above), reversed(values), strict=True):
        eigenvalues = level.eigenvalues.abs() if bound else level.eigenvalues
        change = eigenvalues[parents] * change * (2 * value[..., parents] - change)
        parents = level.parents[parents]
    return change


def layer_inputs(layers: Sequence[BilinearLayer], x: Tensor) -> list[Tensor]:
    """The input of every layer, and the output last, over all coordinates."""
    inputs = [x]
    for layer in layers:
        inputs.append(layer.multilinear(inputs[-1]))
    return inputs
