"""Components of a direction by several methods: what each is by construction, how it is measured, and the script."""

import math

import pytest
import torch
from helpers import read_rows
from test_examples_feature_circuits import random_model

from examples import sparse_components
from examples.parts.sparse_fits import (
    Component,
    SparseActivity,
    combined,
    cp_of_features,
    cp_terms,
    eigen_pairs,
    largest,
    of_shared,
    random_planes,
    rotated_pairs,
)
from examples.parts.sparse_report import differences, per_direction
from tensornet_interp import decompose
from tensornet_interp.decompositions import Factors, Sparse
from tensornet_interp.testing import random_layer

SMALL = "--steps 16 --batch-size 32 --buffer 64 --k 3 --lr 0.01 --no-progress"
FITS = "--directions 2 --components 2 --fit-steps 3"


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def spectrum():
    result = decompose(random_layer(1, 12, 20, seed=0), "eigen")
    return result.eigenvalues[0], result.eigenvectors[0]


def total(components):
    return sum(component.matrix() for component in components)


def test_the_value_of_a_component_is_that_of_its_matrix_and_of_nothing_outside_its_plane():
    x, (left, right) = normal(50, 6, seed=0), normal(2, 6, seed=1)
    for component in (
        Component.product(torch.tensor(-2.0).double(), left, right),
        Component.squares(torch.tensor([3.0, -1.0]).double(), torch.stack([left, right], 1)),
    ):
        expected = (x @ component.matrix() * x).sum(1)
        torch.testing.assert_close(component.activation(x), expected)
        inside = x @ (component.plane @ torch.linalg.pinv(component.plane)).T
        torch.testing.assert_close(component.activation(inside), expected)


def test_pairs_are_the_ends_of_the_spectrum(spectrum):
    values, vectors = spectrum
    first, second = eigen_pairs(values, vectors, 2)
    ends = values.sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(first.matrix())[[0, -1]], ends[[0, -1]])
    torch.testing.assert_close(torch.linalg.eigvalsh(second.matrix())[[0, -1]], ends[[1, -2]])


def test_the_control_is_the_same_sum_of_other_components(spectrum):
    plain, turned = eigen_pairs(*spectrum, 3), rotated_pairs(*spectrum, 3, seed=0)
    torch.testing.assert_close(total(turned), total(plain))
    for one, two in zip(turned, plain, strict=True):
        assert float((one.matrix() - two.matrix()).norm() / one.matrix().norm()) > 0.1
    again, other = rotated_pairs(*spectrum, 3, seed=0), rotated_pairs(*spectrum, 3, seed=1)
    assert torch.equal(again[0].left, turned[0].left)
    assert not torch.allclose(other[0].left, turned[0].left)


def test_random_planes_are_orthogonal_planes_of_the_same_subspace(spectrum):
    plain, planes = eigen_pairs(*spectrum, 3), random_planes(*spectrum, 3, seed=0)
    basis, turned = (torch.cat([one.plane for one in components], 1) for components in (plain, planes))
    torch.testing.assert_close(turned @ turned.T, basis @ basis.T)
    torch.testing.assert_close(turned.T @ turned, torch.eye(6, dtype=torch.float64))
    for one in planes:
        on_plane = one.plane @ one.plane.T
        torch.testing.assert_close(one.matrix(), on_plane @ total(plain) @ on_plane)


def test_sparse_activity_is_0_for_one_token_and_1_for_all_alike():
    x = torch.eye(4, dtype=torch.float64)
    one, all_alike = x[:, :1], torch.ones(4, 1, dtype=torch.float64)
    outputs = torch.ones(1, 1, dtype=torch.float64)
    prior = SparseActivity(x)
    assert float(prior.penalty(Factors(outputs, one, 5 * one))) == pytest.approx(0)
    assert float(prior.penalty(Factors(outputs, all_alike, -3 * all_alike))) == pytest.approx(1)


def test_a_prior_on_activity_makes_terms_that_fewer_tokens_activate():
    layer, x = random_layer(1, 8, 10, seed=0), normal(300, 8, seed=1) ** 3

    def density(components):
        sides = (torch.cat([getattr(c, name) for c in components], 1) for name in ("left", "right"))
        return float(SparseActivity(x).penalty(Factors(x[:1, :1], *sides)))

    free = cp_terms(layer, 3, SparseActivity(x, 0.0), 200)
    sparse = cp_terms(layer, 3, SparseActivity(x, 1.0), 200)
    assert density(sparse) < density(free)
    matrix = layer.interaction_matrix(torch.ones(1, 1, dtype=torch.float64))[0]
    assert combined(sparse, matrix)[1] >= combined(free, matrix)[1]


