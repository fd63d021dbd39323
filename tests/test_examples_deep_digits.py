"""The job on three layers, end to end at small sizes."""

from pathlib import Path

import pytest
import torch
from helpers import read_rows

from examples.deep_digits import main
from models import load_dataset, load_model


def test_the_job_trains_compares_cuts_and_takes_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(tmp_path), "--epochs", "8", "--width", "8", "--seeds", "1", "2"])
    printed = capsys.readouterr().out
    figures = {path.stem for path in tmp_path.glob("*.png")}
    similarities = {"similarity_tree", "similarity_gaussian"}
    assert figures == {"network", "change", "bond_spectra", "bonds", "circuit", *similarities}

    # checkpoints are on disk, and the last is the network that was looked at
    folders = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert folders == {f"seed_{seed}_epoch_{epoch}" for seed in (1, 2) for epoch in (0, 1, 2, 8)}
    model, data = load_model(tmp_path / "checkpoints" / "seed_1_epoch_8"), load_dataset("digits")
    network = model.network(basis="input").to(dtype=torch.float64)
    logits = network(data.test_x.double())
    accuracy = float((logits.argmax(1) == data.test_y).double().mean())
    assert f"whole network: accuracy {accuracy:.4f}" in printed
    assert accuracy > 0.5

    for name in similarities:
        matrix = [[float(value) for key, value in row.items() if key] for row in read_rows(tmp_path / f"{name}.csv")]
        assert len(matrix) == 8
        for i, row in enumerate(matrix):
            assert row[i] == pytest.approx(1, abs=1e-9)
            assert max(map(abs, row)) <= 1 + 1e-9

    # 8 coordinates a bond; the guarantee holds at every cut
    bonds = read_rows(tmp_path / "bonds.csv")
    assert [row["kept"] for row in bonds] == [f"{k} {k}" for k in (7, 6, 6, 5, 4, 3, 2, 2, 1)] * 2
    assert all(float(row["measured"]) <= float(row["bound"]) for row in bonds)
    assert printed.count("70 % removed") == 2

    # degrees sum to the logit difference, and the widest circuit is near it
    index = int((data.test_y == 5).nonzero()[0])
    first, second = logits[index].topk(2).values.tolist()
    degrees = [float(row["logit"]) for row in read_rows(tmp_path / "degrees.csv")]
    assert len(degrees) == 9
    assert sum(degrees) == pytest.approx(first - second, rel=1e-9)
    errors = [float(row["test_error"]) for row in read_rows(tmp_path / "circuit.csv")]
    assert errors[-1] < 0.5 * errors[0]
    assert (tmp_path / "replaced.txt").read_text().count("part 2 alone") == 3
