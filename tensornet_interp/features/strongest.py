"""The windows of a text in which features are strongest, found in one pass over the codes."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import check_int, check_size, check_tensor
from tensornet_interp.store import register_type


@register_type("Strongest")
class Strongest(NamedTuple):
    """A `Strongest` holds the n windows in which each feature is strongest, strongest first.

    If a feature fires in fewer than n windows, its remaining values are 0.
    """

    values: Tensor  # (n, feature): the largest activation in the window
    windows: Tensor  # (n, feature): the window's number
    positions: Tensor  # (n, feature): the place of that activation in the window

    def alive(self) -> Tensor:
        """Return the numbers of the features that fired in n windows or more."""
        return (self.values[-1] > 0).nonzero()[:, 0]

    def peaks(self, feature: int) -> list[tuple[int, int]]:
        """Return (window, position) of the peaks of a feature, strongest first, without windows where it is silent."""
        check_int("feature", feature, 0, self.values.shape[1] - 1)
        rows = zip(*(part[:, feature].tolist() for part in self), strict=True)
        return [(window, position) for value, window, position in rows if value > 0]


@torch.no_grad()
def strongest_windows(codes: Iterable[Tensor], n: int = 10) -> Strongest:
    """Return for each feature the n windows with the largest peak of its activation.

    peak[window, feature] = max over positions of codes[window, position, feature]

    codes: chunks (window, position, feature) of the codes of a text, in its order, such as those of `Dictionary.encode`
    for chunks of vectors. A window counts once, by its peak, so the examples differ. Among equal peaks, any may be
    returned. Raises ValueError if there is no window, or if n is larger than the number of windows.
    Memory: one chunk, and 2 n numbers per feature. Cost: a search for the n largest peaks per chunk.

    Example:
    >>> strongest_windows([torch.tensor([[[0.0], [2.0]], [[3.0], [1.0]]])], n=2).windows.tolist()
    [[1], [0]]
    """
    check_int("n", n, 1)
    if not isinstance(codes, Iterable):
        raise TypeError(f"codes must be chunks (window, position, feature), such as a list, got {type(codes).__name__}")
    best: Strongest | None = None
    start = 0
    for chunk in codes:
        check_tensor("codes", chunk, ("window", "position", "feature"))
        values, positions = chunk.max(1)  # (window, feature)
        number = torch.arange(start, start + len(chunk), device=chunk.device)[:, None].expand_as(values)
        start += len(chunk)
        found = Strongest(values, number, positions)
        if best is not None:
            check_size("feature", codes=best.values.shape[1], **{"a later chunk": values.shape[1]})
            found = Strongest(*(torch.cat(parts) for parts in zip(best, found, strict=True)))
        order = found.values.topk(min(n, len(found.values)), dim=0).indices
        best = Strongest(*(part.gather(0, order) for part in found))
    if best is None:
        raise ValueError("codes are empty: a text needs at least one window")
    check_int("n", n, 1, start, f"there are {start} windows")
    return best
