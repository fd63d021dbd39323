"""Symmetric products are those of the dense tensor averaged over all orders of its inputs."""

import math

import pytest
import torch
from helpers import layer_of, normal, permuted, rescaled, stack, swapped, symmetrized
from torch.utils.flop_counter import FlopCounterMode

from tensornet_interp import BilinearLayer, BilinearNetwork, inner, similarity
from tensornet_interp.inner_products import Gaussian, Symmetric, inner_by_output, similarity_by_output

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
    x, y = symmetrized(a.to_tensor()), symmetrized(b.to_tensor())
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


def bond_mixed(layers):
    below, above = layers
    mix = normal(below.shape[0], below.shape[0], seed=7)
    inverse = torch.linalg.inv(mix)
    below = BilinearLayer(down=mix @ below.down, left=below.left, right=below.right)
    return [below, BilinearLayer(down=above.down, left=inverse.T @ above.left, right=inverse.T @ above.right)]


def units_mixed(layers, at):
    """The hidden units of one layer mixed by an invertible matrix before `down`, which is another function."""
    layer = layers[at]
    mix = normal(layer.rank, layer.rank, seed=8)
    changed = BilinearLayer(down=layer.down @ mix, left=layer.left, right=layer.right)
    return [changed if i == at else other for i, other in enumerate(layers)]


@pytest.mark.parametrize("change", [permuted, rescaled, swapped, bond_mixed])
@pytest.mark.parametrize("kind", ["symmetric", "gaussian"])
def test_a_function_written_differently_has_the_same_similarity(change, kind):
    a, b = stack((4, 3, 2), (5, 6), 1), stack((4, 5, 2), (7, 4), 101)
    layers = change(a.layers) if change is bond_mixed else [change(layer) for layer in a.layers]
    other = BilinearNetwork(layers)
    assert abs(float(similarity(other, b, kind=kind)) - float(similarity(a, b, kind=kind))) <= 1e-10
    assert abs(float(similarity(other, a, kind=kind)) - 1) <= 1e-10


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("kind", ["symmetric", "gaussian"])
def test_mixing_hidden_units_is_another_function(at, kind):
    a, b = stack((4, 3, 2), (5, 6), 1), stack((4, 5, 2), (7, 4), 101)
    other = BilinearNetwork(units_mixed(a.layers, at))
    assert abs(float(similarity(other, b, kind=kind)) - float(similarity(a, b, kind=kind))) > 1e-3
    assert float(similarity(other, a, kind=kind)) < 0.99


def test_hidden_units_beyond_what_is_held_at_once_add_up():
    """2^22 entries of quadratic forms are held at once: of two units of the second layer here."""
    (wide, above), b = (layer_of(3, 2, 2**20, 1), layer_of(2, 3, 5, 11)), stack((2, 4, 2), (3, 4), 101)
    narrow = BilinearLayer.from_tensor(wide.symmetrize().to_tensor())
    found, expected = (inner(BilinearNetwork([first, above]), b, kind="symmetric") for first in (wide, narrow))
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


def test_inputs_that_no_layer_sees_cost_nothing():
    """64 inputs embedded in 3: products of quadratic forms are of 2 x 3 coordinates, not 64."""
    networks = [stack((3, 4, 2), (5, 6), seed) for seed in (1, 101)]
    embeds = [normal(3, 64, seed=s) for s in (11, 12)]
    a, b = (
        network.replace(0, network.layers[0].change_basis(inputs=embed))
        for network, embed in zip(networks, embeds, strict=True)
    )
    # the same in the coordinates of the sum of both embeddings' rows
    span = torch.linalg.qr(torch.cat(embeds).T).Q
    small = [n.replace(0, n.layers[0].change_basis(inputs=span)) for n in (a, b)]
    expected = float(inner(*small, kind="symmetric"))
    assert float(inner(a, b, kind="symmetric")) == pytest.approx(expected, rel=1e-11)


def test_scale_is_apart():
    network = stack((3, 2, 2), (4, 5), 1)
    big = BilinearNetwork(
        [BilinearLayer.from_cp((None, [1e60 * x for x, _ in layer.terms()])) for layer in network.layers]
    )
    found, plain = (inner(n, n, kind="symmetric") for n in (big, network))
    assert bool(torch.isfinite(found.value).all())
    # entries 1e60 in 3 factors, twice below and once above, in both networks: 18 times 60 digits
    logs = [math.log(float(result.value)) + result.log_scale for result in (found, plain)]
    assert logs[0] == pytest.approx(logs[1] + 18 * 60 * math.log(10), rel=1e-12)


@pytest.mark.parametrize(("n_in", "ranks"), [(40, (50, 45)), (300, (12, 8))], ids=["inputs", "ranks"])
@pytest.mark.parametrize("kind", [Symmetric("exact"), Gaussian(method="exact")])
def test_exact_products_cost_what_is_stated(kind, n_in, ranks):
    """H r^2 (4 h + 8 h') + H h'^2 (12 r + 2 H') flops, r = min(in, 2 (h + h')): what "auto" decides by."""
    a, b = stack((n_in, 30, 2), (ranks[0], 60), 1), stack((n_in, 20, 2), (ranks[1], 55), 101)
    with FlopCounterMode(display=False) as counter:
        inner(a, b, kind=kind)
    stated = min(
        units * (40**2 * (4 * own + 8 * rank) + rank**2 * (12 * 40 + 2 * others))
        for units, own, rank, others in ((60, *ranks, 55), (55, *ranks[::-1], 60))
    )
    if isinstance(kind, Gaussian):
        stated += 26 * 60 * 55 * 40**2
    assert stated <= counter.get_total_flops() <= 1.5 * stated
