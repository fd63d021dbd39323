"""Gaussian products are the quadrature ones, exactly to two layers and by a closure beyond."""

import itertools
import re

import numpy
import pytest
import torch
from helpers import normal, stack

from tensornet_interp import BilinearLayer, BilinearNetwork, Moments, inner, lift, similarity
from tensornet_interp.inner_products import Gaussian, Symmetric, inner_by_output


def quadrature(f, g, mean, covariance, nodes):
    """E[f * g] (out,) by tensor Gauss-Hermite; exact where 2 * 2^layers <= 2 * nodes - 1."""
    size = mean.shape[0]
    points, weights = (torch.from_numpy(array) for array in numpy.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    z = torch.tensor(list(itertools.product(points.tolist(), repeat=size)), dtype=torch.float64)
    w = torch.tensor(list(itertools.product(weights.tolist(), repeat=size)), dtype=torch.float64).prod(1)
    x = mean + z @ torch.linalg.cholesky(covariance).T
    return (w[:, None] * f(x) * g(x)).sum(0)


def distribution(size, with_mean, with_covariance):
    mean = normal(size, seed=51) if with_mean else torch.zeros(size, dtype=torch.float64)
    root = normal(size, size, seed=52)
    return mean, root @ root.T if with_covariance else torch.eye(size, dtype=torch.float64)


# widths of a and of b, plain inputs; 5 nodes an input are exact to degree 9, and two layers squared have degree 8
CASES = [((3, 3), (3, 3)), ((4, 2), (4, 2)), ((3, 3, 2), (3, 4, 2)), ((4, 3, 2), (4, 5, 2))]


@pytest.mark.parametrize(("widths_a", "widths_b"), CASES)
@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("with_mean", [False, True])
@pytest.mark.parametrize("with_covariance", [False, True])
def test_gaussian_is_the_quadrature(widths_a, widths_b, lifted, with_mean, with_covariance, device):
    depth = len(widths_a) - 1
    a, b = stack(widths_a, (4, 6)[:depth], 1, lifted), stack(widths_b, (5, 3)[:depth], 101, lifted)
    mean, covariance = distribution(widths_a[0], with_mean, with_covariance)
    reference, aa, bb = (quadrature(f, g, mean, covariance, 5) for f, g in ((a, b), (a, a), (b, b)))
    given = with_mean or with_covariance
    kind = Gaussian(Moments(mean, covariance).to(device)) if given else "gaussian"
    result = inner_by_output(a.to(device), b.to(device), kind=kind)
    assert result.method == "exact"
    scale = float((aa.sum() * bb.sum()).sqrt())
    assert (result.to_tensor().cpu() - reference).abs().max() <= 1e-12 * scale  # some thousand products
    cosine = similarity(a.to(device), b.to(device), kind=kind)
    assert abs(float(cosine) - float(reference.sum()) / scale) <= 1e-12


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("widths", [(4, 2), (4, 3, 2)])
def test_a_singular_covariance_is_a_constant_input(widths, lifted):
    depth = len(widths) - 1
    f, g, mean = stack(widths, (5, 3)[:depth], 1, lifted), stack(widths, (3, 4)[:depth], 11, lifted), normal(4, seed=3)
    constant = Moments(mean, torch.zeros(4, 4, dtype=torch.float64))
    value = float(inner(f, g, kind=Gaussian(constant)))
    scale = float(f(mean).norm() * g(mean).norm())
    assert abs(value - float((f(mean) * g(mean)).sum())) <= 1e-12 * scale


@pytest.mark.parametrize("size", [1e-60, 1e60])
@pytest.mark.parametrize("with_mean", [False, True])
def test_the_scale_of_the_input_does_not_overflow(size, with_mean):
    """Homogeneous networks of degree 4: the product has the 8th power, the cosine none."""
    a, b = stack((4, 3, 2), (4, 6), 1), stack((4, 5, 2), (5, 3), 101)
    mean, covariance = distribution(4, with_mean, True)
    plain, scaled = Moments(mean, covariance), Moments(size * mean, size**2 * covariance)
    for method in ("exact", "closure", "sampled"):
        expected, found = (similarity(a, b, kind=Gaussian(x, method=method)) for x in (plain, scaled))
        # rounding of the scaled moments, and logarithms of hundreds known to eps of themselves
        assert abs(float(found) - float(expected)) <= 1e-11


@pytest.mark.parametrize("size", [1e-60, 1e60])
def test_inputs_that_are_all_negative_and_certain_do_not_overflow(size):
    a, b = stack((4, 3, 2), (4, 6), 1), stack((4, 5, 2), (5, 3), 101)
    mean, certain = -normal(4).abs(), torch.zeros(4, 4, dtype=torch.float64)
    expected, found = (similarity(a, b, kind=Gaussian(Moments(scale * mean, certain))) for scale in (1, size))
    assert abs(float(found) - float(expected)) <= 1e-11


def golden(seed, depth):
    """The model of formulas.md, section 14: embedding 4 -> 8, layers of width 8 and hidden size 16, head 8 -> 3."""
    torch.manual_seed(seed)

    def linear(n_in, n_out):
        return torch.nn.Linear(n_in, n_out, bias=False)

    embed = linear(4, 8)
    mlps = [[linear(8, 16), linear(8, 16), linear(16, 8)] for _ in range(depth)]
    head = linear(8, 3)
    embed, head = embed.weight.detach().double(), head.weight.detach().double()
    layers = []
    for modules in mlps:
        left, right, down = (module.weight.detach().double() for module in modules)
        layers.append(lift(BilinearLayer.from_weights(left=left, right=right, down=down / 2), residual=0.5))
    layers[0] = layers[0].change_basis(inputs=embed)
    layers[-1] = layers[-1].drop_constant().change_basis(outputs=head)
    return BilinearNetwork(layers)


# value: by quadrature, or what the closure of two layers gives; ten digits are known
GOLDEN = [
    (1, "auto", 0.3265361870, "exact"),
    (2, "auto", -0.0814930279, "exact"),
    (2, "exact", -0.0814930279, "exact"),
    (2, "closure", -0.0760694120, "closure"),
]


@pytest.mark.parametrize(("depth", "method", "value", "says"), GOLDEN)
def test_golden_values(depth, method, value, says, device):
    a, b = golden(42, depth), golden(99, depth)
    result = similarity(a.to(device), b.to(device), kind=Gaussian(method=method))
    assert result.method == says
    assert abs(float(result) - value) <= 1e-9


@pytest.mark.parametrize(("depth", "value"), [(1, 0.3265361870), (2, -0.0814930279)])
def test_golden_values_by_quadrature(depth, value):
    a, b = golden(42, depth), golden(99, depth)
    mean, covariance = distribution(4, False, False)
    ab, aa, bb = (float(quadrature(f, g, mean, covariance, 5).sum()) for f, g in ((a, b), (a, a), (b, b)))
    assert abs(ab / (aa * bb) ** 0.5 - value) <= 1e-9


def test_a_lifted_network_far_from_its_constant_loses_it():
    """At inputs of 1e40 biases are nothing: the cosine is that of the networks without them."""
    a, b = stack((4, 3, 2), (4, 6), 1), stack((4, 5, 2), (5, 3), 101)
    lifted = [
        BilinearNetwork([lift(layer, left_bias=normal(layer.rank, seed=3)) for layer in n.layers]) for n in (a, b)
    ]
    mean, covariance = distribution(4, False, True)
    near, far = Moments(mean, covariance), Moments(mean, 1e80 * covariance)
    for method in ("exact", "closure"):
        expected = float(similarity(a, b, kind=Gaussian(near, method=method)))
        found = similarity(*lifted, kind=Gaussian(far, method=method))
        assert abs(float(found) - expected) <= 1e-11


def test_auto_says_what_it_took():
    two, three = stack((4, 3, 2), (4, 6), 1), stack((3, 2, 2, 2), (2, 3, 2), 1)
    assert inner(two, two, kind="gaussian").method == "exact"
    assert inner(three, three, kind="gaussian").method == "closure"
    wide = stack((600, 150, 2), (500, 600), 1)  # 26 * 600^4 flops for the lower orders alone are above a minute
    found = inner(wide, wide, kind="gaussian")
    assert found.method == "closure"
    assert re.fullmatch(r"closure, about [\d.]+ s on one thread; exact about \d{3} s", found.choice)
    assert inner(two, two, kind="gaussian").choice.startswith("exact, about ")
    assert inner(three, three, kind="gaussian").choice.endswith("; exact is not known beyond two layers")
    assert inner(two, two, kind=Gaussian(method="closure")).choice == ""


def test_the_closure_of_a_network_with_itself_is_positive():
    a = stack((3, 2, 3, 2), (4, 3, 5), 1, lifted=True)
    assert (inner_by_output(a, a, kind=Gaussian(method="closure")).value > 0).all()


def test_exact_beyond_two_layers_names_the_estimates():
    three = stack((3, 2, 2, 2), (2, 3, 2), 1)
    with pytest.raises(
        ValueError, match=r"beyond two layers, and these networks have 3 layers; .*'closure' or 'sampled'"
    ):
        inner(three, three, kind=Gaussian(method="exact"))
    with pytest.raises(ValueError, match="these networks have 3 layers; use an estimate: method='sampled'"):
        similarity(three, three, kind=Symmetric(method="exact"))
