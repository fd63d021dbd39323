"""The consistency example, end to end on small settings."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples import consistency
from examples.parts.consistency_report import print_verdict
from examples.parts.image_job import PRESETS
from models import Dataset, load_dataset
from models.tables import read_table
from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.testing import random_layer

SMALL = ["--sizes", "16", "--seeds", "3", "--epochs", "12"]


def relabelled() -> Dataset:
    """The digits as another data set: class c is called c + 1 there."""
    digits = load_dataset("digits")
    shifted = {part: (getattr(digits, part) + 1) % 10 for part in ("train_y", "test_y")}
    return replace(digits, name="fashion_mnist", class_names=tuple("abcdefghij"), **shifted)


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "fashion_mnist", PRESETS["digits"])
    monkeypatch.setattr(consistency, "load_dataset", lambda *_, **__: relabelled())


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    return ["--models", str(tmp_path / "models"), "--out", str(tmp_path / "out")]


def test_a_size_compared_with_itself_is_the_comparison_within_it() -> None:
    runs = [decompose(random_layer(3, 8, 9, seed=seed), "eigen") for seed in range(4)]
    within, _ = consistency.ordered_rows(runs, {}, "abc")
    between = consistency.between_rows(runs, runs, {})
    for row in between:
        key = (row["ranking"], row["position"])
        (same,) = [r for r in within if (r["ranking"], r["position"]) == key]
        torch.testing.assert_close(row["similarity"], same["similarity"], equal_nan=True)


@pytest.mark.slow
def test_everything_is_measured_drawn_and_drawn_again(
    second: None, folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*SMALL, *folders, "--other", "fashion_mnist"]
    consistency.main([*argv, "--train-only"])
    assert "trained or read: sizes 16 of digits, 3 seeds each" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*.safetensors")}
    assert len(kept) == 2 * 3
    assert not list((tmp_path / "out").iterdir())

    consistency.main(argv)
    printed, out = capsys.readouterr().out, tmp_path / "out"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*.safetensors")} == kept
    figures = {"positions_pixel", "positions_projected", "sizes", "functions", "classes_digits"}
    figures |= {"classes_fashion_mnist", "eigenvectors_16"}
    assert {path.stem for path in out.glob("*.png")} == figures
    assert "not tested here: no size of 300 or more" in printed

    ordered = read_table(out / "ordered.csv")
    assert {(row["size"], row["basis"], row["ranking"]) for row in ordered} == {
        (size, basis, order)
        for size in (16,)
        for basis in ("pixel", "projected")
        for order in ("positive", "negative", "magnitude", "matched")
    }
    for row in ordered:
        if row["position"] == 1 and "with_self_pairs" in row:
            value = float(row["similarity"])
            assert float(row["with_self_pairs"]) == pytest.approx(value + (1 - value) / 3)
            assert float(row["low"]) < value < float(row["high"])
            assert {row["dataset"], row["epochs"], row["seeds"], row["noise"]} == {"digits", 12, 3, 0.5}
    # class c of the one data set is class c + 1 of the other
    cells = [row for row in read_table(out / "outputs.csv") if row["other"] == "fashion_mnist"]
    matrix = torch.tensor([float(row["similarity"]) for row in cells]).reshape(10, 10)
    assert matrix.argmax(1).tolist() == [*range(1, 10), 0]

    for path in out.glob("*.png"):
        path.unlink()
    consistency.main(["--replot", *folders])
    assert {path.stem for path in out.glob("*.png")} == figures
    assert capsys.readouterr().out.strip() == printed.strip()


def test_images_of_another_size_are_refused_before_training(
    monkeypatch: pytest.MonkeyPatch, folders: list[str], tmp_path: Path
) -> None:
    half = {part: getattr(relabelled(), part)[:, :32] for part in ("train_x", "test_x")}
    other = replace(relabelled(), shape=(4, 8), **half)
    monkeypatch.setattr(consistency, "load_dataset", lambda *_, **__: other)
    with pytest.raises(ValueError, match=r"--other fashion_mnist has images of \(4, 8\), digits of \(8, 8\)"):
        consistency.main([*SMALL, *folders, "--other", "fashion_mnist"])
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--seeds", "1"], "--seeds must be at least 3 .*, got 1"),
        (["--seeds", "2"], "--seeds must be at least 3 .*, got 2"),
        (["--seeds", "-3"], "--seeds must be at least 1, got -3"),
        (["--sizes", "4,x"], "--sizes must be whole numbers separated by commas, as 30,100; got '4,x'"),
        (["--sizes", ""], "--sizes must be whole numbers separated by commas"),
        (["--sizes", "4,0"], "--sizes must be at least 1, got 0"),
        (["--sizes", "4,5", "--other-sizes", "6"], r"--other-sizes must be some of the sizes \(4, 5\), got \(6,\)"),
        (["--other", "digits"], "--other digits is the data set itself"),
        (["--example-class", "10"], "--example-class must be from 0 to 9, got 10"),
        (["--replot"], "--replot"),
    ],
)
def test_bad_options_are_named(argv: list[str], message: str, folders: list[str]) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        consistency.main([*argv, *folders])


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((0.88, 0.85, 0.91), "- holds"),
        ((0.82, 0.78, 0.86), "- holds, not certain: the interval crosses 0.8"),
        ((0.95, 0.94, 0.96), "- above"),
        ((0.7, 0.65, 0.75), "- below"),
        ((0.79, 0.7, 0.88), "- below, not certain: the interval crosses 0.8"),
    ],
)
def test_the_verdict_is_of_the_large_sizes(
    ends: tuple[float, float, float], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row = dict(zip(("similarity", "low", "high"), ends, strict=True)) | {"basis": "pixel", "ranking": "positive"}
    print_verdict([row | {"size": 300.0}, row | {"size": 100.0}, row | {"size": 300.0, "ranking": "matched"}])
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    assert lines[1].endswith(said)


def test_the_contrast_is_between_different_classes_whatever_the_number_of_seeds() -> None:
    """Three classes, each with eigenvectors of its own in every run: between different classes every cosine is 0."""
    eye = torch.eye(3, dtype=torch.float64)
    runs = [decompose(BilinearLayer(down=eye, left=eye, right=eye), "eigen")] * 5
    ordered, _ = consistency.ordered_rows([run.truncate(1) for run in runs], {}, "abc")
    first = next(row for row in ordered if row["ranking"] == "positive")
    assert (first["similarity"], first["other_class"]) == (1.0, 0.0)
