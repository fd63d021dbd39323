"""Compare the eigenvectors of independently trained models: by place in a ranking, matched, or as subspaces."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from tensornet_interp.checks import (
    check_choice,
    check_int,
    check_list,
    check_number,
    check_share,
    check_size,
    check_tensor,
)
from tensornet_interp.compare.components import match
from tensornet_interp.float64 import needs_float64
from tensornet_interp.numerics import EPS, eigenvalue_noise, nonzero, t_quantile, unit_columns
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, indexed

EIGENVALUE_RANKINGS = ("positive", "negative", "magnitude")
Pairs = tuple[tuple[int, int], ...]


@register_type("OrderedSimilarity")
@dataclass(frozen=True, eq=False)
class OrderedSimilarity:
    """An ordered similarity compares eigenvectors at the same place of the ranking, per pair of runs, in float64.

    The value is NaN if one of the two runs does not have this place, because it has fewer eigenvalues of that sign.
    `gaps` is the distance of an eigenvalue to its nearest neighbour in the ranking, divided by the largest magnitude of
    its block. A small gap means that the place is not stable. If the gap is at most rounding error (`degenerate`), the
    place or the vector is undefined; use `subspaces` there.
    """

    ranking: str
    pairs: Pairs  # of runs
    values: Tensor  # (pair, block, position): |cosine| of the two eigenvectors
    subspaces: Tensor  # (pair, block, position): overlap (0 to 1) of the spans of all vectors up to this place
    gaps: Tensor  # (run, block, position)
    degenerate: Tensor  # (run, block, position), boolean

    @property
    def with_self_pairs(self) -> Tensor:
        """Return the mean (block, position) over the whole (run, run) matrix, including its diagonal of ones.

        It exceeds the true mean by (1 - mean) / runs. Use it only to recognise this mistake in other people's figures.
        """
        return 1 - (1 - self.values.mean(0)) * (1 - 1 / len(self.gaps))

    def records(self) -> list[Record]:
        """Return one record per pair of runs, block and position."""
        rows = indexed(("pair", "block", "position"), similarity=self.values, subspace=self.subspaces)
        return [dict(zip(("first", "second"), self.pairs[row.pop("pair")], strict=True)) | row for row in rows]

    def __repr__(self) -> str:
        first = float(self.values[:, :, 0].nanmean())
        return f"OrderedSimilarity({self.ranking}, {len(self.gaps)} runs, {len(self.pairs)} pairs, first {first:.4f})"


@register_type("Interval")
@dataclass(frozen=True, eq=False)
class Interval:
    """An interval holds a mean over pairs of runs, its standard error and both ends of its confidence interval.

    These four numbers are float64 tensors.
    """

    mean: Tensor  # (...)
    standard_error: Tensor  # (...)
    low: Tensor  # (...)
    high: Tensor  # (...)
    runs: int

    def records(self) -> list[Record]:
        """Return one record per number, with its index along every axis."""
        axes = [f"axis_{axis}" for axis in range(self.mean.ndim)]
        rows = indexed(axes, mean=self.mean, standard_error=self.standard_error, low=self.low, high=self.high)
        return [row | {"runs": self.runs} for row in rows]


@needs_float64
@torch.no_grad()
def ordered_similarity(
    results: Sequence[SpectralResult], by: str = "magnitude", count: int = 1, *, rtol: float | None = None
) -> OrderedSimilarity:
    """Return the similarity of eigenvectors at the same place of the ranking, for every block and pair of runs a < b.

    values[pair, block, position] = |v_a[in, position] . v_b[in, position]| / (|v_a| |v_b|)

    results: eigendecompositions of two or more runs with the same inputs and blocks, with all eigenpairs kept. The
    vectors are compared as they are. If embeddings differ between runs and the results are in the embedding basis,
    apply `change_basis` to the results first.
    by: the ranking. "positive" ranks positive eigenvalues, largest first; "negative" ranks negative eigenvalues, most
    negative first; "magnitude" ranks all eigenvalues.
    count: the number of places. Signs of vectors do not matter. No run is compared with itself.
    rtol: a share of the block's largest magnitude. A place is absent, and the value is NaN, if the number that ranks it
    (the eigenvalue, its negative for "negative", its absolute value for "magnitude") is not above this share. A gap
    that is not above this share marks both eigenvalues as `degenerate`. The default for both limits is the rounding
    error of float64, 10 * in * 2.2e-16; for results in a narrower dtype, the limit for gaps adds the rounding error of
    that dtype.
    Raises ValueError for fewer than two results, if sizes or devices differ, or if only some results have a constant
    coordinate.
    Cost: pairs * block * in * count^2. Source: Pearce et al. 2025, figure 5A.

    Example:
    >>> from tensornet_interp import BilinearLayer, decompose
    >>> eye = torch.eye(2)
    >>> layers = [BilinearLayer(down=row, left=eye, right=eye) for row in torch.tensor([[[3.0, 1.0]], [[1.0, 3.0]]])]
    >>> runs = [decompose(layer, "eigen") for layer in layers]
    >>> ordered_similarity(runs).values.tolist(), matched_similarity(runs, 2).tolist()
    ([[[0.0]]], [[[1.0, 1.0]]])
    """
    check_choice("by", by, EIGENVALUE_RANKINGS)
    if rtol is not None:
        rtol = check_number("rtol", rtol, 0)
    _check_runs(results)
    count = check_int("count", count, 1, min(result.rank for result in results), "eigenpairs of the smallest result")
    runs = [_first(result, by, count, rtol) for result in results]
    pairs = tuple(combinations(range(len(runs)), 2))
    values, subspaces = [], []
    for a, b in pairs:
        (va, qa, here_a), (vb, qb, here_b) = runs[a][:3], runs[b][:3]
        absent = ~(here_a & here_b)
        values.append((va * vb).sum(1).abs().masked_fill(absent, torch.nan))
        shared = (qa.mT @ qb).square().cumsum(1).cumsum(2).diagonal(dim1=1, dim2=2)
        places = torch.arange(1, count + 1, dtype=shared.dtype, device=shared.device)
        subspaces.append((shared / places).masked_fill(absent, torch.nan))
    gaps, degenerate = (torch.stack(side) for side in zip(*(run[3:] for run in runs), strict=True))
    return OrderedSimilarity(by, pairs, torch.stack(values), torch.stack(subspaces), gaps, degenerate)


@needs_float64
@torch.no_grad()
def matched_similarity(results: Sequence[SpectralResult], count: int = 1) -> Tensor:
    """Return the similarity of every eigenvector with its partner in the other run, per block and pair of runs a < b.

    value = sqrt(|c_a . c_b|) |v_a . v_b|, for partners with unit output vectors c and unit eigenvectors v

    In each run, the `count` eigenvectors of largest magnitude of every block take part. `compare.match` pairs all of
    them one to one, so a swap of two places costs nothing. a's vector at a position has a partner in b, and b's vector
    at that position has a partner in a: values[pair, block, position] is the mean of these two values. Positions are
    places by magnitude. If partners have parallel output vectors, as in an eigendecomposition of every output, the
    value is the mean of two cosines. Partners are in the same block if the output vectors of different blocks are
    orthogonal.
    count: the number of eigenvectors per block. Raises the same errors as `ordered_similarity`. Cost: the cost of
    `match` per pair.
    """
    _check_runs(results)
    count = check_int("count", count, 1, min(result.rank for result in results), "eigenpairs of the smallest result")
    cut = [result.truncate(count) for result in results]
    blocks, found = len(cut[0].eigenvalues), []
    for a, b in combinations(cut, 2):
        matching = match(a, b)
        mine, theirs = (torch.tensor(side, device=matching.matrix.device) for side in zip(*matching.pairs, strict=True))
        cosine = torch.zeros(2, blocks * count, dtype=torch.float64, device=matching.matrix.device)
        cosine[0, mine] = cosine[1, theirs] = matching.congruence.sqrt()
        found.append(cosine.mean(0).unflatten(0, (blocks, count)))
    return torch.stack(found)


@needs_float64
def jackknife(values: Tensor, pairs: Sequence[tuple[int, int]], *, confidence: float = 0.95) -> Interval:
    """Return the mean over pairs of runs with its confidence interval, computed by leaving out one run at a time.

    mean +- t * standard_error, standard_error^2 = (n - 1) / n * sum_run (mean without run - average of these means)^2

    values: (pair, ...), one number per pair of runs. pairs: all pairs of n runs, with n at least 3. confidence: the
    level of the interval, between 0 and 1. Pairs share runs, so they are not independent: the sample size is n, not n *
    (n - 1) / 2. Each run is left out with all its pairs, and t has n - 1 degrees of freedom. If the number of a pair is
    the average of one number per run, the result is the usual interval of a mean. Otherwise the standard error is on
    average too large rather than too small (Efron and Stein 1981). The interval of a cosine may extend above 1. Raises
    ValueError if a pair is missing or given twice, or if there are fewer than 3 runs.
    """
    check_tensor("values", values, ("pair",) + ("...",) * (getattr(values, "ndim", 1) - 1), finite=False)
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in check_list("pairs", pairs)):
        raise TypeError(f"pairs must be a list of pairs of runs, like [(0, 1), (0, 2), (1, 2)], got {pairs!r:.60}")
    for run in (run for pair in pairs for run in pair):
        check_int("a run of pairs", run, 0)
    check_share("confidence", confidence, low_open=True, high_open=True)
    runs = sorted({run for pair in pairs for run in pair})
    n = check_int("runs", len(runs), 3, why="one is left out, and pairs must remain")
    wanted = {frozenset(pair) for pair in combinations(runs, 2)}
    if {frozenset(pair) for pair in pairs} != wanted or len(pairs) != len(wanted):
        raise ValueError(f"pairs must be all {len(wanted)} pairs of {n} different runs, each once; got {list(pairs)}")
    check_size("pair", values=len(values), pairs=len(pairs))
    values = values.to(torch.float64)
    index = torch.tensor(list(pairs), device=values.device)
    without = torch.stack([values[(index != run).all(1)].mean(0) for run in runs])  # (run, ...)
    largest = nonzero(without.abs().nan_to_num().amax(0))  # squares of what is left neither over- nor underflow
    error = (without / largest).var(0, correction=0).mul(n - 1).sqrt() * largest
    mean = values.mean(0)
    reach = t_quantile(n, confidence) * error
    return Interval(mean, error, mean - reach, mean + reach, n)


def _check_runs(results: Sequence[SpectralResult]) -> None:
    """Raise TypeError or ValueError unless the results are two or more comparable `SpectralResult`s."""
    for result in check_list("results", results):
        if not isinstance(result, SpectralResult):
            raise TypeError(
                f"results must be SpectralResults, as from decompose(layer, 'eigen'), got {type(result).__name__}"
            )
    if len(results) < 2:
        raise ValueError(f"runs are compared with each other, which needs at least 2 results, got {len(results)}")
    first = results[0].eigenvectors
    for at, other in enumerate(results[1:], 1):
        for mode, axis in (("block", 0), ("in", 1)):
            check_size(mode, **{"results[0]": first.shape[axis], f"results[{at}]": other.eigenvectors.shape[axis]})
        if other.constant_in != results[0].constant_in:
            raise ValueError(f"only one of results 0 and {at} has a constant coordinate; lift both or neither")
        device = other.eigenvectors.device
        if device != first.device:
            raise ValueError(f"tensors must share one device; got results[0] {first.device}, results[{at}] {device}")


def _first(
    result: SpectralResult, by: str, count: int, rtol: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the first `count` eigenvectors of every block in the ranking `by`, with their gaps.

    Returns unit vectors and a nested orthonormal basis, both (block, in, count), and present, gap and degenerate, each
    (block, count).
    """
    values = result.eigenvalues.to(torch.float64)
    key = {"positive": values, "negative": -values, "magnitude": values.abs()}[by]
    ranked = key.sort(dim=1, descending=True, stable=True)
    largest = values.abs().amax(1, keepdim=True)
    size = result.eigenvectors.shape[1]
    noise = eigenvalue_noise(result.eigenvalues, size).gather(1, ranked.indices) / nonzero(largest)
    least = 10 * size * EPS if rtol is None else rtol
    steps = -ranked.values.diff(dim=1) / nonzero(largest)
    same = steps <= (torch.maximum(noise[:, 1:], noise[:, :-1]) if rtol is None else rtol)
    far, apart = torch.full_like(largest, torch.inf), torch.zeros_like(largest, dtype=torch.bool)
    gaps = torch.minimum(torch.cat([far, steps], 1), torch.cat([steps, far], 1))[:, :count]
    degenerate = (torch.cat([apart, same], 1) | torch.cat([same, apart], 1))[:, :count]
    picks = ranked.indices[:, None, :count].expand(-1, result.eigenvectors.shape[1], -1)
    chosen = result.eigenvectors.to(torch.float64).gather(2, picks)
    vectors = unit_columns(chosen.transpose(0, 1))[0].transpose(0, 1)
    present = ranked.values[:, :count] > least * largest
    return vectors, torch.linalg.qr(vectors).Q, present, gaps, degenerate
