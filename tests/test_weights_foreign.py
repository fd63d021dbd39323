"""Files of other formats: the error says what a file is, and the code that it shows makes a file that loads."""

import pickle

import numpy as np
import pytest
import torch
from helpers import normal
from published import make_config, make_tensors, raw_mlp, write

from tensornet_interp.weights import load_config, load_dictionary, load_layer, load_tensor

TENSORS = make_tensors()
X = normal(5, 12, seed=7)


def code(error):
    """The code of an error message: its indented lines."""
    return "\n".join(line[4:] for line in str(error.value).splitlines() if line.startswith("    "))


def torch_saved(content, **options):
    return lambda path: torch.save(content, path, **options)


def pickled(content):
    return lambda path: path.write_bytes(pickle.dumps(content))


def tied():
    """A state with an unembedding that is the embedding, and a weight that is a view of a larger tensor."""
    view = torch.cat([TENSORS["transformer.h.1.mlp.p.weight"].T] * 2)[:10].T
    assert not view.is_contiguous()
    return TENSORS | {"lm_head.weight": TENSORS["transformer.wte.weight"], "transformer.h.1.mlp.p.weight": view}


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}, 1: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
TRAINED = {"epoch": 3, "optimizer_state_dict": OPTIMIZER}
WRAPPED = {f"module.{name}": value for name, value in TENSORS.items()}
ARRAYS = {name: value.numpy() for name, value in TENSORS.items()}

FOREIGN = {  # name of the file, what writes it, what the message says it is
    "flat": ("model.pt", torch_saved(TENSORS), "looks like a pickle"),
    "nested": ("model.pt", torch_saved(TRAINED | {"model_state_dict": TENSORS}), "looks like a pickle"),
    "of a trainer": ("last.ckpt", torch_saved({"state_dict": WRAPPED, "hyper_parameters": {"a": 1}}), "a pickle"),
    "tied": ("pytorch_model.bin", torch_saved(tied()), "looks like a pickle"),
    "nested and tied": ("model.pth", torch_saved({"model": tied()} | TRAINED), "looks like a pickle"),
    "of an old torch": ("model.pt", torch_saved(TENSORS, _use_new_zipfile_serialization=False), "looks like a pickle"),
    "plain": ("model.pkl", pickled({"params": ARRAYS, "step": 4}), "if you trust it, since this runs its code"),
    "npz": ("model.npz", lambda path: np.savez(path, **ARRAYS), "is a NumPy file: convert it with"),
    "npz in disguise": ("model.safetensors", lambda path: np.savez(path.open("wb"), **ARRAYS), "is a NumPy file"),
    "pickle in disguise": ("model.safetensors", torch_saved(TENSORS), "looks like a pickle"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_the_code_in_the_message_converts_the_file(case, tmp_path):
    name, make, words = FOREIGN[case]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=words) as error:
        load_layer(tmp_path / name, 1)
    exec(code(error), {})
    (made,) = (path for path in tmp_path.iterdir() if path.name != name)
    assert str(error.value).endswith(f"and pass {str(made)!r}")
    assert torch.equal(load_layer(made, 1)(X), raw_mlp(TENSORS, 1, X))
    load_tensor(made, "lm_head.weight")


@pytest.mark.parametrize("name", ["{}.npz", "pytorch_model-{}-of-2.bin"])
def test_a_folder_of_foreign_files(name, tmp_path):
    """All shards of a checkpoint become one file; what a trainer wrote beside them stays out of it."""
    names = sorted(TENSORS)
    halves = [dict.fromkeys(names[:7]), dict.fromkeys(names[7:])] if "of-2" in name else [dict.fromkeys(names)]
    for i, half in enumerate(halves):
        tensors = {key: TENSORS[key] for key in half}
        if "npz" in name:
            np.savez(tmp_path / name.format(i), **{key: value.numpy() for key, value in tensors.items()})
        else:
            torch.save(tensors, tmp_path / name.format(i))
            torch.save(OPTIMIZER, tmp_path / "optimizer.pt")
    kind = "NumPy files" if "npz" in name else "pickles"
    with pytest.raises(ValueError, match=f"has no safetensors file, only {kind} such as {name.format(0)}") as error:
        load_layer(tmp_path, 1)
    exec(code(error), {})
    assert torch.equal(load_layer(tmp_path, 1)(X), raw_mlp(TENSORS, 1, X))


def test_a_folder_with_the_suffix_of_a_pickle_is_none(tmp_path):
    (tmp_path / "old.bin").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors") as error:
        load_layer(tmp_path, 1)
    assert "pickle" not in str(error.value)


def test_a_single_array(tmp_path):
    np.save(tmp_path / "w.npy", ARRAYS["lm_head.weight"].T)
    with pytest.raises(ValueError, match=r"w\.npy is a NumPy file") as error:
        load_tensor(tmp_path / "w.npy", "array")
    exec(code(error), {})
    assert torch.equal(load_tensor(tmp_path / "w.safetensors", "array"), TENSORS["lm_head.weight"].T)


INSTEAD = {
    "git-lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
        "is a git-lfs pointer .*git lfs p",
    ),
    "page": (
        b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>",
        "is an HTML page and not .* /resolve/ instead of",
    ),
}


@pytest.mark.parametrize("case", INSTEAD)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_what_a_download_left_instead_of_the_file(case, name, tmp_path):
    content, message = INSTEAD[case]
    write(tmp_path)
    (tmp_path / name).write_bytes(content)
    load = load_config if name == "config.json" else lambda path: load_layer(path / name, 1)
    with pytest.raises(ValueError, match=rf"{name} {message}"):
        load(tmp_path)


def test_a_subfolder_must_be_inside_and_there(tmp_path):
    write(tmp_path / "runs" / "step-100")
    assert load_layer(tmp_path, 1, subfolder="runs/step-100").name == "step-100 layer 1"
    assert load_config(tmp_path, "runs/step-100") == make_config()
    for wrong in ("../x", "/runs", "runs\\step-100"):
        with pytest.raises(ValueError, match="subfolder must be a path like 'a/b' inside of source"):
            load_layer(tmp_path, 1, subfolder=wrong)
    with pytest.raises(ValueError, match="subfolder must be '' for a file"):
        load_layer(tmp_path / "runs" / "step-100" / "model.safetensors", 1, subfolder="x")
    for load in (
        lambda name: load_layer(tmp_path / "runs", 1, subfolder=name),
        lambda name: load_config(tmp_path / "runs", name),
    ):
        with pytest.raises(FileNotFoundError, match=r"step-10 is missing; did you mean 'step-100'\?"):
            load("step-10")
    with pytest.raises(FileNotFoundError, match=r"step-10 is missing; did you mean 'step-100'\?"):
        load_dictionary(tmp_path / "runs", subfolder="step-10")
