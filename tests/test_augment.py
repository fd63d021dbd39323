"""Random changes of training images: what is drawn, from which stream, and what it does to known images."""

import sys

import numpy as np
import pytest
import torch
from bad_input import cases, check

from models import ClassifierConfig, TrainingConfig, build_classifier, load_dataset, train
from models.augment import (
    MAKERS,
    augmentation,
    blur,
    dropout,
    hidden_noise,
    perlin,
    perturbation,
    rotation,
    salt_and_pepper,
    translation,
)

SHAPE = (7, 9)
STRENGTHS = {"translation": 2, "rotation": 40.0, "blur": 1.5, "salt_and_pepper": 0.2, "perlin": 0.5}


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=50, seed=1, dtype=torch.float32):
    return torch.rand(count, 63, generator=stream(seed), dtype=dtype)


def spots(count, *places):
    """Images of single bright pixels."""
    x = torch.zeros(count, *SHAPE)
    for row, column in places:
        x[:, row, column] = 1.0
    return x.flatten(1)


@pytest.mark.parametrize("name", MAKERS)
def test_no_strength_no_change(name):
    assert torch.equal(augmentation(name, SHAPE, 0)(images(), stream()), images())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_the_generator_decides_and_nothing_else_moves(name, dtype):
    change, x = augmentation(name, SHAPE, STRENGTHS[name]), images(dtype=dtype)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = change(x, stream()), change(x, stream()), change(x, stream(1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(x, images(dtype=dtype))
    assert (first.dtype, first.shape) == (x.dtype, x.shape)
    assert bool((first >= 0).all() & (first <= 1).all())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("name", MAKERS)
def test_every_image_is_changed_by_its_own_amount(name):
    changed = augmentation(name, SHAPE, STRENGTHS[name])(images(1).expand(60, -1), stream())
    assert len({tuple(row) for row in changed.tolist()}) >= 15  # of 25 shifts
    same = (changed - images(1)).abs().amax(1) < 1e-6
    assert int(same.sum()) <= 15  # no shift, or a kernel of no width, by chance


def test_a_translated_image_is_the_image_translated():
    """Every shift of up to 2 whole pixels occurs and no other; what leaves is lost, zeros enter."""
    x = images(1)
    padded = torch.nn.functional.pad(x.reshape(SHAPE), (2, 2, 2, 2))
    expected = [padded[2 - dy : 9 - dy, 2 - dx : 11 - dx] for dy in range(-2, 3) for dx in range(-2, 3)]
    changed = translation(SHAPE, 2)(x.expand(400, -1), stream()).reshape(-1, *SHAPE)
    distance = torch.stack([(changed - one).abs().amax((1, 2)) for one in expected])  # (25, 400)
    assert float(distance.amin(0).max()) < 1e-6
    assert set(distance.argmin(0).tolist()) == set(range(25))


def test_a_rotation_keeps_the_centre_and_turns_the_rest():
    centre = rotation(SHAPE, 180.0)(spots(300, (3, 4)), stream()).reshape(-1, *SHAPE)
    assert torch.allclose(centre[:, 3, 4], torch.ones(300), atol=1e-5)
    turned = rotation(SHAPE, 180.0)(spots(300, (3, 6)), stream()).reshape(-1, *SHAPE)
    rows, columns = torch.meshgrid(torch.arange(7.0) - 3, torch.arange(9.0) - 4, indexing="ij")
    mass = turned.sum((1, 2))
    y, x = (turned * rows).sum((1, 2)) / mass, (turned * columns).sum((1, 2)) / mass
    assert float((torch.hypot(x, y) - 2).abs().max()) < 0.2  # bilinear: not exactly two pixels from the centre
    angles = torch.atan2(y, x).rad2deg()
    assert angles.min() < -150
    assert angles.max() > 150
    little = rotation(SHAPE, 20.0)(spots(300, (3, 6)), stream()).reshape(-1, *SHAPE)
    y, x = (little * rows).sum((1, 2)), (little * columns).sum((1, 2))  # an angle is free of the mass
    assert 15 < float(torch.atan2(y, x).rad2deg().abs().max()) < 24


def test_a_blur_keeps_the_sum_and_spreads_to_its_deviation():
    blurred = blur(SHAPE, 0.8)(spots(500, (3, 4)), stream()).reshape(-1, *SHAPE)
    assert torch.allclose(blurred.sum((1, 2)), torch.ones(500), atol=1e-5)
    assert torch.allclose(blurred, blurred.flip(1), atol=1e-6)
    variance = (blurred.sum(1) * (torch.arange(9.0) - 4) ** 2).sum(1)
    assert float(variance.min()) < 0.01  # a deviation near 0
    assert 0.7 < float(variance.max().sqrt()) < 0.85
    assert float(blur(SHAPE, 0.8)(torch.ones(1, 63), stream())[0, 0]) < 1  # zeros beyond the border


def test_salt_and_pepper_replaces_its_share_of_the_pixels():
    """252,000 pixels: a share p has a standard error of sqrt(p (1 - p) / 252,000), below 0.001; 5 of them."""
    changed = salt_and_pepper(SHAPE, 0.3)(torch.full((4000, 63), 0.5), stream())
    assert set(changed.unique().tolist()) == {0.0, 0.5, 1.0}
    for value in (0.0, 1.0):
        assert float((changed == value).double().mean()) == pytest.approx(0.15, abs=0.005)


def test_perlin_noise_has_range_mean_and_zeros_of_its_grid():
    """Between two of the corners of a cell the noise is a product of four slopes: smooth, and within -1 and 1."""
    noise = 2 * (perlin((12, 8), 0.5)(torch.full((2000, 96), 0.5), stream()) - 0.5)
    assert 0.6 < float(noise.abs().max()) <= 1
    # the mean over 2,000 independent images; a value has a standard deviation below 0.5, and 5 errors are 0.056
    assert float(noise.mean(0).abs().max()) < 0.056
    noise = noise.reshape(-1, 12, 8)
    near = [(noise * noise.roll(-step, 2))[:, :, :-step].mean() for step in (1, 4)]
    assert float(near[0]) > 0.5 * float(noise.square().mean())  # neighbours are alike
    assert float(near[1].abs()) < 0.2 * float(near[0])  # cells of 4 pixels share two points of the grid at most


def test_hidden_noise_is_in_proportion_to_the_vectors():
    vectors = 3 * torch.randn(2000, 50, generator=stream(1), dtype=torch.float64)
    added = hidden_noise(0.5)(vectors, stream()) - vectors
    # 100,000 numbers: the standard deviation has a relative error of 1 / sqrt(200,000) = 0.0022; 5 of them
    assert float(added.std()) == pytest.approx(0.5 * float(vectors.square().mean().sqrt()), rel=0.012)
    assert hidden_noise(0.0)(vectors, stream()) is vectors


def test_dropout_keeps_the_mean():
    """100,000 entries: a share of 0.7 has a standard error of 0.0015; 5 of them."""
    changed = dropout(0.7)(torch.ones(2000, 50), stream())
    torch.testing.assert_close(changed.unique(), torch.tensor([0.0, 1 / 0.3]))
    assert float((changed == 0).double().mean()) == pytest.approx(0.7, abs=0.0075)
    assert dropout(0.0)(changed, stream()) is changed


def test_a_text_names_changes_in_their_order():
    made = perturbation("blur 1 + dropout 0.50+translation 2", SHAPE)
    assert made.name == "blur 1 + dropout 0.5 + translation 2"
    generator, expected = stream(), images()
    for one in (blur(SHAPE, 1.0), translation(SHAPE, 2)):
        expected = one(expected, generator)
    assert torch.equal(made.images(images(), stream()), expected)
    assert torch.equal(made.hidden(images(), stream()), dropout(0.5)(images(), stream()))
    for strength in (0.1234567, 0.1234568, 1e-9, 45, 1_000_000):
        name = perturbation(f"blur {strength}", SHAPE).name
        assert float(name.split()[1]) == strength  # a name stands for one strength: models are kept by it
    for nothing in ("", "none"):
        assert perturbation(nothing, SHAPE) == ("", None, None)


def test_training_takes_it():
    data = load_dataset("digits")
    models = [build_classifier(ClassifierConfig(inputs=64, width=4, hidden=3), 0) for _ in range(3)]
    config = TrainingConfig(epochs=1, batch_size=512, noise=0.0)
    for model, strength in zip(models, (1.0, 1.0, 0.0), strict=True):
        train(model, data, config, progress=False, transform=augmentation("blur", data.shape, strength))
    first, again, without = (model.head.weight for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, without)


BAD = [
    ("name", lambda: augmentation("rotate", SHAPE, 1.0), ValueError, "name must be one of .*did you mean 'rotation'"),
    ("half a pixel", lambda: translation(SHAPE, 0.5), TypeError, "pixels must be a whole number, got 0.5"),
    (
        "half a pixel by name",
        lambda: augmentation("translation", SHAPE, 0.5),
        ValueError,
        "whole number of pixels, got 0.5",
    ),
    ("negative", lambda: translation(SHAPE, -1), ValueError, "pixels must be at least 0, got -1"),
    ("degrees", lambda: rotation(SHAPE, 200.0), ValueError, "degrees must be between 0 and 180, got 200"),
    ("sigma", lambda: blur(SHAPE, -0.1), ValueError, "sigma must be at least 0, got -0.1"),
    ("share", lambda: salt_and_pepper(SHAPE, 1.5), ValueError, "share must be in .0, 1., got 1.5"),
    ("all dropped", lambda: dropout(1.0), ValueError, "share must be in .0, 1., got 1.0"),
    ("amplitude", lambda: perlin(SHAPE, -1.0), ValueError, "amplitude must be at least 0, got -1"),
    ("hidden noise", lambda: hidden_noise(-1.0), ValueError, "strength must be at least 0, got -1"),
    ("no strength", lambda: perturbation("blur", SHAPE), ValueError, "a name and a number, as .blur 1.; got .blur."),
    ("no number", lambda: perturbation("blur x", SHAPE), ValueError, "the strength of blur must be a number, got .x."),
    ("no change", lambda: perturbation("dropuot 1", SHAPE), ValueError, "did you mean .dropout."),
    ("shape", lambda: blur((0, 4), 1.0), ValueError, "height must be at least 1, got 0"),
    (
        "size",
        lambda: blur((7, 8), 1.0)(images(), stream()),
        ValueError,
        "size 56 in shape but 63 in images",
    ),
    ("one image", lambda: blur(SHAPE, 1.0)(images()[0], stream()), ValueError, "images must have 2 dimensions"),
]


@pytest.mark.parametrize(("call", "kind", "message"), cases(BAD))
def test_bad_input(call, kind, message):
    check(call, kind, message)


def test_without_kornia_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r"kornia is needed to augment images: pip install kornia, or .*\[examples\]"):
        rotation(SHAPE, 10.0)
    translation(SHAPE, 0)  # nothing to do, nothing needed
