"""Decompose a layer in the metric of its data: whiten the inputs, decompose, and map the result back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import (
    check_alike,
    check_choice,
    check_int,
    check_kind,
    check_list,
    check_mapping,
    check_number,
    check_size,
)
from tensornet_interp.decompositions.affine_result import AffineResult, affine_part, quadratic_part
from tensornet_interp.decompositions.errors import measure, measured
from tensornet_interp.decompositions.priors import Prior
from tensornet_interp.decompositions.strategies import Strategy, apply_strategy, own_options, plain_strategy
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.metric import WHITENED, Metric
from tensornet_interp.moments import Moments, check_moments
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.report import Report
from tensornet_interp.results import Result

RIDGE = 1e-2
OPTIONS = ("moments", "ridge", "linear")  # of `Whitened`, which every name takes


@dataclass(frozen=True, eq=False)
class Whitened:
    """Decompose a layer in the metric of its data, with any strategy.

    B is close to the layer in ||B||_S^2 = sum_out <B[out], S B[out] S> = E |B(x1, x2)|^2, S = E[x x^T] = F F^T

    x1 and x2 are independent inputs. The strategy decomposes the layer in whitened coordinates z, with x = F z; then
    the result is mapped back by the pseudoinverse of F. For a lifted layer x = F z + mean, and F F^T is the covariance.
    strategy: a registered name, or a decomposition with its options. A start is given in the coordinates of the
    layer. moments: what the inputs of the layer look like, without a constant coordinate.
    ridge: the share of the mean eigenvalue of S that is added to every eigenvalue, as independent noise on x1 and x2
    would; with few samples it is needed. With ridge 0, the result is zero on directions along which inputs do not vary.
    linear: of a lifted layer, "exact" keeps the constant and the linear part about the mean input outside of the rank,
    and the strategy decomposes the rest: the result is an `AffineResult`. For Gaussian inputs, no quadratic part of the
    same rank per output then has a smaller squared error than that of `Eigen`, 2 sum (eigenvalues left out)^2.

    Result: the type that the strategy returns, if its arrays are fields (`Result.input_fields`), else a layer. Input
    vectors of the result are filters w, to take products with: W^T S W = 1 where the strategy has orthonormal vectors.
    `Result.patterns` are S w. The report has the relative error of the weights, and the error in the metric, its bound
    and the metric; `Report.convergence` and `Report.starts` hold errors in the metric.
    Cost: that of the strategy, 9 in^3 for F, and that of measuring two errors.
    Raises ValueError if moments have another size or device than the inputs of the layer, if inputs do not vary, or if
    a prior of the strategy speaks of the inputs, because it would be asked in whitened coordinates.

    Example:
    >>> layer = BilinearLayer(down=torch.ones(1, 2), left=torch.eye(2), right=torch.eye(2))
    >>> result = Whitened("eigen", Moments(torch.zeros(2), torch.tensor([[4.0, 0], [0, 1]])), ridge=0)(layer)
    >>> result.eigenvalues.tolist(), result.filters[0].tolist(), result.patterns[0].tolist()
    ([[4.0, 1.0]], [[0.5, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 1.0]])
    """

    strategy: Strategy
    moments: Moments
    ridge: float = RIDGE
    linear: str = "decomposed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategy", plain_strategy(self.strategy, {}))
        check_kind("moments", check_moments(self.moments), Moments)
        object.__setattr__(self, "ridge", check_number("ridge", self.ridge, 0))
        check_choice("linear", self.linear, ("decomposed", "exact"))

    @needs_float64
    def ladder(self, layer: BilinearLayer) -> Sequence["Whitened"]:
        """Return the steps of the ladder of the strategy for the whitened layer, each in this metric."""
        find = getattr(self.strategy, "ladder", None)
        steps = [] if find is None else find(self._given(self._metric(layer).whiten(layer.to(dtype=torch.float64))))
        return [replace(self, strategy=step) for step in steps]

    @needs_float64
    def __call__(self, layer: BilinearLayer) -> BilinearMap:
        """Decompose a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        metric = self._metric(layer)
        whitened = metric.whiten(layer.to(dtype=torch.float64))
        given = self._given(whitened)
        found = apply_strategy(self._in_metric(metric, layer.basis), given)
        check_alike(**{"the layer that the strategy was given": given.down, "its result": found.terms()[0].data})
        part = _changeable(found)
        report = found.report if isinstance(found, Result) else Report.of(layer, self)
        report = replace(
            report,
            method=repr(self),
            layer=layer.name,
            history=layer.history,
            basis=layer.basis,
            names=layer.names,
            metric=metric,
            warnings=(*metric.warnings(), *report.warnings),
        )
        inverse, bias = metric.inverse()
        if self.linear == "exact":
            result: Result | AffineResult | BilinearLayer = self._with_affine(part, layer, whitened, report)
        else:
            result = _back(part.change_basis(inverse, input_bias=bias), layer, report)
        if isinstance(result, BilinearLayer):
            return result
        again = metric.whiten(_changeable(result).to(dtype=torch.float64))
        error = measure(again, again, whitened)
        report = replace(result.report, metric_error=error.error, metric_error_bound=error.bound)
        return replace(result, report=report)

    def _metric(self, layer: BilinearLayer) -> Metric:
        if self.linear == "exact" and not layer.constant_in:
            raise ValueError(
                "linear='exact' needs a lifted layer, whose constant coordinate holds the rest: lift(layer)"
            )
        check_size("in", layer=layer.shape[1] - layer.constant_in, moments=len(self.moments.mean))
        check_alike(layer=layer.down.new_zeros((), dtype=torch.float64), moments=self.moments.mean)
        return Metric.of(self.moments, ridge=self.ridge, lifted=layer.constant_in)

    def _given(self, whitened: BilinearLayer) -> BilinearLayer:
        return quadratic_part(whitened) if self.linear == "exact" else whitened

    def _in_metric(self, metric: Metric, basis: str) -> Any:
        """Return the strategy with its `start` in whitened coordinates; refuse priors that speak of the inputs.

        basis: of the layer.
        """
        if not is_dataclass(self.strategy):
            return self.strategy
        strategy: Any = self.strategy
        for prior in getattr(strategy, "priors", None) or ():
            if isinstance(prior, Prior) and getattr(prior, "mode", None) != "outputs":
                raise ValueError(
                    f"{prior!r} speaks of the inputs, but the fit runs in whitened coordinates, where it would mean"
                    " something else; leave it out, or fit without moments"
                )
        start = getattr(strategy, "start", None)
        if not isinstance(start, TensorNetwork):
            return strategy
        if self.linear == "exact":
            raise ValueError(
                "start is in the coordinates of the layer, and linear='exact' decomposes its quadratic part"
            )
        if start.to_layer().basis == WHITENED != basis:
            raise ValueError(
                f"start has the basis {WHITENED!r}, and the layer {basis!r}; give the start before `Metric.whiten`"
            )
        return replace(strategy, start=metric.whiten(_changeable(start).to(dtype=torch.float64)))

    def _with_affine(
        self, part: Result | BilinearLayer, layer: BilinearLayer, whitened: BilinearLayer, report: Report
    ) -> AffineResult:
        """Return a decomposition of the quadratic part in whitened coordinates, with the exact linear part."""
        metric = check_kind("metric", report.metric, Metric)
        inverse, bias = metric.inverse()
        bias = check_kind("bias", bias, Tensor)
        variance = (inverse @ self.moments.covariance * inverse).sum(1)  # 1, or less with a ridge
        affine = affine_part(whitened, part.to_layer(), variance)  # over [1, z]
        to_whitened = torch.cat([bias[:, None], inverse], 1)  # z = F+ x - F+ center, from [1, x]
        moved = part.change_basis(to_whitened)
        about: dict[str, Any] = {"constant_in": True, "constant_out": layer.constant_out}
        if isinstance(moved, Result):
            about["report"] = report.unmeasured(f"quadratic part of {report.method}")
        affine = torch.cat([affine[:, :1] + affine[:, 1:] @ bias[:, None], affine[:, 1:] @ inverse], 1)
        exact = AffineResult(report=report, interaction=replace(moved, **about), affine=affine)
        result = exact.to(dtype=layer.down.dtype)
        error = measure(result, exact, layer)
        return replace(result, report=replace(report, relative_error=error.error, relative_error_bound=error.bound))


