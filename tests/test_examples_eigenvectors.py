"""The script about eigenvectors, end to end at a tiny size, and the measures that it is made of."""

import pytest
import torch

from examples import eigenvectors
from models import load_dataset
from models.tables import read_table
from tensornet_interp import decompose
from tensornet_interp.testing import random_layer

OPTIONS = ["--seeds", "2", "--epochs", "3"]
SHAPE = (6, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("eigenvectors")
    eigenvectors.main([*OPTIONS, "--models", str(place / "models"), "--out", str(place / "out")])
    return place


def image(*pixels, shape=SHAPE):
    made = torch.zeros(shape, dtype=torch.float64)
    for pixel in pixels:
        made[pixel] = 1.0
    return made.flatten()


def test_the_place_of_the_energy_is_that_of_its_pixels():
    data = load_dataset("digits")
    places = [image((0, 7), shape=(8, 8)), image((3, 3), (3, 4), shape=(8, 8)) / 2**0.5, image((4, 7), shape=(8, 8))]
    vectors = torch.stack([places[at % 3] for at in range(2 * eigenvectors.LEADING)]).expand(10, -1, -1)
    draw = torch.Generator().manual_seed(0)
    rows = eigenvectors.vector_rows(torch.ones(10, 2 * eigenvectors.LEADING), vectors, data, draw)
    found = [(row["upper"], row["upper_right"]) for row in rows[:3]]
    assert found == [(1.0, 1.0), (pytest.approx(1.0), pytest.approx(0.5)), (0.0, 0.0)]


def test_the_tables_have_a_row_for_every_class_and_seed(folder):
    vectors = read_table(folder / "out" / "vectors.csv")
    assert len(vectors) == 2 * 10 * 2 * eigenvectors.LEADING
    for row in vectors:
        assert 0 < row["area"] <= 1
        assert 0 <= row["upper_right"] <= row["upper"] <= 1
        assert row["across_1"] >= 0
    for row in read_table(folder / "out" / "overcomplete.csv"):
        assert row["relative_error"] < 1e-6 > row["within"]  # float32 models
        assert row["between"] > 0.1
    directions = read_table(folder / "out" / "directions.csv")
    assert len(directions) == 2 * eigenvectors.DIRECTIONS
    assert all(sum(row[f"class {k}"] ** 2 for k in range(10)) == pytest.approx(1, abs=1e-5) for row in directions)
    switches = read_table(folder / "out" / "switches.csv")
    assert len(switches) == 2 * 10 * 4 * len(eigenvectors.STRENGTHS)
    for row in switches:
        assert 0 <= row["changed"] <= 1
        assert ("to" in row) == (row["changed"] > 0)
        assert row.get("to") != row["class"]
    assert {path.stem for path in (folder / "out").glob("*.png")} == {
        *("gallery", "spectra", "areas", "switches", "switched"),
    }


def test_tables_are_printed_and_figures_drawn_again_from_disk(folder, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(eigenvectors, "compute", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(eigenvectors, "figures", lambda tables, kept: drawn.append((tables, kept)) or {})
    eigenvectors.main(["--replot", "--out", str(folder / "out")])
    assert "2 seeds" in capsys.readouterr().out
    ((tables, kept),) = drawn  # drawing takes longer than all else
    assert set(tables) == set(eigenvectors.TABLES)
    assert kept["vectors"].shape == (10, 2 * eigenvectors.LEADING, 64)


def test_the_area_of_equal_pixels_is_nine_tenths_of_them():
    assert float(eigenvectors.area(image(*[(0, k) for k in range(7)], (1, 0), (1, 1), (1, 2)))) == pytest.approx(9 / 42)
    assert float(eigenvectors.area(image((2, 3)))) == pytest.approx(1 / 42)


def test_a_surrogate_has_the_spectrum_of_its_vector_and_another_image():
    draw = torch.Generator().manual_seed(0)
    vector = torch.randn(42, generator=draw, dtype=torch.float64)
    made = eigenvectors.surrogates(vector, SHAPE, 5, draw)
    spectrum = torch.fft.fft2(vector.reshape(SHAPE)).abs()
    torch.testing.assert_close(torch.fft.fft2(made.unflatten(1, SHAPE)).abs(), spectrum.expand(5, *SHAPE))
    assert float(torch.cosine_similarity(made, vector[None]).abs().max()) < 0.9


def test_an_image_moves_and_leaves_zeros():
    vector = image((1, 2), (5, 6))
    assert torch.equal(eigenvectors.moved(vector, SHAPE, 1, -2), image((2, 0)))
    assert torch.equal(eigenvectors.moved(vector, SHAPE, 0, 0), vector)


@pytest.mark.parametrize(
    ("pixel", "step"),
    [
        (lambda y, x: x, (0, 1)),
        (lambda y, x: y + x, (1, 1)),
        (lambda y, x: y, (1, 0)),
        (lambda y, x: y - x, (1, -1)),
    ],
)
def test_the_gradient_of_a_ramp_is_found(pixel, step):
    ramp = torch.tensor([[float(pixel(y, x)) for x in range(7)] for y in range(6)])
    assert eigenvectors.STEPS[eigenvectors.across(ramp.flatten(), SHAPE)] == step


def test_an_edge_answers_less_across_than_along():
    edge = image(*[(y, 2) for y in range(6)]) - image(*[(y, 3) for y in range(6)])
    across, along = eigenvectors.responses(edge, edge[None], SHAPE)
    assert float(across[0]) == pytest.approx(0.25)  # moved by one pixel, 6 of 12 products are -1
    assert float(along[0]) == pytest.approx((10 / 12) ** 2)


def test_the_leading_eigenvectors_are_those_of_the_eigenvalues():
    layer = random_layer(3, 20, 30, seed=0).to(dtype=torch.float64)
    values, vectors = eigenvectors.leading(decompose(layer, "eigen"))
    assert bool((values[:, : eigenvectors.LEADING].diff() <= 0).all())
    assert bool((values[:, eigenvectors.LEADING :].diff() >= 0).all())
    outputs = torch.stack([layer(vectors[k])[:, k] for k in range(3)])  # v^T Q v = eigenvalue
    torch.testing.assert_close(outputs, values)


@pytest.mark.parametrize(("options", "message"), [(["--seeds", "0"], "--seeds"), (["--epochs", "0"], "epochs")])
def test_bad_options_are_named_before_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        eigenvectors.main([*options, "--models", str(tmp_path), "--out", str(tmp_path)])
