"""The example of the metric, end to end on small settings."""

from pathlib import Path

import pytest
import torch

from examples import metric
from examples.parts.metric_nulls import permuted, turned
from models.tables import read_table
from tensornet_interp import Moments


def test_the_controls_keep_what_they_should_keep() -> None:
    moments = Moments.of(torch.randn(50, 5, generator=torch.Generator().manual_seed(1)).double() * torch.arange(1, 6))
    for control in (turned, permuted):
        other = control(moments, 3)
        for of in ("covariance", "second_moment"):
            spectra = [torch.linalg.eigvalsh(getattr(each, of)) for each in (moments, other)]
            torch.testing.assert_close(*spectra, rtol=1e-10, atol=1e-12)
        assert float((other.covariance - moments.covariance).norm()) > 0.1 * float(moments.covariance.norm())
    assert sorted(permuted(moments, 3).mean.tolist()) == sorted(moments.mean.tolist())


@pytest.mark.slow
def test_images_and_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--models", str(tmp_path / "models"), "--out", str(tmp_path)]
    metric.main(["--seeds", "2", "--epochs", "10", *folders])
    rows = read_table(tmp_path / "images.csv")
    assert len(rows) == 2 * len(metric.SETTINGS["digits"]) * len(metric.WAYS)

    def error(way: str, seed: int) -> list[float]:
        return [float(row["output_error"]) for row in rows if row["way"] == way and row["seed"] == seed]

    for seed in (42, 43):
        assert sum(error("exact linear", seed)) < sum(error("metric", seed)) < sum(error("no metric", seed))
        assert sum(error("metric", seed)) < sum(error("permuted", seed)) < sum(error("turned", seed))
    assert len(read_table(tmp_path / "seeds.csv")) == 2 * len(metric.COMPARED)
    assert (tmp_path / "patterns.png").is_file()
    assert "congruence of components between 2 training seeds" in capsys.readouterr().out


@pytest.mark.slow
def test_the_layers_of_a_language_model(tmp_path: Path) -> None:
    text = "<|endoftext|>".join(
        f"once there was a cat number {n} and it had a dog . the dog ran home ." for n in range(400)
    )
    for name in ("train", "held_out"):
        (tmp_path / f"{name}.txt").write_text(text.replace("cat", name), encoding="utf-8")
    files = ["--text", str(tmp_path / "train.txt"), "--held-out", str(tmp_path / "held_out.txt")]
    small = ["--vocabulary", "300", "--d-model", "64", "--layers", "1", "--context", "16", "--steps", "20"]
    metric.main(["--out", str(tmp_path), "--language", *files, *small, "--no-progress"])
    rows = read_table(tmp_path / "language.csv")
    assert [row["layer"] for row in rows] == [0.0] * 4
    assert all(0 < float(row["metric"]) < 1.5 for row in rows)
