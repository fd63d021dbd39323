"""What results in a metric carry: filters and patterns, projectors, figures; results in new coordinates."""

import pytest
import torch
from helpers import normal, orthonormal
from metric_cases import LIFTED, SINGULAR, a_layer, moments_of, second_moment, steps

from tensornet_interp import BilinearLayer, Moments, decompose, lift, relative_error
from tensornet_interp.compare import match
from tensornet_interp.decompositions import Eigen, Whitened
from tensornet_interp.metric import Metric
from tensornet_interp.plots import components, eigenvectors


@LIFTED
@SINGULAR
def test_filters_and_patterns(lifted, rank):
    """W^T S W = 1, P = S W, P^T W = 1, S M_F W = P diag(lambda) with M_F = F F+ M F F+, and E (w . x)^2 = 1."""
    layer, x = a_layer(lifted).drop_constant(), normal(200, rank, seed=1) @ normal(rank, 6, seed=2)
    moments = Moments.of(x)
    result = decompose(layer, "eigen", moments=moments, ridge=0)
    s, one = second_moment(moments, lifted), torch.eye(result.rank).double()
    for block, (w, p) in enumerate(zip(result.filters, result.patterns, strict=True)):
        live = result.eigenvalues[block].abs() > 1e-9 * result.eigenvalues[block].abs().max()
        assert live.sum() >= 4
        w, p, one = w[:, live], p[:, live], torch.eye(int(live.sum())).double()
        assert (w.T @ s @ w - one).abs().max() <= 1e-10
        assert (p.T @ w - one).abs().max() <= 1e-10
        assert (p - s @ w).abs().max() <= 1e-10 * p.abs().max()
        matrix = layer.interaction_matrix(torch.eye(3).double()[block])
        on = s @ torch.linalg.pinv(s, hermitian=True, rtol=1e-12)
        assert (on @ matrix @ s @ w - w * result.eigenvalues[block][live]).abs().max() <= 1e-9 * matrix.abs().max()


def test_without_a_metric_patterns_are_filters():
    result = decompose(a_layer(False), "cp", rank=2)
    assert torch.equal(result.patterns, result.filters)
    assert torch.equal(result.filters, torch.stack([result.left, result.right]))


@LIFTED
def test_groups_in_a_metric_and_after_a_change_of_basis_are_projectors(lifted):
    """E E = E, and x - E x leaves the output without the part of the group."""
    vectors = orthonormal(6, 4, seed=1)
    layer = BilinearLayer(down=torch.ones(1, 4).double(), left=vectors, right=vectors)
    layer = lift(layer, bias=normal(1, seed=2)).drop_constant() if lifted else layer
    moments = moments_of(6, 6)
    for result in (decompose(layer, "eigen", moments=moments), decompose(layer, "eigen").change_basis(normal(6, 5))):
        for group in result.groups(0, rtol=0.3):
            e, vectors = group.projector, result.filters[0][:, list(group.indices)]
            assert (e @ e - e).abs().max() <= 1e-10 * max(1.0, float(e.abs().max()))
            assert (vectors.T @ e - vectors.T).abs().max() <= 1e-10 * vectors.abs().max()


@LIFTED
@pytest.mark.parametrize("name", ["eigen", "cp", "hosvd"])
def test_a_result_in_a_new_basis_is_the_layer_in_the_new_basis(name, lifted):
    layer, inputs = a_layer(lifted), normal(6, 4, seed=3)
    bias = normal(6, seed=4) if lifted else None
    result = steps(name, layer, moments_of(6, 6))[-1](layer)
    moved = result.change_basis(inputs, input_bias=bias, basis="new")
    assert type(moved) is type(result)
    assert (moved.report.basis, moved.metric, moved.relative_error) == ("new", None, None)
    assert relative_error(moved, layer.change_basis(inputs, input_bias=bias)) <= 1e-9


@LIFTED
def test_whitened_results_are_compared_in_the_metric(lifted):
    layer, moments = a_layer(lifted), moments_of(6, 6)
    metric, s = Metric.of(moments, lifted=lifted), second_moment(moments, lifted)
    a, b = (decompose(part, "cp", rank=2) for part in (layer, a_layer(lifted, seed=2)))
    found = match(metric.whiten(a), metric.whiten(b)).matrix

    def cosine(first, second):
        sizes = [(v * (s @ v)).sum(0).sqrt() for v in (first, second)]
        return (first.T @ s @ second).abs() / torch.outer(*sizes)

    straight = cosine(a.left, b.left) * cosine(a.right, b.right)
    crossed = cosine(a.left, b.right) * cosine(a.right, b.left)
    expected = (a.outputs.T @ b.outputs).abs() * torch.maximum(straight, crossed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("draw", [eigenvectors, components])
def test_figures_draw_patterns_in_a_metric_and_say_so(draw):
    layer, moments = a_layer(False), moments_of(6, 6)
    result = decompose(layer, "eigen" if draw is eigenvectors else "cp", moments=moments)
    figure = draw(result)
    title = " ".join(figure.get_suptitle().split())
    assert "patterns" in title
    assert title.endswith("in the metric of 300 inputs")
    if draw is eigenvectors:
        # bars stand by size, and each figure has its own scale
        bars = sorted(abs(patch.get_width()) for patch in figure.axes[0].patches)
        pattern = result.patterns[0, :, result.eigenvalues[0].argmax()].abs().sort().values
        assert [bar / bars[-1] for bar in bars] == pytest.approx((pattern / pattern[-1]).tolist(), rel=1e-6)


def test_the_ladder_of_a_strategy_is_kept_in_the_metric():
    layer, moments = a_layer(False), moments_of(6, 6)
    ladder = Whitened(Eigen(), moments).ladder(layer)
    assert len(ladder) == len(Eigen().ladder(layer)) > 0
    assert all(step.moments is moments for step in ladder)
    assert Whitened(lambda part: part, moments).ladder(layer) == []


def test_a_strategy_that_returns_its_layer_leaves_nothing_of_it_out():
    layer, x = a_layer(True), normal(5, 6, seed=3)
    exact = decompose(layer, lambda part: part, moments=moments_of(6, 6), linear="exact")
    torch.testing.assert_close(exact(x), layer(x))
    assert isinstance(exact.interaction, BilinearLayer)
