"""Transformers on disk: the published layout is read and written, and the package opens what was written."""

import json

import published
import pytest
import torch
from safetensors.torch import load_file

from models.published import load_transformer, save_transformer
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp.weights import load_config, load_layer

SMALL = TransformerConfig(vocabulary=17, d_model=12, d_hidden=10, n_layers=3, n_heads=2, context=9)
TOKENS = torch.tensor([3, 16, 0, 5, 5, 1, 12])


@pytest.mark.parametrize("sharded", [False, True])
def test_published_weights_give_the_published_model(tmp_path, sharded):
    tensors = published.make_tensors()
    published.write(tmp_path, tensors, shards=published.one_shard_a_layer(tensors) if sharded else None)
    model = load_transformer(tmp_path)
    expected = published.logits(tensors, TOKENS, lambda i, x: published.raw_mlp(tensors, i, x))
    torch.testing.assert_close(model(TOKENS[None])[0].detach(), expected, rtol=1e-12, atol=1e-12)
    assert model.config == TransformerConfig(
        vocabulary=17, d_model=12, d_hidden=10, n_layers=3, n_heads=2, context=32, gate="none"
    )


@pytest.mark.parametrize("gate", ["none", "relu", "silu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_saved_models_come_back(tmp_path, gate, dtype):
    model = build_transformer(TransformerConfig(**vars(SMALL) | {"gate": gate}), seed=1).to(dtype)
    save_transformer(model, tmp_path / "new" / "run", extra={"seed": 1})
    loaded = load_transformer(tmp_path / "new" / "run")
    assert loaded.config == model.config
    assert torch.equal(loaded(TOKENS[None]), model(TOKENS[None]))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert load_config(tmp_path / "new" / "run")["extra"] == {"seed": 1}
    assert sorted(path.name for path in (tmp_path / "new" / "run").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(
    "changes",
    [{"attention": "bilinear"}, {"norm": "none"}, {"d_hidden": 0}, {"mlp_bias": True}, {"mlp_linear": True}],
)
def test_models_of_every_kind_come_back(tmp_path, changes):
    model = build_transformer(TransformerConfig(**vars(SMALL) | changes), seed=1)
    save_transformer(model, tmp_path)
    loaded = load_transformer(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(TOKENS[None]), model(TOKENS[None]))


def test_saved_models_have_the_published_names_and_sizes(tmp_path):
    save_transformer(build_transformer(SMALL, seed=1), tmp_path)
    found = {name: value.shape for name, value in load_file(tmp_path / "model.safetensors").items()}
    assert found == {name: value.shape for name, value in published.make_tensors().items()}
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(published.make_config()) <= set(config)


def test_the_package_opens_the_layers(tmp_path):
    model = build_transformer(SMALL, seed=1).double()
    save_transformer(model, tmp_path)
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for i in range(3):
        layer = load_layer(tmp_path, i)
        torch.testing.assert_close(layer(x), model.mlp(i)(x).detach(), rtol=1e-12, atol=1e-12)
        assert torch.equal(layer.left.T, model.mlp(i).left.weight)  # and not the right one


def test_the_package_refuses_a_gate(tmp_path):
    save_transformer(build_transformer(TransformerConfig(**vars(SMALL) | {"gate": "silu"}), seed=1), tmp_path)
    with pytest.raises(ValueError, match="silu"):
        load_layer(tmp_path, 0)


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({"bias": True}, None, "bias must be False"),
        ({"normalization": "layer"}, None, "normalization in config.json must be one of none, rms"),
        ({"bilinear": False}, None, "bilinear must be True"),
        ({"attention": "linear"}, None, "attention in config.json must be one of bilinear, softmax"),
        ({"attention": "bilinear"}, None, r"attn\.qkv\.weight' has shape \(36, 12\), the config says \(60, 12\)"),
        ({"gate": "tanh"}, None, "gate in config.json must be one of gelu, none, relu, silu"),
        ({"d_hidden": 11}, None, r"mlp\.w\.weight' has shape \(20, 12\), the config says \(22, 12\)"),
        ({"mlp_bias": True}, None, r"missing tensors \['transformer\.h\.0\.mlp\.p\.bias"),
        ({"d_hidden": 0, "mlp_linear": True}, None, "extra tensors"),
        ({"n_layer": 2}, None, r"extra tensors \['transformer\.h\.2\."),
        ({}, "lm_head.weight", r"missing tensors \['lm_head\.weight'\]"),
    ],
)
def test_what_the_model_cannot_be_is_refused(tmp_path, changes, drop, message):
    tensors = {name: value for name, value in published.make_tensors().items() if name != drop}
    published.write(tmp_path, tensors, published.make_config(**changes))
    with pytest.raises(ValueError, match=message):
        load_transformer(tmp_path)


def test_an_extra_that_json_cannot_hold_leaves_the_old_model(tmp_path):
    save_transformer(build_transformer(SMALL, seed=1), tmp_path)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError, match="JSON"):
        save_transformer(build_transformer(SMALL, seed=2), tmp_path, extra={"a": torch.ones(1)})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
