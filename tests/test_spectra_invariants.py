"""Traces, norms and effective ranks of interaction matrices, against dense matrices."""

import pytest
import torch
from helpers import layer_of, normal, times

from tensornet_interp import BilinearLayer, lift
from tensornet_interp.spectra import invariants

LAYERS = {
    "more units than inputs": layer_of(3, 5, 8),
    "few units": layer_of(4, 9, 2, seed=3),
    "lifted": lift(layer_of(5, 5, 3, seed=6), bias=normal(5), left_bias=normal(3), residual=0.5),
    "one column twice": BilinearLayer(down=normal(3, 4), left=normal(6, 4), right=normal(6, 4).abs()),
}


def effective_rank(values):
    return values.abs().sum(1).square() / values.square().sum(1)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e150])
def test_they_are_those_of_the_dense_matrices(name, scale, device):
    layer = times(LAYERS[name], scale).to(device)
    directions = normal(7, layer.shape[0], seed=1, device=device)
    found = invariants(layer, directions)
    values = torch.linalg.eigvalsh(LAYERS[name].to(device).interaction_matrix(directions))
    torch.testing.assert_close(found.trace / scale, values.sum(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.norm / scale, values.square().sum(1).sqrt(), rtol=1e-9, atol=0)
    rank = effective_rank(values)
    slack = 1e-9 * rank  # of the dense eigenvalues
    assert bool((found.rank_low <= rank + slack).all())
    assert bool((rank - slack <= found.rank_high).all())
    assert bool((found.rank_high <= min(layer.shape[1], 2 * layer.rank)).all())


def test_bounds_meet_where_all_eigenvalues_are_those_of_the_units():
    """Orthonormal units with left = right and weights of one sign: trace and sum of norms are both sum |eigenvalue|."""
    basis = torch.linalg.qr(normal(6, 4)).Q
    layer = BilinearLayer(down=normal(3, 4).abs(), left=basis, right=basis)
    found = invariants(layer, torch.eye(3, dtype=torch.float64))
    rank = effective_rank(layer.down)
    torch.testing.assert_close(found.rank_low, rank, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.rank_high, rank, rtol=1e-9, atol=0)


def test_units_that_cancel_have_no_norm_and_no_upper_bound_but_the_size():
    column = normal(5, 1)
    both = column.repeat(1, 2)
    layer = BilinearLayer(down=torch.tensor([[1.0, -1.0]], dtype=torch.float64), left=both, right=both)
    found = invariants(layer, torch.ones(1, 1, dtype=torch.float64))
    assert float(found.norm) < 1e-7 * float(column.square().sum())
    assert float(found.rank_high) == 4
    dead = invariants(times(layer, 0.0), torch.ones(1, 1, dtype=torch.float64))
    assert [float(value) for value in vars(dead).values()] == [0, 0, 0, 0]


def test_records_have_one_row_per_direction():
    found = invariants(LAYERS["few units"], normal(2, 4))
    assert [row["block"] for row in found.records()] == [0, 1]
    assert found.records()[1]["trace"] == float(found.trace[1])
    assert repr(found).startswith("Invariants(block=2, effective rank between ")
