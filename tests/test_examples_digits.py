"""The main job, end to end, and the drawings it makes of an eigenvector."""

import csv
from pathlib import Path

import pytest
import torch

from examples.digits import main, strokes


def test_the_main_job_trains_decomposes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(tmp_path)])
    printed = capsys.readouterr().out
    accuracy = float(printed.split("test accuracy ")[1].split()[0])
    assert accuracy >= 0.95
    figures = {path.stem for path in tmp_path.glob("*.png")}
    assert figures == {
        "spectrum",
        "eigenvectors",
        "leading",
        "truncation",
        "activation",
        "explanation_right",
        "explanation_wrong",
        "output_svd",
    }
    with (tmp_path / "output_svd.csv").open() as file:
        directions = list(csv.DictReader(file))
    singular = [float(row["singular_value"]) for row in directions]
    assert len(directions) == 10
    assert singular == sorted(singular, reverse=True)
    assert sum(float(row["share"]) for row in directions) == pytest.approx(1)
    for row in directions:  # unit vectors over the classes
        assert sum(float(row[str(digit)]) ** 2 for digit in range(10)) == pytest.approx(1, abs=1e-5)
    with (tmp_path / "truncation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["components"]) for row in rows] == [1, 2, 4, 8, 16, 32] * 3
    assert float(rows[5]["accuracy"]) == pytest.approx(accuracy, abs=0.01)
    proven = [float(row["proven"]) for row in rows[:6]]
    assert proven == sorted(proven)
    assert proven[-1] > 0.99


def test_the_strokes_match_fall_short_and_cancel() -> None:
    vector = torch.randn(64, generator=torch.Generator().manual_seed(0)).double()
    products = {name: float(vector @ x) for name, x in strokes(vector, (8, 8)).items()}
    full = abs(products["a stroke that matches"])
    assert 0 < abs(products["a shorter one"]) < full
    assert abs(products["a shifted one"]) < full
    assert abs(products["one that meets both signs"]) < 1e-12 * full
