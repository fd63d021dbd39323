"""Tests of edges on the whole model, against the same removals written out; what pairs and controls do."""

import dataclasses

import pytest
import torch
from helpers import normal
from test_graphs import DIRECTION, POSITIONS, TEXT, coder, network, transcoder

from tensornet_interp import BilinearLayer
from tensornet_interp.attention import Part, SequenceNetwork
from tensornet_interp.features import Dictionary
from tensornet_interp.graphs import EDGE_RULE, edge_tests, feature_graph, random_edges

PLACES = {(0, "stream"): coder(130), (1, "out"): coder(100), (3, "in"): coder(120), (3, "out"): coder(110)}
SEED = (3, "out", 2)


RULE = (
    "confirmed: the mean effect of the removal on the target has the sign of the edge, is at least 2% of the target's "
    "mean magnitude, and is larger than the magnitude of the control's effect (the 95% interval of the difference over "
    "windows is above 0); refuted: it is not; untested: the ends are active in fewer than 10 windows"
)


def graph_of(places=PLACES, seed=SEED, **more):
    options = {"mode": "averaged", "held_out": TEXT[:5], "features": 4, "nodes": 4} | more
    return feature_graph(network(), places, seed, TEXT, **options)


def run(parts, x, change, place):
    """The vectors at a place of the network, if vectors are added at others; written out part by part."""
    for i, part in enumerate(parts):
        x = x + change.get((i, "stream"), 0)
        if place == (i, "stream"):
            return x
        h = part.norm(x) if part.norm is not None else x
        h = h + change.get((i, "in"), 0)
        if place == (i, "in"):
            return h
        y = SequenceNetwork([part._replace(residual=0.0, norm=None)])(h) + change.get((i, "out"), 0)
        if place == (i, "out"):
            return y
        x = y + part.residual * x if part.residual else y
    return x


def by_hand(places, graph, edge, rows, position):
    """The mean effect of an edge on some windows, and the activation before."""
    stack, target = network(), graph.nodes[edge.target]
    place = (target.part, target.place) if target.kind == "feature" else (len(stack), "stream")
    changes = []
    for at, offset in zip(edge.sources, edge.offsets, strict=True):
        node = graph.nodes[at]
        where, dictionary = (node.part, node.place), places[node.part, node.place]
        code = dictionary.encode(run(stack, rows, {}, where))[..., node.feature]
        change = torch.zeros_like(rows)
        for window, spot in enumerate(position):
            change[window, spot + offset] = -code[window, spot + offset] * dictionary.decoder[:, node.feature]
        changes.append(((where if dictionary.point_out is None else (node.part, "out")), change))
    if len(changes) == 2 and edge.sources[0] == edge.sources[1] and edge.offsets[0] == edge.offsets[1]:
        changes = [(where, change / 2) for where, change in changes]

    def value(*some):
        together = {}
        for where, change in some:
            together[where] = together.get(where, 0) + change
        found = run(stack, rows, together, place)
        read = found @ DIRECTION if target.kind == "direction" else places[place].encode(found)[..., target.feature]
        return read[range(len(position)), position]

    effect = value() - value(changes[0])
    if len(changes) == 2:
        effect = effect - value(changes[1]) + value(*changes)
    return float(effect.mean()), float(value().mean())


