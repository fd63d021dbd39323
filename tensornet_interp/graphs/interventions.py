"""Tests of edges: what a feature writes is removed at its source, and the whole model runs on, nothing frozen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tensornet_interp.attention import SequenceNetwork
from tensornet_interp.checks import check_int, check_kind, check_list, check_seed
from tensornet_interp.features import Dictionary
from tensornet_interp.float64 import needs_float64
from tensornet_interp.graphs.arguments import check_embedded
from tensornet_interp.graphs.averaged import chunked
from tensornet_interp.graphs.graph import FeatureGraph, GraphEdge, GraphNode, check_edges
from tensornet_interp.graphs.places import Place, Places, Trace
from tensornet_interp.graphs.removals import Change, control_of, place_of, removal, run_on
from tensornet_interp.graphs.verdicts import EDGE_RULE, EdgeVerdict
from tensornet_interp.numerics import t_interval

_ANY = -1  # in the place of the number of a feature


@needs_float64
@torch.no_grad()
def edge_tests(
    graph: FeatureGraph,
    network: SequenceNetwork,
    dictionaries: Mapping[Place, Dictionary],
    x: Tensor,
    edges: Sequence[GraphEdge],
    *,
    windows: int = 30,
    seed: int = 0,
) -> list[EdgeVerdict]:
    """Test edges on held-out text: does the target change as the edge says if its sources are removed?

    effect of i = a_g - a_g(without i)
    effect of a pair {i, j} = a_g - a_g(without i) - a_g(without j) + a_g(without both)

    a_g is the target after its activation function, TopK included; of a direction, the output along it. What a source
    writes is subtracted where it is written, at the position that the edge names, and patterns and norms follow. For a
    pair of one feature with itself, i and j are its halves. The control is another feature that is active at the place
    of the source and no node of the graph, drawn at random and scaled to the same length; in a pair it takes the place
    of the second source. `EDGE_RULE` decides. An edge without a sign, value 0, is tested with the sign of its mean
    effect, which is in its favour.
    graph: the graph that the edges are of. x: (sample, position, in), held-out text. edges: such as `graph.top(20)` or
    `random_edges`; paths are tested together. windows: the most samples per edge, those where the product of the
    activations of sources is largest, one position each. seed: of the draws of controls.
    Cost: per edge, up to seven passes of the network above the source for `windows` samples.
    """
    places, x = _checked(graph, network, dictionaries, x)
    check_int("windows", windows, 2)
    generator = torch.Generator(device="cpu").manual_seed(check_seed("seed", seed))
    check_list("edges", edges, "give at least one, such as graph.top(20)")
    _check_removable("edges", graph, check_edges("edges", edges, graph))
    merged = _merged(graph, edges)
    kept = _columns(graph, places, x, merged)
    return [_test(graph, places, x, edge, kept, windows, generator) for edge in merged]


@needs_float64
@torch.no_grad()
def random_edges(
    graph: FeatureGraph,
    network: SequenceNetwork,
    dictionaries: Mapping[Place, Dictionary],
    x: Tensor,
    like: Sequence[GraphEdge],
    *,
    seed: int = 0,
) -> tuple[FeatureGraph, list[GraphEdge]]:
    """Return random edges like others, from features that are active at once, and the graph with their nodes.

    For each edge, there is at most one with the same target, places and offsets.
    A token of x (sample, position, in) where the target is active is drawn, then one feature at random of those that
    are active at the place and offset of each source there. The edges have value 0. An edge is left out, and a warning
    of the graph says so, if x has no such token. Raises ValueError if that leaves no edge.
    """
    places, x = _checked(graph, network, dictionaries, x)
    generator = torch.Generator(device="cpu").manual_seed(check_seed("seed", seed))
    check_list("like", like, "give at least one, such as graph.top(20)")
    _check_removable("like", graph, check_edges("like", like, graph))
    columns = _columns(graph, places, x, like)
    found, nodes, missed = [], list(graph.nodes), []
    for edge in like:
        target = graph.nodes[edge.target]
        on = _active(target, columns, x)
        for at, offset in zip(edge.sources, edge.offsets, strict=True):
            on = on & _moved(columns[place_of(graph.nodes[at]), _ANY], offset)
        tokens = on.nonzero()
        if not len(tokens):
            missed.append(f"{' and '.join(graph.nodes[at].label for at in edge.sources)} -> {target.label}")
            continue
        sample, position = tokens[int(torch.randint(len(tokens), (), generator=generator, device="cpu"))].tolist()
        trace = Trace.of(places.network, x[sample : sample + 1])
        numbers = []
        for at, offset in zip(edge.sources, edge.offsets, strict=True):
            place = place_of(graph.nodes[at])
            codes = places.dictionaries[place].encode(trace.vectors(place))[0, position + offset]
            active = codes.nonzero()[:, 0]
            chosen = int(active[int(torch.randint(len(active), (), generator=generator, device="cpu"))])
            numbers.append(len(nodes))
            nodes.append(graph.nodes[at]._replace(feature=chosen, position=-1, score=0.0))
        found.append(edge._replace(sources=tuple(numbers), weight=0.0, value=0.0))
    if missed:
        note = (
            f"{len(missed)} of {len(like)} random edges are left out: x has no token where the target is active, and so"
            f" is some feature at the place and offset of each source, like {missed[0]}"
        )
        if not found:
            raise ValueError(note)
        graph = replace(graph, warnings=(*graph.warnings, note))
    return replace(graph, nodes=tuple(nodes)), found


def _checked(
    graph: FeatureGraph, network: SequenceNetwork, dictionaries: Mapping[Place, Dictionary], x: Tensor
) -> tuple[Places, Tensor]:
    check_kind("graph", graph, FeatureGraph)
    places = Places.of(network, dictionaries).wide()
    check_embedded("x", x, network, given=False)
    for node in graph.nodes:
        if node.kind != "feature":
            continue
        if place_of(node) not in places.dictionaries:
            raise ValueError(f"dictionaries lacks {place_of(node)}, which the graph has in {node.label!r}")
        count = places.dictionaries[place_of(node)].features
        if node.feature >= count:
            raise ValueError(f"dictionaries has {count} features at {place_of(node)}, but the graph has {node.label!r}")
    return places, x.to(torch.float64)


def _check_removable(name: str, graph: FeatureGraph, edges: Sequence[GraphEdge]) -> None:
    for edge in edges:
        for at in edge.sources:
            if graph.nodes[at].kind != "feature":
                label = graph.nodes[at].label
                raise ValueError(f"{name}: {label!r} is no feature, so it cannot be removed at its source")


def _merged(graph: FeatureGraph, edges: Sequence[GraphEdge]) -> list[GraphEdge]:
    """Return the edges without repetitions; each has the value of all edges of the graph with its ends."""
    total: dict[tuple[int, tuple[int, ...], tuple[int, ...]], float] = {}
    for edge in graph.edges:
        key = edge.target, edge.sources, edge.offsets
        total[key] = total.get(key, 0.0) + edge.value
    named = {(edge.target, edge.sources, edge.offsets): edge for edge in edges}
    return [edge._replace(value=total.get(key, edge.value)) for key, edge in named.items()]


def _columns(
    graph: FeatureGraph, places: Places, x: Tensor, edges: Sequence[GraphEdge]
) -> dict[tuple[Place, int], Tensor]:
    """Return the activations (sample, position) of all features that the edges name.

    `_ANY` in the place of a feature says whether any feature of its place is active.
    """
    named = {at for edge in edges for at in (edge.target, *edge.sources)}
    wanted = {(place_of(node), node.feature) for at in named if (node := graph.nodes[at]).kind == "feature"}
    wanted |= {(place, _ANY) for place, _ in wanted}
    found: dict[tuple[Place, int], list[Tensor]] = {key: [] for key in wanted}
    for rows in chunked(places, x):
        trace = Trace.of(places.network, rows)
        for place in dict.fromkeys(place for place, _ in wanted):
            codes = places.dictionaries[place].encode(trace.vectors(place))
            for key in wanted:
                if key[0] == place:
                    found[key].append((codes != 0).any(-1) if key[1] == _ANY else codes[..., key[1]].clone())
    return {key: torch.cat(parts) for key, parts in found.items()}


def _active(target: GraphNode, columns: dict[tuple[Place, int], Tensor], x: Tensor) -> Tensor:
    """Return where (sample, position) a target is active; a direction is everywhere."""
    if target.kind == "direction":
        return torch.ones_like(x[..., 0], dtype=torch.bool)
    return columns[place_of(target), target.feature] != 0


def _moved(values: Tensor, offset: int) -> Tensor:
    """Return values (sample, position) at an offset, at most 0, from each position; zero before the first one."""
    moved = torch.zeros_like(values)
    moved[:, -offset:] = values[:, : max(0, values.shape[1] + offset)]
    return moved


def _test(
    graph: FeatureGraph,
    places: Places,
    x: Tensor,
    edge: GraphEdge,
    columns: dict[tuple[Place, int], Tensor],
    windows: int,
    generator: torch.Generator,
) -> EdgeVerdict:
    target, sources = graph.nodes[edge.target], [graph.nodes[at] for at in edge.sources]
    product = _active(target, columns, x).to(x.dtype)
    for node, offset in zip(sources, edge.offsets, strict=True):
        product = product * _moved(columns[place_of(node), node.feature], offset).abs()
    best, at = product.max(1)
    rows = best.argsort(descending=True, stable=True)[: min(windows, int((best > 0).sum()))]
    position = at[rows]
    pair = len(sources) > 1
    direction = graph.directions[target.feature] if target.kind == "direction" else None
    names = " x ".join(f"{node.part} {node.place} {node.feature}" for node in sources)
    nothing = EdgeVerdict(target.label, names, pair, edge.value, len(rows))
    least = max(2, EDGE_RULE.min_windows)
    if len(rows) < least:
        return nothing
    trace = Trace.of(places.network, x[rows])
    changes = [
        removal(places, trace, node, position + offset) for node, offset in zip(sources, edge.offsets, strict=True)
    ]
    if pair and edge.sources[0] == edge.sources[1] and edge.offsets[0] == edge.offsets[1]:
        changes = [(place, spot, vector / 2) for place, spot, vector in changes]
    outside = {(node.part, node.place, node.feature) for node in graph.nodes if node.kind == "feature"}
    control, valid = control_of(places, trace, changes[-1], sources[-1], outside, generator)

    def activation(*removed: Change) -> Tensor:
        return run_on(places, trace, removed, target, position, direction)

    base = activation()
    if pair:
        first = base - activation(changes[0])
        effect, other = (first - activation(last) + activation(changes[0], last) for last in (changes[1], control))
    else:
        effect, other = base - activation(changes[0]), base - activation(control)
    base, effect, other = base[valid], effect[valid], other[valid].abs()
    count = len(base)
    if count < least:
        return replace(nothing, windows=count)
    sign = math.copysign(1.0, edge.value or float(effect.mean()))
    difference = sign * effect - other
    low, high = t_interval(difference, EDGE_RULE.confidence)
    large = sign * float(effect.mean()) >= EDGE_RULE.min_share * float(base.abs().mean())
    return replace(
        nothing,
        windows=count,
        activation=float(base.mean()),
        effect=float(effect.mean()),
        control=float(other.mean()),
        low=low,
        high=high,
        verdict="confirmed" if low > 0 and large else "refuted",
    )
