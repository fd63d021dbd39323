"""Making the arrays of an attention layer: from the weights of linear maps, with masks, rotations and biases."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_alike,
    check_bool,
    check_choice,
    check_int,
    check_list,
    check_number,
    check_size,
    check_tensor,
)
from tensornet_interp.float64 import needs_float64
from tensornet_interp.formats import owned
from tensornet_interp.places import check_place


class Scores(NamedTuple):
    """The weights and biases of the scores of a layer, as they are given; there may be no biases."""

    queries: Sequence[Tensor]
    keys: Sequence[Tensor]
    query_biases: Sequence[Tensor]
    key_biases: Sequence[Tensor]

    def check(self) -> None:
        """Raise an error unless there are as many queries as keys, and no biases or as many."""
        for side in self._fields:
            check_list(side, getattr(self, side))
        if len(self.queries) != len(self.keys):
            raise ValueError(f"queries and keys must be as many, got {len(self.queries)} and {len(self.keys)}")
        for side in ("query_biases", "key_biases"):
            if len(getattr(self, side)) not in (0, len(self.queries)):
                raise ValueError(
                    f"{side} must be one per score, got {len(getattr(self, side))} for {len(self.queries)}"
                )


@needs_float64
def rotary_rotation(angles: Tensor, positions: int) -> Tensor:
    """Return the rotations (position, pair, 2, 2) by the angles position * angles[pair], in the dtype of `angles`.

    rotation[s, pair] = [[cos, -sin], [sin, cos]]
    """
    check_tensor("angles", angles, ("pair",))
    count = check_int("positions", positions, 1, DEFAULT_MAX_ELEMENTS // (4 * len(angles)), "so that they fit")
    turned = torch.arange(count, device=angles.device)[:, None] * angles.to(torch.float64)
    cosine, sine = turned.cos(), turned.sin()
    rows = (torch.stack([cosine, -sine], -1), torch.stack([sine, cosine], -1))
    return torch.stack(rows, -2).to(angles.dtype)


def causal_mask(
    positions: int,
    *,
    window: int | None = None,
    power: float = 0.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a mask (position, source) in which a position sees the sources up to itself.

    mask[s, t] = 1 / (s + 1)^power for s - window < t <= s, else 0

    window: the number of sources that a position sees, its own included; None for all. power: 1 makes a sum over
    sources a mean; with 0.5, a sum of independent terms has the same size at every position.
    """
    most = math.isqrt(DEFAULT_MAX_ELEMENTS)
    count = check_int("positions", positions, 1, most, f"so that a mask has at most {DEFAULT_MAX_ELEMENTS:.0e} entries")
    place, kind = check_place(device, dtype, torch.empty(0, dtype=torch.float64, device="cpu"))
    mask = torch.ones(count, count, dtype=kind, device=place).tril()
    if window is not None:
        mask = mask.triu(1 - min(count, check_int("window", window, 1)))
    weights = torch.arange(1, count + 1, dtype=torch.float64, device="cpu") ** -check_number("power", power, 0.0)
    return mask * weights[:, None].to(place, kind)


