"""The windows of a text: what a language model sees in one piece, and in which order a training takes them."""

import torch
from torch import Tensor

from tensornet_interp.keys import describe, digest


class Windows:
    """The windows of a text are its pieces of context + 1 tokens; the last token of one is the first of the next.

    Each epoch takes every window once, in an order set by seed and epoch.
    """

    def __init__(self, tokens: Tensor, context: int, seed: int) -> None:
        """Take tokens (count,); raise ValueError if they are fewer than one window has."""
        if tokens.ndim != 1 or len(tokens) < context + 1:
            raise ValueError(
                f"tokens must be one sequence of at least context + 1 = {context + 1}, got shape {tuple(tokens.shape)}:"
                " the text is shorter than one window"
            )
        self.tokens, self.context, self.seed = tokens, context, seed
        self._epoch, self._places = -1, list[int]()

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def batch(self, first: int, count: int) -> Tensor:
        """Return the windows number first, first + 1, ... of all epochs, as int64 (count, context + 1)."""
        return torch.stack([self._window(number) for number in range(first, first + count)])

    def digest(self) -> str:
        """Return a digest of the tokens, the same for int64 and uint16."""
        return digest([describe(part.long()) for part in self.tokens.split(1 << 22)])

    def _window(self, number: int) -> Tensor:
        epoch = number // len(self)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._places = epoch, torch.randperm(len(self), generator=generator, device="cpu").tolist()
        start = self._places[number % len(self)] * self.context
        return self.tokens[start : start + self.context + 1].long()


def check_tokens(tokens: Tensor, vocabulary: int) -> None:
    """Raise TypeError unless tokens are int64 or uint16, ValueError if one is not in the vocabulary."""
    if tokens.dtype not in (torch.int64, torch.uint16):
        raise TypeError(f"tokens must be int64 or uint16, got {tokens.dtype}")
    for part in tokens.reshape(-1).split(1 << 24):  # a text on disk is not read whole
        low, high = (int(value) for value in part.long().aminmax())
        if low < 0 or high >= vocabulary:
            raise ValueError(
                f"tokens run from {low} to {high} but the model's vocabulary is {vocabulary}: the tokenizer does not "
                "fit it"
            )
