"""Sampled products are unbiased, and their standard errors are of the right size."""

import itertools
import math

import numpy
import pytest
import torch
from helpers import LargestArray, normal, stack

from tensornet_interp import Moments, inner, similarity
from tensornet_interp.inner_products import Gaussian, Symmetric, inner_by_output


def coefficients(network):
    """c[out, k] of f(x1, x2) = sum_k c_k x1^(n - k) x2^k for a network of two inputs, the constant one included."""
    degree = 2 ** len(network)
    t = torch.cos(torch.pi * (torch.arange(degree + 1, dtype=torch.float64) + 0.5) / (degree + 1))
    values = network.multilinear(torch.stack([torch.ones_like(t), t], 1))
    return torch.linalg.solve(t[:, None] ** torch.arange(degree + 1), values).T


def symmetric_oracle(f, g):
    """sum_k c_k c'_k / binomial(n, k), (out,): the Frobenius product of the symmetric tensors of order n."""
    degree = 2 ** len(f)
    weights = torch.tensor([1 / math.comb(degree, k) for k in range(degree + 1)], dtype=torch.float64)
    return coefficients(f) * coefficients(g) @ weights


THREE = [
    (stack((2, 3, 2, 3), (4, 3, 5), 1), stack((2, 2, 4, 3), (3, 5, 4), 101)),
    (stack((1, 2, 2, 3), (3, 3, 4), 1, lifted=True), stack((1, 3, 2, 3), (2, 4, 3), 101, lifted=True)),
]


@pytest.mark.parametrize("networks", THREE, ids=["plain", "lifted"])
def test_three_layers_symmetric_is_the_brute_force(networks, device):
    a, b = networks
    expected, aa, bb = (symmetric_oracle(f, g) for f, g in ((a, b), (a, a), (b, b)))
    result = inner_by_output(a.to(device), b.to(device), kind="symmetric")
    assert result.method == "sampled"
    scale = math.exp(result.log_scale)
    error = result.standard_error.cpu() * scale
    assert ((result.to_tensor().cpu() - expected).abs() <= 5 * error).all()
    assert (error <= 0.1 * (aa * bb).sqrt()).all()  # 10,000 draws that deviate by a few times the norms
    cosine = similarity(a.to(device), b.to(device), kind="symmetric")
    truth = float(expected.sum() / (aa.sum() * bb.sum()).sqrt())
    assert abs(float(cosine) - truth) <= 5 * float(cosine.standard_error)
    assert 0 < float(cosine.standard_error) < 0.1


def test_the_oracle_is_the_exact_product_of_two_layers():
    a, b = stack((2, 3, 2), (4, 3), 1), stack((2, 2, 2), (3, 5), 101)
    exact = inner_by_output(a, b, kind=Symmetric(method="exact")).to_tensor()
    torch.testing.assert_close(symmetric_oracle(a, b), exact, rtol=1e-11, atol=0)


@pytest.mark.parametrize("lifted", [False, True])
def test_three_layers_gaussian_is_the_quadrature(lifted):
    a, b = stack((2, 3, 2, 3), (4, 3, 5), 1, lifted), stack((2, 2, 4, 3), (3, 5, 4), 101, lifted)
    mean, covariance = normal(2, seed=3), 0.2 * torch.eye(2, dtype=torch.float64)
    points, weights = (torch.from_numpy(array) for array in numpy.polynomial.hermite_e.hermegauss(9))
    weights = weights / weights.sum()
    z = torch.tensor(list(itertools.product(points.tolist(), repeat=2)), dtype=torch.float64)
    w = torch.tensor(list(itertools.product(weights.tolist(), repeat=2)), dtype=torch.float64).prod(1)
    x = mean + 0.2**0.5 * z
    expected = (w[:, None] * a(x) * b(x)).sum(0)
    result = inner_by_output(a, b, kind=Gaussian(Moments(mean, covariance), method="sampled", samples=20_000))
    error = result.standard_error * math.exp(result.log_scale)
    assert ((result.to_tensor() - expected).abs() <= 5 * error).all()


@pytest.mark.parametrize("kind", [Symmetric, Gaussian])
@pytest.mark.parametrize("call", [inner, similarity])
def test_deviations_are_of_the_size_of_the_standard_error(kind, call):
    a, b = stack((3, 2, 2), (4, 3), 1), stack((3, 3, 2), (3, 5), 101)
    # near its mean a Gaussian input has no heavy tails; with them a few draws show too small a standard error
    near = Moments(normal(3, seed=5), 0.05 * torch.eye(3, dtype=torch.float64))
    options = {"moments": near} if kind is Gaussian else {}
    truth = float(call(a, b, kind=kind(method="exact", **options)))
    scores = []
    for seed in range(60):
        found = call(a, b, kind=kind(method="sampled", samples=3000, seed=seed, **options))
        scores.append((float(found) - truth) / (float(found.standard_error) * math.exp(found.log_scale)))
    scores = torch.tensor(scores)
    # 60 draws of a nearly normal score: its standard deviation is known to 9 percent, its mean to 0.13
    assert 0.6 <= float(scores.std()) <= 1.5
    assert abs(float(scores.mean())) <= 0.5


def test_the_seed_decides():
    a, b = THREE[0]
    first, again, other = (inner(a, b, kind=Symmetric(samples=100, seed=seed)) for seed in (3, 3, 4))
    assert float(first) == float(again) != float(other)
    assert float(first.standard_error) == float(again.standard_error)


def test_all_draws_are_used():
    """2^20 hidden activations are held at once, those of some 200,000 draws here."""
    a, b = THREE[0]
    with LargestArray() as largest:
        few, many = (inner(a, b, kind=Symmetric(samples=samples)) for samples in (2000, 300_000))
    assert largest.elements <= 2 * 2**20  # real parts beside imaginary ones
    ratio = float(few.standard_error) * math.exp(few.log_scale - many.log_scale) / float(many.standard_error)
    assert ratio == pytest.approx(math.sqrt(150), rel=0.3)  # the standard error of few draws is an estimate itself
    truth = float(symmetric_oracle(a, b).sum())
    assert abs(float(many) - truth) <= 5 * float(many.standard_error) * math.exp(many.log_scale)


def test_a_network_with_itself_is_one_without_error():
    a, _ = THREE[0]
    cosine = similarity(a, a, kind=Symmetric(samples=100))
    assert abs(float(cosine) - 1) <= 1e-12
    assert float(cosine.standard_error) <= 1e-12
