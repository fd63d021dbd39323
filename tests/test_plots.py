"""Figures show what they say: axes, data, labels."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tensornet_interp import BilinearLayer, SpectralResult, decompose, lift
from tensornet_interp.compare import ComponentTrust
from tensornet_interp.plots import (
    activations,
    compared_vectors,
    eigenvectors,
    explanation,
    image_cell,
    output_directions,
    spectrum,
    truncation_curves,
)
from tensornet_interp.testing import random_layer

SHAPE = (2, 3)
NAMES = ("a", "b", "c")


@pytest.fixture
def result() -> SpectralResult:
    return decompose(random_layer(3, 6, 4, seed=0), "eigen")


def image(figure: Figure, number: int) -> np.ndarray:
    axes = [axes for axes in figure.axes if axes.images]
    return np.asarray(axes[number].images[0].get_array())


def test_spectrum_shows_all_eigenvalues_in_order_and_the_leading_vectors(result: SpectralResult) -> None:
    figure = spectrum(result, 1, SHAPE, name="b", count=2)
    line = figure.axes[0].lines[-1]
    np.testing.assert_allclose(line.get_ydata(), result.eigenvalues[1].sort(descending=True).values)
    assert figure.axes[0].get_ylabel() == "eigenvalue"
    top = result.eigenvectors[1, :, int(result.eigenvalues[1].argmax())]
    np.testing.assert_allclose(image(figure, 0), top.reshape(SHAPE))
    lowest = result.eigenvectors[1, :, int(result.eigenvalues[1].argmin())]
    np.testing.assert_allclose(image(figure, 2), lowest.reshape(SHAPE))
    assert "basis: as given" in figure.get_suptitle()


def test_eigenvalues_have_error_bars_and_undetermined_vectors_are_hollow(result: SpectralResult) -> None:
    shape = result.eigenvalues.shape
    errors, noise = torch.zeros(shape), torch.full(shape, 0.1)
    errors[1, 2] = 0.5
    axes = spectrum(result, 1, SHAPE, trust=ComponentTrust(errors, noise)).axes[0]
    (lines,) = [bars.get_segments() for bars in axes.collections]
    values = result.eigenvalues[1].sort(descending=True).values
    assert [low[1] for low, _ in lines] == pytest.approx((values - 0.1).tolist())
    hollow = next(line for line in axes.lines if line.get_markerfacecolor() == "white")
    assert hollow.get_ydata().tolist() == pytest.approx([float(result.eigenvalues[1, 2])])


def test_eigenvector_grid_has_positive_rows_above_negative(result: SpectralResult) -> None:
    figure = eigenvectors(result, SHAPE, NAMES, count=1)
    assert len(figure.axes) == 6
    for block, name in enumerate(NAMES):
        assert figure.axes[block].get_title().startswith(name)
        lowest = result.eigenvectors[block, :, int(result.eigenvalues[block].argmin())]
        np.testing.assert_allclose(image(figure, 3 + block), lowest.reshape(SHAPE))


def test_a_lifted_layer_is_drawn_without_its_constant() -> None:
    result = decompose(lift(random_layer(3, 6, 4, seed=0)).drop_constant(), "eigen")
    figure = spectrum(result, 0, SHAPE, count=1)
    top = result.eigenvectors[0, 1:, int(result.eigenvalues[0].argmax())]
    np.testing.assert_allclose(image(figure, 0), top.reshape(SHAPE))


def test_eigenvectors_leaves_cells_empty_if_no_eigenvalue_has_the_sign() -> None:
    layer = BilinearLayer(left=torch.eye(4), right=torch.eye(4), down=torch.tensor([[1.0, 0, 0, 0], [-1, -2, 3, 0]]))
    figure = eigenvectors(decompose(layer, "eigen"), (2, 2), ["a", "b"], count=2)
    titles = [cell.get_title() for cell in figure.axes]  # by row: positive 1, positive 2, negative 2, negative 1
    assert titles == ["a\n+1.00", "b\n+3.00", "", "", "", "-1.00", "", "-2.00"]
    assert [len(cell.images) for cell in figure.axes] == [1, 1, 0, 0, 0, 1, 0, 1]


def test_eigenvectors_needs_a_name_for_every_block() -> None:
    result = decompose(random_layer(3, 4, 4, seed=0), "eigen")
    with pytest.raises(ValueError, match="names must be one per block, got 2 for 3 blocks"):
        eigenvectors(result, (2, 2), ["a", "b"])


def test_output_directions_show_their_parts_in_the_classes_and_their_eigenvectors() -> None:
    """Planted: classes a and b are opposite ends of one direction, 3 x0^2 - 2 x1^2; class c is x5^2, the second."""
    eye = torch.eye(6, dtype=torch.float64)
    down = torch.tensor([[3.0, -2, 0, 0, 0, 0], [-3, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]]).double()
    result = decompose(BilinearLayer(down=down, left=eye, right=eye), "output_svd")
    figure = output_directions(result, SHAPE, NAMES, count=1)
    bars = [[patch.get_height() for patch in axes.patches] for axes in figure.axes if axes.patches]
    np.testing.assert_allclose(np.abs(bars), [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]], atol=1e-12)
    assert bars[0][0] * bars[0][1] < 0
    assert figure.axes[0].get_title() == f"direction 1: σ = {26**0.5:.3g}, 96% of the norm²"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == list(NAMES)
    positive, negative = (0, 1) if bars[0][0] > 0 else (1, 0)  # direction and eigenvalues may change sign together
    np.testing.assert_allclose(np.abs(image(figure, 0)), eye[positive].reshape(SHAPE), atol=1e-12)
    np.testing.assert_allclose(np.abs(image(figure, 1)), eye[negative].reshape(SHAPE), atol=1e-12)
    assert len(figure.axes) == 2 * 3
    assert len(output_directions(result, SHAPE, NAMES, directions=1, count=2).axes) == 5
    with pytest.raises(ValueError, match="no singular values; decompose the layer by 'output_svd'"):
        output_directions(decompose(BilinearLayer(down=down, left=eye, right=eye), "eigen"), SHAPE, NAMES)
    with pytest.raises(ValueError, match="names must be one per output, got 2 for 3 outputs"):
        output_directions(result, SHAPE, "ab")


def test_curves_have_one_line_per_ranking_and_the_whole_model() -> None:
    records = [
        {"ranking": ranking, "components": k, "accuracy": k / 10 + i, "cross_entropy": 1 / k}
        for i, ranking in enumerate(("magnitude", "ablation"))
        for k in (1, 2, 4)
    ]
    figure = truncation_curves(records, accuracy=0.9, loss=0.1)
    whole, first, second = figure.axes[0].lines
    assert list(whole.get_ydata()) == [0.9, 0.9]
    assert (list(first.get_xdata()), list(first.get_ydata())) == ([1, 2, 4], [0.1, 0.2, 0.4])
    assert second.get_label() == "by ablation"
    assert list(figure.axes[1].lines[1].get_ydata()) == [1, 0.5, 0.25]


def test_explanation_adds_up_to_the_margin(result: SpectralResult) -> None:
    x = torch.randn(6, generator=torch.Generator().manual_seed(1)).double()
    outputs = result(x)
    first, second = outputs.topk(2).indices.tolist()
    figure = explanation(result, x, SHAPE, NAMES, label=(first + 1) % 3, count=18)
    assert figure.get_suptitle().startswith("A wrong decision")
    bars = [patch.get_width() for patch in figure.axes[1].patches]
    np.testing.assert_allclose(bars, outputs)
    margins = [float(axes.get_title().split("margin ")[1]) for axes in figure.axes[2:]]
    # eighteen titles of two decimals
    assert sum(margins) == pytest.approx(float(outputs[first] - outputs[second]), abs=18 * 0.005)


def test_activation_figure_prints_the_product_and_its_square() -> None:
    vector = torch.tensor([1.0, 0, 0, 0, 0, 0])
    figure = activations(-2.0, vector, {"match": 3 * vector, "nothing": vector.roll(1)}, SHAPE)
    assert figure.axes[1].get_xlabel() == "0 to 3\nv·x = +3.00\nλ(v·x)² = -18.0"
    assert figure.axes[2].get_xlabel() == "0 to 1\nv·x = 0.00\nλ(v·x)² = 0.0"


def test_a_shape_that_does_not_fit_is_an_error(result: SpectralResult) -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 2\) needs 4 pixels, but the input has 6"):
        spectrum(result, 0, (2, 2))


def test_vectors_of_two_models_have_one_size() -> None:
    with pytest.raises(ValueError, match=r"'in' has size 6 in vectors but 4 in vectors\['noise 1'\]"):
        compared_vectors({"noise 0": torch.ones(2, 6), "noise 1": torch.ones(2, 4)}, {}, title="class 5")


def test_vectors_of_models_stand_in_named_rows() -> None:
    vectors = {"noise 0": torch.arange(12.0).reshape(2, 6) - 4, "noise 1": torch.ones(1, 6)}
    figure = compared_vectors(vectors, {"noise 0": torch.tensor([1.5, -2.0])}, SHAPE, title="class 5, seed 0")
    assert [axes.get_ylabel() for axes in figure.axes] == ["noise 0", "", "noise 1", ""]
    assert [axes.get_title() for axes in figure.axes] == ["+1.50", "-2.00", "", ""]
    np.testing.assert_array_equal(image(figure, 1), vectors["noise 0"][1].reshape(SHAPE))
    np.testing.assert_array_equal(image(figure, 2), np.ones(SHAPE))
    assert [len(axes.images) for axes in figure.axes] == [1, 1, 1, 0]
    assert figure.axes[0].images[0].get_clim() == (-4, 4)  # the first vector runs from -4 to 1
    assert figure.get_suptitle() == "class 5, seed 0"


def test_vectors_side_by_side_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="vectors is empty"):
        compared_vectors({}, {}, SHAPE)
    with pytest.raises(ValueError, match="mode 'vector' has size 2 in vectors but 3 in values"):
        compared_vectors({"a": torch.ones(2, 6)}, {"a": torch.ones(3)}, SHAPE)
    with pytest.raises(ValueError, match=r"an image of shape \(2, 3\) needs 6 pixels, but the input has 5"):
        compared_vectors({"a": torch.ones(2, 5)}, {}, SHAPE)


def test_an_image_of_zeros_has_the_colour_of_zero():
    axes = Figure().subplots()
    image_cell(axes, torch.zeros(6), (2, 3), "zeros", symmetric=False)
    assert axes.images[0].get_clim() == (0, 1)