def _changeable(part: TensorNetwork) -> Result | BilinearLayer:
    """Return a result whose type a change of basis keeps, or any other network as a layer."""
    return part if isinstance(part, Result) and part.input_fields else part.to_layer()


def _back(moved: BilinearMap, layer: BilinearLayer, report: Report) -> Result | BilinearLayer:
    """Return a result that was mapped back, in the dtype of the layer and with its error; a layer has no report."""
    if not isinstance(moved, Result):
        made, history = moved.to_layer().to(dtype=layer.down.dtype), (*layer.history, report.method)
        return replace(made, name=layer.name, history=history, basis=layer.basis, names=layer.names)
    own = {field.name: getattr(moved, field.name) for field in fields(moved)}
    arrays = {name: value for name, value in own.items() if name not in ("report", "constant_in", "constant_out")}
    return measured(type(moved), layer, report, None, **arrays)


def build(method: Strategy, options: Mapping[str, object]) -> Callable[[BilinearLayer], TensorNetwork]:
    """Return the decomposition with this registered name and these options; an object is returned unchanged.

    The options moments, ridge and linear make it a `Whitened` decomposition, also of an object. An option that
    the decomposition has itself goes to the decomposition; then use `Whitened` to give the metric too.
    Raises TypeError if the decomposition has no such option, and ValueError if other options are given together with
    an object.
    """
    own = own_options(method)
    given = {name: value for name, value in check_mapping("options", options).items() if name not in own}
    metric = {name: given[name] for name in OPTIONS if name in given}
    strategy = plain_strategy(method, {name: value for name, value in options.items() if name not in metric})
    moments: Any = metric.pop("moments", None)
    if moments is not None:
        return Whitened(strategy, moments, **metric)
    if metric:
        raise ValueError(f"{sorted(metric)} describe a metric, which needs moments: moments=Moments.of(inputs)")
    return strategy


def moments_by_part(network: BilinearNetwork, moments: object) -> list[Moments | None]:
    """Return one `Moments` per part of a network; None for parts that a mapping from part to moments leaves out."""
    count = len(network)
    if isinstance(moments, Mapping):
        by_part = {check_int("part", at, -count, count - 1) % count: value for at, value in moments.items()}
        return [check_moments(by_part.get(at)) for at in range(count)]
    several = [moments] if isinstance(moments, Moments) else check_list("moments", moments)
    if len(several) != count:
        raise ValueError(
            f"a network of {count} parts needs one Moments per part, got {len(several)}; layer_moments(network, inputs)"
            " returns them"
        )
    return [check_moments(value) for value in several]
