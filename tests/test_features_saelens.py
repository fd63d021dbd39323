"""Dictionaries that SAELens, Gemma Scope and circuit-tracer wrote compute what those programs compute of them.

`make_sae_files.py` made the files and what the programs computed.
"""

import io
import json
import re
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import assert_close, normal
from safetensors.torch import load_file, save_file

from tensornet_interp import BilinearLayer, load, save
from tensornet_interp.features import Dictionary, between, circuit_tests
from tensornet_interp.weights import inspect_files, load_cross_layer, load_dictionary, save_dictionary

STORED = Path(__file__).with_name("sae_lens")
EXPECTED = {name: value for file in sorted(STORED.glob("expected*")) for name, value in load_file(file).items()}
OUTPUTS = [name.removesuffix("/output") for name in EXPECTED if name.endswith("/output")]
FOLDERS = sorted(name for name in OUTPUTS if not name.startswith("cross-layer"))
LENS = [name for name in FOLDERS if not name.startswith("gemma-scope")]
FILE = "sae_weights.safetensors"


def config_of(folder):
    return json.loads((STORED / folder / "cfg.json").read_text())


def in_memory(folder, **changes):
    """An object with what `from_sae` needs of those of SAELens."""
    config, tensors = config_of(folder) | changes, load_file(STORED / folder / FILE)
    return SimpleNamespace(cfg=SimpleNamespace(to_dict=lambda: config), state_dict=lambda: tensors)


def edited(folder, to, edit=None, **changes):
    """A copy of a stored folder with another config (None leaves an entry out) or other tensors."""
    shutil.copytree(STORED / folder, to)
    config = {key: value for key, value in (config_of(folder) | changes).items() if value is not None}
    (to / "cfg.json").write_text(json.dumps(config))
    tensors = load_file(to / FILE)
    (edit or (lambda t: None))(tensors)
    save_file(tensors, to / FILE)
    return to


def check(dictionary, folder, x=EXPECTED["x"]):
    """Codes and outputs differ from the program's by 1e-5 of the largest at most, and the same features are active."""
    codes, output = EXPECTED[f"{folder}/codes"], EXPECTED[f"{folder}/output"]
    for found, expected in ((dictionary.encode(x), codes), (dictionary.reconstruct(x), output)):
        assert_close(found, expected, 1e-5)
    assert torch.equal(dictionary.encode(x) != 0, codes != 0)
    assert 0.1 < (codes != 0).float().mean() < 0.7


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_file_computes_what_the_program_that_wrote_it_computes(folder):
    check(load_dictionary(STORED / folder, dtype=torch.float32), folder)


@pytest.mark.parametrize("folder", LENS)
def test_an_object_in_memory_is_the_same_dictionary_as_its_file(folder):
    found, stored = Dictionary.from_sae(in_memory(folder), name=folder), load_dictionary(STORED / folder)
    for key, value in vars(stored).items():
        other = getattr(found, key)
        assert torch.equal(other, value) if isinstance(value, torch.Tensor) else other == value, key


def test_dtypes_points_and_copies():
    assert load_dictionary(STORED / "standard-bfloat16").encoder.dtype == torch.bfloat16
    mixed = load_file(STORED / "jumprelu-trained-bfloat16" / FILE)
    assert {value.dtype for value in mixed.values()} == {torch.float32, torch.bfloat16}  # the threshold is float32
    assert load_dictionary(STORED / "jumprelu-trained-bfloat16").threshold.dtype == torch.bfloat16
    assert load_dictionary(STORED / "topk").point == "blocks.3.hook_mlp_out"
    skip = load_dictionary(STORED / "skip-transcoder")
    assert (skip.point, skip.point_out) == ("blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out")
    assert (skip.width, skip.features, tuple(skip.decoder.shape)) == (6, 10, (4, 10))
    assert repr(skip).endswith("point_out='blocks.3.hook_mlp_out', features=10, d=6, d_out=4)")
    sae = in_memory("standard")
    found = Dictionary.from_sae(sae)
    before = found.encoder.clone()
    sae.state_dict()["W_enc"].zero_()
    assert torch.equal(found.encoder, before)


REFUSED = {
    "refused-abstopk": "architecture 'abstopk' keeps the codes of largest magnitude, negative ones too",
    "refused-temporal": "architecture 'temporal' predicts a part of its codes from earlier tokens",
    "refused-matching-pursuit": "architecture 'matching_pursuit' finds its codes by a search",
    "refused-checkpoint": "'batchtopk' is a checkpoint of training; .* by save_inference_model",
    "refused-layer-norm": "'layer_norm' divides each input by its own standard deviation, so no weights compute it",
    "refused-norm": "'constant_norm_rescale' divides each input by its own norm, so no weights compute it",
    "refused-scale": "'expected_average_only_in' scales the inputs by a number outside of the weights; fold it",
    "refused-whitening": "'covariance_whitening' whitens the inputs by a mean and a matrix outside of the weights",
}


