"""Composition of heads against dense matrices, read-backs, and contributions that sum to the output."""

import dataclasses

import pytest
import torch
from attention_layers import biases_of, layer_with, weights
from helpers import assert_close, layer_of, normal
from torch.utils.flop_counter import FlopCounterMode

from tensornet_interp import lift
from tensornet_interp.attention import (
    AttentionLayer,
    LinearMap,
    Norm,
    Part,
    SequenceNetwork,
    composition,
    leg_contributions,
    path_contributions,
    pull_back,
    read_back,
    write_contributions,
)

WIDTH, POSITIONS = 5, 4
NORM = Norm(centered=True, weight=normal(WIDTH, seed=70), bias=normal(WIDTH, seed=71))
U = normal(3, seed=8)
X = normal(2, POSITIONS, WIDTH, seed=9)


def attention(seed, scores=2, *, softmax=False, with_biases=True, kv_heads=None):
    given = weights(scores, seed, n_in=WIDTH, n_out=WIDTH, kv_heads=kv_heads)
    more = biases_of(given, seed + 50) if with_biases else {}
    more.pop("bias", None)
    return AttentionLayer.from_weights(**given, **more, positions=POSITIONS, rotary=7.0, softmax=softmax)


def network(*, scores=2, softmax=False, norm=None, mlp=True, with_biases=True, bottom=False):
    """Two blocks of attention, the upper one with shared values, and MLPs, with a head on top."""
    bias = normal(WIDTH, seed=60) if with_biases else None
    options = {"softmax": softmax, "with_biases": with_biases}
    parts = [Part(LinearMap(weight=normal(WIDTH, WIDTH, seed=61)))] if bottom else []
    parts.append(Part(attention(0, scores, **options), 0.5, norm, bias))
    if mlp:
        parts.append(Part(lift(layer_of(WIDTH, WIDTH, 4, 40), bias=normal(WIDTH, seed=62)), 0.7, norm))
    parts.append(Part(attention(200, scores, kv_heads=1, **options), 1.0, norm, bias))
    head = LinearMap(weight=normal(3, WIDTH, seed=63), bias=normal(3, seed=64) if with_biases else None)
    return SequenceNetwork([*parts, Part(head, 0.0, norm)])


@pytest.mark.parametrize("kind", ["key", "query", "value"])
@pytest.mark.parametrize("lifted", [False, True])
def test_composition_is_the_norm_of_dense_products(kind, lifted):
    lower, upper = attention(0, with_biases=lifted), attention(200, with_biases=lifted, kv_heads=1)
    offsets = (0, -1, 2)
    found = composition(lower, upper, kind, offsets, score=1)
    assert found.shape == (3, 2, 2)
    skip = int(lifted)
    for o, offset in enumerate(offsets):
        for h in range(2):
            qk, ov = upper.qk(h, offset, 1).to_tensor()[skip:, skip:], upper.ov(h).to_tensor()[:, skip:]
            reader = {"key": qk, "query": qk.T, "value": ov}[kind]
            for g in range(2):
                write = lower.ov(g).to_tensor()[:, skip:]
                expected = (reader @ write).norm() / (reader.norm() * write.norm())
                assert found[o, h, g] == pytest.approx(float(expected), rel=1e-10)


def test_a_direction_pulled_back_is_what_heads_read():
    layer, directions = attention(0, kv_heads=1), normal(3, WIDTH, seed=5)
    x = normal(POSITIONS, WIDTH, seed=6)
    read = pull_back(layer, directions)
    lifted = torch.cat([torch.ones(POSITIONS, 1, dtype=torch.float64), x], 1)
    seen = torch.einsum("khi,hst,ti->ks", read, layer.pattern(x), lifted)
    assert_close(seen, directions @ layer(x).T)


