"""Attention layers: against PyTorch, against the dense tensor at different inputs, lifted, at a given pattern."""

import itertools

import pytest
import torch
from attention_layers import IN, OUT, POSITIONS, biases_of, by_hand, layer_with, weights
from helpers import assert_close, normal

from tensornet_interp import contract, plan
from tensornet_interp.attention import AttentionLayer, rotary_rotation

CAUSAL = torch.ones(POSITIONS, POSITIONS, dtype=torch.float64).tril()
WINDOW = CAUSAL.triu(-1) / torch.arange(1, POSITIONS + 1, dtype=torch.float64)[:, None]
KINDS = [(0, False), (1, False), (2, False), (1, True)]


@pytest.mark.parametrize(("scores", "softmax"), KINDS)
@pytest.mark.parametrize(
    ("base", "pairs", "turned"),
    [(None, "halves", None), (7.0, "halves", None), (7.0, "adjacent", None), (7.0, "halves", 2)],
)
@pytest.mark.parametrize("kv_heads", [None, 1])
@pytest.mark.parametrize("with_biases", [False, True])
def test_a_layer_is_the_function_of_its_weights(scores, softmax, base, pairs, turned, kv_heads, with_biases, device):
    """Rotary of both layouts, full or partial, shared keys and values, biases; softmax against PyTorch's own."""
    base = base if scores else None
    given = weights(scores, kv_heads=kv_heads, device=device)
    biases = biases_of(given) if with_biases else {}
    rotary = base
    if turned:  # the first angle alone
        rotary = torch.ones(1, dtype=torch.float64, device=device) if scores else None
    layer = AttentionLayer.from_weights(
        **given, **biases, positions=POSITIONS, rotary=rotary, pairs=pairs, softmax=softmax
    )
    x = normal(4, POSITIONS, IN, seed=3, device=device)
    expected = by_hand(x, given, biases, mask=CAUSAL.to(device), base=base, pairs=pairs, turned=turned, softmax=softmax)
    assert_close(layer(x), expected)
    assert_close(layer(x[:, :2]), expected[:, :2])  # a shorter input
    assert_close(layer(x[0]), expected[0])
    assert_close(layer(x.reshape(2, 2, POSITIONS, IN)), expected.reshape(2, 2, POSITIONS, OUT))
    assert_close(layer.given(layer.pattern(x))(x), expected)


@pytest.mark.parametrize("scores", [0, 1, 2])
@pytest.mark.parametrize("mask", [CAUSAL, WINDOW, normal(2, POSITIONS, POSITIONS, seed=9)])
@pytest.mark.parametrize("kv_heads", [None, 1])
def test_different_inputs_against_the_dense_tensor(scores, mask, kv_heads):
    layer = layer_with(scores, mask=mask, kv_heads=kv_heads, n_in=3, n_out=2)
    dense = layer.to_tensor()
    assert dense.shape == tuple(layer.sizes.values()) == (2, POSITIONS, POSITIONS, *[3] * (1 + 2 * scores))
    inputs = [normal(POSITIONS, 3, seed=30 + i) for i in range(1 + 2 * scores)]
    letters = "abcde"[: len(inputs)]
    legs = [("t" if i <= scores else "s") + letter for i, letter in enumerate(letters)]
    expected = torch.einsum(f"ost{letters},{','.join(legs)}->so", dense, *inputs)
    assert_close(layer.multilinear(*inputs), expected)
    assert_close(layer.multilinear(inputs[0]), layer(inputs[0]))


def test_the_dense_tensor_is_that_of_the_formula():
    """A[o, s, t, ...] from rotation matrices written as blocks, one head at a time."""
    layer = layer_with(2, n_in=3, n_out=2, rotary=7.0)
    expected = 0
    for head in range(layer.heads):
        forms = []
        for query, key in zip(layer.queries, layer.keys, strict=True):
            turns = []
            for blocks in layer.rotation:  # pairs (j, j + 2) of a head of size 4
                turn = torch.zeros(4, 4, dtype=torch.float64)
                for j, ((a, b), (c, d)) in enumerate(blocks.tolist()):
                    turn[j, j], turn[j, j + 2], turn[j + 2, j], turn[j + 2, j + 2] = a, b, c, d
                turns.append(turn)
            turned = torch.stack(turns)
            forms.append(torch.einsum("srq,trk->stqk", turned @ query[head], turned @ key[head]))
        ov = layer.down[:, head] @ layer.value[head]
        expected = expected + torch.einsum("st,oa,stdb,stec->ostabcde", layer.mask[0], ov, *forms)
    assert_close(layer.to_tensor(), expected)
    angles = 7.0 ** (-torch.arange(2, dtype=torch.float64) / 2)
    assert_close(layer.rotation, rotary_rotation(angles, POSITIONS))
    assert torch.equal(layer.mask[0], CAUSAL)


