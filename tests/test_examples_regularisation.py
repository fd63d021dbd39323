"""The experiment on regularisation: its tables say what they are of, and are drawn again without computing."""

import pytest
import torch
from matplotlib.figure import Figure

from examples import regularisation
from models import ClassifierConfig, build_classifier, load_dataset
from models.tables import read_table
from tensornet_interp import decompose

TINY = ["--epochs", "2", "--width", "12", "--seeds", "2", "--noises", "0", "1", "1"]


@pytest.fixture(scope="module")
def unrendered():
    """Figures are made and named but not rendered, which takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, path, **options: path.write_bytes(b""))
        yield patch


@pytest.fixture(scope="module")
def done(unrendered, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regularisation")
    places = ["--models", str(folder / "models"), "--out", str(folder / "out")]
    regularisation.main([*TINY, *places])
    return folder, places


def test_every_section_has_its_table_of_settings_and_seeds(done):
    rows = {name: read_table(done[0] / "out" / f"{name}.csv") for name in regularisation.SECTIONS}
    assert {name: len(table) for name, table in rows.items()} == {
        "rows": 4 * 2 * 2,  # settings, seeds, bases
        "noise": 4 * 2 * 2,
        "transforms": 5 * 2 * 2,
        "gates": 6 * 2,
    }
    for table in rows.values():
        assert {(row["dataset"], row["width"], row["epochs"]) for row in table} == {("digits", 12, 2)}
        assert {row["seed"] for row in table} == {0, 1}
        for row in table:
            assert row["gap"] == pytest.approx(row["train_accuracy"] - row["test_accuracy"])
    assert {(row["noise"], row["weight_decay"]) for row in rows["rows"]} == {(0, 0), (0, 1), (0.5, 0), (0.5, 1)}
    assert {row["transform"] for row in rows["transforms"]} == {"none", "translation", "rotation", "blur"}
    assert {row["gate"] for row in rows["gates"]} == {"none", "relu", "silu"}
    assert {row.get("basis") for row in rows["noise"]} == {"embedding", "input"}
    assert {row.get("basis") for row in rows["gates"]} == {None}


def test_sections_share_their_models(done):
    """Noise 0 or 0.5 by decay, noise 1 by decay, three transforms, two gates by noise; two seeds each."""
    assert len(list((done[0] / "models").iterdir())) == 2 * (4 + 2 + 3 + 4)
    both = [read_table(done[0] / "out" / f"{name}.csv") for name in ("rows", "noise")]
    first, second = ([row for row in table if row["noise"] == 0] for table in both)
    assert sorted(map(str, first)) == sorted(map(str, second))


def test_the_summary_is_the_mean_over_seeds(done):
    rows, found = (read_table(done[0] / "out" / f"{name}.csv") for name in ("transforms", "transforms_summary"))
    assert len(found) == len(rows) / 2
    picked = [row for row in rows if row["transform"] == "rotation" and row["basis"] == "input"]
    (mean,) = [row for row in found if row["transform"] == "rotation" and row["basis"] == "input"]
    assert (mean["n"], mean["setting"]) == (2, "rotation 15, noise 0, decay 1")
    for name in ("test_accuracy", "effective_rank", "rare_energy"):
        assert mean[name] == pytest.approx(sum(row[name] for row in picked) / 2)
        assert mean[f"{name}_low"] < mean[name] < mean[f"{name}_high"]


def test_figures_are_drawn_again_from_the_tables(done, monkeypatch):
    folder, places = done
    images = sorted(path.name for path in (folder / "out").glob("*.png"))
    assert len(images) == 2 * (3 + 3 + 2) + 1
    for path in (folder / "out").glob("*.png"):
        path.unlink()
    monkeypatch.setattr(regularisation, "trained", None)
    monkeypatch.setattr(regularisation, "dataset_of", None)
    titles = []
    monkeypatch.setattr(regularisation, "compared_vectors", lambda *_, title: titles.append(title) or Figure())
    regularisation.main([*TINY, *places, "--replot", "--example-class", "3"])
    assert len(titles) == 6
    assert all(", class 5, seed 0, " in title for title in titles)  # that of the eigenvectors on disk
    assert sorted(path.name for path in (folder / "out").glob("*.png")) == images


def test_without_tables_nothing_is_drawn_again(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rows\.csv is missing; run without --replot first"):
        regularisation.main(["--replot", "--out", str(tmp_path)])


def test_the_numbers_are_those_of_the_spectra():
    data = load_dataset("digits")
    model = build_classifier(ClassifierConfig(inputs=64, width=9, hidden=7), 0)
    (embedded, pixels), images = regularisation.spectral_rows({"seed": 0}, model, data, 5)
    assert (embedded["basis"], pixels["basis"]) == ("embedding", "input")
    for row, network, x in (
        (embedded, model.network("embedding"), model.embed(data.test_x).detach()),
        (pixels, model.network("input"), data.test_x),
    ):
        result = decompose(network[0], "eigen")
        assert row["effective_rank"] == pytest.approx(float(result.effective_rank().mean()), rel=1e-4)
        activation = result.activation_participation(x)
        assert row["activation_participation"] == pytest.approx(float(activation.mean()), rel=1e-4)
        assert 0 <= row["never_energy"] <= row["rare_energy"] <= 1
    assert embedded["never_pixels"] == pytest.approx(float((data.train_x == 0).all(0).double().mean()))
    # v . (E x) = (E^T v) . x: the images that are drawn act on pixels as the eigenvectors on the embedding
    result = decompose(model.network("embedding")[0], "eigen")
    top = result.eigenvectors[5, :, result.eigenvalues[5].argmax()]
    image = images["embedding|vectors"][0]
    assert torch.allclose((data.test_x @ image).abs(), (model.embed(data.test_x) @ top).abs(), atol=1e-5)
    assert float(image.abs().max()) == float(image.max())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "rows,noises"], "did you mean 'noise'"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--noises", "0.5", "-1"], "--noises must be .*-1"),
        (["--decays", "nan"], "--decays must be .*nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        regularisation.main(options)
