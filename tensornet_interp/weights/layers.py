"""Layers on disk: one layer of a checkpoint is loaded without the other layers and without the class of the model."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import torch

from tensornet_interp.attention import Norm
from tensornet_interp.checks import (
    check_alike,
    check_bool,
    check_choice,
    check_int,
    check_path,
    check_tensor,
    suggestion,
)
from tensornet_interp.gated import Gate, GatedLayer, check_gate
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.lifting import lift
from tensornet_interp.weights.configs import basis_of, gate_of, language_part, optional_config
from tensornet_interp.weights.files import WeightFiles
from tensornet_interp.weights.layouts import LAYOUTS, SAVED_MODEL, Layout, saved_model_layout
from tensornet_interp.weights.norms import fold_norm as with_norm
from tensornet_interp.weights.norms import norm_to_fold
from tensornet_interp.weights.sources import Source, title
from tensornet_interp.weights.wrappers import adapter

COUNTS = ("n_layer", "n_layers", "num_hidden_layers")
SIZES = {
    "in": ("d_model", "hidden_size"),
    "out": ("d_model", "hidden_size"),
    "rank": ("d_hidden", "intermediate_size", "d_mlp"),
}


@overload
def load_layer(
    source: Source,
    index: int,
    *,
    layout: str | Layout = ...,
    subfolder: str = ...,
    gate_removed: bool = ...,
    gated: Literal[False] = ...,
    fold_norm: bool | Norm = ...,
    device: torch.device | str = ...,
    dtype: torch.dtype | None = ...,
) -> BilinearLayer: ...


@overload
def load_layer(
    source: Source,
    index: int,
    *,
    layout: str | Layout = ...,
    subfolder: str = ...,
    gated: Literal[True] | Gate,
    fold_norm: bool | Norm = ...,
    device: torch.device | str = ...,
    dtype: torch.dtype | None = ...,
) -> GatedLayer: ...


def load_layer(
    source: Source,
    index: int,
    *,
    layout: str | Layout = "published",
    subfolder: str = "",
    gate_removed: bool = False,
    gated: bool | Gate = False,
    fold_norm: bool | Norm = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> BilinearLayer | GatedLayer:
    """Load layer `index` of a checkpoint.

    B[out, in1, in2] = sum_rank down[out, rank] left[rank, in1] right[rank, in2]

    `source`: a folder, a safetensors file or a hub name "owner/name" or "owner/name@revision", and `subfolder` in it
    (see `WeightFiles`). `layout`: a `Layout`, or

    - "published": transformer.h.{i}.mlp.w.weight (2 d_hidden, d_model), left rows above right rows, and mlp.p.weight;
    - "llama": gate_proj (left), up_proj (right), down_proj: gated, see below;
    - "transformer_lens": blocks.{i}.mlp.W_gate (left), W_in (right), W_out (down), all transposed: gated as well;
    - "torch_bilinear": {i}.weight (out, in, in) of `torch.nn.Bilinear`, applied to one input twice;
    - "tensornet_interp": models that this project saved; the residual of a block is part of the layer.

    Biases and a linear part that the layout names and the file has are lifted exactly, and so is the layout's
    `residual`. Apart from that, the residual stream, attention and norms stay outside of the layer. The layer's `basis`
    says where its inputs are taken: after the norm that the config's "normalization" names. Without a config.json the
    history says that gate and norm are not known. Prefixes that wrappers add to names are found (see `Layout`).

    Sizes are compared with d_model and d_hidden in the config. Sizes that only the other value of `transposed` explains
    are an error in every layout. Other differences are an error in the layouts above, and a warning in a `Layout` of
    your own, which may name a layer that the config does not describe. Without a config, only sizes that contradict
    each other are found.

    A gate, in the layout or in the config, is refused, because the layer would not compute what the model computes.
    `gated=True` gives a `GatedLayer` with the function that the config names; or name it, or give a function.
    `gated.linearize` finds the best bilinear layer of it. `gate_removed=True` says that these weights were trained or
    fine-tuned to work without the gate.

    `fold_norm=True` folds the norm that the model has before the layer into it, as the function `fold_norm` does: the
    inputs are then the residual stream times `load_norm(...).scales(stream)`. Give a `Norm` for layouts without one.

    A layer that `save` wrote is opened by `load`, which also gives its name, history, basis and constant coordinates.

    `dtype=None` keeps the file's dtype. Raises ValueError for missing tensors, for tensors of the layer's module that
    the layout does not name, for wrong shapes, a gate, a pickle or a broken file; FileNotFoundError if there is no
    such file; ConnectionError if the hub cannot be reached.
    Cost: reads the layer's bytes and the headers. Memory: under twice the layer's size at the peak, while its entries
    are checked (measured: 16 layers of d_model 1024, d_hidden 4096, float32); `down=None` and lifting add copies.
    """
    check_path("source", source)
    check_bool("gate_removed", gate_removed)
    if gated is not False:
        if gate_removed:
            raise ValueError("gate_removed=True and gated contradict each other; give one of them")
        if gated is not True:
            check_gate(gated, "gated")
    check_int("index", index, 0)
    if not isinstance(layout, Layout):
        check_choice("layout", layout, (*LAYOUTS, SAVED_MODEL))
    named = None if isinstance(layout, Layout) else layout
    files = WeightFiles(source, subfolder) if Path(source).exists() else None  # from a hub the config is fetched first
    config = optional_config(files or source, subfolder)
    options = language_part(config or {})
    own = isinstance(layout, Layout)
    if layout == SAVED_MODEL:
        try:
            layout = saved_model_layout(options, index)
        except (TypeError, ValueError) as error:  # of an entry of the config
            raise ValueError(f"the config of {str(source)!r} is not that of a saved model: {error}") from error
        options = {"bias": True, **options["config"]}  # a LogicGateModel always has biases
    elif isinstance(layout, str):
        layout = LAYOUTS[layout]
    if files is None and config is not None:  # before gigabytes are fetched
        gate_of(layout, options, gated, gate_removed)
    files = files or WeightFiles(source, subfolder)
    if files.metadata.get("format", "").startswith("tensornet_interp"):
        raise ValueError(f"{str(source)!r} was written by save: tensornet_interp.load opens it")
    layout = layout.in_file(files.names, index)
    weights, optional = _find(files, layout, index, options)
    _check_shapes(files, layout, weights | optional, options, own=own)
    gate = gate_of(layout, options, gated, gate_removed)

    norm = norm_to_fold(fold_norm, files, named, options, index, "mlp", {"device": device, "dtype": dtype})
    read = {name: files.read(name, device=device, dtype=dtype) for name in {*weights.values(), *optional.values()}}
    if layout.transposed:
        read = {name: tensor.T if tensor.ndim == 2 else tensor for name, tensor in read.items()}
    parts = {role: read[name] for role, name in (weights | optional).items()}
    for left, right in (("left", "right"), ("left_bias", "right_bias")):
        if left in parts and parts[left] is parts.get(right):  # stacked: (2 rank, ...) to twice (rank, ...)
            first, second = parts[left].chunk(2)
            parts[left], parts[right] = (first, second) if layout.first == "left" else (second, first)
    name = f"{title(source, subfolder)} layer {index}"
    about: dict[str, Any] = {"name": name, "history": _history(layout, config, gate_removed)}
    about |= {"basis": basis_of(layout, options)}
    if "dense" in parts:
        layer = BilinearLayer.from_tensor(parts["dense"], **about)
    else:
        down = parts.get("down")
        if down is None:
            down = torch.eye(len(parts["left"]), device=parts["left"].device, dtype=parts["left"].dtype)
        layer = BilinearLayer.from_weights(left=parts["left"], right=parts["right"], down=down, share=True, **about)
    lifted: dict[str, Any] = {role: parts[role] for role in optional}
    if "hidden_bias" in lifted:  # down(h + hidden_bias) = down h + down hidden_bias
        hidden = check_tensor("hidden_bias", lifted.pop("hidden_bias"), ("rank",))
        check_alike(down=layer.down, hidden_bias=hidden)
        lifted["bias"] = layer.down @ hidden + lifted.get("bias", 0)
    if gate is not None:
        if "linear" in lifted:
            raise ValueError(f"the layer has a linear part, {optional['linear']!r}, which a gated layer does not have")
        factors: dict[str, Any] = {"down": layer.down, "left": layer.left, "right": layer.right}
        found: Any = GatedLayer(**factors, **lifted, **about, gate=gate)
    else:
        found = lift(layer, residual=layout.residual, **lifted) if lifted or layout.residual else layer
    return found if norm is None else with_norm(found, norm)


def _find(
    files: WeightFiles, layout: Layout, index: int, options: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of the weights, and of the biases and the linear part that the file has, by their role.

    Raises ValueError if a tensor of the layer is missing, or if the layer has a tensor that the layout does not name.
    """
    here = layout.at(index)
    weights = here.weights
    there, layers = set(files.names), layout.indices(files.names)
    key = next((key for key in COUNTS if isinstance(options.get(key), int)), None)
    if key is not None and index >= options[key]:
        raise ValueError(f"index must be below {options[key]}, which is {key} in config.json, got {index}")
    if key is None and layers and index not in layers:
        raise ValueError(f"index must be one of {layers}, the layers of {str(files.source)!r}, got {index}")
    needed = weights | (here.biases if options.get("bias") is True or options.get("mlp_bias") is True else {})
    if here.linear and options.get("mlp_linear") is True:
        needed["linear"] = here.linear
    lost = {role: name for role, name in needed.items() if name not in there}
    extra = layout.leftover(there, index)
    if changed := adapter(files.names if lost else extra):
        raise ValueError(f"{str(files.source)!r} has {changed}")
    if lost:
        patterns = layout.weights | layout.optional
        listing = "; ".join(
            f"{role} {name!r} (pattern {patterns[role]!r}){suggestion(name, there)}" for role, name in lost.items()
        )
        near = f"; in that module the layout does not name: {', '.join(extra)}" if extra else ""
        raise ValueError(f"{str(files.source)!r} has no tensor for {listing}{near}; pass layout=Layout(left=..., ...)")
    if extra:
        raise ValueError(
            f"{str(files.source)!r} has tensors of layer {index} that the layout does not name: {', '.join(extra)}; "
            "name them (left_bias, right_bias, bias, linear), or put them in Layout.ignore if the map does not use them"
        )
    return weights, {role: name for role, name in here.optional.items() if name in there}


