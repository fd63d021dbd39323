"""What reaches a reader: directions pulled back through residuals, norms and heads to everything that writes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.attention import AttentionLayer, LinearMap, Norm
from tensornet_interp.decompositions.eigen import eigenpairs
from tensornet_interp.graphs.graph import Path
from tensornet_interp.graphs.places import Place, Places, size_of
from tensornet_interp.network import wide_layer


class Arrival(NamedTuple):
    """What a writer gives to a reader: sum over positions t of weights[t] covector . (vector of the writer at t).

    kind: "feature" for a place with a dictionary, "input", "write", "rest", or "bias", whose covector is the sum.
    """

    kind: str
    place: Place  # of the dictionary, or of what has none
    path: Path
    covector: Tensor  # (reading, in); of a bias (reading,)
    weights: Tensor  # (position,)


@dataclass(frozen=True, eq=False)
class Setting:
    """A network whose norms and patterns are numbers, with the places of its dictionaries.

    Given: scales (position,) and patterns (head, position, source). Averaged: one scale, and patterns by offset as
    Toeplitz matrices, where "position" n is the one n before the position of the seed.
    """

    places: Places
    scales: tuple[Tensor | None, ...]  # one per part; None without a norm
    patterns: tuple[Tensor | None, ...]  # one per part; None without attention

    def through_map(self, part: int, covector: Tensor, weights: Tensor, hops: int, path: Path) -> Iterator[Arrival]:
        """Yield what the map and the bias of a part give to directions in the space of its outputs."""
        item = self.places.network[part]
        if isinstance(item.map, AttentionLayer):
            if not hops:
                yield Arrival("rest", (part, "out"), path, covector, weights)
                return
            pattern, layer = self.patterns[part], item.map.drop_constant()
            values = layer.value.repeat_interleave(layer.heads // layer.shared_heads, 0)
            reads = [
                (covector @ layer.down[:, head] @ values[head], weights @ pattern[head], (*path, (part, head)))
                for head in range(layer.heads)
                if pattern is not None
            ]
            hops -= 1
        elif isinstance(item.map, LinearMap):
            bias = item.map.bias
            matrix = item.map.weight if bias is None else torch.cat([bias[:, None], item.map.weight], 1)
            reads = [(covector @ matrix, weights, path)]
        else:
            yield Arrival("write", (part, "out"), path, covector, weights)
            return
        if item.bias is not None:
            yield _bias(covector @ item.bias, weights, path)
        for read, shares, way in reads:
            if getattr(item.map, "constant_in", False):
                yield _bias(read[:, 0], shares, way)
                read = read[:, 1:]
            yield from self.normed(part, read, shares, hops, way)

    def normed(
        self, part: int, covector: Tensor, weights: Tensor, hops: int, path: Path = (), *, below: bool = False
    ) -> Iterator[Arrival]:
        """Yield what reaches directions in the space of vectors after the norm of a part.

        below: whether a dictionary of these vectors is passed over, because it is the reader.
        """
        if not below and self.places.reads((part, "in")):
            yield Arrival("feature", (part, "in"), path, covector, weights)
            return
        norm, scale = self.places.network[part].norm, self.scales[part]
        if norm is not None and scale is not None:
            if norm.bias is not None:
                yield _bias(covector @ norm.bias, weights, path)
            covector = _through_norm(norm, covector)
            weights = weights * scale
        yield from self.stream(part, covector, weights, hops, path)

    def stream(
        self, part: int, covector: Tensor, weights: Tensor, hops: int, path: Path = (), *, below: bool = False
    ) -> Iterator[Arrival]:
        """Yield what reaches directions in the space of the stream that a part reads; len(network) is the output."""
        for i in range(part, -1, -1):
            if not (below and i == part) and self.places.reads((i, "stream")):
                yield Arrival("feature", (i, "stream"), path, covector, weights)
                return
            if not i:
                yield Arrival("input", (0, "stream"), path, covector, weights)
                return
            writer = self.places.writer(i - 1)
            if writer is None:
                yield from self.through_map(i - 1, covector, weights, hops, path)
            else:
                yield Arrival("feature", writer, path, covector, weights)
            residual = self.places.network[i - 1].residual
            if not residual:
                return
            covector = residual * covector


def _bias(amount: Tensor, weights: Tensor, path: Path) -> Arrival:
    return Arrival("bias", (-1, ""), path, amount * weights.sum(), weights)


def _through_norm(norm: Norm, covector: Tensor) -> Tensor:
    covector = covector if norm.weight is None else covector * norm.weight
    return covector - covector.mean(-1, keepdim=True) if norm.centered else covector


@dataclass(frozen=True, eq=False)
class Reader:
    """A reader turns vectors into a pre-activation: p = sum_r signs[r] (covector_r . h + constant_r)^2 + bias.

    signs is None for a linear reader: p = covector . h + constant + bias, with one row.
    """

    place: Place  # (part, "stream" | "in" | "out"), whose vectors h it reads: for "out", those after the norm
    covector: Tensor  # (reading, in)
    constant: Tensor  # (reading,)
    signs: Tensor | None  # (reading,)
    bias: float

    def arrivals(self, setting: Setting, weights: Tensor, hops: int) -> Iterator[Arrival]:
        """Yield all that reaches the reader."""
        part, side = self.place
        if side == "stream":
            yield from setting.stream(part, self.covector, weights, hops, below=part < len(setting.places.network))
        elif side == "in":
            yield from setting.normed(part, self.covector, weights, hops, below=True)
        elif isinstance(setting.places.network[part].map, AttentionLayer | LinearMap):
            yield from setting.through_map(part, self.covector, weights, hops, ())
        else:
            yield from setting.normed(part, self.covector, weights, hops)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return p for what arrives in all, (..., reading) -> (...)."""
        value = rows[..., 0] if self.signs is None else rows.square() @ self.signs
        return value + self.bias

    def with_identity(self, size: int) -> "Reader":
        """Return a reader of all coordinates of the same vectors."""
        return replace(self, covector=torch.eye(size, dtype=torch.float64, device=self.covector.device))


