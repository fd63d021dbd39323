"""The known target and the masks, end to end on small settings."""

import argparse
import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from examples import adversarial_masks, ground_truth
from models import ClassifierConfig, build_classifier, load_dataset
from models.casper import similarity_task
from models.tables import read_table
from tensornet_interp import BilinearLayer, decompose, lift


def test_a_planted_target_is_the_eigenvector_and_the_parts_are_told_apart():
    """close minus far = 3 (v . x)^2 + 2 a . x + 0.5 with v the target of norm 1, written as a lifted layer."""
    task = similarity_task(load_dataset("digits", dtype=torch.float64), 2, "centred")
    v = task.target / task.target.norm()
    a = torch.linspace(-1, 1, 64, dtype=torch.float64)
    down = torch.tensor([[0.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    factors = torch.stack([v, a], 1)
    layer = BilinearLayer(down=down, left=factors, right=torch.stack([v, 0 * a], 1))
    right_bias = torch.tensor([0.0, 2.0], dtype=torch.float64)
    lifted = lift(layer, right_bias=right_bias, bias=torch.tensor([0.0, 0.5], dtype=torch.float64)).drop_constant()
    row, vectors = ground_truth.measure(lifted, task)
    assert row["eigenvalue"] == pytest.approx(3.0)
    assert row["place"] == 1
    for name in ("share_abs", "share_squares", "cosine_raw", "cosine_centred", "cosine_active"):
        assert row[name] == pytest.approx(1.0, abs=1e-9)
    assert row["constant"] == pytest.approx(0.5)
    torch.testing.assert_close(vectors["linear"], 2 * a, atol=1e-12, rtol=0)
    assert row["covariance_interaction"] + row["covariance_linear"] == pytest.approx(1.0)
    x = task.data.test_x
    assert row["deviation_linear"] == pytest.approx(float((2 * x @ a).std()))
    assert row["deviation_interaction"] == pytest.approx(float((3 * (x @ v).square()).std()))
    added = 2 * x @ a + 0.5
    spread = float((3 * (x @ v).square() + added).std())
    assert row["bias_constant"] == pytest.approx(0.5 / spread)
    assert row["bias_linear"] == pytest.approx(float((2 * x @ a).mean()) / spread)
    assert row["bias_mean"] == pytest.approx(float(added.mean()) / spread)
    assert row["bias_negative"] == float((added < 0).double().mean())
    matrix = torch.cat(
        [torch.cat([torch.tensor([0.5]).double(), a])[:, None].T, torch.cat([a[:, None], 3 * torch.outer(v, v)], 1)]
    )
    values, pairs = torch.linalg.eigh(matrix)
    assert row["bias_top"] == pytest.approx(float(pairs[0, -1] * (pairs[1:, -1] @ v).sign()))
    assert row["bias_eigenvalue"] == pytest.approx(float(values[pairs[0].abs().argmax()] / values[-1]))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ground_truth, "SETTINGS", {k: ground_truth.SETTINGS[k] for k in ("neither", "both")})
    settings = {name: adversarial_masks.SETTINGS[name] for name in ("unregularised", "adversarial")}
    monkeypatch.setattr(adversarial_masks, "SETTINGS", settings)
    monkeypatch.setattr(adversarial_masks, "STRENGTHS", (0.5, 1.0))


def test_ground_truth_writes_its_table_and_draws_it_again(small, tmp_path, capsys, monkeypatch):
    options = ["--epochs", "2", "--seeds", "2", "--out", str(tmp_path / "out"), "--models", str(tmp_path / "models")]
    ground_truth.main([*options, "--width", "8"])
    printed = capsys.readouterr().out
    rows = read_table(tmp_path / "out" / "table.csv")
    assert [(row["setting"], row["seed"]) for row in rows] == [(s, i) for i in (0, 1) for s in ("neither", "both")]
    assert all(row["target"] == 2 and row["width"] == 8 for row in rows)
    figures = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert set(figures) == {"spectra.png", "cosines.png", "parts.png"}
    (tmp_path / "out" / "parts.png").unlink()
    monkeypatch.setattr(ground_truth, "compute", None)  # not again
    ground_truth.main([*options, "--replot"])
    assert (tmp_path / "out" / "parts.png").read_bytes() == figures["parts.png"]
    assert capsys.readouterr().out.split("setting")[1] == printed.split("setting")[1]


@pytest.mark.slow
def test_masks_beat_permuted_ones_and_training_against_an_attack_weakens_them(small, tmp_path, capsys, monkeypatch):
    options = ["--epochs", "12", "--seeds", "1", "--out", str(tmp_path / "out"), "--models", str(tmp_path / "models")]
    adversarial_masks.main(options)
    printed = capsys.readouterr().out
    summary = read_table(tmp_path / "out" / "summary.csv")
    at = {tuple(row[name] for name in ("setting", "kind", "pixels", "strength")): row for row in summary}
    mask, random = (at["unregularised", kind, "all pixels", 1] for kind in ("1 a class", "1 a class, permuted"))
    assert mask["accuracy"] < random["accuracy"] - 0.1
    assert mask["misclassified"] > 3 * random["misclassified"]
    assert random["accuracy_low"] < random["accuracy"] < random["accuracy_high"]
    plain, trained = (at[name, "eigenvector", "all pixels", 0.5] for name in ("unregularised", "adversarial"))
    assert trained["accuracy"] > plain["accuracy"] + 0.1
    assert trained["attacked_accuracy"] > plain["attacked_accuracy"] + 0.1
    for row in (plain, trained):
        assert 0.9 < row["model_accuracy"] < 1
        assert f"{row['model_accuracy']:.3f}" in printed
    assert ("unregularised", "4 a class", "outer edge", 1) not in at  # 40 vectors on 14 pixels
    rows = read_table(tmp_path / "out" / "table.csv")
    draws = {(row["kind"], row["draw"]) for row in rows}
    assert {draw for kind, draw in draws if kind in ("4 a class, cut", "4 a class, permuted")} == {0, 1, 2}
    assert {draw for kind, draw in draws if kind in ("1 a class", "eigenvector")} == {0}
    kept = load_file(tmp_path / "out" / "masks.safetensors")
    share = (load_dataset("digits").train_x > 0).double().mean(0)
    assert kept["unregularised|outer edge"][:, share >= 0.04].abs().max() == 0
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"masks_all_pixels.png", "effects_outer_edge_adversarial.png", "examples.png", "eigenvectors.png"} < names
    (tmp_path / "out" / "examples.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(adversarial_masks, "compute", None)
        adversarial_masks.main([*options, "--replot"])
    assert (tmp_path / "out" / "examples.png").exists()
    assert capsys.readouterr().out.split("models without masks")[1] == printed.split("models without masks")[1]


def test_clipped_images_are_measured_on_request():
    """A mask that only darkens a black image changes nothing once the image is clipped."""
    data = load_dataset("digits")
    options = argparse.Namespace(images=50, clip=True)
    network = build_classifier(ClassifierConfig(inputs=64, width=4, hidden=4), 0).network("input")
    whole = (network(data.test_x[:50]).argmax(-1) == data.test_y[:50]).double().mean()
    black = (data.test_x[:50] == 0).all(0).float()  # pixels that none of the images uses
    rows = adversarial_masks.measure(network, [{"darker": -black[None]}], data, options)
    assert black.any()
    assert [row["accuracy"] for row in rows] == pytest.approx([float(whole)] * len(adversarial_masks.STRENGTHS))


@pytest.mark.parametrize("script", [ground_truth, adversarial_masks])
@pytest.mark.parametrize("seeds", ["0", "-2"])
def test_no_seeds_are_an_error(script, seeds, tmp_path):
    with pytest.raises(ValueError, match=f"--seeds must be at least 1, got {seeds}"):
        script.main(["--seeds", seeds, "--out", str(tmp_path)])


def test_masks_and_attacks_have_the_accuracy_of_their_own_images_beside_them():
    data = load_dataset("digits")
    model = build_classifier(ClassifierConfig(inputs=64, width=8, hidden=8), 0)
    result = decompose(model.network("input")[0], "eigen")
    row = adversarial_masks.measure_model(model, result, data, argparse.Namespace(images=50))
    right = model(data.test_x).argmax(1) == data.test_y
    assert row["unmasked_accuracy"] == pytest.approx(float(right[:50].double().mean()))
    assert row["model_accuracy"] == pytest.approx(float(right.double().mean()))
    assert row["attacked_accuracy"] <= row["unmasked_accuracy"]


def test_no_images_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="--images must be at least 1, got -5"):
        adversarial_masks.main(["--images", "-5", "--out", str(tmp_path)])


def test_adversarial_models_are_found_again_with_other_threads(small, tmp_path, monkeypatch):
    """The mean norm of the images is a sum in float32, whose last digits depend on the number of threads."""
    data, asked = load_dataset("digits", dtype=torch.float64), []

    class Enough(Exception):
        pass

    def note(*_, attack=None, **__):
        asked.append(attack)
        raise Enough

    monkeypatch.setattr(adversarial_masks, "SETTINGS", {"adversarial": adversarial_masks.SETTINGS["adversarial"]})
    monkeypatch.setattr(adversarial_masks, "trained", note)
    for factor in (1.0, 1 + 1e-7):
        x = data.train_x * factor  # the relative change that two threads make on MNIST
        monkeypatch.setattr(adversarial_masks, "dataset_of", lambda _, x=x: dataclasses.replace(data, train_x=x))
        with pytest.raises(Enough):
            adversarial_masks.main(["--out", str(tmp_path / "out"), "--models", str(tmp_path / "models")])
    assert asked[0] == asked[1]
    assert asked[0].radius == pytest.approx(0.2 * float(data.train_x.norm(dim=1).mean()), abs=1e-4)


def test_draws_on_one_model_do_not_count_as_seeds():
    """Seeds 0 and 1 have accuracies 0.2 and 0.4, the same in all draws: the interval is that of two numbers."""
    place = {"setting": "a", "pixels": "all", "strength": 1.0, "kind": "permuted", "length": 1.0}
    rows = [
        {**place, "seed": seed, "draw": draw, "target": target, "accuracy": 0.2 + 0.2 * seed, "misclassified": 0.1}
        | {"model_accuracy": 0.9}
        for seed in (0, 1)
        for draw in range(5)
        for target in (0, 1)
    ]
    (row,) = adversarial_masks.average(rows)
    assert row["accuracy"] == pytest.approx(0.3)
    assert row["accuracy_high"] - row["accuracy"] == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t of one degree
    (alone,) = adversarial_masks.average([row | {"accuracy": 0.1 * row["draw"]} for row in rows if row["seed"] == 0])
    assert alone["accuracy_low"] < alone["accuracy"] < alone["accuracy_high"]


def test_settings_that_do_not_exist_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"--settings must be one of .*; did you mean 'noise'"):
        ground_truth.main(["--settings", "decay,nois", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
