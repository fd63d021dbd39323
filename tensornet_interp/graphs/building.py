"""Build a graph of features from the top down: the sources of the seeds, then the sources of the strongest of these."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tensornet_interp.attention import SequenceNetwork
from tensornet_interp.checks import check_int, check_size, check_tensor
from tensornet_interp.features import Dictionary
from tensornet_interp.graphs.arrivals import Reader, direction_reader, feature_reader
from tensornet_interp.graphs.given import Given
from tensornet_interp.graphs.graph import FeatureGraph, GraphEdge, GraphNode, GraphTarget, Path
from tensornet_interp.graphs.places import Place, Places, check_place_of
from tensornet_interp.graphs.pruning import Kept, Sources

Seed = tuple[int, str] | tuple[int, str, int] | Tensor
_EDGE = 60  # numbers of 8 bytes that an edge takes
Key = tuple[str, int, str, int, int]  # kind, part, place, feature, position


@torch.no_grad()
def feature_graph(
    network: SequenceNetwork,
    dictionaries: Mapping[Place, Dictionary],
    seed: Seed | Sequence[Seed],
    x: Tensor,
    *,
    position: int | None = None,
    hops: int = 1,
    features: int = 10,
    nodes: int = 20,
    candidates: int = 4096,
    max_elements: int = 2**29,
) -> FeatureGraph:
    """Return which features of lower layers make the pre-activations of seeds, and so on down to the input.

    Behind a bilinear map: p_g = c_g + sum_i L_g[i] a_i + sum_ij Q_g[i, j] a_i a_j
    Other readers: p_g = c_g + sum_i L_g[i] a_i

    network: the model as a stack, such as `model.network()` or `load_network`. dictionaries: by place, (part, "stream")
    before the norm of a part, (part, "in") after it, or (part, "out") for what the part adds to the stream; a
    transcoder stands at "in" and writes at "out". seed: (part, place, feature), (part, place) for all features that
    are active there, an output direction (out,), such as the difference of two rows of the unembedding, or a list of
    these. x: (position, in), the embedded tokens of a prompt.
    position: where the seeds are read; by default where the first one is most active, or the last one for a direction.
    hops: how many heads a path runs through at most. features: the sources that are kept per target. nodes: how many
    features per place, those with the largest scores, get edges of their own. candidates: how many sources of largest
    norm are compared in pairs; `proven` says whether others can matter.
    Raises ValueError for a dictionary of another place, for a seed that is not active, and, before any work, if more
    than `max_elements` numbers would be in memory.
    """
    places = Places.of(network, dictionaries)
    for name, value in (("features", features), ("nodes", nodes), ("candidates", candidates)):
        check_int(name, value, 1)
    check_int("hops", hops, 0)
    limit = check_int("max_elements", max_elements, 1)
    check_tensor("x", x, ("position", "in"))
    _check_room(places, len(x), candidates, nodes, features, limit)
    given = Given.of(places, x.to(torch.float64))
    seeds = _seeds(places, seed)
    at = _position(given, seeds, position)
    builder = _Builder(given, hops, features, candidates, limit)
    builder.build(_active(given, seeds, at), nodes)
    return FeatureGraph(
        mode="given",
        nodes=builder.nodes(),
        edges=tuple(builder.edges),
        targets=tuple(builder.targets),
        explained=given.explained,
    )


@dataclass(eq=False)
class _Builder:
    """Takes in targets, and keeps their edges and the nodes that these name."""

    given: Given
    hops: int
    features: int
    candidates: int
    max_elements: int
    edges: list[GraphEdge] = field(default_factory=list)
    targets: list[GraphTarget] = field(default_factory=list)
    _numbers: dict[Key, int] = field(default_factory=dict)
    _activations: list[float] = field(default_factory=list)
    _scores: list[float] = field(default_factory=list)

    def nodes(self) -> tuple[GraphNode, ...]:
        """Return all nodes, in the order in which they were named."""
        return tuple(
            map(
                GraphNode._make,
                (
                    (*key, activation, score)
                    for key, activation, score in zip(self._numbers, self._activations, self._scores, strict=True)
                ),
            )
        )

    def number(self, key: Key, activation: float) -> int:
        """Return the number of a node, which is new if it was not named before."""
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._activations.append(activation)
            self._scores.append(0.0)
        return self._numbers[key]

    def build(self, seeds: list[tuple[Key, Reader | None]], nodes: int) -> None:
        """Expand the seeds, then at every place, from the top down, the nodes of largest score."""
        places = self.given.setting.places
        for key, _ in seeds:
            self._scores[self.number(key, self._activation(key))] = 1 / len(seeds)
        done = set()
        for key, reader in seeds:
            if reader is not None:
                self.expand(key, reader)
                done.add(key)
        for place in places.order():
            here = [key for key in self._numbers if key[0] == "feature" and key[1:3] == place and key not in done]
            here.sort(key=lambda key: -self._scores[self._numbers[key]])
            for key in here[:nodes]:
                self.expand(key, feature_reader(places, place, key[3]))

    def _activation(self, key: Key) -> float:
        kind, part, place, feature, position = key
        return float(self.given.codes[part, place][position, feature]) if kind == "feature" else 1.0

    def expand(self, key: Key, reader: Reader) -> None:
        """Find the sources of one target, and add its edges."""
        target, position = self._numbers[key], key[4]
        sources = Sources(reader.signs, self.candidates, 2**22)
        others = self.given.sources(reader, position, self.hops, sources)
        kept = sources.keep(self.features, others, sources.count)
        edges = self._edges(target, position, reader, kept)
        total = sum(abs(edge.value) for edge in edges) or 1.0
        for edge in edges:
            for source in edge.sources:
                self._scores[source] += self._scores[target] * abs(edge.value) / total / len(edge.sources)
        value = self.given.pre_activation(reader, key[1:3], key[3], position)
        sum_kept = math.fsum(edge.value for edge in edges)
        self.edges += edges
        self.targets.append(
            GraphTarget(
                node=target,
                value=value,
                kept=sum_kept,
                left_out=value - sum_kept,
                features=len(kept.atoms),
                share_left_out=kept.share_left_out,
                bound=kept.bound,
                proven=kept.proven,
                r_squared=math.nan,
                r_squared_kept=math.nan,
            )
        )

    def _edges(self, target: int, position: int, reader: Reader, kept: Kept) -> list[GraphEdge]:
        """Return the edges of all pairs of what is kept; a pair with the bias is a first-order edge."""
        ends: list[tuple[int, Path, int, float]] = []  # node, path, offset, activation
        for atom in kept.atoms:
            node = self.number(("feature", *atom.place, atom.feature, atom.position), atom.activation)
            ends.append((node, atom.path, atom.position - position, atom.activation))
        for name in kept.others:
            kind, *place = name.split()
            part, side = (int(place[0]), place[1]) if place else (-1, "")
            ends.append((self.number((kind, part, side, -1, -1), 1.0), (), 0, 1.0))
        rows = torch.cat([kept.rows, torch.stack(list(kept.others.values()))])
        bias = len(kept.atoms)  # the place of the bias, which is the first of what is no feature
        edges = []
        if reader.signs is None:
            weights = rows[:, 0].clone()
            weights[bias] += reader.bias
            listed: list[tuple[tuple[int, ...], float]] = [((i,), weight) for i, weight in enumerate(weights.tolist())]
        else:
            matrix = (rows * reader.signs) @ rows.T
            matrix = matrix + matrix.T - matrix.diagonal().diag()
            matrix[bias, bias] += reader.bias
            listed = []
            for i, line in enumerate(matrix.tolist()):
                for j in range(i, len(line)):
                    pair = {i, j} - {bias} or {bias}
                    both = (i, j) if i != bias != j else tuple(pair)
                    listed.append((both, line[j]))
        for members, weight in listed:
            named = [ends[i] for i in members]
            value = weight * math.prod(end[3] for end in named)
            nodes, paths, offsets, _ = zip(*named, strict=True)
            edges.append(GraphEdge(target, nodes, paths, offsets, weight, value))
        return edges


def _seeds(places: Places, seed: object) -> list[tuple[Place, int] | Tensor]:
    """Return the seeds: a place and a feature, -1 for all features of the place, or a direction."""
    listed = list(seed) if isinstance(seed, list) else [seed]
    if not listed:
        raise ValueError("seed is empty: give a feature, such as (3, 'out', 17), a place or an output direction")
    found: list[tuple[Place, int] | Tensor] = []
    for item in listed:
        if isinstance(item, Tensor):
            check_tensor("seed", item, ("out",))
            size = places.network[-1].map.sizes["out"]
            check_size("out", network=size, seed=len(item))
            if not bool(item.any()):
                raise ValueError("seed is empty: the direction is zero")
            found.append(item)
            continue
        if not isinstance(item, tuple) or len(item) not in (2, 3):
            raise TypeError(f"seed must be (part, place, feature), (part, place) or a direction, got {item!r:.60}")
        place = check_place_of("seed", places.network, item[:2])
        if place not in places.dictionaries:
            listing = ", ".join(map(str, places.dictionaries))
            raise ValueError(f"seed is at {place}, which has no dictionary; there are dictionaries at {listing}")
        most = places.dictionaries[place].features - 1
        found.append((place, check_int("the feature of seed", item[2], 0, most) if len(item) == 3 else -1))
    return found


def _position(given: Given, seeds: Sequence[tuple[Place, int] | Tensor], position: object) -> int:
    """Return the position of the seeds."""
    count = len(given.trace.streams[0])
    if position is not None:
        at = check_int("position", position, -count, count - 1, f"x has {count} positions")
        return at % count
    first = seeds[0]
    if isinstance(first, Tensor) or first[1] < 0:
        return count - 1
    return int(given.codes[first[0]][:, first[1]].argmax())


def _active(given: Given, seeds: Sequence[tuple[Place, int] | Tensor], at: int) -> list[tuple[Key, Reader | None]]:
    """Return the nodes of the seeds; raise ValueError for those that are not active at the position."""
    places, found = given.setting.places, list[tuple[Key, Reader | None]]()
    for number, seed in enumerate(seeds):
        if isinstance(seed, Tensor):
            found.append((("direction", -1, "", number, at), direction_reader(places, seed)))
            continue
        (part, side), feature = seed
        codes = given.codes[part, side][:, feature] if feature >= 0 else given.codes[part, side].abs().amax(1)
        if not bool(codes[at]):
            where = codes.nonzero()[:, 0].tolist()
            more = f"it is active at {where}" if where else "it is active at no position of x"
            what = f"feature {feature}" if feature >= 0 else "any feature"
            raise ValueError(f"seed: {what} of ({part}, {side!r}) is not active at position {at}; {more}")
        chosen = [feature] if feature >= 0 else given.codes[part, side][at].nonzero()[:, 0].tolist()
        found += [(("feature", part, side, item, at), feature_reader(places, (part, side), item)) for item in chosen]
    return found


def _check_room(places: Places, positions: int, candidates: int, nodes: int, features: int, limit: int) -> None:
    """Raise ValueError if the arrays would not fit."""
    dictionaries = places.dictionaries.values()
    weights = sum(item.encoder.numel() + item.decoder.numel() for item in dictionaries)
    codes = 3 * positions * sum(item.features for item in dictionaries)
    kept = min(features, positions * sum(item.features for item in dictionaries))
    edges = _EDGE * nodes * len(places.dictionaries) * kept**2 // 2
    pool = 4 * candidates * max(item.width for item in dictionaries)
    needed = weights + codes + pool + edges
    if needed > limit:
        shares = {"dictionaries": weights, "codes": codes, "candidates": pool, "edges": edges}
        raise ValueError(
            f"the graph needs {needed:.1e} numbers in memory, more than max_elements={limit:.0e} ("
            + ", ".join(f"{name}: {count:.1e}" for name, count in shares.items())
            + "); take a shorter text, fewer dictionaries, candidates, features or nodes, or increase max_elements"
        )
