"""The arrays of an attention layer: their checks, their modes, and the contractions that evaluate them."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_bool, check_int, check_list, check_size, check_tensor
from tensornet_interp.contraction import Modes, Term
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.stepwise import Run, sliced


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionArrays(TensorNetwork):
    """The arrays of an attention layer, with all coordinates alike; `AttentionLayer` says what they mean.

    A mode "head" counts all heads; if heads share keys and values, it is split into "group" and "head" in the terms.
    """

    down: Tensor  # (out, head, channel)
    value: Tensor  # (shared head, channel, in)
    mask: Tensor  # ([batch,] head or 1, position, source)
    queries: tuple[Tensor, ...] = ()  # (head, size, in) of each score
    keys: tuple[Tensor, ...] = ()  # (shared head, size, in) of each score
    rotation: Tensor | None = None  # (position, pair, 2, 2)
    softmax: bool = False

    def __post_init__(self) -> None:
        check_tensor("down", self.down, ("out", "head", "channel"))
        check_tensor("value", self.value, ("head", "channel", "in"))
        check_size("channel", down=self.down.shape[2], value=self.value.shape[1])
        batch = ("batch",) * (getattr(self.mask, "ndim", 0) == 4)
        check_tensor("mask", self.mask, (*batch, "head", "position", "source"))
        for field in ("queries", "keys"):
            arrays = tuple(check_list(field, getattr(self, field)))
            for i, array in enumerate(arrays):
                check_tensor(f"{field}[{i}]", array, ("head", "size", "in"))
            object.__setattr__(self, field, arrays)
        if len(self.queries) != len(self.keys) or len(self.queries) > 2:
            raise ValueError(
                f"queries and keys must be as many, and at most two, got {len(self.queries)} and {len(self.keys)}"
            )
        self._check_heads()
        if self.mask.shape[-1] != self.mask.shape[-2]:
            raise ValueError(
                f"mask must have as many sources as positions, got {self.mask.shape[-2]} positions and"
                f" {self.mask.shape[-1]} sources"
            )
        if self.rotation is not None:
            self._check_rotation(self.rotation)
        check_alike(**self.arrays())
        if check_bool("softmax", self.softmax):
            self._check_softmax()

    def _check_heads(self) -> None:
        heads, shared = self.heads, self.shared_heads
        if heads % shared:
            raise ValueError(f"the heads of value must divide those of down, got {shared} and {heads}")
        if self.mask.shape[-3] not in (1, heads):
            raise ValueError(f"mask must have 1 head or {heads}, as down has, got {self.mask.shape[-3]}")
        for i, (query, key) in enumerate(zip(self.queries, self.keys, strict=True)):
            check_size("head", down=heads, **{f"queries[{i}]": query.shape[0]})
            check_size("head", value=shared, **{f"keys[{i}]": key.shape[0]})
            check_size("size", **{f"queries[{i}]": query.shape[1], f"keys[{i}]": key.shape[1]})
            for side, array in (("queries", query), ("keys", key)):
                check_size("in", value=self.value.shape[2], **{f"{side}[{i}]": array.shape[2]})

    def _check_rotation(self, rotation: Tensor) -> None:
        check_tensor("rotation", rotation, ("position", "pair", "row", "column"))
        if not self.queries or rotation.shape[2:] != (2, 2):
            raise ValueError(
                f"rotation (position, pair, 2, 2) turns the queries and keys of {len(self.queries)} scores, got"
                f" {tuple(rotation.shape)}"
            )
        check_size("position", mask=self.mask.shape[-2], rotation=rotation.shape[0])
        for i, query in enumerate(self.queries):
            if query.shape[1] != 2 * rotation.shape[1]:
                raise ValueError(
                    f"rotation turns {rotation.shape[1]} pairs of coordinates, so queries[{i}] must have size"
                    f" {2 * rotation.shape[1]}, got {query.shape[1]}"
                )

    def _check_softmax(self) -> None:
        if len(self.queries) != 1:
            raise ValueError(f"softmax needs one score, but queries has {len(self.queries)}")
        if bool((self.mask < 0).any()):
            raise ValueError("mask must not be negative with softmax, where it multiplies exp(score)")
        if not bool((self.mask > 0).any(-1).all()):
            raise ValueError("mask must leave a source to every position with softmax, but some of its rows are zero")

    def arrays(self) -> dict[str, Tensor]:
        """Return every array by its name, such as "keys[0]"."""
        sides = {"queries": self.queries, "keys": self.keys}
        scores = {f"{side}[{i}]": array for side, arrays in sides.items() for i, array in enumerate(arrays)}
        turned = {} if self.rotation is None else {"rotation": self.rotation}
        return {"down": self.down, "value": self.value, "mask": self.mask, **scores, **turned}

    @property
    def heads(self) -> int:
        """Return the number of heads."""
        return self.down.shape[1]

    @property
    def shared_heads(self) -> int:
        """Return the number of heads that have keys and values of their own."""
        return self.value.shape[0]

    @property
    def positions(self) -> int:
        """Return the largest number of positions of an input."""
        return self.mask.shape[-2]

    @property
    def modes(self) -> Modes:
        """Return ([batch,] out, position, source, in1, ...): values, then keys, take the source; then come queries."""
        batch = ("batch",) * (self.mask.ndim == 4)
        return (*batch, "out", "position", "source", *(f"in{i + 1}" for i in range(1 + 2 * len(self.queries))))

    @property
    def sizes(self) -> dict[str, int]:
        """Return the size of every open mode."""
        known = dict(zip(("batch", "head", "position", "source")[-self.mask.ndim :], self.mask.shape, strict=True))
        return {mode: known.get(mode, self.value.shape[2]) for mode in self.modes} | {"out": self.down.shape[0]}

    def terms(self) -> tuple[Term, ...]:
        """Return the terms of the layer as a polynomial; values and keys read the source, queries the position.

        Raises ValueError for a softmax layer, which is no polynomial.
        """
        if self.softmax:
            raise ValueError(
                "a softmax layer is no polynomial, so it has no terms; layer.given(layer.pattern(x)) has, and"
                " layer.scores(x), layer.qk(head) and layer.ov(head) are exact for softmax too"
            )
        count = len(self.queries)
        terms = [self.mask_term(), self.down_term(), self.value_term("in1")]
        for i in range(count):
            terms += [*self.key_terms(i, f"in{2 + i}"), *self.query_terms(i, f"in{2 + count + i}")]
        return tuple(terms)

    def up_to(self, positions: int) -> Self:
        """Return the layer of the first positions alone."""
        count = check_int("positions", positions, 1, self.positions, "the positions of the mask")
        if count == self.positions:
            return self
        rotation = None if self.rotation is None else self.rotation[:count]
        return replace(self, mask=self.mask[..., :count, :count], rotation=rotation)

    def batched(self, x: Tensor) -> tuple[Self, Tensor, torch.Size]:
        """Return the layer of as many positions as x has, x as (batch, position, in), and the shape of the batch."""
        if x.ndim < 2:
            raise ValueError(f"x must be (..., position, in), got shape {tuple(x.shape)}")
        if x.shape[-2] > self.positions:
            raise ValueError(f"x has {x.shape[-2]} positions, but the mask has only {self.positions}")
        flat = x.reshape(-1, *x.shape[-2:])
        if self.mask.ndim == 4 and (x.ndim != 3 or len(x) != len(self.mask)):
            raise ValueError(
                f"the mask is that of a batch of {len(self.mask)} samples, so x must be (batch, position, in) of the"
                f" same batch, got {tuple(x.shape)}"
            )
        return self.up_to(x.shape[-2]), flat, x.shape[:-2]

    # The modes of each array. `rows` is the range of positions.

    @property
    def _heads(self) -> Modes:
        return ("head",) if self.shared_heads == self.heads else ("group", "head")

    def _by_head(self, array: Tensor, axis: int) -> Tensor:
        """Return an array whose axis of heads is split into groups that share keys and values."""
        return array if len(self._heads) == 1 else array.unflatten(axis, (self.shared_heads, -1))

    def down_term(self) -> Term:
        """Return the term (out, head, channel)."""
        return Term(self._by_head(self.down, 1), ("out", *self._heads, "channel"))

    def value_term(self, mode: str) -> Term:
        """Return the term (shared head, channel, mode)."""
        return Term(self.value, (self._heads[0], "channel", mode))

    def mask_term(self, rows: slice = slice(None)) -> Term:
        """Return the term ([batch,] [head,] position, source), without the head if all heads share the mask."""
        mask, batch = self.mask[..., rows, :], ("batch",) * (self.mask.ndim == 4)
        if mask.shape[-3] == 1 < self.heads:
            return Term(mask.squeeze(-3), (*batch, "position", "source"))
        return Term(self._by_head(mask, -3), (*batch, *self._heads, "position", "source"))

    def query_terms(self, i: int, mode: str, rows: slice = slice(None)) -> list[Term]:
        """Return the terms of the turned queries of score i, of the inputs `mode` at the positions."""
        query = self._by_head(self.queries[i], 0)
        if self.rotation is None:
            return [Term(query, (*self._heads, f"turned{i}", mode))]
        query = query.unflatten(-2, (2, -1))
        rotation = Term(self.rotation[rows], ("position", f"pair{i}", f"turned{i}", f"query{i}"))
        return [Term(query, (*self._heads, f"query{i}", f"pair{i}", mode)), rotation]

    def key_terms(self, i: int, mode: str) -> list[Term]:
        """Return the terms of the turned keys of score i, of the inputs `mode` at the sources."""
        shared = self._heads[0]
        if self.rotation is None:
            return [Term(self.keys[i], (shared, f"turned{i}", mode))]
        key = self.keys[i].unflatten(-2, (2, -1))
        rotation = Term(self.rotation[:], ("source", f"pair{i}", f"turned{i}", f"key{i}"))
        return [Term(key, (shared, f"key{i}", f"pair{i}", mode)), rotation]

    # Evaluation: inputs are (batch, position, in) with as many positions as the mask.

    def turned_keys(self, i: int, x: Tensor, run: Run) -> Term:
        """Return the keys of score i for the inputs, turned by their positions."""
        pair = () if self.rotation is None else (f"pair{i}",)
        modes = ("batch", self._heads[0], "source", f"turned{i}", *pair)
        return Term(run([Term(x, ("batch", "source", "in")), *self.key_terms(i, "in")], modes), modes)

    def score(self, i: int, x: Tensor, keys: Term, run: Run, rows: slice = slice(None)) -> Tensor:
        """Return score i of the given rows, (batch, head, position, source)."""
        modes = ("batch", *self._heads, "position", "source")
        inputs = Term(x[:, rows], ("batch", "position", "in"))
        return run([inputs, *self.query_terms(i, "in", rows), keys], modes).flatten(1, len(self._heads))

    def weigh(self, score: Tensor, rows: slice = slice(None)) -> Tensor:
        """Return the softmax of one score with the mask as weights of the sources; a plan has no numbers to weigh."""
        return score if score.is_meta else (score + self.mask[..., rows, :].log()).softmax(-1)

    def evaluate(self, inputs: tuple[Tensor, ...], run: Run, step: int | None = None) -> Tensor:
        """Return the output (batch, position, out) for one input for all legs, or for one per leg.

        step: the number of positions whose scores are in memory at once; None for all.
        """
        count = len(self.queries)
        values_of, *others = inputs if len(inputs) > 1 else inputs * (1 + 2 * count)
        at = ("batch", self._heads[0], "source", "channel")
        values = Term(run([Term(values_of, ("batch", "source", "in")), self.value_term("in")], at), at)
        keys = [self.turned_keys(i, others[i], run) for i in range(count)]

        def written(rows: slice) -> Tensor:
            """Return the output of some positions."""
            scores = [self.score(i, others[count + i], keys[i], run, rows) for i in range(count)]
            if self.softmax:
                scores = [self.weigh(scores[0], rows)]
            modes = ("batch", *self._heads, "position", "source")
            terms = [Term(self._by_head(score, 1), modes) for score in scores]
            if not self.softmax:
                terms.append(self.mask_term(rows))
            return run([*terms, values, self.down_term()], ("batch", "position", "out"))

        return sliced(run, self.positions, step, written, 1)
