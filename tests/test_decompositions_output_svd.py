"""Shared output directions are the left singular vectors of the dense unfolding, their blocks its right ones."""

import pytest
import torch
from helpers import dense, dense_error, of_factors, unfold

from tensornet_interp import BilinearLayer, decompose, lift
from tensornet_interp.testing import random_layer

EXACT = 1e-11  # of the largest singular value
SIZES = [(3, 17, 4), (7, 5, 11), (12, 3, 4), (1, 6, 5), (5, 1, 3)]  # (out, in, hidden)


@pytest.mark.parametrize("sizes", SIZES)
def test_blocks_are_those_of_the_dense_svd(sizes, device):
    layer = random_layer(*sizes, seed=1, device=device)
    result = decompose(layer, "output_svd")
    matrix = unfold(dense(layer), "out")
    reference = torch.linalg.svdvals(matrix)
    largest, blocks = reference[0], len(result.eigenvalues)
    count = min(len(reference), len(result.singular_values))
    assert (result.singular_values[:count] - reference[:count]).abs().max() <= EXACT * largest
    assert blocks == int((reference > 1e-12 * largest).sum())
    eye = torch.eye(blocks, dtype=torch.float64, device=device)
    assert (result.outputs.T @ result.outputs - eye).abs().max() <= EXACT
    assert (result.eigenvalues.norm(dim=1) - reference[:blocks]).abs().max() <= EXACT * largest
    # every block is the interaction matrix of its direction, in its eigenbasis
    assert torch.equal(result.directions, result.outputs.T)
    expected = torch.einsum("bo,oij->bij", result.directions, dense(layer))
    found = torch.einsum("br,bir,bjr->bij", result.eigenvalues, result.eigenvectors, result.eigenvectors)
    assert (found - expected).abs().max() <= EXACT * largest
    assert dense_error(result, layer) <= EXACT
    assert result.relative_error <= EXACT


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_error_of_a_cut_is_what_was_cut(blocks, rank, device):
    layer = random_layer(4, 5, 11, seed=2, device=device)
    result = decompose(layer, "output_svd", blocks=blocks, rank=rank)
    full = decompose(layer, "output_svd")
    kept = full.eigenvalues[:blocks, :rank].square().sum()
    expected = float((1 - kept / full.eigenvalues.square().sum()).clamp_min(0).sqrt())
    assert result.relative_error == pytest.approx(expected, abs=1e-7)
    assert dense_error(result, layer) == pytest.approx(expected, abs=1e-7)
    assert (result.outputs - full.outputs[:, :blocks]).abs().max() <= EXACT
    assert len(result.singular_values) == 4  # all of them, whatever was cut


def test_directions_below_the_floor_are_left_out(device):
    """Dependent outputs: as many blocks as the rank of the unfolding."""
    layer = random_layer(2, 6, 9, seed=3, device=device)
    repeated = BilinearLayer(
        down=torch.cat([layer.down, layer.down, layer.down.sum(0, True)]), left=layer.left, right=layer.right
    )
    result = decompose(repeated, "output_svd")
    assert result.outputs.shape == (5, 2)
    assert dense_error(result, repeated) <= EXACT
    assert bool((result.singular_values[2:] <= result.report.floor * result.singular_values[0]).all())


def test_a_lifted_layer_keeps_its_constant_coordinates(device):
    layer = lift(random_layer(5, 5, 4, seed=1, device=device), bias=torch.ones(5).double().to(device), residual=0.5)
    result = decompose(layer, "output_svd")
    x = torch.linspace(-1, 1, 10, dtype=torch.float64, device=device).reshape(2, 5)
    assert (result(x) - layer(x)).abs().max() <= 1e-12 * layer(x).abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_narrow_dtypes_come_back_and_the_error_counts_their_rounding(dtype, tolerance, device):
    layer = random_layer(3, 9, 7, seed=1, dtype=dtype, device=device)
    result = decompose(layer, "output_svd")
    assert result.outputs.dtype == result.eigenvectors.dtype == dtype
    assert 0 < result.relative_error <= tolerance
    assert dense_error(result, layer) == pytest.approx(result.relative_error, rel=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("sizes", [(3, 7, 2), (3, 4, 5)], ids=["compressed", "not compressed"])
@pytest.mark.parametrize(("method", "options"), [
    ("eigen", {"rank": 2}), ("output_svd", {"blocks": 2, "rank": 2}), ("hosvd", {"ranks": (2, 2)}),
])  # fmt: skip
def test_truncated_tensors_are_differentiable_in_the_weights(sizes, method, options):
    layer = random_layer(*sizes, seed=4)
    weights = [t.requires_grad_() for t in (layer.down, layer.left, layer.right)]
    assert torch.autograd.gradcheck(lambda *w: dense(decompose(of_factors(*w), method, **options)), weights)
