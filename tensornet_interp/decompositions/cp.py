"""CP decompositions that are fitted to a layer: left and right input factors are separate, or equal."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tensornet_interp.checks import check_int, check_kind
from tensornet_interp.decompositions.canonical import canonical_cp
from tensornet_interp.decompositions.compress import Compressed
from tensornet_interp.decompositions.parametrize import Free, Tied
from tensornet_interp.decompositions.solve import FitOptions, InitialFit
from tensornet_interp.decompositions.starts import (
    Triple,
    as_layer,
    eigen_start,
    join,
    paired_start,
    random_start,
    untie,
)
from tensornet_interp.factored import CPResult
from tensornet_interp.float64 import needs_float64
from tensornet_interp.inner_products.distance import difference
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.spectral import SpectralResult


@dataclass(frozen=True, eq=False, repr=False)
class _Ranked(FitOptions):
    """These are the options of a fit whose size is the number of rank-one terms."""

    rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None:
            check_int("rank", self.rank, 1)


@dataclass(frozen=True, eq=False, repr=False)
class CP(_Ranked):
    """Fit a sum of rank-one terms, each with its own left and right input factor, by least squares.

    B[out, in1, in2] ~ sum_rank weights[rank] outputs[out, rank] sym(left[in1, rank] right[in2, rank])

    sym(M) = (M + M^T) / 2. The error is measured between symmetrized tensors, so left and right of a term can be
    swapped. The fit starts from the eigencomponents of largest magnitude; a positive and a negative eigencomponent of
    the same output together make one term.
    rank: the number of terms. None means the number of hidden units. With that number, and without start and priors,
    the result holds the terms of the layer itself and is exact.
    Other options: `FitOptions`.

    Result: a `CPResult`. Not differentiable.
    Cost per iteration: about hidden * rank * (16 * r + 6 * out) flops for a gradient, and at most 40 products with the
    Gauss-Newton matrix of rank^2 * (24 * min(r, 2 * rank) + 18 * min(out, rank)) flops each, in float32; often 5 are
    enough. Once per call: the start, and 4 * hidden^2 * (4 * in + out) flops to compress the layer and to measure the
    error. hidden is the number of hidden units, and r is at most min(in, 2 * hidden).
    Raises ValueError if rank is above the number of hidden units, or if the start or a prior does not fit the layer.
    Source: Carroll and Chang, Psychometrika 35(3), 1970 (CANDECOMP); Kolda and Bader, SIAM Review 51(3), 2009, section
    3.
    """

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["CP"]:
        """Return decompositions with 1, 2, half of `layer.rank` and `layer.rank` terms; the last is exact."""
        return [cls(rank=rank) for rank in sorted({1, min(2, layer.rank), (layer.rank + 1) // 2, layer.rank})]

    @needs_float64
    def __call__(self, layer: BilinearLayer) -> CPResult:
        """Decompose a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        rank = _check_rank(self.rank, layer.rank, f"the layer {layer.name!r} has {layer.rank} hidden units")
        self.check_layer(layer)
        state = self.compress(layer)
        core = state.core
        model = Free()
        if rank == layer.rank and not self.priors and self.start is None:
            terms, fit = (core.down, core.left, core.right), None
        else:
            starts: list[InitialFit] = [(None, model, self._first(state, rank))]
            for seed in range(self.seed, self.seed + self.starts - 1):
                starts.append((seed, model, random_start(core, rank, seed)))
            fit = self.run(state, starts)
            terms = fit.terms
        fields = canonical_cp(state.restore(terms))
        return self.finish(CPResult, layer, state, fit, **fields)

    def _first(self, state: Compressed, rank: int) -> Triple:
        given = self.given_start(state)
        return untie(extend(given, state.core, rank, self.seed, paired=True), self.seed)


