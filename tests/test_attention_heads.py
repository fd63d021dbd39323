"""Heads: scores of planted heads, the form of a query, inner products against dense tensors, the SVD of O V."""

import dataclasses
import itertools

import pytest
import torch
from attention_layers import IN, POSITIONS, layer_with
from helpers import assert_close, layer_of, normal, stack, symmetrized

from tensornet_interp import decompose, list_decompositions
from tensornet_interp.attention import (
    OVSVD,
    LowRank,
    copying_score,
    head_inner,
    head_similarity,
    prefix_matching_score,
    previous_token_score,
    query_form,
)
from tensornet_interp.testing import check_decomposition


def single(layer, head):
    """The layer of one head, of all sources, without shared keys and values."""
    shared = head * layer.shared_heads // layer.heads
    return dataclasses.replace(
        layer,
        down=layer.down[:, [head]],
        value=layer.value[[shared]],
        queries=tuple(query[[head]] for query in layer.queries),
        keys=tuple(key[[shared]] for key in layer.keys),
        mask=torch.ones_like(layer.mask[:1]),
    )


def dense_head(layer, head, offset):
    """The tensor (out, legs) of one head, symmetrized over the legs that take the same vector."""
    at = max(0, -offset)
    tensor = single(layer, head).to_tensor()[:, at, at + offset]
    if offset == 0:
        return symmetrized(tensor)
    scores = len(layer.queries)
    legs = range(1, 2 * scores + 2)
    orders = [
        first + second
        for first in itertools.permutations(legs[: scores + 1])
        for second in itertools.permutations(legs[scores + 1 :])
    ]
    return sum(tensor.permute(0, *order) for order in orders) / len(orders)


@pytest.mark.parametrize("offset", [0, -1, 2])
@pytest.mark.parametrize("scores", [0, 1, 2])
@pytest.mark.parametrize("lifted", [False, True])
def test_inner_products_of_heads_are_those_of_dense_tensors(scores, offset, lifted):
    a, b = (layer_with(scores, seed, n_in=3, n_out=3, kv_heads=kv, size=2) for seed, kv in ((0, None), (200, 1)))
    if lifted:
        a, b = a.lift(residual=0.5), b.lift(residual=0.25)
    ours, theirs = ([dense_head(x, head, offset) for head in range(x.heads)] for x in (a, b))
    expected = torch.stack([torch.stack([(i * j).sum() for j in theirs]) for i in ours])
    assert_close(head_inner(a, b, offset), expected)
    norms = [torch.stack([i.norm() for i in side]) for side in (ours, theirs)]
    assert_close(head_similarity(a, b, offset), expected / (norms[0][:, None] * norms[1]))


@pytest.mark.parametrize("offset", [0, -2])
def test_the_form_of_the_query_given_a_key(offset):
    layer, key = layer_with(2, mask="full"), normal(3, IN, seed=4)
    values, vectors = query_form(layer, 1, key, offset)
    for i in range(3):
        u, w = (layer.qk(1, offset, score).to_tensor() @ key[i] for score in (0, 1))
        form = (torch.outer(u, w) + torch.outer(w, u)) / 2
        assert_close((vectors[i] * values[i]) @ vectors[i].T, form)
        assert_close(vectors[i].T @ vectors[i], torch.eye(2, dtype=torch.float64))
        exact = torch.linalg.eigvalsh(form)
        assert_close(values[i], exact[[-1, 0]])
    with pytest.raises(ValueError, match="must have two scores"):
        query_form(layer_with(1), 0, key)


def test_heads_that_copy_and_that_do_not():
    basis = torch.linalg.qr(normal(6, 6)).Q[:, :3]
    for sign in (1, -1):
        assert copying_score(LowRank(left=sign * basis, right=basis)) == pytest.approx(sign, abs=1e-12)
    turned = LowRank(left=basis[:, [1, 2, 0]], right=basis)  # a cycle: eigenvalues are roots of 1
    assert copying_score(turned) == pytest.approx(0, abs=1e-12)
    assert copying_score(LowRank(left=0 * basis, right=basis)) == 0


