"""Symmetric products are those of the dense tensor averaged over all orders of its inputs."""

import itertools
import math

import pytest
import torch
from stacks import stack, tensor
from torch.utils.flop_counter import FlopCounterMode

from tensornet_interp import BilinearLayer, BilinearNetwork, inner, similarity
from tensornet_interp.inner_products import Gaussian, Symmetric, inner_by_output, similarity_by_output
from tensornet_interp.inner_products.stack import as_stack
from tensornet_interp.inner_products.symmetric import exact_flops, joint_basis, symmetric


def symmetrized(network):
    """The dense tensor (out, in, ...) averaged over all permutations of its inputs."""
    dense = network.to_tensor()
    orders = list(itertools.permutations(range(1, dense.ndim)))
    return sum(dense.permute(0, *order) for order in orders) / len(orders)


CASES = [  # sizes of the plain inputs, lifted: the constant counts as one more
    ((3, 5, 2), (3, 4, 2), False),
    ((4, 3, 2), (4, 5, 2), False),
    ((3, 3, 2), (3, 4, 2), True),
    ((2, 4, 3), (2, 2, 3), True),
    ((3, 2), (3, 2), True),
]


@pytest.mark.parametrize(("widths_a", "widths_b", "lifted"), CASES)
def test_symmetric_is_the_brute_force(widths_a, widths_b, lifted, device):
    a = stack(widths_a, (4, 6)[: len(widths_a) - 1], 1, lifted)
    b = stack(widths_b, (5, 3)[: len(widths_b) - 1], 101, lifted)
    x, y = symmetrized(a), symmetrized(b)
    products = (x * y).flatten(1).sum(1)
    scale = x.norm() * y.norm()
    result = inner_by_output(a.to(device), b.to(device), kind="symmetric")
    assert result.method == "exact"
    assert (result.to_tensor().cpu() - products).abs().max() <= 1e-12 * scale  # some thousand products
    assert float(inner(a, b, kind="symmetric")) == pytest.approx(float(products.sum()), abs=1e-12 * float(scale))
    cosine = similarity(a.to(device), b.to(device), kind="symmetric")
    assert abs(float(cosine) - float(products.sum() / scale)) <= 1e-12
    each = similarity_by_output(a, b, kind="symmetric")
    norms = x.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
    torch.testing.assert_close(each.value, products / norms, rtol=0, atol=1e-12)


def test_one_function_written_in_two_ways():
    """(x1^2)(x2^2) and (x1 x2)^2: as trees orthogonal, as functions equal."""
    eye = torch.eye(2, dtype=torch.float64)
    one = eye.new_ones(1, 1)
    squares = BilinearLayer.from_weights(left=eye, right=eye, down=eye)
    product = BilinearLayer.from_weights(left=eye[:1], right=eye[1:], down=one)
    a = BilinearNetwork([squares, product])
    b = BilinearNetwork([product, BilinearLayer.from_weights(left=one, right=one, down=one)])
    assert float(similarity(a, b, kind="tree")) == 0
    assert abs(float(similarity(a, b, kind="symmetric")) - 1) <= 1e-15
    assert abs(float(similarity(a, b, kind="gaussian")) - 1) <= 1e-14
    assert abs(float(similarity(a, b, kind=Gaussian(method="closure"))) - 1) > 0.1


def permuted(layers):
    order = [torch.randperm(layer.rank, generator=torch.Generator().manual_seed(5)) for layer in layers]
    return [
        BilinearLayer(down=layer.down[:, i], left=layer.left[:, i], right=layer.right[:, i])
        for layer, i in zip(layers, order, strict=True)
    ]


def scaled(layers):
    scales = [torch.linspace(0.5, 3, layer.rank, dtype=torch.float64) for layer in layers]
    return [
        BilinearLayer(down=layer.down / s, left=layer.left * s**3, right=layer.right / s**2)
        for layer, s in zip(layers, scales, strict=True)
    ]


def swapped(layers):
    return [BilinearLayer(down=layer.down, left=layer.right, right=layer.left) for layer in layers]


def bond_mixed(layers):
    below, above = layers
    mix = tensor(below.shape[0], below.shape[0], seed=7)
    inverse = torch.linalg.inv(mix)
    below = BilinearLayer(down=mix @ below.down, left=below.left, right=below.right)
    return [below, BilinearLayer(down=above.down, left=inverse.T @ above.left, right=inverse.T @ above.right)]


