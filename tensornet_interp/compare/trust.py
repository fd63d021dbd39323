"""How sure a component is: by this layer, between starts of the fit, and between training seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.cards import Card, Shown
from tensornet_interp.checks import check_list, check_number, check_seed, check_size
from tensornet_interp.compare.components import match
from tensornet_interp.compare.nulls import recombined
from tensornet_interp.compare.standard_errors import eigenvector_errors, fitted_errors
from tensornet_interp.decompositions.compress import compress
from tensornet_interp.factored import CPResult
from tensornet_interp.float64 import needs_float64
from tensornet_interp.inner_products.distance import relative_error
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.network import wide_layer
from tensornet_interp.results import Result
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, indexed

DETERMINED, AGREES = 1 / 3, 0.9  # a standard error below, a congruence above
_DRAWS = 10  # of the null of each run


@register_type("ComponentTrust")
@dataclass(frozen=True, eq=False)
class ComponentTrust(Shown):
    """A component trust says of each component of a result whether it would come back; see `component_trust`.

    The three numbers answer three questions and are not one verdict: does this layer determine the component, do other
    starts of the fit find it, do other training seeds find it? Components are those of the result, in its order; for
    an eigendecomposition they have the shape (block, rank).
    """

    standard_error: Tensor  # (component,), float64, relative to the size of the component; infinite: not determined
    noise: Tensor  # (component,): the standard deviation of the white noise that the standard error is for
    start_agreement: Tensor | None = None  # (component,): the lowest congruence over the near-best starts
    seed_agreement: Tensor | None = None  # (component,): the mean congruence with the partners in the runs
    seed_null: Tensor | None = None  # (component,): the same for runs with recombined components
    near_best: int = 0  # starts besides the best one with an error at most 1 % above it
    flags: tuple[str, ...] = ()  # what to know before you trust the numbers, one sentence each
    layer: str = ""  # the name of the layer
    method: str = ""  # what made the result

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Return the words for each component, in the order of `records()`.

        "undetermined", or "locally determined" for a standard error below 1/3. "agrees between starts" for a lowest
        congruence above 0.9, else "differs between starts"; "returns between seeds" for a mean congruence above 0.9,
        else "differs between seeds". What was not compared is left out.
        """
        words = [[("undetermined", "locally determined")[se < DETERMINED]] for se in self.standard_error.flatten()]
        for said, values in (("agrees", self.start_agreement), ("returns", self.seed_agreement)):
            between = "starts" if said == "agrees" else "seeds"
            for found, value in zip(words, [] if values is None else values.flatten(), strict=values is not None):
                found.append(f"{said if value > AGREES else 'differs'} between {between}")
        return tuple(", ".join(found) for found in words)

    def records(self) -> list[Record]:
        """Return one record per component: the standard error, the agreements (None if not compared), the verdict."""
        axes = ("component",) if self.standard_error.ndim == 1 else ("block", "component")
        known = {
            "standard_error": self.standard_error,
            "start_agreement": self.start_agreement,
            "seed_agreement": self.seed_agreement,
            "seed_null": self.seed_null,
        }
        rows = indexed(axes, **{name: value for name, value in known.items() if value is not None})
        missing = {name: None for name, value in known.items() if value is None}
        return [row | missing | {"verdict": words} for row, words in zip(rows, self.verdicts, strict=True)]

    def __repr__(self) -> str:
        count = self.standard_error.numel()
        return f"ComponentTrust({count} components of {self.layer!r}: {', '.join(self._counts())})"

    def _counts(self) -> list[str]:
        verdicts = self.verdicts
        said = [f"{sum('locally determined' in words for words in verdicts)} locally determined"]
        if self.start_agreement is not None:
            said.append(f"{sum('agrees' in words for words in verdicts)} agree between starts")
        if self.seed_agreement is not None:
            said.append(f"{sum('returns' in words for words in verdicts)} return between seeds")
        return said

    def _card(self) -> Card:
        rows = [("layer", self.layer), ("method", self.method), ("components", ", ".join(self._counts()))]
        shown = ["standard_error", "start_agreement", "seed_agreement", "seed_null"]
        records = self.records()
        names = [name for name in shown if records[0][name] is not None]
        table = [("component", "; ".join(name.replace("_", " ") for name in [*names, "verdict"]))]
        for record in records[:12]:
            at = ", ".join(str(record[name]) for name in ("block", "component") if name in record)
            table.append((at, "; ".join([*(f"{record[name]:.3g}" for name in names), record["verdict"]])))
        more = [("", f"and {len(records) - 12} more")] if len(records) > 12 else []
        errors = self.standard_error[self.standard_error.isfinite()].tolist()
        return Card("ComponentTrust", [*rows, *table, *more], errors, "standard errors", self.flags)


