"""The example of gates that anneal away, end to end on a small text."""

from pathlib import Path

import pytest
import torch
from helpers import read_rows

from examples import anneal_gate
from examples.parts.anneal_report import after_annealing
from models.annealing import SCHEDULES
from models.huggingface import load_huggingface
from models.published import load_transformer, save_transformer
from tensornet_interp.weights import load_layer

RUNS = ("baseline", "linear", "exponential", "abrupt")


def stories(count):
    told = [
        f"Once upon a time Tom had {i} dogs. The dogs ran {i % 7} times to the park with Sue." for i in range(count)
    ]
    return "\n<|endoftext|>\n".join(told)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    train, held_out = tmp_path / "train.txt", tmp_path / "held_out.txt"
    train.write_text(stories(80), encoding="utf-8")
    held_out.write_text(stories(99)[-1500:], encoding="utf-8")
    sizes = "--vocabulary 300 --d-model 8 --layers 2 --heads 2 --context 16 --batch 4 --base-steps 6 --steps 10"
    options = f"{sizes} --every 4 --warmup 2 --beta-end 0.5 --no-progress --schedules linear exponential"
    return ["--text", str(train), "--held-out", str(held_out), "--out", str(tmp_path / "out"), *options.split()]


def test_gates_go_and_the_layers_open(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    anneal_gate.main(arguments)
    printed = capsys.readouterr().out
    assert printed.count("exactly bilinear") == 3
    assert "NOT BILINEAR" not in printed
    steps = read_rows(out / "steps.csv")
    betas = {run: [float(row["beta"]) for row in steps if row["run"] == run] for run in RUNS}
    assert [int(row["step"]) for row in steps if row["run"] == "linear"] == [0, 4, 8, 10]
    assert betas["baseline"] == [1, 1, 1, 1]
    assert betas["linear"] == pytest.approx([1, 1 - 3 / 5, 0, 0])  # that of the step before: what the loss is of
    assert betas["abrupt"] == [1, 0, 0, 0]
    rows = {row["run"]: row for row in read_rows(out / "losses.csv")}
    assert float(rows["baseline"]["above_baseline"]) == 0
    for run in RUNS[1:]:
        difference = float(rows[run]["held_out_loss"]) - float(rows["baseline"]["held_out_loss"])
        assert float(rows[run]["above_baseline"]) == pytest.approx(difference)
        assert float(rows[run]["layer_error"]) <= 1e-5
        assert load_transformer(out / f"{run}-1").config.gate == "none"
        assert load_layer(out / f"{run}-1", 1).shape == (8, 8, 8)
    with pytest.raises(ValueError, match="has a gate"):
        load_layer(out / "baseline-1", 0)
    assert (out / "anneal.png").is_file()

    weights = (out / "linear-1" / "model.safetensors").read_bytes()
    anneal_gate.main(arguments)  # every stage is read back
    assert (out / "linear-1" / "model.safetensors").read_bytes() == weights
    assert capsys.readouterr().out == printed
    (out / "anneal.png").unlink()
    anneal_gate.main(["--replot", "--out", str(out)])
    assert (out / "anneal.png").is_file()
    assert capsys.readouterr().out in printed

    with pytest.raises(ValueError, match=r"end there 5, asked for 7"):
        anneal_gate.main([*arguments, "--beta-end", "0.7"])


def test_gaps_after_annealing_are_lines_where_they_are_lines():
    rows = [{"run": run, "seed": seed, "end": 30} for run in ("baseline", "linear") for seed in (1, 2)]
    zero = {"run": "baseline", "above_baseline": 0.0}
    records = [zero | {"seed": seed, "step": step} for seed in (1, 2) for step in (0, 90)]
    for seed in (1, 2):  # steep up to step 70, then flat: the last third are the steps 70, 80, 90
        gaps = {step: max(seed * (70 - step), 0) / 1000 for step in range(0, 100, 10)}
        records += [{"run": "linear", "seed": seed, "step": step, "above_baseline": gap} for step, gap in gaps.items()]
    first, second = after_annealing(rows, records)
    assert (first["first"], first["last"], first["gap"]) == (40, 90, 0)
    assert second["late_slope"] == pytest.approx(0, abs=1e-12)
    # least squares over (30, 20, 10, 0, 0, 0) / 1000 at steps 40 to 90: the sum of (step - 65) gap is -1.1, that of
    # (step - 65)^2 is 1750
    assert first["slope"] == pytest.approx(100 * -1.1 / 1750)
    assert second["slope"] == pytest.approx(2 * first["slope"])


def test_folders_are_pooled(arguments, tmp_path, capsys):
    anneal_gate.main([*arguments, "--schedules", "linear"])
    capsys.readouterr()
    out = str(tmp_path / "out")
    anneal_gate.main(["--replot", "--out", out, "--pool", out])
    assert "over models and orders of batches (2)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        anneal_gate.main([*arguments, "--pool", out])
    assert "--pool needs --replot" in capsys.readouterr().err


def test_a_model_that_is_there_is_the_start(arguments, tmp_path):
    anneal_gate.main([*arguments, "--schedules", "linear"])
    base = tmp_path / "out" / "base"
    anneal_gate.main([*arguments, "--schedules", "linear", "--model", str(base), "--out", str(tmp_path / "again")])
    first, second = (read_rows(tmp_path / name / "losses.csv") for name in ("out", "again"))
    assert first == second  # the same tokenizer, the same tokens, the same model
    assert not (tmp_path / "again" / "base").exists()


def test_a_layer_that_is_not_the_mlp_has_an_error(arguments, tmp_path):
    anneal_gate.main([*arguments, "--schedules", "linear"])
    place = tmp_path / "out" / "linear-1"
    model = load_transformer(place)
    tokens = torch.arange(17)
    assert anneal_gate.largest_error(anneal_gate.OURS, model, place, tokens) <= 1e-5
    with torch.no_grad():
        model.mlp(1).down.weight.mul_(1.01)
    error = anneal_gate.largest_error(anneal_gate.OURS, model, place, tokens)
    assert error == pytest.approx(0.01 / 1.01, rel=1e-3)
    save_transformer(model, place)
    assert anneal_gate.largest_error(anneal_gate.OURS, model, place, tokens) <= 1e-5


def test_a_llama_goes_the_same_way(arguments, tmp_path, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed: the extra huggingface")
    anneal_gate.main([*arguments, "--llama", "--schedules", "smootherstep"])
    assert capsys.readouterr().out.count("exactly bilinear") == 2
    place = tmp_path / "out" / "smootherstep-1"
    assert load_huggingface(place).config.gate == "none"
    assert load_layer(place, 1, layout="llama", gate_removed=True).shape == (8, 8, 8)


@pytest.mark.parametrize("llama", [False, True])
def test_a_run_can_start_from_the_best_bilinear_layers(arguments, tmp_path, capsys, llama):
    if llama:
        pytest.importorskip("transformers", reason="transformers is not installed: the extra huggingface")
    more = ["--schedules", "linear", "--start", "least-squares", "--linearized-lr", "1e-4", *["--llama"] * llama]
    anneal_gate.main([*arguments, *more])
    assert capsys.readouterr().out.count("exactly bilinear") == 3
    out = tmp_path / "out"
    rows = {row["run"]: float(row["held_out_loss"]) for row in read_rows(out / "losses.csv")}
    assert abs(rows["not, linearized"] - rows["not tuned"]) < abs(rows["not, beta 0"] - rows["not tuned"])
    steps = [row for row in read_rows(out / "steps.csv") if row["run"] == "linearized"]
    assert [float(row["beta"]) for row in steps] == [0] * 4
    load = load_huggingface if llama else load_transformer
    assert load(out / "linearized-1").config.mlp_bias


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--schedules", "cosine"], "'linear'"),
        (["--beta-start", "0.6", "--beta-end", "0.5"], "0 <= --beta-start <= --beta-end must hold"),
        (["--beta-end", "1.0"], "be 0 before the last step"),
    ],
)
def test_bad_options(arguments, options, message, capsys):
    with pytest.raises(SystemExit):
        anneal_gate.main([*arguments, *options])
    assert message in capsys.readouterr().err


def test_all_means_every_schedule(arguments, tmp_path):
    anneal_gate.main([*arguments, "--schedules", "all", "--steps", "3"])
    runs = {row["run"] for row in read_rows(tmp_path / "out" / "losses.csv")}
    assert runs >= {"baseline", "abrupt", *SCHEDULES}
