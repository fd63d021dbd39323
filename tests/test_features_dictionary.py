"""Dictionaries read and write features as documented; a layer between two of them is the function between them."""

import json
import re
from dataclasses import replace

import pytest
import torch
from helpers import assert_close, normal
from safetensors.torch import save_file

from tensornet_interp import BilinearLayer, lift
from tensornet_interp.features import Dictionary, between
from tensornet_interp.weights import load_dictionary


def dictionary_of(d=5, features=7, seed=0, **options):
    given = {"encoder_bias": normal(features, seed=seed + 2), "decoder_bias": normal(d, seed=seed + 3), "name": "some"}
    return Dictionary(normal(features, d, seed=seed), normal(d, features, seed=seed + 1), **(given | options))


def by_hand(sae, x):
    """One sample, feature by feature."""
    shifted = x - sae.decoder_bias if sae.centered else x
    f = [float(row @ shifted + bias) for row, bias in zip(sae.encoder, sae.encoder_bias, strict=True)]
    kept = set(sorted(range(len(f)), key=lambda i: -f[i])[: sae.k])
    f = [value if i in kept else 0.0 for i, value in enumerate(f)]
    if sae.rectify:
        f = [max(value, 0.0) for value in f]
    if sae.threshold is not None:
        f = [value if value > sae.threshold[i] else 0.0 for i, value in enumerate(f)]
    return torch.tensor(f, dtype=x.dtype)


@pytest.mark.parametrize(
    "options", [{}, {"k": 3}, {"k": 6, "rectify": False}, {"centered": False}, {"threshold": normal(7, seed=9).abs()}]
)
def test_encoding_and_decoding(options, device):
    sae, x = dictionary_of(**options), normal(4, 5, seed=8)
    on = sae.to(device)
    expected = torch.stack([by_hand(sae, row) for row in x])
    f = on.encode(x.to(device))
    assert_close(f.cpu(), expected)
    assert 0 < (expected != 0).sum() < expected.numel()
    assert_close(on.decode(f).cpu(), expected @ sae.decoder.T + sae.decoder_bias)
    assert sae.to(dtype=torch.float32).encode(x.float()).dtype == torch.float32


def test_any_matrix_is_a_dictionary():
    basis, _ = torch.linalg.qr(normal(5, 5))
    x = normal(4, 5, seed=8)
    sae = Dictionary.from_matrix(basis)
    assert_close(sae.decode(sae.encode(x)), x)
    assert_close(sae.encode(x), x @ basis)
    other = Dictionary.from_matrix(normal(5, 9), torch.linalg.pinv(normal(5, 9)))
    assert_close(other.decode(other.encode(x)), x)


SIDES = {"both": (True, True), "before": (True, False), "after": (False, True)}


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("sides", SIDES)
def test_a_layer_between_dictionaries_is_the_function_between_them(sides, lifted, device):
    layer = BilinearLayer(down=normal(3, 4), left=normal(5, 4, seed=1), right=normal(5, 4, seed=2), name="layer 0").to(
        device
    )
    layer = lift(layer, bias=normal(3, seed=4).to(device)) if lifted else layer
    before, after = (
        part.to(device) for part in (dictionary_of(name="a"), dictionary_of(d=3, features=8, seed=20, k=2, name="b"))
    )
    inputs, outputs = (part if on else None for part, on in zip((before, after), SIDES[sides], strict=True))
    found = between(layer, inputs, outputs)
    f = normal(6, 7, seed=30).to(device) if inputs else normal(6, 5, seed=30).to(device)
    y = layer(inputs.decode(f) if inputs else f)
    assert_close(found(f), outputs.pre_activations(y) if outputs else y)
    assert found.constant_in
    notes = [note for note in found.history if "features" in note]
    assert len(notes) == sum(SIDES[sides])
    assert found.basis == ("features of a (decoder columns)" if inputs else "as given")


def test_without_biases_the_entries_are_columns_and_rows_alone():
    layer = BilinearLayer(down=normal(3, 4), left=normal(5, 4, seed=1), right=normal(5, 4, seed=2))
    before, after = dictionary_of(), dictionary_of(d=3, features=8, seed=20)
    found = between(layer, before, after, biases=False)
    dense = torch.einsum("go,oij,ia,jb->gab", after.encoder, layer.to_tensor(), before.decoder, before.decoder)
    assert_close(found.to_tensor(), dense)
    assert found.shape == (8, 7, 7)
    assert found.basis == "features of some (decoder columns, biases left out)"
    matrix = (dense[2] + dense[2].T) / 2
    assert_close(found.interaction_matrix(torch.eye(8, dtype=torch.float64)[2]), matrix)


