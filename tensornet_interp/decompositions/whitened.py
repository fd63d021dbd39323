"""Decompose a layer in the metric of its data: whiten the inputs, decompose, and map the result back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch

from tensornet_interp.checks import (
    check_alike,
    check_int,
    check_kind,
    check_list,
    check_mapping,
    check_number,
    check_size,
)
from tensornet_interp.decompositions.errors import measure, measured
from tensornet_interp.decompositions.priors import Prior
from tensornet_interp.decompositions.strategies import Strategy, apply_strategy, own_options, plain_strategy
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.metric import Metric
from tensornet_interp.moments import Moments, check_moments
from tensornet_interp.network import BilinearNetwork, check_network
from tensornet_interp.results import Result

RIDGE = 1e-2
OPTIONS = ("moments", "ridge")  # of `Whitened`, which every name takes


@dataclass(frozen=True, eq=False)
class Whitened:
    """Decompose a layer in the metric of its data, with any strategy.

    B is close to the layer in ||B||_S^2 = sum_out <B[out], S B[out] S> = E |B(x1, x2)|^2, S = E[x x^T] = F F^T

    x1 and x2 are independent inputs. The strategy decomposes the layer in whitened coordinates z, with x = F z; then
    the result is mapped back by the pseudoinverse of F. For a lifted layer x = F z + mean, and F F^T is the covariance.
    strategy: a registered name, or a decomposition with its options. A `start` is given in the coordinates of the
    layer. moments: what the inputs of the layer look like, without a constant coordinate.
    ridge: the share of the mean eigenvalue of S that is added to every eigenvalue, as independent noise on x1 and x2
    would; with few samples it is needed. With ridge 0, the result is zero on directions along which inputs do not vary.

    Result: the type that the strategy returns, if this type has `change_basis`, else a layer. Input vectors of the
    result are filters w, to take products with: W^T S W = 1 where the strategy has orthonormal vectors. `patterns` are
    S w. The report has the relative error of the weights, and the error in the metric, its bound and the metric;
    `convergence` and `starts` hold errors in the metric.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "strategy", plain_strategy(self.strategy, {}))
        check_kind("moments", check_moments(self.moments), Moments)
        object.__setattr__(self, "ridge", check_number("ridge", self.ridge, 0))

    def ladder(self, layer: BilinearLayer) -> Sequence["Whitened"]:
        """Return the steps of the ladder of the strategy for the whitened layer, each in this metric."""
        find = getattr(self.strategy, "ladder", None)
        steps = [] if find is None else find(self._metric(layer).whiten(layer.to(dtype=torch.float64)))
        return [replace(self, strategy=step) for step in steps]

    def __call__(self, layer: BilinearLayer) -> BilinearMap:
        """Decompose a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        metric = self._metric(layer)
        whitened = metric.whiten(layer.to(dtype=torch.float64))
        found = apply_strategy(_in_metric(self.strategy, metric), whitened)
        check_alike(**{"the layer that the strategy was given": whitened.down, "its result": found.terms()[0].data})
        return self._mapped_back(found, layer, whitened, metric)

    def _metric(self, layer: BilinearLayer) -> Metric:
        check_size("in", layer=layer.shape[1] - layer.constant_in, moments=len(self.moments.mean))
        check_alike(layer=layer.down.new_zeros((), dtype=torch.float64), moments=self.moments.mean)
        return Metric.of(self.moments, ridge=self.ridge, lifted=layer.constant_in)

    def _mapped_back(
        self, found: BilinearMap, layer: BilinearLayer, whitened: BilinearLayer, metric: Metric
    ) -> BilinearMap:
        """Return the result in the coordinates and the dtype of the layer, with both errors in its report."""
        inverse, bias = metric.inverse()
        if not isinstance(found, Result) or not found.input_fields:
            made = found.to_layer().change_basis(inverse, input_bias=bias).to(dtype=layer.down.dtype)
            history = (*layer.history, repr(self))
            return replace(made, name=layer.name, history=history, basis=layer.basis, names=layer.names)
        report = replace(
            found.report,
            method=repr(self),
            layer=layer.name,
            history=layer.history,
            basis=layer.basis,
            names=layer.names,
            metric=metric,
            warnings=(*metric.warnings(), *found.report.warnings),
        )
        back = found.change_basis(inverse, input_bias=bias)
        own = {field.name: getattr(back, field.name) for field in fields(back)}
        arrays = {name: value for name, value in own.items() if name not in ("report", "constant_in", "constant_out")}
        result = measured(type(back), layer, report, None, **arrays)
        again = metric.whiten(result.to(dtype=torch.float64))
        error = measure(again, again, whitened)
        report = replace(result.report, metric_error=error.error, metric_error_bound=error.bound)
        return replace(result, report=report)


def build(method: Strategy, options: Mapping[str, object]) -> Callable[[BilinearLayer], TensorNetwork]:
    """Return the decomposition with this registered name and these options; an object is returned unchanged.

    The options `moments` and `ridge` make it a `Whitened` decomposition, also of an object. An option that the
    decomposition has itself goes to the decomposition; then use `Whitened` to give the metric too.
    Raises TypeError if the decomposition has no such option, and ValueError if other options are given together with an
    object.
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


def _in_metric(strategy: Any, metric: Metric) -> Any:
    """Return the strategy with its `start` in whitened coordinates; refuse priors that speak of the inputs."""
    if not is_dataclass(strategy) or isinstance(strategy, type):
        return strategy
    for prior in getattr(strategy, "priors", None) or ():
        if isinstance(prior, Prior) and getattr(prior, "mode", None) != "outputs":
            raise ValueError(
                f"{prior!r} speaks of the inputs, but the fit runs in whitened coordinates, where it would mean"
                " something else; leave it out, or fit without moments"
            )
    start = getattr(strategy, "start", None)
    if not isinstance(start, TensorNetwork):
        return strategy
    part = check_network("start", start)
    kept = part if isinstance(part, Result) and part.input_fields else part.to_layer()
    return replace(strategy, start=metric.whiten(kept.to(dtype=torch.float64)))
