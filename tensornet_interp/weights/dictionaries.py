"""Feature dictionaries on disk: SAELens's files and the paper's read, the paper's written."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tensornet_interp.checks import check_tensor
from tensornet_interp.disk import read_json, replace_files
from tensornet_interp.features.dictionary import Dictionary
from tensornet_interp.weights.files import Source, WeightFiles
from tensornet_interp.weights.tensors import pack

_PAPER_FOLDER = re.compile(r"(?P<layer>\d+)-(?P<point>.+)-x(?P<expansion>\d+)-k(?P<k>\d+)")


def load_dictionary(
    folder: Source, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Dictionary:
    """A dictionary in SAELens's layout or in the paper's, told apart by the names of the tensors

    SAELens: cfg.json and sae_weights.safetensors with W_enc (d_in, d_sae), W_dec (d_sae, d_in), b_enc, b_dec, and
    threshold for JumpReLU; k, activation, hook name and apply_b_dec_to_input from cfg.json. Rescaling of TopK
    activations by the decoder's norms is folded into the weights, exactly. Refused, because the encoder is another:
    gated, normalized activations, and what is no autoencoder of one place (transcoders).
    The paper: a folder `{layer}-{point}-x{expansion}-k{k}` whose safetensors file has w_enc.weight (d_sae, d_in),
    w_dec.weight (d_in, d_sae), b_dec, and perhaps w_enc.bias; TopK, then rectified, of inputs less b_dec.

    Raises ValueError for missing or extra tensors, wrong shapes, and what is refused; FileNotFoundError.
    """
    path = Path(os.path.abspath(folder))
    weights = path / "sae_weights.safetensors"  # SAELens puts sparsity.safetensors beside it
    files = WeightFiles(weights if weights.is_file() else folder)
    path = path.parent if path.is_file() else path
    if "W_enc" in files.names:
        options = _saelens_options(path)
        roles = {"encoder": "W_enc", "decoder": "W_dec", "encoder_bias": "b_enc", "decoder_bias": "b_dec"}
        optional = {"threshold": "threshold"} if options.pop("jump") else {}
    else:
        options = _paper_options(path)
        roles = {"encoder": "w_enc.weight", "decoder": "w_dec.weight", "decoder_bias": "b_dec"}
        optional = {"encoder_bias": "w_enc.bias"} if "w_enc.bias" in files.names else {}
    roles |= optional
    lost = [name for name in roles.values() if name not in files.names]
    extra = sorted(set(files.names) - set(roles.values()))
    if lost or extra:
        raise ValueError(f"{path} must hold {', '.join(roles.values())}: missing {lost}, extra {extra}")
    expansion, rescaled = options.pop("expansion", None), options.pop("rescaled", False)
    tensors = {role: files.read(name, device=device, dtype=dtype) for role, name in roles.items()}
    if "W_enc" in files.names:  # stored as x @ W: the rows there are the columns here
        check_tensor("W_enc", tensors["encoder"], ("d_in", "d_sae"))
        check_tensor("W_dec", tensors["decoder"], ("d_sae", "d_in"))
        tensors |= {"encoder": tensors["encoder"].T, "decoder": tensors["decoder"].T}
    try:
        dictionary = Dictionary(**(options | tensors))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no dictionary: {error}") from error
    if rescaled:  # activations times the norms before TopK, over them before the decoder: the same, in the weights
        norms = dictionary.decoder.norm(dim=0).clamp(min=torch.finfo(dictionary.decoder.dtype).tiny)  # (feature,)
        encoder, decoder = dictionary.encoder * norms[:, None], dictionary.decoder / norms
        dictionary = replace(dictionary, encoder=encoder, decoder=decoder, encoder_bias=tensors["encoder_bias"] * norms)
    if expansion is not None and dictionary.features != expansion * dictionary.width:
        raise ValueError(
            f"{path} says expansion {expansion}, so {expansion * dictionary.width} features of d={dictionary.width}, "
            f"but w_enc.weight has {dictionary.features} rows"
        )
    return dictionary


def _paper_options(path: Path) -> dict[str, Any]:
    match = _PAPER_FOLDER.fullmatch(path.name)
    if match is None:
        raise ValueError(
            f"{path} has no SAELens tensors (W_enc, ...) and its name is not '{{layer}}-{{point}}-x{{expansion}}-k{{k}}"
            "', which says k; rename it, or build Dictionary(encoder=..., decoder=..., k=...) from load_tensor"
        )
    point = f"{match['layer']}-{match['point']}"
    return {"name": match[0], "point": point, "k": int(match["k"]), "expansion": int(match["expansion"])}


def _saelens_options(path: Path) -> dict[str, Any]:
    file = path / "cfg.json"
    config = read_json(file)
    if not isinstance(config, Mapping):
        raise ValueError(f"{file} must hold a JSON object, got {type(config).__name__}")
    kind = config.get("architecture", "standard")
    if kind not in ("standard", "topk", "jumprelu"):
        raise ValueError(f"{file}: architecture must be standard, topk or jumprelu, got {kind!r}")
    if config.get("normalize_activations") not in (None, False, "none"):
        raise ValueError(
            f"{file}: normalize_activations={config['normalize_activations']!r} scales the inputs outside of the "
            "weights; fold it into them (SAELens: fold_activation_norm_scaling_factor) and save again"
        )
    if config.get("finetuning_scaling_factor"):
        raise ValueError(f"{file}: finetuning_scaling_factor scales activations outside of the weights; fold it in")
    activation = config.get("activation_fn_str", config.get("activation_fn", kind))
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    topk = "topk" in (kind, activation)
    if topk and k is None:
        raise ValueError(f"{file}: TopK without k; it must be an entry k or activation_fn_kwargs.k")
    if not topk and activation not in ("relu", "standard", "jumprelu"):
        raise ValueError(f"{file}: activation_fn must be relu, topk or jumprelu, got {activation!r}")
    more: Any = config.get("metadata")
    places = {**more, **config} if isinstance(more, Mapping) else config
    return {
        "name": path.name,
        "point": str(places.get("hook_name", places.get("hook_point", ""))),
        "k": k if topk else None,
        "centered": bool(config.get("apply_b_dec_to_input", True)),
        "jump": kind == "jumprelu",
        "rescaled": topk and bool(config.get("rescale_acts_by_decoder_norm")),
    }


def save_dictionary(dictionary: Dictionary, parent: str | Path) -> Path:
    """Write `parent/{layer}-{point}-x{expansion}-k{k}/model.safetensors`, which `load_dictionary` opens; its folder

    The folder is the dictionary's name, as `autoencoder_at` gives it. Raises ValueError where the name is another or
    does not fit the sizes, or the layout cannot hold the dictionary (threshold, no TopK, no rectifier, not centered).
    """
    match = _PAPER_FOLDER.fullmatch(dictionary.name)
    if match is None:
        raise ValueError(f"name must be '{{layer}}-{{point}}-x{{expansion}}-k{{k}}', got {dictionary.name!r}")
    if dictionary.features != int(match["expansion"]) * dictionary.width or dictionary.k != int(match["k"]):
        raise ValueError(f"name {dictionary.name!r} does not fit {dictionary!r}")
    if dictionary.threshold is not None or not dictionary.rectify or not dictionary.centered:
        raise ValueError("the published layout holds TopK, rectified, centered dictionaries without a threshold")
    bias = dictionary.decoder_bias
    tensors = {
        "w_enc.weight": dictionary.encoder,
        "w_dec.weight": dictionary.decoder,
        "b_dec": dictionary.decoder.new_zeros(dictionary.width) if bias is None else bias,
    }
    if dictionary.encoder_bias is not None:
        tensors["w_enc.bias"] = dictionary.encoder_bias
    folder = Path(parent) / dictionary.name
    replace_files([(folder / "model.safetensors", pack(tensors, {}))])
    return folder
