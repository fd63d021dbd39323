"""Weights on disk to layers, without the class of the model: one layer is read, in the memory of that layer."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tensornet_interp.checks import check_choice, check_int, suggestion
from tensornet_interp.disk import parse_json, replace_files
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.lifting import lift
from tensornet_interp.weights.files import Source, WeightFiles, load_config, load_tensor, locate, tensor_names
from tensornet_interp.weights.layouts import PRESETS, Names, fill, own_names
from tensornet_interp.weights.tensors import pack

__all__ = ["PRESETS", "Names", "load_config", "load_layer", "load_tensor", "save_layer", "tensor_names"]

LAYER_FILE, FORMAT = "layer.safetensors", "tensornet_interp layer 1"
GATES = (  # what configs call it
    *("gate", "hidden_act", "hidden_activation", "activation_function", "feed_forward_proj"),
    *("mlp_hidden_act", "ffn_hidden_act", "hidden_act_fn", "act_fn", "dense_act_fn"),
)
NO_GATE = (None, False, "", "none", "None", "identity", "linear")
COUNTS = ("n_layer", "n_layers", "num_hidden_layers")
SIZES = {"in": ("d_model", "hidden_size"), "out": ("d_model", "hidden_size"), "rank": ("d_hidden", "intermediate_size")}


def load_layer(
    source: Source,
    index: int | None = None,
    *,
    names: str | Names = "published",
    gate_removed: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> BilinearLayer:
    """B[out, in1, in2] = sum_rank down[out, rank] left[rank, in1] right[rank, in2] of layer `index` of a checkpoint

    `source`: a folder, a safetensors file or a hub name "owner/name" (see `WeightFiles`). `names`: a `Names`, or

    - "published": transformer.h.{i}.mlp.w.weight (2 d_hidden, d_model), left rows above right rows, and mlp.p.weight;
    - "llama": gate_proj (left), up_proj (right), down_proj: gated, see below;
    - "torch_bilinear": {i}.weight (out, in, in) of `torch.nn.Bilinear`, applied to one input twice;
    - "tensornet_interp": models that this project saved; the residual of a block is part of the layer, as it is there.

    Biases that are named and in the file are lifted exactly, as is a `residual` of the names; else the residual stream,
    attention and norms are outside of the layer. The history says in which space the inputs live: after the norm that
    the config's `normalization` speaks of. Where there is no config.json it says that gate and norm are not known.

    A gate, by the layout or by the config, is refused: the layer would not be the model's. `gate_removed=True` says
    that these weights were trained or fine-tuned to work without it.

    `index=None` reads what `save_layer` wrote, name, history and constant coordinates included.

    `dtype=None` keeps the file's. Raises ValueError for missing tensors, for tensors of the layer's module that no name
    covers, for wrong shapes, a gate, a pickle, a broken file; FileNotFoundError, ConnectionError (hub).
    Cost: reads the layer's bytes and the headers. Memory: under twice the layer's size at the peak, while its entries
    are checked (measured: 16 layers of d_model 1024, d_hidden 4096, float32); `down=None` and lifting add copies.
    """
    if index is None:
        return _load_saved(source, device, dtype)
    check_int("index", index, 0)
    if not isinstance(names, Names):
        check_choice("names", names, PRESETS)
    files = (
        WeightFiles(source) if Path(source).exists() else None
    )  # of a hub's model the config comes first: it is small
    config = _optional_config(source if files is None else files)
    preset = names if isinstance(names, Names) else PRESETS[names]
    options: Mapping[str, Any] = config or {}
    if isinstance(options.get("text_config"), Mapping):  # of a model of text and images: its language part
        options = {**options, **options["text_config"]}
    if preset is None:
        preset = own_names(options, index)
        options = {"bias": True, **options["config"]}  # a GateModel always has them
    _check_gate(preset, options, gate_removed)
    files = files or WeightFiles(source)
    weights, biases = _find(files, preset, index, options)
    _check_shapes(files, preset, weights, biases, options if isinstance(names, str) else {})

    read = {name: files.read(name, device=device, dtype=dtype) for name in {*weights.values(), *biases.values()}}
    parts = {role: read[name] for role, name in (weights | biases).items()}
    for left, right in (("left", "right"), ("left_bias", "right_bias")):
        if left in parts and parts[left] is parts.get(right):  # stacked: (2 rank, ...) to twice (rank, ...)
            first, second = parts[left].chunk(2)
            parts[left], parts[right] = (first, second) if preset.first == "left" else (second, first)
    name = f"{os.path.basename(os.path.abspath(source))} layer {index}"
    history = _history(preset, config, options, gate_removed)
    if "dense" in parts:
        layer = BilinearLayer.from_tensor(parts["dense"], name, history)
    else:
        down = parts.get("down")
        if down is None:
            down = torch.eye(len(parts["left"]), device=parts["left"].device, dtype=parts["left"].dtype)
        layer = BilinearLayer.from_weights(
            left=parts["left"], right=parts["right"], down=down, name=name, history=history
        )
    lifted = {role: parts[role] for role in biases}
    return lift(layer, residual=preset.residual, **lifted) if lifted or preset.residual else layer


def save_layer(layer: BilinearLayer, folder: str | Path) -> None:
    """Write `<folder>/layer.safetensors`: down, left, right, and as metadata name, history and constant coordinates

    `load_layer(folder)` gives the same layer, bit by bit, on the CPU. The file is complete beside the old one before it
    replaces it. Memory: a copy of the layer.

    Example:
    >>> import tempfile
    >>> layer = BilinearLayer(down=torch.ones(3, 4), left=torch.ones(2, 4), right=torch.ones(2, 4), history=("scaled",))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_layer(layer, folder)
    ...     load_layer(folder).history
    ('scaled',)
    """
    if not isinstance(layer, BilinearLayer):
        raise TypeError(f"layer must be a BilinearLayer, got {type(layer).__name__}; see to_layer()")

    tensors = {"down": layer.down, "left": layer.left, "right": layer.right}
    about: dict[str, Any] = {"name": layer.name, "history": layer.history}
    about |= {"constant_in": layer.constant_in, "constant_out": layer.constant_out}
    folder = Path(folder)
    replace_files([(folder / LAYER_FILE, pack(tensors, {"format": FORMAT, "layer": json.dumps(about)}))])


def _load_saved(source: Source, device: torch.device | str, dtype: torch.dtype | None) -> BilinearLayer:
    try:
        path = Path(source) if Path(source).is_file() else locate(source, LAYER_FILE)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} (index=None reads what save_layer wrote; else give a layer's index)"
        ) from error
    files = WeightFiles(path)
    if files.metadata.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by save_layer: give the index of a layer, and names")
    if files.names != ("down", "left", "right"):
        raise ValueError(f"{path} must hold down, left and right, got {', '.join(files.names)}")
    try:
        about = parse_json(files.metadata["layer"], "layer")
        name, history = str(about["name"]), tuple(str(note) for note in about["history"])
        constant_in, constant_out = about["constant_in"] is True, about["constant_out"] is True
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is corrupt: its metadata are not those of a layer ({error!r})") from error
    down, left, right = (files.read(key, device=device, dtype=dtype) for key in files.names)
    return BilinearLayer(
        down=down,
        left=left,
        right=right,
        name=name,
        history=history,
        constant_in=constant_in,
        constant_out=constant_out,
    )


def _optional_config(source: Source | WeightFiles) -> dict[str, Any] | None:
    try:
        return source.config() if isinstance(source, WeightFiles) else load_config(source)
    except FileNotFoundError:
        return None


def _check_gate(names: Names, options: Mapping[str, Any], gate_removed: bool) -> None:
    if options.get("bilinear") is False:
        raise ValueError("config.json says bilinear=false: the MLP is an ordinary one, which has no left and right")
    found = [f"{key}={options[key]!r} in config.json" for key in GATES if options.get(key) not in NO_GATE]
    if names.gated:
        found.append("the layout has one on left")
    if found and not gate_removed:
        raise ValueError(
            f"the layer has a gate ({'; '.join(found)}), so it is not bilinear and its weights are no tensor; use a "
            "model trained with gate none, or pass gate_removed=True if these weights were trained to work without it"
        )


def _find(
    files: WeightFiles, names: Names, index: int, options: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """The names of the weights and of the biases that are there, by role; errors for missing and for extra tensors."""
    weights = {role: fill(pattern, index) for role, pattern in names.weights.items()}
    biases = {role: fill(pattern, index) for role, pattern in names.biases.items()}
    there, layers = set(files.names), names.indices(files.names)
    key = next((key for key in COUNTS if isinstance(options.get(key), int)), None)
    if key is not None and index >= options[key]:
        raise ValueError(f"index must be below {options[key]}, which is {key} in config.json, got {index}")
    if key is None and layers and index not in layers:
        raise ValueError(f"index must be one of {layers}, the layers of {str(files.source)!r}, got {index}")
    needed = weights | (biases if options.get("bias") is True or options.get("mlp_bias") is True else {})
    lost = {role: name for role, name in needed.items() if name not in there}
    extra = names.leftover(there, index)
    if lost:
        patterns = names.weights | names.biases
        listing = "; ".join(
            f"{role} {name!r} (pattern {patterns[role]!r}){suggestion(name, there)}" for role, name in lost.items()
        )
        near = f"; in that module no name is given to: {', '.join(extra)}" if extra else ""
        raise ValueError(f"{str(files.source)!r} has no tensor for {listing}{near}; pass names=Names(left=..., ...)")
    if extra:
        raise ValueError(
            f"{str(files.source)!r} has tensors of layer {index} that the names leave out: {', '.join(extra)}; name "
            "them (left_bias, right_bias, bias), or put them in Names.ignore if they are no part of the map"
        )
    return weights, {role: name for role, name in biases.items() if name in there}


def _check_shapes(
    files: WeightFiles,
    names: Names,
    weights: dict[str, str],
    biases: dict[str, str],
    options: Mapping[str, Any],
) -> None:
    """Sizes agree with each other and with the config, before a weight is read."""
    modes = {"left": ("rank", "in"), "right": ("rank", "in"), "down": ("out", "rank"), "dense": ("out", "in", "in")}
    modes |= {"left_bias": ("rank",), "right_bias": ("rank",), "bias": ("out",)}
    sizes: dict[str, tuple[int, str]] = {}
    for mode, keys in SIZES.items():
        key = next((key for key in keys if isinstance(options.get(key), int)), None)
        if key is not None:
            sizes[mode] = (options[key], f"config.json's {key}")
    if names.down is None and not names.dense:
        modes["bias"] = ("rank",)
        sizes.pop("out", None)
    for role, name in (*weights.items(), *biases.items()):
        shape = files.shape(name)
        if len(shape) != len(modes[role]):
            raise ValueError(f"tensor {name!r} must have {len(modes[role])} modes {modes[role]}, got shape {shape}")
        found = list(shape)
        other = {"left": "right", "right": "left", "left_bias": "right_bias", "right_bias": "left_bias"}.get(role)
        stacked = other is not None and (weights | biases).get(other) == name
        if stacked:
            if shape[0] % 2:
                raise ValueError(f"tensor {name!r} stacks left and right, so its rows must be even, got shape {shape}")
            found[0] //= 2
        for mode, size in zip(modes[role], found, strict=True):
            expected, where = sizes.setdefault(mode, (size, repr(name)))
            if size != expected:
                half = " (half of its rows)" if stacked and mode == "rank" else ""
                raise ValueError(
                    f"mode '{mode}' has size {expected} in {where} but {size} in {name!r}{half}, of shape {shape}"
                )


def _history(
    names: Names, config: Mapping[str, Any] | None, options: Mapping[str, Any], gate_removed: bool
) -> tuple[str, ...]:
    norm = options.get("normalization")
    inputs = names.inputs
    if not inputs and "normalization" not in options:
        inputs = "inputs in the space that the weights read: after the norm, if the model has one here"
    elif not inputs and norm in NO_GATE:
        inputs = f"inputs in the residual stream: no norm before the layer (normalization={norm!r})"
    elif not inputs:
        inputs = f"inputs in the residual stream after the norm before the layer (normalization={norm!r})"
    notes = [inputs]
    if config is None:
        notes.append("no config.json: gate and norm are not known")
    if gate_removed:
        notes.append("gate said to be removed")
    if names.ignore:
        notes.append(f"ignored tensors: {', '.join(names.ignore)}")
    return tuple(notes)
