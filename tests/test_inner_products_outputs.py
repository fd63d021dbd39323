"""Every output of one layer against every output of another: dense matrices and the other inner products agree."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bad_input import LAYER, LIFTED, SQUARE, STACK, ZERO, cases, check
from helpers import dense, layer_of, normal

from tensornet_interp import BilinearLayer, BilinearNetwork, Moments, decompose, lift
from tensornet_interp.inner_products import Gaussian, Symmetric, output_similarity, similarity_by_output
from tensornet_interp.testing import random_layer


def pair(device="cpu"):
    """Other numbers of outputs and hidden units, the same inputs."""
    return random_layer(3, 6, 5, seed=0, device=device), random_layer(4, 6, 7, seed=1, device=device)


def test_symmetric_is_the_cosine_of_dense_interaction_matrices(device):
    a, b = pair(device)
    x, y = dense(a).flatten(1), dense(b).flatten(1)
    expected = x @ y.T / torch.outer(x.norm(dim=1), y.norm(dim=1))
    found = output_similarity(a, b)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    torch.testing.assert_close(output_similarity(b, a), expected.T, atol=1e-13, rtol=0)


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("kind", ["tree", "symmetric", "gaussian"])
def test_the_diagonal_is_the_similarity_of_each_output(kind, lifted):
    a, b = random_layer(3, 6, 5, seed=0), random_layer(3, 6, 7, seed=1)
    if lifted:
        a, b = lift(a, bias=normal(3), left_bias=normal(5)), lift(b, right_bias=normal(7))
    root = normal(6, 6, seed=4)
    if kind == "gaussian":
        kind = Gaussian(Moments(normal(6, seed=3), root @ root.T))
    expected = similarity_by_output(a, b, kind=kind)
    found = output_similarity(a, b, kind=kind)
    torch.testing.assert_close(found.diagonal(), expected.to_tensor(), atol=1e-12, rtol=0)


def test_gaussian_is_an_average_over_inputs():
    """Off the diagonal too: the integrands are of degree 4, for which three nodes an input are exact."""
    a, b = random_layer(2, 3, 4, seed=0), random_layer(3, 3, 2, seed=1)
    nodes, weights = (torch.from_numpy(side) for side in np.polynomial.hermite_e.hermegauss(3))
    x = torch.cartesian_prod(nodes, nodes, nodes)
    w = torch.cartesian_prod(weights, weights, weights).prod(1)
    mean, root = normal(3, seed=2), normal(3, 3, seed=3)
    fa, fb = a(mean + x @ root.T), b(mean + x @ root.T)
    gram = fa.T @ (w[:, None] * fb)
    scale = torch.outer((w @ fa.square()).sqrt(), (w @ fb.square()).sqrt())
    found = output_similarity(a, b, kind=Gaussian(Moments(mean, root @ root.T)))
    torch.testing.assert_close(found, gram / scale, atol=1e-12, rtol=0)


def test_opposed_outputs_are_minus_one_and_scales_do_not_count():
    layer = random_layer(3, 5, 4, seed=0, dtype=torch.float32)
    other = replace(layer, down=-layer.down * 1e-30, left=layer.left * 1e-30)
    found = output_similarity(layer, other)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.diagonal(), -torch.ones(3).double())
    torch.testing.assert_close(found, -output_similarity(layer, layer), atol=1e-6, rtol=0)


def test_decompositions_and_networks_of_one_layer_are_layers():
    a, b = pair()
    expected = output_similarity(a, b)
    found = output_similarity(decompose(a, "eigen"), BilinearNetwork([b]))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


ONE_ZERO = BilinearLayer(down=LAYER.down * torch.tensor([[1.0], [0], [1]]).double(), left=LAYER.left, right=LAYER.right)
TABLE = [
    ("inputs", lambda: output_similarity(LAYER, layer_of(3, 6, 4)), ValueError, "mode 'in' has size 5 in a but 6 in b"),
    ("zero", lambda: output_similarity(LAYER, ZERO), ValueError, "undefined: b is zero in output 0"),
    ("zero output", lambda: output_similarity(ONE_ZERO, LAYER), ValueError, "undefined: a is zero in output 1"),
    ("kind", lambda: output_similarity(LAYER, LAYER, kind="symetric"), ValueError, "did you mean 'symmetric'"),
    (
        "sampled",
        lambda: output_similarity(LAYER, LAYER, kind=Symmetric("sampled")),
        ValueError,
        "output_similarity is exact: leave method out of kind or give method='exact', not 'sampled'",
    ),
    (
        "moments size",
        lambda: output_similarity(LAYER, LAYER, kind=Gaussian(Moments.standard(4))),
        ValueError,
        "mode 'in' has size 5 in network but 4 in moments",
    ),
    ("depth", lambda: output_similarity(STACK, SQUARE), ValueError, "a network of 2 parts is no single layer"),
    (
        "lifted",
        lambda: output_similarity(layer_of(3, 6, 4), LIFTED),
        ValueError,
        "only one of the two has a constant coordinate",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), cases(TABLE))
def test_bad_input_is_a_clear_error(call, kind, message):
    check(call, kind, message)
