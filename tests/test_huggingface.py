"""A small random Llama: gates anneal away, and the layers open as tensors."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from models.annealing import anneal, gate_sites, remove_gates
from models.huggingface import build_llama, load_huggingface, save_huggingface
from models.language import LanguageConfig, train_language
from models.transformer import TransformerConfig
from tensornet_interp.weights import load_layer

transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra huggingface")

CONFIG = TransformerConfig(vocabulary=19, d_model=16, d_hidden=10, n_layers=2, n_heads=2, context=12, gate="silu")
TOKENS = torch.tensor([[1, 5, 3, 10], [0, 2, 18, 4]])


def mlp(model, layer):
    return model.model.model.layers[layer].mlp


def scaled_up(model):
    """Gates far from their linear part."""
    with torch.no_grad():
        for site in gate_sites(model):
            site.linear.weight.mul_(4)
    return model


def test_the_seed_decides_and_the_global_stream_stays():
    before = torch.random.get_rng_state()
    first, same, other = (build_llama(CONFIG, seed)(TOKENS) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.shape == (2, 4, 19)


def test_the_sizes_are_read_back(tmp_path):
    model = build_llama(CONFIG, 0)
    assert model.config == CONFIG
    save_huggingface(model, tmp_path)
    opened = load_huggingface(tmp_path)
    assert opened.config == CONFIG
    assert torch.equal(opened(TOKENS), model(TOKENS))


def test_annealing_ends_in_layers_that_reproduce_the_mlp(tmp_path):
    model = scaled_up(build_llama(CONFIG, 0))
    before = model(TOKENS)
    callback = anneal(model, "linear", 0, 4)
    torch.testing.assert_close(model(TOKENS), before, rtol=1e-5, atol=1e-6)
    callback(4, model)
    bilinear = model(TOKENS)
    assert not torch.allclose(bilinear, before, atol=1e-3)
    remove_gates(model)
    assert torch.equal(model(TOKENS), bilinear)

    save_huggingface(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["hidden_act"] == "linear"
    opened = load_huggingface(tmp_path)
    assert torch.equal(opened(TOKENS), bilinear)
    assert opened.config.gate == model.config.gate == "none"
    x = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
    for index in range(2):
        y = mlp(model, index)(x).detach()
        layer = load_layer(tmp_path, index, layout="llama", gate_removed=True)
        assert float((layer(x) - y).abs().max() / y.abs().max()) < 1e-5


@pytest.mark.parametrize("changes", [{"attention": "bilinear"}, {"norm": "none"}, {"d_hidden": 0, "gate": "none"}])
def test_what_no_llama_has_is_refused(changes):
    with pytest.raises(ValueError, match="a Llama has softmax attention, RMS norms, and MLPs"):
        build_llama(replace(CONFIG, **changes), 0)


def test_a_gate_that_still_acts_is_no_tensor():
    """What removing the gates is for: with SiLU the layer of the same weights is another function."""
    model = scaled_up(build_llama(CONFIG, 0))
    x = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))
    part = mlp(model, 0)
    left, right = functional.linear(x, part.gate_proj.weight), functional.linear(x, part.up_proj.weight)
    y = functional.linear(left * right, part.down_proj.weight)
    assert not torch.allclose(y, part(x), rtol=0.0, atol=0.1 * float(y.detach().abs().max()))


def test_another_activation_is_refused():
    inner = build_llama(CONFIG, 0).model
    inner.config.hidden_act = "gelu_pytorch_tanh"
    with pytest.raises(ValueError, match=r"hidden_act must be one of gelu, .*; got 'gelu_pytorch_tanh'"):
        type(build_llama(CONFIG, 0))(inner)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is missing|has neither model"):
        load_huggingface(tmp_path)


def train(folder, cut=None, **changes):
    model = build_llama(CONFIG, 0)
    callback = anneal(model, "linear", 1, 4)

    def watched(step, model):
        if step == cut:
            raise KeyboardInterrupt
        callback(step, model)

    options = {"steps": 6, "batch_size": 4, "warmup": 1, "lr": 1e-2} | changes
    tokens = torch.randint(19, (200,), generator=torch.Generator().manual_seed(0))
    history = train_language(
        model,
        tokens,
        LanguageConfig(**options),
        folder,
        held_out=tokens[:50],
        callback=watched,
        every=2,
        progress=False,
    )
    return model, [record["held_out_loss"] for record in history.records]


def test_the_one_training_loop_trains_and_resumes_it(tmp_path):
    whole, losses = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, cut=3)
    resumed, again = train(tmp_path)
    assert again == losses
    assert losses[-1] < losses[0]
    remove_gates(whole)
    remove_gates(resumed)
    assert torch.equal(resumed(TOKENS), whole(TOKENS))


def test_weight_decay_is_on_matrices_alone():
    """After one step, runs with and without it differ in the matrices, but not in the embedding and the norms."""
    with_decay, without = (
        dict(train(None, steps=1, warmup=0, weight_decay=decay)[0].named_parameters()) for decay in (0.5, 0.0)
    )
    same = {name for name in without if torch.equal(with_decay[name], without[name])}
    assert same == {name for name in without if "norm" in name or "embed_tokens" in name}
