"""Vectors in the plane of two eigenvectors, beside controls, and tensors that are put together again from features."""

import types

import pytest
import torch
from helpers import dense, layer_of, normal, of_factors, orthonormal

from examples.parts.circuit_directions import largest_cosine, mean_cosine, reassembly
from examples.parts.circuit_plane import Probe, compare, planes_of_all, token_of
from examples.parts.circuit_statistics import opposing_pair
from tensornet_interp.features import Dictionary

BASIS = orthonormal(9, 9, seed=0)
PLANE, REST = BASIS[:, :2], BASIS[:, 2:]
VALUES = torch.tensor([2.0, -2.0], dtype=torch.float64)


def mixed(inside, outside, seed=1):
    """A vector (in,) with these coordinates in the plane, and a length outside of it."""
    away = torch.nn.functional.normalize(normal(7, seed=seed), dim=0)
    return PLANE @ torch.tensor(inside, dtype=torch.float64) + outside * REST @ away


def row_of(vector, usual, members):
    return compare(VALUES, PLANE, torch.stack(members, 1), Probe("a - b", vector, torch.stack(usual)))


def test_captured_is_the_share_of_the_square_in_the_plane():
    usual = [mixed((1, 0), 3.0), mixed((0, 1), 2.0), mixed((1, 1), 1.0)]
    row = row_of(mixed((3.0, 4.0), 5.0), usual, [mixed((1, 0), 0.0)])
    assert row["captured"] == pytest.approx(0.5)
    assert row["captured_usual"] == pytest.approx((0.1 + 0.2 + 2 / 3) / 3)
    assert row["captured_place"] == pytest.approx(2 / 3)


def test_members_on_the_line_of_the_vector_are_along_it_and_others_are_not():
    members = [mixed((1, 1), 0.0), mixed((-2, -2), 0.0)]
    row = row_of(mixed((3, 3), 1.0), [mixed((1, -1), 1.0), mixed((1, 0), 1.0)], members)
    assert row["along"] == pytest.approx(1)
    assert row["along_usual"] == pytest.approx((0 + 0.5**0.5) / 2, abs=1e-12)
    assert row["along_place"] == 1


def test_the_plane_agrees_with_the_whole_space_unless_the_rest_turns_the_sign():
    vector = mixed((1, 0), 1.0, seed=3)
    members = [mixed((1, 0), 0.5, seed=3), mixed((1, 0), -2.0, seed=3)]  # the second one is opposed outside
    assert row_of(vector, [vector], members)["agree"] == 0.5


def test_two_eigenvalues_of_opposite_sign_cancel_on_the_diagonal():
    row = row_of(mixed((1, 1), 2.0), [mixed((2, 0), 1.0), mixed((0, 1), 1.0)], [mixed((1, 0), 0.0)])
    assert row["one_sided"] == pytest.approx(0, abs=1e-12)
    assert row["activation"] == pytest.approx(0, abs=1e-12)
    assert row["one_sided_usual"] == pytest.approx(0, abs=1e-12)  # +1 and -1
    assert row["activation_usual"] == pytest.approx((8 - 2) / 2)
    assert row["activation_place"] == 0.5


def test_the_most_opposed_pair_is_one_of_the_given_features():
    decoder = torch.stack([BASIS[:, 0], -BASIS[:, 0], BASIS[:, 1], BASIS[:, 2] - 0.5 * BASIS[:, 1]], 1)
    dictionary = Dictionary.from_matrix(decoder)
    assert sorted(opposing_pair(dictionary, [0, 1, 2, 3])) == [0, 1]
    assert sorted(opposing_pair(dictionary, [0, 2, 3])) == [2, 3]


def test_a_word_behind_a_space_comes_first_and_unknown_words_are_passed_over():
    numbers = {"not": 3, "Ġnot": 5, "▁never": 7}
    job = types.SimpleNamespace(tokenizer=types.SimpleNamespace(token_to_id=numbers.get))
    assert token_of(job, ["nay", "not"]) == ("not", 5)
    assert token_of(job, ["never"]) == ("never", 7)
    assert token_of(job, ["nay"]) is None


def test_the_place_of_a_word_is_high_in_planes_that_hold_it_alone():
    """Each of two squares is one output feature; the words differ along the inputs of the first one."""
    size = 6
    eye = torch.eye(size, dtype=torch.float64)
    inputs = eye[:, [0, 2, 1, 3]]
    layer = of_factors(torch.tensor([[1.0, 0, 0.5, 0], [0, 1.0, 0, 0.5]], dtype=torch.float64), inputs, inputs)
    head = normal(300, size, seed=1)
    head[:, :2] *= 0.01
    head[7, 0], head[8, 0] = 9.0, -9.0
    job = types.SimpleNamespace(
        layer=layer,
        options=types.SimpleNamespace(seed=0),
        config=lambda: types.SimpleNamespace(steps=1),
        dictionary=lambda *_: Dictionary.from_matrix(torch.eye(2, dtype=torch.float64)),
        model=types.SimpleNamespace(head=types.SimpleNamespace(weight=head)),
        tokenizer=types.SimpleNamespace(token_to_id={"bad": 7, "good": 8}.get),
    )
    first, second = planes_of_all(job, [0], [1])
    assert (first["of"], first["vector"], first["features"]) == ("about negation", "bad - good", 1)
    assert first["place"] > 0.95
    assert first["far"] == 1
    assert second["place"] < 0.05
    assert second["far"] == 0


def test_features_that_span_the_outputs_give_the_whole_tensor():
    """Half as many features as outputs miss what an orthogonal projection misses; with all of them, nothing is lost."""
    layer = layer_of(8, 9, 11, seed=2)
    outputs = Dictionary.from_matrix(torch.nn.functional.normalize(normal(8, 20, seed=5), dim=0))
    job = types.SimpleNamespace(
        layer=layer,
        options=types.SimpleNamespace(seed=0),
        config=lambda: types.SimpleNamespace(steps=1),
        dictionary=lambda *_: outputs,
    )
    rows = {row["features"]: row for row in reassembly(job)}
    assert list(rows) == [4, 8, 20]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(outputs.encoder[order[:4]].T).Q  # (out, 4)
    flat = dense(layer).flatten(1)
    expected = float((flat - basis @ (basis.T @ flat)).norm() / flat.norm())
    assert rows[4]["error"] == pytest.approx(expected, rel=1e-9)
    # float64, and the condition of 8 random directions
    assert rows[8]["error"] < 1e-10
    assert rows[20]["error"] < 1e-12
    for row in rows.values():
        assert row["within"] < 1e-12
        assert 0 < row["between"] < 1


def test_the_mean_cosine_of_random_directions_is_the_expected_one():
    vectors = torch.nn.functional.normalize(normal(600, 9, seed=1), dim=1)
    layer = layer_of(4, 9, 5, seed=2)
    job = types.SimpleNamespace(
        layer=layer,
        options=types.SimpleNamespace(seed=0),
        config=lambda: types.SimpleNamespace(steps=1),
        dictionary=lambda *_: Dictionary.from_matrix(normal(4, 6, seed=3)),
    )
    # 179,700 pairs of variance below 1 / 9: 0.0008, five times
    assert mean_cosine(vectors) == pytest.approx(reassembly(job)[0]["random"], abs=0.004)


def test_the_largest_cosine_leaves_out_the_diagonal():
    twice = torch.stack([BASIS[:, 0], BASIS[:, 1], -BASIS[:, 0]], 1)
    vectors = torch.stack([BASIS[:, :3], twice])
    assert largest_cosine(vectors[:1]) < 1e-12
    assert largest_cosine(vectors) == pytest.approx(1)
