"""Build a graph of features from the top down: the sources of the seeds, then the sources of the strongest of these."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tensornet_interp.attention import AttentionLayer, SequenceNetwork
from tensornet_interp.checks import check_choice, check_int
from tensornet_interp.features import Dictionary
from tensornet_interp.float64 import needs_float64
from tensornet_interp.graphs.arguments import Key, active_seeds, check_room, check_texts, position_of, seeds_of
from tensornet_interp.graphs.arrivals import Reader, feature_reader
from tensornet_interp.graphs.averaged import Averaged, activated
from tensornet_interp.graphs.given import Given
from tensornet_interp.graphs.graph import FeatureGraph, GraphEdge, GraphNode, GraphTarget, Path
from tensornet_interp.graphs.places import Place, Places
from tensornet_interp.graphs.pruning import Kept, Sources

Seed = tuple[int, str] | tuple[int, str, int] | Tensor


@needs_float64
@torch.no_grad()
def feature_graph(
    network: SequenceNetwork,
    dictionaries: Mapping[Place, Dictionary],
    seed: Seed | Sequence[Seed],
    x: Tensor,
    *,
    mode: str = "given",
    position: int | None = None,
    held_out: Tensor | None = None,
    hops: int = 1,
    offsets: int = 4,
    features: int = 10,
    nodes: int = 20,
    candidates: int = 4096,
    max_elements: int = 2**29,
) -> FeatureGraph:
    """Return which features of lower layers make the pre-activations of seeds, and so on down to the input.

    Behind a bilinear map: p_g = c_g + sum_i L_g[i] a_i + sum_ij Q_g[i, j] a_i a_j
    Other readers: p_g = c_g + sum_i L_g[i] a_i

    network: the model as a stack, such as the network() of a transformer or `load_network`. dictionaries: by place,
    (part, "stream") before the norm of a part, (part, "in") after it, or (part, "out") for what the part adds to the
    stream; a transcoder stands at "in" and writes at "out". seed: (part, place, feature), (part, place) for all
    features that are active there, an output direction (out,), such as the difference of two rows of the unembedding,
    or a list of these.
    mode: "given" for one prompt, x (position, in), the embedded tokens. Patterns, norms and reconstruction errors are
    those of the prompt, so the edges of a target and its left_out sum to its pre-activation. "averaged" for a text x
    (sample, position, in): the mean pattern per offset, the mean scale of each norm, and the mean of all that is no
    feature; an edge has the size that it has where its sources have their mean activation. R squared of the
    pre-activations is measured on held_out, a text that is not x.
    position: given, where the seeds are read; by default where the first one is most active, or the last one for a
    direction. hops: how many heads a path runs through at most. offsets: averaged, how many positions heads look back
    at most; what is further away belongs to the mean. features: the sources that are kept per target. nodes: how many
    features per place, those with the largest scores, get edges of their own. candidates: how many sources of largest
    norm are compared in pairs; the field proven says whether others can matter.
    Raises ValueError for a dictionary of another place, for a seed that is empty or not active, and, before any work,
    if more than `max_elements` numbers would be in memory.
    Cost per target: for every place, path and offset below, 2 * features * readings * (in + readings) flops; readings
    are the eigenvectors of the target's form, or 1 for a linear target. No matrix of all pairs of features is formed.
    """
    places = Places.of(network, dictionaries)
    for name, value in (("features", features), ("nodes", nodes), ("candidates", candidates)):
        check_int(name, value, 1)
    heads = sum(isinstance(part.map, AttentionLayer) for part in network)
    hops, offsets = min(check_int("hops", hops, 0), heads), check_int("offsets", offsets, 0)
    limit = check_int("max_elements", max_elements, 1)
    given = check_choice("mode", mode, ("given", "averaged")) == "given"
    check_texts(network, x, held_out, position, given)
    seeds = seeds_of(places, seed)
    steps = offsets + 1
    if not given and network.positions is not None:
        steps = min(steps, network.positions)
    check_room(places, x, given, hops, steps, candidates, nodes, features, limit)
    places, x = places.wide(), x.to(torch.float64)
    backing = Given.of(places, x) if given else Averaged.of(places, x, steps - 1)
    at = position_of(backing, seeds, position) if isinstance(backing, Given) else -1
    builder = _Builder(backing, hops, features, candidates)
    builder.build(active_seeds(backing, seeds, at), nodes)
    targets = builder.propagated() if given else builder.targets
    if isinstance(backing, Averaged) and held_out is not None:
        found = backing.r_squared(held_out.to(torch.float64), builder.found, hops)
        targets = [
            target._replace(r_squared=every, r_squared_kept=kept, r_squared_graph=alone)
            for target, (every, kept, alone) in zip(targets, found, strict=True)
        ]
    low = [name for name, share in backing.explained.items() if share < 0]
    return FeatureGraph(
        mode=mode,
        nodes=builder.nodes(),
        edges=tuple(builder.edges),
        targets=tuple(targets),
        explained=backing.explained,
        directions=tuple(item.to(torch.float64) for item in seeds if isinstance(item, Tensor)),
        warnings=tuple(
            f"the dictionary at {name} is worse than the mean of the vectors: it may be of another layer, point or"
            " normalisation"
            for name in low
        ),
    )


@dataclass(eq=False)
class _Builder:
    """Takes in targets, and keeps their edges and the nodes that these name."""

    backing: Given | Averaged
    hops: int
    features: int
    candidates: int
    edges: list[GraphEdge] = field(default_factory=list)
    targets: list[GraphTarget] = field(default_factory=list)
    found: list[tuple[Reader, Place, int, Kept]] = field(default_factory=list)
    _numbers: dict[Key, int] = field(default_factory=dict)
    _activations: list[float] = field(default_factory=list)
    _scores: list[float] = field(default_factory=list)

    def nodes(self) -> tuple[GraphNode, ...]:
        """Return all nodes, in the order in which they were named."""
        rows = zip(self._numbers, self._activations, self._scores, strict=True)
        return tuple(GraphNode(*key, activation, score) for key, activation, score in rows)

    def number(self, key: Key, activation: float) -> int:
        """Return the number of a node, which is new if it was not named before."""
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            self._activations.append(activation)
            self._scores.append(0.0)
        return self._numbers[key]

    def build(self, seeds: list[tuple[Key, Reader | None]], nodes: int) -> None:
        """Expand the seeds, then at every place, from the top down, the nodes of largest score."""
        places = self.backing.setting.places
        for key, _ in seeds:
            self._scores[self.number(key, self._activation(key))] = 1 / len(seeds)
        done = set()
        for key, reader in seeds:
            if reader is not None:
                self.expand(key, reader)
                done.add(key)
        order = places.order()
        for place in order:
            if place == order[-1] and place[1] == "stream":
                continue  # the bottom of the graph: no feature is below
            here = [key for key in self._numbers if key[0] == "feature" and key[1:3] == place and key not in done]
            here.sort(key=lambda key: -self._scores[self._numbers[key]])
            for key in here[:nodes]:
                self.expand(key, feature_reader(places, place, key[3]))

    def propagated(self) -> list[GraphTarget]:
        """Return the targets with what the graph alone makes of them, from the lowest ones up."""
        activations, values = list(self._activations), dict[int, float]()
        dictionaries, keys = self.backing.setting.places.dictionaries, list(self._numbers)
        for target in reversed(self.targets):
            edges = [edge for edge in self.edges if edge.target == target.node]
            value = math.fsum(edge.weight * math.prod(activations[at] for at in edge.sources) for edge in edges)
            kind, part, side, feature, _ = keys[target.node]
            if kind == "feature":
                dictionary = dictionaries[part, side]
                activations[target.node] = float(activated(dictionary, feature, dictionary.encoder.new_tensor(value)))
            values[target.node] = value
        return [target._replace(from_graph=values[target.node]) for target in self.targets]

    def _activation(self, key: Key) -> float:
        kind, part, place, feature, position = key
        return self.backing.activation((part, place), feature, position) if kind == "feature" else 1.0

    def expand(self, key: Key, reader: Reader) -> None:
        """Find the sources of one target, and add its edges."""
        target, position = self._numbers[key], key[4]
        sources = Sources(reader.signs, self.candidates, 2**22)
        others = self.backing.sources(reader, position, self.hops, sources)
        kept = sources.keep(self.features, others)
        edges = self._edges(target, position, reader, kept)
        total = sum(abs(edge.value) for edge in edges) or 1.0
        for edge in edges:
            for source in edge.sources:
                self._scores[source] += self._scores[target] * abs(edge.value) / total / len(edge.sources)
        place = key[1], key[2]
        value = self.backing.value(reader, place, key[3], position)
        sum_kept = math.fsum(edge.value for edge in edges)
        self.edges += edges
        self.found.append((reader, place, key[3], kept))
        self.targets.append(
            GraphTarget(
                node=target,
                value=value,
                kept=sum_kept,
                left_out=value - sum_kept,
                from_graph=math.nan,
                features=len(kept.atoms),
                share_left_out=kept.share_left_out,
                bound=kept.bound,
                proven=kept.proven,
                r_squared=math.nan,
                r_squared_kept=math.nan,
                r_squared_graph=math.nan,
            )
        )

    def _edges(self, target: int, position: int, reader: Reader, kept: Kept) -> list[GraphEdge]:
        """Return the edges of all pairs of what is kept; a pair with the bias is a first-order edge."""
        ends: list[tuple[int, Path, int, float]] = []  # node, path, offset, activation
        for atom in kept.atoms:
            at, offset = self.backing.end(atom, position)
            node = self.number(("feature", *atom.place, atom.feature, at), atom.activation)
            ends.append((node, atom.path, offset, atom.activation))
        for name in kept.others:
            kind, *place = name.split()
            part, side = (int(place[0]), place[1]) if place else (-1, "")
            ends.append((self.number((kind, part, side, -1, -1), 1.0), (), 0, 1.0))
        rows = torch.cat([kept.rows, torch.stack(list(kept.others.values()))])
        bias = len(kept.atoms)  # the place of the bias or the mean, which is the first of what is no feature
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
