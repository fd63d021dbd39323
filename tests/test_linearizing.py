"""Whole models with the best bilinear layers in the place of their gated MLPs: run, saved, loaded, opened by layer."""

import pytest
import torch
from helpers import normal
from torch import nn

from models.annealing import anneal
from models.huggingface import build_llama, load_huggingface, save_huggingface
from models.language import LanguageConfig, held_out_loss, train_language
from models.linearizing import gated_mlps, linearized_mlps, mlp_inputs, put_layers, replaced
from models.published import load_transformer, save_transformer
from models.transformer import TransformerConfig, build_transformer
from tensornet_interp.gated import linearization_error
from tensornet_interp.weights import load_config, load_layer

CONFIG = TransformerConfig(vocabulary=11, d_model=8, d_hidden=6, n_layers=3, n_heads=2, context=7, gate="silu")
TEXT = torch.randint(11, (420,), generator=torch.Generator().manual_seed(0))
TOKENS = TEXT[:14].reshape(2, 7)


def made(llama=False, gate="silu"):
    config = TransformerConfig(**vars(CONFIG) | {"gate": gate})
    if llama:
        pytest.importorskip("transformers", reason="transformers is not installed: the extra huggingface")
        return build_llama(config, seed=0).double()
    return build_transformer(config, seed=0).double()


