"""Stacks over positions: two blocks against PyTorch, plans, slices, frozen patterns, what does not fit."""

import pytest
import torch
from attention_layers import biases_of, by_hand, weights
from helpers import assert_close, layer_of, normal, stack
from torch.nn.functional import layer_norm, linear

from tensornet_interp import BilinearLayer, BilinearNetwork, contract, decompose, lift, relative_error
from tensornet_interp.attention import AttentionLayer, LinearMap, LowRank, Norm, Part, SequenceNetwork
from tensornet_interp.circuits import Query, evaluation

WIDTH, HEADS, CONTEXT, HIDDEN, VOCABULARY = 64, 4, 16, 96, 11
CAUSAL = torch.ones(CONTEXT, CONTEXT, dtype=torch.float64).tril()


def model(blocks, *, softmax=False, norm=None, width=WIDTH, heads=HEADS, context=CONTEXT, with_biases=True):
    """A transformer with rotary positions, biases, residuals, embedding and head; and the same in PyTorch."""
    size, mask = width // heads, torch.ones(context, context, dtype=torch.float64).tril()
    embedding = LinearMap(weight=normal(width, VOCABULARY, seed=1))
    head = LinearMap(weight=normal(VOCABULARY, width, seed=2) / width**0.5, bias=normal(VOCABULARY, seed=3))
    parts, made = [Part(embedding)], []
    for block in range(blocks):
        given = weights(1 if softmax else 2, 100 * block, heads=heads, size=size, channel=size, n_in=width, n_out=width)
        given |= {name: given[name] / width**0.5 for name in ("value", "out")}
        for side in ("queries", "keys"):
            given[side] = [weight / width**0.5 for weight in given[side]]
        biases = biases_of(given, 100 * block + 50) if with_biases else {}
        mlp = layer_of(width, width, HIDDEN, 100 * block + 80, scale=width**-0.5)
        inner = {name: normal(HIDDEN, seed=100 * block + 90 + i) for i, name in enumerate(("left_bias", "right_bias"))}
        inner["bias"] = normal(width, seed=100 * block + 95)
        made.append((given, biases, mlp, inner if with_biases else {}))
        layer = AttentionLayer.from_weights(
            **given,
            **{name: bias for name, bias in biases.items() if name != "bias"},
            positions=context,
            rotary=100.0,
            softmax=softmax,
        )
        parts.append(Part(layer, 0.5, norm, biases.get("bias")))
        parts.append(Part(lift(mlp, **inner) if with_biases else mlp, 0.5, norm))
    parts.append(Part(head, 0.0, norm))

    def reference(x):
        normed = (lambda x: x) if norm is None else norm
        x = linear(x, embedding.weight)
        for given, biases, mlp, inner in made:
            x = 0.5 * x + by_hand(normed(x), given, biases, mask=mask, base=100.0, softmax=softmax)
            a, b, bias = (inner.get(name, 0) for name in ("left_bias", "right_bias", "bias"))
            h = normed(x)
            x = 0.5 * x + linear((linear(h, mlp.left.T) + a) * (linear(h, mlp.right.T) + b), mlp.down) + bias
        return linear(normed(x), head.weight, head.bias)

    return SequenceNetwork(parts), reference


def forward_flops(blocks, batch, width=WIDTH, heads=HEADS, context=CONTEXT):
    """What the matrix products of the forward pass cost, and the two products of scores and mask."""
    rows, size = batch * context, width // heads
    attention = 2 * rows * width * 6 * width + batch * heads * context**2 * (2 * 3 * size + 2)
    mlp = rows * HIDDEN * (6 * width + 1)
    return blocks * (attention + mlp) + 2 * 2 * rows * width * VOCABULARY


NORMS = [None, Norm(eps=1e-8), Norm(centered=True, weight=normal(WIDTH, seed=7), bias=normal(WIDTH, seed=8))]


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_two_blocks_are_those_of_pytorch(softmax, norm):
    network, reference = model(2, softmax=softmax, norm=norm)
    x = normal(3, CONTEXT, VOCABULARY, seed=9)
    expected = reference(x)
    assert_close(network(x), expected)
    assert_close(network(x[0, :5]), expected[0, :5])
    streams = network.streams(x)
    assert len(streams) == len(network) + 1
    assert_close(streams[-1], expected)
    frozen = network.given(x)
    assert_close(frozen(x), expected)
    assert all(part.map.softmax is False for part in frozen if isinstance(part.map, AttentionLayer))
    assert_close(network.given(x[1])(x[1]), expected[1])


