"""On the drawn figure: no text is cut off, no two texts meet, cells have one height, and vector output works."""

import functools
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn_texts import cut_off, drawn_texts, overlapping
from helpers import normal

from tensornet_interp import BilinearLayer, BilinearNetwork, decompose, lift, similarity
from tensornet_interp.circuits import circuit
from tensornet_interp.plots import (
    activations,
    compared_vectors,
    components,
    curves,
    dots,
    draw_circuit,
    draw_network,
    eigenvector_plane,
    eigenvectors,
    explanation,
    output_directions,
    outputs_map,
    pareto,
    similarity_matrix,
    spectrum,
)
from tensornet_interp.testing import random_layer

COUNTS = [1, 3, 10, pytest.param(62, marks=pytest.mark.slow)]
INPUTS = 12


def names(count):
    """Different names of 3, 40, 21, 40, ... characters, with and without spaces."""
    words = ("W" * 40, "ab", "mean of the radius_and-more of it, all of it", "iii", "spaces in between")
    return [f"{n}{words[n % 5]}"[: 3 if n % 5 == 1 else 40].ljust(3, "x") for n in range(count)]


def test_the_names_are_what_they_are_meant_to_be():
    assert {len(name) for name in names(62)} >= {3, 40}
    assert len(set(names(62))) == 62


@functools.cache
def layer(outputs, kind):
    made = random_layer(outputs, INPUTS, max(outputs, 6), seed=outputs).with_names(output_names=names(outputs))
    return made.with_names(input_shape=(3, 4)) if kind == "images" else made.with_names(input_names=names(INPUTS))


@functools.cache
def result(outputs, kind, method, **options):
    return decompose(layer(outputs, kind), method, **options)


def stack(outputs, kind):
    top = layer(outputs, kind)
    below = random_layer(INPUTS, INPUTS, 5, seed=3)
    made = BilinearNetwork([below, replace(top, names=top.names.without(inputs=True))])
    return made.with_names(input_names=top.input_names, input_shape=top.input_shape)


def tree(outputs, kind):
    return circuit(stack(outputs, kind), torch.ones(outputs).double(), widths=2, progress=False, name=names(outputs)[0])


def rows(outputs):
    return [
        {"method": name, "parameters": 10 * (k + n), "relative_error": 1 / (k + n)}
        for n, name in enumerate(names(min(outputs, 10)), 1)
        for k in (1, 2, 8)
    ]


X = normal(INPUTS, seed=7)
OF_INPUTS = {
    "activations": lambda n, kind: activations(
        0.3,
        X,
        dict.fromkeys(names(3), X * 0.01),
        layer(n, kind).input_shape,
        input_names=layer(n, kind).input_names,
    ),
    "compared_vectors": lambda n, kind: compared_vectors(
        {name: result(n, kind, "eigen").eigenvectors[0].mT[:2] for name in names(3)},
        {names(1)[0]: result(n, kind, "eigen").eigenvalues[0][:2]},
        layer(n, kind).input_shape,
        input_names=layer(n, kind).input_names,
        title=" ".join(names(5)),
    ),
    "components": lambda n, kind: components(result(n, kind, "cp", rank=3, max_iterations=3)),
    "draw_circuit": lambda n, kind: draw_circuit(tree(n, kind)),
    "eigenvectors": lambda n, kind: eigenvectors(result(n, kind, "eigen"), count=1 if n > 10 else None),
    "explanation": lambda n, kind: explanation(result(n, kind, "eigen"), X, label=0),
    "output_directions": lambda n, kind: output_directions(result(n, kind, "output_svd"), directions=2),
    "spectrum": lambda n, kind: spectrum(result(n, kind, "eigen"), 0),
}
OF_OUTPUTS = {
    "curves": lambda n: curves(rows(n), "parameters", ["relative_error", "parameters"], by="method"),
    "dots": lambda n: dots([{"a": i, "b": -i, "run": name} for i, name in enumerate(names(n))], ["a", "b"], "run"),
    "draw_network": lambda n: draw_network(stack(n, "images"), title=" ".join(names(3))),
    "eigenvector_plane": lambda n: eigenvector_plane(
        normal(n, 2, seed=1), torch.tensor([1.0, -0.5]), names(n), count=n, basis=names(1)[0], name=names(3)[2]
    ),
    "outputs_map": lambda n: outputs_map(result(n, "images", "cp", rank=3, max_iterations=3)),
    "pareto": lambda n: pareto([*rows(n), {"method": "exact", "parameters": 10**4, "relative_error": 1e-16}]),
    "similarity_matrix": lambda n: similarity_matrix(
        similarity([random_layer(3, 5, 4, seed=i) for i in range(n)]).to_tensor(), names(n), " ".join(names(3))
    ),
}


