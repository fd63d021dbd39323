"""The examples of decompositions, end to end on small settings."""

import csv
from pathlib import Path

import pytest
import torch

from examples import custom_decomposition, decompose_mnist
from tensornet_interp import decompose
from tensornet_interp.decompositions import Factors
from tensornet_interp.testing import check_decomposition, random_layer

SMALL = {
    "training": {"lr": 5e-3, "batch_size": 256},
    "hidden": 12,
    "ranks": (2, 4),
    "blocks": ((5, 1), (10, 2)),
    "inputs": (2, 4),
    "rank": 4,
}
PRIORS = ("plain", "sparse", "smooth", "non_negative")
FIGURES = {
    *("pareto", "output_svd", "prior_sparse", "prior_smooth", "prior_non_negative"),
    *(f"{kind}_{name}" for kind in ("components", "outputs") for name in PRIORS),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(decompose_mnist.PRESETS, "digits", SMALL)
    monkeypatch.setattr(decompose_mnist, "STRENGTHS", {"sparse": (0.01, 1.0), "smooth": (0.01, 1.0)})


@pytest.mark.slow
def test_the_decompositions_are_compared_and_resumed(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decompose_mnist.main(["--epochs", "8", "--steps", "10", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert {path.stem for path in tmp_path.glob("*.png")} == FIGURES
    assert printed.count("smaller") == 2
    assert "LARGER" not in printed
    with (tmp_path / "records.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 + 1 + 2 * 2 + 1 + 2 * 2 + 3 * 2 + 10
    exact = rows[-1]
    assert (exact["method"], exact["options"]) == ("output_svd", "blocks 10")
    assert float(exact["relative_error"]) < 1e-5
    assert float(exact["mse_share"]) < 1e-8
    accuracy = float(printed.split("test accuracy ")[1].split(",")[0])
    assert float(exact["accuracy"]) == pytest.approx(accuracy, abs=6e-5)  # printed with four digits
    sparse = [float(row["specialisation"]) for row in rows if "Sparse" in row["options"]]
    assert sparse[1] > sparse[0]

    monkeypatch.setattr(decompose_mnist, "draw", lambda *_: None)  # not twice
    before = (tmp_path / "records.jsonl").read_bytes()
    decompose_mnist.main(["--model", str(tmp_path / "model"), "--steps", "10", "--out", str(tmp_path)])
    assert (tmp_path / "records.jsonl").read_bytes() == before
    again = capsys.readouterr().out
    assert again.split("every method")[1] == printed.split("every method")[1]


def test_specialisation_is_one_for_single_outputs() -> None:
    layer = random_layer(4, 6, 3, seed=0)
    assert decompose_mnist.specialisation(torch.eye(4)[:, :3]) == 1
    assert decompose_mnist.specialisation(torch.ones(4, 3)) == 0.25
    assert decompose_mnist.specialisation(torch.tensor([[1.0, 0.0], [3.0, 0.0]])) == 0.75  # zero columns do not count
    eigen = decompose(layer, "eigen", rank=2).to_layer()
    assert decompose_mnist.specialisation(eigen.down) == 1


def test_the_own_decomposition_keeps_the_laws_and_the_error_of_eigenvectors() -> None:
    report = check_decomposition("varimax")
    assert set(report.skipped.values()) == {"the results have no report"}  # they are layers
    layer = random_layer(4, 9, 7, seed=1)
    eigen, rotated = (decompose(layer, name, rank=3) for name in ("eigen", "varimax"))
    torch.testing.assert_close(rotated.symmetrize().to_tensor(), eigen.to_tensor(), rtol=0, atol=1e-12 * 100)
    u = rotated.left[:, :3]
    torch.testing.assert_close(u.T @ u, torch.eye(3, dtype=torch.float64))
    assert (u**4).sum() > (eigen.eigenvectors[0] ** 4).sum()


def test_the_own_prior_is_the_spread() -> None:
    two, one = torch.zeros(15, 1), torch.zeros(15, 1)
    two[0] = two[14] = 0.3
    one[4] = -2.0
    both = torch.cat([two, one, 0 * one], 1)
    torch.testing.assert_close(custom_decomposition.spread(both, (3, 5)), torch.tensor([1.0, 0.0, 0.0]))
    prior = custom_decomposition.Local((3, 5), 0.5)
    assert float(prior.penalty(Factors(torch.ones(2, 3), both, both))) == pytest.approx(1 / 3)


def test_the_own_decomposition_beside_the_built_in_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    custom_decomposition.main(
        ["--epochs", "2", "--rank", "2", "--cp-rank", "3", "--strengths", "3", "--steps", "40", "--out", str(tmp_path)]
    )
    printed = capsys.readouterr().out
    assert "0 failed" in printed
    lines = [line for line in printed.splitlines() if line.startswith(("eigen ", "varimax  ", "cp"))]
    rows = {line[:16].strip(): line[16:].split() for line in lines}
    assert list(rows) == ["eigen", "varimax", "cp", "cp, Local 3"]
    assert rows["eigen"][1:3] == rows["varimax"][1:3]
    assert float(rows["varimax"][3]) < float(rows["eigen"][3])
    assert float(rows["cp, Local 3"][3]) < float(rows["cp"][3])
    assert (tmp_path / "custom_decomposition.png").read_bytes().startswith(b"\x89PNG")
