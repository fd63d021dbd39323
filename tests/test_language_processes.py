"""Several processes train one model as one process would; only the first one writes, and others go on with as many."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from train_together import train

from examples import language_model
from models.tables import read_table

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow  # seconds to start the processes


def launch(count, *command):
    """What processes started by torchrun print, each on one thread."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([*start, *command], env=env, cwd=ROOT, text=True, capture_output=True, timeout=300)


def together(count, folder="", **options):
    return launch(count, "tests/train_together.py", str(folder), json.dumps(options))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_have_the_losses_of_one(tmp_path, accumulation):
    """Sums of the same numbers in another order: 50 steps amplify rounding, 2^-52, by far less than 4e6."""
    done = together(2, tmp_path, steps=50, accumulation=accumulation)
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout)  # of one process alone: the other one is silent
    assert len(losses) == 50
    for found, expected in zip(losses, train(None, steps=50, accumulation=accumulation), strict=True):
        assert found == pytest.approx(expected, rel=1e-9)


def test_in_single_precision_the_first_step_is_that_of_one_process():
    (found,) = json.loads(together(2, steps=1, dtype="float32").stdout)
    assert found == pytest.approx(train(None, steps=1, dtype="float32")[0], rel=1e-5)


def test_a_stopped_run_goes_on_with_as_many_processes_only(tmp_path):
    whole = together(2, tmp_path / "whole", steps=6)
    assert "stopped here" in together(2, tmp_path / "stopped", steps=6, stop=4).stderr
    with pytest.raises(ValueError, match="processes there 2, asked for None"):
        train(tmp_path / "stopped", steps=6)
    assert together(2, tmp_path / "stopped", steps=6).stdout == whole.stdout
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["training.safetensors"]


def test_a_loss_that_is_not_finite_ends_all_processes(tmp_path):
    assert "norm of its gradient is nan at step 1 of 6" in together(2, tmp_path, steps=6, lr=1e300).stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 7}, "batch_size / accumulation must be a multiple of the number of processes, got 7 and 2"),
        ({"process 1": {"seed": 1}}, "the processes differ in model, text or config"),
    ],
)
def test_what_cannot_be_shared_is_refused_before_the_first_step(tmp_path, options, words):
    refused = together(2, tmp_path, steps=3, **options)
    assert refused.returncode != 0
    assert words in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_example_runs_on_two_processes(tmp_path):
    story = "once upon a time there was a cat. the cat sat on a mat and saw a dog.\n<|endoftext|>\n"
    texts = {name: tmp_path / f"{name}.txt" for name in ("text", "held-out")}
    for at, path in enumerate(texts.values()):
        path.write_text("".join(story.replace("cat", f"cat{i}") for i in range(at, 200, 2)))
    sizes = {"vocabulary": 300, "d-model": 8, "layers": 1, "heads": 2, "context": 8, "steps": 4, "batch": 4}
    options = [str(part) for name, value in (sizes | texts).items() for part in (f"--{name}", value)]
    options += ["--gates", "none", "silu", "--equal", "steps", "--no-progress"]
    done = launch(2, "-m", "examples.language_model", *options, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    language_model.main([*options, "--out", str(tmp_path / "one")])
    made = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert done.stdout.count("held-out loss in nats per token") == 1
    two, one = (read_table(tmp_path / name / "losses.csv") for name in ("two", "one"))
    for found, expected in zip(two, one, strict=True):
        assert float(found["held_out_loss"]) == pytest.approx(float(expected["held_out_loss"]), rel=1e-4)  # float32
    assert [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("two", "one")] == [made] * 2