@pytest.mark.parametrize("norm", [None, Norm(), NORM])
@pytest.mark.parametrize("softmax", [False, True])
def test_an_mlp_is_read_back_through_attention(norm, softmax):
    stack = network(scores=2 - softmax, softmax=softmax, norm=norm)
    direction = normal(WIDTH, seed=4)
    found = read_back(stack, 1, direction)
    streams = stack.streams(X)
    output = (streams[2] - 0.7 * streams[1]) @ direction
    by_pair = found.contributions(X)
    assert by_pair.shape == (2, POSITIONS, 5, 5)  # two heads, the residual, the bias, the constant
    assert_close(by_pair.sum((-2, -1)), output)
    assert_close(by_pair, by_pair.mT)
    gain = torch.eye(WIDTH, dtype=torch.float64)
    if norm is NORM:
        gain = torch.diag(norm.weight) @ (gain - 1 / WIDTH)
    form = stack[1].map.interaction_matrix(direction)[1:, 1:]
    ov = [gain @ stack[0].map.ov(head).to_tensor() for head in (0, 1)]
    assert_close(found.pair(0, 1).to_tensor(), ov[0].T @ form @ ov[1])
    assert_close(found.pair(1, -3).to_tensor(), ov[1].T @ form @ gain * 0.5)
    assert_close(found.norms()[0, 1], (ov[0].T @ form @ ov[1]).norm())
    records = found.records()
    assert len(records) == 15
    assert [record["norm"] for record in records] == sorted((r["norm"] for r in records), reverse=True)
    assert {"first": "head 0", "second": "head 1", "norm": float(found.norms()[0, 1])} in records


@pytest.mark.parametrize("norm", [None, NORM])
@pytest.mark.parametrize("softmax", [False, True])
def test_writes_sum_to_the_output(norm, softmax):
    stack = network(scores=2 - softmax, softmax=softmax, norm=norm, bottom=True)
    found = write_contributions(stack, X, U)
    heads = [f"part {i} head {h}" for i in (1, 3) for h in (0, 1)]
    assert found.names == ("input", "part 0", *heads[:2], "part 2", *heads[2:], "constant")
    assert_close(found.values.sum(-1), stack(X) @ U)
    # a head that is removed at the given patterns and scales takes its contribution away
    frozen = stack.given(X)
    layer = frozen[3].map
    for h in (0, 1):
        without = dataclasses.replace(layer, down=layer.down * (torch.arange(2) != h)[None, :, None])
        lost = (frozen(X) - frozen.replace(3, without)(X)) @ U
        assert_close(found.values[..., found.names.index(f"part 3 head {h}")], lost)
    assert_close(write_contributions(stack, X[1], U).values, found.values[1])
    record = found.records()[2]
    assert record["contribution"] == "part 1 head 0"
    assert record["mean"] == pytest.approx(float(found.values[..., 2].mean()), rel=1e-12)
    assert record["root_mean_square"] == pytest.approx(float(found.values[..., 2].square().mean().sqrt()), rel=1e-12)


@pytest.mark.parametrize("softmax", [False, True])
def test_patterns_and_streams_take_one_pass(softmax):
    stack = network(scores=2 - softmax, softmax=softmax, norm=NORM)

    def flops(call):
        with FlopCounterMode(display=False) as counter:
            call()
        return counter.get_total_flops()

    forward = flops(lambda: stack(X))
    assert flops(lambda: stack.trace(X)) == flops(lambda: stack.given(X)) == forward
    assert flops(lambda: write_contributions(stack, X, U)) < 2 * forward  # the writes of heads are computed once more
    frozen, streams = stack.trace(X)
    assert_close(frozen(X), stack(X))
    assert_close(streams, stack.streams(X))


@pytest.mark.parametrize("norm", [None, NORM])
@pytest.mark.parametrize("with_biases", [False, True])
def test_paths_sum_to_the_output(norm, with_biases):
    stack = network(scores=1, softmax=True, norm=norm, mlp=False, with_biases=with_biases, bottom=True)
    found = path_contributions(stack, X, U)
    assert len(found.names) == 3**2 + 1
    assert_close(found.values.sum(-1), stack(X) @ U)
    by_writer = write_contributions(stack, X, U)
    through = [i for i, name in enumerate(found.names) if "part 2 head 1" in name]
    if norm is None and not with_biases:
        direct = by_writer.values[..., by_writer.names.index("part 2 head 1")]
        assert_close(found.values[..., through].sum(-1), direct)
        assert bool((found.values[..., -1] == 0).all())
        frozen, ov = stack.given(X), stack[2].map.ov(1).to_tensor() @ stack[1].map.ov(0).to_tensor()
        pattern = frozen[1].map.mask[:, 0], frozen[2].map.mask[:, 1]
        z = torch.einsum("bst,btu,bui->bsi", pattern[1], pattern[0], X @ stack[0].map.weight.T)
        one = torch.einsum("o,oj,ji,bsi->bs", U, stack[3].map.weight, ov, z)
        assert_close(found.values[..., found.names.index("part 1 head 0, part 2 head 1")], one)


