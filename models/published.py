"""Save and load a `Transformer` in the published layout, which `tensornet_interp.weights` opens layer by layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.bilinear import GATES
from models.storage import CONFIG, save_unit
from models.transformer import ATTENTIONS, NORMS, Transformer, TransformerConfig
from tensornet_interp.checks import check_bool, check_choice, check_int
from tensornet_interp.weights import LAYOUTS, Source, WeightFiles

# fields of `TransformerConfig` -> their names in the layout
KEYS = {"n_layers": "n_layer", "n_heads": "n_head", "context": "n_ctx", "d_model": "d_model", "d_hidden": "d_hidden"}
PARTS = ("mlp_bias", "mlp_linear")  # fields that the layout names alike, and only if they are True
FIXED = {"bilinear": True, "bias": False}
TOKENIZER = "tokenizer.json"
PUBLISHED = LAYOUTS["published"]


def save_transformer(model: Transformer, folder: str | Path, extra: Mapping[str, Any] | None = None) -> None:
    """Write `<folder>/model.safetensors` and `<folder>/config.json` in the published layout.

    In the stacked weights, left rows are above right rows, and queries above keys above values. The config stores
    `extra` (JSON values) as "extra".
    `load_transformer` and `tensornet_interp.weights` read only model.safetensors, which has the config in its metadata.
    If the process is killed, the old model or the new one is complete on disk. Raises TypeError for an `extra` that
    JSON cannot hold.
    """
    config = model.config
    info = {name: getattr(config, field) for field, name in KEYS.items()} | FIXED
    info |= {"n_vocab": config.vocabulary, "gate": None if config.gate == "none" else config.gate}
    info |= {"attention": config.attention, "normalization": config.norm}
    info |= {name: True for name in PARTS if getattr(config, name)}
    info |= {"tokenizer": TOKENIZER, "extra": dict(extra or {})}
    state = model.state_dict()
    tensors = {
        stored: torch.cat([state[name] for name in names])
        for stored, names in _tensors(config.n_layers, config.d_hidden > 0, config.mlp_bias, config.mlp_linear).items()
    }
    save_unit(folder, tensors, info)


def load_transformer(folder: Source, *, device: torch.device | str = "cpu") -> Transformer:
    """Return the model of a checkpoint in the published layout, in the dtype of the file.

    `folder` is any source of `tensornet_interp.weights`, also shards and hub names. The number of rows of the embedding
    is the vocabulary. A config without the entry "attention" means softmax. Raises FileNotFoundError for a missing
    file; ValueError for a model that a `Transformer` cannot be (biases of attention, another norm, another
    gate, an MLP without the product), and for tensors that are missing, too many, or of other sizes than the config
    says.
    """
    files = WeightFiles(folder)
    info = files.config()
    for key, value in FIXED.items():
        if info.get(key) != value:
            raise ValueError(f"{folder}: {key} must be {value!r} in {CONFIG}, got {info.get(key)!r}")
    sizes: dict[str, Any] = {
        f: check_int(f"{name} in {CONFIG}", info.get(name), int(f != "d_hidden")) for f, name in KEYS.items()
    }
    kinds: dict[str, Any] = {
        "gate": check_choice(f"gate in {CONFIG}", info.get("gate") or "none", GATES),
        "attention": check_choice(f"attention in {CONFIG}", info.get("attention", "softmax"), ATTENTIONS),
        "norm": check_choice(f"normalization in {CONFIG}", info.get("normalization"), NORMS),
    }
    if sizes["n_layers"] > len(files.names):  # checked before so many names are made
        raise ValueError(f"{folder} does not fit its config: {len(files.names)} tensors for n_layer={info['n_layer']}")
    parts = [check_bool(f"{name} in {CONFIG}", info.get(name, False)) for name in PARTS]
    kinds |= zip(PARTS, parts, strict=True)
    wanted = _tensors(sizes["n_layers"], sizes["d_hidden"] > 0, *parts)
    missing, extra = sorted(set(wanted) - set(files.names)), sorted(set(files.names) - set(wanted))
    if missing or extra:
        raise ValueError(f"{folder} does not fit its config: missing tensors {missing}, extra tensors {extra}")
    vocabulary = (*files.shape(PUBLISHED.embedding), 0)[0]
    try:
        config = TransformerConfig(vocabulary=vocabulary, **kinds, **sizes)
        model = Transformer(config, device="meta")
    except (RuntimeError, TypeError, ValueError) as error:  # torch has sizes that it refuses
        raise ValueError(f"{folder}: the sizes in {CONFIG} are not valid: {error}") from error
    expected, state = model.state_dict(), dict[str, Tensor]()
    for stored, names in wanted.items():
        shape = sum(len(expected[name]) for name in names), *expected[names[0]].shape[1:]
        if files.shape(stored) != shape:
            raise ValueError(f"{folder}: tensor {stored!r} has shape {files.shape(stored)}, the config says {shape}")
        stacked = files.read(stored).chunk(len(names))
        state |= {name: part.clone() for name, part in zip(names, stacked, strict=True)}
    model.load_state_dict(state, assign=True)
    return model.to(device).requires_grad_()


def _tensors(layers: int, mlps: bool, mlp_bias: bool, mlp_linear: bool) -> dict[str, tuple[str, ...]]:
    """Return the names in the layout, each with the parameters that are stacked in that tensor."""
    names: dict[str, tuple[str, ...]] = {
        PUBLISHED.embedding: ("embedding.weight",),
        PUBLISHED.unembedding: ("head.weight",),
    }
    for i in range(layers):
        block = f"blocks.{i}"
        here = PUBLISHED.at(i)
        for stored, part in zip(here.attention, ("qkv", "o"), strict=True):
            names[stored] = (f"{block}.attention.{part}.weight",)
        if not mlps:
            continue
        names[here.left] = (f"{block}.mlp.left.weight", f"{block}.mlp.right.weight")
        names[str(here.down)] = (f"{block}.mlp.down.weight",)
        if mlp_bias:
            names[str(here.left_bias)] = (f"{block}.mlp.left.bias", f"{block}.mlp.right.bias")
            names[str(here.bias)] = (f"{block}.mlp.down.bias",)
        if mlp_linear:
            names[str(here.linear)] = (f"{block}.mlp.linear.weight",)
    return names
