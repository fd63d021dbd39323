"""What all fitted decompositions share: options, restarts, priors, and the report of the fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.balance import balance, times_power
from tensornet_interp.checks import check_iterations, check_seed, check_share
from tensornet_interp.decompositions.canonical import block_congruence, congruence
from tensornet_interp.decompositions.compress import Compressed, compress
from tensornet_interp.decompositions.errors import R, with_error
from tensornet_interp.decompositions.fit import Fit, descend, gauss_newton, overlaps
from tensornet_interp.decompositions.parametrize import Model, Tied
from tensornet_interp.decompositions.priors import Factors, Prior
from tensornet_interp.decompositions.starts import Triple
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.report import Report, Start
from tensornet_interp.results import Result

_ROUNDING = 1e-14  # of a relative squared error, a difference of sums near 1

InitialFit = tuple[int | None, Model, tuple[Tensor, ...]]  # seed (None: not random), what is fitted, from where
Ended = tuple[float, int | None, Model, Fit, Triple]  # squared error, seed, what was fitted, how, the terms


@dataclass(frozen=True, eq=False, kw_only=True)
class FitOptions:
    """Fit options are the options that all fitted decompositions share.

    priors: a list of `Prior` objects, which state what the factors should be like besides a small error. With priors,
    the fit uses Adam in the coordinates of the layer; without them, Gauss-Newton steps in compressed coordinates. Their
    linear systems are solved in float32, and all else in float64.
    start: a layer or a result from which the first fit starts. None starts from the largest eigencomponents of the
    layer. If the start has fewer components than asked for, the largest eigencomponents of the residual are added. The
    given object is not changed.
    starts: the number of fits. The first fit uses `start`; the others start at random, with the seeds `seed`, `seed` +
    1 and so on. The best fit is returned; `report.starts` compares each fit with the best one.
    max_iterations: the maximum number of iterations per fit; None means 300, or 600 with priors.
    tolerance: the fit stops if the last ten iterations lowered the squared error by less than this share on average;
    `report.tangent_share` says how much was still to be had there. A fit with priors ignores it.
    seed: the seed of the first random start, and of the small random numbers that the first start may need.
    """

    priors: Sequence[Prior] = ()
    start: BilinearMap | None = None
    starts: int = 1
    max_iterations: int | None = None
    tolerance: float = 1e-3
    seed: int = 0
    fitted: ClassVar[bool] = True  # the best scalar is 1

    def __post_init__(self) -> None:
        # a generator would be used up here, and the fit would then have no priors
        if not isinstance(self.priors, list | tuple) or not all(isinstance(prior, Prior) for prior in self.priors):
            raise TypeError(f"priors must be a list of Prior objects, such as [Sparse('outputs')]; got {self.priors!r}")
        if self.start is not None and not isinstance(self.start, BilinearMap):
            raise TypeError(f"start must be a result or a layer, got {type(self.start).__name__}")
        check_iterations("starts", self.starts)
        if self.max_iterations is not None:
            check_iterations("max_iterations", self.max_iterations)
        check_share("tolerance", self.tolerance, low_open=False, high_open=True)
        check_seed("seed", self.seed)

    def __repr__(self) -> str:
        shown = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def check_layer(self, layer: BilinearLayer) -> None:
        """Raise ValueError if a prior or the start does not fit the layer."""
        for prior in self.priors:
            prior.check(layer)
        if self.start is None:
            return
        if self.start.sizes != layer.sizes:
            raise ValueError(f"start has modes of sizes {self.start.sizes}, but the layer has {layer.sizes}")

    @torch.inference_mode(False)
    @torch.no_grad()
    def compress(self, layer: BilinearLayer) -> Compressed:
        """Return the compressed layer to fit; its inputs stay uncompressed if there are priors.

        Priors need the original coordinates.
        """
        return compress(layer, inputs=not self.priors)

    def given_start(self, state: Compressed) -> Triple | None:
        """Return the terms of `start` in the coordinates and at the scale of the compressed layer.

        Return None if `start` is None.
        """
        if self.start is None:
            return None
        (layer,), exponent = balance(self.start.to_layer().to(state.core.down.device))
        left = state.project(layer.left)
        tied = layer.left is layer.right or torch.equal(layer.left, layer.right)
        outputs = times_power(layer.down / (state.scale or 1.0), exponent)
        return outputs, left, left if tied else state.project(layer.right)

    @torch.inference_mode(False)
    @torch.no_grad()
    def run(self, state: Compressed, initial: Sequence[InitialFit]) -> "BestFit":
        """Fit from every starting point; return the best fit, and how the fit from each starting point ended."""
        target = state.core
        limit = self.max_iterations or (600 if self.priors else 300)
        if not bool(state.scale > 0):
            _, model, parameters = initial[0]
            nothing = Fit(parameters, 0.0, [0.0], "nothing to fit: the layer is zero")
            return BestFit(model.components(parameters), model, 0.0, nothing, ())
        ended: list[Ended] = []
        with tqdm(total=limit * len(initial), desc=type(self).__name__, leave=False, delay=3) as bar:
            for seed, model, parameters in initial:
                if self.priors:
                    fit = descend(
                        self._penalized(target, model), parameters, max_iterations=limit, report=lambda _: bar.update()
                    )
                else:
                    fit = gauss_newton(
                        target, model, parameters, max_iterations=limit, tolerance=self.tolerance,
                        report=lambda _: bar.update(),
                    )  # fmt: skip
                terms = self._constrained(Factors(*model.components(fit.parameters)))
                scaled, error = _refit_scale(target, terms)
                ended.append((error, seed, model, fit, scaled))
        ended.sort(key=lambda end: end[3].value if self.priors else end[0])
        best = ended[0]
        return BestFit(best[4], best[2], best[0], best[3], tuple(ended) if len(ended) > 1 else ())

    def finish(self, kind: type[R], layer: BilinearLayer, state: Compressed, fit: "BestFit | None", **fields: Any) -> R:
        """Return the result with these fields and the report of the fit.

        fit: None if the fields hold the layer's own components, which need no fit.
        """
        squared = 0.0 if fit is None else fit.squared_error
        if fit is None:
            report = Report.of(layer, self, seed=self.seed, stop_reason="exact: the layer's own components")
        else:
            convergence, stop = fit.convergence, fit.fit.stop_reason
            report = Report.of(layer, self, seed=self.seed, convergence=convergence, stop_reason=stop)
            report = replace(report, tangent_share=fit.fit.tangent_share)
        result = with_error(kind, layer, report, squared, state.norm, **fields)
        starts = () if fit is None else tuple(_start(result, state, ended) for ended in fit.ended)
        return replace(result, report=replace(result.report, starts=starts))

    def _constrained(self, factors: Factors) -> Factors:
        for prior in self.priors:
            factors = prior.constrain(factors)
        return factors

    def _penalized(self, target: BilinearLayer, model: Model) -> Callable[[tuple[Tensor, ...]], tuple[Tensor, Tensor]]:
        def loss(parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            factors = self._constrained(Factors(*model.components(parameters)))
            cross, squared = overlaps(target, factors)
            error = 1 - 2 * cross + squared
            penalties = [prior.strength * prior.penalty(factors) for prior in self.priors]
            return error + sum(penalties, torch.zeros_like(error)), error

        return loss


@dataclass(frozen=True, eq=False)
class BestFit:
    """The best fit holds its terms in compressed coordinates, its model and its error, and all fits."""

    terms: Triple
    model: Model
    squared_error: float
    fit: Fit
    ended: tuple[Ended, ...]  # the fit from every start, best first; empty if there was only one

    @property
    def convergence(self) -> tuple[float, ...]:
        """Return the relative error after each iteration; the last one is the error of the terms that are returned."""
        *before, last = self.fit.losses
        if abs(last - self.squared_error) > _ROUNDING:
            last = self.squared_error  # the best scalar was fitted after the last iteration
        return tuple(max(0.0, loss) ** 0.5 for loss in (*before, last))


def _start(result: Result, state: Compressed, ended: Ended) -> Start:
    """Return how the fit from one start ended, and how similar its components are to those of the result."""
    error, seed, model, fit, terms = ended
    own, other = result.to_layer().to(dtype=torch.float64), state.restore(terms)
    if isinstance(model, Tied):  # blocks of terms
        blocks = torch.arange(own.rank, device=own.down.device) // (own.rank // len(model.signs))
        found = block_congruence(own, blocks, other, model.signs.abs().argmax(0))
    else:
        found = congruence(own, other)[0]
    nearest, iterations = found.amax(1), len(fit.losses) - 1
    return Start(
        seed, max(0.0, error) ** 0.5, float(nearest.mean()), iterations, fit.stop_reason, tuple(nearest.tolist())
    )


def _refit_scale(target: BilinearLayer, factors: Factors) -> tuple[Triple, float]:
    """Return the terms times the one number that fits best, and the relative squared error of the rescaled terms.

    The number is never negative, because it would change the signs that a prior has fixed.
    """
    cross, squared = overlaps(target, factors)
    scale = (cross / squared).clamp_min(0) if squared > 0 else torch.ones_like(squared)
    return (scale * factors.outputs, factors.left, factors.right), float(1 - 2 * scale * cross + scale**2 * squared)
