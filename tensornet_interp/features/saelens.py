"""What a dictionary of SAELens computes, by its config and its tensors, as the fields of a `Dictionary`."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_bool, check_size, check_tensor
from tensornet_interp.formats import owned

_SHAPES = {
    "W_enc": ("d_in", "d_sae"),
    "W_dec": ("d_sae", "d_out"),
    "W_skip": ("d_out", "d_in"),
    "b_dec": ("d_out",),
}  # all others are (d_sae,)
_KINDS: dict[str, tuple[str, ...]] = {  # tensors besides W_enc, W_dec and b_dec
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
    "transcoder": ("b_enc",),
    "skip_transcoder": ("b_enc", "W_skip"),
    "jumprelu_transcoder": ("b_enc", "threshold"),
    "jumprelu_skip_transcoder": ("b_enc", "threshold", "W_skip"),
}
_CHECKPOINT = "is a checkpoint of training; SAELens writes the dictionary itself, a jumprelu, by save_inference_model"
_REFUSED = {
    "abstopk": "keeps the codes of largest magnitude, negative ones too; the TopK of a Dictionary takes the largest",
    "temporal": "predicts a part of its codes from earlier tokens by attention; a Dictionary encodes each vector alone",
    "matching_pursuit": "finds its codes by a search and not by an encoder, so its features have no encoder rows",
    "batchtopk": _CHECKPOINT,
    "matryoshka_batchtopk": _CHECKPOINT,
}
_SCALINGS = {
    "expected_average_only_in": "scales the inputs by a number outside of the weights; fold it into them (SAELens: "
    "fold_activation_norm_scaling_factor) and save again",
    "covariance_whitening": "whitens the inputs by a mean and a matrix outside of the weights; fold them in (SAELens: "
    "fold_activation_whitening) and save again",
    "constant_norm_rescale": "divides each input by its own norm, so no weights compute it; use a dictionary that was "
    "trained with 'none' or 'expected_average_only_in'",
    "layer_norm": "divides each input by its own standard deviation, so no weights compute it; use a dictionary that "
    "was trained with 'none' or 'expected_average_only_in'",
}
_FACTORS = ("finetuning_scaling_factor", "scaling_factor")  # two names that SAELens 3 to 5 gave to one tensor


def object_fields(sae: Any) -> dict[str, Any]:
    """Return the fields of a `Dictionary` from an object of SAELens in memory; see `Dictionary.from_sae`."""
    to_dict, state = getattr(getattr(sae, "cfg", None), "to_dict", None), getattr(sae, "state_dict", None)
    if not callable(to_dict) or not callable(state):
        raise TypeError(
            f"sae must be a SAE of SAELens, with cfg.to_dict() and state_dict(), got {type(sae).__name__}; a matrix "
            "goes into Dictionary.from_matrix, a folder into load_dictionary"
        )
    config, tensors = to_dict(), state()
    if not isinstance(config, Mapping) or not isinstance(tensors, Mapping):
        raise TypeError(
            f"sae must have dicts as cfg.to_dict() and state_dict(), got {type(config).__name__} and "
            f"{type(tensors).__name__}"
        )
    return fields_of(config, tensors.keys(), lambda name: owned(tensors[name].detach()), "sae.cfg")


def fields_of(
    config: Mapping[str, Any], names: Collection[str], read: Callable[[str], Tensor], where: str
) -> dict[str, Any]:
    """Return the fields of a `Dictionary`, without its name, that computes what SAELens computes.

    config: the content of cfg.json. names: the names of all tensors. read: a function that returns one of them. where:
    what errors call the config.
    SAELens stores weights for x @ W, so they are transposed. Three things go into the weights, exactly: a gated
    encoder, which shares its matrix between gate and magnitude, is a JumpReLU with threshold b_mag - exp(r_mag) b_gate
    (Rajamanoharan et al., 2024, arXiv 2407.14435); the norms of the decoder, if TopK activations are rescaled by them;
    and the scaling factor of finetuning, which multiplies the codes before the decoder.
    Raises ValueError for kinds and options that a `Dictionary` cannot compute, and for missing or additional tensors.
    """
    kind = check_config(config, where)
    k = _k_of(config, kind, where)
    tensors = _read(config, names, read, kind, where)
    encoder, decoder = tensors["W_enc"].T, tensors["W_dec"].T  # (feature, d), (d, feature)
    encoder_bias, threshold = tensors.get("b_enc"), tensors.get("threshold")
    if kind == "gated":
        scale = tensors["r_mag"].exp()  # (feature,)
        encoder, encoder_bias = encoder * scale[:, None], tensors["b_mag"]
        threshold = encoder_bias - scale * tensors["b_gate"]
    if kind == "topk" and _option(config, "rescale_acts_by_decoder_norm", False, where):
        # activations times the norms before TopK, divided by them before the decoder
        norms = decoder.norm(dim=0).clamp(min=torch.finfo(decoder.dtype).tiny)  # (feature,)
        encoder, decoder, encoder_bias = encoder * norms[:, None], decoder / norms, tensors["b_enc"] * norms
    factor = next((tensors[name] for name in _FACTORS if name in tensors), None)
    transcoder = kind.endswith("transcoder")
    centered = _option(config, "apply_b_dec_to_input", not transcoder, where)
    if transcoder and centered:
        raise ValueError(
            f"{where}: apply_b_dec_to_input must be false for a {kind}, whose b_dec is part of its outputs"
        )
    return {
        "encoder": encoder,
        "decoder": decoder if factor is None else decoder * factor,
        "encoder_bias": encoder_bias,
        "decoder_bias": tensors["b_dec"],
        "threshold": threshold,
        "k": k,
        "centered": centered,
        "point": _point(config, ""),
        "point_out": _point(config, "_out") if transcoder else None,
        "skip": tensors.get("W_skip"),
    }


def check_config(config: Mapping[str, Any], where: str) -> str:
    """Return the architecture; raise ValueError with the reason if no `Dictionary` computes what the config says."""
    _check_scaling(config, where)
    kind = str(config.get("architecture", "standard"))
    if kind in _REFUSED:
        raise ValueError(f"{where}: architecture {kind!r} {_REFUSED[kind]}")
    if kind not in _KINDS:
        raise ValueError(f"{where}: architecture must be one of {', '.join(_KINDS)}, got {kind!r}")
    activation = config.get("activation_fn_str", config.get("activation_fn"))
    if activation == "topk" and kind == "standard":  # before version 5
        return "topk"
    if activation not in (None, "relu", kind):
        raise ValueError(
            f"{where}: activation_fn must be relu, or topk without other steps, got {activation!r} in a {kind}"
        )
    return kind


def _k_of(config: Mapping[str, Any], kind: str, where: str) -> Any:
    if kind != "topk":
        return None
    options = config.get("activation_fn_kwargs")  # until version 5
    k = config.get("k", options.get("k") if isinstance(options, Mapping) else None)
    if k is None:
        raise ValueError(f"{where}: TopK without k; give k as the entry k or activation_fn_kwargs.k")
    return k


def _check_scaling(config: Mapping[str, Any], where: str) -> None:
    scaling = config.get("normalize_activations")
    if scaling in (None, False, "none"):
        return
    name = "expected_average_only_in" if scaling is True else scaling  # true: until version 3
    known = _SCALINGS.get(name) if isinstance(name, str) else None
    if known is None:
        raise ValueError(
            f"{where}: normalize_activations must be none or one of {', '.join(_SCALINGS)}, got {scaling!r}"
        )
    raise ValueError(f"{where}: normalize_activations={scaling!r} {known}")


def _option(config: Mapping[str, Any], name: str, default: bool, where: str) -> bool:
    value = config.get(name)
    return default if value is None else check_bool(f"{where}: {name}", value)


def _read(
    config: Mapping[str, Any], names: Collection[str], read: Callable[[str], Tensor], kind: str, where: str
) -> dict[str, Tensor]:
    """Return the tensors of a kind, in the dtype of W_enc, after a check of their names and sizes."""
    needed = ["W_enc", "W_dec", "b_dec", *_KINDS[kind]]
    logarithm = "threshold" in needed and "threshold" not in names and "log_threshold" in names
    if logarithm:  # checkpoints of training until version 6
        needed[needed.index("threshold")] = "log_threshold"
    factors = [name for name in _FACTORS if name in names]
    if not factors and _option(config, _FACTORS[0], False, where):
        factors = [_FACTORS[0]]
    needed += factors
    lost, extra = [name for name in needed if name not in names], sorted(set(names) - set(needed))
    if lost or extra:
        raise ValueError(f"{where}: {kind} must have the tensors {', '.join(needed)}: missing {lost}, extra {extra}")
    tensors: dict[str, Tensor] = {}
    known: dict[str, dict[str, int]] = {}  # the size of each mode in each tensor
    for name in needed:
        modes = _SHAPES.get(name, ("d_sae",))
        tensors[name] = check_tensor(name, read(name), modes)
        tensors[name] = tensors[name].to(tensors["W_enc"].dtype)  # thresholds are float32 while half precision trains
        for mode, size in zip(modes, tensors[name].shape, strict=True):
            known.setdefault(mode, {})[name] = size
    if not kind.endswith("transcoder"):
        known["d_in"] |= known.pop("d_out")
    for mode, sizes in known.items():
        stated = config.get(mode)
        check_size(mode, **({where: stated} if isinstance(stated, int) else {}), **sizes)
    if logarithm:
        tensors["threshold"] = tensors.pop("log_threshold").exp()
    for name in factors:
        if not _option(config, _FACTORS[0], False, where):
            factor = tensors.pop(name)
            if not torch.allclose(factor, torch.ones_like(factor)):
                raise ValueError(f"{where}: finetuning_scaling_factor is false, but the tensor {name} is not all 1")
    return tensors


def _point(config: Mapping[str, Any], side: str) -> str:
    """Return the hook where vectors are taken ("") or written ("_out"), with the index of its head if it has one."""
    more = config.get("metadata")
    places = {**(more if isinstance(more, Mapping) else {}), **config}
    hook, head = places.get(f"hook_name{side}"), places.get(f"hook_head_index{side}")
    if not side:
        hook, head = hook or places.get("hook_point"), places.get("hook_point_head_index") if head is None else head
    return "" if hook is None else f"{hook}" if head is None else f"{hook}[{head}]"