def test_a_norm_is_that_of_pytorch():
    norm, x = NORMS[2], normal(3, 4, WIDTH, seed=1)
    assert_close(norm(x), layer_norm(x, (WIDTH,), norm.weight, norm.bias))
    rms = Norm(eps=0.5)
    assert_close(rms(x), x / (x.square().mean(-1, keepdim=True) + 0.5).sqrt())
    fixed = norm.given(x)
    assert_close(fixed(x), norm(x))
    assert_close(fixed(2 * x) - fixed(x), fixed(x) - fixed(torch.zeros_like(x)))  # affine
    scaled = Norm(scale=torch.tensor(0.25, dtype=torch.float64))
    assert_close(scaled(x), x / 4)
    with pytest.raises(ValueError, match="fixed scales of shape"):
        fixed(x[:2])


def test_the_flops_are_those_of_the_forward_pass_and_linear_in_depth():
    counts = []
    for blocks in (1, 2, 4, 8):
        network, _ = model(blocks)
        plans = network.plan(8, CONTEXT)
        assert len(plans) == len(network) == 2 * blocks + 2
        counts.append(sum(plan.flops for part in plans for plan in part))
        assert counts[-1] <= 1.1 * forward_flops(blocks, 8)
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])
    assert counts[3] - counts[2] == 4 * (counts[1] - counts[0])


def test_a_bilinear_network_is_planned_part_by_part():
    network = stack([5] * 9, [4] * 8, 0)
    plans = network.plan(7)
    assert len(plans) == 8
    assert sum(plan.flops for plan in plans) == 8 * 7 * 4 * (2 * 2 * 5 + 1 + 2 * 5)
    short = stack([5, 5, 3], [4, 4], 0, lifted=True)
    x = normal(7, 5, seed=3)
    assert_close(short(x), contract(evaluation(short, x)))
    assert short.plan(7)[0].sizes["in1"] == 6


def limited(network, x, chunk, part):
    """The elements that a call needs at once, times a share."""
    with pytest.raises(ValueError, match="elements at once") as caught:
        network(x, chunk=chunk, max_elements=1)
    return part * float(str(caught.value).split(" needs ")[1].split()[0])


@pytest.mark.parametrize("softmax", [False, True])
def test_slices_give_the_same_output(softmax):
    network, _ = model(1, softmax=softmax, norm=NORMS[1], width=8, heads=2, context=24, with_biases=False)
    x = normal(18, 24, VOCABULARY, seed=9)
    whole = network(x)
    needed = limited(network, x, None, 1)
    with pytest.raises(ValueError, match='cut the evaluation with chunk="batch"'):
        network(x, max_elements=0.6 * needed)
    assert_close(network(x, chunk="batch", max_elements=0.6 * needed), whole)
    least = limited(network, x, "batch", 1)
    with pytest.raises(ValueError, match='use chunk="position"'):
        network(x, chunk="batch", max_elements=0.8 * least)
    assert_close(network(x, chunk="position", max_elements=0.8 * least), whole)
    with pytest.raises(ValueError, match="use a shorter context"):
        network(x, chunk="position", max_elements=100)
    frozen = network.given(x)
    assert_close(frozen(x, chunk="batch", max_elements=0.6 * needed), whole)
    with pytest.raises(ValueError, match="given for 18 samples, but x has 2"):
        frozen(x[:2])


@pytest.mark.parametrize("softmax", [False, True])
def test_slices_of_positions_hold_no_pattern_of_all(softmax):
    """A pattern of 2 heads has 80,000 entries here; keys, values and streams have less than 10,000."""
    network, _ = model(1, softmax=softmax, norm=NORMS[1], width=8, heads=2, context=200, with_biases=False)
    x = normal(2, 200, VOCABULARY, seed=9)
    with pytest.raises(ValueError, match='use chunk="position"'):
        network(x, chunk="batch", max_elements=80_000)
    with pytest.raises(ValueError, match='cut the evaluation with chunk="position"'):
        network(x[:1], max_elements=80_000)
    assert_close(network(x, chunk="position", max_elements=40_000), network(x))


