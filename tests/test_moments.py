"""Moments of data are the textbook ones, and Gram matrices of a layer from its factors those of its dense tensor."""

import pytest
import torch
from helpers import dense, normal

from tensornet_interp import Moments
from tensornet_interp.moments import cross_gram, input_gram
from tensornet_interp.testing import random_layer

EXACT = 1e-12  # of the largest entry: sums of some hundred products in float64


def semidefinite(size, seed, device):
    root = normal(size, size + 1, seed=seed, device=device)
    return root @ root.T


@pytest.mark.parametrize("sizes", [(3, 5, 7), (6, 11, 4), (1, 2, 3), (4, 1, 6)])
@pytest.mark.parametrize("with_moment", [True, False])
@pytest.mark.parametrize("with_metric", [True, False])
def test_input_gram_is_that_of_the_dense_tensor(sizes, with_moment, with_metric, device):
    n_out, n_in, _ = sizes
    layer = random_layer(*sizes, seed=1, device=device)
    moment = semidefinite(n_in, 2, device) if with_moment else None
    metric = semidefinite(n_out, 3, device) if with_metric else None
    found = input_gram(layer, moment, metric)
    eyes = [torch.eye(n, dtype=torch.float64, device=device) for n in (n_in, n_out)]
    x, n = eyes[0] if moment is None else moment, eyes[1] if metric is None else metric
    expected = torch.einsum("oij,jk,op,plk->il", dense(layer), x, n, dense(layer))
    assert (found - expected).abs().max() <= EXACT * expected.abs().max()


def test_input_gram_in_chunks_of_hidden_units(device):
    """More hidden units than a block of rows holds: the sum over blocks is the whole."""
    layer = random_layer(2, 3, 2100, seed=4, device=device)  # 2^22 / 2100 rows a block: two blocks
    expected = torch.einsum("oij,olj->il", dense(layer), dense(layer))
    assert (input_gram(layer) - expected).abs().max() <= EXACT * expected.abs().max()


def test_cross_gram_is_that_of_symmetrized_products(device):
    first, second = random_layer(3, 5, 7, seed=1, device=device), random_layer(2, 5, 4, seed=2, device=device)
    moment = normal(5, 5, seed=3, device=device)  # need not be symmetric

    def units(layer):
        product = torch.einsum("ih,jh->hij", layer.left, layer.right)
        return (product + product.mT) / 2

    expected = torch.einsum("hij,ik,jl,gkl->hg", units(first), moment, moment, units(second))
    found = cross_gram(first, second, moment)
    assert (found - expected).abs().max() <= EXACT * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moments_of_data_are_mean_and_covariance(dtype, device):
    x = (normal(10, 4, seed=1, device=device) + 3).to(dtype)
    found, wide = Moments.of(x), x.double()
    assert (found.count, found.note) == (10, "computed from data")
    assert found.mean.dtype == found.covariance.dtype == torch.float64
    torch.testing.assert_close(found.mean, wide.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.covariance, torch.cov(wide.T), rtol=0, atol=1e-14)
    assert repr(found) == "Moments(in=4, count=10, note='computed from data')"


@pytest.mark.parametrize("rows", [9, 3 * 2**19], ids=["one block", "two blocks"])
def test_a_large_mean_does_not_drown_the_covariance(rows):
    """Deviations are taken from the mean of each block; E[x^2] - E[x]^2 would lose every digit here."""
    steps = normal(rows, 3, seed=2).mul(2**10).round()  # whole numbers: x keeps every digit
    found = Moments.of(steps + 2.0**40)
    # means near 2^40 are known to 2^-13, deviations are near 2^10: 1e-7 of them
    torch.testing.assert_close(found.covariance, torch.cov(steps.T), rtol=0, atol=1e-6 * 2**20)
    torch.testing.assert_close(found.mean - 2.0**40, steps.mean(0), rtol=0, atol=2.0**-10)


def test_fewer_inputs_than_coordinates_have_a_singular_covariance():
    found = Moments.of(normal(3, 8, seed=3).float())
    assert int(torch.linalg.matrix_rank(found.covariance, hermitian=True)) == 2
    torch.testing.assert_close(found.root @ found.root.T, found.covariance, rtol=0, atol=1e-13)


def test_lifted_moments_are_those_of_lifted_inputs():
    x = normal(7, 3, seed=4)
    found, expected = Moments.of(x).lifted(), Moments.of(torch.cat([torch.ones(7, 1).double(), x], 1))
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=0, atol=1e-14)
    assert found.count == 7


def test_the_second_moment_is_not_centred(device):
    mean = normal(3, 1, seed=6, device=device)[:, 0]
    found = Moments(mean, torch.zeros(3, 3, device=device))
    torch.testing.assert_close(found.second_moment, torch.outer(mean, mean), rtol=0, atol=0)
    standard = Moments.standard(3, device=device)
    assert torch.equal(standard.second_moment, torch.eye(3, dtype=torch.float64, device=device))
    assert standard.to("cpu").covariance.device.type == "cpu"


def test_the_tolerance_is_that_of_the_dtype_in_which_the_covariance_came():
    """A negative eigenvalue of the size of rounding in float32 is refused in float64."""
    lowest = -2 * torch.finfo(torch.float32).eps
    covariance = torch.diag(torch.tensor([1.0, lowest]))
    assert float(Moments(torch.zeros(2), covariance).covariance[1, 1]) == lowest
    with pytest.raises(ValueError, match=r"positive semidefinite, its lowest eigenvalue is -2\.384e-07"):
        Moments(torch.zeros(2), covariance.double())


def test_scaled_moments_are_those_of_scaled_inputs():
    x, scale = normal(6, 3, seed=5), torch.tensor(7.0).double()
    found, expected = Moments.of(x).divided_by(scale), Moments.of(x / scale)
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=0, atol=1e-15)
