"""Attention layers as tensor networks with named modes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.affine import lift_vectors
from tensornet_interp.attention.arrays import AttentionArrays
from tensornet_interp.attention.lowrank import LowRank
from tensornet_interp.attention.making import Scores, lifted_arrays, weight_arrays
from tensornet_interp.cards import Card
from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_alike,
    check_batch,
    check_int,
    check_number,
    check_size,
    check_tensor,
)
from tensornet_interp.contraction import contract
from tensornet_interp.names import AS_GIVEN, Named, Names, check_description
from tensornet_interp.numerics import without_autocast
from tensornet_interp.places import move
from tensornet_interp.stepwise import Planner
from tensornet_interp.store import register_type


@register_type("AttentionLayer")
@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionLayer(Named, AttentionArrays):
    """An attention layer mixes positions; with products of scores as its pattern, it is a tensor with named modes.

    y[s, out] = sum_{head, channel, t} down[out, head, channel] pattern[head, s, t] value[head, channel, in] x[t, in]
    pattern[head, s, t] = mask[head, s, t] prod_i (R_s queries_i[head] x_s) . (R_t keys_i[head] x_t)

    s is the position and t the source. The pattern of a layer without scores is its mask. With `softmax`, there is one
    score, and the pattern is mask exp(score) / sum_t mask exp(score): a zero of the mask excludes a source, and other
    positive values weigh the sources.

    down: (out, head, channel). value: (shared head, channel, in). queries: none, one or two arrays (head, size, in),
    with all scales inside. keys: as many arrays (shared head, size, in). The number of shared heads divides that of the
    heads; in grouped-query attention it is smaller, and consecutive heads share keys and values.
    mask: ([batch,] head or 1, position, source), any finite numbers; not negative with `softmax`.
    rotation: (position, pair, 2, 2), one matrix R per position and pair of coordinates (j, j + size / 2); a pair that
    is not turned has the identity. None for scores without positions.
    `constant_in`, `constant_out`, `name`, `history`, `basis`, `names`: as in `BilinearLayer`; see `lift`.
    Raises ValueError if sizes, dtypes or devices differ, or if entries are not finite.
    """

    name: str = ""
    history: tuple[str, ...] = ()
    basis: str = AS_GIVEN
    constant_in: bool = False
    constant_out: bool = False
    names: Names = Names()  # noqa: RUF009

    def __post_init__(self) -> None:
        super().__post_init__()
        check_description(self, inputs=self.value.shape[2], outputs=self.down.shape[0])

    @classmethod
    def from_weights(
        cls,
        *,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        value: Tensor,
        out: Tensor,
        heads: int,
        kv_heads: int | None = None,
        positions: int,
        mask: str | Tensor = "causal",
        rotary: float | Tensor | None = None,
        pairs: str = "halves",
        scale: float | None = None,
        softmax: bool = False,
        query_biases: Sequence[Tensor] = (),
        key_biases: Sequence[Tensor] = (),
        value_bias: Tensor | None = None,
        bias: Tensor | None = None,
        name: str = "",
        history: tuple[str, ...] = (),
        basis: str = AS_GIVEN,
        share: bool = False,
    ) -> "AttentionLayer":
        """Make the layer of `nn.Linear` weights.

        queries: none, one or two weights (heads * size, in). keys: as many (kv_heads * size, in). value: (kv_heads *
        channel, in). out: (out, heads * channel). kv_heads: the number of heads with keys and values of their own, by
        default `heads`. positions: the longest context.
        mask: "causal", "full", or numbers (position, source) or (head, position, source).
        rotary: the base of rotary positions, such as 10000.0; or angles per position, one for each turned pair, such as
        scaled frequencies. With fewer angles than size / 2, only the first coordinates of a head are turned, as in
        partial rotary. pairs: "halves" if coordinate j of the n turned ones is turned with j + n / 2 (Llama, GPT-NeoX),
        "adjacent" if 2 j is turned with 2 j + 1 (GPT-J). The wrong one gives wrong scores without an error.
        scale: the factor of every score, by default size**-0.5 with softmax and 1 / size without.
        query_biases, key_biases: one per score; value_bias; bias, of the output: biases lift the layer, see `lift`.
        share: if False, the layer is a copy without gradients. If True, gradients flow to the weights.
        Raises ValueError for sizes that do not match, and if `heads` or `kv_heads` does not divide a size.

        Example:
        >>> eye = torch.eye(4)
        >>> layer = AttentionLayer.from_weights(
        ...     queries=[eye], keys=[eye], value=eye, out=eye, heads=2, positions=3, softmax=True
        ... )
        >>> layer.pattern(torch.zeros(3, 4))[0]
        tensor([[1.0000, 0.0000, 0.0000],
                [0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]])
        """
        given = Scores(queries, keys, query_biases, key_biases)
        arrays, biases = weight_arrays(
            given, value, out, value_bias, bias, heads, kv_heads, positions, mask, rotary, pairs, scale, softmax, share
        )
        layer = cls(**arrays, name=name, history=history, basis=basis)
        return layer.lift(**biases) if biases else layer

    @without_autocast
    def multilinear(self, *inputs: Tensor) -> Tensor:
        """Return A(x1, x2, ...) over all coordinates, constant ones included: (..., position, in) -> (..., out).

        inputs: one tensor for all input modes, or one for each, in the order of `modes`, of equal shapes. A softmax
        layer takes one.
        """
        legs = 1 + 2 * len(self.queries)
        if len(inputs) not in (1, legs) or (self.softmax and len(inputs) > 1):
            allowed = "1 for a softmax layer" if self.softmax else f"1, or {legs} for {legs} input modes"
            raise ValueError(f"inputs must be {allowed}, got {len(inputs)}")
        for i, x in enumerate(inputs):
            check_batch(f"x{i + 1}", x, "in", finite=False)
            check_size("in", layer=self.value.shape[2], **{f"x{i + 1}": x.shape[-1]})
            check_alike(layer=self.down, **{f"x{i + 1}": x})
            if x.shape != inputs[0].shape:
                raise ValueError(
                    f"x1 and x{i + 1} must have one shape, got {tuple(inputs[0].shape)} and {tuple(x.shape)}"
                )
        return self._evaluate(inputs, DEFAULT_MAX_ELEMENTS)

    @without_autocast
    def __call__(self, x: Tensor, *, max_elements: float = DEFAULT_MAX_ELEMENTS) -> Tensor:
        """Return the output (..., position, out) for inputs x (..., position, in), without constant coordinates.

        An input with fewer positions than the mask takes the first ones. Cost in flops per sample of n positions: the
        linear maps, and 2 * heads * n^2 * (size + channel), where size is the sum of the sizes of all scores.
        Raises ValueError if more than `max_elements` elements would be in memory at once.
        """
        limit = check_number("max_elements", max_elements, 1)
        y = self._evaluate((self.lift_input("x", x),), limit)
        return y[..., 1:] if self.constant_out else y

    def lift_input(self, name: str, x: Tensor) -> Tensor:
        """Check plain inputs `x` (..., in) and return them; if this layer is lifted, put the constant 1 in front."""
        return lift_vectors(name, x, self.value.shape[2], constant=self.constant_in, like=self.down)

    def _evaluate(self, inputs: tuple[Tensor, ...], max_elements: float) -> Tensor:
        layer, _, batch = self.batched(inputs[0])
        flat = tuple(x.reshape(-1, *x.shape[-2:]) for x in inputs)
        planner = Planner()
        layer.evaluate(tuple(x.to("meta") for x in flat), planner)
        planner.check(max_elements, "take fewer samples at a time, or a SequenceNetwork, which works in slices")
        return layer.evaluate(flat, contract).reshape(*batch, *flat[0].shape[1:-1], -1)

    def _check_score(self, score: int) -> int:
        if not self.queries:
            raise ValueError("the layer has no scores: its pattern is its mask")
        return check_int("score", score, 0, len(self.queries) - 1, f"the layer has {len(self.queries)} scores")

    @without_autocast
    def scores(self, x: Tensor, score: int = 0) -> Tensor:
        """Return one score of every head, before mask and softmax: (..., position, in) -> (..., head, s, t)."""
        layer, flat, batch = self.batched(self.lift_input("x", x))
        i = self._check_score(score)
        found = layer.score(i, flat, layer.turned_keys(i, flat, contract), contract)
        return found.reshape(*batch, *found.shape[1:])

    @without_autocast
    def pattern(self, x: Tensor) -> Tensor:
        """Return what every position takes from every source: (..., position, in) -> (..., head, s, t)."""
        layer, flat, batch = self.batched(self.lift_input("x", x))
        count = range(len(self.queries))
        found = [layer.score(i, flat, layer.turned_keys(i, flat, contract), contract) for i in count]
        pattern = layer.weigh(found[0]) if self.softmax else math.prod(found, start=layer.mask)
        return pattern.expand(len(flat), self.heads, -1, -1).reshape(*batch, self.heads, *pattern.shape[-2:])

    def given(self, pattern: Tensor) -> "AttentionLayer":
        """Return the linear layer at a given pattern ([batch,] head, position, source), of which any is one.

        The pattern of an input gives the output for this input: layer.given(layer.pattern(x))(x) = layer(x).
        """
        batch = ("batch",) * (getattr(pattern, "ndim", 0) == 4)
        check_tensor("pattern", pattern, (*batch, "head", "position", "source"))
        check_size("head", layer=self.heads, pattern=pattern.shape[-3])
        if pattern.shape[-1] != pattern.shape[-2]:
            raise ValueError(f"pattern must have as many sources as positions, got shape {tuple(pattern.shape)}")
        check_alike(layer=self.down, pattern=pattern)
        note = (*self.history, "at a given pattern")
        return replace(self, mask=pattern, queries=(), keys=(), rotation=None, softmax=False, history=note)

    def lift(
        self,
        *,
        query_biases: Sequence[Tensor] = (),
        key_biases: Sequence[Tensor] = (),
        value_bias: Tensor | None = None,
        bias: Tensor | None = None,
        residual: float = 0.0,
    ) -> "AttentionLayer":
        """Return the layer with biases and a residual, exactly, as a layer of the lifted input [1, x].

        y = A(x with biases) + bias + residual x

        query_biases: one array (head, size) per score. key_biases: as many (shared head, size). value_bias: (shared
        head, channel). bias: (out,). For the last two, one more head, whose pattern is the identity, carries the
        constant, the bias and the residual. It has 1 channel, or 1 + in with a residual, and all heads get as many; and
        scores without softmax get a pair of coordinates that is never turned, in which it scores 1. In a
        `SequenceNetwork`, give bias and residual to the `Part`, which costs nothing.
        Raises ValueError if the layer is lifted already, if sizes differ, or for a residual if in and out differ.
        """
        if self.constant_in or self.constant_out:
            raise ValueError(f"the layer is lifted already: {self!r}")
        arrays = lifted_arrays(
            {field: getattr(self, field) for field in ("down", "value", "mask", "queries", "keys", "rotation")},
            Scores(self.queries, self.keys, query_biases, key_biases),
            value_bias,
            bias,
            check_number("residual", residual),
            self.softmax,
        )
        return replace(self, **arrays, history=(*self.history, "lifted"))

    def drop_constant(self) -> "AttentionLayer":
        """Return the same function without the constant output coordinate."""
        history = (*self.history, "constant output dropped")
        return replace(self, down=self.down[1:], constant_out=False, history=history) if self.constant_out else self

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "AttentionLayer":
        """Return the layer on a device and in a dtype."""
        arrays = {name: move(name, array, device, dtype) for name, array in self.arrays().items()}
        split = {side: tuple(arrays.pop(f"{side}[{i}]") for i in range(len(self.keys))) for side in ("queries", "keys")}
        moved: dict[str, Any] = {**arrays, **split}
        return replace(self, **moved)

    @without_autocast
    def qk(self, head: int, offset: int = 0, score: int = 0) -> LowRank:
        """Return the matrix of a score between a position and the source `offset` later, as rows and columns.

        score = x_s^T W x_t with t = s + offset and W = Q^T R(offset) K, scale included

        offset: -1 is the previous position; any, without a rotation. The modes are "position" and "source"; coordinate
        0 of a lifted layer is the constant. Exact for softmax too.
        """
        head = check_int("head", head, 0, self.heads - 1)
        i = self._check_score(score)
        most = self.positions - 1
        offset = check_int("offset", offset, -most, most, f"the mask has {self.positions} positions")
        query, key = self.queries[i][head], self.keys[i][head * self.shared_heads // self.heads]
        if self.rotation is not None:
            query, key = (side.unflatten(0, (2, -1)) for side in (query, key))  # (half, pair, in)
            rotations = self.rotation[max(0, -offset)], self.rotation[max(0, offset)]
            query, key = (
                torch.einsum("prc,cpi->rpi", turn, side).flatten(0, 1)
                for turn, side in zip(rotations, (query, key), strict=True)
            )
        name = f"{self.name} head {head} score {i} offset {offset}".strip()
        return LowRank(left=query.T, right=key.T, rows="position", columns="source", name=name)

    def ov(self, head: int) -> LowRank:
        """Return what a head writes for what it reads, O V, with modes "out" and "in1"; exact for softmax too."""
        head = check_int("head", head, 0, self.heads - 1)
        value = self.value[head * self.shared_heads // self.heads]
        return LowRank(left=self.down[:, head], right=value.T, name=f"{self.name} head {head}".strip())

    def __repr__(self) -> str:
        pattern = "softmax of 1 score" if self.softmax else f"product of {len(self.queries)} scores"
        pattern = pattern if self.queries else "given pattern"
        sizes = f"out={len(self.down)}, in={self.value.shape[2]}, heads={self.heads}, channels={self.down.shape[2]}"
        lifted = f", lifted in={self.constant_in} out={self.constant_out}" * (self.constant_in or self.constant_out)
        kind = f"{pattern}, positions={self.positions}, {str(self.down.dtype)[6:]}{lifted}"
        return f"AttentionLayer({self.name!r}, {sizes}, {kind}, basis={self.basis!r})"

    def _card(self) -> Card:
        shared = f" ({self.shared_heads} of keys and values)" * (self.shared_heads < self.heads)
        rows = [("heads", f"{self.heads}{shared}"), ("positions", str(self.positions)), ("basis", self.basis)]
        rows.append(("history", "; ".join(self.history)))
        sizes = [float(self.ov(head).norm()) for head in range(self.heads)]
        return Card(repr(self), rows, sizes, "norms of O V of the heads")
