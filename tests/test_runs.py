"""Models that are kept: what decides a model decides its place, and no other model is given in its stead."""

from dataclasses import replace

import pytest
import torch

from models import ClassifierConfig, TrainingConfig, load_dataset
from models.attacks import PGD
from models.augment import Perturbation, perturbation
from models.data import Dataset
from models.runs import trained

CONFIG, TRAINING = ClassifierConfig(inputs=64, width=4, hidden=3), TrainingConfig(epochs=1, batch_size=32)


@pytest.fixture(scope="module")
def data():
    digits = load_dataset("digits")
    parts = (digits.train_x[:64], digits.train_y[:64], digits.test_x[:32], digits.test_y[:32])
    return Dataset("digits", *parts, digits.shape, digits.class_names)


def run(folder, data, config=CONFIG, training=TRAINING, **options):
    return trained(folder, data, config, training, progress=False, **options)


def brighter(images, generator):
    return images.clamp(min=0.5)


OTHERS = {  # each keeps the name of the data set
    "shifted labels": lambda data: {"data": replace(data, train_y=(data.train_y + 1) % 10)},
    "other images": lambda data: {"data": replace(data, train_x=data.train_x.flip(1))},
    "fewer images": lambda data: {"data": replace(data, train_x=data.train_x[:48], train_y=data.train_y[:48])},
    "one pixel": lambda data: {"data": replace(data, train_x=data.train_x + (torch.arange(64) == 0) * 1e-6)},
    "dtype": lambda data: {"data": replace(data, train_x=data.train_x.double(), test_x=data.test_x.double())},
    "config": lambda data: {"config": replace(CONFIG, hidden=5)},
    "training": lambda data: {"training": replace(TRAINING, seed=1)},
    "images": lambda data: {"perturbation": Perturbation("brighter", brighter)},
    "hidden vectors": lambda data: {"perturbation": perturbation("dropout 0.5", data.shape)},
    "attack": lambda data: {"attack": PGD(0.5)},
    "another radius": lambda data: {"attack": PGD(0.6)},
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_model_of_other_data_is_not_given(tmp_path, data, case):
    first = run(tmp_path, data)
    arguments = {"data": data} | OTHERS[case](data)
    other = run(tmp_path, **arguments)
    alone = run(tmp_path / "alone", **arguments)
    assert all(map(torch.equal, other.parameters(), alone.parameters()))
    assert next(other.parameters()).dtype == arguments["data"].train_x.dtype
    again = run(tmp_path, data)
    assert all(map(torch.equal, again.parameters(), first.parameters()))


def test_a_model_that_is_there_is_read(tmp_path, data, monkeypatch):
    first = run(tmp_path, data)
    monkeypatch.setattr("models.runs.train", None)
    assert all(map(torch.equal, run(tmp_path, data).parameters(), first.parameters()))
