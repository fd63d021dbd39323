"""Changes of vectors at places of a network: the removal of what a feature writes, and what follows from it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tensornet_interp.graphs.graph import GraphNode
from tensornet_interp.graphs.places import Place, Places, Trace, written

Change = tuple[Place, Tensor, Tensor]  # place, position (window,), vector (window, in)


def place_of(node: GraphNode) -> Place:
    """Return the place of a node."""
    return node.part, node.place


def removal(places: Places, trace: Trace, node: GraphNode, position: Tensor) -> Change:
    """Return the change that takes away what a feature writes at a position of every window."""
    place = place_of(node)
    dictionary, every = places.dictionaries[place], torch.arange(len(position), device=position.device)
    codes = dictionary.encode(trace.vectors(place)[every, position])[:, node.feature]
    where = place if dictionary.point_out is None else (node.part, "out")
    return where, position, -codes[:, None] * dictionary.decoder[:, node.feature]


def control_of(
    places: Places,
    trace: Trace,
    change: Change,
    node: GraphNode,
    outside: set[tuple[int, str, int]],
    generator: torch.Generator,
) -> tuple[Change, Tensor]:
    """Return the removal of another active feature at the same place and of the same length; which windows have one."""
    place = place_of(node)
    where, position, vector = change
    dictionary, every = places.dictionaries[place], torch.arange(len(position), device=position.device)
    codes = dictionary.encode(trace.vectors(place)[every, position])
    codes[:, [feature for part, side, feature in outside if (part, side) == place]] = 0
    score = torch.rand(codes.shape, generator=generator, dtype=torch.float64, device="cpu").to(codes.device)
    chosen = (score + 1) * (codes != 0)
    valid, pick = (chosen > 0).any(1), chosen.argmax(1)
    written = codes[every, pick, None] * dictionary.decoder[:, pick].T
    lengths = written.norm(dim=1).clamp(min=torch.finfo(written.dtype).tiny)
    return (where, position, -written / lengths[:, None] * vector.norm(dim=1)[:, None]), valid


def run_on(
    places: Places,
    trace: Trace,
    removed: Sequence[Change],
    target: GraphNode,
    position: Tensor,
    direction: Tensor | None,
) -> Tensor:
    """Return the target (window,) at a position of every window, if vectors are added at some places."""
    network, every = places.network, torch.arange(len(position), device=position.device)

    def changed(vectors: Tensor, place: Place) -> Tensor:
        for where, spot, vector in removed:
            if where == place:
                vectors = vectors.index_put((every, spot), vector, accumulate=True)
        return vectors

    end = (len(network), "stream") if direction is not None else place_of(target)
    part = min([place[0] for place, _, _ in removed], default=end[0])
    stream = trace.streams[part]
    vectors = None
    while vectors is None:
        stream = changed(stream, (part, "stream"))
        if (part, "stream") == end:
            vectors = stream
            break
        item = network[part]
        h = changed(stream if item.norm is None else item.norm(stream), (part, "in"))
        y = changed(written(item, h), (part, "out"))
        vectors = {"in": h, "out": y}.get(end[1]) if part == end[0] else None
        stream, part = y + item.residual * stream if item.residual else y, part + 1
    read = vectors[every, position]
    if direction is not None:
        return read @ direction
    found: Tensor = places.dictionaries[end].encode(read)[:, target.feature]
    return found
