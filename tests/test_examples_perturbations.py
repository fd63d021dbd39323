"""The script about random changes in training, end to end at a tiny size, and its rules on known images."""

import pytest
import torch
from matplotlib.figure import Figure

from examples import perturbations
from examples.parts.image_vectors import roughness, shifted_cosines
from models.tables import read_table

CHANGES = ["translation 1", "blur 0.5", "translation 1 + blur 0.5", "dropout 0.5", "weight_decay 1", "dropout 0.50"]
TINY = ["--epochs", "1", "--width", "8", "--seeds", "2", "--images", "300", "--batch-size", "50", "--changes", *CHANGES]
SHAPE = (7, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("perturbations")
    with pytest.MonkeyPatch.context() as patch:  # figures are made but not rendered, which takes longer
        patch.setattr(Figure, "savefig", lambda figure, path, **options: path.write_bytes(b""))
        perturbations.main([*TINY, "--models", str(place / "models"), "--out", str(place / "out")])
    return place


def test_every_change_is_tried_with_and_without_noise(folder):
    rows = read_table(folder / "out" / "perturbations.csv")
    assert len(rows) == 6 * 2 * 2 * 2  # changes, each once, noises, seeds, bases
    assert {row["change"] for row in rows} == {"none", *CHANGES[:5]}
    assert {(row["noise"], row["images"]) for row in rows} == {(0, 300), (0.4, 300)}
    assert {row["weight_decay"] for row in rows if row["change"] == "weight_decay 1"} == {1}
    assert len(list((folder / "models").iterdir())) == 6 * 2 * 2 + 2  # seed 1 is compared with a third model
    for row in rows:
        assert 0 <= row["shifted_pairs"] <= 1
        assert 0 <= row["same_vectors"] <= 1
        assert 0 <= row["still_rare_energy"] <= 1


def test_no_two_models_without_changes_are_compared_twice(folder):
    rows = read_table(folder / "out" / "perturbations.csv")
    usual = [row["same_vectors"] for row in rows if row["change"] == "none"]
    assert len(set(usual)) == len(usual) == 2 * 2 * 2  # noises, seeds, bases
    assert max(usual) < 0.999  # nor is a model compared with itself


def test_full_takes_all_images_and_more_epochs(monkeypatch):
    asked = []
    monkeypatch.setattr(perturbations, "compute", lambda options, out: asked.append(options))
    monkeypatch.setattr(perturbations, "read_table", lambda path: pytest.fail("computed"))
    for more in ([], ["--full"], ["--full", "--images", "20"]):
        with pytest.raises(pytest.fail.Exception):
            perturbations.main(["--dataset", "mnist", *more])
    assert [options.images for options in asked] == [10_000, None, 20]
    assert [options.batch_size for options in asked] == [256, None, None]


def test_sums_are_of_effects_without_noise_and_of_noise(folder, capsys, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: None)
    monkeypatch.setattr(perturbations, "fitted", None)
    perturbations.main(["--replot", "--out", str(folder / "out")])
    printed = capsys.readouterr().out
    rows = [row for row in read_table(folder / "out" / "perturbations.csv") if row["basis"] == "embedding"]

    def mean(change, noise):
        found = [row["effective_rank"] for row in rows if (row["change"], row["noise"]) == (change, noise)]
        return sum(found) / len(found)

    base = mean("none", 0)
    together = mean("translation 1 + blur 0.5", 0.4) - base
    added = mean("translation 1", 0) + mean("blur 0.5", 0) + mean("none", 0.4) - 3 * base
    (line,) = [line for line in printed.splitlines() if line.startswith("  translation 1 + blur 0.5, noise 0.4: ")]
    assert f"eff. rank {added:+.3f}; {together:+.3f}; {together - added:+.4f}" in line
    # one combination without noise; with noise, five changes
    assert "slope of all together over the sum" in printed
    assert "over 6 combinations" in printed


def test_every_kind_of_change_has_its_figure(folder):
    names = {path.stem for path in (folder / "out").glob("*.png")}
    kinds = ("translation", "blur", "others", "combined")
    assert names == {"numbers_embedding", "numbers_input", *(f"{kind}_eigenvectors" for kind in kinds)}


def spot(row, column):
    """A bright pixel beside a dark one."""
    image = torch.zeros(SHAPE)
    image[row, column], image[row, column + 1] = 2.0, -1.0
    return image.flatten()


def test_a_pattern_is_found_again_at_another_place():
    """Expected cosines by hand: a pattern on itself 1, moved by one pixel 2/5."""
    images = torch.stack([spot(1, 1), -spot(3, 2), spot(1, 2), spot(6, 7)])
    in_place, shifted = shifted_cosines(images, SHAPE, 2)
    expected = [[1, 0, 0.4, 0], [0, 1, 0, 0], [0.4, 0, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(in_place, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)
    assert shifted[0, 1] == pytest.approx(1)  # by (2, 1), and the sign does not count
    assert shifted[0, 2] == pytest.approx(1)
    assert shifted[0, 0] == pytest.approx(0.4)  # with itself, but not in place
    assert float(shifted[0, 3]) < 1e-12  # farther than 2 pixels
    assert torch.allclose(shifted, shifted.T)


def test_what_leaves_the_image_does_not_come_in_at_the_other_side():
    edge = torch.zeros(SHAPE)
    edge[0, 0], edge[6, 0] = 1.0, 0.0
    other = torch.zeros(SHAPE)
    other[6, 0] = 1.0
    _, shifted = shifted_cosines(torch.stack([edge.flatten(), other.flatten()]), SHAPE, 2)
    assert float(shifted.max()) < 1e-12


def test_roughness_of_known_images():
    rows, columns = torch.meshgrid(torch.arange(7), torch.arange(9), indexing="ij")
    board = ((rows + columns) % 2 * 2.0 - 1).flatten()  # neighbours differ by 2: 4 / (2 * 1)
    assert float(roughness(board, SHAPE)) == pytest.approx(2)
    assert float(roughness(torch.ones(63), SHAPE)) == 0
    noise = torch.randn(4000, 63, generator=torch.Generator().manual_seed(0))
    # one image of 54 + 56 differences has a relative spread near sqrt(3 / 110); 5 spreads of the mean of 4,000
    assert float(roughness(noise, SHAPE).mean()) == pytest.approx(1, abs=0.015)


def test_the_parts_of_a_setting():
    assert perturbations.parts("none", 0.0) == []
    assert perturbations.parts("blur 1 + dropout 0.5", 0.4) == [("blur 1", 0.0), ("dropout 0.5", 0.0), ("none", 0.4)]
    assert perturbations.setting_of("blur 1 + weight_decay 0.5", (8, 8)) == (0.5, "blur 1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--changes", "rotate 3"], "did you mean 'rotation'"),
        (["--changes", "blur"], "a name and a number, as 'blur 1'; got 'blur'"),
        (["--changes", "weight_decay x"], "the strength of weight_decay in --changes must be a number"),
        (["--noises", "-1"], "--noises must be .*-1"),
        (["--images", "2000"], "--images must be .*2000"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
    ],
)
def test_bad_options(options, message, tmp_path, monkeypatch):
    monkeypatch.setattr(perturbations, "fitted", None)
    with pytest.raises(ValueError, match=message):
        perturbations.main([*options, "--models", str(tmp_path), "--out", str(tmp_path)])