def test_terms_in_orthogonal_features_are_those_of_the_turned_layer():
    layer = random_layer(1, 6, 8, seed=0)
    turn = torch.linalg.qr(normal(6, 6, seed=1)).Q
    inner = cp_terms(layer.change_basis(inputs=turn), 2, Sparse("inputs", 0.1), 20)
    outer = cp_of_features(layer, turn, 2, 0.1, 20)
    torch.testing.assert_close(total(outer), turn @ total(inner) @ turn.T)


@pytest.mark.parametrize(("method", "options"), [("cp", {"rank": 8}), ("block_term", {"blocks": 3, "rank": 6})])
def test_all_components_of_an_exact_shared_decomposition_make_the_direction(method, options):
    layer, direction = random_layer(3, 6, 8, seed=0), normal(3, seed=1)
    components = of_shared(decompose(layer, method, **options), direction, 8)
    matrix = layer.interaction_matrix(direction[None])[0]
    torch.testing.assert_close(total(components), matrix)
    weights, error = combined(components, matrix)
    assert error < 1e-9
    sizes = [float(component.matrix().norm()) for component in components]
    assert sizes == sorted(sizes, reverse=True)
    assert [float(c.matrix().norm()) for c in largest(components[::-1])] == sizes
    torch.testing.assert_close(sum(w * c.matrix() for w, c in zip(weights, components, strict=True)), matrix)


def test_sparsity_of_spikes_and_of_two_values():
    spike = torch.zeros(100, dtype=torch.float64)
    spike[7] = -5
    found = sparse_components.sparsity(spike)
    assert found["share_90"] == pytest.approx(0.01)
    assert found["above"] == pytest.approx(0.01)
    assert found["kurtosis"] == pytest.approx(1 / (0.01 * 0.99) - 3)  # of one among 100 (Bernoulli)
    both = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(50)
    assert sparse_components.sparsity(both)["kurtosis"] == pytest.approx(1)
    assert sparse_components.sparsity(both)["share_90"] == pytest.approx(0.9)
    gaussian = sparse_components.sparsity(normal(100_000, seed=0))
    assert gaussian["kurtosis"] == pytest.approx(3, abs=5 * math.sqrt(24 / 100_000))
    assert gaussian["above"] == pytest.approx(0.3173, abs=5 * math.sqrt(0.3173 * 0.6827 / 100_000))


def test_the_report_averages_components_and_pairs_directions():
    base = {"kurtosis": 1.0, "share_90": 0.2, "above": 0.1, "drop": 0.1, "difference": 0.0, "passes": 0, "confirmed": 0}
    rows = [
        {"feature": feature, "method": method, "number": number} | base | {"passes": int(number == 1), "kurtosis": k}
        for feature in (3, 5)
        for method, shift in (("eigen pairs", 0), ("other", 10))
        for number, k in ((1, shift + feature), (2, shift + feature), (3, shift + 1000))
    ]
    single = per_direction(rows)
    assert [row["kurtosis"] for row in single] == [3, 13, 5, 15]  # the median
    assert [row["passes"] for row in single] == pytest.approx([1 / 3] * 4)
    found = differences(single, ("kurtosis", "passes"))
    assert [(row["method"], row["kurtosis"], row["passes"]) for row in found] == [("other", 10, 0)] * 2


def test_a_language_model_is_measured_kept_and_drawn_again(tmp_path, capsys):
    place = random_model(tmp_path, layers=2, count=200)
    options = [*SMALL.split(), *FITS.split(), "--model", str(place / "none-0"), "--out", str(tmp_path / "out")]
    sparse_components.main(options)
    (path,) = (tmp_path / "out").glob("*/components.csv")
    rows = read_rows(path)
    methods = {row["method"] for row in rows}
    assert len(methods) == 8
    assert len(rows) == 2 * 8 * 3  # directions, methods, two components and all of them
    by = {(row["feature"], row["method"], row["number"]): row for row in rows}
    for (feature, method, number), row in by.items():
        if method in ("rotated", "random planes") and number == "0":
            same = by[feature, "eigen pairs", "0"]
            for name in ("error", "kurtosis", "drop")[2 if method == "random planes" else 0 :]:
                assert float(row[name]) == pytest.approx(float(same[name]), rel=1e-6)
    before = {file: file.stat().st_mtime_ns for file in (path.parent / "directions").iterdir()}
    figure = path.parent / "components.png"
    figure.unlink()
    printed = capsys.readouterr().out
    sparse_components.main(options)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    sparse_components.main([*options, "--replot"])
    assert figure.is_file()
    assert printed[printed.index("\n2 directions") :] in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"other settings.*components"):
        sparse_components.main([*options, "--components", "1"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--directions", "1"], "--directions"),
        (["--components", "0"], "--components"),
        (["--strengths", "-1"], "--strengths"),
        (["--fit-steps", "0"], "--fit-steps"),
        (["--held-out", "some.npy"], "belong to a --model"),
    ],
)
def test_bad_options_are_named_before_work(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        sparse_components.main([*options, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
