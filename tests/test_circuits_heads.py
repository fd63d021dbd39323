"""Circuits through attention: the tree is the network at its patterns, and scores are what removing a node does."""

from dataclasses import replace

import pytest
import torch
from helpers import assert_close, normal
from test_attention_composition import NORM, U, X, network

from tensornet_interp.attention import LinearMap, LowRank, Part, SequenceNetwork, write_contributions
from tensornet_interp.circuits import HeadCircuit, head_circuit

STACKS = {
    "polynomial": {},
    "norms": {"norm": NORM},
    "softmax, norms, an embedding": {"scores": 1, "softmax": True, "norm": NORM, "bottom": True},
    "no biases": {"with_biases": False},
}


@pytest.fixture(params=STACKS)
def stack(request):
    return network(**STACKS[request.param])


def without(tree, depth, number):
    """The tree in which one node gives nothing."""
    levels = list(tree.levels)
    weights = levels[depth].weights.clone()
    weights[number] = 0
    levels[depth] = replace(levels[depth], weights=weights)
    return replace(tree, levels=tuple(levels))


def test_all_nodes_are_the_network(stack):
    tree = head_circuit(stack, X, U, width=None)
    assert_close(tree.output(), stack(X) @ U)
    assert tree.relative_error() < 1e-12
    values = tree.values()
    for level, value, above in zip(tree.levels[1:], values[1:], tree.levels, strict=False):
        sums = level.constants + torch.zeros(*value.shape[:-1], len(above), dtype=torch.float64).index_add(
            -1, level.parents, value
        )
        streams = tree.network.streams(X)[above.part]
        assert_close(sums, streams @ above.vectors.T)


def test_scores_are_what_removing_a_node_does(stack):
    tree = head_circuit(stack, X, U, width=None)
    truth = stack(X) @ U
    for depth, level in enumerate(tree.levels):
        for number in range(0, len(level), 1 + len(level) // 6):
            change = truth - without(tree, depth, number).output()
            assert float(level.scores[number]) == pytest.approx(
                float(change.norm() / truth.norm()), rel=1e-8, abs=1e-12
            )


def test_heads_below_linear_maps_are_the_contributions_of_their_writes():
    stack = network(norm=NORM)
    tree = head_circuit(stack, X, U, width=None)
    found = write_contributions(stack, X, U)
    top, second = tree.levels[:2]
    assert sorted(second.names()) == ["head 0", "head 1", "residual"]
    for name, value in zip(second.names(), tree.values()[1].unbind(-1), strict=True):
        if name != "residual":
            scale = tree.network[3].norm.scale
            assert_close(value * scale, found.values[..., found.names.index(f"part 2 {name}")])
    assert top.names() == ["map"]


def test_width_and_beam_keep_the_best():
    stack = network()
    every = head_circuit(stack, X, U, width=None)
    narrow = head_circuit(stack, X, U, width=2)
    components = every.levels[2].heads == -2
    for parent in range(3):
        own = components & (every.levels[2].parents == parent)
        best = every.levels[2].scores[own].topk(2).values
        kept = narrow.levels[2]
        found = kept.scores[(kept.heads == -2) & (kept.parents == parent)]
        assert_close(found.sort(descending=True).values, best)
    beam = head_circuit(stack, X, U, width=None, beam=4)
    assert [len(level) for level in beam.levels] == [1, 3, 4, 4]
    assert_close(beam.levels[2].scores, every.levels[2].scores[:4])
    assert beam.relative_error() > 1e-3
    assert len(beam.records()) == 12
    assert beam.records()[1]["name"] in ("head 0", "head 1", "residual")
    assert repr(replace(beam, name="cat")) == "HeadCircuit('cat', parts=4, nodes=1 + 3 + 4 + 4)"


def test_linear_maps_of_every_kind_and_single_sequences():
    low = LowRank(left=normal(5, 2), right=normal(5, 2, seed=1))
    stack = SequenceNetwork([Part(low, 0.5), *network().parts[:2], LinearMap(weight=normal(3, 5))])
    tree = head_circuit(stack, X[0], U, width=None)
    assert isinstance(tree, HeadCircuit)
    assert_close(tree.output(), stack(X[0]) @ U)


def test_what_has_no_circuit_is_refused():
    stack = network()
    with pytest.raises(ValueError, match="there is nothing to take apart"):
        head_circuit(stack, X, torch.zeros(3, dtype=torch.float64), width=None)
    with pytest.raises(ValueError, match=r"the nodes of part 1 need .* more than max_elements=2e\+02"):
        head_circuit(stack, X, U, width=None, max_elements=200)
    with pytest.raises(ValueError, match="mode 'out' has size 3 in network but 4 in direction"):
        head_circuit(stack, X, normal(4), width=None)
    with pytest.raises(ValueError, match="width must be at least 1"):
        head_circuit(stack, X, U, width=0)
