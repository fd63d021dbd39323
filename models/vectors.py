"""The vectors at the hook points of a `Transformer`: as a stream, and through a shuffling buffer."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.transformer import POINTS, Transformer
from tensornet_interp.checks import check_choice, check_int


def windows(tokens: Tensor, context: int) -> Tensor:
    """Cut tokens (tokens,) in int64 into windows (window, position) of `context` tokens; drop the rest at the end.

    windows[window, position] = tokens[window * context + position]

    Raises TypeError if tokens are not int64 of one dimension, ValueError if they do not fill one context.
    """
    check_int("context", context, 1)
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.ndim != 1:
        what = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens must be int64 of shape (tokens,), got {what}")
    if len(tokens) < context:
        raise ValueError(f"tokens must fill at least one context of {context}, got {len(tokens)}")
    return tokens[: len(tokens) // context * context].reshape(-1, context)


def check_windows(model: Transformer, rows: Tensor) -> None:
    """Raise TypeError or ValueError if `rows` are not tokens (window, position) that the model can read."""
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.ndim != 2 or not rows.numel():
        what = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise TypeError(f"windows must be int64 of shape (window, position), got {what}; see windows(tokens, context)")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= model.config.vocabulary:
        raise ValueError(
            f"windows must hold tokens from 0 to {model.config.vocabulary - 1}, the model's vocabulary, got "
            f"{low if low < 0 else high}: the tokenizer belongs to another model"
        )
    if rows.shape[1] > model.config.context:
        raise ValueError(f"windows have {rows.shape[1]} positions, the model's context is {model.config.context}")


def vectors_at(model: Transformer, rows: Tensor, layer: int, point: str, *, at_once: int = 16) -> Iterator[Tensor]:
    """Yield the vectors at the hook point (layer, point), in the order of the rows.

    `rows` is (window, position). Each chunk is (windows, position, d_model), from `at_once` rows, on the device of the
    model. Blocks above the layer, and the head, are not run.
    Raises ValueError, before any work, for a layer or a point that does not exist, and lists the points that do.
    """
    check_windows(model, rows)
    check_int("at_once", at_once, 1)
    check_int("layer", layer, 0, model.config.n_layers - 1)
    check_choice("point", point, POINTS)
    return _vectors_at(model, rows, layer, point, at_once)


def _vectors_at(model: Transformer, rows: Tensor, layer: int, point: str, at_once: int) -> Iterator[Tensor]:
    seen: list[Tensor] = []
    for chunk in rows.split(at_once):
        with torch.no_grad(), model.hooked({(layer, point): seen.append}):
            x = model.embedding(chunk.to(model.embedding.weight.device))
            for index in range(layer + 1):
                x = model.block(index)(x)
        yield seen.pop()


@dataclass(frozen=True)
class VectorBuffer:
    """A `VectorBuffer` yields batches (batch_size, d_model) of the vectors at (layer, point) in a mixed order.

    A pass reads the windows in a random order and fills a buffer of about `size` vectors. It shuffles the buffer,
    yields half of it in batches, fills it up again, and so on. Each vector appears once per pass, and the last batch of
    a pass holds the rest. Iteration is one pass; `endless()` makes pass after pass. `seed` decides every order.
    Memory: (size + one chunk) d_model numbers.
    """

    model: Transformer
    windows: Tensor  # (window, position)
    layer: int
    point: str
    size: int = 2**15
    batch_size: int = 1024
    seed: int = 0
    at_once: int = 16

    def __post_init__(self) -> None:
        check_windows(self.model, self.windows)
        check_int("layer", self.layer, 0, self.model.config.n_layers - 1)
        check_choice("point", self.point, POINTS)
        check_int("batch_size", self.batch_size, 1)
        check_int("size", self.size, 2 * self.batch_size, why="two batches, because it is filled up when half empty")
        check_int("seed", self.seed, 0)
        check_int("at_once", self.at_once, 1)

    def __iter__(self) -> Iterator[Tensor]:
        return self._pass(torch.Generator().manual_seed(self.seed))

    def endless(self) -> Iterator[Tensor]:
        """Yield batches of pass after pass, each in a new order.

        A last batch of one vector has no variance and is left out, unless batch_size is 1.
        """
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from (batch for batch in self._pass(generator) if len(batch) > 1 or self.batch_size == 1)

    def _pass(self, generator: torch.Generator) -> Iterator[Tensor]:
        order = torch.randperm(len(self.windows), generator=generator, device="cpu")
        rows = self.windows[order.to(self.windows.device)]
        fresh = vectors_at(self.model, rows, self.layer, self.point, at_once=self.at_once)
        rest: list[Tensor] = []
        more = True
        while more:
            while sum(map(len, rest)) < self.size:
                chunk = next(fresh, None)
                if chunk is None:
                    more = False
                    break
                rest.append(chunk.flatten(0, 1))
            pool = torch.cat(rest)
            order = torch.randperm(len(pool), generator=generator, device="cpu")
            pool = pool[order.to(pool.device)]
            keep = self.size // 2 if more else 0
            start = 0
            while len(pool) - start > keep and (not more or len(pool) - start >= self.batch_size):
                yield pool[start : start + self.batch_size]
                start += self.batch_size
            rest = [pool[start:]]
