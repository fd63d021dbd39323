"""Interventions on heads and paths, against the same written out with PyTorch."""

import dataclasses

import pytest
import torch
from helpers import assert_close, normal
from test_attention_composition import NORM, POSITIONS, WIDTH, U, X, network
from torch.nn.functional import scaled_dot_product_attention

from tensornet_interp.attention import (
    AttentionLayer,
    LinearMap,
    Norm,
    Part,
    SequenceNetwork,
    mean_ablated,
    path_patched,
    write_contributions,
)

HEADS, SIZE = 2, 3
OTHER = normal(2, POSITIONS, WIDTH, seed=19)


def weights(seed):
    return {
        name: normal(HEADS * SIZE, WIDTH, seed=seed + i) / 2 for i, name in enumerate(("query", "key", "value"))
    } | {"out": normal(WIDTH, HEADS * SIZE, seed=seed + 3) / 2}


def by_hand(w, query, key, value):
    """What every head of a causal softmax layer writes, (head, batch, position, out), from three normed inputs."""
    q, k, v = (
        (x @ w[name].T).unflatten(-1, (HEADS, SIZE)).transpose(1, 2)
        for name, x in (("query", query), ("key", key), ("value", value))
    )
    mixed = scaled_dot_product_attention(q, k, v, is_causal=True)  # (batch, head, position, channel)
    return torch.einsum("bhsc,ohc->hbso", mixed, w["out"].unflatten(1, (HEADS, SIZE)))


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def softmax_stack():
    """Two blocks of attention with a map at every position between, residuals and norms, and a head."""
    lower, upper = weights(0), weights(10)
    middle, head = normal(WIDTH, WIDTH, seed=20) / 2, normal(3, WIDTH, seed=21)

    def layer(w):
        return AttentionLayer.from_weights(
            queries=[w["query"]],
            keys=[w["key"]],
            value=w["value"],
            out=w["out"],
            heads=HEADS,
            positions=POSITIONS,
            softmax=True,
        )

    parts = [
        Part(layer(lower), 1.0, Norm()),
        Part(LinearMap(weight=middle), 1.0, Norm()),
        Part(layer(upper), 1.0, Norm()),
    ]
    return SequenceNetwork([*parts, Part(LinearMap(weight=head), 0.0, Norm())]), lower, upper, middle, head


@pytest.mark.parametrize("legs", [None, (0,), (1,), (2,), (1, 2)])
def test_a_path_from_head_to_head_is_the_one_of_a_model(legs):
    stack, lower, upper, middle, head = softmax_stack()
    below, new = by_hand(lower, *[rms(X)] * 3), by_hand(lower, *[rms(OTHER)] * 3)
    first = X + below.sum(0)
    second = first + rms(first) @ middle.T  # the map between sees no change
    patched = rms(second + new[1] - below[1])
    read = [patched if legs is None or leg in legs else rms(second) for leg in range(3)]
    value, key, query = read
    written = by_hand(upper, *[rms(second)] * 3)
    written[0] = by_hand(upper, query, key, value)[0]  # the other head sees no change
    third = second + written.sum(0)
    expected = rms(third) @ head.T
    assert_close(path_patched(stack, (0, 1), (2, 0), X, OTHER, legs=legs), expected)
    whole = second + by_hand(upper, query, key, value).sum(0)
    assert_close(path_patched(stack, (0, 1), (2, None), X, OTHER, legs=legs), rms(whole) @ head.T)


def test_a_path_to_a_map_and_to_the_output():
    stack, lower, upper, middle, head = softmax_stack()
    below = by_hand(lower, *[rms(X)] * 3)
    change = below[0].mean((0, 1)) - below[0]
    first = X + below.sum(0)
    second = first + rms(first + change) @ middle.T
    third = second + by_hand(upper, *[rms(second)] * 3).sum(0)
    assert_close(path_patched(stack, (0, 0), (1, None), X), rms(third) @ head.T)
    third = stack.streams(X)[3]
    assert_close(path_patched(stack, (0, 0), None, X), rms(third + change) @ head.T)
    assert_close(path_patched(stack, (0, 0), (-1, None), X), rms(third + change) @ head.T)
    changed = first + change
    below_head = SequenceNetwork(stack.parts[:2])  # the map on top has a residual, through which the output changes too
    assert_close(path_patched(below_head, (0, 0), None, X), changed + rms(changed) @ middle.T)
    assert_close(path_patched(below_head, (0, 0), (1, None), X), first + rms(changed) @ middle.T)


