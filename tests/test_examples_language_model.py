"""The example of language models, end to end on a small text."""

from pathlib import Path

import pytest
from helpers import read_rows

from examples import language_model
from examples.parts.language_lengths import loss_after, steps_for
from models.published import load_transformer
from tensornet_interp.weights import load_layer

ANIMALS = ("dog", "cat", "frog", "cow", "bird", "fish", "bear", "fox")


def stories(names, count):
    told = [
        f"Once upon a time {name} had a {animal}. The {animal} ran {i} times to the park, and {name} ran after it."
        for i, name, animal in ((i, names[i % len(names)], ANIMALS[i % 7]) for i in range(count))
    ]
    return "\n<|endoftext|>\n".join(told)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    train, held_out = tmp_path / "train.txt", tmp_path / "held_out.txt"
    train.write_text(stories(("Tom", "Ann", "Sue"), 80), encoding="utf-8")
    held_out.write_text(stories(("Tom", "Max"), 20), encoding="utf-8")
    sizes = {"vocabulary": 300, "d-model": 8, "layers": 2, "heads": 2, "context": 16, "batch": 4, "every": 5}
    options = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    return [
        "--text",
        str(train),
        "--held-out",
        str(held_out),
        "--out",
        str(tmp_path / "out"),
        "--no-progress",
        *options,
    ]


def test_gates_are_trained_compared_and_resumed(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(language_model, "REPEATS", 1)
    out = tmp_path / "out"
    arguments = [*arguments, "--steps", "10", "--gates", "none", "silu"]
    language_model.main([*arguments, "--seed-list", "1"])  # one seed first, by itself
    first = (out / "none-1" / "model.safetensors").stat().st_mtime_ns
    language_model.main([*arguments, "--seeds", "2"])
    printed = capsys.readouterr().out
    assert (out / "none-1" / "model.safetensors").stat().st_mtime_ns == first
    rows = read_rows(out / "losses.csv")
    assert {(row["equal"], row["gate"], row["seed"]) for row in rows} == {
        (equal, gate, seed) for equal in ("steps", "time") for gate in ("none", "silu") for seed in "01"
    }
    assert {row["steps"] for row in rows if row["equal"] == "steps"} == {"10"}
    summary = {(row["equal"], row["gate"]): row for row in read_rows(out / "summary.csv")}
    losses = [float(row["held_out_loss"]) for row in rows if (row["equal"], row["gate"]) == ("steps", "silu")]
    assert float(summary["steps", "silu"]["held_out_loss"]) == pytest.approx(sum(losses) / 2)
    others = [float(row["held_out_loss"]) for row in rows if (row["equal"], row["gate"]) == ("steps", "none")]
    assert float(summary["steps", "silu"]["difference"]) == pytest.approx((sum(losses) - sum(others)) / 2)
    assert "minus none, same seed" in printed
    assert "once upon a time" in printed
    assert (out / "losses.png").is_file()
    # what is on disk is the model that was measured, and the package opens its layers
    assert load_transformer(out / "silu-0").config.gate == "silu"
    layer = load_layer(out / "none-0", 1)
    assert (layer.down.shape, layer.left.shape) == ((8, 32), (8, 32))
    assert (out / "none-0" / "tokenizer.json").is_file()


def test_gates_are_trained_for_other_lengths_too(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(language_model, "REPEATS", 1)
    out = tmp_path / "out"
    options = ["--steps", "10", "--gates", "none", "relu", "--equal", "steps", "--shares", "0.5", "1.5"]
    language_model.main([*arguments, *options])
    rows = {row["equal"]: row for row in read_rows(out / "losses.csv") if row["gate"] == "relu"}
    assert {equal: row["steps"] for equal, row in rows.items()} == {"steps": "10", "0.5": "5", "1.5": "15"}
    assert (out / "relu-0-15-steps" / "model.safetensors").is_file()
    (base,) = (row for row in read_rows(out / "losses.csv") if row["gate"] == "none")
    for row in rows.values():
        assert float(row["difference"]) == pytest.approx(float(row["held_out_loss"]) - float(base["held_out_loss"]))
    (row,) = read_rows(out / "lengths.csv")
    losses = {int(row["steps"]): float(row["held_out_loss"]) for row in rows.values()}
    needed = steps_for(losses, float(base["held_out_loss"]))
    assert row["needed"] == ("" if needed is None else str(needed))
    assert {row["step"] for row in read_rows(out / "histories.csv") if row["gate"] == "relu"} == {"5", "10"}


def test_steps_to_a_loss_are_found_between_lengths():
    losses = {100: 4.0, 200: 3.0, 400: 2.5}
    assert steps_for(losses, 3.0) == pytest.approx(200)
    assert steps_for(losses, 3.5) == pytest.approx(100 * 2**0.5)  # half way in the logarithm
    assert steps_for(losses, 2.75) == pytest.approx(200 * 2**0.5)
    assert steps_for(losses, 4.1) is None
    assert steps_for(losses, 2.4) is None
    for steps in (100, 130, 200, 399):
        assert steps_for(losses, loss_after(losses, steps)) == pytest.approx(steps)
    assert loss_after(losses, 99) is None
    assert loss_after(losses, 401) is None


def test_bilinear_attention_is_compared_with_softmax(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(language_model, "REPEATS", 1)
    out = tmp_path / "out"
    options = ["--steps", "5", "--gates", "none", "--equal", "steps", "--norm", "none"]
    language_model.main([*arguments, *options])
    language_model.main([*arguments, *options, "--attention", "softmax", "bilinear"])
    assert "minus none, same seed" in capsys.readouterr().out
    rows = {row["gate"]: row for row in read_rows(out / "losses.csv")}
    softmax, bilinear = (float(rows[kind]["held_out_loss"]) for kind in ("none", "none-bilinear"))
    assert float(rows["none-bilinear"]["difference"]) == pytest.approx(bilinear - softmax)
    config = load_transformer(out / "none-bilinear-0").config
    assert (config.attention, config.norm) == ("bilinear", "none")


def test_a_folder_of_other_settings_is_refused(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(language_model, "REPEATS", 1)
    language_model.main([*arguments, "--prepare"])
    assert not list((tmp_path / "out").glob("none*"))
    language_model.main([*arguments, "--steps", "5", "--gates", "none"])
    with pytest.raises(ValueError, match="steps there 5, asked for 6"):
        language_model.main([*arguments, "--steps", "6", "--gates", "none"])
    with pytest.raises(ValueError, match="vocabulary there 300, asked for 310"):
        language_model.main([*arguments, "--vocabulary", "310"])
    with pytest.raises(ValueError, match="context there 16, asked for 8"):
        language_model.main([*arguments, "--context", "8"])


def test_without_text_the_example_says_what_is_needed(capsys):
    with pytest.raises(SystemExit):
        language_model.main([])
    assert "--text and --held-out are needed" in capsys.readouterr().err
