"""Whole transformers on disk as networks over positions: attention, MLPs, residuals, norms and the head."""

from collections.abc import Mapping
from typing import Any

import torch

from tensornet_interp.attention import LinearMap, Norm, Part, SequenceNetwork
from tensornet_interp.checks import check_bool, check_choice, check_mapping
from tensornet_interp.weights.attention import load_attention, module_of
from tensornet_interp.weights.attention_layouts import entry
from tensornet_interp.weights.configs import language_part, optional_config
from tensornet_interp.weights.files import WeightFiles
from tensornet_interp.weights.layers import COUNTS, load_layer
from tensornet_interp.weights.layouts import LAYOUTS
from tensornet_interp.weights.norms import BEFORE, named_norm
from tensornet_interp.weights.sources import Source, title

_LAYOUTS = ("llama", "published")
_TYPES = ("llama", "mistral", "qwen2")  # Gemma scales its embeddings
_REFUSED = ("residual_multiplier", "embedding_multiplier", "logits_scaling", "logit_scale", "final_logit_softcapping")


def load_network(
    source: Source,
    *,
    layout: str = "published",
    gate_removed: bool = False,
    positions: int | None = None,
    config: Mapping[str, Any] | None = None,
    subfolder: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> SequenceNetwork:
    """Load a whole transformer of bilinear MLPs, from the embedded tokens to the logits: logits = network(embedded).

    `layout`: "published" or "llama" (Llama, Mistral, Qwen 2); the other layouts have MLPs that are no bilinear maps.
    `gate_removed`: the MLPs have no gate although the layout has one, as in a Llama with hidden_act "linear"; see
    `load_layer`, which also says what `subfolder`, `device` and `dtype` are. `positions`, `config`: as in
    `load_attention`. `load_tensor` reads the embedding; a head that is tied to it is read from there.

    Raises ValueError for what `load_attention` and `load_layer` refuse, for norms that are no RMS norms, for scaled
    residuals and logits, and for tensors of the model that the network does not read.
    Cost: reads the whole model.
    """
    check_choice("layout", layout, _LAYOUTS)
    check_bool("gate_removed", gate_removed)
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    files = WeightFiles(source, subfolder)
    given = {} if config is None else check_mapping("config", config)
    options = {**language_part(optional_config(files, subfolder) or {}), **given}
    try:
        norms = _norms(files, layout, options, place)
        has_mlps = layout != "published" or options.get("d_hidden") != 0
        count = entry(options, COUNTS)
        head = LAYOUTS[layout].unembedding
        if options.get("tie_word_embeddings") and head not in files.names:
            head = module_of(files, layout, 0).partition("layers.")[0] + "embed_tokens.weight"
        _check_nothing_left(files, layout, count, head)
        weight = files.read(head, **place)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{str(source)!r} holds no network: {error}") from error
    parts = []
    for i in range(count):
        attention = load_attention(
            source, i, layout=layout, positions=positions, config=config, subfolder=subfolder, **place
        )
        parts.append(Part(attention, 1.0, norms[2 * i]))
        if has_mlps:
            mlp = load_layer(source, i, layout=layout, gate_removed=gate_removed, subfolder=subfolder, **place)
            parts.append(Part(mlp, 1.0, norms[2 * i + 1]))
    name = f"{title(source, subfolder)} head"
    return SequenceNetwork([*parts, Part(LinearMap(weight=weight, name=name), norm=norms[-1])])


def _norms(files: WeightFiles, layout: str, options: Mapping[str, Any], place: dict[str, Any]) -> list[Norm | None]:
    """Return the norms before attention and MLP of every layer, and that before the head."""
    count = entry(options, COUNTS)
    if count > len(files.names):
        raise ValueError(f"config.json says {count} layers, but the file has {len(files.names)} tensors")
    base = ""
    if layout == "llama":
        check_choice("model_type in config.json", options.get("model_type") or "llama", _TYPES)
        for key in _REFUSED:
            if options.get(key) not in (None, 1.0):
                raise ValueError(f"{key}={options[key]!r:.60} in config.json has no place in a network of these parts")
        base = module_of(files, layout, 0).partition("layers.")[0]
    stems = [stem.replace("{i}", str(i)) for i in range(count) for stem in BEFORE[layout]] + ["norm"]
    return [named_norm(files, layout, options, f"{base}{stem}", place) for stem in stems]


def _check_nothing_left(files: WeightFiles, layout: str, count: int, head: str) -> None:
    """Raise ValueError if the model has tensors that no part reads, such as a bias of a norm or one more norm."""
    module = module_of(files, layout, 0)
    stem, attention = ("layers.", "self_attn.") if layout == "llama" else ("h.", "attn.")
    base = module.removesuffix(f"{stem}0.{attention}")
    norms = [f"{norm.removeprefix('layers.{i}.')}.weight" for norm in BEFORE[layout]] if layout == "llama" else []
    known = (head, *(f"{base}{name}" for name in ("norm.weight", "embed_tokens.weight", "wte.weight")))
    within = tuple(f"{base}{stem}{i}.{part}" for i in range(count) for part in (attention, "mlp.", *norms))
    ours = (base, head.rpartition(".")[0] + ".")  # other names are of other models, such as one of images
    left = [name for name in files.names if name.startswith(ours) and not name.startswith(within) and name not in known]
    left = [name for name in left if not name.endswith("rotary_emb.inv_freq")]
    if left:
        raise ValueError(f"it has tensors that no part of the network reads: {', '.join(left[:8])}")
