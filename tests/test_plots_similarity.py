"""The heat map shows every number of the matrix under its labels."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tensornet_interp import similarity
from tensornet_interp.plots import similarity_matrix
from tensornet_interp.testing import random_layer


def test_every_similarity_is_shown_and_written():
    found = similarity([random_layer(3, 5, 4, seed=seed) for seed in range(3)]).to_tensor()
    figure = similarity_matrix(found, ["a", "b", "c"], "three layers")
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), found.numpy())
    assert [[label.get_text() for label in side.get_ticklabels()] for side in (axes.xaxis, axes.yaxis)] == [
        ["a", "b", "c"]
    ] * 2
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (j, i): f"{float(found[i, j]):.2f}" for i in range(3) for j in range(3)
    }
    assert figure.get_suptitle() == "three layers"
    assert axes.images[0].get_clim() == (-1.0, 1.0)  # some are negative, and white is 0


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_are_white_on_dark_cells(sign):
    figure = similarity_matrix(
        torch.tensor([[1.0, 0.1], [0.2, 0.9]]) * torch.tensor([[1.0, 1.0], [1.0, sign]]), ["a", "b"]
    )
    colors = {text.get_position(): text.get_color() for text in figure.axes[0].texts}
    strong, weak = ("black", "white") if sign > 0 else ("white", "black")  # from dark to bright, or white in the middle
    assert colors == {(0, 0): strong, (1, 0): weak, (0, 1): weak, (1, 1): strong}


def test_numbers_stay_in_their_cells():
    figure = similarity_matrix(-torch.ones(12, 12), [str(i) for i in range(12)])
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.canvas.draw()
    axes = figure.axes[0]
    cell = axes.get_window_extent(renderer).width / 12
    assert all(text.get_window_extent(renderer).width < cell for text in axes.texts)


@pytest.mark.parametrize(("count", "written"), [(30, 900), (31, 0)])
def test_large_matrices_are_colours_alone(count, written):
    figure = similarity_matrix(torch.eye(count), [str(i) for i in range(count)])
    assert len(figure.axes[0].texts) == written


def test_rows_and_columns_may_be_two_things():
    found = torch.tensor([[0.1, 0.2, -0.3], [0.9, 0.5, 0.4]])
    axes = similarity_matrix(found, ["a", "b"], columns=["c", "d", "e"], high=0.9).axes[0]
    assert axes.images[0].get_clim() == (-0.9, 0.9)
    assert similarity_matrix(found.abs(), ["a", "b"], columns=["c", "d", "e"]).axes[0].images[0].get_clim() == (0, 1)
    np.testing.assert_allclose(axes.images[0].get_array(), found)
    assert [label.get_text() for label in axes.xaxis.get_ticklabels()] == ["c", "d", "e"]
    assert [label.get_text() for label in axes.yaxis.get_ticklabels()] == ["a", "b"]
    assert {text.get_text() for text in axes.texts if text.get_position()[1] == 0} == {"0.10", "0.20", "-0.30"}
    with pytest.raises(ValueError, match="columns must be one per column, got 2 for 3 columns"):
        similarity_matrix(found, ["a", "b"])
