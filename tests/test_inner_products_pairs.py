"""Inner products from weights are the dense, or the quadrature, ones."""

import math

import pytest
import torch
from helpers import dense, layer_of, normal, permuted, rescaled, swapped

from tensornet_interp import (
    BilinearLayer,
    BilinearNetwork,
    decompose,
    difference,
    inner,
    lift,
    norm,
    relative_error,
    similarity,
)
from tensornet_interp.inner_products import Gaussian, Symmetric, Tree, inner_by_output, similarity_by_output

TOLERANCE = 1e-12  # of sqrt(<a, a> <b, b>): sums of some thousand products


def tree(layers):
    if len(layers) == 1:
        return dense(layers[0])
    below = dense(layers[0])
    return torch.einsum("oab,aij,bkl->oijkl", dense(layers[1]), below, below)


def pair(depth, device="cpu"):
    """Two stacks with the same inputs and outputs and different widths and ranks."""
    if depth == 1:
        return [layer_of(3, 4, 6, 1, device)], [layer_of(3, 4, 7, 11, device)]
    return (
        [layer_of(5, 4, 6, 1, device), layer_of(3, 5, 8, 21, device)],
        [layer_of(2, 4, 7, 11, device), layer_of(3, 2, 9, 31, device)],
    )


@pytest.mark.parametrize("depth", [1, 2])
def test_tree_is_the_dense_product(depth, device):
    a, b = pair(depth, device)
    products = (tree(a) * tree(b)).flatten(1).sum(1)
    scale = tree(a).norm() * tree(b).norm()
    result = inner_by_output(BilinearNetwork(a), BilinearNetwork(b))
    assert result.method == "exact"
    assert (result.value * math.exp(result.log_scale) - products).abs().max() <= TOLERANCE * scale
    total = inner(BilinearNetwork(a), BilinearNetwork(b))
    assert abs(float(total) - float(products.sum())) <= TOLERANCE * scale
    cosine = float(similarity(BilinearNetwork(a), BilinearNetwork(b)))
    assert abs(cosine - float(products.sum() / scale)) <= TOLERANCE


def test_layers_and_networks_of_one_layer_are_alike():
    (a,), (b,) = pair(1)
    assert float(inner(a, b)) == float(inner(BilinearNetwork([a]), b))


@pytest.mark.parametrize("kind", [Tree, Symmetric, Gaussian])
@pytest.mark.parametrize("verb", [inner, inner_by_output, similarity, similarity_by_output])
def test_the_name_of_a_kind_stands_for_its_default_options(kind, verb):
    a, b = map(BilinearNetwork, pair(2))
    named, made = verb(a, b, kind=kind.name), verb(a, b, kind=kind())
    assert torch.equal(named.value, made.value)
    assert (named.log_scale, named.method) == (made.log_scale, made.method)
    assert kind() == kind()
    with pytest.raises(AttributeError, match="cannot assign to field"):
        kind().samples = 3


@pytest.mark.parametrize("verb", [norm, lambda part: relative_error(part, layer_of(3, 4, 7, 11))])
def test_a_network_of_one_layer_is_its_layer_for_distances(verb):
    """Not its dense tensor: the numbers are equal to the bit."""
    layer = layer_of(3, 4, 6, 1)
    assert float(verb(BilinearNetwork([layer]))) == float(verb(layer))


def test_norm_is_the_frobenius_norm_of_the_symmetrized_tensor(device):
    layer = layer_of(3, 4, 6, 1, device)
    assert float(norm(layer)) == pytest.approx(float(dense(layer).norm()), rel=TOLERANCE)


@pytest.mark.parametrize("kind", ["tree", "symmetric", "gaussian"])
@pytest.mark.parametrize("depth", [1, 2])
def test_outputs_sum_to_the_whole(kind, depth):
    a, b = map(BilinearNetwork, pair(depth))
    each = inner_by_output(a, b, kind=kind)
    assert each.value.shape == (3,)
    total = each.value.sum() * math.exp(each.log_scale)
    assert float(inner(a, b, kind=kind)) == pytest.approx(float(total), rel=1e-10)
    cosines = similarity_by_output(a, b, kind=kind)
    assert cosines.value.abs().max() <= 1


def signed(layer):
    return BilinearLayer(down=layer.down, left=-layer.left, right=-layer.right)