def weight_arrays(
    given: Scores,
    value: Tensor,
    out: Tensor,
    value_bias: Tensor | None,
    bias: Tensor | None,
    heads: int,
    kv_heads: int | None,
    positions: int,
    mask: str | Tensor,
    rotary: float | Tensor | None,
    pairs: str,
    scale: float | None,
    softmax: bool,
    share: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays of a layer and its biases, from the arguments of `AttentionLayer.from_weights`."""
    given.check()
    heads = check_int("heads", heads, 1)
    shared = heads if kv_heads is None else check_int("kv_heads", kv_heads, 1)
    if heads % shared:
        raise ValueError(f"kv_heads must divide heads, got {shared} and {heads}")
    most = math.isqrt(DEFAULT_MAX_ELEMENTS)
    count = check_int("positions", positions, 1, most, f"so that a mask has at most {DEFAULT_MAX_ELEMENTS:.0e} entries")
    own = not check_bool("share", share)
    check_bool("softmax", softmax)
    check_tensor("out", out, ("out", "head * channel"))

    def by_head(name: str, weight: Tensor, count: int) -> Tensor:
        """Return (count, size, in) of a weight (count * size, in)."""
        if len(weight) % count:
            raise ValueError(f"{name} has {len(weight)} rows, which {count} heads do not divide")
        return (owned(weight) if own else weight).unflatten(0, (count, -1))

    given_arrays = {f"{side}[{i}]": w for side in ("queries", "keys") for i, w in enumerate(getattr(given, side))}
    for name, array in (("value", value), *given_arrays.items()):
        check_tensor(name, array, ("row", "in"))
    check_alike(out=out, value=value, **given_arrays)
    if out.shape[1] % heads:
        raise ValueError(f"out has {out.shape[1]} columns, which {heads} heads do not divide")
    arrays: dict[str, Any] = {
        "down": (owned(out) if own else out).unflatten(1, (heads, -1)),
        "value": by_head("value", value, shared),
        "softmax": softmax,
    }
    queries = [by_head(f"queries[{i}]", array, heads) for i, array in enumerate(given.queries)]
    keys = [by_head(f"keys[{i}]", array, shared) for i, array in enumerate(given.keys)]
    order: Tensor | None = None
    check_choice("pairs", pairs, ("adjacent", "halves"))
    if rotary is not None:
        if not queries:
            raise ValueError("rotary turns queries and keys, but there are none")
        arrays["rotation"], order = _rotation(rotary, pairs, queries[0], count)
    factors = [_scale(scale, softmax, query.shape[1]) for query in queries]

    def ordered(array: Tensor) -> Tensor:
        """Return the coordinates of heads in the order of the pairs."""
        return array if order is None else array[:, order]

    arrays["queries"] = tuple(factor * ordered(query) for factor, query in zip(factors, queries, strict=True))
    arrays["keys"] = tuple(ordered(key) for key in keys)
    arrays["mask"] = _mask(mask, count, out)
    biases: dict[str, Any] = {}

    def column(name: str, array: Tensor, count: int) -> Tensor:
        """Return (count, size) of a bias (count * size,)."""
        check_tensor(name, array, ("head * size",))
        return by_head(name, array[:, None], count)

    if given.query_biases:
        columns = [column(f"query_biases[{i}]", b, heads) for i, b in enumerate(given.query_biases)]
        biases["query_biases"] = tuple(f * ordered(b)[..., 0] for f, b in zip(factors, columns, strict=True))
    if given.key_biases:
        columns = [column(f"key_biases[{i}]", b, shared) for i, b in enumerate(given.key_biases)]
        biases["key_biases"] = tuple(ordered(b)[..., 0] for b in columns)
    if value_bias is not None:
        biases["value_bias"] = column("value_bias", value_bias, shared)[..., 0]
    if bias is not None:
        biases["bias"] = owned(check_tensor("bias", bias, ("out",))) if own else bias
    return arrays, biases


def _scale(scale: float | None, softmax: bool, size: int) -> float:
    if scale is None:
        return size**-0.5 if softmax else 1 / size
    return check_number("scale", scale)


def _mask(mask: str | Tensor, positions: int, like: Tensor) -> Tensor:
    """Return the mask ([batch,] head or 1, position, source)."""
    if isinstance(mask, Tensor):
        modes = ("batch", "head", "position", "source")[-max(mask.ndim, 2) :]
        check_tensor("mask", mask, modes)
        check_size("position", positions=positions, mask=mask.shape[-2])
        check_alike(out=like, mask=mask)
        return mask[None] if mask.ndim == 2 else mask
    if check_choice("mask", mask, ("causal", "full")) == "causal":
        return causal_mask(positions, dtype=like.dtype, device=like.device)[None]
    return torch.ones(1, positions, positions, dtype=like.dtype, device=like.device)


@needs_float64
def _rotation(rotary: float | Tensor, pairs: str, query: Tensor, positions: int) -> tuple[Tensor, Tensor | None]:
    """Return the rotations of all pairs, and the order of coordinates in which pair j is (j, j + size / 2)."""
    size, like = query.shape[1], query
    if size % 2:
        raise ValueError(f"rotary turns pairs of coordinates, so the size of a head must be even, got {size}")
    half = size // 2
    if isinstance(rotary, Tensor):
        angles = check_tensor("rotary", rotary, ("pair",))
        if len(angles) > half:
            raise ValueError(f"rotary has {len(angles)} angles, more than the {half} pairs of a head of size {size}")
    else:
        base = check_number("rotary", rotary, 0.0, low_open=True)
        angles = base ** (-torch.arange(half, device=like.device).to(torch.float64) / half)
    turned = len(angles)
    full = pad(angles.detach().to(like.device, torch.float64), (0, half - turned))
    rotation = rotary_rotation(full, positions).to(like.dtype)
    first = torch.arange(turned, device=like.device)
    first, second = (2 * first, 2 * first + 1) if pairs == "adjacent" else (first, first + turned)
    rest = torch.arange(2 * turned, size, device=like.device)
    order = torch.cat([first, rest[: half - turned], second, rest[half - turned :]])
    return rotation, None if bool((order == torch.arange(size, device=like.device)).all()) else order


def lifted_arrays(
    arrays: dict[str, Any],
    given: Scores,
    value_bias: Tensor | None,
    bias: Tensor | None,
    residual: float,
    softmax: bool,
) -> dict[str, Any]:
    """Return the arrays of a lifted layer, from the arrays and arguments of `AttentionLayer.lift`."""
    given.check()
    down, value, mask, rotation = (arrays[name] for name in ("down", "value", "mask", "rotation"))
    (n_out, heads, channels), n_in = down.shape, value.shape[2]
    if residual and n_in != n_out:
        raise ValueError(f"a residual needs as many outputs as inputs, got out={n_out} and in={n_in}")

    def with_bias(name: str, array: Tensor, bias: Tensor | None, mode: str) -> Tensor:
        """Return (head, size, 1 + in) with the bias in front."""
        if bias is None:
            bias = array.new_zeros(array.shape[:2])
        check_tensor(name, bias, ("head", mode))
        check_size("head", layer=array.shape[0], **{name: bias.shape[0]})
        check_size(mode, layer=array.shape[1], **{name: bias.shape[1]})
        check_alike(layer=down, **{name: bias})
        return torch.cat([bias[..., None], array], -1)

    value = with_bias("value_bias", value, value_bias, "channel")
    scores: dict[str, Any] = {}
    for side, name in (("queries", "query_biases"), ("keys", "key_biases")):
        biases = getattr(given, name) or [None] * len(arrays[side])
        sides = zip(arrays[side], biases, strict=True)
        scores[side] = tuple(with_bias(f"{name}[{i}]", array, bias, "size") for i, (array, bias) in enumerate(sides))
    if bias is None and not residual:
        return {"value": value, **scores, "constant_in": True}
    if bias is None:
        bias = down.new_zeros(n_out)
    check_tensor("bias", bias, ("out",))
    check_size("out", layer=n_out, bias=len(bias))
    check_alike(layer=down, bias=bias)
    width = max(channels, 1 + n_in if residual else 1)
    eye = torch.eye(1 + n_in, dtype=down.dtype, device=down.device)
    read, write = eye[:1], torch.cat([eye[:1, 0], bias])[:, None]  # the constant and the bias: (1, in), (out, 1)
    if residual:
        read, write = eye, torch.cat([write, residual * eye[:, 1:]], 1)
    value = pad(_by_head(value, heads), (0, 0, 0, width - channels))
    down = pad(down, (0, width - channels, 0, 0, 1, 0))
    read, write = pad(read, (0, 0, 0, width - len(read))), pad(write, (0, width - write.shape[1]))
    same = torch.eye(mask.shape[-1], dtype=mask.dtype, device=mask.device)
    full = mask.expand(*mask.shape[:-3], heads, *mask.shape[-2:])
    same = same.expand(*mask.shape[:-3], 1, *mask.shape[-2:])
    for side, wide in scores.items():
        scores[side] = tuple(
            _with_head(_by_head(array, heads), eye[0], rotation is not None, softmax) for array in wide
        )
    if rotation is not None and not softmax:
        still = torch.eye(2, dtype=rotation.dtype, device=rotation.device).expand(len(rotation), 1, 2, 2)
        rotation = torch.cat([rotation, still], 1)
    return {
        "down": torch.cat([down, write[:, None]], 1),
        "value": torch.cat([value, read[None]]),
        "mask": torch.cat([full, same], -3),
        **scores,
        "rotation": rotation,
        "constant_in": True,
        "constant_out": True,
    }


def _by_head(array: Tensor, heads: int) -> Tensor:
    """Return keys or values with one array for each head, also for those that share one."""
    return array.repeat_interleave(heads // len(array), 0)


def _with_head(array: Tensor, constant: Tensor, turned: bool, softmax: bool) -> Tensor:
    """Return queries or keys (head, size, in) with one more head, which scores 1 in a coordinate of its own.

    With softmax, zeros suffice: the mask leaves one source to the new head.
    """
    if softmax:
        return torch.cat([array, torch.zeros_like(array[:1])])
    parts = array.unflatten(1, (2, -1)) if turned else array[:, None]  # (head, half, pair, in)
    parts = pad(parts, (0, 0, 0, 1))
    own = torch.zeros_like(parts[:1])
    own[0, 0, -1] = constant
    return torch.cat([parts, own]).flatten(1, 2)
