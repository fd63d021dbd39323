"""Training: what is promised about noise, schedule, seeds, devices and global state, and the number of the field."""

import csv
import math
import os

import numpy as np
import pytest
import torch

from models.bilinear import ClassifierConfig, build_classifier
from models.data import Dataset, load_dataset
from models.training import TrainingConfig, _add_noise, accuracy, train

ROOT = os.environ.get("TENSORNET_DATA")
SMALL = ClassifierConfig(inputs=6, width=5, hidden=4, classes=3)


def blobs(dtype=torch.float32, samples=50):
    """Three noisy clusters."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % 3
    x = torch.randn(samples, 6, generator=generator, dtype=dtype) / 5 + torch.eye(3, 6, dtype=dtype)[y]
    return Dataset("blobs", x, y, x, y, (3, 2), ("a", "b", "c"))


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def run(config, seed=0, data=None, callback=None):
    model = build_classifier(SMALL, seed)
    return model, train(model, data or blobs(), config, progress=False, callback=callback)


def test_training_learns_and_writes_a_table(tmp_path):
    epochs = []
    config = TrainingConfig(epochs=30, lr=0.02, weight_decay=0.01, batch_size=16, noise=0.1)
    model, history = run(config, callback=lambda epoch, model: epochs.append(epoch))
    assert accuracy(model, blobs().test_x, blobs().test_y) == history.records[-1]["test_accuracy"] == 1.0
    assert history.records[-1]["train_loss"] < history.records[0]["train_loss"] / 2
    assert epochs == [record["epoch"] for record in history.records] == list(range(1, 31))
    assert all(0 <= record["data_seconds"] <= record["seconds"] for record in history.records)
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train_loss"]) for row in rows] == [record["train_loss"] for record in history.records]
    assert list(rows[0]) == ["epoch", "train_loss", "train_accuracy", "test_accuracy", "lr", "seconds", "data_seconds"]


def test_schedule_is_half_a_cosine_over_all_steps():
    _, history = run(TrainingConfig(epochs=4, lr=0.1, batch_size=16))  # 3 steps an epoch, the last 2 samples dropped
    found = [record["lr"] for record in history.records]
    expected = [0.1 * (1 + math.cos(math.pi * (3 * epoch - 1) / 12)) / 2 for epoch in range(1, 5)]
    assert found == pytest.approx(expected, rel=1e-6)


def test_same_seed_same_run_and_another_seed_another():
    config = TrainingConfig(epochs=2, batch_size=16)
    first, second, other = run(config)[0], run(config)[0], run(TrainingConfig(epochs=2, batch_size=16, seed=43))[0]
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(other))


def test_global_state_and_modes_are_as_before():
    model = build_classifier(SMALL, 0)
    model.eval()
    model.head.train()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    with torch.no_grad():
        before = weights(model)
        train(model, blobs(), TrainingConfig(epochs=1), progress=False)
        assert not torch.equal(weights(model), before)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert not model.training
    assert not model.embedding.training
    assert model.head.training


def test_noise_is_added_to_each_sample_with_its_probability():
    config = TrainingConfig(noise=0.4, noise_probability=0.3)
    clean = torch.zeros(20_000, 30, dtype=torch.float64)
    noisy = _add_noise(clean, config, torch.Generator().manual_seed(1))
    hit = (noisy != 0).any(1)
    assert hit.double().mean().item() == pytest.approx(0.3, abs=0.015)
    assert (noisy != 0).all(1).equal(hit)  # a sample as a whole
    assert noisy[hit].std().item() == pytest.approx(0.4, abs=0.005)
    assert not clean.any()
    for off in (TrainingConfig(noise=0.0), TrainingConfig(noise_probability=0.0)):
        assert _add_noise(clean, off, torch.Generator()) is clean


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "steps"), [(16, True, 3), (16, False, 4), (50, True, 1), (99, True, 1)]
)
def test_batches(batch_size, drop_last, steps):
    sizes = []
    model = build_classifier(SMALL, 0)
    model.register_forward_hook(lambda module, args, output: sizes.append(len(output)) if module.training else None)
    train(model, blobs(), TrainingConfig(epochs=1, batch_size=batch_size, drop_last=drop_last), progress=False)
    expected = [min(batch_size, 50)] * min(steps, 3) if drop_last else [16, 16, 16, 2]
    assert sizes == expected


def test_hidden_vectors_are_changed_in_training_only():
    """Embedding and block hand on twice their outputs: the same as twice their weights, for one step without decay."""
    seen = []

    def twice(vectors, generator):
        seen.append(tuple(vectors.shape))
        return 2 * vectors

    model, other = build_classifier(SMALL, 0), build_classifier(SMALL, 0)
    data, config = blobs(), TrainingConfig(epochs=1, batch_size=50, noise=0.0)
    history = train(model, data, config, progress=False, hidden=twice)
    assert seen == [(50, 5), (50, 4)]  # embedding and block of one step, and nothing in the test
    with torch.no_grad():
        logits = other.head(2 * other.blocks[0](2 * other.embed(data.train_x)))
    loss = torch.nn.functional.cross_entropy(logits, data.train_y)
    assert history.records[0]["train_loss"] == pytest.approx(float(loss), rel=1e-5)
    assert history.records[0]["test_accuracy"] == accuracy(model, data.test_x, data.test_y)
    with pytest.raises(TypeError, match="hidden changes vectors within a BilinearClassifier, got a Linear"):
        train(torch.nn.Linear(6, 3), data, config, progress=False, hidden=twice)


def test_accuracy_does_not_depend_on_its_batches():
    model, data = build_classifier(SMALL, 0), blobs()
    right = (model(data.test_x).argmax(1) == data.test_y).double().mean().item()
    assert accuracy(model, data.test_x, data.test_y) == accuracy(model, data.test_x, data.test_y, batch_size=7) == right


def test_a_nan_stops_the_run_and_names_the_step():
    data = blobs()
    data.train_x[:, 0] = 1e30
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at step 1 of 3 in epoch 1; lower lr=0.1"):
        run(TrainingConfig(epochs=2, lr=0.1, batch_size=16), data=data)


def outputs(classes):
    return build_classifier(ClassifierConfig(inputs=6, width=5, hidden=4, classes=classes), 0)


BAD = {
    "epochs": (lambda: TrainingConfig(epochs=0), ValueError, "epochs must be at least 1, got 0"),
    "epochs bool": (lambda: TrainingConfig(epochs=True), TypeError, "epochs must be a whole number, got True"),
    "batch_size": (lambda: TrainingConfig(batch_size=2.0), TypeError, "batch_size must be a whole number, got 2.0"),
    "lr": (lambda: TrainingConfig(lr=-1e-3), ValueError, "lr must be at least 0, got -0.001"),
    "lr nan": (lambda: TrainingConfig(lr=math.nan), ValueError, "lr must be finite, got nan"),
    "weight_decay": (lambda: TrainingConfig(weight_decay="0.5"), TypeError, "weight_decay must be a number, got '0.5'"),
    "probability": (
        lambda: TrainingConfig(noise_probability=1.5),
        ValueError,
        "noise_probability must be between 0 and 1, got 1.5",
    ),
    "option": (lambda: TrainingConfig(wd=0.5), TypeError, "wd"),
    "dtype": (
        lambda: train(build_classifier(SMALL, 0), blobs(torch.float64), TrainingConfig(), progress=False),
        ValueError,
        "'embedding.weight' is torch.float32 on cpu but the data set 'blobs' is torch.float64 on cpu",
    ),
    "device": (
        lambda: train(build_classifier(SMALL, 0).to("meta"), blobs(), TrainingConfig(), progress=False),
        ValueError,
        "is torch.float32 on meta but the data set 'blobs' is torch.float32 on cpu",
    ),
    "classes": (
        lambda: train(outputs(4), blobs(), TrainingConfig(), progress=False),
        ValueError,
        r"model gives 4 outputs .* but the data set 'blobs' has 3 classes",
    ),
    "no parameters": (
        lambda: train(torch.nn.Identity(), blobs(), TrainingConfig(), progress=False),
        ValueError,
        "model has no parameters",
    ),
    "empty": (
        lambda: accuracy(outputs(3), torch.zeros(0, 6), torch.zeros(0)),
        ValueError,
        "x and y need the same number of samples, at least 1, got 0 and 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        call()


def test_digits_are_learned():
    pytest.importorskip("sklearn")
    data = load_dataset("digits")
    model = build_classifier(ClassifierConfig(inputs=64, width=64, hidden=64), 42)
    history = train(model, data, TrainingConfig(epochs=20, lr=5e-3, batch_size=128), progress=False)
    assert history.records[-1]["test_accuracy"] >= 0.95


@pytest.mark.slow
@pytest.mark.skipif(ROOT is None, reason="set TENSORNET_DATA to a folder with MNIST/raw")
def test_exercise_model_reaches_the_published_accuracy():
    model = build_classifier(ClassifierConfig(), 42)
    history = train(model, load_dataset("mnist", ROOT), TrainingConfig(), progress=False)
    assert history.records[-1]["test_accuracy"] == pytest.approx(0.9677, abs=0.003)