@pytest.mark.parametrize("change", [permuted, rescaled, swapped, signed])
@pytest.mark.parametrize("kind", ["tree", "symmetric", "gaussian"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_network_written_differently_is_the_same(change, kind, depth, device):
    layers, _ = pair(depth, device)
    a, b = BilinearNetwork(layers), BilinearNetwork([change(layer) for layer in layers])
    assert abs(float(similarity(a, b, kind=kind)) - 1) <= TOLERANCE
    assert (similarity_by_output(a, b, kind=kind).value - 1).abs().max() <= TOLERANCE


def test_the_opposite_has_cosine_minus_one_and_scale_does_not_matter():
    layer = layer_of(3, 4, 6, 1)
    other = BilinearLayer(down=-1e-100 * layer.down, left=layer.left, right=layer.right)
    assert abs(float(similarity(layer, other)) + 1) <= TOLERANCE


def test_inner_is_symmetric():
    a, b = map(BilinearNetwork, pair(2))
    for kind in ("tree", "gaussian"):
        assert float(inner(a, b, kind=kind)) == pytest.approx(float(inner(b, a, kind=kind)), rel=1e-10)


def test_low_precision_layers_are_compared_in_float64():
    a, b = layer_of(3, 4, 6, 1).to(dtype=torch.float32), layer_of(3, 4, 7, 11).to(dtype=torch.bfloat16)
    result = inner(a, b)
    assert result.value.dtype == torch.float64
    assert float(result) == pytest.approx(float((dense(a) * dense(b)).sum()), rel=1e-10)


@pytest.mark.parametrize("lifted", [False, True])
def test_relative_error_is_the_dense_one(lifted, device):
    a, b = layer_of(3, 4, 6, 1, device), layer_of(3, 4, 7, 11, device)
    if lifted:
        a, b = lift(a, left_bias=normal(6, seed=1, device=device)), lift(b, bias=normal(3, seed=2, device=device))
    reference = float((dense(a) - dense(b)).norm() / dense(b).norm())
    assert relative_error(a, b) == pytest.approx(reference, rel=TOLERANCE)
    assert relative_error(b, b) <= 1e-15  # a few eps


def test_relative_error_in_compressed_coordinates(device):
    a, b = layer_of(3, 40, 2, 1, device), layer_of(3, 40, 3, 11, device)  # 2 * (2 + 3) < 40
    reference = float((dense(a) - dense(b)).norm() / dense(b).norm())
    assert relative_error(a, b) == pytest.approx(reference, rel=TOLERANCE)


SMALL = 1e-12
# n_out * min(in, 4 rank)^2 is at most 2^25 (a dense difference) for the first two sizes, more for the last
SIZES = [(3, 4, 6), (3, 40, 2), (1031, 181, 90)]


def perturbed(layer):
    """The layer with one factor moved by SMALL of it, and the dense relative error of exactly what was moved."""
    moved = layer.left + SMALL * layer.left.norm() * normal(*layer.left.shape, seed=61).to(layer.left) / 10
    change = moved - layer.left  # what is left of it after rounding, exact (Sterbenz)
    other = BilinearLayer(down=layer.down, left=moved, right=layer.right)
    size = norm(BilinearLayer(down=layer.down, left=change, right=layer.right)) / norm(layer)
    return other, float(size)


@pytest.mark.parametrize(("n_out", "n_in", "rank"), SIZES)
def test_relative_error_resolves_small_differences(n_out, n_in, rank, device):
    layer = layer_of(n_out, n_in, rank, 1, device)
    other, size = perturbed(layer)
    assert 1e-14 < size < 1e-10
    # a dense difference keeps absolute errors of some eps, of 1e-12: better than 1 percent
    assert relative_error(other, layer) == pytest.approx(size, rel=1e-2)
    assert relative_error(layer, layer) <= 1e-15  # a few eps


def test_relative_error_of_a_permuted_layer_is_rounding():
    layer = layer_of(3, 4, 6, 1)
    assert relative_error(permuted(layer), layer) <= 1e-14


def test_relative_error_beyond_dense_sizes_is_the_dense_one():
    a, b = layer_of(1031, 181, 90, 1), layer_of(1031, 181, 91, 11)
    reference = float((dense(a) - dense(b)).norm() / dense(b).norm())
    assert relative_error(a, b) == pytest.approx(reference, rel=1e-10)


@pytest.mark.parametrize("rank", [6, 7])
def test_difference_is_the_difference(rank, device):
    a, b = layer_of(3, 4, 6, 1, device), layer_of(3, 4, rank, 11, device)
    delta = difference(a, b)
    assert (dense(delta) - (dense(b) - dense(a))).abs().max() <= TOLERANCE * dense(b).abs().max()
    x = normal(5, 4, seed=1, device=device)
    assert (delta(x) - (b(x) - a(x))).abs().max() <= TOLERANCE * b(x).abs().max()
    assert delta.history[-1] == "difference of two layers"


def test_difference_keeps_the_digits_of_a_small_change(device):
    layer = layer_of(3, 4, 6, 1, device)
    other, _ = perturbed(layer)
    exact = dense(BilinearLayer(down=layer.down, left=other.left - layer.left, right=layer.right))
    delta = difference(layer, other)
    # no cancellation: relative to the change itself, not to the layers
    assert (dense(delta) - exact).abs().max() <= TOLERANCE * exact.abs().max()
    assert float(norm(delta)) == pytest.approx(float(exact.norm()), rel=1e-10)


def test_difference_of_lifted_layers_is_that_of_the_functions():
    a, b = (lift(layer_of(3, 4, rank, seed), bias=normal(3, seed=seed)) for rank, seed in ((6, 1), (7, 11)))
    x = normal(5, 4, seed=1)
    assert (difference(a, b)(x) - (b(x) - a(x))).abs().max() <= TOLERANCE * b(x).abs().max()


def zero(n_out, n_in, rank):
    layer = layer_of(n_out, n_in, rank, 1)
    return BilinearLayer(down=0 * layer.down, left=layer.left, right=layer.right)


@pytest.mark.parametrize("kind", ["tree", "symmetric", "gaussian"])
def test_similarity_with_zero_is_undefined(kind):
    layer = layer_of(3, 4, 6, 1)
    with pytest.raises(ValueError, match="network b is zero"):
        similarity(layer, zero(3, 4, 5), kind=kind)
    with pytest.raises(ValueError, match="network a is zero"):
        similarity(zero(3, 4, 5), layer, kind=kind)
    assert float(inner(layer, zero(3, 4, 5), kind=kind)) == 0
    down = layer.down.clone()
    down[1] = 0
    partly = BilinearLayer(down=down, left=layer.left, right=layer.right)
    assert abs(float(similarity(partly, partly, kind=kind)) - 1) <= TOLERANCE
    with pytest.raises(ValueError, match="network a is zero in output 1"):
        similarity_by_output(partly, layer, kind=kind)


def test_error_relative_to_zero_is_undefined():
    with pytest.raises(ValueError, match="reference is zero"):
        relative_error(layer_of(3, 4, 6, 1), zero(3, 4, 5))
    assert relative_error(zero(3, 4, 5), layer_of(3, 4, 6, 1)) == pytest.approx(1, rel=TOLERANCE)


@pytest.mark.parametrize("kind", ["tree", "symmetric", "gaussian"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_a_deep_stack_does_not_overflow(kind, size, device):
    depth, width = 12, 4
    layers = [layer_of(width, width, 5, 10 * i, device) for i in range(depth)]
    layers = [BilinearLayer(down=size * layer.down, left=layer.left, right=layer.right) for layer in layers]
    a = BilinearNetwork(layers)
    b = BilinearNetwork([rescaled(swapped(layer)) for layer in layers])
    result = inner(a, b, kind=kind)
    assert math.isfinite(float(result.value))
    assert math.isfinite(result.log_scale)
    # log_scale is of the order 2^12 * 20 and known to eps of that; rounding of layers doubles with each one above
    assert abs(float(similarity(a, b, kind=kind)) - 1) <= 1e-9


def test_a_decomposition_is_compared_like_its_layer():
    layer = layer_of(3, 4, 6, 1)
    assert abs(float(similarity(decompose(layer, "eigen"), layer)) - 1) <= TOLERANCE
    assert abs(float(similarity(decompose(layer, "eigen"), layer, kind="gaussian")) - 1) <= TOLERANCE


def test_arguments_are_checked():
    a = layer_of(3, 4, 6, 1)
    with pytest.raises(ValueError, match="did you mean 'gaussian'"):
        inner(a, a, kind="gausian")
    with pytest.raises(ValueError, match="mode 'in' has size 4 in a but 5 in b"):
        inner(a, layer_of(3, 5, 6, 1))
    with pytest.raises(ValueError, match="mode 'out' has size 3 in a but 2 in b"):
        inner(a, layer_of(2, 4, 6, 1))
    with pytest.raises(ValueError, match="same depth"):
        inner(a, BilinearNetwork([layer_of(4, 4, 6, 1), a]))
    with pytest.raises(ValueError, match="network of 2"):
        relative_error(BilinearNetwork([layer_of(4, 4, 6, 1), a]), a)
    with pytest.raises(ValueError, match="mode 'in'"):
        inner(lift(a), a)


@pytest.mark.parametrize("call", [similarity, difference, relative_error])
def test_operands_on_two_devices_are_refused(call):
    layer = layer_of(3, 4, 5, 0)
    with pytest.raises(ValueError, match=r"share one device.*(cpu.*meta|meta.*cpu)"):
        call(layer, layer.to("meta"))
