"""Feature dictionaries on disk: SAELens, Gemma Scope and circuit-tracer (read), Pearce et al., 2025 (also written)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_int, check_kind, check_path, check_tensor
from tensornet_interp.disk import MAX_JSON, read_file, replace_files
from tensornet_interp.features.dictionary import Dictionary
from tensornet_interp.features.saelens import fields_of
from tensornet_interp.places import move
from tensornet_interp.tensorfile import pack
from tensornet_interp.weights.files import WeightFiles, read_object
from tensornet_interp.weights.numpyfile import read_npz
from tensornet_interp.weights.sources import Source, folder_of, locate
from tensornet_interp.weights.wrappers import stored_names

SAELENS_FILE = "sae_weights.safetensors"  # SAELens puts sparsity.safetensors beside it
SAELENS_CONFIG = "cfg.json"
PAPER_FILE = "model.safetensors"
PAPER_FOLDER = re.compile(r"(?P<layer>\d+)-(?P<point>.+)-x(?P<expansion>\d+)-k(?P<k>\d+)")
PAPER_NAME = "{layer}-{point}-x{expansion}-k{k}"
GEMMA_FILE = "params.npz"
GEMMA_SCOPE = re.compile(r"gemma-scope-\w+-(?:pt|it)-(?P<kind>res|mlp|att|transcoders)\b")
GEMMA_SCOPE_NAME = re.compile(r"(?:layer_(?P<layer>\d+)|embedding)/width_\w+/\w+$")
GEMMA_SCOPE_HOOKS = {  # where the vectors are taken and, by transcoders, written
    "res": ("hook_resid_post",),
    "mlp": ("hook_mlp_out",),
    "att": ("attn.hook_z",),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}
CROSS_LAYER_FILE, CROSS_LAYER_CONFIG = re.compile(r"W_(?:enc|dec)_\d+\.safetensors"), "config.yaml"


def load_dictionary(
    source: Source, *, subfolder: str = "", device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Dictionary:
    """Load a dictionary in the layout of SAELens, of Gemma Scope or of Pearce et al. (2025), whichever it is.

    SAELens: a folder with cfg.json and sae_weights.safetensors, as versions 3 to 6 write them. The architecture may be
    standard, topk, jumprelu (which batch-top-k and matryoshka files are), gated, transcoder, skip_transcoder,
    jumprelu_transcoder or jumprelu_skip_transcoder. Gated encoders, decoder norms that rescale TopK activations and
    scaling factors of finetuning are absorbed exactly into the weights. Architectures and options that a `Dictionary`
    cannot compute raise ValueError with the reason, such as abstopk and normalized inputs.
    Gemma Scope: a folder with params.npz, which has W_enc (d_in, d_sae), W_dec (d_sae, d_out), b_enc, b_dec and
    threshold. The file does not say where its vectors are taken. The names of its folders do, such as
    "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"; without them, it is an autoencoder of an unknown point.
    Pearce et al.: a folder `{layer}-{point}-x{expansion}-k{k}` whose safetensors file has w_enc.weight (d_sae, d_in),
    w_dec.weight (d_in, d_sae), b_dec, and optionally w_enc.bias. The encoder subtracts b_dec from its inputs, keeps the
    k largest codes and sets negative codes to zero.

    `source`: a folder, or a hub name "owner/name" or "owner/name@revision"; `subfolder`: the dictionary's folder in it,
    such as "12-mlp-out-x4-k30" (see `WeightFiles`). Prefixes that wrappers add to names, such as `module.` and
    `_orig_mod.`, are left out.
    `dtype=None` keeps the dtype of the file. Raises ValueError for missing or additional tensors and for wrong shapes,
    FileNotFoundError if there is no such file. Memory: the size of the dictionary, or twice that if a step is absorbed.
    """
    files, folder = _find(source, subfolder), folder_of(source, subfolder)
    try:
        if isinstance(files, Path):
            return _load_gemma_scope(files, folder, device, dtype)
        if "W_enc" in stored_names(files.names, folder) or Path(files.source).name == SAELENS_FILE:
            config = locate(source, SAELENS_CONFIG, subfolder)
            return _load_saelens(files, folder, config, device, dtype)
        return _load_paper(files, folder, device, dtype)
    except (TypeError, ValueError) as error:  # some, of an option or an entry, name no file
        raise ValueError(f"{folder} holds no dictionary: {error}") from error


def load_cross_layer(
    source: Source,
    layer: int,
    *,
    subfolder: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> tuple[Dictionary, ...]:
    """Load the features of one layer of a cross-layer transcoder: one transcoder per layer that they write to.

    y_j = sum_(i <= j) load_cross_layer(source, i)[j - i].reconstruct(x_i)

    x_i are the vectors that the features of layer i read, and y_j is what the cross-layer transcoder writes at layer j.
    All transcoders of a layer share one encoder, and only the first of them, which writes at the layer itself, has a
    decoder bias.
    source: a folder or a hub name in the layout of circuit-tracer. W_enc_{i}.safetensors has W_enc_{i} (feature, d),
    b_enc_{i}, b_dec_{i} and, for JumpReLU, threshold_{i}; W_dec_{i}.safetensors has W_dec_{i} (feature, layer, d_out),
    where the layers count from i. If there is a config.yaml, its feature_input_hook and feature_output_hook become the
    points. layer: i, from 0 on. subfolder, device, dtype: as in `load_dictionary`.
    Raises FileNotFoundError if there are no such files, ValueError if a folder has other layers only, and for missing
    or additional tensors and wrong shapes. Memory: the size of the two files.
    """
    check_int("layer", layer, 0)
    check_path("source", source)
    folder = folder_of(source, subfolder)
    here = sorted(int(file.stem[6:]) for file in folder.glob("W_enc_*.safetensors") if file.stem[6:].isdecimal())
    if here and layer not in here:
        raise ValueError(
            f"layer must be one of {', '.join(map(str, here))}, the layers of {str(folder)!r}, got {layer}"
        )
    files = [WeightFiles(locate(source, f"W_{part}_{layer}.safetensors", subfolder)) for part in ("enc", "dec")]
    hooks = _cross_layer_hooks(source, subfolder)
    names = [f"{name}_{layer}" for name in ("W_enc", "b_enc", "b_dec", "threshold", "W_dec")]
    roles = dict(zip(("encoder", "encoder_bias", "decoder_bias", "threshold"), names, strict=False))
    try:
        if names[3] not in stored_names(files[0].names, folder):
            del roles["threshold"]
        parts: dict[str, Any] = _read_parts(files[0], folder, roles, device, dtype)
        decoder = _read_parts(files[1], folder, {"decoder": names[4]}, device, dtype)["decoder"]
        check_tensor(names[4], decoder, ("feature", "layer", "d_out"))
        return tuple(
            Dictionary(
                **(parts if to == 0 else parts | {"decoder_bias": None}),
                decoder=decoder[:, to].T,
                rectify="threshold" not in parts,
                centered=False,
                name=f"{folder.name} layer {layer}",
                point=f"blocks.{layer}.{hooks[0]}" if hooks[0] else "",
                point_out=f"blocks.{layer + to}.{hooks[1]}" if hooks[1] else "",
            )
            for to in range(decoder.shape[1])
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder} holds no cross-layer transcoder: {error}") from error


def save_dictionary(dictionary: Dictionary, parent: str | Path) -> Path:
    """Write a dictionary in the layout of Pearce et al. (2025), and return its folder, for `load_dictionary`.

    The file is `parent/{layer}-{point}-x{expansion}-k{k}/model.safetensors`, and the name of the folder is the name of
    the dictionary. An old file stays until the new one is complete. Raises ValueError if the name does not follow this
    pattern or does not match the sizes. The layout holds only autoencoders that are TopK, rectified and centered and
    have no threshold; others raise ValueError too. `save` writes any dictionary.
    """
    match = PAPER_FOLDER.fullmatch(check_kind("dictionary", dictionary, Dictionary).name)
    if match is None:
        raise ValueError(f"name must be '{PAPER_NAME}', got {dictionary.name!r}")
    if dictionary.features != int(match["expansion"]) * dictionary.width or dictionary.k != int(match["k"]):
        raise ValueError(f"name {dictionary.name!r} does not fit {dictionary!r}")
    if dictionary.point_out is not None:
        raise ValueError(f"the published layout holds autoencoders, got the transcoder {dictionary!r}; use save")
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


def _find(source: Source, subfolder: str) -> WeightFiles | Path:
    """Return the files of a dictionary, or the path of an .npz file."""
    path = check_path("source", source)
    if path.is_file():
        return path if path.suffix == ".npz" else WeightFiles(path)
    first: OSError | None = None
    for name in (SAELENS_FILE, PAPER_FILE, GEMMA_FILE):
        try:  # offline, what was fetched earlier still loads
            found = locate(source, name, subfolder, cached=isinstance(first, ConnectionError))
        except OSError as error:
            first = first or error
        else:
            return found if name == GEMMA_FILE else WeightFiles(found)
    if isinstance(first, ConnectionError):
        raise first
    return WeightFiles(source, subfolder)  # under any other name


def _load_saelens(
    files: WeightFiles, folder: Path, file: Path, device: torch.device | str, dtype: torch.dtype | None
) -> Dictionary:
    stored = stored_names(files.names, folder)

    def read(name: str) -> Tensor:
        return files.read(stored[name], device=device, dtype=dtype)

    return Dictionary(**fields_of(read_object(file), stored, read, file.name), name=folder.name)


def _load_gemma_scope(file: Path, folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> Dictionary:
    arrays = {f"W{name[1:]}" if name.startswith("w_") else name: array for name, array in read_npz(file).items()}
    path = folder.as_posix()
    place, name = GEMMA_SCOPE.search(path), GEMMA_SCOPE_NAME.search(path)
    kind, layer = "" if place is None else place["kind"], None if name is None else name["layer"]
    hooks = GEMMA_SCOPE_HOOKS.get(kind, ()) if layer else ()
    config: dict[str, Any] = {
        "architecture": "jumprelu_transcoder" if kind == "transcoders" else "jumprelu",
        "apply_b_dec_to_input": False,
    }
    for key, hook in zip(("hook_name", "hook_name_out"), hooks, strict=False):
        config[key] = f"blocks.{layer}.{hook}"
    fields = fields_of(config, arrays, lambda key: move(key, arrays[key], device, dtype), file.name)
    return Dictionary(**fields, name=folder.name if name is None else name[0])


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


def _cross_layer_hooks(source: Source, subfolder: str) -> tuple[str, str]:
    """Return the hooks that config.yaml names, or ""."""
    try:
        text = read_file(locate(source, CROSS_LAYER_CONFIG, subfolder), MAX_JSON).decode(errors="replace")
    except FileNotFoundError:
        return "", ""
    found = [re.search(rf"^feature_{side}_hook: *[\"']?([\w.]+)", text, re.MULTILINE) for side in ("input", "output")]
    read, written = ("" if match is None else match[1] for match in found)
    return read, written