@pytest.mark.parametrize("norm", [None, NORM])
def test_legs_of_polynomial_attention(norm):
    """Each leg of the upper layer, fed by one writer alone, against the multilinear map of the layer."""
    stack = network(norm=norm, mlp=False)
    direction, upper = normal(WIDTH, seed=4), stack[1].map
    below, above = stack.given(X)[0], stack.given(X)[1]
    zero = torch.zeros_like(X)
    parts = [
        dataclasses.replace(below.map, down=below.map.down * (torch.arange(2) == h)[None, :, None])(
            X if norm is None else below.norm(X)
        )
        for h in (0, 1)
    ]
    parts += [0.5 * X, zero + below.bias]
    shift = zero if norm is None else above.norm(zero)
    parts = [part if norm is None else above.norm(part) - shift for part in parts]
    ones = torch.ones_like(X[..., :1])
    writers = [torch.cat([0 * ones, part], -1) for part in parts] + [torch.cat([ones, shift], -1)]
    whole = sum(writers)
    writes = (upper.multilinear(whole)) @ direction
    for legs in [(0,), (1,), (4,), (3, 2)]:
        found = leg_contributions(stack, 1, X, direction, legs)
        assert found.shape == (2, POSITIONS, 2, *[5] * len(legs))
        assert_close(found.flatten(2).sum(-1), writes)
        inputs = [whole] * 5
        for place, leg in enumerate(legs):
            inputs[leg] = writers[place + 1]
        index = (slice(None), slice(None), slice(None), *range(1, len(legs) + 1))
        assert_close(found[index].sum(-1), upper.multilinear(*inputs) @ direction)
    every = leg_contributions(stack, 1, X, direction, (0, 1, 2, 3, 4))
    assert_close(every.sum((4, 5, 6, 7)), leg_contributions(stack, 1, X, direction, [0]))


def test_the_value_leg_of_softmax_attention():
    stack = network(scores=1, softmax=True, mlp=False)
    direction = normal(WIDTH, seed=4)
    found = leg_contributions(stack, 1, X, direction, [0])
    streams = stack.streams(X)
    assert_close(found.sum((2, 3)), (streams[2] - streams[1] - stack[1].bias) @ direction)
    with pytest.raises(ValueError, match="legs must be from 0 to 0"):
        leg_contributions(stack, 1, X, direction, [1])


def test_what_has_no_paths_or_read_backs_is_refused():
    stack = network()
    with pytest.raises(
        ValueError, match=r"paths run through attention alone.*part 1 of the network is a BilinearLayer"
    ):
        path_contributions(stack, X, U)
    with pytest.raises(ValueError, match="the network has 9 paths, more than max_paths=8"):
        path_contributions(network(mlp=False), X, U, max_paths=8)
    with pytest.raises(ValueError, match="part 2 must be a bilinear map, but it is a AttentionLayer"):
        read_back(SequenceNetwork([*stack.parts[1:3], stack[0]]), 2, normal(WIDTH))
    with pytest.raises(ValueError, match="part 1 must be an attention layer, but it is a BilinearLayer"):
        read_back(stack, 2, normal(WIDTH))
    with pytest.raises(ValueError, match="network must have a part above another, got 1 part"):
        read_back(SequenceNetwork([stack[0]]), 1, normal(WIDTH))
    with pytest.raises(ValueError, match="mode 'in' has size 5 in lower but 6 in upper"):
        composition(layer_with(2, n_out=5), layer_with(2), "value")
