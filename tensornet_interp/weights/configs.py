"""What configs and layouts say about a layer: its gate, and where its inputs are taken; the config itself."""

from collections.abc import Mapping
from typing import Any

from tensornet_interp.gated import GATES, Gate
from tensornet_interp.weights.files import WeightFiles, load_config
from tensornet_interp.weights.layouts import Layout
from tensornet_interp.weights.sources import Source

KEYS = (  # what configs call it
    *("gate", "hidden_act", "hidden_activation", "activation_function", "feed_forward_proj"),
    *("mlp_hidden_act", "ffn_hidden_act", "hidden_act_fn", "act_fn", "dense_act_fn"),
)
OTHER_NAMES = {"gated-gelu": "gelu_new", "gated-silu": "silu", "gated-relu": "relu"}  # T5's, of its gated layers
NO_GATE = (None, False, "", "none", "None", "identity", "linear")


def language_part(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a config with the entries of its language part in front, if it is of a model of text and images."""
    inner = options.get("text_config")
    return {**options, **inner} if isinstance(inner, Mapping) else options


def optional_config(source: Source | WeightFiles, subfolder: str) -> dict[str, Any] | None:
    """Return the config of a checkpoint, or None if it has none."""
    try:
        return source.config() if isinstance(source, WeightFiles) else load_config(source, subfolder)
    except FileNotFoundError:
        return None


def find_gates(layout: Layout, options: Mapping[str, Any]) -> list[str]:
    """Return the places that say that a layer has a gate: entries of the config, and the layout."""
    found = [f"{key}={options[key]!r} in config.json" for key in KEYS if options.get(key) not in NO_GATE]
    return [*found, "the layout has a gate on left"] if layout.gated else found


def gate_of(layout: Layout, options: Mapping[str, Any], gated: bool | Gate, gate_removed: bool) -> Gate | None:
    """Return the gate of a layer: None if `gated` is False, for True the function that the config names, or `gated`.

    Raises ValueError for a gate if `gated` is False, unless the weights were trained to work without it. If it is not
    False: if the config names no function, several, or one that is not in `gated.GATES`, and for layouts whose layers
    have no left half.
    """
    if options.get("bilinear") is False:
        raise ValueError("config.json says bilinear=false: the MLP is an ordinary one, which has no left and right")
    if gated is False:
        found = find_gates(layout, options)
        if found and not gate_removed:
            raise ValueError(
                f"the layer has a gate ({'; '.join(found)}), so it is not bilinear; load_layer with "
                "gated=True loads it as a gated layer, whose best bilinear layer gated.linearize finds; pass "
                "gate_removed=True if these weights were trained to work without the gate"
            )
        return None
    if layout.dense or layout.residual:
        raise ValueError("gated is for layouts with left, right and down, without a residual inside the layer")
    if not isinstance(gated, bool):
        return gated
    named = {str(options[key]) for key in KEYS if options.get(key) not in NO_GATE}
    named = {OTHER_NAMES.get(name, name) for name in named}
    if not named and not layout.gated:
        raise ValueError("neither config.json nor the layout speaks of a gate; leave out gated, or pass gated='silu'")
    if len(named) != 1 or not named <= set(GATES):
        said = f"config.json names {', '.join(sorted(named))}" if named else "config.json names no function"
        raise ValueError(
            f"{said}, but gated=True needs one of {', '.join(GATES)}; pass its name or a function as gated"
        )
    return named.pop()


def basis_of(layout: Layout, options: Mapping[str, Any]) -> str:
    """Return where the inputs of a layer are taken: after the norm that the config names, if it names one."""
    norm = options.get("normalization")
    if layout.basis:
        return layout.basis
    if "normalization" not in options:
        return "what the weights read: after the norm, if the model has one here"
    if norm in NO_GATE:
        return f"residual stream, no norm before the layer (normalization={norm!r})"
    return f"residual stream after the norm before the layer (normalization={norm!r})"
