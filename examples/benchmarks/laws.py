"""Cost laws: a call, the sizes that grow, and the exponents that its docstring predicts.

A law quotes terms of the cost from a docstring, such as "2 * rank^2 * (4 * in + out)". The predicted exponent is the
slope of their sum over the measured sizes, fitted in the same way as the measured one.
"""

import math
import pkgutil
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from examples.benchmarks.measure import memory_status, reset_peak
from tensornet_interp import BilinearNetwork
from tensornet_interp.testing import random_layer

Run = Callable[[], object]
EACH = "1"  # the factor of a term that is the whole cost
# Why a measured exponent is not the predicted one:
SMALL = (
    "Products and eigendecompositions of small matrices run below their rate for large ones, so their exponents come"
    " out low, and rise with the size."
)
LOWER = (
    "Terms that grow less, which the docstring leaves out or only names, still take much of the time at these sizes."
)
PAGES = "Arrays above 32 MB are mapped anew by the system at every use, and take longer per number than smaller ones."
BOUND = "The docstring states an upper bound: tiles that cannot hold a strong pair are skipped."
UPPER = 3  # the largest sizes, over which exponents are fitted
LONG = 5.0  # seconds: a call that takes longer is timed once
SHOWN_MIB = 16.0  # less extra memory than this at the smallest fitted size is not distinguished from noise


@dataclass(frozen=True)
class Growth:
    """A `Growth` is one size that grows while the others are fixed."""

    parameter: str
    sizes: Sequence[int]
    fixed: Mapping[str, int]
    remark: str = ""  # why the measured exponent is not the predicted one

    def points(self, smoke: bool = False) -> list[dict[str, int]]:
        """Return all sizes of every point; tiny ones, in the same order, if `smoke`."""
        points = [{**self.fixed, self.parameter: size} for size in self.sizes]
        return [{name: _tiny(size) for name, size in point.items()} for point in points] if smoke else points


@dataclass(frozen=True)
class Call:
    """A `Call` is a public call, the docstring that states its cost, and the sizes that grow.

    make(**sizes) returns a function without arguments: the call to measure. cost: quoted terms, each with the factor
    that the docstring names in words (the number of samples, of layers). memory: the same in numbers held, or empty if
    the docstring states none. names: what the quotes call sizes by other names.
    """

    what: str
    documented: str  # the place of the docstring in the package
    make: Callable[..., Run]
    cost: Mapping[str, str]
    growths: Sequence[Growth]
    memory: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    workers: bool = False  # other processes work: time is wall clock, and the memory of this process says little

    def predicted(self, growth: Growth, terms: Mapping[str, str], smoke: bool = False) -> float | None:
        """Return the exponent of a sum of quoted terms over the fitted sizes; None without terms."""
        if not terms:
            return None
        points = growth.points(smoke)
        whole = " + ".join(f"({quote}) * ({factor})" for quote, factor in terms.items())
        totals = [self.value(whole, point) for point in points]
        return slope([point[growth.parameter] for point in points], totals).exponent

    def value(self, formula: str, point: Mapping[str, int]) -> float:
        """Return a formula of a docstring at a point: ^ is a power, and `rank'` is a name."""
        known: dict[str, float] = {"in": point.get("d", 0), "r": min(point.get("d", 0), 2 * point.get("hidden", 0))}
        known |= point
        for name, meaning in self.names.items():
            known[name] = _evaluated(meaning, known)
        return _evaluated(formula, known)

    def docstring(self) -> str:
        """Return the docstring that states the cost, on one line."""
        return " ".join((pkgutil.resolve_name(f"tensornet_interp.{self.documented}").__doc__ or "").split())


class Slope(NamedTuple):
    """A `Slope` is a fitted exponent, and the smallest and largest slope between neighbouring sizes."""

    exponent: float
    low: float
    high: float


def slope(sizes: Sequence[float], values: Sequence[float]) -> Slope:
    """Return the exponent of values over sizes, by least squares of the logarithms at the largest sizes."""
    x, y = (np.log(np.asarray(numbers[-UPPER:], dtype=float)) for numbers in (sizes, values))
    steps = np.diff(y) / np.diff(x)
    return Slope(float(np.polyfit(x, y, 1)[0]), float(steps.min()), float(steps.max()))


def measured(call: Call, growth: Growth, repeats: int, smoke: bool) -> list[dict[str, float]]:
    """Return size, seconds, extra memory and number of timed calls of every point; the points take turns."""
    clock = time.perf_counter if call.workers else time.process_time
    points = growth.points(smoke)
    runs = [call.make(**point) for point in points]
    runs[0]()  # parts of libraries are set up at the first use

    def timed(run: Run) -> float:
        start = clock()
        run()
        return clock() - start

    peaks, seconds = [], []
    for run in runs:
        before = reset_peak()
        seconds.append([timed(run)])
        peak = memory_status("VmHWM")
        peaks.append(math.nan if before is None or peak is None else peak - before)
    for _ in range(repeats):
        for run, times in zip(runs, seconds, strict=True):
            if times[0] <= LONG:
                times.append(timed(run))
    return [
        {"size": point[growth.parameter], "seconds": min(times), "peak_mib": peak, "calls": len(times)}
        for point, times, peak in zip(points, seconds, peaks, strict=True)
    ]


def memory(call: Call, sizes: Sequence[float], peaks: Sequence[float]) -> Slope | None:
    """Return the exponent of the extra memory; None if it is too little, unknown or in other processes."""
    if call.workers or not min(peaks[-UPPER:]) >= SHOWN_MIB:
        return None
    return slope(sizes, peaks)


def _tiny(size: int) -> int:
    return size if size <= 8 else 6 + math.isqrt(size)


def _evaluated(formula: str, known: Mapping[str, float]) -> float:
    def plain(text: str) -> str:
        return re.sub(r"\bin\b", "in_", text.replace("^", "**").replace("'", "_"))

    names = {plain(name): value for name, value in known.items()}
    return float(eval(plain(formula), {"__builtins__": {}, "min": min}, names))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return standard normal numbers, float64."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64, device="cpu")


def stack(depth: int, d: int, hidden: int, seed: int = 0) -> BilinearNetwork:
    """Return a network of equal random layers whose outputs are about as large as their inputs."""
    layers = [random_layer(d, d, hidden, seed=seed + number) for number in range(depth)]
    return BilinearNetwork([layer.change_basis(outputs=torch.eye(d, dtype=torch.float64) / d / hidden**0.5)
                            for layer in layers])  # fmt: skip