@pytest.mark.parametrize(("scores", "softmax"), KINDS)
@pytest.mark.parametrize("rotary", [None, 7.0])
def test_lift_adds_biases_and_a_residual(scores, softmax, rotary):
    layer = layer_with(scores, softmax=softmax, rotary=rotary, n_out=IN, kv_heads=1)
    bias, x = normal(IN, seed=5), normal(4, POSITIONS, IN, seed=6)
    lifted = layer.lift(bias=bias, residual=0.7)
    assert_close(lifted(x), layer(x) + bias + 0.7 * x)
    assert_close(layer.lift(residual=0.7)(x), layer(x) + 0.7 * x)
    assert lifted.heads == layer.heads + 1
    ones = torch.ones(4, POSITIONS, 1, dtype=torch.float64)
    handed_on = lifted.multilinear(torch.cat([ones, x], -1))
    assert_close(handed_on[..., :1], ones)
    assert_close(lifted.drop_constant()(x), lifted(x))
    if not softmax:
        assert lifted.modes[0] == "out"
        assert plan(lifted, output=("out",)).flops > 0


def test_patterns_by_sample_and_head():
    """Any pattern is one: negative, by sample; the layer at it is linear."""
    layer = layer_with(2, kv_heads=1)
    pattern = normal(4, layer.heads, POSITIONS, POSITIONS, seed=8)
    linear = layer.given(pattern)
    x = normal(4, POSITIONS, IN, seed=9)
    ov = torch.stack([layer.down[:, head] @ layer.value[0] for head in range(layer.heads)])
    assert_close(linear(x), torch.einsum("bhst,hoi,bti->bso", pattern, ov, x))
    assert linear.modes == ("batch", "out", "position", "source", "in1")
    assert_close(contract(linear), torch.einsum("bhst,hoi->bosti", pattern, ov))
    assert_close(linear.pattern(x), pattern)
    assert linear.history[-1] == "at a given pattern"
    with pytest.raises(ValueError, match="that of a batch of 4 samples"):
        linear(x[:2])


