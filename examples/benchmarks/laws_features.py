"""How the cost of spectra, features and gated layers grows."""

import tempfile
from collections.abc import Callable

import torch

from examples.benchmarks.laws import BOUND, EACH, LOWER, SMALL, Call, Growth, Run, normal
from examples.benchmarks.pools import started
from examples.benchmarks.spectral import make_layer
from tensornet_interp.attention import Part, SequenceNetwork
from tensornet_interp.features import Dictionary, feature_interactions, rank_by_structure
from tensornet_interp.gated import GatedLayer, linearize
from tensornet_interp.graphs import feature_graph
from tensornet_interp.spectra import checkpoint_spectra, invariants, spectra
from tensornet_interp.testing import random_layer


def leading(*, directions: int, d: int, hidden: int) -> Run:
    """Return the two leading eigenpairs of many directions, of a layer whose spectra decay."""
    layer = make_layer(d, hidden, directions, "exponential", seed=0)
    rows = torch.eye(directions, dtype=torch.float32, device="cpu")
    return lambda: spectra(layer, rows, method="krylov", progress=False)


def spectra_by_workers(*, workers: int, features: int, shard: int, d: int, hidden: int) -> Run:
    """Return the spectra of a checkpoint by several processes, each time in a new store."""
    layer, pool = make_layer(d, hidden, 8, "exponential", seed=0), started(workers)
    rows = normal(features, 8).to(torch.float32)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint_spectra([layer], rows, 2, 1e-3, folder, shard=shard, progress=False, executor=pool)

    return run


def traces(*, directions: int, d: int, hidden: int) -> Run:
    """Return the invariants of many directions."""
    layer, rows = random_layer(8, d, hidden, seed=0), normal(directions, 8)
    return lambda: invariants(layer, rows)


def graph(*, features: int, d: int, hidden: int, positions: int) -> Run:
    """Return the edges of one feature behind a bilinear layer."""
    layer = random_layer(d, d, hidden, seed=0)
    coder = Dictionary(normal(features, d), normal(d, features, seed=1), k=min(features, 64), name="in")
    reader = Dictionary(normal(8, d, seed=2), normal(d, 8, seed=3), name="out")
    places, x = {(0, "in"): coder, (0, "out"): reader}, normal(positions, d, seed=4)
    return lambda: feature_graph(SequenceNetwork([Part(layer)]), places, normal(d), x, candidates=64)


def interactions(call: str) -> Callable[..., Run]:
    """Return a maker of the strongest pairs of features, or of the norm of all interactions."""

    def make(*, features: int, d: int, rank: int) -> Run:
        layer = random_layer(8, d, d, seed=0)
        found = feature_interactions(layer, normal(8), normal(d, features), basis="made", rank=rank)
        return {"top": lambda: found.top(10), "norm": found.squared_norm}[call]

    return make


def structure(*, features: int, d: int, hidden: int) -> Run:
    """Return the features ranked by the share of their two leading eigenvalues."""
    layer, rows = random_layer(8, d, hidden, seed=0), normal(features, 8)
    return lambda: rank_by_structure(layer, rows)


def encoded(*, batch: int, features: int, d: int) -> Run:
    """Return the codes of a dictionary."""
    coder, x = Dictionary(normal(features, d), normal(d, features)), normal(batch, d)
    return lambda: coder.encode(x)


def lines(*, batch: int, rank: int, d: int, out: int) -> Run:
    """Return the best bilinear layer for a gated one."""
    layer, x = random_layer(out, d, rank, seed=0), normal(batch, d)
    gated = GatedLayer(down=layer.down, left=layer.left, right=layer.right, gate="silu")
    return lambda: linearize(gated, x, linear=False)


FEATURES = {
    "spectra": Call(
        'spectra(layer, directions, method="krylov")',
        "spectra.spectra",
        leading,
        {"8 * in * hidden": "12 * directions", "4 * hidden^2 * in": EACH},
        [
            Growth("directions", (256, 512, 1024), {"d": 512, "hidden": 1024}),
            Growth("hidden", (1024, 2048, 4096), {"d": 256, "directions": 256}),
            Growth("d", (256, 512, 1024), {"hidden": 1024, "directions": 256}),
        ],
    ),
    "spectra workers": Call(
        "spectra.checkpoint_spectra(..., executor=pool)",
        "spectra.checkpoint_spectra",
        spectra_by_workers,
        {"shards / workers": EACH},
        [Growth("workers", (1, 2), {"features": 2048, "shard": 256, "d": 256, "hidden": 512})],
        names={"shards": "features / shard"},
        workers=True,
    ),
    "invariants": Call(
        "spectra.invariants(layer, directions)",
        "spectra.invariants",
        traces,
        {"4 * hidden^2 * in": EACH, "hidden^2": "directions"},
        [
            Growth("hidden", (1024, 2048, 4096), {"d": 128, "directions": 16}),
            Growth("directions", (2048, 4096, 8192, 16384), {"d": 16, "hidden": 512}),
        ],
    ),
    "feature_graph": Call(
        "graphs.feature_graph(network, dictionaries, direction, x)",
        "graphs.feature_graph",
        graph,
        {"2 * features * readings * (in + readings)": EACH},
        [Growth("features", (16384, 32768, 65536, 131072), {"d": 64, "hidden": 64, "positions": 4})],
        names={"readings": "d"},
    ),
    "top": Call(
        "features.feature_interactions(...).top(10)",
        "features.FeatureInteractions.top",
        interactions("top"),
        {"2 * features^2 * rank": EACH},
        [Growth("features", (4096, 8192, 16384), {"d": 128, "rank": 64}, BOUND)],
    ),
    "squared_norm": Call(
        "features.feature_interactions(...).squared_norm()",
        "features.FeatureInteractions.squared_norm",
        interactions("norm"),
        {"2 * features * rank^2": EACH},
        [Growth("features", (8192, 16384, 32768), {"d": 256, "rank": 256})],
    ),
    "rank_by_structure": Call(
        "features.rank_by_structure(layer, directions)",
        "features.rank_by_structure",
        structure,
        {"features * r^2 * (2 * hidden + 4 * r / 3)": EACH},
        [
            Growth("features", (64, 128, 256, 512), {"d": 128, "hidden": 128}),
            Growth("d", (64, 128, 256, 512), {"features": 8, "hidden": 512}, SMALL),
        ],
    ),
    "encode": Call(
        "dictionary.encode(x)",
        "features.Dictionary.encode",
        encoded,
        {"2 * d * features": "batch"},
        [Growth("features", (2048, 4096, 8192, 16384), {"batch": 128, "d": 512})],
    ),
    "linearize": Call(
        "gated.linearize(layer, x)",
        "gated.linearize",
        lines,
        {"2 * batch * n * (n + out)": EACH, "n^3 / 3": EACH},
        [Growth("rank", (225, 450, 900, 1800), {"batch": 2000, "d": 64, "out": 64}, LOWER)],
        {"n^2": "3", "10 * batch * rank": EACH},
        names={"n": "rank + 1"},
    ),
}
