"""Models come back from disk as they were; a broken folder is an error that names the file and what is wrong."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.bilinear import BilinearClassifier, ClassifierConfig, build_classifier
from models.logic_gates import LogicGate, LogicGateConfig, LogicGateModel, train_logic_gates
from models.storage import load_info, load_model, save_model

SMALL = ClassifierConfig(inputs=7, width=5, hidden=6, classes=3)
ALL_OPTIONS = ClassifierConfig(inputs=7, width=5, hidden=6, classes=3, n_layers=2, down=True, bias=True, residual=0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_saved_models_come_back(tmp_path, dtype):
    model = build_classifier(ALL_OPTIONS, seed=1, dtype=dtype)
    state = torch.get_rng_state()
    save_model(model, tmp_path / "new" / "run", extra={"accuracy": 0.5})
    loaded = load_model(tmp_path / "new" / "run")
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(loaded, BilinearClassifier)
    assert loaded.config == model.config
    x = torch.linspace(-1, 1, 21).reshape(3, 7).to(dtype)
    assert torch.equal(loaded(x), model(x))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert load_info(tmp_path / "new" / "run")["extra"] == {"accuracy": 0.5}
    assert sorted(path.name for path in (tmp_path / "new" / "run").iterdir()) == ["config.json", "model.safetensors"]


def test_saved_gate_models_come_back(tmp_path):
    model = train_logic_gates(LogicGateConfig(3, (LogicGate("and", 0, 1), LogicGate("xor", 1, 2)), hidden=3), steps=2)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, LogicGateModel)
    assert loaded.config == model.config
    assert torch.equal(loaded(torch.ones(1, 3)), model(torch.ones(1, 3)))


def pipe(folder):
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


def edit_text(change):
    """Another text in the place of the config, in a file without checksums, as another program would write it."""

    def edit(folder: Path):
        (folder / "config.json").unlink()
        with safe_open(folder / "model.safetensors", "pt") as file:
            text = file.metadata()["config"]
        save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"config": change(text)})

    return edit


def edit_config(**changes):
    def change(text):
        info = json.loads(text)
        return json.dumps(info | changes | {"config": info["config"] | changes.get("config", {})})

    return edit_text(change)


def edit_weights(change):
    def edit(folder: Path):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")  # the config is then config.json

    return edit


def without_config(folder):
    edit_weights(lambda tensors: None)(folder)
    (folder / "config.json").unlink()


BROKEN = {
    "no config": (without_config, FileNotFoundError, "config.json is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "model.safetensors is missing"),
    "json": (edit_text(lambda text: "{"), ValueError, "model.safetensors is not valid JSON"),
    "json list": (edit_text(lambda text: "[]"), ValueError, "must hold a JSON object, got list"),
    "deep json": (edit_text(lambda text: "[" * 10**5), ValueError, "is not valid JSON: maximum recursion depth"),
    "a name twice": (edit_text(lambda text: '{"a": 1, "a": 2}'), ValueError, "names of an object occur twice"),
    "no options": (edit_text(lambda text: "{}"), ValueError, "must hold format, class, config and extra"),
    "format": (edit_config(format=9), ValueError, "has format 9, this version reads 1"),
    "class": (edit_config(**{"class": "os.system"}), ValueError, "class 'os.system'; available: BilinearClassifier"),
    "class a list": (edit_config(**{"class": []}), ValueError, r"class \[\]; available: BilinearClassifier"),
    "option": (edit_config(config={"depth": 2}), ValueError, "config of BilinearClassifier is not valid: .*'depth'"),
    "value": (edit_config(config={"hidden": 0}), ValueError, "is not valid: hidden must be at least 1, got 0"),
    "huge": (edit_config(config={"hidden": 2**62}), ValueError, "config of BilinearClassifier is not valid"),
    "layers": (edit_config(config={"n_layers": 10**9}), ValueError, "4 tensors for n_layers=1000000000"),
    "shape": (
        edit_config(config={"classes": 4}),
        ValueError,
        r"tensor 'head.weight' has shape \(3, 6\), the config says \(4, 6\)",
    ),
    "missing": (edit_weights(lambda t: t.pop("head.weight")), ValueError, r"missing tensors \['head.weight'\]"),
    "extra": (edit_weights(lambda t: t.update(z=torch.zeros(1))), ValueError, r"extra tensors \['z'\]"),
    "dtypes": (
        edit_weights(lambda t: t.update({"head.weight": torch.zeros(3, 6, dtype=torch.float64)})),
        ValueError,
        "of one dtype, got torch.float32, torch.float64",
    ),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-8]),
        ValueError,
        "model.safetensors is not a whole safetensors file: corrupt or truncated",
    ),
    "a pipe": (pipe, ValueError, "model.safetensors is not a regular file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_folders(case, tmp_path):
    edit, kind, message = BROKEN[case]
    save_model(build_classifier(SMALL, seed=0), tmp_path)
    edit(tmp_path)
    with pytest.raises(kind, match=message):
        load_model(tmp_path)


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=re.escape("model is a Linear; only these can be stored: BilinearClassifier")):
        save_model(torch.nn.Linear(2, 2), tmp_path / "a")
    with pytest.raises(TypeError, match="extra must hold JSON values only"):
        save_model(build_classifier(SMALL, seed=0), tmp_path / "a", extra={"x": torch.zeros(1)})
    assert not (tmp_path / "a").exists()


def test_a_save_that_fails_leaves_the_old_model(tmp_path, monkeypatch):
    old = build_classifier(SMALL, seed=0)
    save_model(old, tmp_path)
    synced = []

    def full_disk(number):
        synced.append(number)
        if len(synced) == 2:  # of the weights and the config, in this order
            raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save_model(build_classifier(SMALL, seed=1), tmp_path)
    assert torch.equal(load_model(tmp_path).head.weight, old.head.weight)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_that_is_stopped_between_two_files_is_the_new_model_with_its_own_config(tmp_path, monkeypatch):
    save_model(build_classifier(SMALL, seed=0), tmp_path)
    new, replace = build_classifier(ClassifierConfig(**vars(SMALL) | {"gate": "relu"}), seed=1), os.replace

    def stopped(source, target):
        if Path(target).name == "config.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_model(new, tmp_path)
    with pytest.warns(UserWarning, match="config.json differs from the config that is stored in the weights file"):
        loaded = load_model(tmp_path)
    assert loaded.config == new.config
    assert torch.equal(loaded.head.weight, new.head.weight)


def test_a_bit_that_flips_on_the_disk_is_an_error(tmp_path):
    save_model(build_classifier(SMALL, seed=0), tmp_path)
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is corrupt: the checksum of .* does not match"):
        load_model(tmp_path)


def test_a_model_without_config_in_its_metadata_has_config_json(tmp_path):
    model = build_classifier(SMALL, seed=0)
    save_model(model, tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    assert load_model(tmp_path).config == SMALL
