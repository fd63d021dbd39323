"""Checkpoints in other layouts: transposed weights, names with prefixes of wrappers, sizes that the config knows."""

import warnings
from dataclasses import replace

import pytest
import torch
from helpers import normal
from published import make_config, make_tensors, raw_mlp, write
from safetensors.torch import save_file

from tensornet_interp.weights import (
    LAYOUTS,
    Layout,
    WeightFiles,
    inspect_files,
    load_dictionary,
    load_layer,
    load_tensor,
)

X = normal(5, 12, seed=7)
MLP = "transformer.h.1.mlp"


def behind(d=12, hidden=10):
    """The MLP of a block of TransformerLens, as its state dict names and shapes it."""
    shapes = {"W_gate": (d, hidden), "W_in": (d, hidden), "W_out": (hidden, d), "b_in": (hidden,), "b_out": (d,)}
    return {f"blocks.1.mlp.{name}": normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}


def test_a_gated_mlp_of_transformer_lens(tmp_path):
    parts = behind()
    write(tmp_path, parts, config={"d_model": 12, "d_mlp": 10, "n_layers": 2, "act_fn": "silu"})
    with pytest.raises(ValueError, match=r"a gate \(act_fn='silu' in config\.json; the layout has a gate on left\)"):
        load_layer(tmp_path, 1, layout="transformer_lens")
    layer = load_layer(tmp_path, 1, layout="transformer_lens", gate_removed=True)
    gate, w_in, w_out, b_in, b_out = parts.values()
    assert torch.allclose(layer(X), ((X @ gate) * (X @ w_in) + b_in) @ w_out + b_out, atol=1e-12)
    with pytest.raises(ValueError, match=r"no tensor for left 'blocks\.0\.mlp\.W_gate'"):
        load_layer(
            write(tmp_path / "plain", {"blocks.0.mlp.W_in": normal(3, 4)}, config={}), 0, layout="transformer_lens"
        )


def test_stacked_and_transposed(tmp_path):
    tensors = make_tensors()
    turned = {name: value.T.contiguous() if "mlp" in name else value for name, value in tensors.items()}
    write(tmp_path, turned)
    layer = load_layer(tmp_path, 1, layout=replace(LAYOUTS["published"], transposed=True))
    assert torch.allclose(layer(X), raw_mlp(tensors, 1, X), atol=1e-12)
    odd = turned | {f"{MLP}.w.weight": normal(12, 21)}
    with pytest.raises(ValueError, match=r"so its columns must be even, got shape \(12, 21\)"):
        load_layer(write(tmp_path, odd, {}), 1, layout=replace(LAYOUTS["published"], transposed=True))


SIDES = Layout(left="{i}.l", right="{i}.r", down="{i}.d")
KNOWN = {"d_model": 12, "d_hidden": 10}


@pytest.mark.parametrize(
    ("layout", "turned", "config", "hint"),
    [
        (SIDES, True, KNOWN, True),
        (replace(SIDES, transposed=True), False, KNOWN, False),
        (replace(SIDES, bias="{i}.b"), True, {}, True),
    ],
)
def test_sizes_that_the_other_way_round_explains(layout, turned, config, hint, tmp_path):
    """With a config, or with a bias, nothing transposed loads in silence, and the advice of the error loads it."""
    left, right, down = normal(10, 12), normal(10, 12, seed=1), normal(12, 10, seed=2)
    parts = {"0.l": left, "0.r": right, "0.d": down}
    write(tmp_path, {name: value.T.contiguous() if turned else value for name, value in parts.items()}, config)
    if layout.bias:
        save_file(
            {**{n: v.T.contiguous() for n, v in parts.items()}, "0.b": normal(12)}, tmp_path / "model.safetensors"
        )
    with pytest.raises(ValueError, match=rf"mode '.*transposed={hint}, made by dataclasses\.replace"):
        load_layer(tmp_path, 0, layout=layout)
    layer = load_layer(tmp_path, 0, layout=replace(layout, transposed=hint)).drop_constant()
    bias = normal(12) if layout.bias else 0
    assert torch.allclose(layer(X), ((X @ left.T) * (X @ right.T)) @ down.T + bias, atol=1e-12)