def assert_readable(figure):
    texts = drawn_texts(figure)
    assert cut_off(figure, texts) == []
    assert overlapping(texts) == []
    return texts


@pytest.mark.parametrize("outputs", COUNTS)
@pytest.mark.parametrize("kind", ["images", "names"])
@pytest.mark.parametrize("figure", OF_INPUTS)
def test_no_text_is_cut_off_or_meets_another(figure, kind, outputs):
    assert_readable(OF_INPUTS[figure](outputs, kind))


@pytest.mark.parametrize("outputs", COUNTS)
@pytest.mark.parametrize("figure", OF_OUTPUTS)
def test_no_text_of_outputs_is_cut_off_or_meets_another(figure, outputs):
    assert_readable(OF_OUTPUTS[figure](outputs))


def test_the_check_sees_what_is_cut_off_and_what_meets():
    figure = spectrum(result(3, "images", "eigen"), 0)
    figure.text(0.5, 0.5, "one above")
    figure.text(0.5, 0.5, "another")
    figure.text(0.99, 0.5, "a text that leaves the canvas")
    texts = drawn_texts(figure)
    assert cut_off(figure, texts) == ["a text that leaves the canvas"]
    assert ("one above", "another") in overlapping(texts)


@pytest.mark.parametrize("make", [OF_INPUTS["eigenvectors"], lambda n, _: OF_OUTPUTS["curves"](n)])
def test_a_title_that_is_set_later_wraps_and_covers_nothing(make):
    figure = make(3, "images")
    figure.suptitle("A title of two lines\n" + " ".join(names(5)))
    assert figure.get_suptitle().count("\n") >= 2
    assert_readable(figure)


@pytest.mark.parametrize("kind", ["images", "names"])
@pytest.mark.parametrize("name", OF_INPUTS)
def test_cells_of_a_figure_have_one_height_and_a_stated_scale(name, kind):
    figure = OF_INPUTS[name](3, kind)
    if name == "draw_circuit":
        figure.draw_without_rendering()
        found = figure.axes[0].child_axes
    else:
        found = [axes for axes in figure.axes if "±" in axes.get_xlabel() or axes.images]
    assert len(found) >= 2
    heights = [axes.get_window_extent().height for axes in found]
    assert max(heights) - min(heights) < 0.5
    assert all("±" in axes.get_xlabel() or " to " in axes.get_xlabel() for axes in found)


@pytest.mark.parametrize("format", ["svg", "pdf", "png"])
@pytest.mark.parametrize("name", ["eigenvectors", "draw_circuit"])
def test_figures_are_written_as_vectors_too(name, format):
    buffer = io.BytesIO()
    OF_INPUTS[name](3, "names").savefig(buffer, format=format)
    assert buffer.getvalue()[:5] in (b"<?xml", b"%PDF-", b"\x89PNG\r")


def test_inputs_that_are_negative_are_not_clipped():
    eigen = result(3, "images", "eigen")
    x = torch.linspace(-2, 1, INPUTS).double()
    for figure in (explanation(eigen, x, label=0), activations(1.0, X, {"x": x}, (3, 4))):
        (drawn,) = (a.images[0] for a in figure.axes if a.images and np.allclose(a.images[0].get_array().ravel(), x))
        assert drawn.get_clim() == (-2, 2)
        assert drawn.get_cmap().name == "RdBu_r"
    (drawn,) = (a.images[0] for a in explanation(eigen, x.abs(), label=0).axes[:1])
    assert (drawn.get_clim(), drawn.get_cmap().name) == ((0, float(x.abs().max())), "gray_r")


