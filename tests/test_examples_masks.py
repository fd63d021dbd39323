"""The known target and the masks, end to end on small settings."""

import pytest
import torch
from safetensors.torch import load_file

from examples import adversarial_masks, ground_truth
from models import load_dataset
from models.casper import similarity_task
from models.tables import read_table
from tensornet_interp import BilinearLayer, lift


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


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(ground_truth, "SETTINGS", {k: ground_truth.SETTINGS[k] for k in ("neither", "both")})
    monkeypatch.setattr(adversarial_masks, "SETTINGS", {"unregularised": {"weight_decay": 0.0, "noise": 0.0}})
    monkeypatch.setattr(adversarial_masks, "DRAWS", 2)
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
def test_masks_beat_random_ones_of_their_norm_and_are_drawn_again(small, tmp_path, capsys, monkeypatch):
    options = ["--epochs", "12", "--seeds", "1", "--out", str(tmp_path / "out"), "--models", str(tmp_path / "models")]
    adversarial_masks.main(options)
    assert "accuracy without a mask: unregularised 0.9" in capsys.readouterr().out
    summary = read_table(tmp_path / "out" / "summary.csv")
    at = {(row["kind"], row["pixels"], row["clipped"], row["strength"]): row for row in summary}
    for kind in ("gaussian", "permuted"):
        mask, random = at["1 a class", "all pixels", 0, 1], at[kind, "all pixels", 0, 1]
        assert mask["accuracy"] < random["accuracy"] - 0.1
        assert mask["misclassified"] > 3 * random["misclassified"]
        assert random["accuracy_low"] < random["accuracy"] < random["accuracy_high"]
    assert ("4 a class", "outer edge", 0, 1) not in at  # 40 vectors on 14 pixels
    kept = load_file(tmp_path / "out" / "masks.safetensors")
    share = (load_dataset("digits").train_x > 0).double().mean(0)
    assert kept["unregularised|outer edge"][:, share >= 0.04].abs().max() == 0
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"masks_all_pixels.png", "effects_outer_edge_unregularised.png", "examples.png"} < names
    (tmp_path / "out" / "examples.png").unlink()
    monkeypatch.setattr(adversarial_masks, "compute", None)
    adversarial_masks.main([*options, "--replot"])
    assert (tmp_path / "out" / "examples.png").exists()


@pytest.mark.parametrize("script", [ground_truth, adversarial_masks])
@pytest.mark.parametrize("seeds", ["0", "-2"])
def test_no_seeds_are_an_error(script, seeds, tmp_path):
    with pytest.raises(ValueError, match=f"--seeds must be at least 1, got {seeds}"):
        script.main(["--seeds", seeds, "--out", str(tmp_path)])


def test_no_images_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="--images must be at least 1, got -5"):
        adversarial_masks.main(["--images", "-5", "--out", str(tmp_path)])


def test_draws_on_one_model_do_not_count_as_seeds():
    """Seeds 0 and 1 have accuracies 0.2 and 0.4, the same in all draws: the interval is that of two numbers."""
    place = {"setting": "a", "pixels": "all", "clipped": 0, "strength": 1.0, "kind": "permuted", "length": 1.0}
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