@needs_float64
@torch.no_grad()
def component_trust(
    result: CPResult | SpectralResult,
    layer: BilinearLayer,
    runs: Sequence[CPResult | SpectralResult] | None = None,
    *,
    noise: float | None = None,
    seed: int = 0,
) -> ComponentTrust:
    """Return how sure each component of a least-squares fit is: by this layer, between starts, between training seeds.

    standard_error[r] = noise sqrt(tr H_rr P_rr) / |component r|,  noise^2 = |layer - result|^2 / degrees of freedom

    H = J^T J, where J holds the derivatives of the symmetrized tensor by the factors, P is its inverse without the
    changes that leave the tensor as it is, and rr is the block of component r. This is the distance by which component
    r would move, relative to its size, if the residual were white noise. It predicts the distance while it is below
    0.3; above, read it as "not determined". Everything is in compressed input coordinates, of which there are d. The
    degrees of freedom are out * d (d + 1) / 2 minus the free parameters.

    result: from `CP`, `SymmetricCP` or `BlockTerm` without priors: fitted to this layer. If left and right of a term
    are parallel up to 1e-12, they change together. Or from `Eigen` or `OutputSVD`: then it is the error of an
    eigenvector, for given output directions,

    standard_error[i]^2 = noise^2 / 2 sum_j (eigenvalue_i - eigenvalue_j)^-2

    over all eigenvalues of the block, with the noise of what the block leaves out.
    layer: the layer that was decomposed. If it was decomposed in the metric of its data (`Result.metric`), all numbers
    are those in the metric: the result, the layer and the runs are whitened by it first.
    runs: results of the same kind for layers of other training seeds. Their
    components are paired with those of the result by `match`. The null pairs it with the same runs after their output,
    left and right vectors were combined anew at random, ten times; it is missing for runs of one component.
    noise: the standard deviation of white noise, instead of that of the residual, in coordinates in which the Frobenius
    norm is a plain one: a diagonal entry of an interaction matrix has this standard deviation, an entry off the
    diagonal this divided by sqrt(2). seed: of the null.

    Agreement between starts is compared if the fit had several (starts=10): it is the lowest congruence of the
    component over the fits whose error is at most 1 % above the best. `flags` warns if starts disagree, if the residual
    is not white (a leading singular value of an unfolding is above the 99 % quantile for white noise), if the fit has
    not converged, and if outputs are collinear or there is only one.

    Raises TypeError for other results. Raises ValueError if there are no degrees of freedom, if the result is not a
    least-squares fit of this layer (of another layer; or one more step would take 10 % off its squared error, as with
    priors or after `change_basis`), or if runs have other sizes.
    Cost: about n^3 flops for the inverse of a matrix of size n = rank * (min(out, rank) + 2 * min(d, 2 * rank)) for
    `CP`, at most 6000; at most 2000 for block terms. Memory: 6 * n^2 numbers.
    Source: Liu and Sidiropoulos, IEEE Transactions on Signal Processing 49(9), 2001 (the bound for white noise).

    Example:
    >>> from tensornet_interp import decompose
    >>> from tensornet_interp.testing import random_layer
    >>> layer = random_layer(5, 12, 3, seed=0)
    >>> component_trust(decompose(layer, "cp", rank=2), layer).verdicts
    ('locally determined', 'locally determined')
    """
    if not isinstance(result, CPResult | SpectralResult):
        raise TypeError(f"result must be a CPResult or a SpectralResult, got {type(result).__name__}")
    noise = None if noise is None else check_number("noise", noise, 0)
    seed = check_seed("seed", seed)
    wide = wide_layer("layer", layer)
    _check_sizes(result, {"layer": wide})
    if runs is not None:
        check_list("runs", runs, "give results of other training seeds, or None")
        for number, run in enumerate(runs):
            if type(run) is not type(result):
                raise TypeError(f"runs[{number}] is a {type(run).__name__}, and result is a {type(result).__name__}")
        _check_sizes(result, {f"runs[{number}]": run for number, run in enumerate(runs)})
    error = _check_same_layer(result, wide)
    wide_result, wide = as_fitted(result, result), as_fitted(result, wide)
    if result.metric is not None:
        error = relative_error(wide_result, wide)
    state = compress(wide)
    start_agreement = None
    if isinstance(wide_result, SpectralResult) and wide_result.directions is not None:
        errors, sigma, flags = eigenvector_errors(wide_result, wide_result.directions, state, noise)
    else:
        errors, sigma, flags = fitted_errors(wide_result, state, noise, error)
        start_agreement, more = _starts(result, errors)
        flags += more
    loose = int((errors >= DETERMINED).sum())
    if loose:
        flags.append(f"{loose} of {errors.numel()} components are undetermined, with a standard error above 1/3")
    agreement, chance = None, None
    if runs is not None:
        agreement, chance = _seeds(wide_result, [as_fitted(result, run) for run in runs], seed)
    return ComponentTrust(
        standard_error=errors,
        noise=sigma,
        start_agreement=start_agreement,
        seed_agreement=agreement,
        seed_null=chance,
        near_best=len(result.report.near_best),
        flags=tuple(flags),
        layer=result.report.layer,
        method=result.report.method,
    )


