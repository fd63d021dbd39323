"""Activations from a few eigenpairs and the ranking by structure, against dense matrices."""

import math

import numpy as np
import pytest
import torch
from helpers import normal

from tensornet_interp import BilinearLayer, decompose, lift
from tensornet_interp.features import low_rank_correlation, rank_by_structure
from tensornet_interp.testing import random_layer

OUT, IN, HIDDEN, FEATURES, TOKENS = 3, 7, 5, 4, 23
BASIS = "stream after the norm"


def given(lifted, device):
    layer = random_layer(OUT, IN, HIDDEN, seed=0, device=device)
    if lifted:
        layer = lift(layer, left_bias=normal(HIDDEN, seed=5, device=device), bias=normal(OUT, seed=6, device=device))
    return layer, normal(FEATURES, layer.shape[0], seed=1, device=device), normal(TOKENS, IN, seed=2, device=device)


def select(records, **fields):
    (record,) = [r for r in records if all(r[key] == value for key, value in fields.items())]
    return record


@pytest.mark.parametrize("lifted", [False, True])
def test_correlation_is_that_of_truncated_and_true_activations(lifted, device):
    layer, directions, x = given(lifted, device)
    bias = normal(FEATURES, seed=3, device=device)
    full = min(layer.shape[1], 2 * layer.rank)
    records = low_rank_correlation(layer, directions, x, (1, 2, full), basis=BASIS, bias=bias, active=0.3)
    assert len(records) == 3 * FEATURES
    inputs = torch.cat([torch.ones_like(x[:, :1]), x], 1) if lifted else x
    for feature in range(FEATURES):
        matrix = layer.interaction_matrix(directions[feature])
        values, vectors = torch.linalg.eigh(matrix)
        order = values.abs().argsort(descending=True)
        true = ((inputs @ matrix) * inputs).sum(1).cpu()
        on = true + bias[feature].cpu() > 0.3
        for k in (1, 2, full):
            kept = order[:k]
            found = ((inputs @ vectors[:, kept]).square() @ values[kept]).cpu()
            record = select(records, feature=feature, k=k)
            assert record["correlation"] == pytest.approx(np.corrcoef(found, true)[0, 1], abs=1e-12)
            assert record["active_correlation"] == pytest.approx(np.corrcoef(found[on], true[on])[0, 1], abs=1e-12)
            assert (record["tokens"], record["active"], record["basis"]) == (TOKENS, int(on.sum()), BASIS)
        assert select(records, feature=feature, k=full)["correlation"] == pytest.approx(1, abs=1e-12)


def test_active_tokens_can_be_given(device):
    layer, directions, x = given(False, device)
    mask = normal(TOKENS, FEATURES, seed=4, device=device) > 0.2
    chosen = low_rank_correlation(layer, directions, x, (2,), basis=BASIS, active=mask)
    for feature in range(FEATURES):
        alone = low_rank_correlation(layer, directions[feature][None], x[mask[:, feature]], (2,), basis=BASIS)
        record = select(chosen, feature=feature)
        assert record["active"] == int(mask[:, feature].sum())
        assert record["active_correlation"] == pytest.approx(alone[0]["correlation"], abs=1e-12)


def test_an_undefined_correlation_is_nan():
    layer, directions, x = given(False, "cpu")
    mask = torch.zeros(TOKENS, FEATURES, dtype=torch.bool)
    mask[:3, 1] = True
    directions[2] = 0
    records = low_rank_correlation(layer, directions, x, (1,), basis=BASIS, active=mask)
    assert math.isnan(select(records, feature=0)["active_correlation"])
    assert math.isfinite(select(records, feature=1)["active_correlation"])
    assert math.isnan(select(records, feature=2)["correlation"])
    assert math.isfinite(select(records, feature=0)["correlation"])
    for tokens in (5, 7, 11):  # the mean of equal numbers is not always that number
        alike = low_rank_correlation(layer, directions, x[:1].expand(tokens, -1), (1, 2, 3), basis=BASIS)
        assert all(math.isnan(record["correlation"]) for record in alike)