def test_scores_are_exact_for_softmax_and_masks_weigh_its_sources():
    slope = torch.arange(POSITIONS, dtype=torch.float64)
    far = (slope[:, None] - slope).clamp(min=0)
    given, x = weights(1), normal(4, POSITIONS, IN, seed=3)
    layer = AttentionLayer.from_weights(**given, positions=POSITIONS, mask=CAUSAL * torch.exp(-far / 2), softmax=True)
    logits = layer.scores(x)
    q, k = ((x @ given[side][0].T).unflatten(-1, (2, -1)).transpose(1, 2) for side in ("queries", "keys"))
    assert_close(logits, q @ k.mT / 2)
    masked = (logits - far / 2).masked_fill(CAUSAL == 0, -torch.inf)
    assert_close(layer.pattern(x), masked.softmax(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_moves_to_another_dtype(dtype):
    layer = layer_with(2).to(dtype=dtype)
    assert {array.dtype for array in layer.arrays().values()} == {dtype}
    y = layer(normal(POSITIONS, IN, dtype=dtype))
    assert y.dtype == dtype
    exact = layer.to(dtype=torch.float64)(normal(POSITIONS, IN, dtype=dtype).double())
    assert_close(y.double(), exact, 8 * torch.finfo(dtype).eps * 4)


def test_shared_weights_pass_gradients_and_copies_do_not():
    given = weights(2)
    given["value"].requires_grad_()
    make = AttentionLayer.from_weights
    x = normal(POSITIONS, IN)
    make(**given, positions=POSITIONS, share=True)(x).sum().backward()
    assert given["value"].grad.abs().max() > 0
    assert not make(**given, positions=POSITIONS)(x).requires_grad


@pytest.mark.parametrize("offset", range(1 - POSITIONS, POSITIONS))
def test_qk_is_the_score_and_ov_the_write(offset):
    x = normal(POSITIONS, IN, seed=4)
    for (scores, softmax), kv_heads in itertools.product(KINDS[1:], (None, 1)):
        layer = layer_with(scores, softmax=softmax, kv_heads=kv_heads, mask="full")
        for head, score in itertools.product(range(layer.heads), range(scores)):
            matrix = layer.qk(head, offset, score)
            at = max(0, -offset)
            rows = x[at : at + POSITIONS - abs(offset)]
            columns = x[at + offset :][: len(rows)]
            expected = layer.scores(x, score)[head].diagonal(offset)
            assert_close(torch.einsum("si,ij,sj->s", rows, matrix.to_tensor(), columns), expected)
        writes = torch.stack([layer.ov(head).to_tensor() for head in range(layer.heads)])
        assert_close(torch.einsum("hst,hoi,ti->so", layer.pattern(x), writes, x), layer(x))


BAD = [
    ({"heads": 4}, "out has 6 columns, which 4 heads do not divide"),
    ({"heads": 6}, "queries.0. has 8 rows, which 6 heads do not divide"),
    ({"heads": 3, "kv_heads": 2}, "kv_heads must divide heads, got 2 and 3"),
    ({"size": 3}, "the size of a head must be even, got 3"),
    ({"rotary": torch.ones(3, dtype=torch.float64)}, "rotary has 3 angles, more than the 2 pairs"),
    ({"mask": torch.full((3, 3), torch.nan, dtype=torch.float64)}, "mask has 9 entries that are NaN"),
    ({"mask": -torch.ones(3, 3, dtype=torch.float64), "scores": 1, "softmax": True}, "mask must not be negative"),
    ({"mask": torch.zeros(3, 3, dtype=torch.float64), "scores": 1, "softmax": True}, "some of its rows are zero"),
    ({"softmax": True}, "softmax needs one score, but queries has 2"),
    ({"scores": 3}, "at most two, got 3 and 3"),
    ({"mask": "none"}, "mask must be one of causal, full"),
    ({"scores": 0}, "rotary turns queries and keys, but there are none"),
    ({"pairs": "both"}, "pairs must be one of adjacent, halves"),
    ({"query_biases": [torch.ones(8)]}, "query_biases must be one per score, got 1 for 2"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_what_is_no_attention_layer_is_refused(options, message):
    options = dict(options)
    given = weights(options.pop("scores", 2), size=options.pop("size", 4)) | {"rotary": 7.0, "positions": POSITIONS}
    with pytest.raises(ValueError, match=message):
        AttentionLayer.from_weights(**given | options)


def test_without_rotary_the_score_is_the_same_at_every_offset():
    layer = layer_with(1, rotary=None)
    assert_close(layer.qk(0, 2).to_tensor(), layer.qk(0, 0).to_tensor())


def test_an_empty_list_of_biases_is_none():
    made = AttentionLayer.from_weights(**weights(2), positions=POSITIONS, query_biases=[])
    assert not made.constant_in


def test_calls_say_what_is_wrong():
    layer, soft, x = layer_with(2), layer_with(1, softmax=True), normal(POSITIONS, IN)
    with pytest.raises(ValueError, match="x has 5 positions, but the mask has only 3"):
        layer(normal(5, IN))
    with pytest.raises(ValueError, match=r"a softmax layer is no polynomial.*given"):
        soft.terms()
    with pytest.raises(ValueError, match="pattern has 2 entries that are NaN"):
        layer.given(torch.full((2, 1, 1), torch.nan, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"needs .* elements at once, more than max_elements=1e\+01"):
        layer(x, max_elements=10)
    with pytest.raises(ValueError, match="inputs must be 1, or 5 for 5 input modes, got 2"):
        layer.multilinear(x, x)
    with pytest.raises(ValueError, match="lifted already"):
        layer.lift().lift()
    with pytest.raises(ValueError, match="offset must be from -2 to 2"):
        layer.qk(0, 3)
    with pytest.raises(ValueError, match=r"score must be from 0 to 1 \(the layer has 2 scores\), got 2"):
        layer.scores(x, 2)
    for call in (lambda given: given.qk(0), lambda given: given.scores(x)):
        with pytest.raises(ValueError, match="the layer has no scores: its pattern is its mask"):
            call(layer.given(layer.pattern(x)))