def test_bars_are_the_largest_entries_by_size_with_their_names():
    eigen = result(3, "names", "eigen")
    cell = spectrum(eigen, 1, count=1).axes[1]
    vector = eigen.eigenvectors[1, :, int(eigen.eigenvalues[1].argmax())]
    best = vector.abs().argsort(descending=True)[:8]
    np.testing.assert_allclose([bar.get_width() for bar in cell.patches], vector[best] / vector.abs().max())
    shown = [text.get_text().replace("\n", "") for text in cell.texts]
    for text, at in zip(shown, best, strict=True):
        assert names(INPUTS)[at].replace(" ", "").startswith(text.replace(" ", "").rstrip("…␣"))
    assert cell.get_xlabel() == f"8 of 12, ±{float(vector.abs().max()):.3g}"


def test_tokens_show_their_spaces_and_line_breaks():
    tokens = [" the", "the", "\n", "$5", "a b", " "]
    named = random_layer(2, 6, 4, seed=0).with_names(input_names=tokens)
    cell = spectrum(decompose(named, "eigen"), 0, count=1).axes[1]
    assert {text.get_text() for text in cell.texts} == {"␣the", "the", "\\n", r"\$5", "a b", "␣"}


def test_names_that_are_cut_alike_are_told_apart():
    long = [f"{'x' * 90}{end}" for end in "abc"]
    axes = similarity_matrix(torch.eye(3), long).axes[0]
    assert len({label.get_text() for label in axes.get_yticklabels()}) == 3


def test_a_spectrum_shows_its_two_ends_and_no_zeros_between():
    eye = torch.eye(500, dtype=torch.float64)
    size = torch.full((1, 500), 1e-4, dtype=torch.float64)
    size[0, ::50] = torch.tensor([5.0, 4, 3, 2, 1, -1, -2, -3, -4, -5]).double()
    figure = spectrum(decompose(BilinearLayer(down=size, left=eye, right=eye), "eigen"), 0, count=1)
    axes = figure.axes[0]
    values = np.concatenate([line.get_ydata() for line in axes.lines[1:]])
    assert sorted(values) == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]
    assert axes.get_title() == "spectrum, without 490 values below 1% of the largest (grey)"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5", "496", "500"]


def test_cells_of_narrow_images_are_wide_enough_for_their_numbers():
    result = decompose(random_layer(8, 40, 3, seed=0).with_names(input_shape=(40, 1)), "eigen")
    assert eigenvectors(result, count=1).get_size_inches()[0] >= 8 * 0.8


def test_a_spectrum_of_zeros_is_drawn_whole():
    figure = spectrum(
        decompose(BilinearLayer(down=torch.zeros(1, 12), left=torch.eye(12), right=torch.eye(12)), "eigen"), 0
    )
    assert figure.axes[0].lines[1].get_ydata().tolist() == [0.0] * 12
    assert figure.axes[0].get_title() == "spectrum"


def test_numbers_of_a_panel_have_the_same_decimals():
    eye = torch.eye(4, dtype=torch.float64)
    down = torch.tensor([[1.0, -0.4, 0.082, -0.0004]]).double()
    figure = spectrum(decompose(BilinearLayer(down=down, left=eye, right=eye), "eigen"), 0, (2, 2), count=2)
    assert [axes.get_title() for axes in figure.axes[1:]] == ["+1.00", "+0.08", "-0.40", "0.00"]


