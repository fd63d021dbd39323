"""Reports state where a result comes from and how accurate it is."""

import functools
import importlib.metadata
import platform
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from tensornet_interp.cards import Card, Shown
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.metric import Metric
from tensornet_interp.names import Names
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record

__all__ = ["Report", "Start", "package_version", "versions"]


@functools.cache
def package_version() -> str:
    """Return the version of this package, or of the checkout if the package is not installed."""
    try:
        return importlib.metadata.version("tensornet_interp")
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def versions() -> dict[str, str]:
    """Return a new dict with the versions of this package, of Python, and of the libraries that compute a result."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    known = {"tensornet_interp": package_version(), "python": platform.python_version()}
    known["torch"] = str(torch.__version__)  # names the build too, such as +cu130
    return known | {name: importlib.metadata.version(name) for name in ("tensorly", "opt-einsum", "numpy")}


@register_type("Start")
class Start(NamedTuple):
    """A start records how the fit from one of several starting points ended."""

    seed: int | None  # the seed of a random start; None for the start that is not random
    relative_error: float  # the relative error of the fit from this start
    congruence: float  # mean over components of the result: similarity to the most similar component of this fit
    iterations: int  # the number of iterations that were done
    stop_reason: str  # why the iteration ended
    congruences: tuple[float, ...] = ()  # one per component of the result: similarity to the most similar one here


@register_type("Report")
@dataclass(frozen=True)
class Report(Shown):
    """A report says which layer was decomposed, how, and how accurate the result is."""

    method: str  # the decomposition with its options, as `repr` shows it
    layer: str  # the name of the layer
    history: tuple[str, ...]  # what was done to the layer's weights before
    basis: str  # the coordinates of the inputs, and so of eigenvectors and input factors
    relative_error: float | None  # ||symmetrized layer - result|| / ||symmetrized layer||; None if not measured
    relative_error_bound: float | None = None  # a proven upper bound on the relative error of the rounded result
    warnings: tuple[str, ...] = ()  # what to know before you trust the result, one sentence each
    seed: int | None = None  # the seed of the random numbers; None if the method draws none
    convergence: tuple[float, ...] = ()  # the error after each iteration, in the metric if there is one; else empty
    stop_reason: str = "direct"  # why the iteration ended; "direct" if the method does not iterate
    tangent_share: float | None = None  # of the residual's norm, what one more step would remove to first order
    floor: float | None = None  # singular values below this share of the largest are rounding errors
    starts: tuple[Start, ...] = ()  # how each start ended, best first; empty if there was only one
    versions: Mapping[str, str] = field(default_factory=versions)  # what computed the result
    names: Names = field(default_factory=Names)  # of the inputs and outputs of the layer
    metric: Metric | None = None  # the metric of the data in which the layer was decomposed; None weighs inputs alike
    metric_error: float | None = None  # the relative error in this metric
    metric_error_bound: float | None = None  # a proven upper bound on it

    @classmethod
    def of(
        cls,
        layer: BilinearLayer,
        method: object,
        relative_error: float | None = None,
        *,
        seed: int | None = None,
        convergence: tuple[float, ...] = (),
        stop_reason: str = "direct",
        floor: float | None = None,
        starts: tuple[Start, ...] = (),
        warnings: Sequence[str] = (),
    ) -> "Report":
        """Return the report of a decomposition of `layer`; the other arguments are fields of the report.

        method: the decomposition, whose repr the report shows, or a text.
        """
        return cls(
            method=method if isinstance(method, str) else repr(method),
            layer=layer.name,
            history=layer.history,
            basis=layer.basis,
            relative_error=relative_error,
            seed=seed,
            convergence=convergence,
            stop_reason=stop_reason,
            floor=floor,
            starts=starts,
            warnings=tuple(warnings),
            names=layer.names,
        )

    @property
    def near_best(self) -> tuple[Start, ...]:
        """Return the starts, without the best one, whose relative error is at most 1 % above the best."""
        least = self.starts[0].relative_error if self.starts else 0.0
        return tuple(start for start in self.starts[1:] if start.relative_error <= 1.01 * least + 1e-7)  # rounding

    def unmeasured(self, method: str) -> "Report":
        """Return the report of a changed result: another method, and errors that are not measured."""
        return replace(
            self,
            method=method,
            relative_error=None,
            relative_error_bound=None,
            metric_error=None,
            metric_error_bound=None,
        )

    def pulled_back(self, frame: BilinearLayer) -> "Report":
        """Return the report of a result in the input coordinates of a layer, without a metric and with no errors."""
        report = self.unmeasured(f"{self.method}, pulled back from basis {self.basis!r}")
        return replace(report, basis=frame.basis, names=frame.names, metric=None)

    def rows(self) -> list[tuple[str, str]]:
        """Return what is known of the result as pairs of texts, for tables."""
        error, of_metric = (
            "not measured" if number is None else f"{number:.4g}" for number in (self.relative_error, self.metric_error)
        )
        found = {
            "layer": self.layer,
            "history": "; ".join(self.history),
            "basis": self.basis,
            "method": self.method,
            "relative error": error,
            "proven to be at most": "" if self.relative_error_bound is None else f"{self.relative_error_bound:.4g}",
            "metric": "" if self.metric is None else repr(self.metric),
            "error in the metric": "" if self.metric is None else of_metric,
            "seed": "" if self.seed is None else str(self.seed),
            "starts": self._agreement(),
            "stopped": ""
            if self.stop_reason == "direct"
            else f"{self.stop_reason}, {len(self.convergence)} iterations",
            "share of the residual that one more step would remove": ""
            if self.tangent_share is None
            else f"{self.tangent_share:.2g}",
        }
        return [(name, text) for name, text in found.items() if text]

    def records(self) -> list[Record]:
        """Return one record with all that is plain; the starts, a list of named tuples, are a table of their own."""
        metric = self.metric
        return [
            {
                "layer": self.layer,
                "history": "; ".join(self.history),
                "basis": self.basis,
                "method": self.method,
                "relative_error": self.relative_error,
                "relative_error_bound": self.relative_error_bound,
                "metric_error": self.metric_error,
                "metric_rank": metric and metric.rank,
                "metric_ridge": metric and metric.ridge,
                "metric_samples": metric and metric.count,
                "seed": self.seed,
                "iterations": len(self.convergence),
                "stop_reason": self.stop_reason,
                "tangent_share": self.tangent_share,
                "floor": self.floor,
                "warnings": " ".join(self.warnings),
                "versions": dict(self.versions),
            }
        ]

    def _agreement(self) -> str:
        """Return how many starts there were, how many are near the best, and how similar their components are."""
        near = self.near_best
        if not near:
            return f"{len(self.starts)}, no other within 1 % of the best" if self.starts else ""
        lowest = min(min(start.congruences, default=start.congruence) for start in near)
        return f"{len(self.starts)}, {len(near) + 1} within 1 % of the best, lowest congruence there {lowest:.2f}"

    def _card(self) -> Card:
        made = [("versions", ", ".join(f"{name} {version}" for name, version in self.versions.items()))]
        caption = "relative error after each iteration"
        return Card("Report", [*self.rows(), *made], self.convergence, caption, self.warnings)
