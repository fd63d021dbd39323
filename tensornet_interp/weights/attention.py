"""Attention on disk: that of one block of a checkpoint is loaded without the rest and without the model's class."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.attention import AttentionLayer, Norm, causal_mask
from tensornet_interp.checks import check_choice, check_int, check_mapping, check_path
from tensornet_interp.weights.attention_layouts import (
    ATTENTION_LAYOUTS,
    NOWHERE,
    REFUSED_TENSORS,
    AttentionSizes,
    check_options,
    check_type,
    read_pattern,
    read_sizes,
)
from tensornet_interp.weights.configs import basis_of, language_part, optional_config
from tensornet_interp.weights.files import WeightFiles
from tensornet_interp.weights.layouts import LAYOUTS
from tensornet_interp.weights.norms import fold_norm as with_norm
from tensornet_interp.weights.norms import norm_to_fold
from tensornet_interp.weights.sources import Source, title


def load_attention(
    source: Source,
    index: int,
    *,
    layout: str = "published",
    positions: int | None = None,
    config: Mapping[str, Any] | None = None,
    fold_norm: bool | Norm = False,
    subfolder: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> AttentionLayer:
    """Load the attention of layer `index` of a checkpoint: what it adds to the residual stream, given its inputs.

    `source`, `subfolder`, `device`, `dtype`: as in `load_layer`. `layout`:

    - "published": h.{i}.attn.qkv and o, softmax or bilinear, with the factor 1 / sqrt(2 n_layer) of this layout;
    - "llama": layers.{i}.self_attn.q_proj, k_proj, v_proj and o_proj of transformers' Llama, Mistral, Qwen 2 and Gemma,
      with shared keys and values, scaled rotary positions and windows;
    - "gpt2": h.{i}.attn.c_attn and c_proj; the learned positions are part of the input;
    - "transformer_lens": blocks.{i}.attn.W_Q, W_K, W_V, W_O and their biases b_Q, b_K, b_V, b_O.

    `positions`: the longest context, by default the model's; the mask has positions^2 entries. `config`: entries that
    replace those of config.json, or stand in for a missing one, such as the cfg of a HookedTransformer.
    Biases lift the layer. The inputs are the vectors after the norm; the layer's `basis` says which. `fold_norm`: as in
    `load_layer`.

    Raises ValueError, before a weight is read, for what no `AttentionLayer` computes: a norm of queries and keys,
    soft-capped or clipped scores, attention sinks, latent attention; for another model_type; if heads do not divide a
    size; if tensors are missing, too many or of other sizes than the config says. For other attention, give what
    `load_tensor` reads to `AttentionLayer.from_weights`.
    Cost: reads the bytes of this attention. Memory: about twice its size, and the mask.
    """
    check_path("source", source)
    check_int("index", index, 0)
    check_choice("layout", layout, ATTENTION_LAYOUTS)
    given = {} if config is None else check_mapping("config", config)
    if positions is not None:
        check_int("positions", positions, 1)
    files = WeightFiles(source, subfolder) if Path(source).exists() else None  # from a hub the config is fetched first
    options = {**language_part(optional_config(files or source, subfolder) or {}), **given}
    try:
        check_options(layout, options, index)
        module = module_of(files, layout, index) if files else ""  # names of tensors say more than the type of a model
        check_type(layout, options)
        files = files or WeightFiles(source, subfolder)
        module = module or module_of(files, layout, index)
        sizes = read_sizes(layout, options)
        found = _tensors(files, module, layout, sizes)
        pattern, count = read_pattern(layout, options, index, sizes, positions)
        weights, biases = (
            {role: files.read(name, device=device, dtype=dtype) for role, name in names.items()} for names in found
        )
        out = weights["out"]
        mask = causal_mask(count, window=pattern.window, power=pattern.power, dtype=out.dtype, device=out.device)
        arguments = _arguments(weights, biases, layout, sizes.scores)
        norm = norm_to_fold(fold_norm, files, layout, options, index, "attention", {"device": device, "dtype": dtype})
        layer = AttentionLayer.from_weights(
            **arguments | {"out": arguments["out"] * pattern.factor},
            heads=sizes.heads,
            kv_heads=sizes.shared,
            positions=count,
            mask=mask,
            rotary=pattern.rotary,
            pairs=pattern.pairs,
            scale=pattern.scale,
            softmax=pattern.softmax,
            name=f"{title(source, subfolder)} layer {index} attention",
            basis=ATTENTION_LAYOUTS[layout].basis or basis_of(LAYOUTS[layout], options),
            share=True,
        )
        return layer if norm is None else with_norm(layer, norm)
    except (TypeError, ValueError) as error:  # some, of an entry of the config, name no file
        raise ValueError(f"attention of layer {index} of {str(source)!r}: {error}") from error


def attention_layout(files: WeightFiles) -> str | None:
    """Return the first layout of attention whose weights of layer 0 are in the file; only names are read."""
    for layout, names in ATTENTION_LAYOUTS.items():
        module = names.module.replace("{i}", "0")
        wanted = (f".{module}.{name}" for name in names.weights.values())
        if all(any(f".{name}".endswith(end) for name in files.names) for end in wanted):
            return layout
    return None


def module_of(files: WeightFiles, layout: str, index: int) -> str:
    """Return the name of the module in the file. Raises ValueError if it has parts that no layer computes."""
    names = ATTENTION_LAYOUTS[layout]
    module = names.module.replace("{i}", str(index)) + "."
    found = {name[: place + len(module)] for name in files.names if (place := f".{name}".find(f".{module}")) >= 0}
    if len(found) != 1:
        count = f"is there {len(found)} times, as {', '.join(sorted(found))}" if found else "is not there"
        other = None if found else attention_layout(files)
        count += f"; the file has layout={other!r}" if other not in (None, layout) else ""
        raise ValueError(f"the module {module!r} of layout={layout!r} {count}")
    (prefix,) = found
    for name in files.names:
        for what, words in REFUSED_TENSORS.items():
            if name.startswith(prefix) and any(word in name.removeprefix(prefix) for word in words):
                raise ValueError(f"it has {what} ({name}), {NOWHERE}")
    return prefix


def _tensors(
    files: WeightFiles, module: str, layout: str, sizes: AttentionSizes
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of weights and biases in the file, by their role, after checks of their shapes."""
    names = ATTENTION_LAYOUTS[layout]
    there = {name.removeprefix(module).removeprefix("_"): name for name in files.names if name.startswith(module)}
    missing = [module + name for name in names.weights.values() if name not in there]
    if missing:
        raise ValueError(f"it has no tensor {', '.join(missing)}")
    known = {*names.weights.values(), *names.biases.values(), *names.ignored}
    extra = [name for short, name in there.items() if short not in known]
    if extra:
        raise ValueError(f"it has tensors that layout={layout!r} does not name: {', '.join(extra)}")
    found = tuple(
        {role: there[name] for role, name in roles.items() if name in there} for roles in (names.weights, names.biases)
    )
    for roles, shapes in zip(found, sizes.shapes(layout), strict=True):
        for role, name in roles.items():
            if files.shape(name) != shapes[role]:
                raise ValueError(f"tensor {name!r} has shape {files.shape(name)}, the config says {shapes[role]}")
    return found[0], found[1]


