"""Models on disk: a folder with model.safetensors and config.json, nothing that executes when it is loaded."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from models.bilinear import BilinearClassifier, ClassifierConfig
from models.logic_gates import LogicGateConfig, LogicGateModel
from tensornet_interp.disk import replace_files

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"

Model = BilinearClassifier | LogicGateModel
# What can be stored, by class name: the class and its options. To add one: a line here.
CLASSES: dict[str, tuple[Callable[..., Model], Callable[..., ClassifierConfig | LogicGateConfig]]] = {
    "BilinearClassifier": (BilinearClassifier, ClassifierConfig),
    "LogicGateModel": (LogicGateModel, LogicGateConfig),
}


def save_model(model: Model, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write `<folder>/model.safetensors` and `<folder>/config.json`; `extra` (JSON values) is kept as "extra"

    Both files are complete beside the old ones before they replace them, one step each, so a save that fails while it
    writes leaves the old model.
    Raises TypeError for a class that is not in `CLASSES` and for an `extra` that JSON cannot hold.
    """
    name = type(model).__name__
    if name not in CLASSES:
        raise TypeError(f"model is a {name}; only these can be stored: {', '.join(sorted(CLASSES))}")
    info = {"format": FORMAT, "class": name, "config": asdict(model.config), "extra": dict(extra or {})}
    try:
        text = json.dumps(info, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"extra must hold JSON values only: {error}") from error
    weights = save({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()})
    replace_files([(Path(folder) / WEIGHTS, weights), (Path(folder) / CONFIG, f"{text}\n".encode())])


def load_model(folder: str | Path, *, device: torch.device | str = "cpu") -> Model:
    """The model saved in `folder`, on `device`, with the dtypes it was saved with

    Raises FileNotFoundError for a missing file; ValueError for malformed JSON, another format, an unknown class,
    options that do not fit it, a corrupt tensor file, and missing, extra or wrongly sized tensors.
    """
    info = load_info(folder)
    name, options, path = info["class"], info["config"], Path(folder) / WEIGHTS
    build, configure = CLASSES[name]
    try:
        config = configure(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{Path(folder) / CONFIG}: the config of {name} is not valid: {error}") from error
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is corrupt or truncated: {error}") from error
    model = build(config, device="meta")  # no memory and no random numbers for weights that are replaced anyway
    _check_tensors(path, model.state_dict(), tensors)
    model.load_state_dict(tensors, assign=True)
    return model.to(device)


def load_info(folder: str | Path) -> dict[str, Any]:
    """The content of `<folder>/config.json`, without the weights: format, class, config, extra."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(info, dict) or not isinstance(info.get("config"), dict):
        raise ValueError(f"{path} must hold an object with format, class, config and extra")
    if info.get("format") != FORMAT:
        raise ValueError(f"{path} has format {info.get('format')!r}, this version reads {FORMAT}")
    if info.get("class") not in CLASSES:
        raise ValueError(f"{path} names class {info.get('class')!r}; available: {', '.join(sorted(CLASSES))}")
    return info


def _check_tensors(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise ValueError(f"{path} does not fit the config: missing tensors {missing}, extra tensors {extra}")
    for key, tensor in expected.items():
        if found[key].shape != tensor.shape:
            raise ValueError(
                f"{path}: tensor {key!r} has shape {tuple(found[key].shape)}, the config says {tuple(tensor.shape)}"
            )
    dtypes = sorted({str(tensor.dtype) for tensor in found.values()})
    if len(dtypes) > 1 or not all(tensor.is_floating_point() for tensor in found.values()):
        raise ValueError(f"{path} must hold floating point tensors of one dtype, got {', '.join(dtypes)}")