POINTS = {
    "paper, swapped": ("3-mlp-out", "3-mlp-in", "inputs=.* is of mlp-out of layer 3, .* does not read"),
    "hooks, outputs before the layer": ("", "blocks.3.hook_resid_mid", "outputs=.* layer does not write"),
    "inputs of another layer": ("2-mlp-in", "", "inputs=.* is of layer 2, but the layer is 'm layer 3'"),
    "outputs of another layer": ("", "blocks.4.hook_mlp_out", "outputs=.* is of layer 4, but the layer is"),
    "the layer's own resid-post": ("3-resid-post", "", "inputs=.* is of layer 4, but the layer is"),
    "two layers": ("1-mlp-in", "2-mlp-out", "outputs=.* is of layer 2, but inputs are of layer 1"),
}


@pytest.mark.parametrize("case", POINTS)
def test_dictionaries_of_other_points_than_the_layers_are_refused(case):
    before, after, message = POINTS[case]
    layer = BilinearLayer(down=normal(5, 4), left=normal(5, 4, seed=1), right=normal(5, 4, seed=2))
    layer = layer if case == "two layers" else replace(layer, name="m layer 3")
    with pytest.raises(ValueError, match=message):
        between(layer, dictionary_of(point=before), dictionary_of(point=after))


@pytest.mark.parametrize(
    ("before", "after"),
    [("3-mlp-in", "3-mlp-out"), ("blocks.3.ln2.hook_normalized", "blocks.3.hook_resid_post"), ("2-resid-post", "any")],
)
def test_points_that_the_layer_reads_and_writes_are_taken(before, after):
    layer = BilinearLayer(down=normal(5, 4), left=normal(5, 4, seed=1), right=normal(5, 4, seed=2), name="layer 3")
    assert between(layer, dictionary_of(point=before), dictionary_of(point=after)).shape == (8, 8, 8)


def saelens(folder, edit=None, **config):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"W_enc": normal(5, 7), "W_dec": normal(7, 5, seed=1), "b_enc": normal(7, seed=2)}
    tensors["b_dec"] = normal(5, seed=3)
    (edit or (lambda t: None))(tensors)
    given = {"architecture": "standard", "d_in": 5, "d_sae": 7, "hook_name": "blocks.3.hook_mlp_out"}
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in (given | config).items() if v != "left out"}))
    save_file(tensors, folder / "sae_weights.safetensors")
    return tensors


def paper(folder, edit=None):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"w_enc.weight": normal(20, 5), "w_dec.weight": normal(5, 20, seed=1), "b_dec": normal(5, seed=2)}
    (edit or (lambda t: None))(tensors)
    save_file(tensors, folder / "model.safetensors")
    return tensors


SAELENS = {
    "standard": ({}, {"k": None, "centered": True}),
    "old topk": ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}, {"k": 3}),
    "topk": ({"architecture": "topk", "k": 2, "apply_b_dec_to_input": False}, {"k": 2, "centered": False}),
    "hook below metadata": ({"hook_name": "left out", "metadata": {"hook_name": "there"}}, {"point": "there"}),
}


@pytest.mark.parametrize("case", SAELENS)
def test_the_layout_of_saelens(case, tmp_path, device):
    config, expected = SAELENS[case]
    tensors = saelens(tmp_path / "sae", **config)
    save_file({"sparsity": torch.zeros(7)}, tmp_path / "sae" / "sparsity.safetensors")
    sae = load_dictionary(tmp_path / "sae", device=device)
    expected = {"name": "sae", "point": "blocks.3.hook_mlp_out"} | expected
    assert {key: getattr(sae, key) for key in expected} == expected
    x = normal(4, 5, seed=8)
    pre = (x - tensors["b_dec"] * sae.centered) @ tensors["W_enc"] + tensors["b_enc"]
    if sae.k:
        pre = pre * (pre >= pre.sort(-1, descending=True).values[:, [sae.k - 1]])
    f = pre.relu()
    assert_close(sae.encode(x.to(device)).cpu(), f)
    assert_close(sae.decode(f.to(device)).cpu(), f @ tensors["W_dec"] + tensors["b_dec"])


