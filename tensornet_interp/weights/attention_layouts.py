"""Layouts of attention: the names and shapes of its tensors, and what a config says about its patterns."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from tensornet_interp.checks import DEFAULT_MAX_ELEMENTS, check_bool, check_choice, check_int, check_number
from tensornet_interp.weights.layers import COUNTS
from tensornet_interp.weights.rotary import rotary_angles

SIDES = ("query", "key", "value", "out")
WIDTH, HEADS = ("hidden_size", "d_model", "n_embd"), ("num_attention_heads", "n_heads", "n_head")
SHARED, SIZE = ("num_key_value_heads", "n_key_value_heads"), ("head_dim", "d_head")
CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx")
NOWHERE = "which has no place in an AttentionLayer; take the patterns from the model and use AttentionLayer.given"
REFUSED_TENSORS = {  # by what is in their names
    "a norm of queries and keys": ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_norm", "key_norm"),
    "attention sinks": ("sink",),
    "latent attention": ("q_a_proj", "q_b_proj", "kv_a_proj", "kv_b_proj"),
}
REFUSED_ENTRIES = {
    "a norm of queries and keys": ("use_qk_norm", "qk_norm", "qk_layernorm"),
    "soft-capped scores": ("attn_logit_softcapping", "attn_scores_soft_cap"),
    "latent attention": ("kv_lora_rank", "q_lora_rank"),
    "clipped queries and keys": ("clip_qkv",),
    "rotary positions by parts": ("use_NTK_by_parts_rope", "rotary_base_local"),
    "attention to later positions": ("use_bidirectional_attention",),
}
OFF = (None, False, 0, -1)


class AttentionNames(NamedTuple):
    """The names of the tensors of attention in a layout, by their role; behind `module`, in which `{i}` is the index.

    What stands in front of the module in a file is found.
    """

    module: str
    weights: Mapping[str, str]
    biases: Mapping[str, str]
    basis: str
    ignored: tuple[str, ...] = ()
    types: tuple[str, ...] = ()  # the values of model_type in transformers whose attention is this


ATTENTION_LAYOUTS = {
    "published": AttentionNames(
        "h.{i}.attn",
        {"stacked": "qkv.weight", "out": "o.weight"},
        {"stacked": "qkv.bias", "out": "o.bias"},
        "",  # as the entry "normalization" says
    ),
    "llama": AttentionNames(
        "layers.{i}.self_attn",
        {side: f"{side[0]}_proj.weight" for side in SIDES},
        {side: f"{side[0]}_proj.bias" for side in SIDES},
        "residual stream after input_layernorm and its weight",
        ("rotary_emb.inv_freq",),
        ("llama", "gemma", "mistral", "qwen2"),
    ),
    "gpt2": AttentionNames(
        "h.{i}.attn",
        {"stacked": "c_attn.weight", "out": "c_proj.weight"},
        {"stacked": "c_attn.bias", "out": "c_proj.bias"},
        "residual stream after ln_1, its weight and its bias",
        ("bias", "masked_bias"),  # the mask
        ("gpt2",),
    ),
    "transformer_lens": AttentionNames(
        "blocks.{i}.attn",
        {side: f"W_{side[0].upper()}" for side in SIDES},
        {side: f"b_{side[0].upper()}" for side in SIDES},
        "residual stream after ln1, and its weight and bias if it has them",
        ("mask", "IGNORE", "rotary_sin", "rotary_cos"),
    ),
}


Shapes = dict[str, tuple[int, ...]]


class AttentionSizes(NamedTuple):
    """The sizes of attention, and how many scores make a pattern."""

    width: int
    heads: int
    shared: int  # heads with keys and values of their own
    size: int
    scores: int

    def shapes(self, layout: str) -> tuple[Shapes, Shapes]:
        """Return the shapes that the weights and the biases have in a layout, by their role."""
        width, size, rows, fewer = self.width, self.size, self.heads * self.size, self.shared * self.size
        weights: Shapes
        biases: Shapes
        if layout == "transformer_lens":
            keys, few = (self.shared, width, size), (self.shared, size)
            weights = {"query": (self.heads, width, size), "key": keys, "value": keys}
            biases = {"query": (self.heads, size), "key": few, "value": few}
        elif layout == "llama":
            weights = {"query": (rows, width), "key": (fewer, width), "value": (fewer, width)}
            biases = {"query": (rows,), "key": (fewer,), "value": (fewer,)}
        else:
            stacked = (2 * self.scores + 1) * rows
            weights = {"stacked": (width, stacked) if layout == "gpt2" else (stacked, width)}
            biases = {"stacked": (stacked,)}
        out = (self.heads, size, width) if layout == "transformer_lens" else (width, rows)
        return weights | {"out": out}, biases | {"out": (width,)}


class Pattern(NamedTuple):
    """How scores become patterns: the arguments of `from_weights` and of `causal_mask` that say it."""

    softmax: bool = True
    scale: float | None = None
    rotary: float | Tensor | None = None
    pairs: str = "halves"
    window: int | None = None
    power: float = 0.0
    factor: float = 1.0  # of the output


def check_options(layout: str, options: Mapping[str, Any], index: int) -> None:
    """Raise ValueError if the config has what no layer computes, or not so many layers."""
    for what, keys in REFUSED_ENTRIES.items():
        for key in keys:
            if options.get(key) not in OFF:
                raise ValueError(f"{key}={options[key]!r:.60} in config.json means {what}, {NOWHERE}")
    for key in COUNTS:
        if isinstance(options.get(key), int) and index >= options[key]:
            raise ValueError(f"index must be below {options[key]}, which is {key} in config.json, got {index}")


def check_type(layout: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError if the config is of a model whose attention may be another than that of a layout."""
    types = ATTENTION_LAYOUTS[layout].types
    if types and options.get("model_type") not in (None, *types):
        raise ValueError(
            f"model_type={options['model_type']!r:.60} in config.json is not one of {', '.join(types)}, whose attention"
            f" layout={layout!r} reads; if it computes the same, pass config={{'model_type': {types[0]!r}}}"
        )


