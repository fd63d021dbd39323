"""Figures of features show what they say."""

import math

import numpy as np
import pytest
import torch
from helpers import normal
from matplotlib.colors import to_rgb

from tensornet_interp.features import feature_interactions
from tensornet_interp.plots import correlation_by_rank, eigenvector_plane, interaction_submatrix
from tensornet_interp.testing import random_layer

BASIS = "stream after the norm"


def made(features):
    return feature_interactions(
        random_layer(3, 7, 5, seed=0), normal(3, seed=1), normal(7, features, seed=2), basis=BASIS
    )


@pytest.mark.parametrize("pairs", ["all", "cross"])
def test_the_heat_map_is_the_smallest_submatrix(pairs):
    interactions = made(19)
    figure = interaction_submatrix(interactions, 6, [f"f{i}" for i in range(19)], pairs=pairs)
    features, matrix = interactions.smallest_submatrix(6, pairs=pairs)
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), matrix)
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == [f"f{i}" for i in features]
    low, high = axes.images[0].get_clim()
    assert (low, high) == (-high, float(matrix.abs().max()))
    assert BASIS in figure.get_suptitle()
    assert f"{len(features)} features" in figure.get_suptitle()


def test_interactions_that_are_zero_have_a_scale():
    layer, nothing = random_layer(3, 7, 5, seed=0), torch.zeros(3, dtype=torch.float64)
    zero = feature_interactions(layer, nothing, normal(7, 9, seed=2), basis=BASIS)
    axes = interaction_submatrix(zero, 4).axes[0]
    assert axes.images[0].get_clim() == (-1.0, 1.0)


def test_a_large_heat_map_has_no_labels():
    figure = interaction_submatrix(made(60), 400)
    assert figure.axes[0].images[0].get_array().shape[0] > 40
    assert all("f" not in label.get_text() for label in figure.axes[0].get_xticklabels())


def test_points_stand_at_their_coordinates_and_the_furthest_are_named():
    points = torch.tensor([[0.1, 0.2], [2.0, -1.0], [0.0, 1.5], [-0.3, 0.1]])
    figure = eigenvector_plane(points, torch.tensor([3.0, -2.0]), "abcd", count=2, basis=BASIS, name="feature 7")
    axes = figure.axes[0]
    drawn = {tuple(np.round(line.get_xydata().flatten(), 6)) for line in axes.lines}
    assert tuple(np.round(points.flatten().tolist(), 6)) in drawn
    assert {text.get_text(): tuple(text.xy) for text in axes.texts if text.get_text() in "abcd"} == {
        "b": (2.0, -1.0),
        "c": (0.0, 1.5),
    }
    assert axes.get_xlabel().endswith("eigenvalue +3")
    assert axes.get_ylabel().endswith("eigenvalue -2")
    assert BASIS in figure.get_suptitle()
    assert "feature 7" in figure.get_suptitle()


def test_names_stand_on_the_far_side_of_their_points():
    """Seen from the origin, so that no name lies between its point and those nearer to the middle."""
    points = torch.tensor([[2.0, 1.0], [-2.0, 1.0], [-2.0, -1.0], [2.0, -1.0]])
    texts = eigenvector_plane(points, torch.tensor([3.0, -2.0]), "abcd").axes[0].texts
    names = {text.get_text(): text for text in texts if text.get_text() in "abcd"}
    for name, (x, y) in zip("abcd", points.tolist(), strict=True):
        text = names[name]
        assert (text.get_ha(), text.get_va()) == ("left" if x > 0 else "right", "bottom" if y > 0 else "top")
        assert (np.sign(text.xyann) == np.sign((x, y))).all()


@pytest.mark.parametrize("values", [(3.0, -2.0), (-1.0, -0.5)])
def test_lines_are_of_equal_activation(values):
    figure = eigenvector_plane(normal(9, 2, seed=3), torch.tensor(values))
    (contours,) = (item for item in figure.axes[0].collections if hasattr(item, "levels"))
    limit = figure.axes[0].get_xlim()[1]
    cell = 2 * limit / 199
    lines = 0
    for level, path, color in zip(contours.levels, contours.get_paths(), contours.get_edgecolor(), strict=True):
        if len(path.vertices) and level:
            a, b = path.vertices.T
            # the line is interpolated inside a cell of the grid: second derivatives times the cell squared
            allowed = sum(map(abs, values)) * cell**2
            np.testing.assert_allclose(values[0] * a**2 + values[1] * b**2, level, atol=allowed)
            assert tuple(color[:3]) == pytest.approx(to_rgb("tab:red" if level > 0 else "tab:blue"))
            lines += 1
    assert lines >= 4


def test_a_plane_without_activation_has_points_and_no_lines():
    axes, *more = eigenvector_plane(normal(9, 2, seed=3), torch.zeros(2)).axes
    assert more == []
    assert len(axes.lines[2].get_xdata()) == 9


def test_curves_are_the_means_over_features_with_a_number():
    def record(feature, k, correlation, active):
        fields = {"correlation": correlation, "active_correlation": active}
        return {"feature": feature, "k": k, "basis": BASIS} | fields

    records = [record(0, 1, 0.2, 0.5), record(0, 4, 0.6, 0.7), record(1, 1, 0.4, math.nan), record(1, 4, 1, math.nan)]
    figure = correlation_by_rank(records)
    for axes, expected, title in zip(
        figure.axes, ([0.3, 0.8], [0.5, 0.7]), ("all tokens", "active tokens (1 features undefined)"), strict=True
    ):
        (mean,) = (line for line in axes.lines if line.get_label() == "mean of features")
        np.testing.assert_allclose(mean.get_ydata(), expected)
        assert list(mean.get_xdata()) == [1, 4]
        assert axes.get_title() == title
    (band,) = figure.axes[0].collections  # the middle half of 0.2, 0.4 and of 0.6, 1
    corners = {(float(x), round(float(y), 6)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(1.0, 0.25), (1.0, 0.35), (4.0, 0.7), (4.0, 0.9)}
    assert [list(line.get_ydata()) for line in figure.axes[0].lines[:2]] == [[0.2, 0.6], [0.4, 1]]
    assert figure.get_suptitle().splitlines()[1] == f"basis: {BASIS}"  # a line of its own: it may be long


def test_features_without_any_number_leave_an_empty_panel():
    fields = {"feature": 0, "k": 2, "correlation": 0.5, "active_correlation": math.nan, "basis": BASIS}
    figure = correlation_by_rank([fields])
    assert not figure.axes[1].lines
    assert figure.axes[1].get_title() == "active tokens (1 features undefined)"


def test_names_with_dollar_signs_are_drawn_as_they_are():
    figure = eigenvector_plane(torch.eye(2), torch.tensor([1.0, -1.0]), names=["$5 and _$", "$"])
    figure.draw_without_rendering()
    assert {text.get_text() for text in figure.axes[0].texts} >= {r"\$5 and _\$", r"\$"}
