"""How the cost of decompositions, sweeps and comparisons of fits grows."""

from collections.abc import Callable
from typing import Any

from examples.benchmarks.laws import EACH, LOWER, SMALL, Call, Growth, Run
from examples.benchmarks.pools import started
from tensornet_interp import (
    decompose,
)
from tensornet_interp.compare import component_trust, match
from tensornet_interp.sweep import sweep
from tensornet_interp.testing import random_layer


def decomposed(method: str, **options: Any) -> Callable[..., Run]:
    """Return a maker of `decompose` calls; sizes that are no sizes of the layer are options of the method."""

    def make(*, d: int, out: int, hidden: int, **sizes: int) -> Run:
        layer = random_layer(out, d, hidden, seed=0)
        return lambda: decompose(layer, method, **options, **sizes)

    return make


def tucker(*, d: int, out: int, hidden: int, iterations: int) -> Run:
    """Return a Tucker decomposition with a fixed number of iterations, and a fourth of the coordinates."""
    layer = random_layer(out, d, hidden, seed=0)
    ranks = (max(1, out // 4), max(1, d // 4))
    return lambda: decompose(layer, "tucker", ranks=ranks, max_iterations=iterations, tolerance=0.0)


def fitted(method: str, **options: Any) -> Callable[..., Run]:
    """Return a maker of fits of a fixed number of iterations, which start from another fit: no start is computed."""

    def make(*, d: int, out: int, hidden: int, rank: int, iterations: int) -> Run:
        layer = random_layer(out, d, hidden, seed=0)
        given = {"rank": rank, "starts": 1, "tolerance": 0.0} | options
        start = decompose(layer, method, max_iterations=1, **given)
        return lambda: decompose(layer, method, max_iterations=iterations, start=start, **given)

    return make


def fits(*, count: int, d: int, hidden: int) -> Run:
    """Return a sweep over seeds."""
    layer = random_layer(d, d, hidden, seed=0)
    grid: dict[str, list[object]] = {"rank": [4], "starts": [1], "max_iterations": [20], "tolerance": [0.0]}
    return lambda: sweep(layer, "cp", grid, seeds=range(count), errors="raise", progress=False)


def fits_by_workers(*, workers: int, count: int, d: int, hidden: int) -> Run:
    """Return a sweep over seeds by several processes."""
    layer, pool = random_layer(d, d, hidden, seed=0), started(workers)
    grid: dict[str, list[object]] = {"rank": [8], "starts": [1], "max_iterations": [60], "tolerance": [0.0]}
    return lambda: sweep(layer, "cp", grid, seeds=range(count), errors="raise", progress=False, executor=pool)


def matched(*, rank: int, d: int, out: int) -> Run:
    """Return the pairs of components of two layers."""
    a, b = (random_layer(out, d, rank, seed=seed) for seed in range(2))
    return lambda: match(a, b)


def trusted(*, rank: int, d: int, out: int) -> Run:
    """Return how well the components of a fit are determined."""
    layer = random_layer(out, d, 2 * rank, seed=0)
    found = decompose(layer, "cp", rank=rank, max_iterations=500)
    return lambda: component_trust(found, layer)


DECOMPOSITIONS = {
    "eigen": Call(
        'decompose(layer, "eigen")',
        "decompositions.Eigen",
        decomposed("eigen"),
        {"2 * r^2 * hidden + 9 * r^3": "out", "2 * hidden^2 * (4 * in + out)": EACH, "2 * out * in^2 * hidden": EACH},
        [
            Growth("d", (128, 256, 512, 1024), {"out": 2, "hidden": 512}, SMALL),
            Growth("hidden", (450, 900, 1800), {"d": 64, "out": 16}, SMALL),
            Growth("out", (16, 32, 64, 128), {"d": 128, "hidden": 128}),
        ],
    ),
    "output_svd": Call(
        'decompose(layer, "output_svd")',
        "decompositions.OutputSVD",
        decomposed("output_svd"),
        {"4 * hidden^2 * (4 * in + out)": EACH, "blocks * r^2 * (2 * hidden + 9 * r)": EACH},
        [
            Growth("d", (128, 256, 512, 1024), {"out": 2, "hidden": 512}),
            Growth("out", (16, 32, 64, 128), {"d": 128, "hidden": 128}),
        ],
        names={"blocks": "out"},
    ),
    "hosvd": Call(
        'decompose(layer, "hosvd")',
        "decompositions.HOSVD",
        decomposed("hosvd"),
        {"4 * hidden^2 * (4 * in + out)": "1.5", "2 * out * r^2 * (2 * hidden + r + min(out, r^2))": EACH},
        [
            Growth("d", (128, 256, 512, 1024), {"out": 4, "hidden": 512}),
            Growth("hidden", (450, 900, 1800), {"d": 64, "out": 16}),
            Growth("out", (32, 64, 128, 256), {"d": 128, "hidden": 128}),
        ],
    ),
    "tucker": Call(
        'decompose(layer, "tucker")',
        "decompositions.Tucker",
        tucker,
        {"20 * hidden^2 * r": "iterations", "9 * r^3": "iterations"},
        [
            Growth("hidden", (256, 512, 1024), {"d": 64, "out": 16, "iterations": 20}),
            Growth("iterations", (16, 32, 64), {"d": 64, "out": 16, "hidden": 512}),
        ],
    ),
    "cp": Call(
        'decompose(layer, "cp", start=...)',
        "decompositions.CP",
        fitted("cp"),
        {
            "hidden * rank * (16 * r + 6 * out)": "iterations",
            "rank^2 * (24 * min(r, 2 * rank) + 18 * min(out, rank))": "5 * iterations",
            "4 * hidden^2 * (4 * in + out)": EACH,
        },
        [
            Growth("rank", (50, 100, 200, 400), {"d": 256, "out": 64, "hidden": 800, "iterations": 10}),
            Growth("hidden", (225, 450, 900, 1800), {"d": 64, "out": 64, "rank": 64, "iterations": 20}),
            Growth("iterations", (50, 100, 200), {"d": 64, "out": 64, "rank": 32, "hidden": 256}),
        ],
    ),
    "symmetric_cp": Call(
        'decompose(layer, "symmetric_cp", start=...)',
        "decompositions.SymmetricCP",
        fitted("symmetric_cp"),
        {
            "hidden * rank * (8 * r + 4 * out)": "iterations",
            "6 * rank^2 * (min(r, rank) + min(out, rank))": "10 * iterations",
        },
        [Growth("rank", (64, 128, 256, 512), {"d": 256, "out": 64, "hidden": 512, "iterations": 10}, SMALL)],
    ),
    "block_term": Call(
        'decompose(layer, "block_term", start=...)',
        "decompositions.BlockTerm",
        fitted("block_term", blocks=8),
        {
            "hidden * R * (8 * r + 4 * out)": "iterations",
            "6 * R^2 * (min(r, R) + blocks)": "5 * iterations",
        },
        [Growth("rank", (8, 16, 32, 64), {"d": 128, "out": 16, "hidden": 256, "iterations": 20})],
        names={"blocks": "8", "R": "8 * rank"},
    ),
    "sweep": Call(
        'sweep(layer, "cp", grid, seeds)',
        "sweep.sweep",
        fits,
        {"fits": EACH},
        [Growth("count", (8, 16, 32), {"d": 64, "hidden": 64})],
        names={"fits": "count"},
    ),
    "sweep workers": Call(
        "sweep(..., executor=pool)",
        "sweep.sweep",
        fits_by_workers,
        {"fits / workers": EACH},
        [Growth("workers", (1, 2), {"count": 8, "d": 256, "hidden": 512})],
        names={"fits": "count"},
        workers=True,
    ),
    "match": Call(
        "compare.match(a, b)",
        "compare.match",
        matched,
        {"2 * rank * rank' * (4 * in + out)": EACH},
        [Growth("rank", (450, 900, 1800), {"d": 512, "out": 64}, LOWER)],
        names={"rank'": "rank"},
    ),
    "component_trust": Call(
        "compare.component_trust(result, layer)",
        "compare.component_trust",
        trusted,
        {"n^3": EACH},
        [Growth("rank", (12, 16, 21, 27), {"d": 64, "out": 32}, SMALL)],
        {"6 * n^2": EACH},
        {"n": "rank * (min(out, rank) + 2 * min(d, 2 * rank))"},
    ),
}
