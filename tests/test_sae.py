"""Autoencoders find a planted dictionary, keep their promises about weights, and come back from disk."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from models.sae import SAEConfig, TopKAutoencoder, autoencoder_at, train_autoencoder
from models.transformer import TransformerConfig, build_transformer
from models.vectors import windows
from tensornet_interp.features import Dictionary
from tensornet_interp.weights import load_dictionary, save_dictionary

SMALL = SAEConfig(expansion=2, k=2, lr=1e-2, batch_size=16, steps=6, checkpoints=(2, 4), buffer=32, seed=1)


def planted(features, d, k, seed):
    """Directions (feature, d), and endless batches of sums of k of them, coefficients from 1 to 2, about a mean."""
    generator = torch.Generator().manual_seed(seed)
    directions = functional.normalize(torch.randn(features, d, generator=generator), dim=1)

    def batches(count):
        while True:
            chosen = torch.rand(count, features, generator=generator).topk(k, dim=1).indices
            values = 1 + torch.rand(count, k, generator=generator)
            yield torch.zeros(count, features).scatter(1, chosen, values) @ directions + 0.5

    return directions, batches


def noise(count, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(count, d, generator=generator)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_planted_dictionary_is_recovered(seed):
    """More than 90 % of 24 sparse directions in 16 dimensions with a cosine above 0.95; the start has none of them.

    The start is drawn from another seed than the directions, else it would be the answer.
    """
    directions, batches = planted(24, 16, 2, seed)
    config = SAEConfig(expansion=4, k=2, lr=5e-3, batch_size=128, steps=700, buffer=512, seed=seed + 100)
    before = TopKAutoencoder(16, config, mean=torch.zeros(16))
    autoencoder, records = train_autoencoder(batches(128), config, progress=False)
    cosines = (directions @ autoencoder.w_dec.detach()).max(1).values
    assert float((cosines > 0.95).double().mean()) > 0.9
    assert float(((directions @ before.w_dec.detach()).max(1).values > 0.95).double().mean()) == 0
    assert records[-1]["nmse"] < 0.1
    assert records[-1]["active"] <= 2


def test_the_encoder_starts_as_the_transpose_of_a_decoder_with_unit_columns():
    mean = torch.arange(6.0)
    made = TopKAutoencoder(6, SMALL, mean=mean)
    assert made.w_enc.shape == (12, 6)
    assert torch.equal(made.w_enc.T, made.w_dec)
    assert made.w_enc.data_ptr() != made.w_dec.data_ptr()
    torch.testing.assert_close(made.w_dec.norm(dim=0), torch.ones(12))
    assert torch.equal(made.b_dec, mean)
    assert {name for name, _ in made.named_parameters()} == {"w_enc", "w_dec", "b_dec"}


def test_the_bias_starts_at_the_mean_of_the_first_batch():
    batch = next(noise(16)) + 3
    made, _ = train_autoencoder([batch], replace(SMALL, steps=1, checkpoints=(), lr=1e-12), progress=False)
    torch.testing.assert_close(made.b_dec.detach(), batch.mean(0))


def test_the_decoder_stays_normalized_and_the_encoder_leaves_it():
    made, _ = train_autoencoder(noise(16), SMALL, progress=False)
    torch.testing.assert_close(made.w_dec.norm(dim=0), torch.ones(12))
    assert not torch.allclose(made.w_enc.T, made.w_dec)


def test_no_gradient_is_left_along_a_column():
    made = TopKAutoencoder(6, SMALL, mean=torch.zeros(6))
    x = next(noise(16))
    (made(x) - x).square().sum().backward()
    assert float((made.w_dec.grad * made.w_dec).detach().sum(0).abs().max()) > 0.1
    made.remove_radial_gradient()
    assert float((made.w_dec.grad * made.w_dec).detach().sum(0).abs().max()) < 1e-5


def test_the_dictionary_computes_what_the_autoencoder_does():
    made, _ = train_autoencoder(noise(16), SMALL, progress=False)
    x = next(noise(9, seed=4))
    dictionary = made.dictionary(name="n", point="p")
    torch.testing.assert_close(dictionary.encode(x), made.encode(x).detach())
    torch.testing.assert_close(dictionary.decode(dictionary.encode(x)), made(x).detach())
    assert int((dictionary.encode(x) > 0).sum(1).max()) <= 2
    with torch.no_grad():
        made.w_enc.zero_()
    assert float(dictionary.encoder.abs().max()) > 0


def test_checkpoints_are_those_of_shorter_runs_and_the_last_step_is_one():
    kept = {}
    train_autoencoder(noise(16), SMALL, callback=lambda step, a: kept.update({step: a.dictionary()}), progress=False)
    assert list(kept) == [2, 4, 6]
    shorter, _ = train_autoencoder(noise(16), replace(SMALL, steps=4, checkpoints=()), progress=False)
    assert torch.equal(kept[4].encoder, shorter.w_enc)
    assert not torch.equal(kept[4].encoder, kept[6].encoder)


def test_dead_features_are_those_that_did_not_fire_on_the_last_tokens():
    """Three batches of one direction after three of noise, weights all but frozen: counted against `encode`."""
    line = torch.ones(16, 6) + 0.01 * next(noise(16, seed=2))
    batches = [*(batch for batch, _ in zip(noise(16), range(3), strict=False)), line, line, line]
    config = replace(SMALL, lr=1e-12, dead_after=48)
    made, records = train_autoencoder(batches, config, progress=False)
    fired = (made.encode(line) > 0).any(0)
    assert 0 < int(fired.sum()) < 12
    assert records[-1]["dead"] == pytest.approx(1 - float(fired.double().mean()))
    assert records[-1]["dead"] > records[2]["dead"]
    assert [record["tokens"] for record in records] == [16, 32, 48, 64, 80, 96]


def test_a_loss_that_is_not_finite_stops_and_says_where():
    def batches():
        for step, batch in enumerate(noise(16), start=1):
            yield batch * (float("nan") if step == 3 else 1)

    kept = []
    with pytest.raises(FloatingPointError, match="the loss is nan at step 3 of 6"):
        train_autoencoder(batches(), SMALL, callback=lambda step, _: kept.append(step), progress=False)
    assert kept == [2]


def test_batches_that_end_early_are_an_error():
    with pytest.raises(ValueError, match="batches ended after 1 of steps=6"):
        train_autoencoder([next(noise(16))], SMALL, progress=False)


def at_a_point(tmp_path=None, point="mlp-in"):
    model = build_transformer(TransformerConfig(13, 8, 6, 2, 2, 5), seed=0)
    text = torch.randint(0, 13, (200,), generator=torch.Generator().manual_seed(0))
    handed = {}
    made, _ = autoencoder_at(
        model,
        windows(text, 5),
        1,
        point,
        SMALL,
        callback=lambda step, dictionary: handed.update({step: dictionary}),
        progress=False,
    )
    return made, handed


def test_a_trained_dictionary_comes_back_from_the_published_layout(tmp_path):
    made, handed = at_a_point()
    assert list(handed) == [2, 4, 6]
    assert made.name == "1-mlp-in-x2-k2"
    folder = save_dictionary(made, tmp_path / "deep")
    assert folder == tmp_path / "deep" / "1-mlp-in-x2-k2"
    found = load_dictionary(folder)
    for name in ("encoder", "decoder", "decoder_bias"):
        assert torch.equal(getattr(found, name), getattr(made, name))
    assert (found.name, found.point, found.k, found.encoder_bias) == (made.name, "1-mlp-in", 2, None)
    x = next(noise(7, d=8))
    assert torch.equal(found.encode(x), made.encode(x))


def test_a_bias_of_the_encoder_comes_back_too(tmp_path):
    decoder = torch.eye(3).repeat(1, 2)
    bias = torch.arange(6.0)
    made = Dictionary(decoder.T.contiguous(), decoder, encoder_bias=bias, k=2, name="0-resid-mid-x2-k2")
    found = load_dictionary(save_dictionary(made, tmp_path))
    x = torch.tensor([[0.5, -1.0, 2.0]])
    assert torch.equal(found.encoder_bias, bias)
    assert torch.equal(found.encode(x), made.encode(x))


def test_the_same_seed_gives_the_same_autoencoder():
    first, second = at_a_point()[0], at_a_point()[0]
    assert torch.equal(first.encoder, second.encoder)


def test_a_point_that_does_not_exist_lists_those_that_do():
    with pytest.raises(ValueError, match="point must be one of mlp-in, mlp-out, resid-mid, resid-post, resid-pre"):
        at_a_point(point="mlp")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "autoencoder"}, "name must be .*got 'autoencoder'"),
        ({"name": "1-mlp-in-x3-k2"}, "does not fit Dictionary"),
        ({"k": 3}, "does not fit Dictionary"),
        ({"rectify": False}, "TopK, rectified, centered"),
        ({"centered": False}, "TopK, rectified, centered"),
        ({"threshold": torch.ones(12)}, "TopK, rectified, centered"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(change, message, tmp_path):
    decoder = torch.eye(6).repeat(1, 2)
    fields = {"encoder": decoder.T, "decoder": decoder, "k": 2, "name": "1-mlp-in-x2-k2"} | change
    with pytest.raises(ValueError, match=message):
        save_dictionary(Dictionary(**fields), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"expansion": 0}, ValueError, "expansion must be at least 1"),
        ({"k": 2.0}, TypeError, "k must be a whole number"),
        ({"lr": 0.0}, ValueError, "lr must be above 0"),
        ({"steps": 5, "checkpoints": (6,)}, ValueError, "checkpoints must be from 1 to 5 .*got 6"),
        ({"checkpoints": [1]}, TypeError, "checkpoints must be a tuple"),
        ({"batch_size": 64, "buffer": 100}, ValueError, "buffer must be at least 128"),
    ],
)
def test_bad_options_are_errors(options, kind, message):
    with pytest.raises(kind, match=message):
        SAEConfig(**options)


def test_more_active_features_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"k must be from 1 to 6 .*got 7"):
        TopKAutoencoder(3, SAEConfig(expansion=2, k=7), mean=torch.zeros(3))
