"""Entries as large as 1e60 and as small as 1e-110 neither overflow nor vanish; networks may share layers."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import layer_of, normal

from tensornet_interp import BilinearLayer, BilinearNetwork, Moments, inner, norm, relative_error, similarity
from tensornet_interp.inner_products import Gaussian, Symmetric, Tree
from tensornet_interp.testing import random_layer

SIZES = [1e60, 1e-110]


def sized(layer, *sizes):
    return BilinearLayer.from_cp((None, [size * x for size, (x, _) in zip(sizes, layer.terms(), strict=True)]))


@pytest.mark.parametrize("sizes", [(1e60, 1e60, 1e60), (1, 1e-110, 1e-110), (1e-110, 1e-110, 1), (1e-110, 1e60, 1e60)])
def test_norm_is_what_fits_in_a_float(sizes, device):
    layer = layer_of(3, 4, 6, 1)
    expected = float(norm(layer)) * math.prod(sizes)
    assert float(norm(sized(layer, *sizes).to(device))) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("compressed", [False, True])
def test_relative_error_does_not_depend_on_scale(size, compressed, device):
    n_in = 40 if compressed else 4
    a, b = layer_of(3, n_in, 2, 1), layer_of(3, n_in, 3, 11)
    expected = relative_error(a, b)
    large = [sized(layer, size, size, size).to(device) for layer in (a, b)]
    assert relative_error(*large) == pytest.approx(expected, rel=1e-12)
    assert relative_error(large[0], large[0]) <= 1e-15


@pytest.mark.parametrize(
    "sizes", [(1, 1e200, 1e-200), (1e300, 1e-150, 1e-150), (1e-290, 1e-10, 1e300), (1e300, 1, 1e-300)]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_relative_error_does_not_depend_on_how_a_layer_is_balanced(sizes, compressed, device):
    n_in = 40 if compressed else 4
    a, b = layer_of(3, n_in, 2, 1), layer_of(3, n_in, 3, 11)
    expected = relative_error(a, b)
    odd_a, odd_b = (sized(layer, *sizes).to(device) for layer in (a, b))
    a, b = a.to(device), b.to(device)
    assert [relative_error(odd_a, b), relative_error(a, odd_b)] == pytest.approx([expected] * 2, rel=1e-12)
    assert relative_error(odd_b, b) <= 1e-14


def test_relative_error_of_layers_of_very_different_size():
    a, b = layer_of(3, 4, 2, 1), layer_of(3, 4, 3, 11)
    ratio = float(norm(a) / norm(b))
    assert relative_error(sized(a, 1e200, 1, 1), b) == pytest.approx(1e200 * ratio, rel=1e-12)
    assert relative_error(a, sized(b, 1, 1e-100, 1e-100)) == pytest.approx(1e200 * ratio, rel=1e-12)
    assert relative_error(sized(a, 1e300, 2**14, 2**14), sized(b, 1e300, 1, 1)) == pytest.approx(
        2**28 * ratio, rel=1e-7
    )
    assert relative_error(sized(a, 1e-200, 1, 1), b) == pytest.approx(1, rel=1e-14)
    assert relative_error(sized(a, 1e300, 0, 1), b) == 1
    assert relative_error(sized(a, 1e300, 1e300, 1e300), sized(b, 1e-100, 1, 1)) == math.inf


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [Tree(), Symmetric(samples=100), Gaussian()])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_similarity_does_not_depend_on_scale(size, kind, depth, device):
    widths = (*(4, 3, 5)[:depth], 2)
    a, b = ([layer_of(widths[i + 1], widths[i], 4 + i, seed + 10 * i) for i in range(depth)] for seed in (1, 101))
    expected = float(similarity(BilinearNetwork(a), BilinearNetwork(b), kind=kind))
    large = [BilinearNetwork([sized(x, size, size, size) for x in layers]).to(device) for layers in (a, b)]
    found = similarity(*large, kind=kind)
    # logarithms of thousands are known to eps of themselves
    assert abs(float(found) - expected) <= 1e-10
    assert math.isfinite(inner(*large, kind=kind).log_scale)
    mixed = similarity(large[0], BilinearNetwork(b).to(device), kind=kind)
    assert abs(float(mixed) - expected) <= 1e-10


def test_powers_of_two_are_taken_out_exactly():
    layer, other = layer_of(3, 4, 6, 1), layer_of(3, 4, 5, 11)
    one, far = inner(layer, other), inner(sized(layer, 2.0**200, 2.0**-370, 1), other)
    assert torch.equal(far.value, one.value)
    assert far.log_scale == pytest.approx(one.log_scale - 170 * math.log(2), rel=1e-14)
    assert float(inner(sized(layer, 3e60, 1e-110, 0), other)) == 0


def test_the_scale_of_a_layer_counts_once_for_every_copy():
    below, above = layer_of(3, 4, 6, 1), layer_of(2, 3, 5, 11)
    one = inner(*[BilinearNetwork([below, above])] * 2)
    far = inner(*[BilinearNetwork([sized(below, 1e60, 1, 1), sized(above, 1, 1e-110, 1)])] * 2)
    logs = [math.log(float(result.value)) + result.log_scale for result in (one, far)]
    assert logs[1] == pytest.approx(logs[0] + 2 * (2 * 60 - 110) * math.log(10), rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e60])
def test_one_output_and_its_negative_have_cosine_minus_one(size):
    """All that is carried between layers is then one negative number."""
    first, last = layer_of(1, 4, 3, 1), layer_of(1, 1, 2, 4)
    network = BilinearNetwork([first, last])
    other = BilinearNetwork([first, sized(last, -size, 1, 1)])
    assert float(similarity(network, other, kind="tree")) == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("kind", ["tree", "symmetric", "gaussian", "closure"])
def test_two_networks_may_share_a_layer(kind):
    """What comes to the shared layer from below differs, so its Gram matrix is not symmetric; a copy gives the same."""
    top = random_layer(3, 4, 7, seed=2)
    copy = replace(top, left=top.left.clone(), right=top.right.clone(), down=top.down.clone())
    lower = [random_layer(4, 4, 5, seed=seed) for seed in range(2)]
    moments = Moments.of(normal(50, 4))
    chosen = {
        "tree": Tree(),
        "symmetric": Symmetric(),
        "gaussian": Gaussian(moments),
        "closure": Gaussian(moments, method="closure"),
    }[kind]
    first = BilinearNetwork([lower[0], top])
    shared, apart = (inner(first, BilinearNetwork([lower[1], layer]), kind=chosen) for layer in (top, copy))
    assert float(shared) == pytest.approx(float(apart), rel=1e-12)


@pytest.mark.parametrize("kind", ["tree", "symmetric", "gaussian", "closure"])
def test_gradients_by_torch_func_are_those_of_autograd(kind):
    """Transforms of torch.func allow no hooks on saved tensors, which recomputing for a gradient needs."""
    one, other = ([random_layer(3, 4, 4, seed=seed), random_layer(2, 3, 4, seed=seed + 1)] for seed in (0, 2))
    chosen = {"tree": Tree(), "symmetric": Symmetric(), "gaussian": Gaussian(), "closure": Gaussian(method="closure")}

    def product(down):
        return inner(
            BilinearNetwork([replace(one[0], down=down), one[1]]), BilinearNetwork(other), kind=chosen[kind]
        ).value

    down = one[0].down.clone().requires_grad_()
    (expected,) = torch.autograd.grad(product(down), down)
    torch.testing.assert_close(torch.func.grad(product)(one[0].down), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.func.jacrev(product)(one[0].down), expected, rtol=1e-12, atol=1e-14)
