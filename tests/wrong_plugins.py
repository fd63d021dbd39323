"""Decompositions with one fault each: what `check_decomposition` must catch, and the words by which it names the fault.

All of them are `KeepUnits`, which is right, with one method changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tensornet_interp import BilinearLayer, CPResult, Report
from tensornet_interp.inner_products import inner, relative_error


@dataclass(frozen=True)
class KeepUnits:
    """Keep the hidden units of the largest norms, times the scalar that fits best."""

    rank: int | None = None

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["KeepUnits"]:
        return [cls(rank) for rank in sorted({1, (layer.rank + 1) // 2, layer.rank})]

    def kept(self, layer: BilinearLayer) -> int:
        return self.rank or layer.rank

    def scale(self, layer: BilinearLayer, part: BilinearLayer) -> float:
        return float(inner(part, layer)) / float(inner(part, part)) if part.down.any() else 1.0

    def __call__(self, layer: BilinearLayer):
        size = layer.down.norm(dim=0) * layer.left.norm(dim=0) * layer.right.norm(dim=0)
        keep = size.topk(self.kept(layer)).indices
        part = replace(layer, down=layer.down[:, keep], left=layer.left[:, keep], right=layer.right[:, keep])
        if part.rank == layer.rank:
            return part
        return replace(part, down=part.down * self.scale(layer, part))


class RankIgnored(KeepUnits):
    def kept(self, layer):
        return layer.rank


class RankReversed(KeepUnits):
    def kept(self, layer):
        full = self.rank is None or self.rank == layer.rank
        return layer.rank if full else layer.rank - self.rank


class SevenTimes(KeepUnits):
    def scale(self, layer, part):
        return 7 * super().scale(layer, part)


class EmptyLadder(KeepUnits):
    fitted: ClassVar[bool] = True

    @classmethod
    def ladder(cls, layer):
        return []

    def __call__(self, layer):
        return replace(layer, down=1.1 * layer.down)


class Reporting(KeepUnits):
    """Right: a result with a report."""

    def report(self, part: BilinearLayer, layer: BilinearLayer) -> Report:
        error = relative_error(part, layer) if layer.down.any() else 0.0
        return Report.of(layer, self, error, convergence=(2 * error, error), stop_reason="two steps")

    def __call__(self, layer):
        part = super().__call__(layer)
        return CPResult(
            report=self.report(part, layer),
            weights=torch.ones_like(part.down[0]),
            outputs=part.down,
            left=part.left,
            right=part.right,
            constant_in=layer.constant_in,
            constant_out=layer.constant_out,
        )


class LyingReport(Reporting):
    def report(self, part, layer):
        return replace(super().report(part, layer), relative_error=1e-3, convergence=())


class Reseeding(KeepUnits):
    def __call__(self, layer):
        torch.manual_seed(0)
        torch.rand(1)
        return super().__call__(layer)


class NameDropped(KeepUnits):
    def __call__(self, layer):
        return replace(super().__call__(layer), name="", history=())


class WrongScale(KeepUnits):
    def __call__(self, layer):
        made = super().__call__(layer)
        return replace(made, down=1.1 * made.down)


class Drawing(KeepUnits):
    def __call__(self, layer):
        made = super().__call__(layer)
        return replace(made, down=made.down + 1e-12 * torch.randn(made.down.shape).to(made.down))


class Mutating(KeepUnits):
    def __call__(self, layer):
        made = super().__call__(layer)
        layer.down.mul_(2)
        return made


class NumpySeeded(KeepUnits):
    def __call__(self, layer):
        np.random.seed(0)  # noqa: NPY002 - the fault
        return super().__call__(layer)


class GradLeftOff(KeepUnits):
    def __call__(self, layer):
        torch.set_grad_enabled(False)
        return super().__call__(layer)


class BasisDropped(KeepUnits):
    def __call__(self, layer):
        return replace(super().__call__(layer), basis="as given")


class ConstantDropped(KeepUnits):
    def __call__(self, layer):
        return replace(super().__call__(layer), constant_in=False, constant_out=False)


class Widening(KeepUnits):
    def __call__(self, layer):
        return super().__call__(layer).to(dtype=torch.float64)


class NotNested(KeepUnits):
    """The units of the largest norms , with a wrong scalar for all but one."""

    nested: ClassVar[bool] = True

    def scale(self, layer, part):
        return super().scale(layer, part) * (0.1 if part.rank > 1 else 1)


class NotOdd(KeepUnits):
    odd: ClassVar[bool] = True

    def __call__(self, layer):
        made = super().__call__(layer)
        return replace(made, down=made.down.abs()) if made.rank < layer.rank else made


class LyingConvergence(Reporting):
    def report(self, part, layer):
        return replace(super().report(part, layer), convergence=(0.5, 1e-3))


class LyingBound(Reporting):
    def report(self, part, layer):
        return replace(super().report(part, layer), relative_error_bound=0.0)


class OtherCall(Reporting):
    """A result type of its own, whose call is not the map of its terms."""

    def __call__(self, layer):
        made = super().__call__(layer)
        return Doubling(**vars(made))


class Doubling(CPResult):
    def multilinear(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        return 2 * super().multilinear(x1, x2)


class HistoryDropped(KeepUnits):
    def __call__(self, layer):
        return replace(super().__call__(layer), history=())


class NeedsOptions:
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __call__(self, layer):
        return KeepUnits(self.rank)(layer)


class WithoutRepr(NeedsOptions):
    @classmethod
    def ladder(cls, layer):
        return [cls(1), cls(layer.rank)]


class FailsForOne(KeepUnits):
    def __call__(self, layer):
        return layer.no_such_attribute


# title: class, and how the kit names the fault (a law, and what is wrong)
TEN = {  # planted first; the kit of then caught the last three
    "rank ignored": (
        RankIgnored,
        "parameters grow along the ladder: RankIgnored(rank=2): it holds 100 numbers; RankIg",
    ),
    "rank reversed": (
        RankReversed,
        "parameters grow along the ladder: RankReversed(rank=2): it holds 50 numbers; Rank",
    ),
    "scale 7 below the exact step": (SevenTimes, "no worse than the zero layer: SevenTimes(rank=1): relative error"),
    "scale 1.1 with an empty ladder": (EmptyLadder, "the best scalar is 1: EmptyLadder(rank=None): times 0.9090909"),
    "a report that lies": (LyingReport, "the numbers of the report are true: LyingReport(rank=1): relative_error says"),
    "global random state reseeded": (Reseeding, "Reseeding(rank=1): the call changed torch's random state"),
    "name and history dropped": (NameDropped, "name became '', that of the layer is 'random 1'"),
    "wrong scale": (WrongScale, "exact end: WrongScale(rank=4): relative error 0.1, more than 1e-09"),
    "not deterministic": (Drawing, "same call, same answer: Drawing(rank=1): two calls gave two answers"),
    "mutates its layer": (Mutating, "Mutating(rank=1): the call changed the layer"),
}
MORE = {
    "numpy reseeded": (NumpySeeded, "the call changed numpy's random state"),
    "grad mode left off": (GradLeftOff, "the call changed the grad mode"),
    "basis dropped": (BasisDropped, "basis became 'as given', that of the layer is 'inputs of wide'"),
    "history dropped": (HistoryDropped, "history became (), that of the layer is ("),
    "constant dropped": (
        ConstantDropped,
        "lifted: name, basis, history and constants kept: ConstantDropped(rank=1): con",
    ),
    "dtype widened": (
        Widening,
        "float32: dtype and device kept: Widening(rank=1): its factors are torch.float64 on cpu",
    ),
    "not nested": (NotNested, "the error never rises along the ladder: NotNested(rank=2): relative error"),
    "not odd": (NotOdd, "f(-layer) = -f(layer): NotOdd(rank=1): f(layer) + f(-layer) is"),
    "convergence that lies": (LyingConvergence, "convergence[-1] says 0.001, but the relative error is"),
    "bound that lies": (LyingBound, "relative_error_bound says 0, but the relative error is"),
    "another call than its terms": (OtherCall, "the call gives other outputs than terms()"),
    "options without a ladder": (NeedsOptions, "decomposes: TypeError: it needs options (rank) and has no ladder that"),
    "no repr": (WithoutRepr, "repr shows options: <wrong_plugins.WithoutRepr object at"),
    "fails": (
        FailsForOne,
        "wide: decomposes: AttributeError: 'BilinearLayer' object has no attribute 'no_such_attribute'",
    ),
}