def test_an_exact_fit_does_not_squeeze_the_others():
    points = [{"method": "a", "parameters": 10**k, "relative_error": 0.5**k} for k in range(1, 4)]
    exact = {"method": "b", "parameters": 10**5, "relative_error": 3e-16}
    low, _ = pareto([*points, exact]).axes[0].get_ylim()
    assert 0.01 < low < 0.125
    arrows = pareto([*points, exact]).axes[0].lines[-1]
    assert (list(arrows.get_xdata()), arrows.get_label()) == ([10**5], "exact: relative error at most 3e-16")
    assert pareto(points).axes[0].lines[-1].get_label() != arrows.get_label()


def test_components_of_any_rank_are_drawn_by_default():
    """At its own default, `components` once asked for eight of four."""
    for rank in (1, 4):
        fit = decompose(layer(3, "images"), "cp", rank=rank, max_iterations=3)
        assert len(components(fit).axes) == 3 * rank
    small = decompose(layer(3, "images"), "eigen", rank=1)
    assert len(eigenvectors(small).axes) == 2 * 3
    assert len(spectrum(small, 0).axes) == 3
    assert len(output_directions(decompose(layer(3, "images"), "output_svd", rank=1)).axes) == 3 * 3


def test_one_output_is_explained_without_a_decision():
    eigen = result(1, "names", "eigen")
    figure = explanation(eigen, X, count=2)
    assert figure.get_suptitle().replace("\n", "").startswith(f"{names(1)[0]} = {float(eigen(X)):+.2f}"[:40])
    assert "margin" not in figure.get_suptitle()
    assert all("adds" in axes.get_title() for axes in figure.axes[2:])


def test_an_unknown_label_gives_no_verdict():
    assert explanation(result(3, "images", "eigen"), X).get_suptitle().startswith("Decision: margin ")


def test_blocks_are_named_by_their_output_and_shared_ones_by_number():
    lifted = decompose(lift(layer(3, "images"), bias=normal(3, seed=1)).drop_constant(), "eigen")
    heads = [axes.get_title().split("\n+")[0] for axes in eigenvectors(lifted, count=1).axes[:3]]
    assert [head.replace("\n", "")[:2] for head in heads] == ["0W", "1a", "2m"]
    shared = decompose(random_layer(3, 6, 4, seed=0), "output_svd")
    assert eigenvectors(shared, (2, 3), count=1).axes[0].get_title().startswith("block 0\n")


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize(("rest", "name"), [(5e-7, "b"), (2e-6, "block 0")])
def test_a_block_has_the_name_of_its_output_if_its_share_of_all_others_is_below_a_millionth(scale, rest, name):
    result = decompose(random_layer(3, 6, 4, seed=0).with_names(output_names=["a", "b", "c"]), "output_svd")
    outputs = scale * torch.tensor([[rest, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=torch.float64)
    drawn = eigenvectors(replace(result, outputs=outputs), (2, 3), count=1)
    assert drawn.axes[0].get_title().startswith(f"{name}\n")


WRONG = ["a", "b"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: eigenvectors(result(3, "images", "eigen"), names=WRONG), "names must be one per block, got 2 for 3"),
        (
            lambda: explanation(result(3, "images", "eigen"), X, names=WRONG),
            "names must be one per output, got 2 for 3",
        ),
        (
            lambda: components(result(3, "images", "cp", rank=3, max_iterations=3), names=WRONG),
            "names must be one per output, got 2 for 3",
        ),
        (lambda: output_directions(result(3, "images", "output_svd"), names=WRONG), "names must be one per output"),
        (lambda: draw_circuit(tree(3, "images"), names=WRONG), "names must be one per input, got 2 for 12"),
        (
            lambda: activations(1.0, X, {"x": X}, input_names=WRONG),
            "input_names must be one per input, got 2 for 12 inputs of vector",
        ),
        (lambda: explanation(result(3, "images", "eigen"), X, label=7), "label must be from 0 to 2"),
        (lambda: explanation(result(3, "images", "eigen"), X, label=-1), "label must be from 0 to 2"),
        (lambda: explanation(result(3, "images", "eigen"), X[None]), "x must have 1 dimensions"),
    ],
)
def test_a_wrong_count_of_names_is_one_clear_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()
