"""The decoder: what is causal, relative, normed, gated and hooked is so."""

import math

import pytest
import torch
from helpers import normal

from models.transformer import POINTS, TransformerConfig, build_transformer, rms_norm, rotate

SMALL = {"vocabulary": 11, "d_model": 12, "d_hidden": 10, "n_layers": 3, "n_heads": 2, "context": 9}
TOKENS = torch.tensor([[3, 1, 4, 10, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 0, 3]])


def model_of(gate="none", seed=0, **changes):
    return build_transformer(TransformerConfig(**SMALL | changes, gate=gate), seed).double()


@pytest.mark.parametrize("gate", ["none", "relu", "silu", "gelu"])
def test_later_tokens_do_not_change_earlier_logits(gate):
    model, changed = model_of(gate), TOKENS.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = model(TOKENS), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert all(bool((before[:, i] != after[:, i]).any()) for i in (5, 6, 7))  # and all later ones see it


def test_sequences_of_a_batch_do_not_meet():
    model = model_of()
    torch.testing.assert_close(model(TOKENS)[1:], model(TOKENS[1:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shift", [1, 4])
def test_products_of_rotated_vectors_depend_on_the_distance_alone(shift):
    q, k = normal(8), normal(8, seed=1)
    turned_q, turned_k = rotate(q.expand(12, -1)), rotate(k.expand(12, -1))
    products = turned_q @ turned_k.T  # (position of q, position of k)
    torch.testing.assert_close(products[shift:, shift:], products[:-shift, :-shift], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(products[0], products[0, 0].expand(12), atol=0.1)  # and it does depend on that
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(12))
    torch.testing.assert_close(turned_q[0], q)


def test_rotation_is_that_of_complex_numbers():
    x = normal(5, 6)
    half = torch.complex(x[:, :3], x[:, 3:])
    angle = torch.arange(5.0, dtype=torch.float64)[:, None] * 10000 ** (-2 * torch.arange(3) / 6)
    turned = half * torch.exp(1j * angle)
    torch.testing.assert_close(rotate(x), torch.cat([turned.real, turned.imag], -1), rtol=1e-6, atol=1e-6)


def test_half_precision_counts_positions_in_single():
    x = torch.ones(3000, 4)
    # bfloat16 has 8 bits: an angle of position 2,999 rounded to it would be wrong by up to 8 radians
    torch.testing.assert_close(rotate(x.bfloat16()).float(), rotate(x), rtol=0, atol=0.03)


def test_rms_norm_makes_the_mean_square_one():
    x = normal(3, 7) * 50
    torch.testing.assert_close(rms_norm(x).square().mean(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(rms_norm(x), rms_norm(x * 7))
    assert torch.equal(rms_norm(torch.zeros(2, 7)), torch.zeros(2, 7))
    large = (300 * x).half()  # whose squares fit no float16
    torch.testing.assert_close(rms_norm(large), rms_norm(large.double()).half())


@pytest.mark.parametrize("gate", ["none", "relu", "silu", "gelu"])
def test_an_mlp_gates_its_left_half(gate):
    mlp, x = model_of(gate).mlp(1), normal(4, 12)
    left, right = x @ mlp.left.weight.T, x @ mlp.right.weight.T
    gated = {
        "none": left,
        "relu": left.clamp_min(0),
        "silu": left / (1 + (-left).exp()),
        "gelu": left * (1 + torch.erf(left / math.sqrt(2))) / 2,
    }[gate]
    torch.testing.assert_close(mlp(x), (gated * right) @ mlp.down.weight.T)


@pytest.mark.parametrize("d_hidden", [0, 10])
@pytest.mark.parametrize("norm", ["rms", "none"])
@pytest.mark.parametrize("attention", ["softmax", "bilinear"])
def test_a_model_is_a_network_over_positions(attention, norm, d_hidden):
    model = model_of(attention=attention, norm=norm, d_hidden=d_hidden)
    found = model.network()(model.embedding(TOKENS))
    torch.testing.assert_close(found, model(TOKENS), rtol=1e-12, atol=1e-12)
    assert not any(part.bias is not None for part in model.network())
    layer, x = model.block(1).attention.layer(), normal(2, 9, 12)
    torch.testing.assert_close(layer(x), model.block(1).attention(x).detach(), rtol=1e-12, atol=1e-12)
    assert layer.softmax == (attention == "softmax")


def test_bilinear_attention_is_the_scaled_sum_of_products_of_scores_times_values():
    attention, x = model_of(attention="bilinear").block(0).attention, normal(9, 12)
    parts = (x @ attention.qkv.weight.T).unflatten(-1, (5, 2, 6))  # (position, part, head, size)
    q1, q2, k1, k2, v = parts.permute(1, 2, 0, 3)
    y = torch.zeros(9, 2, 6, dtype=torch.float64)  # (position, head, size)
    for head, s in ((head, s) for head in range(2) for s in range(9)):
        for t in range(s + 1):
            scores = [rotate(q[head])[s] @ rotate(k[head])[t] / 6 for q, k in ((q1, k1), (q2, k2))]
            y[s, head] += scores[0] * scores[1] * v[head, t] / math.sqrt(s + 1)
    expected = y.flatten(1) @ attention.o.weight.T / math.sqrt(6)  # 2 n_layers
    torch.testing.assert_close(attention(x[None])[0], expected, rtol=1e-12, atol=1e-12)


def test_a_model_without_norms_and_softmax_is_a_polynomial():
    model, x = model_of(attention="bilinear", norm="none", n_layers=1), normal(3, 12)
    # attention is of degree 5 in x and the MLP doubles it, so an 11th difference in the scale of x is zero
    values = torch.stack([model.block(0)(scale / 6 * x[None]) for scale in range(-6, 6)])
    tenth, eleventh = values.diff(n=10, dim=0), values.diff(n=11, dim=0)
    assert eleventh.abs().max() < 1e-10 * tenth.abs().max()


def test_a_bilinear_mlp_hands_over_its_tensor():
    model, x = model_of(), normal(4, 12)
    torch.testing.assert_close(model.mlp(2).layer()(x), model.mlp(2)(x).detach(), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="gate='silu' is not bilinear"):
        model_of("silu").mlp(0).layer()


def test_hooks_see_what_passes():
    model, seen = model_of(), {}
    hooks = {(i, point): lambda x, key=(i, point): seen.update({key: x.detach()}) for i in range(3) for point in POINTS}
    plain = model(TOKENS)
    with model.hooked(hooks):
        assert torch.equal(model(TOKENS), plain)
    assert set(seen) == set(hooks)
    assert torch.equal(seen[0, "resid-pre"], model.embedding(TOKENS))
    for i in range(3):
        torch.testing.assert_close(seen[i, "mlp-in"], rms_norm(seen[i, "resid-mid"]))
        torch.testing.assert_close(seen[i, "mlp-out"], model.mlp(i)(seen[i, "mlp-in"]).detach())
        torch.testing.assert_close(seen[i, "resid-post"], seen[i, "resid-mid"] + seen[i, "mlp-out"])
    assert torch.equal(seen[1, "resid-pre"], seen[0, "resid-post"])
    torch.testing.assert_close(model.head(rms_norm(seen[2, "resid-post"])), plain)


def test_attention_alone_has_the_points_and_parts_of_no_mlp():
    model = model_of(d_hidden=0)
    with pytest.raises(ValueError, match="has attention alone \\(d_hidden=0\\), and no MLP"):
        model.mlp(0)
    with (
        pytest.raises(ValueError, match="point must be one of resid-mid, resid-post, resid-pre; got 'mlp-in'"),
        model.hooked({(0, "mlp-in"): torch.zeros_like}),
    ):
        pass


def test_hooks_replace_what_passes_on():
    model, plain = model_of(), model_of()
    with torch.no_grad():
        plain.mlp(1).down.weight.zero_()
    with model.hooked({(1, "mlp-out"): torch.zeros_like}):
        replaced = model(TOKENS)
    assert torch.equal(replaced, plain(TOKENS))
    assert not torch.equal(replaced, model(TOKENS))


def test_hooks_are_gone_after_an_error_inside():
    model = model_of()
    plain = model(TOKENS)
    with pytest.raises(RuntimeError, match="inside"), model.hooked({(0, "mlp-out"): torch.zeros_like}):
        raise RuntimeError("inside")
    assert torch.equal(model(TOKENS), plain)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ((0, "mlp"), "point must be one of mlp-in, mlp-out, resid-mid, resid-post, resid-pre; got 'mlp'"),
        ((3, "mlp-in"), "layer must be from 0 to 2, got 3"),
    ],
)
def test_points_that_do_not_exist_list_those_that_do_and_leave_no_hook(key, message):
    model = model_of()
    plain = model(TOKENS)
    with (
        pytest.raises(ValueError, match=message),
        model.hooked({(0, "mlp-out"): torch.zeros_like, key: torch.zeros_like}),
    ):
        pass
    assert torch.equal(model(TOKENS), plain)


def test_initial_weights_have_their_size_and_their_own_stream():
    sizes = {"vocabulary": 300, "d_model": 64, "d_hidden": 100, "n_heads": 4}
    state = torch.get_rng_state()
    model = model_of(**sizes)
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in model.named_parameters():
        expected = 1.0 if name == "embedding.weight" else weight.shape[1] ** -0.5
        # the standard deviation of n normal numbers is within 5 / sqrt(2 n) of its value, n >= 4,096 here
        assert abs(float(weight.detach().std()) / expected - 1) < 5 / math.sqrt(2 * weight.numel()), name
    again, other = model_of(**sizes), model_of(**sizes, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_without_norms_the_maps_down_start_smaller():
    with_norms, without = model_of(), model_of(norm="none")
    for (name, one), other in zip(with_norms.named_parameters(), without.parameters(), strict=True):
        torch.testing.assert_close(other, one / math.sqrt(6) if name.endswith("down.weight") else one)


def test_settings_name_what_older_files_do_not_know_only_if_it_is_not_the_default():
    assert TransformerConfig(**SMALL).settings() == SMALL | {"gate": "none"}
    kinds = {"attention": "bilinear", "norm": "none"}
    assert TransformerConfig(**SMALL, **kinds).settings() == SMALL | {"gate": "none"} | kinds


def test_gates_of_a_seed_start_from_the_same_weights():
    none, silu = model_of(), model_of("silu")
    assert all(torch.equal(a, b) for a, b in zip(none.parameters(), silu.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 4}, "multiple of 2 n_heads.*d_model=12 and n_heads=4"),
        ({"gate": "tanh"}, "gate must be one of gelu, none, relu, silu"),
        ({"gate": "silu", "d_hidden": 0}, "d_hidden=0 is a model without MLPs, so gate must be 'none', got 'silu'"),
        ({"d_hidden": -1}, "d_hidden must be at least 0"),
        ({"attention": "linear"}, "attention must be one of bilinear, softmax"),
        ({"norm": "layer"}, "norm must be one of none, rms"),
        ({"context": 0}, "context must be at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**SMALL | changes)


def test_sequences_longer_than_the_context_are_refused():
    with pytest.raises(ValueError, match="10 positions, more than context=9"):
        model_of()(torch.zeros(1, 10, dtype=torch.int64))
