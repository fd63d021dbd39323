"""CP decompositions fitted to a layer: with free left and right factors, and with tied ones.

Carroll and Chang, Psychometrika 35(3), 1970 (CANDECOMP; INDSCAL for the tied form); Kolda and Bader, SIAM Review 51(3),
2009, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.checks import check_int
from tensornet_interp.decompositions.canonical import canonical_cp
from tensornet_interp.decompositions.compress import Compressed
from tensornet_interp.decompositions.parametrize import Free, Tied
from tensornet_interp.decompositions.solve import FitOptions, InitialFit
from tensornet_interp.decompositions.starts import Triple, eigen_start, join, paired_start, random_start, untie
from tensornet_interp.inner_products.distance import difference
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.results import CPResult, SpectralResult


@dataclass(frozen=True, eq=False, repr=False)
class _Ranked(FitOptions):
    """Options of a fit of a number of rank-one terms."""

    rank: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None:
            check_int("rank", self.rank, 1)


@dataclass(frozen=True, eq=False, repr=False)
class CP(_Ranked):
    """B[out, in1, in2] ~ sum_rank weights[rank] c[out, rank] sym(a[in1, rank] b[in2, rank]), least squares.

    rank: number of components, at most that of the layer, which is exact; None is that. The error is between
    symmetrized tensors, so a and b are free up to a swap. Starts from leading eigencomponents, in pairs of either sign.
    Other options: `FitOptions`. Not differentiable; the loss is, see `fit.products`.
    Cost an iteration: 16 hidden rank (in + out) + 25 * 24 rank^2 in, with in = min(in, 2 hidden) by compression.
    """

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["CP"]:
        """From one component to as many as the layer has, which is exact."""
        return [cls(rank=rank) for rank in sorted({1, 2, (layer.rank + 1) // 2, layer.rank})]

    def __call__(self, layer: BilinearLayer) -> CPResult:
        """Decompose a layer; the result has the layer's dtype, the work is done in float64."""
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
    """B[out, in1, in2] ~ sum_rank c[out, rank] eigenvalue[rank] v[in1, rank] v[in2, rank]: each term its own block.

    rank: number of components, at most 2 hidden, which is exact; None is that. Signs are free. Starts from the leading
    eigencomponents over all outputs. Other options: `FitOptions`; start must have equal left and right factors.
    Cost an iteration: 16 hidden rank (in + out) + 25 * 6 rank^2 in, with in = min(in, 2 hidden) by compression.
    """

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["SymmetricCP"]:
        """From one component to two a hidden unit, which is exact."""
        return [cls(rank=rank) for rank in sorted({1, 2, layer.rank, 2 * layer.rank})]

    def __call__(self, layer: BilinearLayer) -> SpectralResult:
        """Decompose a layer; the result has the layer's dtype, the work is done in float64."""
        rank = _check_rank(self.rank, 2 * layer.rank, f"two for each of {layer.rank} hidden units")
        self.check_layer(layer)
        state = self.compress(layer)
        core = state.core
        model = Tied(torch.eye(rank, dtype=core.down.dtype, device=core.down.device))
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
    """The given terms, and leading eigencomponents of what they leave, `rank` in all; small random ones if need be."""
    terms = given
    missing = rank - (0 if given is None else given[0].shape[1])
    if missing < 0:
        raise ValueError(f"start has {rank - missing} components, more than rank={rank}")
    if missing:
        rest = core if given is None else difference(BilinearLayer.from_cp((None, list(given))), core)
        more = (paired_start if paired else eigen_start)(rest, missing)
        terms = more if terms is None else join(terms, more)
    if terms is None:
        raise ValueError("a start needs at least one component")
    short = rank - terms[0].shape[1]
    if short:
        terms = join(terms, random_start(core, short, seed, tied=terms[1] is terms[2], scale=1e-3))
    return terms


def _polarized(core: BilinearLayer) -> Triple:
    """sym(w v^T) = 1/4 ((w + v)(w + v)^T - (w - v)(w - v)^T), w and v of equal length: two tied terms a hidden unit."""
    w, v = core.left, core.right
    ratio = (v.norm(dim=0) / w.norm(dim=0)).sqrt()
    ratio = torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, torch.ones_like(ratio))
    w, v = w * ratio, v / ratio
    vectors = torch.cat([w + v, w - v], 1)
    return torch.cat([core.down, -core.down], 1) / 4, vectors, vectors


def _check_rank(rank: int | None, most: int, why: str) -> int:
    return most if rank is None else check_int("rank", rank, 1, most, why)
