"""Autoencoders of tiny random models, by layer and by training length: kept, summed up, and tested for one mode."""

import shutil

import numpy as np
import pytest
import torch
from helpers import read_rows
from test_examples_feature_circuits import random_model

from examples import autoencoders
from models.published import load_transformer, save_transformer
from models.quality import evaluate
from models.text import load_tokens
from models.transformer import TransformerConfig, build_transformer
from models.vectors import windows
from tensornet_interp.weights import load_dictionary

OPTIONS = "--steps 6 --long-steps 32 --long-expansion 2 --batch-size 32 --buffer 64 --k 3 --lr 0.01 --no-progress"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = random_model(tmp_path_factory.mktemp("language"), layers=2, count=40)
    config = TransformerConfig(**vars(load_transformer(folder / "none-0").config) | {"gate": "silu"})
    save_transformer(build_transformer(config, seed=1), folder / "silu-0")
    shutil.copy(folder / "none-0" / "tokenizer.json", folder / "silu-0")
    return folder


def run(kept, *more, models=("none-0",)):
    places = [str(kept / name) for name in models]
    autoencoders.main(["--models", *places, *OPTIONS.split(), "--out", str(kept / "out"), *more])


def test_every_place_and_length_is_measured_once(kept, capsys):
    run(kept)
    printed = "".join(line for line in capsys.readouterr().out.splitlines(True) if not line.startswith("kept:"))
    out = kept / "out"
    rows = read_rows(out / "layers.csv")
    assert [(row["layer"], row["point"]) for row in rows] == [(n, p) for n in "01" for p in ("mlp-out", "resid-mid")]
    for row in rows:
        assert float(row["added_share"]) == pytest.approx(float(row["loss_added"]) / float(row["loss"]))
    name = f"{kept.name}-none-0"
    made = load_dictionary(out / "layers" / name / "autoencoders" / "steps-6" / "1-resid-mid-x4-k3")
    model = load_transformer(kept / "none-0")
    held_out = windows(load_tokens(kept / "held_out.npy").long(), 16)
    expected = evaluate(made, model, 1, "resid-mid", held_out)
    assert float(rows[-1]["loss_added"]) == pytest.approx(expected.loss_added)
    assert [row["steps"] for row in read_rows(out / "lengths.csv")] == ["2", "4", "8", "16", "32"]
    assert all((out / f"{part}.png").is_file() for part in ("layers", "lengths"))

    weights = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    run(kept, "--replot")
    assert capsys.readouterr().out in printed
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    with pytest.raises(ValueError, match=r"other settings.*'seed': 0.*'seed': 1"):
        run(kept, "--seed", "1")


def test_a_gated_model_has_layers_but_no_eigenvectors(kept, capsys):
    run(kept, "--parts", "layers", models=("none-0", "silu-0"))
    assert "autoencoders by layer, 2 models" in capsys.readouterr().out
    assert {row["model"] for row in read_rows(kept / "out" / "layers.csv")} == {
        f"{kept.name}-none-0",
        f"{kept.name}-silu-0",
    }
    with pytest.raises(ValueError, match="only gate='none' is bilinear"):
        run(kept, "--parts", "lengths", models=("silu-0",))


def test_modes_are_counted():
    x = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    # two kernels at a distance of 1 have two modes up to a bandwidth of about 1 / 2, if they weigh the same
    assert autoencoders.count_modes(x[:4], 0.4, (-1, 2)) == 2
    assert autoencoders.count_modes(x[:4], 0.6, (0, 1)) == 1
    assert autoencoders.count_modes(x, 0.01, (-0.1, 1.1)) == 2
    assert autoencoders.count_modes(x, 0.01, (0.5, 1.1)) == 1


def test_two_modes_are_told_from_one():
    draw = torch.Generator().manual_seed(0)
    normal = torch.randn(400, generator=draw, dtype=torch.float64)
    assert autoencoders.one_mode(normal.tolist()) > 0.05
    assert autoencoders.one_mode((normal.exp() / 3).tolist()) > 0.05  # skewed, and one mode
    apart = torch.where(torch.arange(400) < 160, normal, normal + 5)
    assert autoencoders.one_mode(apart.tolist()) < 0.05
