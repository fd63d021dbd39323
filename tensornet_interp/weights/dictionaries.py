"""Feature dictionaries on disk, in the layouts of SAELens (read only) and of Pearce et al., 2025 (read and written)."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_kind, check_path, check_tensor
from tensornet_interp.disk import replace_files
from tensornet_interp.features.dictionary import Dictionary
from tensornet_interp.tensorfile import pack
from tensornet_interp.weights.files import WeightFiles, read_object
from tensornet_interp.weights.sources import Source, folder_of, locate
from tensornet_interp.weights.wrappers import stored_names

SAELENS_FILE = "sae_weights.safetensors"  # SAELens puts sparsity.safetensors beside it
SAELENS_CONFIG = "cfg.json"
PAPER_FILE = "model.safetensors"
PAPER_FOLDER = re.compile(r"(?P<layer>\d+)-(?P<point>.+)-x(?P<expansion>\d+)-k(?P<k>\d+)")
PAPER_NAME = "{layer}-{point}-x{expansion}-k{k}"


def load_dictionary(
    source: Source, *, subfolder: str = "", device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Dictionary:
    """Load a dictionary in the layout of SAELens or of Pearce et al. (2025); the tensor names decide which it is.

    SAELens: a folder with cfg.json and sae_weights.safetensors. The tensors are W_enc (d_in, d_sae), W_dec (d_sae,
    d_in), b_enc, b_dec, and threshold for JumpReLU. k, the activation function, the hook name and apply_b_dec_to_input
    come from cfg.json. If TopK activations are rescaled by the norms of the decoder, these norms are absorbed exactly
    into the weights. Gated encoders, normalized inputs and transcoders raise ValueError, because they compute something
    that a `Dictionary` cannot.
    Pearce et al.: a folder `{layer}-{point}-x{expansion}-k{k}` whose safetensors file has w_enc.weight (d_sae, d_in),
    w_dec.weight (d_in, d_sae), b_dec, and optionally w_enc.bias. The encoder subtracts b_dec from its inputs, keeps the
    k largest codes and sets negative codes to zero.

    `source`: a folder, or a hub name "owner/name" or "owner/name@revision"; `subfolder`: the dictionary's folder in it,
    such as "12-mlp-out-x4-k30" (see `WeightFiles`). Prefixes that wrappers add to names, such as `module.` and
    `_orig_mod.`, are left out.
    `dtype=None` keeps the dtype of the file. Raises ValueError for missing or additional tensors and for wrong shapes,
    FileNotFoundError if there is no such file. Memory: the size of the dictionary, or twice that if norms are absorbed.
    """
    path, folder = check_path("source", source), folder_of(source, subfolder)
    try:
        files = WeightFiles(path if path.is_file() else locate(source, SAELENS_FILE, subfolder))
    except ConnectionError:  # what was fetched earlier still loads
        files = WeightFiles(locate(source, PAPER_FILE, subfolder, cached=True))
    except FileNotFoundError:
        files = WeightFiles(source, subfolder)
    try:
        if "W_enc" in stored_names(files.names, folder):
            config = locate(source, SAELENS_CONFIG, subfolder)
            return _load_saelens(files, folder, config, device, dtype)
        return _load_paper(files, folder, device, dtype)
    except (TypeError, ValueError) as error:  # some, of an option or an entry, name no file
        raise ValueError(f"{folder} holds no dictionary: {error}") from error


def save_dictionary(dictionary: Dictionary, parent: str | Path) -> Path:
    """Write a dictionary in the layout of Pearce et al. (2025), and return its folder, for `load_dictionary`.

    The file is `parent/{layer}-{point}-x{expansion}-k{k}/model.safetensors`, and the name of the folder is the name of
    the dictionary. An old file stays until the new one is complete. Raises ValueError if the name does not follow this
    pattern or does not match the sizes. The layout holds only dictionaries that are TopK, rectified and centered and
    have no threshold; others raise ValueError too.
    """
    match = PAPER_FOLDER.fullmatch(check_kind("dictionary", dictionary, Dictionary).name)
    if match is None:
        raise ValueError(f"name must be '{PAPER_NAME}', got {dictionary.name!r}")
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
    folder = check_path("parent", parent) / dictionary.name
    replace_files([(folder / PAPER_FILE, pack(tensors, {}))])
    return folder


def _load_saelens(
    files: WeightFiles, folder: Path, file: Path, device: torch.device | str, dtype: torch.dtype | None
) -> Dictionary:
    config = read_object(file)
    kind = _saelens_kind(file, config)
    k = _saelens_k(file, config, kind)
    roles = {"encoder": "W_enc", "decoder": "W_dec", "encoder_bias": "b_enc", "decoder_bias": "b_dec"}
    if kind == "jumprelu":
        roles["threshold"] = "threshold"
    parts: dict[str, Any] = _read_parts(files, folder, roles, device, dtype)
    check_tensor("W_enc", parts["encoder"], ("d_in", "d_sae"))
    check_tensor("W_dec", parts["decoder"], ("d_sae", "d_in"))
    parts |= {"encoder": parts["encoder"].T, "decoder": parts["decoder"].T}  # stored for x @ W
    more: Any = config.get("metadata")
    places = {**more, **config} if isinstance(more, Mapping) else config
    dictionary = Dictionary(
        **parts,
        k=k,
        centered=bool(config.get("apply_b_dec_to_input", True)),
        name=folder.name,
        point=str(places.get("hook_name", places.get("hook_point", ""))),
    )
    if k is None or not config.get("rescale_acts_by_decoder_norm"):
        return dictionary
    # activations times the norms before TopK, divided by them before the decoder: the same function, in the weights
    norms = dictionary.decoder.norm(dim=0).clamp(min=torch.finfo(dictionary.decoder.dtype).tiny)  # (feature,)
    encoder, decoder = dictionary.encoder * norms[:, None], dictionary.decoder / norms
    return replace(dictionary, encoder=encoder, decoder=decoder, encoder_bias=parts["encoder_bias"] * norms)


def _saelens_kind(file: Path, config: Mapping[str, Any]) -> str:
    """Return the architecture that cfg.json names; raise ValueError if a `Dictionary` cannot compute it."""
    kind = config.get("architecture", "standard")
    if kind not in ("standard", "topk", "jumprelu"):
        raise ValueError(f"{file}: architecture must be standard, topk or jumprelu, got {kind!r}")
    scaling = config.get("normalize_activations")
    if scaling == "expected_average_only_in":
        raise ValueError(
            f"{file}: normalize_activations={scaling!r} scales the inputs by a number outside of the weights; fold it "
            "into them (SAELens: fold_activation_norm_scaling_factor) and save again"
        )
    if scaling not in (None, False, "none"):
        raise ValueError(
            f"{file}: normalize_activations={scaling!r} divides each input by its own norm, so no weights compute it; "
            "use a dictionary that was trained with 'none' or 'expected_average_only_in'"
        )
    if config.get("finetuning_scaling_factor"):
        raise ValueError(f"{file}: finetuning_scaling_factor scales activations outside of the weights; fold it in")
    return str(kind)


def _saelens_k(file: Path, config: Mapping[str, Any], kind: str) -> Any:
    """Return the k of a TopK dictionary, and None for the other architectures."""
    activation = config.get("activation_fn_str", config.get("activation_fn", kind))
    if "topk" in (kind, activation):
        k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
        if k is None:
            raise ValueError(f"{file}: TopK without k; give k as the entry k or activation_fn_kwargs.k")
        return k
    if activation not in ("relu", "standard", "jumprelu"):
        raise ValueError(f"{file}: activation_fn must be relu, topk or jumprelu, got {activation!r}")
    return None


def _load_paper(files: WeightFiles, folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> Dictionary:
    match = PAPER_FOLDER.fullmatch(folder.name)
    if match is None:
        raise ValueError(
            f"{folder} has no SAELens tensors (W_enc, ...), and its name is not '{PAPER_NAME}', so k is not known; "
            "rename the folder, or make Dictionary(encoder=..., decoder=..., k=...) from tensors of load_tensor"
        )
    roles = {"encoder": "w_enc.weight", "decoder": "w_dec.weight", "decoder_bias": "b_dec"}
    if "w_enc.bias" in stored_names(files.names, folder):
        roles["encoder_bias"] = "w_enc.bias"
    parts: dict[str, Any] = _read_parts(files, folder, roles, device, dtype)
    dictionary = Dictionary(**parts, k=int(match["k"]), name=match[0], point=f"{match['layer']}-{match['point']}")
    expansion = int(match["expansion"])
    if dictionary.features != expansion * dictionary.width:
        raise ValueError(
            f"{folder} says expansion {expansion}, so {expansion * dictionary.width} features of d={dictionary.width}, "
            f"but w_enc.weight has {dictionary.features} rows"
        )
    return dictionary


def _read_parts(
    files: WeightFiles, folder: Path, roles: Mapping[str, str], device: torch.device | str, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Return the tensors by their role; raise ValueError unless the files hold exactly these tensors."""
    stored = stored_names(files.names, folder)
    lost = [name for name in roles.values() if name not in stored]
    extra = sorted(stored[name] for name in stored.keys() - set(roles.values()))
    if lost or extra:
        raise ValueError(f"{folder} must hold {', '.join(roles.values())}: missing {lost}, extra {extra}")
    return {role: files.read(stored[name], device=device, dtype=dtype) for role, name in roles.items()}
