"""A circuit over three bilinear layers, planted among dense weights, and two ways to find it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tensornet_interp import BilinearLayer, norm
from tensornet_interp.attention import Part, SequenceNetwork
from tensornet_interp.features import Dictionary
from tensornet_interp.graphs import GraphNode, feature_graph

LAYERS, PAIRS = 3, 2  # every planted feature is the sum of PAIRS products of two features below
Node = tuple[int, int]  # level and feature: level 0 are the inputs, level l the outputs of layer l - 1
Pair = frozenset[Node]
Row = dict[str, float | int | str]


@dataclass(frozen=True)
class Planted:
    """A stack x + layer(x) of three layers whose last planted feature is a tree of products of input features."""

    network: SequenceNetwork
    dictionaries: dict[tuple[int, str], Dictionary]
    seed: Node
    pairs: dict[Node, list[Pair]]  # of every planted feature
    text: Tensor  # (sample, position, in)
    held_out: Tensor

    @property
    def edges(self) -> set[tuple[Node, Pair]]:
        """All planted pairs with their targets."""
        return {(node, pair) for node, pairs in self.pairs.items() for pair in pairs}


def plant(noise: float, seed: int, *, width: int = 256, features: int = 512, hidden: int = 256) -> Planted:
    """Return a planted circuit among Gaussian weights whose tensor has `noise` times the Frobenius norm of the planted.

    Directions of features are random unit vectors, twice as many as the width. On every second token of the text, the
    inputs of one way through the tree are on, so that the whole way fires.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    directions = [torch.nn.functional.normalize(normal(width, features), dim=0) for _ in range(LAYERS + 1)]
    top, pairs, level = (LAYERS, 0), {}, [(LAYERS, 0)]
    while level[0][0]:
        below = [(level[0][0] - 1, feature) for feature in range(2 * PAIRS * len(level))]
        for at, node in enumerate(level):
            own = below[2 * PAIRS * at : 2 * PAIRS * (at + 1)]
            pairs[node] = [frozenset(own[2 * i : 2 * i + 2]) for i in range(PAIRS)]
        level = below
    parts = []
    for layer in range(LAYERS):
        planted = [(node, *sorted(pair)) for node in pairs if node[0] == layer + 1 for pair in pairs[node]]
        down = torch.stack([directions[layer + 1][:, node[1]] for node, _, _ in planted], 1)
        left, right = (torch.stack([directions[layer][:, item[side][1]] for item in planted], 1) for side in (1, 2))
        dense = BilinearLayer(down=normal(width, hidden), left=normal(width, hidden), right=normal(width, hidden))
        factor = noise * norm(BilinearLayer(down=down, left=left, right=right)) / norm(dense)
        joined = BilinearLayer(
            down=torch.cat([down, dense.down * factor], 1),
            left=torch.cat([left, dense.left], 1),
            right=torch.cat([right, dense.right], 1),
            name=f"planted layer {layer}",
        )
        parts.append(Part(joined, 1.0))
    texts = [_text(pairs, top, directions[0], generator) for _ in range(2)]
    places = [(0, "stream"), *((layer, "out") for layer in range(LAYERS))]
    made = {
        place: Dictionary(directions[i].T.contiguous(), directions[i], k=16, centered=False)
        for i, place in enumerate(places)
    }
    return Planted(SequenceNetwork(parts), made, top, pairs, *texts)


