"""The truncation experiment, end to end at a tiny size: its tables hold what they say and are drawn again from disk."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

from examples import truncation
from examples.parts import truncation_report
from models.tables import read_table, write_table
from tensornet_interp import decompose
from tensornet_interp.testing import random_layer

OPTIONS = ["--sizes", "6", "--seeds", "2", "--epochs", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("truncation")
    truncation.main([*OPTIONS, "--models", str(place / "models"), "--out", str(place / "out")])
    return place


def test_every_curve_ends_at_the_model_and_every_proof_at_all_images(folder):
    curves = read_table(folder / "out" / "curves.csv")
    assert {row["seed"] for row in curves} == {0, 1}
    assert {row["basis"] for row in curves} == {"pixel", "embedding"}
    for (_, basis, ranking), rows in truncation_report.grouped(curves, "seed", "basis", "ranking").items():
        last = max(rows, key=lambda row: row["components"])
        assert last["components"] == (12 if basis == "pixel" else 6)
        if "labels" not in ranking:
            assert last["accuracy"] == pytest.approx(last["full_accuracy"], abs=1 / 360)  # one image by rounding
            assert last["kl"] < 1e-6
    assert {row["ranking"] for row in curves if row["basis"] == "pixel"} == {
        *("magnitude", "activation", "ablation"),
        *("magnitude, refit to outputs", "magnitude, refit to labels"),
    }
    for rows in truncation_report.grouped(
        read_table(folder / "out" / "certificates.csv"), "seed", "basis", "eigenpairs of"
    ).values():
        proven = [row["proven"] for row in rows]
        assert proven == sorted(proven)
        assert proven[-1] > 0.99
    shares = [row for row in read_table(folder / "out" / "shares.csv") if row["components"] == 12]
    assert {row["decision"] for row in shares} == {"right", "wrong"}
    assert all(row["share of margin"] == pytest.approx(1, abs=1e-5) for row in shares)
    assert all(row["share of logit"] == pytest.approx(1, abs=1e-5) for row in shares)


def test_tables_without_one_of_the_settings_are_left_out(folder, tmp_path):
    """As those of versions in which the size of a batch was not an option."""
    common = {"dataset": "digits", "batch_size": 128}
    known = {name: read_table(folder / "out" / f"{name}.csv")[:2] for name in truncation.TABLES}
    for name, rows in known.items():
        for place, kept in (("new", list(rows[0])), ("old", [key for key in rows[0] if key != "batch_size"])):
            (tmp_path / "models" / place).mkdir(parents=True, exist_ok=True)
            table = tmp_path / "models" / place / f"{name}.csv"
            write_table(table, [{key: row[key] for key in kept} for row in rows])
    truncation.gather(tmp_path, common)
    assert {name: read_table(tmp_path / f"{name}.csv") for name in truncation.TABLES} == known


def test_models_that_were_measured_are_not_measured_again_and_figures_are_drawn_from_the_tables(
    folder, monkeypatch, capsys
):
    def fail(*_):
        raise RuntimeError("measured again")

    monkeypatch.setattr(truncation, "measure", fail)
    figures = {path.name for path in (folder / "out").glob("*.png")}
    assert {f"{name}.png" for name in ("by_ranking", "by_size", "by_basis", "certificates_pixel", "shares")} < figures
    with monkeypatch.context() as patch:  # drawing takes longer than all else
        patch.setattr(truncation, "figures", lambda *_: {})
        patch.setattr(truncation, "explanations", lambda *_: {})
        truncation.main([*OPTIONS, "--models", str(folder / "models"), "--out", str(folder / "out")])
    for path in (folder / "out").glob("*.png"):
        path.unlink()
    monkeypatch.setattr(truncation, "dataset_of", fail)
    capsys.readouterr()
    truncation.main([*OPTIONS, "--out", str(folder / "out"), "--replot"])
    assert {path.name for path in (folder / "out").glob("*.png")} == figures
    assert "2 seeds" in capsys.readouterr().out


def test_curves_by_magnitude_alone_are_those_of_the_whole_run_and_a_batch_size_has_models_of_its_own(folder, tmp_path):
    alone = [*OPTIONS, "--magnitude-only", "--models", str(folder / "models"), "--out", str(tmp_path)]
    truncation.main(alone)
    whole = [row for row in read_table(folder / "out" / "curves.csv") if row["ranking"] == "magnitude"]
    assert read_table(tmp_path / "curves.csv") == whole
    assert not read_table(tmp_path / "certificates.csv")
    assert {path.name for path in tmp_path.glob("*.png")} > {"by_size.png", "by_ranking.png", "by_basis.png"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truncation, "figures", lambda *_: {})
        patch.setattr(truncation, "explanations", lambda *_: {})
        truncation.main([*alone, "--batch-size", "64", "--epochs", "1"])
    assert {row["batch_size"] for row in read_table(tmp_path / "curves.csv")} == {64}


def test_other_images_of_the_same_name_are_measured_anew(folder, tmp_path, monkeypatch):
    known = read_table(folder / "out" / "curves.csv")
    real = truncation.dataset_of

    def fewer(options):
        data = real(options)
        return replace(data, train_x=data.train_x[:-1], train_y=data.train_y[:-1])

    monkeypatch.setattr(truncation, "dataset_of", fewer)
    shutil.copytree(folder / "out", tmp_path / "out")
    truncation.main(
        [*OPTIONS, "--magnitude-only", "--models", str(tmp_path / "models"), "--out", str(tmp_path / "out")]
    )
    found = read_table(tmp_path / "out" / "curves.csv")
    assert {row["data"] for row in found}.isdisjoint({row["data"] for row in known})
    assert len(list((tmp_path / "out" / "models").iterdir())) == 4


def test_models_of_other_settings_in_the_same_folder_are_left_out(tmp_path):
    common = {"dataset": "digits", "epochs": 4, "batch_size": 128, "noise": 0.5, "weight_decay": 1.0}
    for at, changes in enumerate([{}, {"epochs": 5}, {"dataset": "mnist"}, {"seed": 1}, {"batch_size": 64}]):
        (tmp_path / "models" / str(at)).mkdir(parents=True)
        for name in truncation.TABLES:
            write_table(tmp_path / "models" / str(at) / f"{name}.csv", [{"size": 6, "seed": 0} | common | changes])
    truncation.gather(tmp_path, common)
    for name in truncation.TABLES:
        rows = read_table(tmp_path / f"{name}.csv")
        assert [(row["dataset"], row["epochs"], row["seed"]) for row in rows] == [("digits", 4, 0), ("digits", 4, 1)]


def test_shares_of_the_output_are_those_of_the_sums():
    layer = random_layer(3, 5, 4, seed=0)
    result = decompose(layer, "eigen")
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)).double()
    outputs = layer(x)
    labels = torch.where(torch.arange(40) < 25, outputs.argmax(-1), outputs.argmin(-1))
    rows = {(row["decision"], row["components"]): row for row in truncation.logit_shares(result, x, labels)}
    cut = result.truncate(2)(x)
    first, second = outputs[25:].topk(2).indices.T
    at = torch.arange(15)
    row = rows["wrong", 2]
    assert row["images"] == 15
    assert row["share of logit"] == pytest.approx(float(cut[25:][at, first].sum() / outputs[25:].max(-1).values.sum()))
    margin = (cut[25:][at, first] - cut[25:][at, second]).sum() / outputs[25:].topk(2).values.diff(dim=1).sum()
    assert row["share of margin"] == pytest.approx(-float(margin))


def test_the_interval_is_that_of_student():
    mean, half = truncation_report.interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)  # t(0.975, 2) = 4.302653, standard deviation 1
    assert math.isnan(truncation_report.interval([1.0])[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "0"], "--sizes"),
        (["--sizes", "8;9"], "--sizes must be whole numbers separated by commas"),
        (["--seeds", "0"], "--seeds"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named_before_work(options, message):
    with pytest.raises(ValueError, match=message):
        truncation.main(options)


def test_replot_without_tables_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run without --replot first"):
        truncation.main(["--replot", "--out", str(tmp_path)])
