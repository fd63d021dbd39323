"""Factored matrices: singular values, entries, leading entries and eigenvalues, against the dense matrix."""

import pytest
import torch
from helpers import assert_close, normal

from tensornet_interp.attention import LowRank

MATRIX = LowRank(left=normal(7, 3), right=normal(5, 3, seed=1), rows="a", columns="b")
DENSE = normal(7, 3) @ normal(5, 3, seed=1).T


@pytest.mark.parametrize("matrix", [MATRIX, LowRank(left=normal(2, 3), right=normal(5, 3, seed=1))])
def test_singular_values_and_vectors(matrix):
    dense = matrix.left @ matrix.right.T
    left, values, right = matrix.svd()
    rank = min(3, len(matrix.left))
    assert_close(values, torch.linalg.svdvals(dense)[:rank])
    assert_close((left * values) @ right.T, dense)
    for side in (left, right):
        assert_close(side.T @ side, torch.eye(rank, dtype=torch.float64))
    assert_close(matrix.norm(), dense.norm())
    best = (left[:, :1] * values[:1]) @ right[:, :1].T
    assert_close(matrix.truncate(1).to_tensor(), best)
    assert bool((left.gather(0, left.abs().argmax(0, keepdim=True)) > 0).all())


def test_entries_between_vectors():
    rows, columns = normal(7, 4, seed=2), normal(5, 6, seed=3)
    assert_close(MATRIX.entries(), DENSE)
    assert_close(MATRIX.entries(rows), rows.T @ DENSE)
    assert_close(MATRIX.entries(rows, columns), rows.T @ DENSE @ columns)
    changed = MATRIX.change_basis(columns=columns)
    assert changed.sizes == {"a": 7, "b": 6}


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_leading_entries_are_those_of_the_dense_matrix(chunk):
    order = DENSE.flatten().abs().argsort(descending=True)[:6].tolist()
    found = MATRIX.top(6, chunk=chunk)
    assert [5 * entry.row + entry.column for entry in found] == order
    assert all(entry.value == pytest.approx(float(DENSE[entry.row, entry.column]), rel=1e-14) for entry in found)
    (first,) = MATRIX.top(1, chunk=chunk)
    assert (first.row, first.column) == (found[0].row, found[0].column)


def test_eigenvalues_of_a_square_matrix():
    square = LowRank(left=normal(5, 3), right=normal(5, 3, seed=1))
    dense = torch.linalg.eigvals(square.to_tensor())
    expected = dense[dense.abs().argsort(descending=True)][:3]
    assert_close(square.eigenvalues().abs(), expected.abs())
    assert_close(square.eigenvalues().sum().real, square.to_tensor().trace())
    with pytest.raises(ValueError, match="got 7 rows, 5 columns"):
        MATRIX.eigenvalues()


def test_the_text_has_the_sizes():
    assert repr(MATRIX) == f"LowRank({MATRIX.name!r}, a=7, b=5, rank=3, float64)"


def test_names_of_modes_must_differ():
    with pytest.raises(ValueError, match="two different names"):
        LowRank(left=normal(3, 2), right=normal(3, 2), rows="a", columns="a")
    with pytest.raises(ValueError, match="'rank'"):
        LowRank(left=normal(3, 2), right=normal(3, 2), rows="rank")
