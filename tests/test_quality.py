"""Quality of dictionaries whose answer is known: perfect ones, the mean, and one with dead features."""

import pytest
import torch

from models.language import held_out_loss
from models.quality import evaluate
from models.transformer import TransformerConfig, build_transformer
from models.vectors import vectors_at, windows
from tensornet_interp.features import Dictionary

D = 8


@pytest.fixture(scope="module")
def setting():
    model = build_transformer(TransformerConfig(13, D, 6, 2, 2, 5), seed=0)
    rows = windows(torch.randint(0, 13, (150,), generator=torch.Generator().manual_seed(0)), 5)
    return model, rows


def identity():
    """x = relu(x) - relu(-x)."""
    both = torch.cat([torch.eye(D), -torch.eye(D)])
    return Dictionary(both, both.T)


def constant(value):
    return Dictionary(torch.eye(D), torch.zeros(D, D), decoder_bias=value, k=1)


@pytest.mark.parametrize("point", ["mlp-in", "mlp-out", "resid-post"])
def test_the_identity_has_no_error_and_recovers_the_whole_loss(setting, point):
    model, rows = setting
    found = evaluate(identity(), model, 1, point, rows)
    assert found.nmse < 1e-10
    assert found.loss_recovered == pytest.approx(1, abs=1e-4)
    assert found.loss_added == pytest.approx(0, abs=1e-5)
    assert found.loss == pytest.approx(held_out_loss(model, rows.flatten()), abs=1e-6)
    assert found.tokens == 150
    assert found.active == pytest.approx(D)


def test_the_mean_has_error_one_and_is_the_ablation_itself(setting):
    model, rows = setting
    x = torch.cat([part.flatten(0, 1) for part in vectors_at(model, rows, 0, "mlp-out")])
    found = evaluate(constant(x.mean(0)), model, 0, "mlp-out", rows)
    assert found.nmse == pytest.approx(1, abs=1e-5)
    assert found.loss_recovered == pytest.approx(0, abs=1e-4)
    assert found.ablated != pytest.approx(found.loss, abs=1e-3)


def test_zero_is_the_other_ablation(setting):
    model, rows = setting
    found = evaluate(constant(torch.zeros(D)), model, 0, "mlp-out", rows, ablation="zero")
    assert found.loss_recovered == pytest.approx(0, abs=1e-6)
    assert found.nmse > 1  # further from everything than the mean
    assert found.record()["ablation"] == "zero"
    other = evaluate(constant(torch.zeros(D)), model, 0, "mlp-out", rows)
    assert other.ablated != pytest.approx(found.ablated, abs=1e-6)


def test_the_error_is_over_the_variance_about_the_mean(setting):
    """Half of x: |x / 2|^2 / |x - mean|^2, with x in float64."""
    model, rows = setting
    x = torch.cat([part.flatten(0, 1) for part in vectors_at(model, rows, 0, "resid-mid")]).double()
    whole = identity()
    half = Dictionary(whole.encoder, whole.decoder / 2)
    expected = float((x / 2).square().sum() / (x - x.mean(0)).square().sum())
    assert evaluate(half, model, 0, "resid-mid", rows).nmse == pytest.approx(expected, rel=1e-5)


def test_a_planted_dead_feature_is_named(setting):
    model, rows = setting
    whole = identity()
    encoder, bias = whole.encoder.clone(), torch.zeros(2 * D)
    encoder[5], bias[5] = 0, -1  # below zero everywhere
    found = evaluate(Dictionary(encoder, whole.decoder, encoder_bias=bias), model, 1, "mlp-in", rows)
    assert found.dead.tolist() == [5]
    assert found.dead_share == 1 / (2 * D)
    x = torch.cat([part.flatten(0, 1) for part in vectors_at(model, rows, 1, "mlp-in")])
    assert found.fired[:5].tolist() == (x[:, :5] > 0).sum(0).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ablation": "median"}, "ablation must be one of mean, zero"),
        ({"point": "mlp-inn"}, "point must be one of mlp-in, mlp-out"),
        ({"layer": 2}, "layer must be from 0 to 1"),
        ({"dictionary": Dictionary.from_matrix(torch.eye(D + 1))}, "mode 'd' has size 9 in dictionary but 8"),
        (
            {"dictionary": Dictionary(torch.eye(D), torch.eye(D), centered=False, point_out="")},
            "dictionary must be an autoencoder, got the transcoder",
        ),
    ],
)
def test_bad_input(setting, change, message):
    model, rows = setting
    options = {"dictionary": identity(), "model": model, "layer": 0, "point": "mlp-in", "windows": rows} | change
    with pytest.raises(ValueError, match=message):
        evaluate(**options)