def test_an_own_layout_of_what_the_config_does_not_describe_is_warned_of(tmp_path):
    parts = {"0.l": normal(5, 7), "0.r": normal(5, 7, seed=1), "0.d": normal(7, 5, seed=2)}
    write(tmp_path, parts, KNOWN)
    with pytest.warns(UserWarning, match=r"size 10 in config\.json's d_hidden but 5 in '0\.l'.* does the layout name"):
        assert load_layer(tmp_path, 0, layout=SIDES).shape == (7, 7, 7)
    write(tmp_path, parts | {"0.d": normal(7, 6)}, KNOWN)
    with pytest.raises(ValueError, match="mode 'rank' has size 10"):
        load_layer(tmp_path, 0, layout=SIDES)


PREFIXES = ["module.", "model.", "base_model.model.", "module.model.", "module._orig_mod.", "_fsdp_wrapped_module."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_found(prefix, tmp_path):
    tensors = make_tensors()
    biases = {f"{MLP}.w.bias": normal(20, seed=1)}
    write(tmp_path, {prefix + name: value for name, value in (tensors | biases).items()})
    layer = load_layer(tmp_path, 1)
    left, right = (X @ tensors[f"{MLP}.w.weight"].T + biases[f"{MLP}.w.bias"]).chunk(2, -1)
    assert torch.allclose(layer(X), (left * right) @ tensors[f"{MLP}.p.weight"].T, atol=1e-12)
    assert torch.equal(load_tensor(tmp_path, "lm_head.weight"), tensors["lm_head.weight"])
    assert torch.equal(load_tensor(tmp_path, prefix + "lm_head.weight"), tensors["lm_head.weight"])
    with pytest.raises(ValueError, match=r"no tensor for down .*\.mlp\.q\.weight'"):
        load_layer(tmp_path, 1, layout=replace(LAYOUTS["published"], down="transformer.h.{i}.mlp.q.weight"))


def test_wrappers_inside_of_names_and_a_prefix_of_the_layout_that_the_file_lacks(tmp_path):
    tensors = make_tensors()
    inside = {name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."): value for name, value in tensors.items()}
    assert torch.allclose(load_layer(write(tmp_path / "in", inside), 1)(X), raw_mlp(tensors, 1, X))
    names = dict.fromkeys(("gate_proj", "up_proj"), (10, 12)) | {"down_proj": (12, 10)}
    parts = {f"layers.0.mlp.{name}.weight": normal(*shape) for name, shape in names.items()}
    write(tmp_path / "base", parts, config={})
    assert load_layer(tmp_path / "base", 0, layout="llama", gate_removed=True).shape == (12, 12, 12)
    with pytest.raises(ValueError, match=r"index must be one of \[0\]"):
        load_layer(tmp_path / "base", 1, layout="llama", gate_removed=True)


def test_two_matches_are_an_error_that_shows_both_and_a_prefix_chooses(tmp_path):
    one, other = make_tensors(seed=0), make_tensors(seed=1)
    write(tmp_path, {f"module.{name}": value for name, value in other.items()} | one)
    with pytest.raises(ValueError, match=rf"layer 1 is there twice, with '{MLP}.*' and with 'module\.{MLP}.*prefix="):
        load_layer(tmp_path, 1)
    for prefix, tensors in (("", one), ("module.", other)):
        layer = load_layer(tmp_path, 1, layout=replace(LAYOUTS["published"], prefix=prefix))
        assert torch.allclose(layer(X), raw_mlp(tensors, 1, X))
    assert torch.equal(load_tensor(tmp_path, "module.lm_head.weight"), other["lm_head.weight"])  # a full name
    with pytest.raises(ValueError, match=r"must be one of 'lm_head.weight', 'module.lm_head.weight', got 'model.lm_"):
        load_tensor(tmp_path, "model.lm_head.weight")
    student = write(tmp_path / "student", {f"student.{name}": value for name, value in one.items()})
    with pytest.raises(ValueError, match="no tensor for left"):
        load_layer(student, 1)
    assert load_layer(student, 1, layout=replace(LAYOUTS["published"], prefix="student.")).rank == 10


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("kind", ["paper", "saelens"])
def test_prefixes_are_left_out_of_the_names_of_a_dictionary(kind, prefix, tmp_path):
    encoder, decoder, bias = normal(8, 4, seed=1), normal(4, 8, seed=2), normal(4, seed=3)
    folder = tmp_path / "3-mlp-out-x2-k5"
    if kind == "paper":
        tensors, file = {"w_enc.weight": encoder, "w_dec.weight": decoder, "b_dec": bias}, "model.safetensors"
    else:
        tensors = {"W_enc": encoder.T, "W_dec": decoder.T, "b_dec": bias, "b_enc": torch.zeros(8, dtype=bias.dtype)}
        file = "sae_weights.safetensors"
    folder.mkdir()
    (folder / "cfg.json").write_text('{"architecture": "topk", "k": 5}')
    save_file({prefix + name: value.contiguous() for name, value in tensors.items()}, folder / file)
    found = load_dictionary(folder)
    assert torch.equal(found.encoder, encoder)
    assert torch.equal(found.decoder, decoder)
    (seen,) = inspect_files(folder).files
    assert (seen.kind, seen.contents) == ("dictionary", ("8 features of size 4, F64",))
    twice = {"b_dec": bias, "module.b_dec": bias.clone()}
    save_file({name: value.contiguous() for name, value in (tensors | twice).items()}, folder / file)
    with pytest.raises(ValueError, match=r"has both 'b_dec' and 'module\.b_dec': two tensors of one name"):
        load_dictionary(folder)


@pytest.mark.parametrize("layout", ["llama", "published"])
def test_an_adapter_is_named_and_what_to_do_with_it(layout, tmp_path):
    module = "model.layers.0.mlp.gate_proj" if layout == "llama" else "transformer.h.0.mlp.w"
    tensors = {f"base_model.model.{module}.lora_{side}.weight": normal(2, 4) for side in "AB"}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match=r"a LoRA adapter \(.*lora_A\.weight, \.\.\.\).*merge_and_unload"):
        load_layer(tmp_path, 0, layout=layout)
    (seen,) = inspect_files(tmp_path).files
    assert "a LoRA adapter" in seen.note


def test_an_adapter_that_is_not_merged_is_refused_only_if_it_changes_the_layer(tmp_path):
    tensors = make_tensors()
    change = {f"transformer.h.1.{place}.lora_A.default.weight": normal(2, 12) for place in ("attn.qkv", "mlp.p")}
    here = {name: value for name, value in change.items() if "attn" in name}
    assert torch.allclose(load_layer(write(tmp_path / "attention", tensors | here), 1)(X), raw_mlp(tensors, 1, X))
    with pytest.raises(ValueError, match=r"a LoRA adapter \(transformer\.h\.1\.mlp\.p\.lora_A"):
        load_layer(write(tmp_path / "mlp", tensors | change), 1)


def test_a_tied_unembedding_is_named(tmp_path):
    files = WeightFiles(write(tmp_path, {name: v for name, v in make_tensors().items() if name != "lm_head.weight"}))
    with pytest.raises(ValueError, match=r"tied to the embedding is stored once, as 'transformer\.wte\.weight'"):
        files.read("lm_head.weight")


def test_checks_come_in_the_order_of_a_person(tmp_path, monkeypatch):
    """Does it exist, can it be read, is it the right layout, has it a gate."""
    monkeypatch.chdir(write(tmp_path / "llama-1b", config=make_config(gate="silu")).parent)
    with pytest.raises(FileNotFoundError, match=r"llama-1c' is neither .*; did you mean 'llama-1b'\?"):
        load_layer(tmp_path / "llama-1c", 0, layout="llama")
    with pytest.raises(FileNotFoundError, match=r"llama-1b/modle\.safetensors is missing; did you mean 'model\.saf"):
        load_layer("llama-1b/modle.safetensors", 0, layout="llama")
    (tmp_path / "runs" / "step-100").mkdir(parents=True)
    with pytest.raises(
        FileNotFoundError, match=r"step-10 is missing .*'step-100'\?; for the hub's .*'runs/step-10@main'"
    ):
        load_layer("runs/step-10", 0, layout="llama")  # no waiting for a hub
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt is missing"):
        load_layer("nothing.pt", 0)
    with pytest.raises(ValueError, match=r"no tensor for left 'model\.layers\.0.mlp.gate_proj.weight'"):
        load_layer("llama-1b", 0, layout="llama")
    with pytest.raises(ValueError, match="has a gate"):
        load_layer("llama-1b", 0)
    (tmp_path / "llama-1b" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="corrupt"):
        load_layer("llama-1b", 0)


def test_no_warning_for_sizes_that_agree(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_layer(write(tmp_path), 1, layout=replace(LAYOUTS["published"], basis="given"))
