"""The experiment on regularisation: its tables say what they are of, and are drawn again without computing."""

import pytest
import torch
from matplotlib.figure import Figure

from examples import regularisation
from examples.parts.regularised import drawn, spectra, spectral_fields
from models import ClassifierConfig, build_classifier, load_dataset
from models.tables import read_table
from tensornet_interp import decompose

TINY = ["--epochs", "2", "--width", "12", "--seeds", "2", "--noises", "0", "0.5", "0.5", "1"]


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
        "grid": 6 * 2 * 2,  # settings, seeds, bases
        "gates": 6 * 2,
    }
    for table in rows.values():
        assert {(row["dataset"], row["width"], row["epochs"]) for row in table} == {("digits", 12, 2)}
        assert {row["seed"] for row in table} == {0, 1}
        for row in table:
            assert row["gap"] == pytest.approx(row["train_accuracy"] - row["test_accuracy"])
    cells = {(row["noise"], row["weight_decay"]) for row in rows["grid"]}
    assert cells == {(noise, decay) for noise in (0, 0.5, 1) for decay in (0, 1)}
    assert {row["gate"] for row in rows["gates"]} == {"none", "relu", "silu"}
    assert {row.get("basis") for row in rows["grid"]} == {"embedding", "input"}
    assert {row.get("basis") for row in rows["gates"]} == {None}


def test_sections_share_their_models(done):
    """Three noises by decay, and two gates by noise; two seeds each."""
    assert len(list((done[0] / "models").iterdir())) == 2 * (6 + 4)


def test_the_summary_is_the_mean_over_seeds(done):
    rows, found = (read_table(done[0] / "out" / f"{name}.csv") for name in ("grid", "grid_summary"))
    assert len(found) == len(rows) / 2

    def picked(table):
        return [row for row in table if (row["noise"], row["weight_decay"], row["basis"]) == (0.5, 1, "input")]

    (mean,) = picked(found)
    assert (mean["n"], mean["setting"]) == (2, "noise 0.5, decay 1")
    for name in ("test_accuracy", "effective_rank", "rare_energy", "image_share"):
        assert mean[name] == pytest.approx(sum(row[name] for row in picked(rows)) / 2)
        assert mean[f"{name}_low"] < mean[name] < mean[f"{name}_high"]


def test_figures_are_drawn_again_from_the_tables(done, monkeypatch, capsys):
    folder, places = done
    images = sorted(path.name for path in (folder / "out").glob("*.png"))
    assert len(images) == 2 * 3 + 1
    for path in (folder / "out").glob("*.png"):
        path.unlink()
    monkeypatch.setattr(regularisation, "fitted", None)
    monkeypatch.setattr(regularisation, "dataset_of", None)
    titles = []
    monkeypatch.setattr(regularisation, "draw_eigenvectors", lambda *_, title: titles.append(title) or Figure())
    regularisation.main([*TINY, *places, "--replot", "--example-class", "3"])
    assert len(titles) == 2
    assert all(", class 5, seed 0, " in title for title in titles)  # that of the eigenvectors on disk
    assert sorted(path.name for path in (folder / "out").glob("*.png")) == images
    rows = [row for row in read_table(folder / "out" / "grid.csv") if row["basis"] == "input"]
    ends = {
        (noise, seed): row["effective_rank"]
        for row in rows
        if row["weight_decay"] == 1
        for noise, seed in [(row["noise"], row["seed"])]
    }
    change = sum(ends[1, seed] - ends[0, seed] for seed in (0, 1)) / 2
    (line,) = [
        line for line in capsys.readouterr().out.splitlines() if "input, noise 0 to 1 at weight decay 1:" in line
    ]
    assert f"eff. rank {change:+.4f}" in line or f"eff. rank {change:+.2f}" in line


def test_without_tables_nothing_is_drawn_again(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"grid\.csv is missing; run without --replot first"):
        regularisation.main(["--replot", "--out", str(tmp_path)])


def test_the_numbers_are_those_of_the_spectra():
    data = load_dataset("digits")
    model = build_classifier(ClassifierConfig(inputs=64, width=9, hidden=7), 0)
    embedded, pixels = spectra(model)
    assert (embedded.basis, pixels.basis) == ("embedding", "input")
    for spectrum, network, x in (
        (embedded, model.network("embedding"), model.embed(data.test_x).detach()),
        (pixels, model.network("input"), data.test_x),
    ):
        result = decompose(network[0], "eigen")
        row = spectral_fields(spectrum, data.train_x) | regularisation.sparsity(spectrum, model, data.test_x)
        assert row["effective_rank"] == pytest.approx(float(result.effective_rank().mean()), rel=1e-4)
        activation = result.activation_participation(x)
        assert row["activation_participation"] == pytest.approx(float(activation.mean()), rel=1e-4)
        assert 0 <= row["never_energy"] <= row["rare_energy"] <= 1
        assert row["never_pixels"] == pytest.approx(float((data.train_x == 0).all(0).double().mean()))
    # v . (E x) = (E^T v) . x: the images that are drawn act on pixels as the eigenvectors on the embedding
    result = decompose(model.network("embedding")[0], "eigen")
    top = result.eigenvectors[5, :, result.eigenvalues[5].argmax()]
    shown, values = drawn(embedded, 5)
    image = shown[0]
    assert float(values[0]) == pytest.approx(float(result.eigenvalues[5].max()))
    assert torch.allclose((data.test_x @ image).abs(), (model.embed(data.test_x) @ top).abs(), atol=1e-5)
    assert float(image.abs().max()) == float(image.max())


def test_gated_models_have_no_spectra():
    assert list(spectra(build_classifier(ClassifierConfig(inputs=64, width=9, hidden=7, gate="relu"), 0))) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "grid,gate"], "did you mean 'gates'"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--noises", "0.5", "-1"], "--noises must be .*-1"),
        (["--decays", "nan"], "--decays must be .*nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        regularisation.main(options)
