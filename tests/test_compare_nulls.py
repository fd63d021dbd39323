"""Null controls destroy what they say and keep the rest; the rank that was planted is the one that is chosen."""

from dataclasses import dataclass

import pytest
import torch
from helpers import layer_of, normal, symmetrized

from tensornet_interp import BilinearLayer, BilinearMap, Moments, lift, relative_error
from tensornet_interp.compare import NULLS, choose_rank, null
from tensornet_interp.decompositions import HOSVD, Eigen, Whitened
from tensornet_interp.metric import Metric
from tensornet_interp.plots import curves

LAYER = layer_of(3, 6, 5)
MOMENTS = Moments(normal(6, seed=3), torch.diag(torch.arange(1.0, 7).double()), count=50, note="from data")


@dataclass(frozen=True)
class Kept:
    """A strategy with moments, which keeps what it was called with."""

    moments: Moments
    calls: tuple[list, list] = ([], [])

    def __call__(self, layer: BilinearLayer) -> BilinearMap:
        self.calls[0].append(self.moments)
        self.calls[1].append(layer)
        return layer


def columns(factor):
    return sorted(tuple(column) for column in factor.T.tolist())


def test_shuffled_weights_are_the_same_vectors_in_new_combinations():
    kept = Kept(MOMENTS, ([], []))
    null(LAYER, kept, lambda result: 1.0, "shuffled", n=4)
    assert len(kept.calls[1]) == 5
    for layer in kept.calls[1][1:]:
        for factor in ("down", "left", "right"):
            assert columns(getattr(layer, factor)) == columns(getattr(LAYER, factor))
        assert torch.equal(layer.left, LAYER.left)
        for factor in ("down", "right"):  # no unit keeps its vector
            assert not (getattr(layer, factor) == getattr(LAYER, factor)).all(0).any()
    assert len({layer.down.sum(0)[0].item() for layer in kept.calls[1][1:]}) > 1
    assert all(moments is MOMENTS for moments in kept.calls[0])


def test_turned_moments_keep_their_spectrum_and_permuted_ones_their_variances():
    spectrum = torch.linalg.eigvalsh(MOMENTS.covariance)
    for kind in ("turned", "permuted"):
        kept = Kept(MOMENTS, ([], []))
        null(LAYER, kept, lambda result: 1.0, kind, n=3, seed=1)
        assert all(torch.equal(layer.down, LAYER.down) for layer in kept.calls[1])
        assert kept.calls[0][0] is MOMENTS
        for moments in kept.calls[0][1:]:
            torch.testing.assert_close(torch.linalg.eigvalsh(moments.covariance), spectrum)
            torch.testing.assert_close(moments.mean.norm(), MOMENTS.mean.norm())
            same = sorted(moments.covariance.diagonal().tolist()) == sorted(MOMENTS.covariance.diagonal().tolist())
            assert same == (kind == "permuted")
            assert moments.note == f"from data, {kind}"
        again = Kept(MOMENTS, ([], []))
        null(LAYER, again, lambda result: 1.0, kind, n=3, seed=1)
        assert torch.equal(again.calls[0][2].covariance, kept.calls[0][2].covariance)


@pytest.mark.parametrize("kind", ["turned", "permuted"])
def test_the_moments_of_a_whitened_strategy_are_changed(kind):
    """Two eigenpairs of the true metric are the best ones there, better than those of data that are not there."""
    strategy, metric = Whitened(Eigen(rank=2), MOMENTS, ridge=0.1), Metric.of(MOMENTS, ridge=0.1)
    found, notes = [], []

    def error(result):
        notes.append(result.report.metric.note)
        found.append(result.report.metric_error)
        return relative_error(metric.whiten(result), metric.whiten(LAYER))

    control = null(LAYER, strategy, error, kind, n=5)
    assert notes == ["from data"] + [f"from data, {kind}"] * 5
    assert float(control.observed) == pytest.approx(found[0], rel=1e-9)
    assert float(control.share_below) == 0
    assert all(abs(own - float(value)) > 1e-3 for own, value in zip(found[1:], control.values, strict=True))


def test_a_layer_with_structure_is_outside_its_null_and_one_of_its_null_is_not():
    shared = normal(6, 2, seed=1)
    mixed = [shared @ normal(2, 8, seed=seed) for seed in (2, 3)]
    outputs = normal(3, 4, seed=4)
    structured = BilinearLayer(  # the last four units nearly cancel the first four
        down=torch.cat([outputs, -outputs], 1),
        left=torch.cat([mixed[0][:, :4], mixed[0][:, :4] + 0.1 * normal(6, 4, seed=5)], 1),
        right=torch.cat([mixed[1][:, :4]] * 2, 1),
    )
    size = null(structured, Eigen(rank=1), lambda result: result.eigenvalues.abs().max(), "shuffled", n=19)
    assert float(size.share_below) == 0
    drawn = null(layer_of(3, 30, 40), HOSVD(ranks=(2, 4)), lambda result: result.relative_error, "shuffled", n=19)
    low, high = drawn.band(0.99)
    assert float(low) - 0.05 < float(drawn.observed) < float(high) + 0.05


def test_a_null_of_several_numbers_is_a_band_of_a_figure():
    found = null(LAYER, Eigen(), lambda result: result.eigenvalues.abs().mean(0), "shuffled", n=6)
    assert found.values.shape == (6, 6)
    rows = found.records()
    assert [row["axis_0"] for row in rows] == list(range(6))
    assert all(row["null_low"] <= row["null_mean"] <= row["null_high"] for row in rows)
    figure = curves(rows, "axis_0", ["observed"], bands={"observed": ("null_low", "null_high")})
    assert len(figure.axes[0].collections) == 1
    assert "6 draws of shape (6,)" in repr(found)


