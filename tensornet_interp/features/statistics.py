"""Moments, quantiles and outliers of sets of numbers that are too large for memory."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.balance import rescale, times_power
from tensornet_interp.checks import check_list, check_number, check_share
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record

_BINS = 2**16
_LEAST = -1100  # the exponent of zeros, below the exponents of all other numbers


@register_type("Statistics")
@dataclass(frozen=True)
class Statistics:
    """Statistics summarize a set of numbers.

    std is sqrt(m2), where m2 and m4 are the second and the fourth central moment, divided by the count. kurtosis is m4
    / m2^2: 3 for a normal distribution, NaN if all numbers are equal. Quantiles come from a histogram: each is within
    one bin of the number at the nearest place in the sorted set. The 2^16 bins have equal width in arsinh((value -
    mean) / std), so they are finer near the mean than in the tails.
    """

    count: int
    mean: float
    std: float
    kurtosis: float
    minimum: float
    maximum: float
    quantiles: Mapping[float, float]
    outliers: int  # further than z std from the mean
    z: float

    def records(self) -> list[Record]:
        """Return one record with one entry per field."""
        return [asdict(self) | {"quantiles": dict(self.quantiles)}]

    def __str__(self) -> str:
        quantiles = ", ".join(f"{share:g}: {value:+.3g}" for share, value in self.quantiles.items())
        return (
            f"{self.count} values, mean {self.mean:+.3g}, std {self.std:.3g}, kurtosis {self.kurtosis:.3g},"
            f" from {self.minimum:+.3g} to {self.maximum:+.3g}, {self.outliers} beyond {self.z:g} std;"
            f" quantiles {quantiles}"
        )


class _Moments(NamedTuple):
    n: int
    exponent: int  # all other numbers describe values / 2^exponent, whose fourth powers neither over- nor underflow
    mean: float
    m2: float  # sum (value - mean)^2
    m3: float
    m4: float
    minimum: float
    maximum: float


def summarize(chunks: Callable[[], Iterator[Tensor]], z: float, quantiles: Sequence[float]) -> Statistics:
    """Return the statistics of all numbers in the chunks; only one chunk is in memory at a time.

    The moments of chunks are merged exactly (Pebay 2008), without sums of raw powers. The counts of outliers and the
    histogram need the mean and the standard deviation first, so `chunks` is called twice.
    """
    z = check_number("z", z, 0, low_open=True)
    check_list("quantiles", quantiles, "give shares from 0 to 1")
    for share in quantiles:
        check_share("quantiles", share, low_open=False, high_open=False)
    count, exponent, mean, m2, _, m4, minimum, maximum = reduce(_merge, (_moments(chunk) for chunk in chunks()))
    std = math.sqrt(m2 / count)
    scale = std or 1.0

    def whole(value: float) -> float:
        return math.ldexp(value, exponent)

    def made(kurtosis: float, found: Mapping[float, float], outliers: int) -> Statistics:
        ends = whole(minimum), whole(maximum)
        shown = {share: whole(value) for share, value in found.items()}
        return Statistics(count, whole(mean), whole(std), kurtosis, *ends, shown, outliers, z)

    low, high = (math.asinh((end - mean) / scale) for end in (minimum, maximum))
    if low == high:
        return made(math.nan, dict.fromkeys(quantiles, mean), 0)
    outliers, histogram = 0, torch.zeros(_BINS, dtype=torch.float64, device="cpu")
    for chunk in chunks():
        scaled = (times_power(chunk.to(torch.float64), -exponent) - mean) / scale
        outliers += int((scaled.abs() > z).sum())
        histogram += torch.histc(scaled.asinh().clamp(low, high), _BINS, low, high).to("cpu", torch.float64)
    reached = histogram.cumsum(0)
    found = {}
    for share in quantiles:
        rank = share * (count - 1) + 0.5  # place in the sorted numbers, as torch.quantile counts it
        at = min(int(torch.searchsorted(reached, rank)), _BINS - 1)
        inside = (rank - float(reached[at] - histogram[at])) / max(1.0, float(histogram[at]))
        place = low + (high - low) * (at + min(1.0, max(0.0, inside))) / _BINS
        found[share] = mean + scale * math.sinh(place)
    return made(count * m4 / m2**2, found, outliers)


def _moments(values: Tensor) -> _Moments:
    values, exponent = rescale(values)
    exponent = exponent if bool(values.any()) else _LEAST
    mean = float(values.mean())
    centred = values - mean
    squares = centred.square()
    m2, m3, m4 = (float(part.sum()) for part in (squares, squares * centred, squares.square()))
    return _Moments(values.numel(), exponent, mean, m2, m3, m4, float(values.min()), float(values.max()))


def _divided(moments: _Moments, exponent: int) -> _Moments:
    """Return the same moments, written with a larger exponent."""
    n, own, *numbers = moments
    degrees = (1, 2, 3, 4, 1, 1)
    return _Moments(n, exponent, *(math.ldexp(x, d * (own - exponent)) for x, d in zip(numbers, degrees, strict=True)))


def _merge(a: _Moments, b: _Moments) -> _Moments:
    """Return the moments of the union of two sets, from the moments of each set."""
    exponent = max(a.exponent, b.exponent)
    a, b = _divided(a, exponent), _divided(b, exponent)
    both, step = a.n + b.n, b.mean - a.mean
    share = a.n * b.n / both
    m2 = a.m2 + b.m2 + step**2 * share
    m3 = a.m3 + b.m3 + step**3 * share * (a.n - b.n) / both + 3 * step * (a.n * b.m2 - b.n * a.m2) / both
    m4 = (
        a.m4
        + b.m4
        + step**4 * share * (a.n**2 - a.n * b.n + b.n**2) / both**2
        + 6 * step**2 * (a.n**2 * b.m2 + b.n**2 * a.m2) / both**2
        + 4 * step * (a.n * b.m3 - b.n * a.m3) / both
    )
    mean = a.mean + step * b.n / both
    return _Moments(both, exponent, mean, m2, m3, m4, min(a.minimum, b.minimum), max(a.maximum, b.maximum))