def _arguments(weights: Mapping[str, Tensor], biases: Mapping[str, Tensor], layout: str, scores: int) -> dict[str, Any]:
    """Return the weights and biases as `from_weights` takes them."""
    if layout == "transformer_lens":
        weights = {role: w.mT.flatten(0, 1) for role, w in weights.items() if role != "out"} | {
            "out": weights["out"].flatten(0, 1).T
        }
        biases = {role: bias.flatten() for role, bias in biases.items()}
    elif layout == "gpt2":
        weights = {role: weight.T for role, weight in weights.items()}
    sides = [_sides(tensors, scores) for tensors in (weights, biases)]
    arguments: dict[str, Any] = {**sides[0], "out": weights["out"]}
    more = {"queries": "query_biases", "keys": "key_biases", "value": "value_bias"}
    arguments |= {more[name]: found for name, found in sides[1].items()}
    return arguments | ({"bias": biases["out"]} if "out" in biases else {})


def _sides(tensors: Mapping[str, Tensor], scores: int) -> dict[str, Any]:
    """Return queries, keys and values of tensors by their role; those that are not there are left out."""
    if "stacked" in tensors:
        *sides, value = tensors["stacked"].chunk(2 * scores + 1)
        return {"queries": sides[:scores], "keys": sides[scores:], "value": value}
    lists = {"queries": "query", "keys": "key"}
    found: dict[str, Any] = {name: [tensors[role]] for name, role in lists.items() if role in tensors}
    return found | ({"value": tensors["value"]} if "value" in tensors else {})
