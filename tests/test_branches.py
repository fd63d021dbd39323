"""Branches for large sizes, with their constants lowered, give the numbers of the branches for small sizes."""

import importlib

import pytest
import torch
from helpers import normal
from test_scales import DIRECTIONS, FUNCTIONS, LAYER, X, bonds, check, circuits, cosines

from tensornet_interp import BilinearLayer, BilinearNetwork, decompose, norm
from tensornet_interp.decompositions.compress import compress, unfolding
from tensornet_interp.fidelity import component_ranking, truncation_curve
from tensornet_interp.inner_products import Gaussian, Symmetric, inner_by_output, relative_error
from tensornet_interp.moments import Moments
from tensornet_interp.testing import random_layer


def curves(layer, directions, x):
    result, labels = decompose(layer, "eigen"), torch.arange(len(x)) % 4
    record = truncation_curve(result, layer, x, labels, (1, 3), by="ablation", rank_on=(x, labels))
    columns = ("accuracy", "cross_entropy", "kl", "mse")
    return {name: (torch.tensor([row[name] for row in record], dtype=torch.float64), 0) for name in columns} | {
        "ranking": (component_ranking(result, "activation", x), 0)
    }


def products(layer, directions, x):
    one, two = (
        BilinearNetwork([layer, random_layer(3, 4, 6, seed=seed).change_basis(outputs=torch.eye(3).double())])
        for seed in (1, 2)
    )
    kinds = {"symmetric": Symmetric(), "gaussian": Gaussian(), "closure": Gaussian(method="closure")}
    kinds |= {"moments": Gaussian(Moments.of(x))}
    return {name: (inner_by_output(one, two, kind=kind).to_tensor(), 0) for name, kind in kinds.items()}


def truncated(layer, directions, x):
    return {
        method: (decompose(layer, method, **options).relative_error, 0)
        for method, options in {
            "output_svd": {"blocks": 2, "rank": 3},
            "hosvd": {"ranks": (2, 3)},
            "tucker": {"ranks": (2, 3)},
            "block_term": {"blocks": 2, "rank": 2},
        }.items()
    } | {"norm": (float(norm(layer)), 0)}


ALL = [*FUNCTIONS, curves, products, truncated]
CONSTANTS = [  # where, which, how low, and what that can change; None for everything
    ("inner_products.frobenius", "CHUNK", 6, None),
    ("inner_products.frobenius", "CHEAP_FLOPS", 0.0, None),
    ("inner_products.symmetric", "CHUNK", 1, [products]),
    ("inner_products.sampling", "_CHUNK", 1, [cosines]),
    ("spectra.matrices", "_GRAM_ROWS", 2, [f for f in FUNCTIONS if f.__name__ == "leading"]),
    ("fidelity.certificates", "_BATCH", 7, [f for f in FUNCTIONS if f.__name__ == "proofs"]),
    ("fidelity.curves", "_BATCH", 7, [curves]),
    ("decompositions.errors", "CHUNK_ELEMENTS", 1, None),
    ("decompositions.errors", "ENTRY_FLOPS", 0.0, None),
    ("decompositions.eigen", "_CHUNK_ELEMENTS", 1, None),
    ("features.lowrank", "_CHUNK_ELEMENTS", 1, [f for f in FUNCTIONS if f.__name__ in ("structure", "low_rank")]),
    ("circuits.search", "_CHUNK_ELEMENTS", 1, [circuits]),
    ("moments", "_CHUNK_ELEMENTS", 1, [bonds, products, truncated]),
]


@pytest.fixture(scope="module")
def plain():
    return {function.__name__: function(LAYER, DIRECTIONS, X) for function in ALL}


@pytest.mark.parametrize(
    ("module", "name", "low", "concerned"), CONSTANTS, ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_lowered_constant_changes_no_number(module, name, low, concerned, plain, monkeypatch):
    place = importlib.import_module(f"tensornet_interp.{module}")
    assert getattr(place, name) > low
    monkeypatch.setattr(place, name, low)
    for function in concerned or ALL:
        check(function(LAYER, DIRECTIONS, X), plain[function.__name__], 0, 0)


def test_gram_matrices_in_the_place_of_the_dense_unfolding(plain, monkeypatch):
    monkeypatch.setitem(unfolding.__kwdefaults__, "max_elements", 1)
    check(truncated(LAYER, DIRECTIONS, X), plain["truncated"], 0, 0)


@pytest.mark.parametrize("method", ["cp", "symmetric_cp", "block_term"])
@pytest.mark.parametrize(("module", "name"), [("starts", "_EIGEN_FLOPS"), ("block_term", "_SWEEP_FLOPS")])
def test_a_start_that_must_be_cheap_is_a_start(method, module, name, monkeypatch):
    """It may end elsewhere: within a tenth of the error of the full start, or below that of the output SVD."""
    options = {"blocks": 2, "rank": 2} if method == "block_term" else {"rank": 4}
    error = decompose(LAYER, "output_svd" if method == "block_term" else method, **options).relative_error
    monkeypatch.setattr(importlib.import_module(f"tensornet_interp.decompositions.{module}"), name, 1.0)
    assert decompose(LAYER, method, **options).relative_error <= (1.0 if method == "block_term" else 1.1) * error


@pytest.mark.parametrize("closeness", [1.0, 1e-1, 1e-2, 1e-3])
@pytest.mark.parametrize("mode", ["out", "in"])
def test_reported_floors_bound_the_error_of_singular_values(mode, closeness):
    """Of Gram matrices, by Cholesky where hidden units are independent: two are equal up to `closeness` here."""
    layer = random_layer(6, 9, 5, seed=3)
    left = torch.cat([layer.left[:, :1] + closeness * normal(9, 1, seed=1), layer.left[:, :1], layer.left[:, 2:]], 1)
    right = torch.cat([layer.right[:, :1], layer.right[:, :1], layer.right[:, 2:]], 1)
    core = compress(BilinearLayer(down=layer.down, left=left, right=right)).core
    _, truth, _ = unfolding(core, mode)
    _, values, floor = unfolding(core, mode, max_elements=1)
    off = torch.zeros(max(len(values), len(truth)), dtype=torch.float64)
    off[: len(values)] += values
    off[: len(truth)] -= truth
    assert float(off.abs().max()) <= floor * float(truth[0])
    if mode == "out":
        assert floor < 5 * 2.3e-16**0.5  # by Cholesky, not by the square root


def test_large_errors_are_measured_without_the_entries(monkeypatch):
    """An error of a result with directions other than the outputs, above what entries may cost."""
    errors = importlib.import_module("tensornet_interp.decompositions.errors")
    square = torch.linalg.qr(normal(4, 4, seed=5)).Q[:3]
    exact = decompose(LAYER, "eigen", directions=square, rank=2)
    monkeypatch.setattr(errors, "ENTRY_FLOPS", 0.0)
    found = decompose(LAYER, "eigen", directions=square, rank=2)
    assert found.relative_error == pytest.approx(exact.relative_error, rel=1e-9)
    assert relative_error(found, LAYER) == pytest.approx(exact.relative_error, rel=1e-9)
    assert found.relative_error <= found.report.relative_error_bound
