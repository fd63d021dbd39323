"""How similar the results of several fits are, and what they have in common by chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations, repeat
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_bool, check_iterations, check_list, check_seed
from tensornet_interp.compare.components import match, single_part
from tensornet_interp.compare.nulls import recombined
from tensornet_interp.executors import Pool, Scratch, check_pool, pair_tiles, run_units
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, indexed


@register_type("Stability")
@dataclass(frozen=True, eq=False)
class Stability:
    """A stability says how similar the results of several fits are; every pair has two different fits.

    `null` is the same of fits and partners whose components were combined anew at random, if controls were asked for.
    """

    matrix: Tensor  # (fit, fit), float64 on the CPU: mean congruence; NaN on the diagonal
    components: tuple[Tensor, ...]  # per fit (component,): mean congruence with the partners in the other fits
    null: "Stability | None" = None

    @property
    def mean(self) -> float:
        """Return the mean congruence over all pairs of two different fits."""
        return float(self.matrix.nanmean())

    def records(self) -> list[Record]:
        """Return one record per component of each fit: its mean congruence, and that of the null (None without)."""
        rows = []
        for fit, values in enumerate(self.components):
            known = {"congruence": values} | ({} if self.null is None else {"null": self.null.components[fit]})
            rows += [{"fit": fit} | row | {"null": row.get("null")} for row in indexed(("component",), **known)]
        return rows

    def __repr__(self) -> str:
        chance = "" if self.null is None else f", by chance {self.null.mean:.4f}"
        return f"Stability({len(self.matrix)} fits, mean congruence {self.mean:.4f}{chance})"


@needs_float64
def stability(
    results: Sequence[TensorNetwork],
    *,
    blocks: bool = False,
    controls: int = 0,
    seed: int = 0,
    executor: Pool | None = None,
    scratch: Scratch | None = None,
) -> Stability:
    """Return how similar several fits are, for example of different seeds: the congruence of `match` per pair of fits.

    `matrix` holds the mean congruence per pair of fits, and `components` holds the congruence of every component. If
    ranks differ, a component without a partner counts as 0 in `components`. To compare in the metric of the data, give
    the fits after `Metric.whiten`. blocks: as in `match`.
    controls: how often the null is drawn per pair of fits. It keeps the vectors of a fit and combines them anew, no
    component with its own output vector, as the null of `component_trust` does: `null` is what partners have in common
    by chance. seed: of the null.
    executor, scratch: where tiles of the matrix are computed, and a folder that the workers see, as in
    `executors.run_units`.
    Raises ValueError for fewer than two results, and for a null of a fit of one component. Cost: 1 + 2 * controls times
    that of `match`, per pair.
    """
    check_bool("blocks", blocks)
    check_pool(executor, scratch)
    if len(check_list("results", results)) < 2:
        raise ValueError(f"stability compares fits and needs at least 2 results, got {len(results)}")
    generator = torch.Generator(device="cpu").manual_seed(check_seed("seed", seed))
    controls = check_iterations("controls", controls, 0)
    results = [single_part(f"result {i}", result) for i, result in enumerate(results)]
    pairs = list(combinations(range(len(results)), 2))
    seeds = dict(
        zip(pairs, torch.randint(2**62, (len(pairs),), generator=generator, device="cpu").tolist(), strict=True)
    )
    tiles = pair_tiles(pairs, len(results))
    units = [(tile, [seeds[pair] for pair in tile], blocks, controls) for tile in tiles]
    objects = {str(i): result for i, result in enumerate(results)}
    found = dict(run_units(_matchings, units, objects, executor, scratch, device=results[0].terms()[0].data.device))
    observed, null = _Sums(results, blocks), _Sums(results, blocks)
    for number in range(len(units)):  # in order, so that sums do not depend on who was first
        for fit, other, mean, own, congruences, of_null in found[number]:
            (null if of_null else observed).add(fit, other, mean, own, congruences)
    return replace(observed.mean(1), null=null.mean(controls) if controls else None)


def _matchings(
    objects: Mapping[str, Any], pairs: Sequence[tuple[int, int]], seeds: Sequence[int], blocks: bool, controls: int
) -> list[tuple[int, int, float, Tensor, Tensor, bool]]:
    """Return the matchings of some pairs of fits, each seen from one fit, and those of the null; one unit of work.

    Each is (fit, other fit, mean congruence, components of the fit, their congruences, whether it is one of the null).
    """
    found = []
    for (i, j), seed in zip(pairs, seeds, strict=True):
        generator, one, two = torch.Generator(device="cpu").manual_seed(seed), objects[str(i)], objects[str(j)]
        matching = match(one, two, blocks=blocks)
        seen = [(i, j, matching, 0, False), (j, i, matching, 1, False)]
        for a, b, mine, theirs in chain.from_iterable(repeat(((i, j, one, two), (j, i, two, one)), controls)):
            seen.append((a, b, match(mine, recombined(theirs, generator), blocks=blocks), 0, True))
        for fit, other, kept, side, drawn in seen:
            own = torch.tensor([pair[side] for pair in kept.pairs], device="cpu")
            found.append((fit, other, kept.mean, own, kept.congruence.cpu(), drawn))
    return found


class _Sums:
    """Sums of congruences over pairs of fits."""

    def __init__(self, results: Sequence[TensorNetwork], blocks: bool) -> None:
        self.matrix = torch.zeros(len(results), len(results), dtype=torch.float64, device="cpu")
        self.components = [self.matrix.new_zeros(_count(result, blocks)) for result in results]

    def add(self, fit: int, other: int, mean: float, own: Tensor, congruences: Tensor) -> None:
        """Add a matching to the sums of a fit: its mean congruence, and the congruences of its own components."""
        self.matrix[fit, other] += mean
        self.components[fit][own.cpu()] += congruences.cpu()

    def mean(self, times: int) -> Stability:
        """Return the means, if every pair of fits was added this often."""
        matrix = (self.matrix / times).fill_diagonal_(torch.nan)
        return Stability(matrix, tuple(sums / (times * (len(matrix) - 1)) for sums in self.components))


def _count(result: TensorNetwork, blocks: bool) -> int:
    """Return the number of blocks or components of a result."""
    if blocks and isinstance(result, SpectralResult):
        return len(result.eigenvalues)
    return result.to_layer().rank
