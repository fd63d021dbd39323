"""How the cost of layers, norms and similarities grows."""

from examples.benchmarks.laws import EACH, SMALL, Call, Growth, Run, normal, stack
from tensornet_interp import (
    norm,
    relative_error,
    similarity,
)
from tensornet_interp.inner_products import Gaussian, Symmetric
from tensornet_interp.testing import random_layer


def forward(*, batch: int, d: int, out: int, hidden: int) -> Run:
    """Return the call of a layer."""
    layer, x = random_layer(out, d, hidden, seed=0), normal(batch, d)
    return lambda: layer(x)


def matrices(*, directions: int, d: int, hidden: int) -> Run:
    """Return interaction matrices that are formed."""
    layer, rows = random_layer(8, d, hidden, seed=0), normal(directions, 8)
    return lambda: layer.interaction_matrix(rows)


def norms(*, d: int, out: int, hidden: int) -> Run:
    """Return the norm of a layer."""
    layer = random_layer(out, d, hidden, seed=0)
    return lambda: norm(layer)


def errors(*, d: int, out: int, hidden: int, rank: int) -> Run:
    """Return the relative error of another layer."""
    layer, other = random_layer(out, d, hidden, seed=0), random_layer(out, d, rank, seed=1)
    return lambda: relative_error(other, layer)


def tree(*, depth: int, d: int, hidden: int) -> Run:
    """Return the tree similarity of two networks."""
    a, b = stack(depth, d, hidden), stack(depth, d, hidden, seed=depth)
    return lambda: similarity(a, b, progress=False)


def symmetric(*, width: int) -> Run:
    """Return the exact symmetric similarity of two networks of two layers."""
    a, b = stack(2, width, width), stack(2, width, width, seed=2)
    return lambda: similarity(a, b, kind=Symmetric("exact"), progress=False)


def gaussian(*, width: int) -> Run:
    """Return the exact Gaussian similarity of two networks of two layers."""
    a, b = stack(2, width, width), stack(2, width, width, seed=2)
    return lambda: similarity(a, b, kind=Gaussian(method="exact"), progress=False)


def closure(*, depth: int, d: int, hidden: int) -> Run:
    """Return the similarity of two networks by the Gaussian closure."""
    a, b = stack(depth, d, hidden), stack(depth, d, hidden, seed=depth)
    return lambda: similarity(a, b, kind=Gaussian(method="closure"), progress=False)


def table(*, networks: int, d: int, hidden: int) -> Run:
    """Return the similarities of all pairs of a list of networks."""
    layers = [random_layer(d, d, hidden, seed=seed) for seed in range(networks)]
    return lambda: similarity(layers, progress=False)


PRODUCTS = {
    "layer": Call(
        "layer(x)",
        "layer.BilinearLayer.multilinear",
        forward,
        {"2 * rank * (2 * in + out)": "batch"},
        [
            Growth("batch", (1024, 2048, 4096, 8192), {"d": 512, "out": 256, "hidden": 256}),
            Growth("d", (512, 1024, 2048, 4096), {"batch": 1024, "out": 16, "hidden": 512}),
            Growth("hidden", (512, 1024, 2048, 4096), {"batch": 512, "d": 256, "out": 256}),
        ],
        names={"rank": "hidden"},
    ),
    "interaction_matrix": Call(
        "layer.interaction_matrix(directions)",
        "layer.BilinearLayer.interaction_matrix",
        matrices,
        {"2 * directions * in^2 * rank": EACH},
        [
            Growth("directions", (16, 32, 64, 128), {"d": 256, "hidden": 256}),
            Growth("d", (200, 400, 800, 1600), {"directions": 1, "hidden": 1024}),
        ],
        names={"rank": "hidden"},
    ),
    "norm": Call(
        "norm(layer)",
        "norm",
        norms,
        {"rank^2 * (in + out)": EACH},
        [
            Growth("hidden", (450, 900, 1800), {"d": 128, "out": 64}),
            Growth("d", (512, 1024, 2048), {"out": 16, "hidden": 1024}),
        ],
        names={"rank": "hidden"},
    ),
    "relative_error": Call(
        "relative_error(other, layer)",
        "relative_error",
        errors,
        {"rank^2 * (in + out)": EACH},
        [Growth("hidden", (450, 900, 1800), {"d": 128, "out": 64, "rank": 32})],
        names={"rank": "hidden + rank"},
    ),
    "tree": Call(
        'similarity(a, b, kind="tree"), networks',
        "inner_products.Tree",
        tree,
        {"rank^2 * (in + out) + rank * in^2": "depth"},
        [
            Growth("hidden", (450, 900, 1800), {"depth": 2, "d": 64}),
            Growth("d", (128, 256, 512, 1024), {"depth": 2, "hidden": 512}),
            Growth("depth", (2, 4, 8), {"d": 64, "hidden": 512}),
        ],
        names={"rank": "hidden", "out": "d"},
    ),
    "symmetric": Call(
        'similarity(a, b, kind="symmetric"), two layers, exact',
        "inner_products.Symmetric",
        symmetric,
        {"rank * r^2 * (4 * h + 8 * h') + rank * h'^2 * (12 * r + 2 * rank')": EACH},
        [Growth("width", (48, 72, 108, 162), {}, SMALL)],
        names=dict.fromkeys(("rank", "rank'", "r", "h", "h'"), "width"),
    ),
    "gaussian": Call(
        'similarity(a, b, kind="gaussian"), two layers, exact',
        "inner_products.Gaussian",
        gaussian,
        {"26 * rank * rank' * r^2": EACH},
        [Growth("width", (32, 48, 72, 108), {}, SMALL)],
        names=dict.fromkeys(("rank", "rank'", "r"), "width"),
    ),
    "closure": Call(
        "similarity(a, b, kind=Gaussian(method='closure'))",
        "inner_products.Gaussian",
        closure,
        {"rank^2 * (in + out)": "depth"},
        [
            Growth("hidden", (450, 900, 1800), {"depth": 2, "d": 64}),
            Growth("depth", (2, 4, 8), {"d": 64, "hidden": 512}),
        ],
        names={"rank": "hidden", "out": "d"},
    ),
    "table": Call(
        "similarity(list of layers)",
        "similarity",
        table,
        {"n * (n + 1) / 2": EACH},
        [Growth("networks", (8, 16, 32), {"d": 64, "hidden": 256})],
        names={"n": "networks"},
    ),
}