def test_all_paths_of_the_top_layer_are_the_ablation_of_its_head():
    stack = network(norm=NORM)
    ablated = mean_ablated(stack, 2, 1, X)
    assert_close(path_patched(stack, (2, 1), None, X), ablated(X))
    blocks = SequenceNetwork(stack.parts[:3])
    assert_close(path_patched(blocks, (2, 0), None, X), mean_ablated(blocks, 2, 0, X)(X))


def test_without_norms_the_direct_path_is_the_contribution_of_the_write():
    stack = network()
    found = write_contributions(stack, X, U)
    write = found.values[..., found.names.index("part 2 head 1")]
    change = (path_patched(stack, (2, 1), None, X) - stack(X)) @ U
    assert_close(change, write.mean() - write)


def test_polynomial_attention_and_lifted_layers_have_paths():
    stack = network(norm=NORM)
    frozen, streams = stack.trace(X)
    assert_close(frozen(X), stack(X))
    assert_close(streams[-1], stack(X))
    same = path_patched(stack, (0, 1), (2, 0), X, X)
    assert_close(same, stack(X))
    keys = path_patched(stack, (0, 1), (2, 0), X, OTHER, legs=[1, 2])
    assert (keys - stack(X)).norm() > 1e-3 * stack(X).norm()
    assert_close(path_patched(stack, (0, 1), (2, 0), X[0], OTHER[0], legs=[1, 2]), keys[0])


def test_a_head_replaced_by_its_mean():
    stack = network(norm=NORM)
    changed = mean_ablated(stack, 0, 1, X)
    assert changed[0].map.pattern(X).shape == (2, 2, POSITIONS, POSITIONS)
    h = NORM(X)
    alone = dataclasses.replace(stack[0].map, down=stack[0].map.down * (torch.arange(2) == 1)[None, :, None])
    rest = stack[0].map(h) - alone(h)
    expected = 0.5 * X + rest + alone(h).mean((0, 1)) + stack[0].bias
    assert_close(changed.streams(X)[1], expected)


def test_numbers_that_are_none_are_named():
    stack = network()
    with pytest.raises(ValueError, match=f"^i must be from -{len(stack)} to {len(stack) - 1}, got 99"):
        mean_ablated(stack, 99, 0, X)
    with pytest.raises(ValueError, match=r"^head must be from 0 to 1, got 9"):
        mean_ablated(stack, 0, 9, X)


def test_paths_that_are_none_are_refused():
    stack = network()
    with pytest.raises(ValueError, match="the reader must be above the writer, got part 0 and part 2"):
        path_patched(stack, (2, 0), (0, 1), X)
    with pytest.raises(ValueError, match="part 1 must be an attention layer, but it is a BilinearLayer"):
        path_patched(stack, (1, 0), None, X)
    with pytest.raises(TypeError, match=r"writer must be \(part, head\), such as \(0, 1\), got 3"):
        path_patched(stack, 3, None, X)
    with pytest.raises(ValueError, match="legs belong to attention, but the reader is a BilinearLayer"):
        path_patched(stack, (0, 1), (1, None), X, legs=[0])
    with pytest.raises(ValueError, match="legs belong to attention, but the reader is the output"):
        path_patched(stack, (2, 1), None, X, legs=[0])
    with pytest.raises(ValueError, match=r"other must have the shape of x, got \(4, 5\) and \(2, 4, 5\)"):
        path_patched(stack, (0, 1), None, X, OTHER[0])
    cut = SequenceNetwork([stack[0], stack[1]._replace(residual=0.0), stack[2]])
    with pytest.raises(ValueError, match="the reader sees nothing that part 0 writes: part 1 between has no residual"):
        path_patched(cut, (0, 1), (2, 0), X)
