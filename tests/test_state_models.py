"""No call of `models` changes what belongs to the user."""

from dataclasses import replace

import pytest
import torch
from global_state import changes

from models import ClassifierConfig, TrainingConfig, build_classifier, load_dataset, load_model, save_model, train
from models.attacks import PGD
from models.casper import similarity_task
from models.data import Dataset
from models.language import LanguageConfig, generate, held_out_loss, train_language
from models.logic_gates import LogicGate, LogicGateConfig, train_logic_gates, truth_table
from models.published import load_transformer, save_transformer
from models.text import encode, train_tokenizer
from models.training import accuracy
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp.attention import causal_mask
from tensornet_interp.weights import load_attention, load_network

SMALL_LANGUAGE = TransformerConfig(vocabulary=7, d_model=4, d_hidden=6, n_layers=2, n_heads=1, context=3)
CONFIG = ClassifierConfig(inputs=64, width=6, hidden=5, classes=10)


class Made:
    """What the calls work on, made once and before the state is looked at."""

    def __init__(self, folder):
        self.labels = torch.arange(7) % 5
        self.model = build_classifier(CONFIG, seed=0)
        digits = load_dataset("digits")
        parts = (digits.train_x[:64], digits.train_y[:64], digits.test_x[:32], digits.test_y[:32])
        self.digits = Dataset("digits", *parts, digits.shape, digits.class_names)
        self.language = build_transformer(SMALL_LANGUAGE, seed=0)
        self.bilinear = build_transformer(replace(SMALL_LANGUAGE, attention="bilinear", norm="none"), seed=0)
        self.folder = folder
        save_model(self.model, folder / "made")


CALLS = {
    "build classifier": lambda g: build_classifier(CONFIG, seed=1),
    "call a classifier": lambda g: g.model(g.digits.test_x),
    "classifier to network": lambda g: g.model.network("input"),
    "similarity task": lambda g: similarity_task(g.digits, 2),
    "load digits": lambda g: load_dataset("digits"),
    "train": lambda g: train(g.model, g.digits, TrainingConfig(epochs=1, batch_size=32), progress=False),
    "train under attack": lambda g: train(
        g.model, g.digits, TrainingConfig(epochs=1, batch_size=32), progress=False, attack=PGD(0.5)
    ),
    "accuracy": lambda g: accuracy(g.model, g.digits.test_x, g.digits.test_y),
    "train gates": lambda g: train_logic_gates(LogicGateConfig(3, (LogicGate("and", 0, 1),)), steps=2),
    "truth table, sampled": lambda g: truth_table(LogicGateConfig(9, (LogicGate("xor", 0, 8),)), max_rows=20),
    "train a language model": lambda g: train_language(
        build_transformer(SMALL_LANGUAGE, seed=0), g.labels, LanguageConfig(steps=2), g.folder / "run", progress=False
    ),
    "language model": lambda g: (
        held_out_loss(g.language, g.labels),
        generate(g.language, g.labels[:2], 2, generator=torch.Generator().manual_seed(0)),
        save_transformer(g.language, g.folder / "language"),
        load_transformer(g.folder / "language"),
        encode(train_tokenizer(["a story"], 257), ["a story"]),
    ),
    "bilinear attention": lambda g: (
        g.bilinear.network()(g.bilinear.embedding(g.labels[:3])),
        save_transformer(g.bilinear, g.folder / "bilinear"),
        load_attention(g.folder / "bilinear", 0),
        load_network(g.folder / "bilinear"),
        causal_mask(4, window=2, power=1.0),
    ),
    "save model": lambda g: save_model(g.model, g.folder / "saved"),
    "load model": lambda g: load_model(g.folder / "made"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("state"))


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_global_state_as_it_was(name, grad, made):
    assert changes(lambda: CALLS[name](made), grad=grad) == []
