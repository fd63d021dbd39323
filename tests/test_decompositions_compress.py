"""Compression loses nothing, and spectra of unfoldings are those of the dense tensor down to the stated floor."""

from dataclasses import replace

import pytest
import torch
from helpers import dense, dense_error, normal, of_factors, orthonormal, unfold

from tensornet_interp import BilinearLayer, decompose, lift
from tensornet_interp.decompositions.compress import compress, unfolding
from tensornet_interp.moments import cross_gram
from tensornet_interp.testing import random_layer

PATHS = {"dense": 2**25, "factored": 0}
SIZES = [(3, 17, 4), (7, 5, 11), (12, 3, 4), (1, 6, 5), (5, 1, 3)]  # (out, in, hidden)


def restored(layer):
    state = compress(layer)
    return state, state.restore((state.core.down, state.core.left, state.core.right))


@pytest.mark.parametrize("sizes", SIZES)
def test_compression_is_lossless_at_unit_norm(sizes, device):
    layer = random_layer(*sizes, seed=1, device=device)
    state, back = restored(layer)
    assert dense_error(back, layer) <= 1e-14 * sizes[1]
    assert float(dense(state.core).norm()) == pytest.approx(1, abs=1e-13)
    assert state.core.shape[1] == min(sizes[1], 2 * sizes[2])


def test_compression_finds_the_width_of_an_embedding(device):
    inner = random_layer(3, 4, 9, seed=1, device=device)
    layer = inner.change_basis(inputs=normal(4, 23, seed=2, device=device))
    state, back = restored(layer)
    assert state.core.shape == (3, 4, 4)
    assert dense_error(back, layer) <= 1e-13


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("left", "right", "down"), [(1e7, 1, 1), (1, 1e12, 1), (1e-12, 1, 1e12), (1e15, 1e-15, 1)])
def test_compression_does_not_mind_unbalanced_factors(left, right, down, dtype, device):
    layer = random_layer(3, 40, 4, seed=1, dtype=dtype, device=device)
    layer = BilinearLayer(down=layer.down * down, left=layer.left * left, right=layer.right * right)
    assert dense_error(restored(layer)[1], layer) <= 100 * torch.finfo(dtype).eps


def test_factors_whose_squares_do_not_fit_are_compressed(device):
    layer = random_layer(3, 9, 2, seed=1, device=device)
    huge = BilinearLayer(down=layer.down, left=layer.left * 1e200, right=layer.right * 1e-200)
    state, _ = restored(huge)
    assert float(state.scale) == pytest.approx(float(dense(layer).norm()), rel=1e-12)
    assert float(dense(state.core).norm()) == pytest.approx(1, abs=1e-13)


def test_the_core_of_a_lifted_layer_has_no_constant_coordinate(device):
    layer = lift(random_layer(5, 5, 4, seed=1, device=device), residual=0.5)
    for inputs in (True, False):
        core = compress(layer, inputs=inputs).core
        assert (core.constant_in, core.constant_out) == (False, False)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", ["out", "in"])
@pytest.mark.parametrize("sizes", SIZES)
def test_singular_vectors_and_values_are_those_of_the_dense_unfolding(sizes, mode, path, device):
    core = compress(random_layer(*sizes, seed=1, device=device)).core
    vectors, values, floor = unfolding(core, mode, max_elements=PATHS[path])
    matrix = unfold(dense(core), mode)
    reference = torch.linalg.svdvals(matrix)
    assert floor <= 1e-6
    count = min(len(values), len(reference))
    assert (values[:count] - reference[:count]).abs().max() <= floor * reference[0]
    assert bool((reference[count:] <= floor * reference[0]).all())
    assert bool((values[count:] <= floor * reference[0]).all())
    eye = torch.eye(vectors.shape[1], dtype=torch.float64, device=device)
    assert (vectors.T @ vectors - eye).abs().max() <= 1e-12
    # u^T A has the length of the singular value
    assert ((vectors.T @ matrix).norm(dim=1)[:count] - reference[:count]).abs().max() <= 1e-7


