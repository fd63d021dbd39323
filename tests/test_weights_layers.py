"""Layers read from disk are the model's own; what cannot be read as one is refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import normal
from published import attention, logits, make_config, make_tensors, one_shard_a_layer, raw_mlp, rms, write
from safetensors.torch import save_file

from models import ClassifierConfig, build_classifier, save_model
from models.logic_gates import LogicGate, LogicGateConfig, LogicGateModel
from tensornet_interp.weights import LAYOUTS, Layout, load_layer, load_tensor

X = normal(5, 12, seed=7)


MLP = "transformer.h.1.mlp"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sharded", [False, True])
def test_logits_equal_an_independent_forward_pass(tmp_path, sharded, dtype):
    tensors = make_tensors(dtype=dtype)
    write(tmp_path, tensors, shards=one_shard_a_layer(tensors) if sharded else None)
    tokens = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    expected = logits(tensors, tokens, lambda i, x: raw_mlp(tensors, i, x))
    layers = [load_layer(tmp_path, i) for i in range(3)]
    roles = {name: load_tensor(tmp_path, name) for name in tensors}
    found = logits(roles, tokens, lambda i, x: layers[i](x))
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1
    other = logits(roles, tokens, lambda i, x: layers[2 - i](x))
    assert (other - expected).abs().max() > 0.1  # the layers do matter


def test_positions_and_order_of_the_forward_pass_matter():
    tensors = make_tensors()
    qkv, o = tensors["transformer.h.0.attn.qkv.weight"], tensors["transformer.h.0.attn.o.weight"]
    y = attention(rms(X), qkv, o)
    assert torch.allclose(attention(rms(X[:3]), qkv, o), y[:3])  # causal
    swapped = attention(rms(X[[1, 0, 2, 3, 4]]), qkv, o)
    assert (swapped[2:] - y[2:]).abs().max() > 1e-3  # rotary: positions count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_layer_on_a_device_in_a_dtype(tmp_path, device, dtype):
    tensors = make_tensors(dtype=torch.float32)
    layer = load_layer(write(tmp_path), 1, device=device, dtype=dtype)
    assert {factor.dtype for factor in (layer.down, layer.left, layer.right)} == {dtype}
    assert layer.down.device.type == device
    assert layer.shape == (12, 12, 12)
    assert layer.rank == 10
    assert tensors[f"{MLP}.w.weight"].shape == (20, 12)


def test_the_basis_says_whether_the_inputs_are_after_a_norm(tmp_path):
    def basis(config, name):
        return load_layer(write(tmp_path / name, config=config), 0).basis

    assert basis(make_config(), "a") == ("residual stream after the norm before the layer (normalization='rms')")
    assert basis(make_config(normalization=False), "b").startswith("residual stream, no norm")
    assert "after the norm, if the model has one" in basis({"n_layer": 3}, "c")
    (tmp_path / "a" / "config.json").unlink()
    layer = load_layer(tmp_path / "a", 0)
    assert layer.history == ("no config.json: gate and norm are not known",)
    assert layer.name == "a layer 0"


def test_biases_of_the_file_are_lifted(tmp_path):
    tensors = make_tensors() | {f"{MLP}.w.bias": normal(20, seed=1), f"{MLP}.p.bias": normal(12, seed=2)}
    left, right = (X @ tensors[f"{MLP}.w.weight"].T + tensors[f"{MLP}.w.bias"]).chunk(2, -1)
    expected = (left * right) @ tensors[f"{MLP}.p.weight"].T + tensors[f"{MLP}.p.bias"]
    layer = load_layer(write(tmp_path, tensors), 1)
    assert layer.constant_in
    assert torch.allclose(layer(X), expected, atol=1e-12)
    no_bias = replace(LAYOUTS["published"], left_bias=None, right_bias=None, bias=None)
    with pytest.raises(ValueError, match=r"not name: transformer\.h\.1\.mlp\.p\.bias, .*\.w\.bias; name them"):
        load_layer(tmp_path, 1, layout=no_bias)
    ignored = load_layer(tmp_path, 1, layout=replace(no_bias, ignore=tuple(f"{MLP}.{n}.bias" for n in "wp")))
    assert not ignored.constant_in
    assert "ignored tensors: transformer.h.1.mlp.w.bias" in ignored.history[-1]


@pytest.mark.parametrize("transposed", [False, True])
def test_a_linear_part_of_the_file_is_lifted(tmp_path, transposed):
    names = {"left": "{i}.l", "right": "{i}.r", "down": "{i}.d", "linear": "{i}.a"}
    shapes = {"left": (4, 12), "right": (4, 12), "down": (3, 4), "linear": (3, 12)}
    w = {role: normal(*shape, seed=place) for place, (role, shape) in enumerate(shapes.items())}
    stored = {names[role].replace("{i}", "0"): part.T.contiguous() if transposed else part for role, part in w.items()}
    layout = Layout(**names, transposed=transposed)
    layer = load_layer(write(tmp_path, stored, {}), 0, layout=layout)
    expected = ((X @ w["left"].T) * (X @ w["right"].T)) @ w["down"].T + X @ w["linear"].T
    assert torch.allclose(layer(X), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"has a linear part, '0\.a', which a gated layer does not have"):
        load_layer(tmp_path, 0, layout=layout, gated="silu")
    with pytest.raises(ValueError, match=r"layout does not name: 0\.a; name them"):
        load_layer(tmp_path, 0, layout=replace(layout, linear=None))
    write(tmp_path / "less", {name: part for name, part in stored.items() if name != "0.a"}, {"mlp_linear": True})
    with pytest.raises(ValueError, match=r"no tensor for linear '0\.a'"):
        load_layer(tmp_path / "less", 0, layout=layout)
    wrong = stored | {"0.a": normal(*((12, 4) if transposed else (4, 12)))}
    with pytest.raises(ValueError, match="mode 'out' has size 3"):
        load_layer(write(tmp_path / "wrong", wrong, {}), 0, layout=layout)


def test_compiled_models_right_above_left_and_other_names(tmp_path):
    tensors = make_tensors()
    expected = raw_mlp(tensors, 1, X)
    write(tmp_path / "compiled", {f"_orig_mod.{name}": value for name, value in tensors.items()})
    assert torch.allclose(load_layer(tmp_path / "compiled", 1)(X), expected)
    left, right = tensors[f"{MLP}.w.weight"].chunk(2)
    down = tensors[f"{MLP}.p.weight"]
    parts = {"a.1.both": torch.cat([right, left]), "a.1.down": down, "b.l1": left, "b.r1": right}
    write(tmp_path / "other", {key: value.clone() for key, value in parts.items()}, config={})
    layout = Layout("a.{i}.both", "a.{i}.both", "a.{i}.down", first="right")
    layer = load_layer(tmp_path / "other", 1, layout=layout)
    assert torch.equal(layer.left, left.T)
    assert torch.equal(layer.right, right.T)
    split = load_layer(tmp_path / "other", 1, layout=Layout("b.l{i}", "b.r{i}", "a.{i}.down", ignore=("a.{i}.both",)))
    assert torch.allclose(split(X), expected)
    hidden = load_layer(tmp_path / "other", 1, layout=replace(layout, down=None, ignore=("a.{i}.down",)))
    assert torch.allclose(hidden(X), (X @ left.T) * (X @ right.T))
    residual = load_layer(tmp_path / "other", 1, layout=replace(layout, residual=0.5))
    assert torch.allclose(residual(X), expected + X / 2)


def test_a_gated_layout_needs_the_word_that_its_gate_is_gone(tmp_path):
    stem = "model.layers.0.mlp"
    parts = {f"{stem}.{name}_proj.weight": normal(10, 12, seed=i) for i, name in enumerate(["gate", "up"])}
    parts[f"{stem}.down_proj.weight"] = normal(12, 10, seed=5)
    sizes = {"hidden_size": 12, "intermediate_size": 10, "num_hidden_layers": 1}
    write(tmp_path, parts, config=sizes | {"hidden_act": "silu"})
    with pytest.raises(ValueError, match=r"a gate \(hidden_act='silu' in config.json; the layout has a gate on left"):
        load_layer(tmp_path, 0, layout="llama")
    layer = load_layer(tmp_path, 0, layout="llama", gate_removed=True)
    gate, up, down = parts.values()
    assert torch.allclose(layer(X), ((X @ gate.T) * (X @ up.T)) @ down.T)
    assert "gate said to be removed" in layer.history


@pytest.mark.parametrize(
    "config", [{"feed_forward_proj": "gated-gelu"}, {"text_config": {"hidden_activation": "gelu_pytorch_tanh"}}]
)
def test_a_gate_is_found_under_the_names_of_other_families(tmp_path, config):
    parts = {"0.wi_0.weight": normal(10, 12), "0.wi_1.weight": normal(10, 12), "0.wo.weight": normal(12, 10)}
    write(tmp_path, parts, config=config)
    layout = Layout(left="{i}.wi_0.weight", right="{i}.wi_1.weight", down="{i}.wo.weight")
    with pytest.raises(ValueError, match=r"has a gate \((feed_forward_proj|hidden_activation)='.*gate_removed=True"):
        load_layer(tmp_path, 0, layout=layout)
    assert "gate said to be removed" in load_layer(tmp_path, 0, layout=layout, gate_removed=True).history


def test_torch_bilinear_layers(tmp_path):
    modules = torch.nn.ModuleList([torch.nn.Bilinear(12, 12, 3, dtype=torch.float64) for _ in range(2)])
    save_file(modules.state_dict(), tmp_path / "model.safetensors")
    layer = load_layer(tmp_path, 1, layout="torch_bilinear")
    assert torch.allclose(layer(X), modules[1](X, X), atol=1e-12)
    save_file(modules[0].state_dict(), tmp_path / "model.safetensors")
    alone = load_layer(tmp_path / "model.safetensors", 0, layout=Layout(dense="weight", bias="bias"))
    assert torch.allclose(alone(X), modules[0](X, X), atol=1e-12)
    with pytest.raises(ValueError, match="layout does not name: bias"):
        load_layer(tmp_path, 0, layout=Layout(dense="weight"))


OWN = {
    "plain": ClassifierConfig(inputs=12, width=None, hidden=6, classes=3, n_layers=2),
    "all": ClassifierConfig(inputs=7, width=12, hidden=6, classes=3, n_layers=2, down=True, bias=True, residual=0.5),
}


@pytest.mark.parametrize("kind", OWN)
def test_models_of_this_project(tmp_path, kind):
    model = build_classifier(OWN[kind], seed=1, dtype=torch.float64)
    save_model(model, tmp_path)
    bases = {"plain": "pixels", "all": "embedding"}
    for i, block in enumerate(model.blocks):
        layer = load_layer(tmp_path, i, layout="tensornet_interp")
        x = normal(4, block.left.in_features)
        assert torch.allclose(layer(x), block(x), atol=1e-12)
        assert layer.basis == (f"outputs of layer {i - 1}" if i else bases[kind])
    with pytest.raises(ValueError, match=r"index must be below 2, which is n_layers in config\.json, got 2"):
        load_layer(tmp_path, 2, layout="tensornet_interp")


def test_gate_models_and_gated_models_of_this_project(tmp_path):
    model = LogicGateModel(LogicGateConfig(3, (LogicGate("and", 0, 1),), hidden=4))
    save_model(model, tmp_path / "bits")
    x = normal(4, 3, dtype=torch.float32)
    assert torch.allclose(load_layer(tmp_path / "bits", 0, layout="tensornet_interp")(x), model(x), atol=1e-5)
    save_model(build_classifier(replace(OWN["all"], gate="relu"), seed=0), tmp_path / "relu")
    with pytest.raises(ValueError, match=r"has a gate \(gate='relu' in config.json\).*gate_removed=True"):
        load_layer(tmp_path / "relu", 0, layout="tensornet_interp")


MEASURE = Path(__file__).with_name("measure_reading.py")


SMALL = {"d": 512, "hidden": 2048, "layers": 8, "vocab": 8192}


FULL = {"d": 1024, "hidden": 4096, "layers": 16, "vocab": 1024}


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="reads and resident memory are counted by Linux")
@pytest.mark.parametrize("sizes", [SMALL, pytest.param(FULL, marks=pytest.mark.slow)], ids=["168 MB", "1 GB"])
def test_one_layer_is_read_in_the_memory_of_one_layer(tmp_path, sizes):
    tensors = make_tensors(**sizes, dtype=torch.float32)
    config = make_config(**{key: sizes[key] for key in ("d", "hidden", "layers")})
    write(tmp_path, tensors, config)
    layer = 12 * sizes["d"] * sizes["hidden"]  # bytes
    del tensors
    run = subprocess.run(
        [sys.executable, MEASURE, tmp_path, str(sizes["layers"] // 2)],
        env=os.environ | {"PYTHONPATH": str(MEASURE.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    (tmp_path / "model.safetensors").unlink()  # pytest keeps the folder
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    print(found | {"layer": layer, "sizes": sizes})
    assert layer <= found["read"] < layer + 2**20
    assert found["read"] < 0.1 * found["file"]
    assert layer <= found["peak"] < 3 * layer
    ahead = 2**24  # what the kernel reads ahead behind the header is the disk's setting
    assert found["cached"] is None or found["cached"] < layer + ahead


@pytest.mark.parametrize("act", ["silu", "gelu", "relu"])
def test_a_gated_layer_computes_the_mlp_of_llama(tmp_path, act):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=20,
        hidden_act=act,
        mlp_bias=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data.add_(0.1)  # biases that are not zero
    model.save_pretrained(tmp_path)
    found = load_layer(tmp_path, 1, layout="llama", gated=True)
    x = normal(5, 8, dtype=torch.float32)
    assert (found.gate, found.name) == (act, f"{tmp_path.name} layer 1")
    torch.testing.assert_close(found(x), model.model.layers[1].mlp(x).detach(), rtol=1e-5, atol=1e-5)


def test_the_gate_is_named_by_the_config_or_by_the_call(tmp_path):
    parts = {"0.wi_0.weight": normal(10, 12), "0.wi_1.weight": normal(10, 12, seed=1), "0.wo.weight": normal(12, 10)}
    layout = Layout(left="{i}.wi_0.weight", right="{i}.wi_1.weight", down="{i}.wo.weight")
    write(tmp_path, parts, config={"feed_forward_proj": "gated-gelu"})
    left, right, down = parts.values()
    expected = (torch.nn.functional.gelu(X @ left.T, approximate="tanh") * (X @ right.T)) @ down.T
    torch.testing.assert_close(load_layer(tmp_path, 0, layout=layout, gated=True)(X), expected)
    torch.testing.assert_close(
        load_layer(tmp_path, 0, layout=layout, gated="relu")(X), ((X @ left.T).relu() * (X @ right.T)) @ down.T
    )
    torch.testing.assert_close(
        load_layer(tmp_path, 0, layout=layout, gated=torch.sin)(X), ((X @ left.T).sin() * (X @ right.T)) @ down.T
    )
    for config, words in (
        ({}, "neither config.json nor the layout speaks of a gate"),
        ({"hidden_act": "swoosh"}, "config.json names swoosh, but gated=True needs one of gelu, "),
        ({"hidden_act": "silu", "gate": "relu"}, "config.json names relu, silu, but"),
        ({"bilinear": False}, "ordinary one"),
    ):
        write(tmp_path, parts, config=config)
        with pytest.raises(ValueError, match=words):
            load_layer(tmp_path, 0, layout=layout, gated=True)
    write(tmp_path, parts, config={"hidden_act": "silu"})
    with pytest.raises(ValueError, match="contradict each other"):
        load_layer(tmp_path, 0, layout=layout, gated=True, gate_removed=True)
    with pytest.raises(ValueError, match="without a residual"):
        load_layer(tmp_path, 0, layout=replace(layout, residual=1.0), gated=True)
    with pytest.raises(ValueError, match="load_layer with gated=True loads it as a gated layer"):
        load_layer(tmp_path, 0, layout=layout)