@pytest.mark.parametrize("llama", [False, True])
def test_gated_mlps_and_their_inputs_are_those_of_the_model(llama):
    model = made(llama)
    layers, inputs = gated_mlps(model), mlp_inputs(model, TEXT, batch_size=9)
    assert len(layers) == 3
    for name, layer in layers.items():
        x = inputs[name]
        assert x.shape == (420, 8)
        torch.testing.assert_close(layer(x), model.get_submodule(name)(x).detach(), rtol=1e-12, atol=1e-12)
    handed = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, given: handed.append(given[0]))
    model(TOKENS)
    handle.remove()
    torch.testing.assert_close(handed[0].detach().flatten(0, 1), inputs[name][:14], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("llama", [False, True])
@pytest.mark.parametrize("linear", [False, True])
def test_a_model_with_the_layers_gives_what_the_hooks_give(tmp_path, llama, linear):
    model = made(llama)
    layers = linearized_mlps(model, TEXT, held_out=TEXT[:50], linear=linear)
    gated = model(TOKENS).detach()
    with replaced(model, layers):
        expected = model(TOKENS).detach()
    assert torch.equal(model(TOKENS).detach(), gated)
    assert float((expected - gated).abs().max()) > 1e-4  # the layers are not the MLPs
    put_layers(model, layers)
    torch.testing.assert_close(model(TOKENS), expected, rtol=1e-11, atol=1e-11)
    assert (model.config.gate, model.config.mlp_bias, model.config.mlp_linear) == ("none", True, linear and not llama)

    save, load = (save_huggingface, load_huggingface) if llama else (save_transformer, load_transformer)
    save(model, tmp_path)
    loaded = load(tmp_path)
    torch.testing.assert_close(loaded.double()(TOKENS), model(TOKENS), rtol=1e-11, atol=1e-11)
    assert loaded.config == model.config
    inputs = mlp_inputs(made(llama), TEXT[:70])
    options = {"layout": "llama", "gate_removed": True} if llama else {}
    for index, (name, x) in enumerate(inputs.items()):
        opened = load_layer(tmp_path, index, **options)
        torch.testing.assert_close(opened(x), layers[name](x), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(opened(x), model.get_submodule(name)(x).detach(), rtol=1e-11, atol=1e-11)


def test_each_part_of_the_fit_lowers_the_error_of_every_layer():
    model = made()
    layers, inputs = gated_mlps(model), mlp_inputs(model, TEXT)
    ways = [{"refit": False}, {"linear": False}, {}]
    found = [linearized_mlps(model, TEXT, **way) for way in ways]
    for name, layer in layers.items():
        errors = [linearization_error(layer, way[name], inputs[name]) for way in found]
        assert 0 < errors[2] <= errors[1] <= errors[0]  # each way contains the one before


def test_a_linearized_model_trains_on_and_every_part_moves(tmp_path):
    model = made().float()
    put_layers(model, linearized_mlps(model, TEXT))
    before = {name: part.detach().clone() for name, part in model.named_parameters()}
    training = LanguageConfig(steps=30, batch_size=4, warmup=2, lr=1e-3)
    loss = held_out_loss(model, TEXT)
    train_language(model, TEXT, training, tmp_path, progress=False)
    assert held_out_loss(model, TEXT) < loss
    moved = {name for name, part in model.named_parameters() if not torch.equal(part, before[name])}
    assert moved == set(before)
    assert {name.removeprefix("blocks.1.mlp.") for name in moved if name.startswith("blocks.1.mlp.")} == {
        *(f"{part}.{kind}" for part in ("left", "right", "down") for kind in ("weight", "bias")),
        "linear.weight",
    }


def test_the_network_of_a_linearized_model_is_the_model():
    model = made()
    put_layers(model, linearized_mlps(model, TEXT))
    network = model.network()
    torch.testing.assert_close(network(model.embedding(TOKENS).detach()), model(TOKENS).detach())


def test_a_half_annealed_gate_is_linearized_as_it_is_now():
    model = made()
    anneal(model, "linear", 0, 2)(1, model)
    x = normal(20, 8)
    for name, layer in gated_mlps(model).items():
        torch.testing.assert_close(layer(x), model.get_submodule(name)(x).detach(), rtol=1e-12, atol=1e-12)


def test_a_linear_gate_costs_nothing():
    """With z / 2 in the place of the gate, the best bilinear layer is the MLP itself."""
    model = made()
    anneal(model, "linear", 0, 0)
    expected = model(TOKENS).detach()
    put_layers(model, linearized_mlps(model, TEXT))
    torch.testing.assert_close(model(TOKENS), expected, rtol=1e-8, atol=1e-8)


def test_the_config_says_what_the_file_holds(tmp_path):
    model = made()
    put_layers(model, linearized_mlps(model, TEXT))
    save_transformer(model, tmp_path)
    config = load_config(tmp_path)
    assert (config["bias"], config["mlp_bias"], config["mlp_linear"]) == (False, True, True)
    plain = build_transformer(CONFIG, seed=0)
    save_transformer(plain, tmp_path / "plain")
    assert not {"mlp_bias", "mlp_linear"} & set(load_config(tmp_path / "plain"))


class Softmax(nn.Module):
    def forward(self, z):
        return z.softmax(-1)


def test_what_cannot_be_linearized_is_refused():
    model = made()
    model.mlp(1).activation = Softmax()
    with pytest.raises(ValueError, match="function of one number"):
        linearized_mlps(model, TEXT)
    with pytest.raises(ValueError, match="a gated layer needs a gate"):
        linearized_mlps(build_transformer(TransformerConfig(**vars(CONFIG) | {"gate": "none"}), seed=0), TEXT)
    with pytest.raises(ValueError, match="inputs has 14 vectors, but 15 coefficients per output are fitted"):
        linearized_mlps(made(), TEXT[:14])
    with pytest.raises(ValueError, match="at least one context of 7, got 5"):
        linearized_mlps(made(), TEXT[:5])


def test_units_that_never_fire_are_named():
    model = made(gate="relu")
    with torch.no_grad():
        model.mlp(0).right.weight[4] = 0
    with pytest.warns(UserWarning, match="1 hidden units are 0 on all inputs: 4"):
        linearized_mlps(model, TEXT)


def test_layers_that_do_not_fit_change_nothing():
    model = made()
    layers = linearized_mlps(model, TEXT)
    expected = model(TOKENS)
    some = dict(list(layers.items())[:2])
    mixed = {
        **layers,
        **{name: layer for name, layer in linearized_mlps(model, TEXT, linear=False).items() if "1" in name},
    }
    for wrong, message in (
        (some, "layers must be those of"),
        (mixed, "either all layers or no layer must have a linear part"),
        ({name: layer.symmetrize() for name, layer in layers.items()}, "must be lifted, with 8 inputs and 6 hidden"),
    ):
        with pytest.raises(ValueError, match=message):
            put_layers(model, wrong)
    with (
        pytest.raises(ValueError, match="layers must be one of"),
        replaced(model, {"blocks.9.mlp": layers["blocks.0.mlp"]}),
    ):
        pass
    assert torch.equal(model(TOKENS), expected)