def graded(device, smallest=1e-10, n_out=6, n_in=5, hidden=9):
    """Singular values from 1 to `smallest` that come from `down`, hidden units independent; and those values."""
    layer = random_layer(n_out, n_in, hidden, seed=5, device=device)
    values = torch.logspace(0, torch.tensor(smallest).log10(), n_out, dtype=torch.float64, device=device)
    root = torch.linalg.cholesky(cross_gram(layer, layer))  # down L = U diag(values) V^T
    rows = orthonormal(hidden, n_out, seed=6, device=device).T
    down = orthonormal(n_out, n_out, seed=7, device=device) * values @ rows
    return BilinearLayer(
        down=torch.linalg.solve_triangular(root, down, upper=False, left=False), left=layer.left, right=layer.right
    ), values


@pytest.mark.parametrize("path", PATHS)
def test_small_singular_values_from_down_are_seen(path, device):
    layer, expected = graded(device)
    state = compress(layer)
    values, floor = unfolding(state.core, "out", max_elements=PATHS[path])[1:]
    assert floor <= 1e-10
    assert ((state.scale * values - expected) / expected).abs().max() <= 1e-5


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", ["out", "in"])
@pytest.mark.parametrize("apart", [1e-3, 1e-6, 1e-9, 0.0])
def test_nearly_dependent_hidden_units_are_seen_down_to_the_floor(apart, mode, path, device):
    """Two hidden units that cancel: the true value is of the order of `apart`."""
    layer = random_layer(4, 6, 3, seed=1, device=device)
    down = torch.cat([layer.down, 1e3 * normal(4, 1, seed=2, device=device)], 1)
    down = torch.cat([down, -down[:, -1:]], 1)
    left = torch.cat([layer.left, normal(6, 1, seed=3, device=device)], 1)
    left = torch.cat([left, left[:, -1:] + apart * normal(6, 1, seed=4, device=device)], 1)
    right = torch.cat([layer.right, layer.right[:, :1], layer.right[:, :1]], 1)
    core = BilinearLayer(down=down, left=left, right=right)
    values, floor = unfolding(core, mode, max_elements=PATHS[path])[1:]
    reference = torch.linalg.svdvals(unfold(dense(core), mode))
    count = min(len(values), len(reference))
    # the floor is a share of the terms that cancel, where they are larger than the tensor
    size = max(float(reference[0]), float((down.norm(dim=0) * left.norm(dim=0) * right.norm(dim=0)).max()))
    assert floor <= 1e-6
    assert (values[:count] - reference[:count]).abs().max() <= floor * size


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", ["out", "in"])
def test_singular_values_are_differentiable(mode, path):
    layer = random_layer(3, 4, 5, seed=1)
    weights = [t.requires_grad_() for t in (layer.down, layer.left, layer.right)]

    def values(*factors):
        return unfolding(of_factors(*factors), mode, max_elements=PATHS[path])[1]

    assert torch.autograd.gradcheck(values, weights)


@pytest.mark.parametrize("method", ["cp", "hosvd", "output_svd"])
def test_a_norm_beyond_float64_is_an_error(method):
    layer = random_layer(3, 6, 4, seed=0)
    large = replace(layer, left=layer.left * 1e200, right=layer.right * 1e200)
    with pytest.raises(ValueError, match=r"the norm of .* is about 2\^13\d\d, beyond the range of float64; rescale it"):
        decompose(large, method)


@pytest.mark.parametrize("condition", [1e2, 1e6, 1e9, 1e12])
def test_bases_are_orthonormal_at_any_condition(condition, device):
    """Near dependence of the columns costs neither orthogonality nor what the basis spans."""
    n_in, rank = 40, 6
    sides = [torch.linalg.qr(normal(n, 2 * rank, seed=n, device=device)).Q for n in (n_in, 2 * rank)]
    sizes = torch.logspace(0, -torch.tensor(condition).log10().item(), 2 * rank, dtype=torch.float64, device=device)
    left, right = ((sides[0] * sizes) @ sides[1].T).split(rank, 1)
    layer = BilinearLayer(down=normal(3, rank, seed=1, device=device), left=left, right=right)
    state = compress(layer)
    assert state.basis.shape == (n_in, 2 * rank)
    assert (state.basis.T @ state.basis - torch.eye(2 * rank).to(left)).abs().max() <= 1e-14 * n_in
    for name in ("left", "right"):
        given = getattr(layer, name)
        spanned = state.basis @ (state.basis.T @ given)
        assert (spanned - given).norm() <= 1e-14 * given.norm()