def as_fitted(result: Result, part: Any) -> Any:
    """Return a layer or result in float64, in the coordinates in which a result was fitted: whitened in a metric."""
    wide = part.to(dtype=torch.float64)
    return wide if result.metric is None else result.metric.whiten(wide)


def _starts(result: CPResult | SpectralResult, like: Tensor) -> tuple[Tensor | None, list[str]]:
    """Return the lowest congruence of each component over the near-best starts, and a warning if starts disagree."""
    starts, near = result.report.starts, result.report.near_best
    if not starts:
        return None, ["the fit had one start: use starts=10 to see whether others end elsewhere"]
    if not near:
        return None, [f"no other of {len(starts)} starts came within 1 % of the best error; the best was found once"]
    if any(len(start.congruences) != len(like) for start in near):
        return None, ["the report keeps no congruences of these components"]
    lowest = like.new_tensor([start.congruences for start in near]).amin(0)
    differ = int((lowest <= AGREES).sum())
    if not differ:
        return lowest, []
    return lowest, [f"{differ} of {len(lowest)} components differ between the {len(near) + 1} near-best starts"]


def _seeds(
    result: CPResult | SpectralResult, runs: Sequence[CPResult | SpectralResult], seed: int
) -> tuple[Tensor, Tensor | None]:
    """Return the mean congruence of each component with its partners in the runs, and that of recombined runs."""
    eigen = isinstance(result, SpectralResult) and result.directions is not None
    blocks = isinstance(result, SpectralResult) and not eigen
    shape = result.eigenvalues.shape if isinstance(result, SpectralResult) and eigen else (result.outputs.shape[1],)

    def congruences(other: object) -> Tensor:
        matching = match(result, other, blocks=blocks)  # type: ignore[arg-type]
        found = torch.zeros(math.prod(shape), dtype=torch.float64, device=matching.matrix.device)
        found[[a for a, _ in matching.pairs]] = matching.congruence
        return found.unflatten(0, tuple(shape))

    generator = torch.Generator(device="cpu").manual_seed(seed)
    agreement = torch.stack([congruences(run) for run in runs]).mean(0)
    if any(run.outputs.shape[1] < 2 for run in runs):
        return agreement, None
    null = [congruences(recombined(run, generator)) for run in runs for _ in range(_DRAWS)]
    return agreement, torch.stack(null).mean(0)


def _check_sizes(result: CPResult | SpectralResult, others: Mapping[str, BilinearMap]) -> None:
    for name, other in others.items():
        for mode in ("out", "in1"):
            check_size(mode.rstrip("1"), result=result.sizes[mode], **{name: other.sizes[mode]})


def _check_same_layer(result: CPResult | SpectralResult, layer: BilinearLayer) -> float:
    """Return the relative error of the result; raise ValueError if it differs from the one that the report states."""
    error, known = relative_error(result, layer), result.report.relative_error
    if known is not None and abs(error - known) > 1e-3 * max(error, known) + 1e-5:
        raise ValueError(
            f"result has relative error {known:.4g} to its layer {result.report.layer!r}, but {error:.4g} to this layer"
            f" {layer.name!r}: it is of another layer"
        )
    return error