@dataclass(frozen=True, eq=False, repr=False)
class SymmetricCP(_Ranked):
    """Fit a sum of rank-one terms whose two input factors are the same vector, by least squares.

    B[out, in1, in2] ~ sum_rank outputs[out, rank] eigenvalue[rank] v[in1, rank] v[in2, rank]

    Eigenvalues may have either sign. The fit starts from the eigencomponents of largest magnitude over all outputs.
    rank: the number of terms. None means two terms per hidden unit. With that number, and without start and priors, the
    result is exact, because (w v^T + v w^T) / 2 is a difference of two squares.
    Other options: `FitOptions`, with tolerance 3e-4. The left and the right factor of `start` must be equal.

    Result: a `SpectralResult` in which each term is a block of rank 1. Not differentiable.
    Cost per iteration in flops: about hidden * rank * (8 * r + 4 * out) for a gradient, plus at most 40 products of
    6 * rank^2 * (min(r, rank) + min(out, rank)) for a step, in float32; often 10 are enough. Once per call: as for
    `CP`. hidden is the number of hidden units, and r is at most min(in, 2 * hidden).
    Raises ValueError if rank is above 2 * hidden, or if the start or a prior does not fit the layer.
    Source: Carroll and Chang, Psychometrika 35(3), 1970 (INDSCAL); Kolda and Bader, SIAM Review 51(3), 2009, section 5.
    """

    tolerance: float = field(default=3e-4, kw_only=True)

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["SymmetricCP"]:
        """Return decompositions with 1, 2, `layer.rank` and 2 * `layer.rank` terms; the last is exact."""
        return [cls(rank=rank) for rank in sorted({1, 2, layer.rank, 2 * layer.rank})]

    @needs_float64
    def __call__(self, layer: BilinearLayer) -> SpectralResult:
        """Decompose a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        rank = _check_rank(self.rank, 2 * layer.rank, f"two for each of {layer.rank} hidden units")
        self.check_layer(layer)
        state = self.compress(layer)
        core = state.core
        signs = torch.eye(rank, dtype=core.down.dtype, device=core.down.device)
        model = Tied(signs, damping=0.1)  # smaller first steps end at smaller errors
        if rank == 2 * layer.rank and not self.priors and self.start is None:
            terms, fit = _polarized(core), None
        else:
            starts: list[InitialFit] = [(None, model, self._first(state, rank))]
            for seed in range(self.seed, self.seed + self.starts - 1):
                starts.append((seed, model, random_start(core, rank, seed, tied=True)[:2]))
            fit = self.run(state, starts)
            terms = fit.terms
        fields = canonical_cp(state.restore(terms))
        return self.finish(
            SpectralResult,
            layer,
            state,
            fit,
            outputs=fields["outputs"],
            eigenvalues=fields["weights"][:, None],
            eigenvectors=fields["left"].T[:, :, None],
        )

    def _first(self, state: Compressed, rank: int) -> tuple[Tensor, Tensor]:
        given = self.given_start(state)
        if given is not None and given[1] is not given[2]:
            raise ValueError("start of symmetric_cp must have equal left and right factors, as a SpectralResult has")
        return extend(given, state.core, rank, self.seed, paired=False)[:2]


def extend(given: Triple | None, core: BilinearLayer, rank: int, seed: int, *, paired: bool) -> Triple:
    """Return `rank` terms to start from: the given terms, then the largest eigencomponents of the residual.

    The residual is the layer minus the given terms. If there are too few eigencomponents, small random terms are added.
    paired: if True, two eigencomponents make one term, as in `paired_start`.
    """
    terms = given
    missing = rank - (0 if given is None else given[0].shape[1])
    if missing < 0:
        raise ValueError(f"start has {rank - missing} components, more than rank={rank}")
    if missing:
        rest = core if given is None else difference(as_layer(given), core)
        more = (paired_start if paired else eigen_start)(rest, missing)
        terms = more if terms is None else join(terms, more)
    if terms is None:
        raise ValueError("a start needs at least one component")
    short = rank - terms[0].shape[1]
    if short:
        terms = join(terms, random_start(core, short, seed, tied=terms[1] is terms[2], scale=1e-3))
    return terms


def _polarized(core: BilinearLayer) -> Triple:
    """Return two terms for each hidden unit, each with equal left and right factors; the sum of all terms is the layer.

    sym(w v^T) = 1/4 ((w + v)(w + v)^T - (w - v)(w - v)^T), where w and v are first scaled to equal length
    """
    w, v = core.left, core.right
    ratio = (v.norm(dim=0) / w.norm(dim=0)).sqrt()
    ratio = torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, torch.ones_like(ratio))
    w, v = w * ratio, v / ratio
    vectors = torch.cat([w + v, w - v], 1)
    return torch.cat([core.down, -core.down], 1) / 4, vectors, vectors


def _check_rank(rank: int | None, most: int, why: str) -> int:
    return most if rank is None else check_int("rank", rank, 1, most, why)