def test_previous_tokens_and_matching_prefixes():
    previous = torch.eye(4, dtype=torch.float64).roll(1, 0)
    previous[0] = torch.tensor([1.0, 0, 0, 0])
    even = torch.full((4, 4), 0.25, dtype=torch.float64)
    pattern = torch.stack([previous, even, -even])
    assert previous_token_score(pattern).tolist() == [1, 0.25, 0.25]
    assert previous_token_score(pattern, 0).tolist() == [0.25, 0.25, 0.25]
    tokens = torch.tensor([5, 7, 5, 9])  # position 2 repeats token 5, which 7 followed: source 1
    induction = torch.eye(4, dtype=torch.float64)
    induction[2] = torch.tensor([0, 1.0, 0, 0])
    heads = torch.stack([induction, even])
    assert prefix_matching_score(heads, tokens).tolist() == [1, 0.25]
    both = prefix_matching_score(torch.stack([heads, heads]), torch.stack([tokens, torch.arange(4)]))
    assert both[0].tolist() == [1, 0.25]
    assert both[1].isnan().all()


def test_the_ladder_goes_up():
    layer = layer_with(0, n_in=8, n_out=8, channel=8)
    assert [step.rank for step in OVSVD.ladder(layer)] == [1, 4, 8]


@pytest.mark.parametrize(("kv_heads", "said"), [(None, False), (1, True)])
def test_heads_that_share_keys_and_values_are_counted(kv_heads, said):
    assert ("of keys and values)" in layer_with(1, kv_heads=kv_heads)._repr_html_()) is said


@pytest.mark.parametrize(("scores", "softmax"), [(0, False), (2, False), (1, True)])
@pytest.mark.parametrize("kv_heads", [None, 1])
def test_the_svd_of_ov_is_nested_and_exact_at_full_rank(scores, softmax, kv_heads):
    layer = layer_with(scores, softmax=softmax, kv_heads=kv_heads)
    x = normal(4, POSITIONS, IN, seed=3)
    results = [step(layer) for step in OVSVD.ladder(layer)]
    assert_close(results[-1](x), layer(x))
    for rank, result in zip((1, 2, 3), results, strict=True):
        assert_close(result.pattern(x), layer.pattern(x))
        assert result.down.shape[2] == rank
        for head in range(layer.heads):
            values = torch.linalg.svdvals(layer.ov(head).to_tensor())
            left_out = (result.ov(head).to_tensor() - layer.ov(head).to_tensor()).norm()
            assert abs(left_out - values[rank:].norm()) <= 1e-12 * values[0]
    assert decompose(layer, "ov_svd", rank=2).history[-1] == "OVSVD(rank=2)"
    assert decompose(layer, OVSVD()).heads == layer.heads


def test_strategies_say_what_they_act_on():
    layer, bilinear = layer_with(2), layer_of(3, 5, 4)
    assert "ov_svd" in [listed.name for listed in list_decompositions()]
    with pytest.raises(TypeError, match=r"Eigen.* acts on BilinearLayer, not on AttentionLayer; these do: ov_svd$"):
        decompose(layer, "eigen")
    with pytest.raises(TypeError, match="acts on BilinearLayer, not on AttentionLayer"):
        decompose(layer_with(1, softmax=True), "cp", rank=2)
    for part in (bilinear, stack([5, 5, 3], [4, 4], 0), decompose(bilinear, "eigen")):
        with pytest.raises(TypeError, match=r"OVSVD.* acts on AttentionLayer, not on .*; these do: block_term, cp, "):
            decompose(part, "ov_svd")
    with pytest.raises(ValueError, match="'ov_svd' acts on AttentionLayer"):
        check_decomposition("ov_svd")
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        OVSVD(rank=0)
    with pytest.raises(ValueError, match=r"rank must be from 1 to 3 \(min\(out, channel, in\) of a head\), got 4"):
        OVSVD(rank=4)(layer)


def test_softmax_heads_are_no_polynomials():
    with pytest.raises(ValueError, match="a has softmax"):
        head_inner(layer_with(1, softmax=True), layer_with(1))
    with pytest.raises(ValueError, match="equally many scores, got 2 and 1"):
        head_inner(layer_with(2), layer_with(1))
