"""Runs are compared with each other, never with themselves: planted rotations, swaps and degeneracies are seen."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from bad_input import NAN, cases, check
from helpers import normal

from tensornet_interp import BilinearLayer, Report, SpectralResult, decompose, lift
from tensornet_interp.compare import EIGENVALUE_RANKINGS, jackknife, matched_similarity, ordered_similarity
from tensornet_interp.testing import random_layer

VALUES = [5.0, -4.0, 3.0, 2.0, -1.0]
REPORT = Report("eigen", "planted", (), "x", 0.0)


def planted(blocks=2, values=VALUES, size=7, device="cpu"):
    """Blocks of the same eigenvalues in different random bases."""
    vectors = torch.linalg.qr(normal(blocks, size, len(values), seed=3)).Q.to(device)
    eigenvalues = torch.tensor([values] * blocks, dtype=torch.float64, device=device)
    outputs = torch.eye(blocks, dtype=torch.float64, device=device)
    return SpectralResult(report=REPORT, outputs=outputs, eigenvalues=eigenvalues, eigenvectors=vectors)


def turned(result, first, second, angle):
    """Two eigenvectors of every block rotated into each other."""
    vectors = result.eigenvectors.clone()
    a, b = result.eigenvectors[..., first], result.eigenvectors[..., second]
    vectors[..., first] = math.cos(angle) * a + math.sin(angle) * b
    vectors[..., second] = math.cos(angle) * b - math.sin(angle) * a
    return replace(result, eigenvectors=vectors)


def assert_numbers(found, expected):
    expected = torch.tensor(expected, dtype=torch.float64, device=found.device).expand_as(found)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0, equal_nan=True)


@pytest.mark.parametrize("by", EIGENVALUE_RANKINGS)
def test_equal_runs_of_other_signs_are_alike(by, device):
    one = planted(device=device)
    signs = torch.tensor([1.0, -1, -1, 1, -1], dtype=torch.float64, device=device)
    found = ordered_similarity([one, replace(one, eigenvectors=one.eigenvectors * signs), one], by, 2)
    assert found.pairs == ((0, 1), (0, 2), (1, 2))
    assert found.values.shape == found.subspaces.shape == (3, 2, 2)
    assert_numbers(found.values, 1.0)
    assert_numbers(found.subspaces, 1.0)
    assert not found.degenerate.any()


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("positive", [0.8, 1, 0.8]),  # 5, 3, 2
        ("negative", [1, 1, math.nan]),  # -4, -1
        ("magnitude", [0.8, 1, 1]),  # 5, -4, 3
    ],
)
def test_a_planted_rotation_is_the_cosine_at_its_place(by, expected, device):
    one = planted(device=device)
    found = ordered_similarity([one, turned(one, 0, 3, math.acos(0.8))], by, 3)
    assert_numbers(found.values, expected)


def test_a_place_that_one_run_lacks_is_no_number():
    one = planted()
    other = replace(one, eigenvalues=one.eigenvalues * torch.tensor([1.0, -1, 1, 0, 1]).double())
    found = ordered_similarity([one, other], "positive", 5)  # 5, 3, 2 and 5, 4, 3
    assert_numbers(found.values, [1, 0, 0, math.nan, math.nan])
    assert_numbers(found.subspaces, [1, 1 / 2, 2 / 3, math.nan, math.nan])


def test_a_swap_of_two_places_is_seen_in_the_order_and_not_when_matched():
    one = planted()
    swapped = replace(one, eigenvalues=torch.tensor([[5.0, -2, 3, 4, -1]] * 2).double())
    order = [0, 3, 2, 1, 4]  # results are sorted by magnitude
    swapped = replace(swapped, eigenvalues=swapped.eigenvalues[:, order], eigenvectors=swapped.eigenvectors[..., order])
    found = ordered_similarity([one, swapped], "magnitude", 4)
    assert_numbers(found.values, [1, 0, 1, 0])
    assert_numbers(found.subspaces, [1, 1 / 2, 2 / 3, 1])
    assert_numbers(matched_similarity([one, swapped], 4), 1.0)
    # among two, the partner of the second is not there in either run
    assert_numbers(matched_similarity([one, swapped], 2), [1, 0])


def test_degenerate_eigenvalues_are_flagged_and_their_subspace_is_the_same():
    one = planted(values=[5.0, 3, 3, 2, -2])
    found = ordered_similarity([one, turned(one, 1, 2, 0.7)], "positive", 4)
    assert_numbers(found.values, [1, math.cos(0.7), math.cos(0.7), 1])
    assert_numbers(found.subspaces, [1, (1 + math.cos(0.7) ** 2) / 2, 1, 1])
    assert found.degenerate.tolist() == [[[False, True, True, False]] * 2] * 2
    assert_numbers(found.gaps, [0.4, 0, 0, 0.2])
    # a place by magnitude is not defined either where signs differ
    assert ordered_similarity([one, one], "magnitude", 5).degenerate[0, 0].tolist() == [False, True, True, True, True]
    assert ordered_similarity([one, one], "magnitude", 1, rtol=0.5).degenerate.all()


@pytest.mark.parametrize("by", EIGENVALUE_RANKINGS)
def test_the_numbers_are_those_of_dense_matrices(by):
    layers = [random_layer(3, 6, 4, seed=seed) for seed in range(3)]
    found = ordered_similarity([decompose(layer, "eigen") for layer in layers], by, 2)
    for at, (i, j) in enumerate(found.pairs):
        for block in range(3):
            picked = []
            for layer in (layers[i], layers[j]):
                matrix = layer.to_tensor()[block]
                values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
                key = {"positive": -values, "negative": values, "magnitude": -values.abs()}[by]
                picked.append(vectors[:, key.argsort()[:2]])
            dense = (picked[0].T @ picked[1]).double()
            assert_numbers(found.values[at, block], dense.diagonal().abs().tolist())
            assert_numbers(found.subspaces[at, block], [float(dense[0, 0] ** 2), float(dense.square().sum() / 2)])


def test_what_self_pairs_would_have_added():
    """A mean of 0.88 over distinct pairs of three runs is drawn as 0.92 with the diagonal of ones in."""
    one = planted(values=[2.0, 1.0], size=9)
    first = torch.linalg.cholesky(0.12 * torch.eye(3).double() + 0.88)  # rows: three unit vectors of cosine 0.88
    frame = torch.linalg.qr(normal(9, 4, seed=5)).Q
    runs = [
        replace(one, eigenvectors=torch.stack([torch.stack([frame[:, :3] @ row, frame[:, 3]], 1)] * 2)) for row in first
    ]
    found = ordered_similarity(runs, "positive", 2)
    assert_numbers(found.values, [0.88, 1])
    assert_numbers(found.with_self_pairs, [0.92, 1])


def test_matched_cosines_are_of_the_places_of_both_runs():
    one = planted()
    moved = replace(one, eigenvectors=one.eigenvectors[..., [1, 2, 0, 3, 4]])
    moved = turned(moved, 2, 3, math.acos(0.8))  # holds vectors 0 and 3
    # of places 0 ... 4: 0 of one is at 2, 3 at 3; averaged over both sides
    assert_numbers(matched_similarity([one, moved], 5), [(0.8 + 1) / 2, 1, (1 + 0.8) / 2, 0.8, 1])


@pytest.mark.parametrize("bias", [False, True])
def test_pulled_back_it_is_the_function_of_the_new_inputs(bias, device):
    layer = random_layer(3, 5, 4, seed=0, device=device)
    embedding, shift = normal(5, 8, seed=1).to(device), normal(5, seed=2).to(device)
    if bias:
        layer = lift(layer, left_bias=normal(4, seed=4).to(device)).drop_constant()
    result = decompose(layer, "eigen")
    pulled = result.change_basis(embedding, input_bias=shift if bias else None, basis="pixels")
    x = normal(6, 8, seed=3).to(device)
    torch.testing.assert_close(pulled(x), layer(x @ embedding.T + (shift if bias else 0)))
    assert torch.equal(pulled.eigenvalues, result.eigenvalues)
    if not bias:
        torch.testing.assert_close(pulled.eigenvectors, embedding.T @ result.eigenvectors)
    assert (pulled.report.basis, pulled.to_layer().basis) == ("pixels", "pixels")
    assert pulled.report.method.endswith("pulled back from basis 'as given'")


def test_the_two_bases_of_one_function_differ():
    """Vectors of M through E^T have the cosines of E E^T; those of E^T M E do not depend on how E is written."""
    layers, embeddings = [random_layer(2, 4, 3, seed=s) for s in (0, 1)], [normal(4, 6, seed=s) for s in (2, 3)]
    embedded = [decompose(layer, "eigen") for layer in layers]
    found = ordered_similarity([r.change_basis(e) for r, e in zip(embedded, embeddings, strict=True)])
    images = [e.T @ r.eigenvectors[0, :, 0] for r, e in zip(embedded, embeddings, strict=True)]
    assert_numbers(found.values[0, 0, 0], float(abs(images[0] @ images[1]) / images[0].norm() / images[1].norm()))
    turn = normal(4, 4, seed=4)  # another embedding of the same function
    whole = layers[0].change_basis(inputs=embeddings[0])
    same = layers[0].change_basis(inputs=turn.inverse()).change_basis(inputs=turn @ embeddings[0])
    found = ordered_similarity([decompose(layer, "eigen") for layer in (whole, same)], count=2)
    torch.testing.assert_close(found.values, torch.ones_like(found.values), atol=1e-9, rtol=0)


def pairs_of(n):
    return list(combinations(range(n), 2))


def test_of_averages_over_runs_it_is_the_interval_of_a_mean():
    x = torch.tensor([0.3, 0.9, 0.4, 0.7, 0.6], dtype=torch.float64)
    found = jackknife(torch.stack([(x[i] + x[j]) / 2 for i, j in pairs_of(5)]), pairs_of(5))
    error = float(x.std()) / math.sqrt(5)
    assert float(found.mean) == pytest.approx(float(x.mean()))
    assert float(found.standard_error) == pytest.approx(error)
    assert float(found.high - found.mean) == pytest.approx(2.7764451 * error)  # t of 4 degrees of freedom
    assert float(found.mean - found.low) == pytest.approx(2.7764451 * error)
    assert found.runs == 5


def test_runs_are_left_out_whatever_they_are_called_and_pairs_written():
    values = normal(6, 2, 3, seed=7)
    found = jackknife(values, pairs_of(4), confidence=0.5)
    named = jackknife(values, [(10 * j, 10 * i) for i, j in pairs_of(4)], confidence=0.5)
    torch.testing.assert_close(found.low, named.low)
    without = torch.stack([values[[at for at, p in enumerate(pairs_of(4)) if i not in p]].mean(0) for i in range(4)])
    error = ((without - without.mean(0)).square().sum(0) * 3 / 4).sqrt()
    torch.testing.assert_close(found.standard_error, error)
    assert found.mean.shape == (2, 3)


def test_of_independent_pairs_the_error_is_too_large_on_average():
    """Expected: 4 / (n (n - 2)) where the variance of the mean is 2 / (n (n - 1))."""
    n, draws = 5, 20_000
    squared = jackknife(normal(10, draws, seed=8), pairs_of(n)).standard_error.square()
    assert abs(float(squared.mean()) - 4 / (n * (n - 2))) < 5 * float(squared.std()) / math.sqrt(draws)
    assert float(squared.mean()) > 2 / (n * (n - 1))


ONE = planted()
LIFTED = decompose(lift(random_layer(2, 6, 4, seed=0)).drop_constant(), "eigen")
THREE = torch.ones(3)

TABLE = [
    ("one seed", lambda: ordered_similarity([ONE]), ValueError, "at least 2 results, got 1"),
    ("none", lambda: matched_similarity([]), ValueError, "at least 2 results, got 0"),
    (
        "inputs",
        lambda: ordered_similarity([ONE, planted(size=8)]),
        ValueError,
        r"'in' has size 7 in results\[0\] but 8",
    ),
    ("classes", lambda: matched_similarity([ONE, planted(3)]), ValueError, r"'block' has size 2 in results\[0\] but 3"),
    ("by", lambda: ordered_similarity([ONE, ONE], "largest"), ValueError, "by must be one of magnitude, neg"),
    ("count", lambda: ordered_similarity([ONE, ONE], count=6), ValueError, r"count must be from 1 to 5 \(eigenpairs"),
    ("no count", lambda: matched_similarity([ONE, ONE], 0), ValueError, "count must be from 1 to 5"),
    ("layer", lambda: ordered_similarity([random_layer(2, 7, 3, seed=0)] * 2), TypeError, "got BilinearLayer"),
    ("lifted", lambda: ordered_similarity([ONE, LIFTED]), ValueError, "only one of results 0 and 1 has a constant"),
    (
        "devices",
        lambda: ordered_similarity([ONE, ONE.to("meta")]),
        ValueError,
        r"share one device; got results\[0\] cpu, results\[1\] meta",
    ),
    ("two runs", lambda: jackknife(THREE[:1], [(0, 1)]), ValueError, "runs must be at least 3 .*, got 2"),
    ("self-pair", lambda: jackknife(THREE, [(0, 1), (0, 2), (2, 2)]), ValueError, "all 3 pairs of 3 different runs"),
    ("pair missing", lambda: jackknife(THREE[:2], [(0, 1), (0, 2)]), ValueError, "all 3 pairs of 3 different runs"),
    ("pair twice", lambda: jackknife(torch.ones(4), [*pairs_of(3), (1, 0)]), ValueError, "each once"),
    ("pairs", lambda: jackknife(torch.ones(4), pairs_of(3)), ValueError, "'pair' has size 4 in values but 3 in pairs"),
    (
        "confidence",
        lambda: jackknife(THREE, pairs_of(3), confidence=95),
        ValueError,
        r"confidence must be in \(0, 1\), got 95",
    ),
    ("pull back", lambda: ONE.change_basis(normal(8, 6)), ValueError, "mode 'in' has size 7 in layer but 8 in inputs"),
    ("NaN inputs", lambda: ONE.change_basis(normal(7, 6) * NAN), ValueError, "inputs has 42 entries that are NaN"),
]


@pytest.mark.parametrize(("call", "kind", "message"), cases(TABLE))
def test_bad_input_is_a_clear_error(call, kind, message):
    check(call, kind, message)


def test_the_text_counts_runs_and_pairs():
    assert repr(ordered_similarity([ONE, ONE])) == "OrderedSimilarity(magnitude, 2 runs, 1 pairs, first 1.0000)"


def test_numbers_that_are_not_there_stay_so():
    values = torch.tensor([[0.5, NAN], [0.5, 0.2], [0.5, 0.3]])
    found = jackknife(values, pairs_of(3))
    assert found.low[0] == found.high[0] == 0.5
    assert found.mean[1].isnan()


def test_a_zero_block_has_no_eigenvectors():
    layer = BilinearLayer(down=torch.tensor([[0.0, 0], [1, 2]]), left=torch.eye(2), right=torch.eye(2))
    found = ordered_similarity([decompose(layer, "eigen")] * 2)
    assert found.values[0, 0].isnan()
    assert float(found.values[0, 1, 0]) == pytest.approx(1)