def test_the_text_of_a_choice_names_the_ranks():
    assert repr(choose_rank(layer_of(6, 6, 2), "cp", [1, 2])).endswith("of [1, 2])")


def test_the_text_of_a_number_has_its_band():
    found = null(LAYER, Eigen(rank=1), lambda result: result.relative_error, "shuffled", n=3)
    low, high = found.band()
    assert repr(found) == f"Null(shuffled, observed {found.observed:.4g}, null {low:.4g} to {high:.4g})"


def test_a_constant_output_is_dropped_from_the_controls():
    lifted = lift(LAYER, bias=normal(3, seed=8))
    sizes = []
    null(lifted, Eigen(rank=2), lambda result: sizes.append(result.sizes["out"]) or 1.0, "shuffled", n=2)
    assert sizes == [4, 3, 3]


WRONG = {
    "kind": (lambda: null(LAYER, "eigen", float, "turn"), ValueError, "kind must be one of permuted, shuffled, turned"),
    "moments": (lambda: null(LAYER, "eigen", float, "turned"), ValueError, "has none"),
    "statistic": (lambda: null(LAYER, "eigen", 3.0, "shuffled"), TypeError, "statistic must be a function"),
    "not finite": (
        lambda: null(LAYER, "eigen", lambda r: torch.nan, "shuffled"),
        ValueError,
        "statistic must be finite",
    ),
    "no number": (lambda: null(LAYER, "eigen", lambda r: "a", "shuffled"), TypeError, "statistic must return a number"),
    "one unit": (lambda: null(layer_of(3, 6, 1), "eigen", lambda r: 1.0, "shuffled"), ValueError, "at least 2 hidden"),
    "method": (lambda: choose_rank(LAYER, "eigen", [1]), ValueError, "method must be one of cp, symmetric_cp"),
    "order": (lambda: choose_rank(LAYER, "cp", [2, 1]), ValueError, "ranks must increase"),
    "freedom": (lambda: choose_rank(LAYER, "cp", [1, 5]), ValueError, "65 free parameters .* at most rank 4 leaves"),
    "tied": (lambda: choose_rank(LAYER, "symmetric_cp", [1, 8]), ValueError, "64 free parameters .* rank 7 leaves"),
    "no ranks": (lambda: choose_rank(LAYER, "cp", []), ValueError, "ranks is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call()


def test_every_kind_has_a_test():
    assert set(NULLS) == {"shuffled", "turned", "permuted"}


def noisy(layer, noise, seed=9):
    tensor = symmetrized(layer.to_tensor())
    error = symmetrized(normal(*tensor.shape, seed=seed))
    return BilinearLayer.from_tensor(tensor + noise * float(tensor.norm() / error.norm()) * error)


@pytest.mark.parametrize("method", ["cp", "symmetric_cp"])
def test_the_planted_rank_is_chosen(method):
    truth = layer_of(6, 8, 2)
    if method == "symmetric_cp":
        truth = BilinearLayer(down=truth.down, left=truth.left, right=truth.left)
    choice = choose_rank(noisy(truth, 0.1), method, [1, 2, 3], starts=2, max_iterations=60)
    assert choice.rank == 2
    rows = choice.records()
    assert [row["accepted"] for row in rows][1:] == [True, False]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert rows[1]["elbow"] > 0
    assert rows[1]["core_consistency"] > 90
    assert rows[1]["error"] == choice.results[1].relative_error
    assert rows[1]["standard_error"] == float(choice.trust[1].standard_error.max())


def test_core_consistency_is_that_of_the_dense_core():
    layer = noisy(layer_of(5, 9, 2), 0.3)
    choice = choose_rank(layer, "cp", [2], starts=1)
    own = choice.results[0]
    vectors = torch.cat([own.left, own.right], 1)
    dense = symmetrized(layer.to_tensor())
    inverse = torch.linalg.pinv(vectors)
    core = torch.einsum("ro,oij,ai,bj->rab", torch.linalg.pinv(own.outputs * own.weights), dense, inverse, inverse)
    ideal = torch.zeros(2, 4, 4).double()
    for at in range(2):
        ideal[at, at, 2 + at] = ideal[at, 2 + at, at] = 0.5
    expected = 100 * (1 - (core - ideal).square().sum() / ideal.square().sum())
    torch.testing.assert_close(choice.core_consistency[0], expected, rtol=1e-9, atol=0)


def test_a_rank_is_chosen_in_the_metric_of_the_data():
    layer, metric = noisy(layer_of(6, 6, 2), 0.1), Metric.of(MOMENTS, ridge=0.1)
    own = choose_rank(layer, "cp", [1, 2], starts=2, moments=MOMENTS, ridge=0.1)
    plain = choose_rank(metric.whiten(layer), "cp", [1, 2], starts=2)
    for row, expected in zip(own.records(), plain.records(), strict=True):
        assert row.keys() == expected.keys()
        assert all(row[name] == (value and pytest.approx(value, rel=1e-6)) for name, value in expected.items())


def test_no_rank_is_chosen_where_none_is_determined():
    """A matrix, the layer of one output, is a sum of terms in many ways."""
    choice = choose_rank(noisy(layer_of(1, 12, 3), 0.1), "cp", [2, 3], starts=2)
    assert choice.rank is None
    assert [row["standard_error"] for row in choice.records()] == [float("inf")] * 2