@pytest.mark.parametrize("folder", REFUSED)
def test_what_no_dictionary_computes_is_refused_with_its_reason(folder):
    with pytest.raises(ValueError, match=REFUSED[folder]) as caught:
        load_dictionary(STORED / folder)
    assert folder in str(caught.value)
    with pytest.raises(ValueError, match=r"sae\.cfg: .*" + REFUSED[folder]):
        Dictionary.from_sae(in_memory(folder))


OLD = {  # what versions 3 to 5 called the same
    "hook_point": ("standard", {"metadata": None, "hook_point": "blocks.3.hook_mlp_out"}),
    "no architecture": (
        "standard",
        {"architecture": None, "activation_fn_str": "relu", "normalize_activations": False},
    ),
    "no normalization": ("standard", {"normalize_activations": None, "activation_fn": "relu"}),
    "kwargs": (
        "topk",
        {"architecture": None, "k": None, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}},
    ),
    "activation_fn": ("topk", {"k": None, "activation_fn": "topk", "activation_fn_kwargs": {"k": 3}}),
    "centered by default": ("gated", {"apply_b_dec_to_input": None, "activation_fn_str": "relu"}),
}


@pytest.mark.parametrize("case", OLD)
def test_configs_of_earlier_versions(case, tmp_path):
    folder, changes = OLD[case]
    check(load_dictionary(edited(folder, tmp_path / "sae", **changes)), folder)
    assert load_dictionary(tmp_path / "sae").point == "blocks.3.hook_mlp_out"


def test_the_scaling_factor_of_finetuning_multiplies_the_codes_before_the_decoder(tmp_path):
    factor = normal(10, seed=1).float()
    plain = load_dictionary(STORED / "standard")
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        folder = edited(
            "standard", tmp_path / name, lambda t, name=name: t.update({name: factor}), finetuning_scaling_factor=True
        )
        found, codes = load_dictionary(folder), plain.encode(EXPECTED["x"])
        assert torch.equal(found.encode(EXPECTED["x"]), codes)
        assert_close(found.decode(codes), plain.decode(factor * codes), 1e-5)
    check(
        load_dictionary(edited("standard", tmp_path / "ones", lambda t: t.update(scaling_factor=torch.ones(10)))),
        "standard",
    )


def test_thresholds_of_training_are_logarithms(tmp_path):
    folder, threshold = tmp_path / "sae", load_file(STORED / "jumprelu" / FILE)["threshold"].abs()
    edited("jumprelu", folder, lambda t: t.update(log_threshold=t.pop("threshold").abs().log()))
    assert_close(load_dictionary(folder).threshold, threshold, 1e-6)


def test_the_hook_of_a_head_is_named_with_its_index(tmp_path):
    point, old = "blocks.1.attn.hook_z", {"metadata": None, "hook_point": "blocks.1.attn.hook_z"}
    new = edited("standard", tmp_path / "new", hook_name=point, hook_head_index=2)
    before = edited("standard", tmp_path / "old", **old, hook_point_head_index=3)
    assert [load_dictionary(folder).point for folder in (new, before)] == [f"{point}[2]", f"{point}[3]"]


