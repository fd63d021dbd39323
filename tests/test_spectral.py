"""What a spectral result offers: order, signs, groups of equal eigenvalues, truncation, effective rank."""

import itertools

import pytest
import torch
from helpers import dense, layer_of, normal

from tensornet_interp import BilinearLayer, decompose, inner

EXACT = 1e-10  # of the largest magnitude: eigh is backward stable to about size * eps = 1e-14


def test_order_is_by_magnitude_and_the_sign_is_kept():
    result = decompose(layer_of(4, 7, 6, 1), "eigen")
    magnitude = result.eigenvalues.abs()
    assert (magnitude.diff(dim=1) <= 0).all()
    assert (result.eigenvalues > 0).any()
    assert (result.eigenvalues < 0).any()


def spectrum(values, seed, device="cpu"):
    """One output whose interaction matrix has these eigenvalues, and the orthogonal matrix of its eigenvectors."""
    q = torch.linalg.qr(normal(len(values), len(values), seed=seed, device=device)).Q
    down = torch.tensor([values], dtype=torch.float64, device=device)
    return BilinearLayer(down=down, left=q, right=q), q


def test_groups_of_a_degenerate_spectrum_have_the_right_projectors(device):
    values = [5.0, -3.0, 2.0, 2.0, -3.0, 2.0, 0.5]
    layer, q = spectrum(values, 3, device)
    groups = decompose(layer, "eigen").groups(0)
    assert [len(group.indices) for group in groups] == [1, 2, 3, 1]
    assert sorted(itertools.chain(*(group.indices for group in groups))) == list(range(7))
    for group, value in zip(groups, [5.0, -3.0, 2.0, 0.5], strict=True):
        assert group.eigenvalue == pytest.approx(value, rel=EXACT)
        columns = q[:, [i for i, other in enumerate(values) if other == value]]
        # the gap between groups is at least 1.5 of 5: subspaces are as accurate as eigenvalues
        assert (group.projector - columns @ columns.T).abs().max() <= EXACT


def test_equal_magnitudes_of_opposite_sign_are_two_groups(device):
    layer, _ = spectrum([2.0, -2.0, 2.0, -2.0, 1.0], 4, device)
    result = decompose(layer, "eigen")
    groups = result.groups(0)
    assert sorted(group.eigenvalue for group in groups) == pytest.approx([-2, 1, 2], rel=EXACT)
    total = sum(group.eigenvalue * group.projector for group in groups)
    assert (total - dense(layer)[0]).abs().max() <= EXACT * 2


def test_group_tolerance_is_relative_to_the_largest():
    layer, _ = spectrum([10.0, 1.0, 1.001], 5)
    result = decompose(layer, "eigen")
    assert [len(group.indices) for group in result.groups(0)] == [1, 1, 1]
    assert [len(group.indices) for group in result.groups(0, rtol=1e-3)] == [1, 2]


def test_keep_leaves_the_marked_eigenpairs():
    layer = layer_of(4, 7, 6, 1)
    full = decompose(layer, "eigen")
    positive = full.keep(full.eigenvalues > 0)
    negative = full.keep(full.eigenvalues <= 0)
    x = normal(6, 7, seed=9)
    total = positive(x) + negative(x)
    assert (total - layer(x)).abs().max() <= EXACT * layer(x).abs().max()
    assert (positive(x) >= 0).all()  # every output is a block with output vector e_k
    assert (negative(x) <= 0).all()
    assert positive.relative_error is None
    first = torch.zeros_like(full.eigenvalues, dtype=torch.bool)
    first[:, :2] = True
    assert float(inner(full.keep(first), full.keep(first))) == pytest.approx(
        float(inner(full.truncate(2), full.truncate(2))), rel=EXACT
    )
    with pytest.raises(TypeError, match="mask must be a boolean"):
        full.keep(torch.ones(4, 7))
    with pytest.raises(ValueError, match="shape"):
        full.keep(first[:, :3])


def test_effective_rank_by_hand():
    layer, _ = spectrum([3.0, -4.0, 0.0, 0.0], 6)
    assert float(decompose(layer, "eigen").effective_rank()) == pytest.approx(49 / 25, rel=EXACT)


def test_groups_are_found_at_the_precision_of_the_dtype():
    square = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    orthogonal = torch.linalg.qr(square).Q.float()
    (group,) = decompose(BilinearLayer(down=torch.ones(1, 5), left=orthogonal, right=orthogonal), "eigen").groups(0)
    torch.testing.assert_close(group.projector, torch.eye(5), rtol=0, atol=1e-5)


def test_a_zero_block_has_effective_rank_zero():
    layer = BilinearLayer(down=torch.tensor([[0.0, 0.0], [1.0, 1.0]]), left=torch.eye(2), right=torch.eye(2))
    assert decompose(layer, "eigen").effective_rank().tolist() == [0.0, 2.0]