@pytest.mark.parametrize("seed", [SEED, DIRECTION], ids=["feature", "direction"])
@pytest.mark.parametrize("kind", ["autoencoders", "transcoder"])
def test_effects_are_those_of_removals_written_out(kind, seed):
    places = (
        PLACES
        if kind == "autoencoders"
        else {(0, "stream"): coder(130), (1, "in"): transcoder(150), (3, "in"): coder(120)}
    )
    places = places | {(3, "out"): coder(110)}
    graph = graph_of(places, seed)
    edges = graph.top(30)
    assert any(len(edge.sources) == 2 for edge in edges) or seed is DIRECTION
    stack = network()
    tested = 0
    for edge in edges:
        (verdict,) = edge_tests(graph, stack, places, TEXT, [edge], windows=100)
        if verdict.verdict == "untested":
            continue
        nodes = [graph.nodes[at] for at in (edge.target, *edge.sources)]
        on = torch.ones(TEXT.shape[:2], dtype=torch.float64)
        for node, offset in zip(nodes, (0, *edge.offsets), strict=True):
            if node.kind == "direction":
                continue
            code = places[node.part, node.place].encode(run(stack, TEXT, {}, (node.part, node.place)))[
                ..., node.feature
            ]
            moved = torch.zeros_like(code)
            moved[:, -offset:] = code[:, : POSITIONS + offset]
            on = on * (moved.abs() if node is not nodes[0] else (moved != 0))
        best, at = on.max(1)
        rows = best > 0
        if int(rows.sum()) != verdict.windows:
            continue  # a window without a control
        effect, before = by_hand(places, graph, edge, TEXT[rows], at[rows].tolist())
        assert verdict.effect == pytest.approx(effect, rel=1e-9, abs=1e-12)
        assert verdict.activation == pytest.approx(before, rel=1e-9)
        assert verdict.pair == (len(edge.sources) == 2)
        tested += 1
    assert tested >= 3


def gate_stack():
    """Feature 2 behind a layer is the product of features 0 and 1 before it; all other weights are small."""
    left, right, down = (0.02 * normal(8, 12, seed=i) for i in range(3))
    left[:, 0], right[:, 0], down[:, 0] = torch.eye(8)[0], torch.eye(8)[1], torch.eye(8)[2]
    whole = dataclasses.replace(Dictionary.from_matrix(torch.eye(8, dtype=torch.float64)), rectify=True)
    layer = BilinearLayer(down=down.double(), left=left.double(), right=right.double())
    return SequenceNetwork([Part(layer, 1.0)]), {(0, "stream"): whole, (0, "out"): whole}


def test_a_planted_pair_is_confirmed_and_random_edges_are_not():
    stack, places = gate_stack()
    text = normal(60, 4, 8, seed=3).abs()
    graph = feature_graph(stack, places, (0, "out", 2), text, mode="averaged", held_out=text[:10], features=4)
    edge = graph.top(1)[0]
    assert {graph.nodes[at].feature for at in edge.sources} == {0, 1}
    (verdict,) = edge_tests(graph, stack, places, text, [edge])
    assert verdict.verdict == "confirmed"
    assert verdict.low > 0
    assert verdict.effect > 10 * verdict.control
    one, drawn = random_edges(graph, stack, places, text, [edge] * 8, seed=1)
    found = [edge_tests(one, stack, places, text, [other])[0] for other in drawn]
    chosen = [{one.nodes[at].feature for at in other.sources} for other in drawn]
    wrong = [item.verdict for item, ends in zip(found, chosen, strict=True) if ends != {0, 1}]
    assert len(wrong) >= 6
    assert wrong.count("confirmed") <= 1
    assert all(other.target == edge.target and other.offsets == edge.offsets for other in drawn)


def test_random_edges_come_from_tokens_with_active_sources():
    """If the features of a place are rarely active, a token is drawn where one is, at the offset of the edge."""
    rare = Dictionary(normal(9, 6, seed=1), normal(6, 9, seed=2), threshold=normal(9, seed=3).abs() + 7)
    places = {(1, "out"): rare, (3, "out"): coder(110)}
    active = rare.encode(network().streams(TEXT)[2] - network().streams(TEXT)[1]) != 0
    assert 0 < int(active.any(-1).sum()) < active[..., 0].numel() / 3
    graph = graph_of(places, seed=(3, "out", 7))
    like = [edge for edge in graph.top(99) if not any(edge.offsets)][:8]
    other, drawn = random_edges(graph, network(), places, TEXT, like)
    assert len(drawn) == len(like) > 2
    for edge, old in zip(drawn, like, strict=True):
        for at, before in zip(edge.sources, old.sources, strict=True):
            assert other.nodes[at][1:3] == graph.nodes[before][1:3]
    silent = dataclasses.replace(rare, threshold=rare.threshold + 1e9)
    with pytest.raises(ValueError, match="x has no token where"):
        random_edges(graph, network(), places | {(1, "out"): silent}, TEXT, like)