def test_jumprelu_of_saelens(tmp_path):
    tensors = saelens(tmp_path, lambda t: t.update(threshold=normal(7, seed=5).abs()), architecture="jumprelu")
    x = normal(4, 5, seed=8)
    pre = (x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    assert_close(load_dictionary(tmp_path).encode(x), pre * (pre > tensors["threshold"]))


def test_rescaling_by_the_norms_of_the_decoder_is_in_the_weights(tmp_path):
    tensors = saelens(tmp_path, architecture="topk", k=2, rescale_acts_by_decoder_norm=True)
    norms, x = tensors["W_dec"].norm(dim=1), normal(4, 5, seed=8)
    pre = ((x - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]) * norms
    f = (pre * (pre >= pre.sort(-1, descending=True).values[:, [1]])).relu()
    sae = load_dictionary(tmp_path)
    assert_close(sae.encode(x), f)
    assert_close(sae.decode(f), (f / norms) @ tensors["W_dec"] + tensors["b_dec"])


def test_a_feature_that_writes_nothing_has_no_norm_to_rescale_by(tmp_path):
    silent = {"edit": lambda t: t["W_dec"][2].zero_(), "architecture": "topk", "rescale_acts_by_decoder_norm": True}
    saelens(tmp_path, k=7, **silent)
    sae = load_dictionary(tmp_path)
    assert not sae.decoder[:, 2].any()
    assert float(sae.encode(normal(4, 5, seed=8))[:, 2].abs().max()) < 1e-300


@pytest.mark.parametrize("bias", [False, True])
def test_the_layout_of_the_paper(tmp_path, bias):
    folder = tmp_path / "18-mlp-out-x4-k3"
    tensors = paper(folder, (lambda t: t.update({"w_enc.bias": normal(20, seed=4)})) if bias else None)
    sae = load_dictionary(folder)
    assert (sae.k, sae.point, sae.features, sae.width) == (3, "18-mlp-out", 20, 5)
    x = normal(4, 5, seed=8)
    pre = (x - tensors["b_dec"]) @ tensors["w_enc.weight"].T + tensors.get("w_enc.bias", 0)
    f = (pre * (pre >= pre.sort(-1, descending=True).values[:, [2]])).relu()
    assert_close(sae.encode(x), f)
    assert_close(sae.decode(f), f @ tensors["w_dec.weight"].T + tensors["b_dec"])


BAD = {
    "missing": (
        saelens,
        {"edit": lambda t: t.pop("b_enc")},
        r"standard must have the tensors .*: missing \['b_enc'\], extra \[\]",
    ),
    "extra": (saelens, {"edit": lambda t: t.update(b_gate=normal(7))}, r"extra \['b_gate'\]"),
    "shape": (
        saelens,
        {"edit": lambda t: t.update(W_dec=normal(5, 7))},
        "mode 'd_in' has size 5 in cfg.json but 7 in W_dec",
    ),
    "one mode": (
        saelens,
        {"edit": lambda t: t.update(W_enc=normal(7))},
        r"W_enc must have 2 dimensions \('d_in', 'd_s",
    ),
    "bias size": (
        saelens,
        {"edit": lambda t: t.update(b_enc=normal(5))},
        "mode 'd_sae' has size 7 in cfg.json but 5 in b_enc",
    ),
    "gated": (saelens, {"architecture": "gated"}, r"missing \['b_gate', 'b_mag', 'r_mag'\], extra \['b_enc'\]"),
    "normalized": (
        saelens,
        {"normalize_activations": "layer_norm"},
        "'layer_norm' divides each input by its own standard deviation, so no weights compute it; use .* was trained",
    ),
    "scaled": (
        saelens,
        {"normalize_activations": "expected_average_only_in"},
        r"'expected_average_only_in' scales the inputs .*fold it into them \(SAELens: fold_activation_norm",
    ),
    "rescaled": (saelens, {"finetuning_scaling_factor": True}, r"missing \['finetuning_scaling_factor'\]"),
    "topk of what": (saelens, {"architecture": "topk"}, "TopK without k"),
    "activation": (saelens, {"activation_fn": "tanh-relu"}, "must be relu, or topk .*, got 'tanh-relu' in a standard"),
    "k too large": (saelens, {"architecture": "topk", "k": 8}, r"k must be from 1 to 7 \(the number of features\)"),
    "expansion": (paper, {"folder": "1-mlp-in-x8-k3"}, "says expansion 8, so 40 features of d=5, .* has 20 rows"),
    "name of the folder": (paper, {"folder": "mlp-in"}, "its name is not '{layer}-{point}-x{expansion}-k{k}'"),
    "paper, missing": (paper, {"edit": lambda t: t.pop("b_dec")}, r"missing \['b_dec'\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_dictionary(case, tmp_path):
    write, options, message = BAD[case]
    options = dict(options)
    folder = tmp_path / options.pop("folder", "1-mlp-in-x4-k3")
    write(folder, **options)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
        load_dictionary(folder)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_a_folder_without_its_config_or_broken(tmp_path):
    saelens(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match=r"cfg\.json is not valid JSON"):
        load_dictionary(tmp_path)
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"cfg\.json"):
        load_dictionary(tmp_path)