def sizes_of(files: WeightFiles, layout: Layout, names: Mapping[str, str]) -> dict[str, int] | None:
    """Return the sizes of the modes in, out and rank; None if the sizes of the tensors contradict each other."""
    found: dict[str, tuple[int, str]] = {}
    if _disagreement(files, layout, names, found) is not None:
        return None
    if layout.down is None and not layout.dense:
        found["out"] = found["rank"]
    return {mode: found[mode][0] for mode in ("in", "out", "rank") if mode in found}


def _check_shapes(
    files: WeightFiles, layout: Layout, names: Mapping[str, str], options: Mapping[str, Any], *, own: bool
) -> None:
    """Raise ValueError if sizes of tensors differ from each other or from the config; no weight is read for this.

    If only the config differs from an `own` layout, this warns, unless the sizes are those of the transposed layout.
    """
    sizes = {}
    for mode, keys in SIZES.items():
        key = next((key for key in keys if isinstance(options.get(key), int)), None)
        if key is not None and (mode != "out" or layout.down or layout.dense):
            sizes[mode] = (options[key], f"config.json's {key}")
    wrong = _disagreement(files, layout, names, dict(sizes))
    if wrong is None:
        return
    other = not layout.transposed
    if not layout.dense and _disagreement(files, replace(layout, transposed=other), names, dict(sizes)) is None:
        raise ValueError(
            f"{wrong}; all sizes agree if left, right and down are read as {'(in, out)' if other else '(out, in)'}: "
            f"pass a Layout with transposed={other}, made by dataclasses.replace(layout, transposed={other})"
        )
    if not own or _disagreement(files, layout, names, {}) is not None:
        raise ValueError(wrong)
    warnings.warn(f"{wrong}; does the layout name tensors that the config does not describe?", stacklevel=3)