def units_mixed(layers, at):
    """The hidden units of one layer mixed by an invertible matrix before `down`, which is another function."""
    layer = layers[at]
    mix = tensor(layer.rank, layer.rank, seed=8)
    changed = BilinearLayer(down=layer.down @ mix, left=layer.left, right=layer.right)
    return [changed if i == at else other for i, other in enumerate(layers)]


@pytest.mark.parametrize("change", [permuted, scaled, swapped, bond_mixed])
@pytest.mark.parametrize("kind", ["symmetric", "gaussian"])
def test_a_function_written_differently_has_the_same_similarity(change, kind):
    a, b = stack((4, 3, 2), (5, 6), 1), stack((4, 5, 2), (7, 4), 101)
    other = BilinearNetwork(change(a.layers))
    assert abs(float(similarity(other, b, kind=kind)) - float(similarity(a, b, kind=kind))) <= 1e-10
    assert abs(float(similarity(other, a, kind=kind)) - 1) <= 1e-10


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("kind", ["symmetric", "gaussian"])
def test_mixing_hidden_units_is_another_function(at, kind):
    a, b = stack((4, 3, 2), (5, 6), 1), stack((4, 5, 2), (7, 4), 101)
    other = BilinearNetwork(units_mixed(a.layers, at))
    assert abs(float(similarity(other, b, kind=kind)) - float(similarity(a, b, kind=kind))) > 1e-3
    assert float(similarity(other, a, kind=kind)) < 0.99


def test_chunks_of_hidden_units_add_up(monkeypatch):
    a, b = stack((4, 3, 2), (5, 6), 1), stack((4, 5, 2), (7, 4), 101)
    whole = float(inner(a, b, kind="symmetric"))
    monkeypatch.setattr("tensornet_interp.inner_products.symmetric._CHUNK", 60)
    assert float(inner(a, b, kind="symmetric")) == pytest.approx(whole, rel=1e-12)


def test_inputs_that_no_layer_sees_cost_nothing():
    """64 inputs embedded in 3: products of quadratic forms are of 2 x 3 coordinates, not 64."""
    networks = [stack((3, 4, 2), (5, 6), seed) for seed in (1, 101)]
    embeds = [tensor(3, 64, seed=s) for s in (11, 12)]
    a, b = (
        network.replace(0, network.layers[0].change_basis(inputs=embed))
        for network, embed in zip(networks, embeds, strict=True)
    )
    basis = joint_basis(a.layers[0], b.layers[0])
    assert basis.shape == (64, 6)
    torch.testing.assert_close(basis.T @ basis, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-14)
    # the same in the coordinates of the sum of both embeddings' rows
    span = torch.linalg.qr(torch.cat(embeds).T).Q
    small = [n.replace(0, n.layers[0].change_basis(inputs=span)) for n in (a, b)]
    expected = float(inner(*small, kind="symmetric"))
    assert float(inner(a, b, kind="symmetric")) == pytest.approx(expected, rel=1e-11)


def test_flops_count_what_the_ranks_allow():
    wide = as_stack(stack((64, 3, 2), (5, 7), 1)), as_stack(stack((64, 3, 2), (6, 9), 101))
    assert exact_flops(*wide) == 4 * 7 * 9 * (2 * (5 + 6)) ** 3
    narrow = as_stack(stack((4, 3, 2), (5, 7), 1)), as_stack(stack((4, 3, 2), (6, 9), 101))
    assert exact_flops(*narrow) == 4 * 7 * 9 * 4**3


def test_scale_is_apart():
    network = stack((3, 2, 2), (4, 5), 1)
    big = BilinearNetwork(
        [BilinearLayer.from_cp((None, [1e60 * x for x, _ in layer.terms()])) for layer in network.layers]
    )
    value, log_scale = symmetric(as_stack(big), as_stack(big))
    plain = float(inner(network, network, kind="symmetric"))
    assert bool(torch.isfinite(value).all())
    # entries 1e60 in 3 factors, twice below and once above, in both networks: 18 times 60 digits
    assert math.log(float(value.sum())) + log_scale == pytest.approx(
        math.log(plain) + 18 * 60 * math.log(10), rel=1e-12
    )


@pytest.mark.parametrize("kind", [Symmetric(method="exact"), Gaussian(method="exact")])
def test_exact_products_cost_what_is_counted(kind):
    """4 H H' r^3 flops, and lower powers of r: what "auto" decides by and the docstring states."""
    a, b = stack((40, 30, 2), (50, 60), 1), stack((40, 20, 2), (45, 55), 101)
    with FlopCounterMode(display=False) as counter:
        inner(a, b, kind=kind)
    counted = exact_flops(as_stack(a), as_stack(b))
    assert counted <= counter.get_total_flops() <= 1.5 * counted