def feature_reader(places: Places, place: Place, feature: int) -> Reader:
    """Return how a feature of a dictionary reads."""
    part, side = place
    dictionary = places.dictionaries[place]
    row, shift = dictionary.encoder[feature], dictionary.reading_bias()
    bias = 0.0 if shift is None else float(shift[feature])
    item = places.network[part]
    if side != "out" or isinstance(item.map, AttentionLayer | LinearMap):
        return Reader(place, row[None], row.new_zeros(1), None, bias)
    layer = wide_layer("the map", item.map)
    values, vectors = eigenpairs(layer, row[None], min(layer.shape[1], 2 * layer.rank))
    roots = vectors[0] * values[0].abs().sqrt()  # (in, reading)
    signs, constant = values[0].sign(), roots.new_zeros(roots.shape[1])
    if layer.constant_in:
        constant, roots = roots[0], roots[1:]
    bias += 0.0 if item.bias is None else float(row @ item.bias)
    return Reader(place, roots.T.contiguous(), constant, signs, bias)


def direction_reader(places: Places, direction: Tensor) -> Reader:
    """Return how an output direction of the network reads."""
    row = direction.to(torch.float64)[None]
    return Reader((len(places.network), "stream"), row, row.new_zeros(1), None, 0.0)


def reader_size(places: Places, reader: Reader) -> int:
    """Return the number of coordinates of the vectors that a reader reads."""
    part, side = reader.place
    if part == len(places.network):
        return size_of(places.network, part - 1, "out")
    linear = isinstance(places.network[part].map, AttentionLayer | LinearMap)
    return size_of(places.network, part, side if side != "out" or linear else "in")