BAD = {
    "sizes of another dictionary": ({"d_sae": 12}, None, "mode 'd_sae' has size 12 in cfg.json but 10 in W_enc"),
    "size of b_gate": (
        {},
        lambda t: t.update(b_gate=torch.ones(6)),
        "mode 'd_sae' has size 10 in cfg.json but 6 in b_gate",
    ),
    "no r_mag": ({}, lambda t: t.pop("r_mag"), r"gated must have the tensors .*: missing \['r_mag'\], extra \[\]"),
    "of no number": (
        {},
        lambda t: t.update(r_mag=torch.full((10,), 99.0)),
        "encoder has 60 entries that are NaN or inf",
    ),
    "topk of a gate": ({"activation_fn": "topk"}, None, "activation_fn must be relu, .* got 'topk' in a gated"),
    "tanh": ({"activation_fn_str": "tanh-relu"}, None, "activation_fn must be relu, .* got 'tanh-relu'"),
    "true is a name of old": ({"normalize_activations": True}, None, "True scales the inputs by a number outside"),
    "unknown scaling": ({"normalize_activations": "max"}, None, "must be none or one of .*, got 'max'"),
    "scaling is a list": ({"normalize_activations": [1]}, None, r"must be none or one of .*, got \[1\]"),
    "words for true": ({"apply_b_dec_to_input": "false"}, None, "apply_b_dec_to_input must be "),
    "architecture": ({"architecture": "crosscoder"}, None, "must be one of standard, topk, .* got 'crosscoder'"),
    "factor is not used": (
        {},
        lambda t: t.update(scaling_factor=torch.rand(10)),
        "false, but the tensor scaling_factor is not",
    ),
    "factor is lost": ({"finetuning_scaling_factor": True}, None, r"missing \['finetuning_scaling_factor'\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_say_what_is_wrong(case, tmp_path):
    changes, edit, message = BAD[case]
    folder = edited("gated", tmp_path / "sae", edit, **changes)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at
        load_dictionary(folder)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_transcoder_subtracts_no_bias_if_its_config_does_not_say(tmp_path):
    check(load_dictionary(edited("transcoder", tmp_path / "sae", apply_b_dec_to_input=None)), "transcoder")


def test_a_transcoder_that_subtracts_its_output_bias_is_refused(tmp_path):
    folder = edited("transcoder", tmp_path / "sae", apply_b_dec_to_input=True)
    with pytest.raises(ValueError, match="must be false for a transcoder, whose b_dec is part of its outputs"):
        load_dictionary(folder)


def test_what_is_no_object_of_the_library():
    for value in (None, torch.eye(3), SimpleNamespace(cfg={}, state_dict=dict)):
        with pytest.raises(TypeError, match=r"sae must be a SAE of SAELens, with cfg\.to_dict\(\) and state_dict"):
            Dictionary.from_sae(value)
    with pytest.raises(TypeError, match=r"sae must have dicts as .* got list and dict"):
        Dictionary.from_sae(SimpleNamespace(cfg=SimpleNamespace(to_dict=list), state_dict=dict))


POINTS = {
    "res": ("blocks.20.hook_resid_post", None),
    "mlp": ("blocks.20.hook_mlp_out", None),
    "att": ("blocks.20.attn.hook_z", None),
    "transcoders": ("blocks.20.ln2.hook_normalized", "blocks.20.hook_mlp_out"),
}


@pytest.mark.parametrize("kind", POINTS)
def test_folders_of_gemma_scope_say_where_the_vectors_are_taken(kind, tmp_path):
    place = "layer_20/width_16k/average_l0_71"
    target = tmp_path / f"gemma-scope-2b-pt-{kind}" / place
    target.mkdir(parents=True)
    source = STORED / "gemma-scope-2b-pt-res" / place / "params.npz"
    shutil.copy(source, target)
    found = load_dictionary(tmp_path / f"gemma-scope-2b-pt-{kind}", subfolder=place)
    assert (found.point, found.point_out, found.name) == (*POINTS[kind], place)
    assert not found.centered
    shutil.copy(source, tmp_path)
    for alone in (tmp_path, tmp_path / "params.npz"):
        found = load_dictionary(alone)
        assert (found.point, found.point_out) == ("", None)
        check(found, f"gemma-scope-2b-pt-res/{place}")


def test_arrays_that_are_no_dictionary(tmp_path):
    arrays = dict(np.load(STORED / "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71/params.npz"))
    file = tmp_path / "params.npz"
    cases = {
        "is packed": lambda: np.savez_compressed(file, **(arrays | {"W_enc": np.zeros((6, 10), np.float32)})),
        "has no header of an array of 16, 32 or 64-bit": lambda: np.savez(file, **(arrays | {"b_dec": np.arange(6)})),
        "no header": lambda: np.savez(file, W_enc=np.array([{"code": 1}], dtype=object)),
        r"missing \['threshold'\]": lambda: np.savez(file, **{k: v for k, v in arrays.items() if k != "threshold"}),
        "no .npz file": lambda: file.write_bytes(b"PK\x03\x04 and no more"),
        r"do not fit its shape \(250000000000,\)": lambda: huge(file),
        "packed or longer than the file": lambda: file.write_bytes(longer(arrays, file)),
        "Bad CRC-32": lambda: file.write_bytes(spoiled(arrays, file)),
    }
    for message, write in cases.items():
        write()
        with pytest.raises(ValueError, match=message) as caught:
            load_dictionary(tmp_path)
        assert "params.npz" in str(caught.value)
    for given in (arrays, {name.lower(): np.asfortranarray(value) for name, value in arrays.items()}):
        np.savez(file, **given)
        check(load_dictionary(tmp_path), "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71")
    np.savez(file, **{name: value.astype(np.float16) for name, value in arrays.items()})
    assert load_dictionary(tmp_path, dtype=torch.float64).encoder.dtype == torch.float64


def longer(arrays, file):
    """Both tables of the archive claim a gigabyte for an array."""
    np.savez(file, W_enc=arrays["W_enc"])
    content = file.read_bytes()
    size = struct.pack(
        "<I", content.index(arrays["W_enc"].tobytes()) + arrays["W_enc"].nbytes - content.index(b"\x93NUMPY")
    )
    assert content.count(size) >= 2
    return content.replace(size, struct.pack("<I", 1 << 30))


def huge(file):
    """The header of an array claims a terabyte."""
    with zipfile.ZipFile(file, "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (250000000000,), }\n"
        archive.writestr("W_enc.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))


def spoiled(arrays, file):
    np.savez(file, **arrays)
    content, part = bytearray(file.read_bytes()), arrays["W_enc"].tobytes()
    content[content.find(part)] ^= 1
    return bytes(content)


@pytest.mark.parametrize("activation", ["relu", "jump_relu"])
def test_a_cross_layer_transcoder_is_the_sum_of_what_its_layers_write(activation):
    name = f"cross-layer-{activation}"
    x, codes, output = (EXPECTED[f"{name}/{key}"] for key in ("x", "codes", "output"))
    layers = [load_cross_layer(STORED / name, i) for i in range(3)]
    assert [len(layer) for layer in layers] == [3, 2, 1]
    for i, layer in enumerate(layers):
        for to, part in enumerate(layer):
            assert_close(part.encode(x[i]), codes[i], 1e-5)
            assert torch.equal(part.encode(x[i]) != 0, codes[i] != 0)
            assert (part.point, part.point_out) == (f"blocks.{i}.hook_resid_mid", f"blocks.{i + to}.hook_mlp_out")
    for j in range(3):
        total = sum(layers[i][j - i].reconstruct(x[i]) for i in range(j + 1))
        assert_close(total, output[j], 1e-5)
    assert (codes < 0).any() == (activation == "jump_relu")  # a negative threshold, and no rectifier


def test_cross_layer_transcoders_that_are_not_whole(tmp_path):
    shutil.copytree(STORED / "cross-layer-relu", tmp_path / "clt")
    with pytest.raises(ValueError, match=r"layer must be one of 0, 1, 2, the layers of .*clt', got 3"):
        load_cross_layer(tmp_path / "clt", 3)
    with pytest.raises(FileNotFoundError, match="W_enc_0"):
        load_cross_layer(tmp_path, 0)
    (tmp_path / "clt" / "config.yaml").unlink()
    assert load_cross_layer(tmp_path / "clt", 0)[1].point_out == ""
    decoder = load_file(tmp_path / "clt" / "W_dec_1.safetensors")["W_dec_1"]
    for tensors, message in (
        ({"W_dec_1": decoder[:, 0]}, r"W_dec_1 must have 3 dimensions \('feature', 'layer', 'd_out'\)"),
        ({"W_dec_1": decoder[:9]}, r"encoder is \(feature, d\) and decoder \(d, feature\), got \(10, 6\) and \(6, 9\)"),
        ({"W_dec_0": decoder}, r"missing \['W_dec_1'\], extra \['W_dec_0'\]"),
    ):
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, tmp_path / "clt" / "W_dec_1.safetensors"
        )
        with pytest.raises(ValueError, match=message):
            load_cross_layer(tmp_path / "clt", 1)


def transcoder(**options):
    given = {"point": "3-mlp-in", "point_out": "3-mlp-out", "centered": False, "skip": normal(4, 6, seed=3)}
    return Dictionary(normal(10, 6), normal(4, 10, seed=1), decoder_bias=normal(4, seed=2), **(given | options))


def test_a_transcoder_writes_other_vectors_than_it_reads(tmp_path):
    made, x = transcoder(), normal(5, 6, seed=4)
    f = (x @ made.encoder.T).relu()
    assert_close(made.encode(x), f)
    assert_close(made.decode(f), f @ made.decoder.T + made.decoder_bias)
    assert_close(made.reconstruct(x), f @ made.decoder.T + made.decoder_bias + x @ made.skip.T)
    assert made.to(dtype=torch.float32).reconstruct(x.float()).dtype == torch.float32
    save(made, tmp_path / "a.safetensors")
    assert torch.equal(load(tmp_path / "a.safetensors").reconstruct(x), made.reconstruct(x))


WRONG = {
    "centered": ({"centered": True}, "centered must be False for a transcoder"),
    "skip of a size": ({"skip": normal(6, 6)}, "mode 'd_out' has size 4 in decoder but 6 in skip"),
    "skip, transposed": ({"skip": normal(4, 4)}, "mode 'd' has size 6 in encoder but 4 in skip"),
    "skip, dtype": ({"skip": normal(4, 6).float()}, "share one dtype"),
    "autoencoder": (
        {"point_out": None, "skip": None},
        r"got \(10, 6\) and \(4, 10\): .* a transcoder, which has point_out",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_transcoder(case):
    options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        transcoder(**options)
    with pytest.raises(ValueError, match="skip belongs to a transcoder"):
        Dictionary(normal(6, 6), normal(6, 6), skip=normal(6, 6))


def test_functions_take_a_transcoder_only_where_its_encoder_is_what_they_use(tmp_path):
    layer = BilinearLayer(down=normal(6, 4), left=normal(6, 4, seed=1), right=normal(6, 4, seed=2))
    made, reads = transcoder(), Dictionary(normal(7, 6), normal(6, 7, seed=1))
    x = normal(5, 6, seed=9)
    behind = transcoder(point="", point_out="")
    assert_close(between(layer, None, behind)(x), behind.pre_activations(layer(x)))
    with pytest.raises(
        ValueError, match=r"outputs=.* is of mlp-in of layer 3, which the MLP of that layer does not write"
    ):
        between(layer, None, made)
    with pytest.raises(ValueError, match=r"inputs must be an autoencoder, got the transcoder .*point_out='3-mlp-out'"):
        between(layer, made, reads)
    with pytest.raises(ValueError, match="inputs must be an autoencoder"):
        circuit_tests(layer, made, reads, 0, torch.tensor([1]), x, torch.arange(5))
    square = Dictionary(normal(12, 6), normal(6, 12), k=2, name="1-mlp-x2-k2", point_out="", centered=False)
    with pytest.raises(ValueError, match="the published layout holds autoencoders, got the transcoder"):
        save_dictionary(square, tmp_path)


def test_inspection_says_how_to_open_them_or_why_not():
    folders = [STORED, *(path.parent for path in STORED.rglob("average_*"))]  # Gemma Scope's are further down
    files = [file for folder in folders for file in inspect_files(folder).files if file.kind == "dictionary"]
    known = {"load_dictionary": load_dictionary, "load_cross_layer": load_cross_layer}
    opened = [eval(file.opened_by, known) for file in files if file.opened_by]
    names = [made.name if isinstance(made, Dictionary) else made[0].name for made in opened]
    layers = [f"cross-layer-{kind} layer {i}" for kind in ("relu", "jump_relu") for i in range(3)]
    gemma = ["layer_20/width_16k/average_l0_71"]
    assert sorted(names) == sorted([*LENS, *2 * layers, *2 * gemma])  # an encoder and a decoder; two of Gemma Scope
    for file in files:
        folder = file.path.partition("/")[0]
        assert bool(file.opened_by) != (folder in REFUSED)
        assert folder not in REFUSED or re.search(REFUSED[folder], file.note)


def test_an_array_that_ends_before_its_archive_says_is_refused(tmp_path):
    """Shape and archive agree on 6 numbers, but only 5 are there, and the checksum is that of the 5."""
    file, header, numbers = tmp_path / "params.npz", io.BytesIO(), np.ones(5)
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (6,)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("W_enc.npy", header.getvalue() + numbers.tobytes())
        archive.writestr("more.npy", bytes(8))
    content = bytearray(file.read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # the size of the first entry in the directory
    (size,) = struct.unpack_from("<I", content, at)
    struct.pack_into("<I", content, at, size + numbers.itemsize)
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"W_enc\.npy ends after 40 of 48 bytes"):
        load_dictionary(tmp_path)


def test_a_topk_without_k_is_refused(tmp_path):
    folder = edited("topk", tmp_path / "sae", None, k=None)
    with pytest.raises(ValueError, match=r"TopK without k; give k as the entry k or activation_fn_kwargs\.k"):
        load_dictionary(folder)


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the second one
        for _ in range(2):
            content = io.BytesIO()
            np.save(content, np.ones(3, np.float32))
            archive.writestr("b_dec.npy", content.getvalue())
    with pytest.raises(ValueError, match=r"params\.npz has two arrays of one name"):
        load_dictionary(tmp_path)
