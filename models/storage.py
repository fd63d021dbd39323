"""Save and load models: weights and config in one safetensors file, and no code that runs when it is loaded."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from models.bilinear import BilinearClassifier, ClassifierConfig
from models.logic_gates import LogicGateConfig, LogicGateModel
from tensornet_interp.disk import replace_files
from tensornet_interp.names import Names
from tensornet_interp.weights import WeightFiles, pack

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
NONE: Mapping[str, str] = MappingProxyType({})

Model = BilinearClassifier | LogicGateModel
# Class name -> the class and its config. To store another class, add a line here.
CLASSES: dict[str, tuple[Callable[..., Model], Callable[..., ClassifierConfig | LogicGateConfig]]] = {
    "BilinearClassifier": (BilinearClassifier, ClassifierConfig),
    "LogicGateModel": (LogicGateModel, LogicGateConfig),
}


def save_unit(
    folder: str | Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any], metadata: Mapping[str, str] = NONE
) -> None:
    """Write `<folder>/model.safetensors`, with `info` in its metadata, and a copy of `info` in `<folder>/config.json`.

    Loading reads model.safetensors alone, so weights and config always come from the same save, even if the process is
    killed. Raises TypeError for an `info` that JSON cannot hold.
    """
    try:
        text = f"{json.dumps(info, indent=2, allow_nan=False)}\n"
    except (TypeError, ValueError) as error:
        raise TypeError(f"extra must hold JSON values only: {error}") from error
    weights = pack(tensors, {**metadata, "config": text})
    replace_files([(Path(folder) / WEIGHTS, weights), (Path(folder) / CONFIG, text.encode())])


def save_model(model: Model, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write `<folder>/model.safetensors` and `<folder>/config.json`; the config keeps `extra` (JSON values) as "extra".

    If the save fails or is killed, the old model or the new one is complete on disk. Loading reads the config from
    model.safetensors; config.json is a copy for people.
    Raises TypeError for a class that is not in `CLASSES` and for an `extra` that JSON cannot hold.
    """
    name = type(model).__name__
    if name not in CLASSES:
        raise TypeError(f"model is a {name}; only these can be stored: {', '.join(sorted(CLASSES))}")
    info = {"format": FORMAT, "class": name, "config": asdict(model.config), "extra": dict(extra or {})}
    if isinstance(model, BilinearClassifier):
        info["names"] = asdict(model.names)
    save_unit(folder, model.state_dict(), info)


def load_model(folder: str | Path, *, device: torch.device | str = "cpu") -> Model:
    """Return the model that `save_model` wrote to `folder`, on `device`, in the dtype it was saved in.

    Raises FileNotFoundError for a missing file; ValueError for malformed JSON, another format, an unknown class,
    options that do not fit the class, a corrupt tensor file, and missing, extra or wrongly sized tensors.
    """
    files = _open(folder)
    info, path = _check_info(files.config(), folder), Path(folder) / WEIGHTS
    name, options = info["class"], info["config"]
    build, configure = CLASSES[name]
    layers = options.get("n_layers", 1)
    if isinstance(layers, int) and layers > len(files.names):  # checked before so many are built
        raise ValueError(f"{path} does not fit the config: {len(files.names)} tensors for n_layers={layers}")
    try:
        config = configure(**options)
        model = build(config, device="meta")  # no memory and no random numbers: all weights are replaced
    except (TypeError, ValueError, RuntimeError) as error:  # torch refuses some sizes
        raise ValueError(f"{folder}: the config of {name} is not valid: {error}") from error
    expected = model.state_dict()
    missing, extra = sorted(set(expected) - set(files.names)), sorted(set(files.names) - set(expected))
    if missing or extra:
        raise ValueError(f"{path} does not fit the config: missing tensors {missing}, extra tensors {extra}")
    for key, tensor in expected.items():
        if files.shape(key) != tuple(tensor.shape):
            raise ValueError(
                f"{path}: tensor {key!r} has shape {files.shape(key)}, the config says {tuple(tensor.shape)}"
            )
    tensors = {key: files.read(key) for key in expected}
    dtypes = sorted({str(tensor.dtype) for tensor in tensors.values()})
    if len(dtypes) > 1:
        raise ValueError(f"{path} must hold tensors of one dtype, got {', '.join(dtypes)}")
    model.load_state_dict(tensors, assign=True)
    if isinstance(model, BilinearClassifier):
        model.names = _read_names(info.get("names", {}), folder)
    return model.to(device)


def _read_names(names: Any, folder: str | Path) -> Names:
    try:
        return Names(**names)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder}: the names in the config are not valid: {error}") from error


def load_info(folder: str | Path) -> dict[str, Any]:
    """Return the stored format, class, config and extra of a model, without reading its weights."""
    return _check_info(_open(folder).config(), folder)


def _open(folder: str | Path) -> WeightFiles:
    if not os.path.lexists(Path(folder) / WEIGHTS):
        raise FileNotFoundError(f"{Path(folder) / WEIGHTS} is missing")
    return WeightFiles(Path(folder) / WEIGHTS)


def _check_info(info: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    if not isinstance(info.get("config"), dict):
        raise ValueError(f"the config in {folder} must hold format, class, config and extra")
    if info.get("format") != FORMAT:
        raise ValueError(f"the config in {folder} has format {info.get('format')!r}, this version reads {FORMAT}")
    if not isinstance(info.get("class"), str) or info["class"] not in CLASSES:
        raise ValueError(
            f"the config in {folder} names class {info.get('class')!r}; available: {', '.join(sorted(CLASSES))}"
        )
    return info
