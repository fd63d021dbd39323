"""Figures of CP components show the two images and the outputs of every component, in a gauge that is fixed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from tensornet_interp import CPResult, decompose, lift
from tensornet_interp.compare import ComponentTrust
from tensornet_interp.plots import components, outputs_map
from tensornet_interp.testing import random_layer

SHAPE = (2, 3)
NAMES = ("a", "b", "c", "d")


@pytest.fixture
def result() -> CPResult:
    return decompose(random_layer(4, 6, 5, seed=0), "cp", rank=5)


def images(figure: Figure) -> np.ndarray:
    """(2, component, pixel): those of left + right, then those of left - right."""
    cells = [np.asarray(axes.images[0].get_array()).ravel() for axes in figure.axes if axes.images]
    return np.stack(cells).reshape(2, len(cells) // 2, -1)


def bars(figure: Figure) -> np.ndarray:
    """(component, output) of the lowest row."""
    return np.array([[bar.get_width() for bar in axes.patches] for axes in figure.axes if not axes.images])


def gauged(result: CPResult, turn: torch.Tensor, *, swap: bool) -> CPResult:
    """The same tensor: factors times signs (3, rank), the product of them in the weights, left and right swapped."""
    left, right = result.left * turn[1], result.right * turn[2]
    return replace(
        result,
        weights=result.weights * turn.prod(0),
        outputs=result.outputs * turn[0],
        left=right if swap else left,
        right=left if swap else right,
    )


def test_standard_errors_stand_at_their_components(result: CPResult) -> None:
    order = [2, 0, 1, 4, 3]
    shuffled = replace(
        result,
        weights=result.weights[order],
        outputs=result.outputs[:, order],
        left=result.left[:, order],
        right=result.right[:, order],
    )
    errors = torch.tensor([0.3, 0.1, 0.2, torch.inf, 0.4]).double()  # of components 2, 0, 1, 4, 3
    trust = ComponentTrust(errors, torch.zeros(5).double())
    figure = components(shuffled, SHAPE, NAMES, count=5, trust=trust)
    lowest = [axes for axes in figure.axes if not axes.images]
    found = [axes.get_xlabel() for axes in lowest]
    assert found == ["error 0.1", "error 0.2", "error 0.3", "error 0.4", "error inf"]
    assert [axes.patches[0].get_facecolor()[3] > 0 for axes in lowest] == [True] * 3 + [False] * 2
    top = outputs_map(shuffled, NAMES, trust=trust).axes[0]
    (lines,) = [bars.get_segments() for bars in top.collections]
    reach = [float(high - low) / 2 for (_, low), (_, high) in lines]
    expected = [
        min(error, 1.0) * float(weight)
        for error, weight in zip((0.1, 0.2, 0.3, 0.4, 1.0), result.weights.abs(), strict=True)
    ]
    assert reach == pytest.approx(expected)


def test_what_is_drawn_is_the_component(result: CPResult) -> None:
    figure = components(result, SHAPE, NAMES, count=3)
    (plus, minus), weights = images(figure), bars(figure)
    assert plus.shape == (3, 6)
    drawn = np.einsum("ro,ri,rj->oij", weights, plus, plus) - np.einsum("ro,ri,rj->oij", weights, minus, minus)
    cut = replace(
        result,
        weights=result.weights[:3],
        outputs=result.outputs[:, :3],
        left=result.left[:, :3],
        right=result.right[:, :3],
    )
    np.testing.assert_allclose(drawn / 4, cut.to_layer().symmetrize().to_tensor(), atol=1e-12)


def test_equal_components_look_the_same_in_every_gauge(result: CPResult) -> None:
    generator = torch.Generator().manual_seed(3)
    turn = torch.randint(0, 2, (3, 5), generator=generator).double() * 2 - 1
    assert (turn < 0).any(1).all()
    figures = [components(r, SHAPE, NAMES, count=5) for r in (result, gauged(result, turn, swap=True))]
    np.testing.assert_allclose(images(figures[0]), images(figures[1]), atol=1e-14)
    np.testing.assert_allclose(bars(figures[0]), bars(figures[1]), atol=1e-12)
    plus, minus = np.linalg.norm(images(figures[0]), axis=-1)
    assert (plus >= minus).all()
    assert (images(figures[0]).max(-1) >= -images(figures[0]).min(-1)).all()


def test_labels_say_what_is_where(result: CPResult) -> None:
    figure = components(result, SHAPE, NAMES, count=2)
    assert len(figure.axes) == 6
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["left + right", "left − right", ""]
    assert figure.axes[4].get_title(loc="left") == "weight × output"
    norm = np.linalg.norm(images(figure)[0, 1])
    assert figure.axes[1].get_title() == f"|l + r| = {norm:.2f}"
    assert [text.get_text() for text in figure.axes[4].get_yticklabels()] == list(NAMES)
    assert figure.get_suptitle().replace("\n", " ") == "The 2 largest of 5 components, basis: as given"


def test_the_heat_map_holds_unit_outputs_by_weight(result: CPResult) -> None:
    order = torch.tensor([3, 0, 4, 1, 2])  # as a result that is not sorted
    shuffled = replace(
        result,
        weights=result.weights[order],
        outputs=result.outputs[:, order],
        left=result.left[:, order],
        right=result.right[:, order],
    )
    figure = outputs_map(shuffled, NAMES)
    top, axes = figure.axes[:2]
    np.testing.assert_allclose([bar.get_height() for bar in top.patches], result.weights.abs(), rtol=1e-12)
    shown = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(np.abs(shown), result.outputs.abs(), atol=1e-12)
    by_bars = bars(components(result, SHAPE, NAMES, count=5)).T
    np.testing.assert_array_equal(np.sign(shown), np.sign(by_bars))
    assert axes.images[0].get_clim() == (-1, 1)
    assert [text.get_text() for text in axes.get_yticklabels()] == list(NAMES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("component, largest weight first", "output")


def test_a_lifted_layer_is_drawn_without_its_constants() -> None:
    result = decompose(lift(random_layer(4, 6, 3, seed=1)), "cp", rank=2)
    assert (result.outputs.shape[0], result.left.shape[0]) == (5, 7)
    figure = components(result, SHAPE, NAMES, count=2)
    assert images(figure).shape == (2, 2, 6)
    assert bars(figure).shape == (2, 4)
    assert np.asarray(outputs_map(result, NAMES).axes[1].images[0].get_array()).shape == (4, 2)


def test_a_component_of_weight_zero_is_drawn_as_nothing(recwarn) -> None:
    layer = random_layer(4, 6, 2, seed=2)
    result = decompose(replace(layer, down=0 * layer.down), "cp", rank=2)
    assert not bars(components(result, SHAPE, NAMES, count=2)).any()
    assert not recwarn.list  # matplotlib's, of an axis of no length
    assert np.isfinite(np.asarray(outputs_map(result, NAMES).axes[1].images[0].get_array())).all()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda r: components(r, SHAPE, NAMES, count=8),
            ValueError,
            r"count must be from 1 to 5 \(the rank of the result\), got 8",
        ),
        (
            lambda r: components(r, (2, 2), NAMES, count=1),
            ValueError,
            r"shape \(2, 2\) needs 4 pixels, but the input has 6",
        ),
        (
            lambda r: components(r, SHAPE, "ab", count=1),
            ValueError,
            "names must be one per output, got 2 for 4",
        ),
        (lambda r: outputs_map(r, "abcde"), ValueError, "names must be one per output, got 5 for 4 outputs"),
        (
            lambda r: outputs_map(r.to_layer(), NAMES),
            TypeError,
            "result must be a CPResult, got Bilinear",
        ),
    ],
    ids=["count", "shape", "names", "names of the map", "kind"],
)
def test_bad_input_is_a_clear_error(result, call, kind, message):
    with pytest.raises(kind, match=message):
        call(result)