def _disagreement(
    files: WeightFiles, layout: Layout, names: Mapping[str, str], sizes: dict[str, tuple[int, str]]
) -> str | None:
    """Return which sizes of the tensors, by their role, contradict each other or the sizes of modes that are known.

    sizes: by mode, its size and where it comes from; the modes of the tensors are added.
    """
    modes: dict[str, tuple[str, ...]] = {"left": ("rank", "in"), "right": ("rank", "in"), "down": ("out", "rank")}
    modes["linear"] = ("out", "in")
    if layout.transposed:
        modes = {role: found[::-1] for role, found in modes.items()}
    modes |= {"dense": ("out", "in", "in"), "bias": ("out",) if layout.down or layout.dense else ("rank",)}
    modes |= dict.fromkeys(("left_bias", "right_bias", "hidden_bias"), ("rank",))
    partner = {"left": "right", "right": "left", "left_bias": "right_bias", "right_bias": "left_bias"}
    for role, name in names.items():
        shape = files.shape(name)
        if len(shape) != len(modes[role]):
            return f"tensor {name!r} must have {len(modes[role])} modes {modes[role]}, got shape {shape}"
        stacked = names.get(partner.get(role, "")) == name
        for mode, size in zip(modes[role], shape, strict=True):
            halved = stacked and mode == "rank"
            if halved and size % 2:
                rows = "columns" if layout.transposed and len(shape) == 2 else "rows"
                return f"tensor {name!r} stacks left and right, so its {rows} must be even, got shape {shape}"
            found = size // 2 if halved else size
            wanted, where = sizes.setdefault(mode, (found, repr(name)))
            if found != wanted:
                half = " (half of its size)" if halved else ""
                return f"mode {mode!r} has size {wanted} in {where} but {found} in {name!r}{half}, of shape {shape}"
    return None


def _history(layout: Layout, config: Mapping[str, Any] | None, gate_removed: bool) -> tuple[str, ...]:
    notes = []
    if config is None:
        notes.append("no config.json: gate and norm are not known")
    if gate_removed:
        notes.append("gate said to be removed")
    if layout.ignore:
        notes.append(f"ignored tensors: {', '.join(layout.ignore)}")
    return tuple(notes)
