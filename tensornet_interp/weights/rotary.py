"""Rotary positions of a config: the angles per position, also scaled ones for long contexts."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_number

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


def rotary_angles(options: Mapping[str, Any], size: int, positions: int) -> tuple[Tensor, float]:
    """Return the angle per position of each pair of a head's coordinates, float64, and a factor for all scores.

    angle[j] = base^(-2 j / size), which "linear", "llama3" (Grattafiori et al. 2024) and "yarn" (Peng et al. 2023)
    change for longer contexts. "yarn" also multiplies scores. "dynamic" changes nothing up to max_position_embeddings.
    Raises ValueError for an odd size, for another kind, and for parts of heads that are not turned.
    """
    given = options.get("rope_parameters") or options.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"the rotary positions in config.json must be a JSON object, got {given!r:.60}")
    if any(isinstance(entry, Mapping) for entry in given.values()):
        raise ValueError(
            f"the rotary positions in config.json are by kind of layer, {', '.join(map(str, given))}; pass those of"
            " this layer as config={'rope_parameters': ...}"
        )
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in KINDS:
        raise ValueError(f"rope_type in config.json must be one of {', '.join(KINDS)}, got {kind!r:.60}")
    entries = {**options, **given}

    def number(key: str, default: float | None = None) -> float:
        """Return a positive entry of the config."""
        found = entries.get(key)
        return check_number(f"{key} in config.json", default if found is None else found, 0.0, low_open=True)

    if size % 2:
        raise ValueError(f"rotary turns pairs of coordinates, so head_dim in config.json must be even, got {size}")
    if number("partial_rotary_factor", 1.0) != 1:
        raise ValueError(f"partial_rotary_factor in config.json must be 1, got {entries['partial_rotary_factor']}")
    base = number("rope_theta", 10000.0)
    angles = base ** (-torch.arange(size // 2, device="cpu", dtype=torch.float64) / (size // 2))
    if kind == "linear":
        return angles / number("factor"), 1.0
    if kind == "dynamic" and positions > number("max_position_embeddings"):
        most = entries["max_position_embeddings"]
        raise ValueError(f"angles depend on the length above max_position_embeddings={most} in config.json")
    if kind == "llama3":
        turns = number("original_max_position_embeddings") * angles / (2 * math.pi)  # in the original context
        low, high = number("low_freq_factor"), number("high_freq_factor")
        return _between(angles, number("factor"), ((turns - low) / (high - low)).clamp(0, 1)), 1.0
    if kind == "yarn":
        original, factor = number("original_max_position_embeddings"), number("factor")

        def place(turns: float) -> float:
            """Return the pair that turns so often in the original context."""
            return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = place(number("beta_fast", 32.0)), place(number("beta_slow", 1.0))
        if entries.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        pairs = torch.arange(size // 2, device="cpu", dtype=torch.float64)
        share = 1 - ((pairs - low) / (high - low or 0.001)).clamp(0, 1)
        if entries.get("mscale") or entries.get("mscale_all_dim"):
            raise ValueError(
                "mscale in config.json belongs to latent attention, which has no place in an AttentionLayer"
            )
        scale = number("attention_factor", 0.1 * math.log(max(factor, 1.0)) + 1.0)
        return _between(angles, factor, share), scale**2
    return angles, 1.0


def _between(angles: Tensor, factor: float, share: Tensor) -> Tensor:
    """Return angles of which a share stays as it is, and the rest is slower by a factor."""
    return angles * share + angles / factor * (1 - share)