def read_sizes(layout: str, options: Mapping[str, Any]) -> AttentionSizes:
    """Return the sizes that the config gives. Raises ValueError if heads do not divide the width, or each other."""
    width, heads = entry(options, WIDTH), entry(options, HEADS)
    stacked = "stacked" in ATTENTION_LAYOUTS[layout].weights
    shared = heads if stacked else entry(options, SHARED, heads)
    if heads % shared:
        raise ValueError(f"key-value heads must divide heads, got {shared} and {heads} in config.json")
    if not stacked and any(options.get(key) is not None for key in SIZE):
        size = entry(options, SIZE)
    elif width % heads:
        raise ValueError(f"heads must divide the width, got {heads} and {width} in config.json")
    else:
        size = width // heads
    kind = options.get("attention", "softmax") if layout == "published" else "softmax"
    kind = check_choice("attention in config.json", kind, ("bilinear", "softmax"))
    return AttentionSizes(width, heads, shared, size, 1 if kind == "softmax" else 2)


def read_pattern(
    layout: str, options: Mapping[str, Any], index: int, sizes: AttentionSizes, positions: int | None
) -> tuple[Pattern, int]:
    """Return how scores become patterns, and the longest context."""
    most = DEFAULT_MAX_ELEMENTS // sizes.heads
    count = entry(options, CONTEXT) if positions is None else check_int("positions", positions, 1)
    if count**2 > most:
        raise ValueError(
            f"the patterns of {sizes.heads} heads at positions={count} have {sizes.heads * count**2:.1e} entries, more"
            f" than {DEFAULT_MAX_ELEMENTS:.0e}; pass the longest context that you need as positions"
        )
    return _PATTERNS[layout](options, index, sizes, count), count


def _published(options: Mapping[str, Any], index: int, sizes: AttentionSizes, positions: int) -> Pattern:
    softmax, factor = sizes.scores == 1, (2 * entry(options, COUNTS)) ** -0.5
    return Pattern(softmax=softmax, rotary=10000.0, power=0.0 if softmax else 0.5, factor=factor)