def test_random_edges_that_fit_nowhere_are_left_out_and_said():
    graph = graph_of()
    one = graph.top(1)[0]
    other = next(edge for edge in graph.top(99) if edge.target != one.target)
    target = graph.nodes[other.target]
    here = PLACES[target.part, target.place]
    never = torch.where(torch.arange(here.features) == target.feature, 1e9, 0.0).double()
    places = PLACES | {(target.part, target.place): dataclasses.replace(here, threshold=never)}
    made, drawn = random_edges(graph, network(), places, TEXT, [one, other, one])
    assert [edge.target for edge in drawn] == [one.target] * 2
    assert made.warnings[:-1] == graph.warnings
    assert made.warnings[-1].startswith("1 of 3 random edges are left out: x has no token where the target is active")
    with pytest.raises(ValueError, match="1 of 1 random edges are left out: x has no token where"):
        random_edges(graph, network(), places, TEXT, [other])


def test_the_wrong_sign_is_refuted():
    stack, places = gate_stack()
    text = normal(60, 4, 8, seed=3).abs()
    graph = feature_graph(stack, places, (0, "out", 2), text, mode="averaged", held_out=text[:10], features=4)
    edge = graph.top(1)[0]
    turned = tuple(item._replace(value=-item.value) for item in graph.edges)
    (verdict,) = edge_tests(dataclasses.replace(graph, edges=turned), stack, places, text, [edge])
    assert verdict.verdict == "refuted"


def test_few_windows_decide_nothing():
    graph = graph_of()
    verdicts = edge_tests(graph, network(), PLACES, TEXT[: EDGE_RULE.min_windows - 1], graph.top(5))
    assert {verdict.verdict for verdict in verdicts} == {"untested"}


@pytest.mark.parametrize("length", [1, 2, 3])
def test_windows_that_an_edge_does_not_fit_in_decide_nothing(length):
    graph = feature_graph(network(), PLACES, (3, "out"), TEXT[0], position=POSITIONS - 1, features=40)
    far = [edge for edge in graph.top(10**6) if min(edge.offsets) == 1 - POSITIONS]
    assert far
    verdicts = edge_tests(graph, network(), PLACES, TEXT[:, :length], far[:3])
    assert {(verdict.verdict, verdict.windows) for verdict in verdicts} == {("untested", 0)}


def test_what_is_no_feature_cannot_be_removed():
    graph = graph_of()
    mean = next(edge for edge in graph.edges if graph.nodes[edge.sources[0]].kind == "mean")
    with pytest.raises(ValueError, match="'mean' is no feature"):
        edge_tests(graph, network(), PLACES, TEXT, [mean])
    with pytest.raises(ValueError, match="like: 'mean' is no feature"):
        random_edges(graph, network(), PLACES, TEXT, [mean])
    with pytest.raises(ValueError, match=r"dictionaries lacks \(3, 'out'\)"):
        edge_tests(graph, network(), {(1, "out"): coder(100)}, TEXT, graph.top(1))
    with pytest.raises(ValueError, match=r"dictionaries has 2 features at \(3, 'out'\), but the graph has '3 out 2'"):
        edge_tests(graph, network(), PLACES | {(3, "out"): coder(110, features=2, k=2)}, TEXT, graph.top(1))
    assert str(EDGE_RULE) == RULE


def test_a_verdict_is_a_record():
    graph = graph_of()
    (verdict,) = edge_tests(graph, network(), PLACES, TEXT, graph.top(1))
    (record,) = verdict.records()
    assert record["verdict"] == verdict.verdict
    assert set(record) == set(vars(verdict))
