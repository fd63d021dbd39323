"""The tree of heads, residuals and components that produce one output of a stack over positions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.parts import Part
from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.float64 import needs_float64
from tensornet_interp.numerics import unit_columns
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record

RESIDUAL, MAP = -1, -2  # in the place of the number of a head


@register_type("HeadLevel")
@dataclass(frozen=True, eq=False)
class HeadLevel:
    """A level holds what gives to the nodes of the level above in one part of a stack, best first.

    coordinate_s = scale_s vector . x_s + offset
    value_s = weight coordinate_s^2, or sum_t pattern[head, s, t] coordinate_t, or weight coordinate_s

    x is the input of the part, and scale that of its norm, or 1. The first value is that of a component of a bilinear
    map, the second that of a head, the third that of the residual and of a linear map. The children of a node, and its
    constant, sum to vector . x_s of this node.
    """

    part: int
    parents: Tensor  # (node,) whole numbers; 0 at the top, where the parent is the output
    heads: Tensor  # (node,) numbers of heads; -1 is the residual, -2 a component or a linear map
    weights: Tensor  # (node,) eigenvalues, factors of residuals, 1 for heads and linear maps
    vectors: Tensor  # (node, in), with the weights of the norm
    offsets: Tensor  # (node,)
    constants: Tensor  # (parent,), what the bias of the part gives to each parent
    scores: Tensor  # (node,)

    def __len__(self) -> int:
        return len(self.weights)

    def take(self, places: Tensor) -> "HeadLevel":
        """Return some of the nodes."""
        fields = ("parents", "heads", "weights", "vectors", "offsets", "scores")
        return replace(self, **{field: getattr(self, field)[places] for field in fields})

    def names(self) -> list[str]:
        """Return one name per node, such as "head 3"."""
        named = {RESIDUAL: "residual", MAP: "map"}
        return [named.get(head, f"head {head}") for head in self.heads.tolist()]


@register_type("HeadCircuit")
@dataclass(frozen=True, eq=False)
class HeadCircuit:
    """A head circuit is the tree of heads, residuals and components that produce one output of a stack for inputs x.

    network: the stack at the patterns and scales of x. levels: one per part, top first. The vectors follow from weights
    alone; patterns and scales say how much of each arrives at which position.
    """

    network: SequenceNetwork
    direction: Tensor  # (out,)
    x: Tensor  # ([batch,] position, in)
    levels: tuple[HeadLevel, ...]
    name: str = ""

    @needs_float64
    def values(self) -> tuple[Tensor, ...]:
        """Return what every node gives to its parent, ([batch,] position, node), one tensor per level, top first.

        Only kept nodes count: the values of the lowest level are exact, and those above are the values of their kept
        children, carried up. The sum of the top level, and its constant, is `output()`.
        """
        streams, found = self.network.streams(self.x), list[Tensor]()
        below: Tensor | None = None  # vector . x of the nodes of a level, from their children
        for level in reversed(self.levels):
            arriving = streams[level.part] @ level.vectors.T if below is None else below
            part = self.network[level.part]
            value = value_of(part, level, coordinates_of(part, level, arriving))
            found.append(value)
            shape = (*value.shape[:-1], len(level.constants))
            below = level.constants + value.new_zeros(shape).index_add(-1, level.parents, value)
        return tuple(reversed(found))

    def output(self) -> Tensor:
        """Return the output along the direction from the kept nodes, ([batch,] position)."""
        return self.values()[0].sum(-1) + self.levels[0].constants[0]

    @needs_float64
    def relative_error(self) -> float:
        """Return ||output of the kept nodes - output|| / ||output|| over the inputs."""
        truth = self.network(self.x) @ self.direction
        error, size = (unit_columns(values.reshape(-1, 1))[1] for values in (self.output() - truth, truth))
        return float(error / size)

    def records(self) -> list[Record]:
        """Return one record per node, top level first."""
        rows: list[Record] = []
        for level in self.levels:
            numbers = (level.parents.tolist(), level.weights.tolist(), level.scores.tolist())
            for number, (name, parent, weight, score) in enumerate(zip(level.names(), *numbers, strict=True)):
                record = {"part": level.part, "node": number, "parent": parent, "name": name}
                rows.append(record | {"weight": weight, "score": score})
        return rows

    def __repr__(self) -> str:
        sizes = " + ".join(str(len(level)) for level in self.levels)
        return f"HeadCircuit({self.name!r}, parts={len(self.levels)}, nodes={sizes})"


def _stretched(part: Part, values: Tensor) -> Tensor:
    """Return values ([batch,] position, node) times the scales of the norm of a part."""
    scale = None if part.norm is None else part.norm.scale
    return values if scale is None else values * (scale[..., None] if scale.ndim else scale)


def coordinates_of(part: Part, level: HeadLevel, read: Tensor) -> Tensor:
    """Return the coordinates of nodes, ([batch,] position, node), from vector . x_s."""
    stretched = torch.where(level.heads == RESIDUAL, read, _stretched(part, read))
    return stretched + level.offsets


def value_of(part: Part, level: HeadLevel, coordinates: Tensor) -> Tensor:
    """Return what nodes give to their parents, from their coordinates."""
    if "in2" in part.map.modes:
        squares = torch.where(level.heads == MAP, coordinates.square(), coordinates)
        return level.weights * squares
    return level.weights * _mixed(part, coordinates, level.heads)


def _mixed(part: Part, values: Tensor, heads: Tensor) -> Tensor:
    """Return the values of sources, summed with the pattern of the head of each node; others stay."""
    if not isinstance(part.map, AttentionLayer):
        return values
    pattern = part.map.mask.expand(*part.map.mask.shape[:-3], part.map.heads, -1, -1)
    result = values.clone()
    for head in range(part.map.heads):
        own = heads == head
        result[..., own] = pattern[..., head, :, :] @ values[..., own]
    return result


def carried(
    network: SequenceNetwork, change: Tensor, parents: Tensor, above: Sequence[HeadLevel], values: Sequence[Tensor]
) -> Tensor:
    """Return how much the output decreases if vector . x of the parents of nodes decreases by `change`."""
    for level, coordinates in zip(reversed(above), reversed(values), strict=True):
        part, heads = network[level.part], level.heads[parents]
        decrease = torch.where(heads == RESIDUAL, change, _stretched(part, change))
        if "in2" in part.map.modes:
            squares = decrease * (2 * coordinates[..., parents] - decrease)
            decrease = torch.where(heads == MAP, squares, decrease)
        change = level.weights[parents] * _mixed(part, decrease, heads)
        parents = level.parents[parents]
    return change
