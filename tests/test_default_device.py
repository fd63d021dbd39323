"""Training and files work on the devices of their tensors, whatever default device and dtype the user has set."""

import pytest
import torch

from models import ClassifierConfig, TrainingConfig, build_classifier, load_dataset, load_model, save_model, train
from models.annealing import anneal
from models.language import LanguageConfig, generate, held_out_loss, train_language
from models.logic_gates import LogicGate, LogicGateConfig, train_logic_gates, truth_table
from models.published import load_transformer, save_transformer
from models.sae import SAEConfig, autoencoder_at
from models.text import encode, encode_to_file, load_tokens, train_tokenizer
from models.transformer import TransformerConfig, build_transformer
from models.vectors import windows
from tensornet_interp import load, save
from tensornet_interp.testing import random_layer

LANGUAGE = TransformerConfig(vocabulary=7, d_model=4, d_hidden=6, n_layers=2, n_heads=1, context=3)
GATED = TransformerConfig(**vars(LANGUAGE) | {"gate": "silu"})
TOKENS = torch.arange(60) % 7
LAYER = random_layer(3, 4, 5, seed=0)


def classifier(folder):
    model = build_classifier(ClassifierConfig(inputs=64, width=6, hidden=5), seed=0)
    train(model, load_dataset("digits"), TrainingConfig(epochs=1, batch_size=512), progress=False)
    save_model(model, folder)
    return list(load_model(folder).parameters())


def language(folder):
    model = build_transformer(GATED, seed=0)
    beta = anneal(model, "linear", 0, 3)
    train_language(model, TOKENS, LanguageConfig(steps=4), callback=beta, progress=False)
    drawn = generate(model, TOKENS[:2], 3, generator=torch.Generator().manual_seed(0))
    return [*model.parameters(), drawn, torch.tensor(held_out_loss(model, TOKENS), dtype=torch.float64, device="cpu")]


def resumed(folder):
    for _ in range(2):
        model = build_transformer(LANGUAGE, seed=0)
        train_language(model, TOKENS, LanguageConfig(steps=3), folder, progress=False)
    save_transformer(model, folder / "saved")
    return [*model.parameters(), *load_transformer(folder / "saved").parameters()]


def autoencoder(folder):
    config = SAEConfig(steps=3, batch_size=8, buffer=16, k=2)
    model = build_transformer(LANGUAGE, seed=0)
    dictionary, _ = autoencoder_at(model, windows(TOKENS, 3), 0, "mlp-out", config, progress=False)
    return [dictionary.encoder, dictionary.decoder]


def gates(folder):
    config = LogicGateConfig(3, (LogicGate("and", 0, 1),))
    sampled = truth_table(LogicGateConfig(9, (LogicGate("xor", 0, 8),)), max_rows=20)
    return [*train_logic_gates(config, steps=2).parameters(), *truth_table(config), *sampled]


def files(folder):
    save(LAYER, folder / "layer.safetensors")
    tokenizer = train_tokenizer(["a story"], 257)
    encode_to_file(tokenizer, ["a story"], folder / "tokens.npy")
    return [load(folder / "layer.safetensors").down, encode(tokenizer, ["a story"]), load_tokens(folder / "tokens.npy")]


@pytest.mark.parametrize("work", [classifier, language, resumed, autoencoder, gates, files])
def test_a_default_device_does_not_reach_the_work(work, tmp_path):
    expected = work(tmp_path / "expected")
    torch.set_default_device("meta")  # a tensor that is made there has no values
    try:
        found = work(tmp_path / "found")
    finally:
        torch.set_default_device(None)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("work", [classifier, gates, files])
def test_a_default_dtype_does_not_reach_the_work(work, tmp_path):
    expected = work(tmp_path / "expected")
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = work(tmp_path / "found")
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(map(torch.equal, found, expected))
