"""Choose the rank of a CP decomposition: the largest at which every component is determined and found again."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tensornet_interp.checks import check_choice, check_int, check_iterations, check_list
from tensornet_interp.compare.trust import AGREES, DETERMINED, ComponentTrust, as_fitted, component_trust
from tensornet_interp.decompositions import decompose
from tensornet_interp.decompositions.compress import compress
from tensornet_interp.factored import CPResult
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearMap
from tensornet_interp.network import wide_layer
from tensornet_interp.numerics import unit_columns
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record

_METHODS = ("cp", "symmetric_cp")


@register_type("RankChoice")
@dataclass(frozen=True, eq=False)
class RankChoice:
    """A rank choice holds the chosen rank, or None, and the fits of all listed ranks with the trust in them."""

    rank: int | None
    ranks: tuple[int, ...]
    results: tuple[CPResult | SpectralResult, ...]
    trust: tuple[ComponentTrust, ...]
    core_consistency: Tensor  # (rank,), in percent; NaN if output or input vectors are linearly dependent

    def records(self) -> list[Record]:
        """Return one record per rank.

        error: the relative error, in the metric if the fits have one. standard_error: the largest of all components.
        agreement: the lowest congruence over components and near-best starts, or None if no other start came near.
        near_best: the number of these starts. elbow: how much more the logarithm of the error falls per component
        before this rank than after it; None at both ends. core_consistency: 100 % if the fit needs no interaction
        between components (Bro and Kiers, J. Chemometrics 17, 2003); None if vectors are dependent. accepted: whether
        the rank passes both limits.
        """
        elbows = self._elbows()
        return [
            {
                "rank": rank,
                "error": _error(result),
                "standard_error": float(trust.standard_error.max()),
                "agreement": None if trust.start_agreement is None else float(trust.start_agreement.min()),
                "near_best": trust.near_best,
                "elbow": elbows[at],
                "core_consistency": None if math.isnan(consistency) else consistency,
                "accepted": _accepted(trust, max(1, len(result.report.starts))),
            }
            for at, (rank, result, trust, consistency) in enumerate(
                zip(self.ranks, self.results, self.trust, self.core_consistency.tolist(), strict=True)
            )
        ]

    def _elbows(self) -> list[float | None]:
        logs = [math.log(max(_error(result) or 0.0, 1e-300)) for result in self.results]
        points = list(zip(self.ranks, logs, strict=True))
        falls = [(a[1] - b[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
        return [None, *(before - after for before, after in pairwise(falls)), None][: len(points)]

    def __repr__(self) -> str:
        return f"RankChoice(rank={self.rank} of {list(self.ranks)})"


@needs_float64
def choose_rank(
    layer: BilinearMap, method: str, ranks: Sequence[int], *, starts: int = 10, seed: int = 0, **options: object
) -> RankChoice:
    """Return the largest listed rank at which every component is determined and found by every near-best start.

    A rank is accepted if every standard error is below 1/3, and the congruence of every component is above 0.9 in every
    start whose error is at most 1 % above the best; see `component_trust`. A best fit that no other start came near is
    not accepted, because it may be one of many; with `starts=1`, only the standard errors decide. `rank` is None if no
    rank is accepted. The table, `records()`, always has all ranks, with two other rules beside this one: the elbow of
    the error and the core consistency.

    method: "cp" or "symmetric_cp". ranks: increasing. starts, seed, options: of the fits; with `moments`,
    all numbers are those in the metric of the data.
    The rule finds the rank of a layer that is a sum of components plus noise. A trained layer need not have such a
    rank; then None, or a small rank, is the answer.
    Raises ValueError for other methods, if ranks do not increase, or if the largest leaves no degrees of freedom.
    Cost: `starts` fits per rank, and one `component_trust`.
    """
    check_choice("method", method, _METHODS)
    listed = [check_int(f"ranks[{at}]", rank, 1) for at, rank in enumerate(check_list("ranks", ranks, "list some"))]
    if any(a >= b for a, b in pairwise(listed)):
        raise ValueError(f"ranks must increase, got {listed}")
    check_iterations("starts", starts)
    wide = wide_layer("layer", layer)
    core = compress(wide).core
    n_out, size, _ = core.shape
    each = n_out + (2 * size - 2 if method == "cp" else size - 1)
    data = n_out * size * (size + 1) // 2
    if data <= listed[-1] * each:
        raise ValueError(
            f"ranks go up to {listed[-1]}, which has {listed[-1] * each} free parameters for the {data} entries of the"
            f" layer (out={n_out}, d={size} compressed inputs): at most rank {(data - 1) // each} leaves degrees of"
            " freedom"
        )
    results: list[CPResult | SpectralResult] = []
    for rank in listed:
        result = decompose(layer, method, rank=rank, starts=starts, seed=seed, **options)
        if isinstance(result, CPResult | SpectralResult):
            results.append(result)
    trust = tuple(component_trust(result, wide) for result in results)
    accepted = [rank for rank, one in zip(listed, trust, strict=True) if _accepted(one, starts)]
    consistency = torch.stack([_core_consistency(result, layer) for result in results]).cpu()
    return RankChoice(max(accepted, default=None), tuple(listed), tuple(results), trust, consistency)


def _error(result: CPResult | SpectralResult) -> float | None:
    return result.relative_error if result.metric is None else result.report.metric_error


def _accepted(trust: ComponentTrust, starts: int) -> bool:
    agreement = trust.start_agreement
    agrees = starts == 1 if agreement is None else bool((agreement > AGREES).all())
    return agrees and bool((trust.standard_error < DETERMINED).all())


def _core_consistency(result: CPResult | SpectralResult, layer: BilinearMap) -> Tensor:
    """Return 100 (1 - ||G - G'||^2 / ||G'||^2): G is the best Tucker core for the vectors of the result, G' its own.

    The columns of the input factor are all input vectors of the result, left and right together.
    """
    state = compress(as_fitted(result, wide_layer("layer", layer)))
    own = as_fitted(result, result).to_layer()
    outputs = own.down / state.scale
    tied = torch.equal(own.left, own.right)
    inputs = unit_columns(state.project(own.left if tied else torch.cat([own.left, own.right], 1)))[0]
    inverses = []
    for factor in (outputs, inputs):
        if factor.shape[1] > factor.shape[0] or int(torch.linalg.matrix_rank(factor)) < factor.shape[1]:
            return outputs.new_tensor(math.nan)
        inverses.append(torch.linalg.pinv(factor))
    left, right = inverses[1] @ state.core.left, inverses[1] @ state.core.right
    core = torch.einsum("rh,ih,jh->rij", inverses[0] @ state.core.down, left, right)
    core = (core + core.mT) / 2
    place = torch.arange(own.rank, device=core.device)
    ideal = torch.zeros_like(core)
    second = place if tied else place + own.rank
    ideal[place, place, second] += 0.5
    ideal[place, second, place] += 0.5
    return 100 * (1 - (core - ideal).square().sum() / ideal.square().sum())