def test_what_is_worked_on_in_parts_is_the_same():
    """2^24 entries are held at once: five features at 2^20 tokens and 3 eigenpairs, 16 of 2^19 hidden units."""
    layer, directions, _ = given(False, "cpu")
    x = normal(2**20, IN, seed=2)
    records = low_rank_correlation(layer, directions, x, (3,), basis=BASIS)
    assert [record["feature"] for record in records] == list(range(FEATURES))
    for feature in (0, FEATURES - 1):
        matrix = layer.interaction_matrix(directions[feature])
        values, vectors = torch.linalg.eigh(matrix)
        kept = values.abs().argsort(descending=True)[:3]
        found, true = (x @ vectors[:, kept]).square() @ values[kept], ((x @ matrix) * x).sum(1)
        assert records[feature]["correlation"] == pytest.approx(np.corrcoef(found, true)[0, 1], abs=1e-12)
    directions = normal(19, 3, seed=1)
    wide = random_layer(3, 2, 2**19, seed=0)
    small = BilinearLayer.from_tensor(wide.symmetrize().to_tensor())
    found, expected = (rank_by_structure(part, directions) for part in (wide, small))
    for name in ("feature", "share", "norm"):
        assert [record[name] for record in found] == pytest.approx([record[name] for record in expected], rel=1e-9)


@pytest.mark.parametrize("hidden", [2, HIDDEN])  # through a thin QR, and dense
def test_structure_is_the_share_of_the_two_leading_eigenvalues(hidden, device):
    layer = random_layer(OUT, IN, hidden, seed=0, device=device)
    directions = normal(6, OUT, seed=1, device=device)
    values = torch.linalg.eigvalsh(layer.interaction_matrix(directions)).cpu()
    records = rank_by_structure(layer, directions)
    assert [record["place"] for record in records] == [1, 2, 3, 4, 5, 6]
    shares = [record["share"] for record in records]
    assert shares == sorted(shares, reverse=True)
    for record in records:
        own = values[record["feature"]]
        own = own[own.abs().argsort(descending=True)]
        squared = float(own.square().sum())
        assert record["share"] == pytest.approx(float(own[:2].square().sum()) / squared, rel=1e-12)
        assert (record["first"], record["second"]) == pytest.approx((float(own[0]), float(own[1])), rel=1e-11)
        assert record["opposite"] == (float(own[0] * own[1]) < 0)
        assert record["norm"] == pytest.approx(math.sqrt(squared), rel=1e-12)
        assert record["effective_rank"] == pytest.approx(float(own.abs().sum()) ** 2 / squared, rel=1e-11)
        assert record["basis"] == "as given"


def test_gates_and_squares_come_first_and_zero_last():
    """Outputs: random, a x b, zero, a^2; the length of a direction plays no part."""
    noise = random_layer(1, IN, HIDDEN, seed=0)
    a, b = torch.linalg.qr(normal(IN, 2, seed=1))[0].T
    down = torch.zeros(4, HIDDEN + 2).double()
    down[0, :HIDDEN] = noise.down
    down[1, HIDDEN], down[3, HIDDEN + 1] = -2.0, 1e-3
    left = torch.cat([noise.left, a[:, None], a[:, None]], 1)
    right = torch.cat([noise.right, b[:, None], a[:, None]], 1)
    records = rank_by_structure(BilinearLayer(down=down, left=left, right=right), torch.eye(4).double())
    assert [record["feature"] for record in records] in ([1, 3, 0, 2], [3, 1, 0, 2])
    gate, square, zero = (select(records, feature=feature) for feature in (1, 3, 2))
    assert (gate["share"], square["share"], zero["share"]) == (pytest.approx(1), pytest.approx(1), 0)
    assert gate["opposite"]
    assert gate["first"] == pytest.approx(-gate["second"], rel=1e-12)
    assert square["effective_rank"] == pytest.approx(1)
    assert gate["effective_rank"] == pytest.approx(2)
    scaled = rank_by_structure(
        BilinearLayer(down=down, left=left, right=right), torch.diag(torch.tensor([9.0, -1, 5, 1e4])).double()
    )
    assert {r["feature"]: r["share"] for r in scaled} == pytest.approx({r["feature"]: r["share"] for r in records})


def test_a_ranking_says_in_which_coordinates_it_was_made():
    layer = random_layer(OUT, IN, HIDDEN, seed=0).change_basis(normal(IN, IN, seed=3), basis=BASIS)
    assert {record["basis"] for record in rank_by_structure(layer, torch.eye(OUT).double())} == {BASIS}


def test_results_stand_for_their_layer():
    layer, directions, x = given(False, "cpu")
    result = decompose(layer, "eigen")
    for a, b in zip(*(low_rank_correlation(m, directions, x, (1,), basis=BASIS) for m in (layer, result)), strict=True):
        assert a["correlation"] == pytest.approx(b["correlation"], abs=1e-10)