def _text(pairs: dict[Node, list[Pair]], top: Node, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return 64 samples of 16 tokens with 16 active input features, (sample, position, in)."""

    def number(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    def way(node: Node) -> list[int]:
        return [f for below in pairs[node][number(PAIRS)] for f in way(below)] if node in pairs else [node[1]]

    codes = torch.zeros(64 * 16, inputs.shape[1], dtype=torch.float64)
    for token, row in enumerate(codes):
        on = torch.randperm(inputs.shape[1], generator=generator)[:16]
        if token % 2:
            chosen = torch.tensor(way(top))
            on[: len(chosen)] = chosen
        row[on] = 0.75 + 0.5 * torch.rand(16, generator=generator, dtype=torch.float64)
    return (codes @ inputs.T).unflatten(0, (64, 16))


def node_of(node: GraphNode) -> Node:
    """Return the level and the feature of a node of a graph."""
    return (0 if node.place == "stream" else node.part + 1, node.feature)


def from_weights(planted: Planted) -> Callable[[Node], dict[Pair, float]]:
    """Return a function that gives the pairs of a target with their values, from one averaged graph."""
    graph = feature_graph(
        planted.network,
        planted.dictionaries,
        (LAYERS - 1, "out", planted.seed[1]),
        planted.text,
        mode="averaged",
        held_out=planted.held_out,
        features=8,
        nodes=20,
    )
    targets = {target.node for target in graph.targets}
    numbers = {node_of(node): at for at, node in enumerate(graph.nodes) if node.kind == "feature"}

    def pairs(node: Node) -> dict[Pair, float]:
        found: dict[Pair, float] = {}
        for edge in graph.edges_of(numbers[node]) if numbers[node] in targets else []:
            ends = [graph.nodes[at] for at in edge.sources]
            if len(set(edge.sources)) == 2 and all(end.kind == "feature" for end in ends):
                found[frozenset(map(node_of, ends))] = abs(edge.value)
        return found

    return pairs


def from_attribution(planted: Planted) -> Callable[[Node], dict[Pair, float]]:
    """Return a function that gives the pairs of a target, from attribution patching.

    A source has the mean of |gradient of the target's pre-activation times activation| over all tokens of the text. A
    pair has the product of its two sources: a first-order method says nothing more about pairs.
    """
    network, x = planted.network, planted.text
    places = [(0, "stream"), *((layer, "out") for layer in range(LAYERS))]

    def pairs(node: Node) -> dict[Pair, float]:
        layer = node[0] - 1
        streams = network.streams(x)
        h = streams[layer].detach().requires_grad_()
        direction = planted.dictionaries[layer, "out"].encoder[node[1]]
        with torch.enable_grad():
            value = (SequenceNetwork([Part(network[layer].map)])(h) @ direction).sum()
        (gradient,) = torch.autograd.grad(value, h)
        scores: dict[Node, float] = {}
        for level, place in enumerate(places[: layer + 1]):
            dictionary = planted.dictionaries[place]
            vectors = streams[0] if not level else streams[level] - streams[level - 1]
            codes = dictionary.encode(vectors)
            found = (codes * (gradient @ dictionary.decoder)).abs().mean((0, 1))
            best = found.topk(8)
            scores |= {(level, i): v for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)}
        return {frozenset((a, b)): scores[a] * scores[b] for a in scores for b in scores if a < b}

    return pairs


def walk(planted: Planted, pairs: Callable[[Node], dict[Pair, float]]) -> dict[str, float]:
    """Compare with what was planted: the strongest pairs, and the strongest single sources, of every target reached.

    From the seed, the PAIRS strongest pairs name features, whose strongest pairs are next, and so on. Likewise for
    single sources, 2 PAIRS per target, each with the value of its strongest pair.
    """
    planted_singles = {(node, end) for node, pair in planted.edges for end in pair}
    found: dict[str, set[tuple[Node, Any]]] = {"pair": set(), "single": set()}
    for kind, edges in found.items():
        level = [planted.seed]
        while level:
            below: dict[Node, None] = {}
            for node in level:
                ranked = sorted(pairs(node).items(), key=lambda item: -item[1])
                chosen = [pair for pair, _ in ranked[:PAIRS]]
                ends = list(dict.fromkeys(end for pair, _ in ranked for end in sorted(pair)))[: 2 * PAIRS]
                if kind == "pair":
                    ends = [end for pair in chosen for end in sorted(pair)]
                edges |= {(node, item) for item in (chosen if kind == "pair" else ends)}
                below |= {end: None for end in ends if end[0]}
            level = list(below)
    shares: dict[str, float] = {}
    for kind, truth in (("pair", planted.edges), ("single", planted_singles)):
        right = len(found[kind] & truth)
        shares |= {f"{kind}_precision": right / len(found[kind]), f"{kind}_recall": right / len(truth)}
    return shares


def planted_rows(noises: list[float], seeds: int) -> list[Row]:
    """Return one row per noise, seed and method."""
    rows: list[Row] = []
    for noise in noises:
        for seed in range(seeds):
            planted = plant(noise, seed)
            methods = {"weights": from_weights(planted), "attribution": from_attribution(planted)}
            for method, pairs in methods.items():
                row: Row = {"noise": noise, "seed": seed, "method": method}
                row.update(walk(planted, pairs))
                rows.append(row)
    return rows