def test_decompositions_take_the_place_of_maps():
    network, _ = model(1, width=8, heads=2, context=5)
    x = normal(3, 5, VOCABULARY, seed=9)
    mlp = network[2].map
    changed = network.replace(2, decompose(mlp, "eigen"))
    assert_close(changed(x), network(x), 1e-10)
    assert changed[2].residual == network[2].residual
    ov = network[1].map.ov(0)
    assert ov.to_tensor().shape == (8, 9)  # what a lifted head writes, the constant first
    single = network.to(dtype=torch.float32)
    assert_close(single(x.float()).double(), network(x), 1e-4)


def test_what_does_not_fit_is_refused():
    layer = layer_of(5, 5, 4)
    square = LinearMap(weight=normal(5, 5))
    with pytest.raises(ValueError, match="part 0 has 3 outputs but part 1 takes 5 inputs"):
        SequenceNetwork([layer_of(3, 5, 4), layer])
    with pytest.raises(ValueError, match="the residual of part 0 needs as many outputs as inputs, got 5 and 3"):
        SequenceNetwork([Part(layer_of(3, 5, 4), 1.0)])
    with pytest.raises(ValueError, match="its map has the modes"):
        SequenceNetwork([stack([5, 5, 5], [4, 4], 0)])
    with pytest.raises(TypeError, match=r"the map of part 0 must be a layer.*torch.nn.GELU"):
        SequenceNetwork([torch.nn.GELU()])
    with pytest.raises(ValueError, match="mode 'out' has size 5 in map but 3 in bias"):
        SequenceNetwork([Part(square, bias=normal(3))])
    network = SequenceNetwork([square, Part(BilinearLayer(down=layer.down, left=layer.left, right=layer.right))])
    with pytest.raises(ValueError, match="part 0 has 4 outputs but part 1 takes 5 inputs"):
        network.replace(0, LinearMap(weight=normal(4, 5)))
    with pytest.raises(ValueError, match="mode 'in' has size 5 in the layer but 4 in x"):
        network(normal(3, 2, 4))
    with pytest.raises(TypeError, match="a Query cannot be moved: it has no method `to`"):
        SequenceNetwork([Query(square.terms(), square.modes)]).to("cpu")
    for call in (lambda: decompose(network, "eigen"), lambda: relative_error(network, network)):
        with pytest.raises(TypeError, match=r"a stack over positions is no tensor .* network.replace\(i, map\)"):
            call()
    mixing, _ = model(1, width=8, heads=2, context=5)
    with pytest.raises(ValueError, match="it mixes positions: a SequenceNetwork stacks such maps"):
        BilinearNetwork([mixing[1].map])
    low = LowRank(left=normal(5, 2), right=normal(5, 2), rows="out", columns="in1")
    assert SequenceNetwork([low]).to(dtype=torch.float32)[0].map.left.dtype == torch.float32
    deep, _ = model(1, width=8, heads=2, context=5)
    with pytest.raises(ValueError, match="x has 6 positions, but a mask has only 5"):
        deep(normal(6, VOCABULARY))
    with pytest.raises(ValueError, match="positions must be from 1 to 5"):
        deep.plan(1, 6)
    with pytest.raises(ValueError, match=r"x must be \(.batch,. position, in\), got shape \(1, 1, 5, 11\)"):
        deep.given(normal(1, 1, 5, VOCABULARY))


def test_the_text_of_a_stack_is_one_line_per_part():
    network = SequenceNetwork(
        [LinearMap(weight=normal(5, 4), bias=normal(5), name="embed"), Part(layer_of(5, 5, 4), 0.5, Norm())]
    )
    first, embed, block, last = repr(network).splitlines()
    assert (first, last) == ("SequenceNetwork([", "])")
    assert embed == "  LinearMap('embed', out=5, in=4, bias, float64),"
    assert block.endswith("residual=0.5, norm,")