def _llama(options: Mapping[str, Any], index: int, sizes: AttentionSizes, positions: int) -> Pattern:
    angles, factor = rotary_angles(options, sizes.size, positions)
    window, kind = options.get("sliding_window"), options.get("model_type")
    types = options.get("layer_types")
    if isinstance(types, list):
        named = types[index] if index < len(types) else None
        of_layer = check_choice("layer_types in config.json", named, ("full_attention", "sliding_attention"))
        slides = of_layer == "sliding_attention"
    elif kind == "qwen2":
        slides = bool(options.get("use_sliding_window")) and index >= entry(options, ("max_window_layers",), 28)
    else:
        slides = kind == "mistral"
    window = check_int("sliding_window in config.json", window, 1) if slides and window is not None else None
    scale = sizes.size**-0.5
    for key, power in (("attention_multiplier", 1.0), ("query_pre_attn_scalar", -0.5)):  # of relatives
        if options.get(key) is not None:
            scale = check_number(f"{key} in config.json", options[key], 0.0, low_open=True) ** power
    turned = options.get("no_rope_layers") or [True] * (
        index + 1
    )  # against its name, 1 if a layer has rotary positions
    if not isinstance(turned, list) or index >= len(turned):
        raise ValueError(f"no_rope_layers in config.json must be a list with an entry for layer {index}")
    return (
        Pattern(scale=factor * scale, rotary=angles, window=window)
        if turned[index]
        else Pattern(scale=scale, window=window)
    )


def _gpt2(options: Mapping[str, Any], index: int, sizes: AttentionSizes, positions: int) -> Pattern:
    scaled = check_bool("scale_attn_weights in config.json", options.get("scale_attn_weights", True))
    return Pattern(scale=(sizes.size**-0.5 if scaled else 1.0) / _depth(options, index))


def _transformer_lens(options: Mapping[str, Any], index: int, sizes: AttentionSizes, positions: int) -> Pattern:
    kind = options.get("positional_embedding_type")
    check_choice("positional_embedding_type in config.json", kind, ("rotary", "standard"))
    check_choice("attention_dir in config.json", options.get("attention_dir", "causal"), ("causal",))
    rotary: Tensor | None = None
    if kind == "rotary":
        turned = entry(options, ("rotary_dim",), sizes.size)
        if turned % 2 or turned > sizes.size:
            raise ValueError(f"rotary_dim in config.json must be even and at most d_head={sizes.size}, got {turned}")
        rotary, _ = rotary_angles({"rope_theta": options.get("rotary_base")}, turned, positions)
    window, types = None, options.get("attn_types")
    if check_bool("use_local_attn in config.json", options.get("use_local_attn", False)):
        if not isinstance(types, list) or index >= len(types):
            raise ValueError(f"attn_types in config.json must be a list with an entry for layer {index}")
        if check_choice("attn_types in config.json", types[index], ("global", "local")) == "local":
            window = entry(options, ("window_size",))
    scale = options.get("attn_scale")
    divisor = sizes.size**0.5 if scale in OFF else check_number("attn_scale in config.json", scale, 0.0, low_open=True)
    if not check_bool("use_attn_scale in config.json", options.get("use_attn_scale", True)):
        divisor = 1.0
    pairs = "adjacent" if options.get("rotary_adjacent_pairs") else "halves"
    return Pattern(scale=1 / divisor / _depth(options, index), rotary=rotary, pairs=pairs, window=window)


_PATTERNS = {"published": _published, "llama": _llama, "gpt2": _gpt2, "transformer_lens": _transformer_lens}


def _depth(options: Mapping[str, Any], index: int) -> float:
    """Return what scores are divided by for their depth."""
    key = "scale_attn_by_inverse_layer_idx"
    return index + 1.0 if check_bool(f"{key} in config.json", options.get(key, False)) else 1.0


def entry(options: Mapping[str, Any], keys: tuple[str, ...], default: int | None = None) -> int:
    """Return the first entry of the config that is there, a positive integer."""
    key = next((key for key in keys if options.get(key) is not None), None)
    if key is None and default is None:
        raise ValueError(f"there is no {' or '.join(keys)} in config.json; pass config={{{keys[0]!r}: ...}}")
    return check_int(f"{key} in config.json", options[key], 1) if key is not None else int(default or 0)
