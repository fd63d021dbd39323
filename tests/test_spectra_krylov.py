"""The parts of the Krylov method: products of a step are shared, bounds are those by hand."""

import math

import pytest
import torch
from helpers import layer_of, normal, with_spectra

from tensornet_interp.moments import cross_gram
from tensornet_interp.spectra import spectra
from tensornet_interp.spectra.bounds import enclose
from tensornet_interp.spectra.matrices import Matrices, rounding_share, squared_norms
from tensornet_interp.spectra.shared import Shared


def test_products_of_a_step_are_shared(monkeypatch):
    """Vectors multiplied are those of the subspaces: none is worked on after it is done, all share the first."""
    multiplied = []
    product = Matrices.__call__

    def counted(self, x):
        multiplied.append(x.shape[0] * x.shape[1])
        return product(self, x)

    monkeypatch.setattr(Matrices, "__call__", counted)
    values = 0.6 ** torch.arange(1, 25, dtype=torch.float64) * normal(31, 24, seed=0).sign()
    layer, directions = with_spectra(values, 0), torch.eye(31, dtype=torch.float64)
    found = spectra(layer, directions, method="krylov", tolerance=1e-6, progress=False)
    assert sum(multiplied) == int(found.steps.sum()) - 30
    assert len(multiplied) == int(found.steps.max()) < 12  # one product for all directions a step
    assert multiplied[:2] == [1, 31]
    multiplied.clear()
    found = spectra(layer, directions, method="krylov", progress=False)  # found in float32, then verified
    assert sum(multiplied) < 1.7 * int(found.steps.sum())


def test_squared_norms_are_those_of_the_matrices():
    layer = layer_of(6, 9, 1100, 0)
    expected = layer.interaction_matrix(torch.eye(6, dtype=torch.float64)).square().sum((1, 2))
    scales = Matrices(layer.left, layer.right, layer.down).scales()
    error = (squared_norms(layer, layer.down) - expected).abs()
    assert (error <= rounding_share(9, 1100) * scales.square()).all()
    assert (expected.sqrt() <= scales).all()
    quadratic = ((layer.down @ cross_gram(layer, layer)) * layer.down).sum(1)
    torch.testing.assert_close(squared_norms(layer, layer.down), quadratic)


def test_products_are_those_of_the_matrices():
    layer = layer_of(31, 24, 40)
    x = normal(31, 3, 24, seed=5)
    expected = x @ layer.interaction_matrix(torch.eye(31, dtype=torch.float64))
    torch.testing.assert_close(Matrices(layer.left, layer.right, layer.down)(x), expected)


def test_enclosure_by_hand():
    """[[2, 1], [1, C]] with |C| <= 0: eigenvalues 1 +- sqrt 2; with |C| <= 3 nothing better than 3 and 1 is known."""
    values, coupling = torch.tensor([[2.0]]).double(), torch.tensor([[[1.0]]]).double()
    sharp = enclose(values, coupling, torch.zeros(1).double(), 1)
    assert float(sharp.near) == pytest.approx(math.sqrt(2) - 1)
    assert float(sharp.place) == pytest.approx(math.sqrt(2) - 1)
    blunt = enclose(values, coupling, torch.tensor([3.0]).double(), 1)
    assert float(blunt.near) == pytest.approx(1.0)  # the residual
    assert float(blunt.place) == pytest.approx((5 + math.sqrt(5)) / 2 - 2)  # of [[2, 1], [1, 3]]


@pytest.mark.parametrize("rest", [0.0, 0.3, 5.0])
def test_enclosures_of_a_negated_matrix_are_the_same(rest):
    values = torch.tensor([[2.0, -1.5, 0.7], [-3.0, -1.0, 0.2]]).double()
    coupling, norms = normal(2, 2, 3, seed=0) / 4, torch.full((2,), rest).double()
    here, there = (enclose(sign * values, sign * coupling, norms, 2) for sign in (1, -1))
    torch.testing.assert_close(there, here, rtol=0, atol=1e-14)  # some roundings of numbers near 3


@pytest.mark.parametrize("decay", [0.6, 0.9, 1.0])
@pytest.mark.parametrize("found", ["leading", "random"])
def test_a_shared_subspace_bounds_what_is_outside_of_a_basis(decay, found):
    """||C||_2^2 <= ||C||_F^2 - t for C = (1 - P) M (1 - P), nearly equal if P leads and weights decay."""
    size = 40
    draws = [decay ** torch.arange(size, dtype=torch.float64)[:, None] * normal(size, 90, seed=seed) for seed in (0, 1)]
    matrices = Matrices(*draws, normal(31, 90, seed=2))
    dense = matrices(torch.eye(size, dtype=torch.float64).expand(31, -1, -1))
    values, vectors = torch.linalg.eigh(dense)
    if found == "leading":
        order = values.abs().argsort(dim=1, descending=True)[:, None, :2].expand(-1, size, -1)
        basis = vectors.gather(2, order).mT
    else:
        basis = torch.linalg.qr(normal(31, size, 2, seed=3)).Q.mT
    shared = Shared.of(matrices, 0, 10**6)
    image = matrices(basis)
    inside = shared.compressed(matrices.weights)
    torch.testing.assert_close(inside, shared.basis.T @ dense @ shared.basis)
    t = shared.outside(inside, basis, image, image @ basis.mT, rounding_share(size, 90) * matrices.scales())
    rest = torch.eye(size, dtype=torch.float64) - basis.mT @ basis
    outside = torch.linalg.eigvalsh(rest @ dense @ rest).square()
    total = outside.sum(1)
    assert (outside.amax(1) <= total - t + 1e-12 * total).all()
    assert (t > 0).all()
    if decay == 0.6 and found == "leading":
        assert (t > 0.9 * (total - outside.amax(1))).all()


def test_a_subspace_has_as_many_vectors_as_there_is_room_for():
    matrices = Matrices(normal(40, 90, seed=0), normal(40, 90, seed=1), normal(3, 90, seed=2))
    assert Shared.of(matrices, 0, 10**6).basis.shape == (40, 10)  # a quarter of the inputs
    assert Shared.of(matrices, 0, 450).products.numel() <= 450
    assert Shared.of(matrices, 0, 44) is None
