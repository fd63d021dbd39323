"""Norms before a layer: read from checkpoints, and folded into the layer up to one number per vector."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from tensornet_interp.attention import AttentionLayer, Norm
from tensornet_interp.checks import (
    check_alike,
    check_bool,
    check_choice,
    check_int,
    check_kind,
    check_mapping,
    check_number,
    check_size,
)
from tensornet_interp.gated import GatedLayer
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.lifting import lift
from tensornet_interp.numerics import without_autocast
from tensornet_interp.weights.configs import language_part, optional_config
from tensornet_interp.weights.files import WeightFiles
from tensornet_interp.weights.sources import Source

BEFORE = {  # by layout, the module of the norm before attention and of that before the MLP
    "published": ("", ""),
    "llama": ("layers.{i}.input_layernorm", "layers.{i}.post_attention_layernorm"),
    "gpt2": ("h.{i}.ln_1", "h.{i}.ln_2"),
    "transformer_lens": ("blocks.{i}.ln1", "blocks.{i}.ln2"),
}
_READERS = ("attention", "mlp")
_FOLDED = "norm folded"  # in the history of a layer
_LLAMA = (None, "llama", "mistral", "qwen2", "gemma")  # values of model_type
_KINDS = ("LN", "LNPre", "RMS", "RMSPre")  # those with Pre have no weights

_Layer = TypeVar("_Layer", BilinearLayer, GatedLayer, AttentionLayer)


@without_autocast
def fold_norm(layer: _Layer, norm: Norm) -> _Layer:
    """Return the layer with the weights of a norm inside, which reads a vector that is only scaled.

    folded(scale x) = layer(norm(x)),  scale = norm.scales(x), one number per vector

    The weight, the bias and the removal of the mean are affine maps, so they fold exactly. The scale depends on x and
    stays outside: it is known for every vector, and a constant in its place would be an approximation. A bilinear
    layer, lifted or not, is of degree 2 over all coordinates: folded(scale x) = scale^2 folded.multilinear([1 / scale,
    x]) for a lifted one, with the constant coordinate 0. A residual is no part of this: add it to the unscaled x.
    layer: a bilinear, gated or attention layer that reads norm(x). A bias of the norm lifts the layer if it is not
    lifted. Raises ValueError if sizes, dtypes or devices differ, for a norm with fixed scales, and for a layer whose
    history says that a norm is folded already.
    Cost: one pass over the weights that read x.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.eye(2))
    >>> x, norm = torch.tensor([3.0, 4.0]), Norm(weight=torch.tensor([1.0, 2.0]), eps=0.0)
    >>> fold_norm(layer, norm)(norm.scales(x)[..., None] * x), layer(norm(x))
    (tensor([0.7200, 5.1200]), tensor([0.7200, 5.1200]))
    """
    if not isinstance(layer, BilinearLayer | GatedLayer | AttentionLayer):
        raise TypeError(f"layer must be a bilinear, gated or attention layer, got {type(layer).__name__}")
    check_kind("norm", norm, Norm)
    if norm.scale is not None:
        raise ValueError("norm has fixed scales; fold a norm without them: the scale is what stays outside")
    if _FOLDED in layer.history:
        raise ValueError(f"layer must read the vectors after a norm, but {layer!r} has a norm folded already")
    size = (layer.value.shape[2] if isinstance(layer, AttentionLayer) else len(layer.left)) - layer.constant_in
    for name, array in norm.arrays().items():
        check_size("in", layer=size, **{f"norm.{name}": len(array)})
        check_alike(layer=layer.down, **{f"norm.{name}": array})
    if norm.bias is not None and not isinstance(layer, GatedLayer) and not layer.constant_in:
        layer = lift(layer) if isinstance(layer, BilinearLayer) else layer.lift()
    divisor = "standard deviation, its mean removed by the weights" if norm.centered else "root mean square"
    made: dict[str, Any] = {"basis": f"residual stream over its {divisor}", "history": (*layer.history, _FOLDED)}
    if isinstance(layer, GatedLayer):
        for side in ("left", "right"):
            weight, shift = _folded(getattr(layer, side).T, norm)
            made[side], bias = weight.T, f"{side}_bias"
            if shift is not None:
                made[bias] = shift if getattr(layer, bias) is None else getattr(layer, bias) + shift
    elif isinstance(layer, BilinearLayer):
        made |= {side: _with_constant(getattr(layer, side).T, norm, layer.constant_in).T for side in ("left", "right")}
    else:
        made["value"] = _with_constant(layer.value, norm, layer.constant_in)
        for side in ("queries", "keys"):
            made[side] = tuple(_with_constant(array, norm, layer.constant_in) for array in getattr(layer, side))
    return replace(layer, **made)


def load_norm(
    source: Source,
    index: int,
    *,
    layout: str = "published",
    before: str = "mlp",
    config: Mapping[str, Any] | None = None,
    subfolder: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Norm | None:
    """Load the norm before the attention or the MLP of layer `index`, or return None if the model has none there.

    layout: "published" (RMS norms without weights), "llama" (Llama, Mistral, Qwen 2, Gemma), "gpt2", or
    "transformer_lens", whose config says "normalization_type". before: "attention" or "mlp". `config`: entries that
    replace those of config.json, or stand in for a missing one; for the rest see `load_layer`.
    Raises ValueError for other kinds of norms, and if the tensors of the norm are not in the file.
    """
    check_int("index", index, 0)
    check_choice("layout", layout, BEFORE)
    check_choice("before", before, _READERS)
    files = WeightFiles(source, subfolder)
    given = {} if config is None else check_mapping("config", config)
    options = {**language_part(optional_config(files, subfolder) or {}), **given}
    return read_norm(files, layout, options, index, before, {"device": device, "dtype": dtype})


def read_norm(
    files: WeightFiles, layout: str, options: Mapping[str, Any], index: int, before: str, place: Mapping[str, Any]
) -> Norm | None:
    """Return the norm before a part of layer `index`; options: the config. Raises the errors of `load_norm`."""
    stem = BEFORE[layout][_READERS.index(before)].replace("{i}", str(index))
    return named_norm(files, layout, options, stem, place)


def norm_to_fold(
    given: bool | Norm,
    files: WeightFiles,
    layout: str | None,
    options: Mapping[str, Any],
    index: int,
    before: str,
    place: Mapping[str, Any],
) -> Norm | None:
    """Return the norm that the option `fold_norm` of a loader means; layout: its name, or None for another one."""
    if isinstance(given, Norm):
        return given.to(**place)
    if not check_bool("fold_norm", given):
        return None
    if layout not in BEFORE:
        raise ValueError(f"fold_norm=True is for the layouts {', '.join(BEFORE)}; for others pass fold_norm=Norm(...)")
    return read_norm(files, layout, options, index, before, place)


def named_norm(
    files: WeightFiles, layout: str, options: Mapping[str, Any], stem: str, place: Mapping[str, Any]
) -> Norm | None:
    """Return the norm of the module whose name ends in `stem`, of the kind that layout and config say."""
    if layout == "published":
        kind = check_choice("normalization in config.json", options.get("normalization"), ("none", "rms"))
        return Norm(eps=1e-8) if kind == "rms" else None
    if layout == "transformer_lens":
        return _lens_norm(files, options, stem, place)
    centered, key, eps = (True, "layer_norm_epsilon", 1e-5) if layout == "gpt2" else (False, "rms_norm_eps", 1e-6)
    family = options.get("model_type")
    if layout == "llama" and family not in _LLAMA:
        raise ValueError(
            f"model_type in config.json must be one of {', '.join(filter(None, _LLAMA))}, got {family!r}: other models "
            "have other norms"
        )
    eps = check_number(f"{key} in config.json", options.get(key, eps), 0.0)
    weight = _read(files, f"{stem}.weight", place)
    bias = _read(files, f"{stem}.bias", place) if centered else None
    return Norm(centered=centered, eps=eps, weight=weight + 1 if family == "gemma" else weight, bias=bias)


def _lens_norm(files: WeightFiles, options: Mapping[str, Any], stem: str, place: Mapping[str, Any]) -> Norm | None:
    if options.get("normalization_type", "") is None:
        return None
    kind = str(check_choice("normalization_type in config.json", options.get("normalization_type", ""), _KINDS))
    eps = check_number("eps in config.json", options.get("eps", 1e-5), 0.0)
    weight = None if kind.endswith("Pre") else _read(files, f"{stem}.w", place)
    bias = _read(files, f"{stem}.b", place) if kind == "LN" else None
    return Norm(centered=kind.startswith("LN"), eps=eps, weight=weight, bias=bias)


def _read(files: WeightFiles, end: str, place: Mapping[str, Any]) -> Tensor:
    found = [end] if end in files.names else [name for name in files.names if name.endswith(f".{end}")]
    if len(found) != 1:
        times = f"there {len(found)} times, as {', '.join(found)}" if found else "not in it"
        raise ValueError(
            f"tensor of name {end!r} is {times}: {str(files.source)!r} must have the norm that layout and index name"
        )
    return files.read(found[0], **place)


def _folded(weight: Tensor, norm: Norm) -> tuple[Tensor, Tensor | None]:
    """Return weight' (..., in) and shift (...), or None, with weight . norm(x) = weight' . (scale x) + shift."""
    shift = None if norm.bias is None else weight @ norm.bias
    weight = weight if norm.weight is None else weight * norm.weight
    return weight - weight.mean(-1, keepdim=True) if norm.centered else weight, shift


def _with_constant(weight: Tensor, norm: Norm, constant: bool) -> Tensor:
    """Return `_folded` for rows whose coordinate 0 is the constant, if there is one."""
    folded, shift = _folded(weight[..., constant:], norm)
    if not constant:
        return folded
    first = weight[..., :1] if shift is None else weight[..., :1] + shift[..., None]
    return torch.cat([first, folded], -1)
