"""Bounds of what a direction's output can change by the eigenvectors that are left out; see `circuit_bound.py`."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
WAYS = ("norm", "norm, by sign", "rest, by sign", "rest and range")
ROUNDING = 1e-12  # of float64 sums, as a share of the sum of magnitudes
Row = dict[str, object]


class Cut(NamedTuple):
    """A `Cut` holds one direction in its eigenbasis, and what inputs have along each eigenvector."""

    values: Tensor  # (rank,), largest magnitude first
    squares: Tensor  # (input, rank), (v . x)^2
    length: Tensor  # (input,), |x|^2
    most: Tensor  # (rank,), the largest square on the inputs of the range
    mean: Tensor  # (rank,), the mean square there

    @classmethod
    def of(cls, values: Tensor, vectors: Tensor, x: Tensor, seen: Tensor) -> "Cut":
        """Return the cut of a direction with eigenvectors (in, rank) for inputs x; `seen` are those of the range."""
        there = (seen @ vectors).square()
        return cls(values, (x @ vectors).square(), x.square().sum(1), there.amax(0), there.mean(0))

    def counts(self) -> list[int]:
        """Return the numbers of eigenvectors to keep: up to half of them, so that what is left out is no rounding."""
        return [k for k in COUNTS if k <= len(self.values) // 2]

    def kept(self, k: int) -> Tensor:
        """Return what the first k eigenvectors give, (input,)."""
        return self.squares[:, :k] @ self.values[:k]

    def outside(self, k: int) -> Tensor:
        """Return True for each input that is outside of the range along an eigenvector that is left out."""
        return (self.squares[:, k:] > self.most[k:]).any(1)

    def intervals(self, k: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Return, by way, the least and the most that all but the first k eigenvectors can give: two (input,).

        For an input outside of the range, the last way gives what "rest, by sign" gives.
        """
        left, most = self.values[k:], self.most[k:]
        slack = ROUNDING * self.values.abs().sum() * self.length
        rest = (self.length - self.squares[:, :k].sum(1)).clamp_min(0)
        low, high = left.amin().clamp_max(0), left.amax().clamp_min(0)
        norm, outside = self.values[k].abs() * self.length, self.outside(k)
        within = -filled(left.clamp_max(0).neg(), most, rest), filled(left.clamp_min(0), most, rest)
        ways = (
            (-norm, norm),
            (low * self.length, high * self.length),
            (low * rest, high * rest),
            (torch.where(outside, low * rest, within[0]), torch.where(outside, high * rest, within[1])),
        )
        return {way: (least - slack, greatest + slack) for way, (least, greatest) in zip(WAYS, ways, strict=True)}


def filled(values: Tensor, most: Tensor, rest: Tensor) -> Tensor:
    """Return the most of sum_i values[i] z[i] for 0 <= z[i] <= most[i] and sum_i z[i] <= rest, (input,).

    The z of the largest values are filled first. values: (n,), at least 0. most: (n,). rest: (input,).
    """
    order = values.argsort(descending=True)
    values, most = values[order], most[order]
    start = values.new_zeros(1)
    used, gained = (torch.cat([start, part.cumsum(0)]) for part in (most, values * most))
    at = torch.searchsorted(used, rest, right=True) - 1
    slope = torch.cat([values, start])  # nothing more once all are full
    return gained[at] + slope[at] * (rest - used[at])


def direction_rows(cut: Cut, outputs: Tensor, bias: float = 0.0) -> Iterator[Row]:
    """Yield one row per k and way: the interval that is proven, and that of the changes on all inputs.

    outputs: (input,), of the layer itself. "violations": inputs whose change is not in their interval, which must be
    none. "proven": share of inputs on which the sign of the output plus `bias` is proven. "outside": share of inputs
    outside of the range; they do not count for the ratio of the last way, which needs the range.
    """
    spread = outputs.amax() - outputs.amin()
    for k in cut.counts():
        kept, inside = cut.kept(k), ~cut.outside(k)
        change = outputs - kept
        for way, (low, high) in cut.intervals(k).items():
            counted = inside if way == WAYS[-1] else torch.ones_like(inside)
            row: Row = {"k": k, "way": way, "ratio": "", "of_output": ""}
            if bool(counted.any()):
                proven = high[counted].amax() - low[counted].amin()
                actual = change[counted].amax().clamp_min(0) - change[counted].amin().clamp_max(0)
                row |= {"ratio": float(proven / actual), "of_output": float(proven / spread)}
            sure, wrong = (kept + bias + low > 0) | (kept + bias + high < 0), (change < low) | (change > high)
            row |= {"proven": float(sure.double().mean()), "outside": float((~counted).double().mean())}
            yield row | {"violations": int(wrong.sum())}


def mean_rows(cut: Cut, outputs: Tensor) -> Iterator[Row]:
    """Yield one row per k: what the second moment of the inputs of the range says about the mean change on others."""
    for k in cut.counts():
        change, parts = outputs - cut.kept(k), cut.values[k:] * cut.mean[k:]
        yield {
            "k": k,
            "mean_expected": float(parts.sum()),
            "mean": float(change.mean()),
            "magnitude_at_most": float(parts.abs().sum()),
            "magnitude": float(change.abs().mean()),
        }


def decision_rows(cuts: Iterable[tuple[tuple[int, int], Cut]], winner: Tensor) -> Iterator[Row]:
    """Yield one row per k and way: the share of inputs on which k eigenvectors of every difference prove the winner.

    cuts: the difference output[a] - output[b] for every pair (a, b) of classes. winner: (input,), the layer's decision.
    """
    proven: dict[tuple[int, str], Tensor] = {}
    for (a, b), cut in cuts:
        for k in cut.counts():
            kept = cut.kept(k)
            for way, (low, high) in cut.intervals(k).items():
                sure = torch.where(winner == a, kept + low > 0, (winner != b) | (kept + high < 0))
                proven[k, way] = sure & proven.get((k, way), torch.ones_like(sure))
    for (k, way), mask in proven.items():
        yield {"k": k, "way": way, "proven": float(mask.double().mean())}
