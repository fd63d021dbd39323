"""Circuits through attention: components of bilinear maps, split linearly into heads and residuals, down to the input.

At given patterns and scales of norms, a direction above attention is a sum over heads of directions that they read, and
a direction above a bilinear map is a sum of squares of components; each of them is a direction in the stream below.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.attention.composing import pull_back
from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.parts import Norm, Part
from tensornet_interp.attention.sequence import SequenceNetwork, array_of, part_sizes
from tensornet_interp.attention.writers import adjoint
from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_alike,
    check_batch,
    check_bool,
    check_int,
    check_kind,
    check_number,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.circuits.head_tree import MAP, RESIDUAL, HeadCircuit, HeadLevel, carried, coordinates_of, value_of
from tensornet_interp.decompositions.compress import compress
from tensornet_interp.float64 import needs_float64
from tensornet_interp.numerics import EPS, unit_columns

_CHUNK_ELEMENTS = 2**22  # entries of a batch of matrices that are worked on together (32 MB)


@needs_float64
@torch.no_grad()
def head_circuit(
    network: SequenceNetwork,
    x: Tensor,
    direction: Tensor,
    *,
    width: int | None,
    beam: int | None = None,
    name: str = "",
    max_elements: float = DEFAULT_MAX_ELEMENTS,
    progress: bool = True,
) -> HeadCircuit:
    """Return the heads, residuals and components that produce an output of a stack along a direction, as a tree.

    direction . y_s = sum_heads sum_t pattern[s, t] (OV^T direction) . x_t + residual direction . x_s + bias . direction
    direction . y_s = sum_i eigenvalue_i (v_i . x_s)^2 + residual direction . x_s + bias . direction

    The first line holds for attention and the second for a bilinear map; each OV^T direction and v_i, and the direction
    itself at a residual, is then a direction for the part below. All is exact at the patterns and scales of norms of x.
    x: ([batch,] position, in). direction: (out,).
    width: how many components of a bilinear map to keep per parent, those of the largest scores; None for all. Heads
    and residuals are kept. beam: how many nodes to keep per level in total; None for all.
    The score of a node is ||change of the output if the node is removed|| / ||output||, over samples and positions, and
    the other nodes stay as they are in the whole network.
    Raises ValueError if the output is zero, and if a level needs more than `max_elements` numbers.
    Cost: per parent and bilinear map, one eigendecomposition. Memory: nodes * samples * positions.
    """
    check_kind("network", network, SequenceNetwork)
    check_text("name", name, empty=True)
    limit = check_number("max_elements", max_elements, 1)
    width = None if width is None else min(check_int("width", width, 1), 10**9)
    beam = None if beam is None else check_int("beam", beam, 1)
    check_bool("progress", progress)
    check_tensor("direction", direction, ("out",))
    check_size("out", network=part_sizes(network[-1])[1], direction=len(direction))
    like = array_of(network[-1].map)
    check_alike(network=like, direction=direction)
    wide = network.to(dtype=torch.float64)
    check_alike(network=like, x=check_batch("x", x, "in"))
    frozen, streams = wide.trace(x.to(torch.float64))
    directions = direction.to(torch.float64)[None]
    total = unit_columns((streams[-1] @ directions[0]).reshape(-1, 1))[1]
    if not total > 0:
        raise ValueError("there is nothing to take apart: the output along this direction is zero")
    levels: list[HeadLevel] = []
    values: list[Tensor] = []  # the coordinates of the levels so far
    samples = streams[0][..., 0].numel()
    for i in reversed(range(len(frozen))):
        part, split = frozen[i], _splitter(frozen[i])
        size = streams[i].shape[-1]
        count = 1 + (part.map.heads if isinstance(part.map, AttentionLayer) else min(width or size, size))
        needed = len(directions) * count * (samples + size)
        if needed > limit:
            raise ValueError(
                f"the nodes of part {i} need {needed:.1e} numbers, more than max_elements={limit:.0e}; give a smaller"
                " width or a beam, or fewer inputs"
            )
        chunk = max(1, _CHUNK_ELEMENTS // (max(count, size) * max(samples, size)))
        kept: list[HeadLevel] = []
        starts = range(0, len(directions), chunk)
        for start in tqdm(starts, desc=f"part {i}", unit="chunk", delay=2, leave=False, disable=not progress):
            found = split(directions[start : start + chunk])
            found = replace(found, part=i, parents=found.parents + start)
            value = value_of(part, found, coordinates_of(part, found, streams[i] @ found.vectors.T))
            change = carried(frozen, value, found.parents, levels, values)
            found = replace(found, scores=unit_columns(change.flatten(0, -2))[1] / total)
            kept.append(_narrowed(found, width))
        level = _joined(kept)
        order = level.scores.argsort(descending=True, stable=True)[:beam]
        level = level.take(order)
        levels.append(level)
        values.append(coordinates_of(part, level, streams[i] @ level.vectors.T))
        directions = level.vectors
        if not len(level):
            break
    return HeadCircuit(frozen, direction.to(torch.float64), streams[0], tuple(levels), name)


def _splitter(part: Part) -> Callable[[Tensor], HeadLevel]:
    """Return a function that splits directions (parent, out) above a part into its nodes, without scores."""
    norm = part.norm or Norm()
    eye = array_of(part.map).new_ones(())
    shift = 0.0 if norm.bias is None else norm.bias
    bare = replace(norm, bias=None, scale=eye)  # the scales belong to inputs, and not to weights

    def level(
        rows: Tensor, parents: Tensor, heads: Tensor, weights: Tensor, reads: Tensor, offsets: Tensor
    ) -> HeadLevel:
        """Add the residual to nodes that read the normed input along `reads` (node, in)."""
        offsets = offsets + (reads * shift).sum(-1)
        vectors = adjoint(bare, reads)
        every = torch.arange(len(rows), device=rows.device)
        if part.residual:
            parents, heads = torch.cat([parents, every]), torch.cat([heads, torch.full_like(every, RESIDUAL)])
            weights = torch.cat([weights, torch.full_like(rows[:, 0], part.residual)])
            vectors, offsets = torch.cat([vectors, rows]), torch.cat([offsets, torch.zeros_like(rows[:, 0])])
        constants = torch.zeros_like(rows[:, 0]) if part.bias is None else rows @ part.bias
        return HeadLevel(0, parents, heads, weights, vectors, offsets, constants, torch.zeros_like(weights))

    if isinstance(part.map, AttentionLayer):
        layer = part.map.drop_constant()
        skip = int(layer.constant_in)

        def of_heads(rows: Tensor) -> HeadLevel:
            reads = pull_back(layer, rows).flatten(0, 1)  # (parent * head, in)
            parents = torch.arange(len(rows), device=rows.device).repeat_interleave(layer.heads)
            heads = torch.arange(layer.heads, device=rows.device).repeat(len(rows))
            offsets = reads[:, :skip].sum(1)
            return level(rows, parents, heads, torch.ones_like(offsets), reads[:, skip:], offsets)

        return of_heads
    if part.map.modes == ("out", "in1"):
        matrix, first = part.map.to_tensor(), int(getattr(part.map, "constant_in", False))

        def of_linear(rows: Tensor) -> HeadLevel:
            parents = torch.arange(len(rows), device=rows.device)
            heads, reads = torch.full_like(parents, MAP), rows @ matrix
            return level(rows, parents, heads, rows.new_ones(len(rows)), reads[:, first:], reads[:, :first].sum(1))

        return of_linear
    bilinear = part.map.to_layer().drop_constant()
    lifted, small = int(bilinear.constant_in), compress(bilinear)

    def of_components(rows: Tensor) -> HeadLevel:
        eigenvalues, columns = torch.linalg.eigh(small.core.interaction_matrix(small.scale * rows))
        parents, places = (eigenvalues.abs() > columns.shape[-1] * EPS * eigenvalues.abs().amax(1, True)).nonzero().T
        vectors = small.expand(columns.mT[parents, places].T).T
        vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()  # the largest is positive
        heads = torch.full_like(parents, MAP)
        return level(
            rows, parents, heads, eigenvalues[parents, places], vectors[:, lifted:], vectors[:, :lifted].sum(1)
        )

    return of_components


def _narrowed(level: HeadLevel, width: int | None) -> HeadLevel:
    """Return a level with at most `width` components per parent, the best."""
    if width is None:
        return level
    order = level.scores.argsort(descending=True, stable=True)
    order = order[level.parents[order].argsort(stable=True)]  # by parent, the best first
    free = level.heads[order] == MAP
    rank = free.cumsum(0)
    parents = level.parents[order]
    first = torch.searchsorted(parents, parents)  # the place of the first node of the same parent
    before = torch.where(first > 0, rank[(first - 1).clamp_min(0)], 0)
    return level.take(order[~free | (rank - before <= width)])


def _joined(levels: Sequence[HeadLevel]) -> HeadLevel:
    """Return the level of all nodes of chunks of parents."""
    fields = ("parents", "heads", "weights", "vectors", "offsets", "constants", "scores")
    joined: dict[str, Any] = {field: torch.cat([getattr(level, field) for level in levels]) for field in fields}
    return replace(levels[0], **joined)
