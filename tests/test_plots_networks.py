"""Drawings of networks and circuits: every tensor, mode and component is there once, and nothing overlaps."""

from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tensornet_interp import BilinearNetwork, Report, TensorNetwork, Term, TuckerResult, decompose, lift
from tensornet_interp.circuits import circuit
from tensornet_interp.plots import draw_circuit, draw_network
from tensornet_interp.testing import random_layer

LAYERS = {(3, 5, 4): 0, (5, 6, 7): 1, (6, 8, 2): 2}


def stack(depth):
    return BilinearNetwork([random_layer(*sizes, seed=seed) for sizes, seed in list(LAYERS.items())[depth - 1 :: -1]])


def lifted_circuit(**options):
    layers = [lift(random_layer(5, 6, 3, seed=1), residual=0.0), lift(random_layer(2, 5, 4, seed=2))]
    return circuit(BilinearNetwork(layers), torch.tensor([1.0, -1.0], dtype=torch.float64), **options)


class Loose(TensorNetwork):
    """Two pieces, a cycle, an open mode of two tensors, a mode of one tensor, a number."""

    modes = ("a", "b")

    def terms(self):
        modes = ("ac", "cb", "ab", "d", "")
        sizes = {"a": 2, "b": 3, "c": 4, "d": 5}
        return tuple(Term(torch.zeros([sizes[mode] for mode in names]), tuple(names)) for names in modes)


class Held(TensorNetwork):
    """A network that holds its arrays in a term and in a dict."""

    modes = ("a", "b")

    def __init__(self):
        self.first = Term(torch.zeros(2, 4), ("a", "c"))
        self.others = {"second": torch.zeros(4, 3)}

    def terms(self):
        return (self.first, Term(self.others["second"], ("c", "b")))


def tucker():
    layer = random_layer(2, 3, 4, seed=5)
    report = Report.of(layer, "by hand", None)
    return TuckerResult(report=report, core=layer, outputs=torch.ones(5, 2).double(), inputs=torch.ones(6, 3).double())


DRAWN = {
    "layer": lambda: random_layer(3, 5, 4, seed=0),
    "eigen": lambda: decompose(random_layer(3, 5, 4, seed=0), "eigen", rank=2),
    "tucker": tucker,
    "three layers": lambda: stack(3),
    "mixed": lambda: decompose(stack(2), {0: "eigen"}),
    "loose": Loose,
    "held": Held,
}


def texts(figure, kind):
    """gid -> text of the artists of one kind."""
    return {text.get_gid(): text for text in figure.axes[0].texts if (text.get_gid() or "").split(" ")[0] == kind}


def dots(figure):
    return [line.get_gid() for line in figure.axes[0].lines if (line.get_gid() or "").startswith("copy")]


def assert_no_overlap(figure, artists):
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [artist.get_window_extent(renderer) for artist in artists]
    assert [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)] == []
    inside = figure.bbox
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert all(inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)


@pytest.mark.parametrize("name", DRAWN)
def test_every_tensor_and_mode_is_drawn_once_with_its_size(name):
    network = DRAWN[name]()
    figure = draw_network(network)
    terms = network.terms()
    assert len(texts(figure, "tensor")) == len(terms)
    sizes = {mode: size for term in terms for mode, size in zip(term.modes, term.data.shape, strict=True)}
    assert {text.get_text() for text in texts(figure, "mode").values()} == {f"{m}  {s}" for m, s in sizes.items()}
    lines = [line for line in figure.axes[0].lines if line.get_gid() is None]
    uses = [mode for term in terms for mode in term.modes]
    stubs = sum(mode in network.modes and uses.count(mode) > 1 for mode in sizes)
    assert len(lines) == len(uses) + stubs


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_overlaps_or_leaves_the_figure(name):
    figure = draw_network(DRAWN[name]())
    artists = [*texts(figure, "tensor").values(), *texts(figure, "mode").values(), *texts(figure, "title").values()]
    assert_no_overlap(figure, artists)


def test_shared_modes_are_copy_nodes_and_open_modes_are_not():
    assert sorted(dots(draw_network(stack(3)))) == sorted(
        f"copy rank{level}.{copy}" for level, copies in ((2, 1), (1, 2), (0, 4)) for copy in range(1, copies + 1)
    )
    assert sorted(dots(draw_network(DRAWN["eigen"]()))) == ["copy block", "copy rank"]
    assert sorted(dots(draw_network(Loose()))) == ["copy a", "copy b", "copy d"]


def test_boxes_carry_the_names_of_fields_and_parts():
    layer = random_layer(5, 5, 4, seed=0)
    names = {
        "tensor 0": "down 1",
        "tensor 1": "left 1",
        "tensor 2": "right 1",
        "tensor 3": "down 0",
        "tensor 8": "right 0",
    }
    shown = {
        gid: text.get_text() for gid, text in texts(draw_network(BilinearNetwork([layer, layer])), "tensor").items()
    }
    assert {gid: shown[gid] for gid in names} == names  # though both parts hold the same arrays
    eigen = decompose(layer, "eigen")
    shown = [text.get_text() for text in texts(draw_network(eigen), "tensor").values()]
    assert shown == ["outputs", "eigenvalues", "eigenvectors", "eigenvectors"]
    shown = [text.get_text() for text in texts(draw_network(eigen.to_layer()), "tensor").values()]
    assert shown == ["down", "left", "right"]  # left and right are one array
    shown = [text.get_text() for text in texts(draw_network(tucker()), "tensor").values()]
    assert shown == ["outputs", "inputs", "inputs", "core.down", "core.left", "core.right"]
    assert {text.get_text() for text in texts(draw_network(Loose()), "tensor").values()} == {"tensor"}


def test_arrays_in_terms_and_dicts_have_the_names_of_their_places():
    boxes = [text.get_text() for text in draw_network(Held()).axes[0].texts]
    assert any("first" in text for text in boxes)
    assert any("others.second" in text for text in boxes)


def test_the_output_is_on_top_and_the_inputs_stand_in_order_below():
    modes = texts(draw_network(stack(3)), "mode")
    heights = {gid: text.get_position()[1] for gid, text in modes.items()}
    assert heights["mode out"] == max(heights.values())
    inputs = [modes[f"mode in{i}"].get_position() for i in range(1, 9)]
    assert {y for _, y in inputs} == {min(heights.values())}
    assert sorted(inputs) == inputs


def test_what_leads_to_no_input_stands_in_the_middle():
    """So that the lines of the shared rank cross no other."""
    boxes = texts(draw_network(DRAWN["eigen"]()), "tensor")
    eigenvalues, first, second = (boxes[f"tensor {i}"].get_position()[0] for i in (1, 2, 3))
    assert first < eigenvalues < second


def test_a_circuit_shows_its_best_components_and_says_how_many_there_are():
    tree = lifted_circuit(widths=3, name="a - b")
    figure = draw_circuit(tree, (2, 3), count=2)
    shown = texts(figure, "component")
    assert len(shown) == 2 + 4
    decimals = {text.get_text().split("\n")[0].partition(".")[2] for text in shown.values()}
    assert len({len(digits) for digits in decimals}) == 1
    for gid, text in shown.items():
        layer, number = (int(part) for part in gid.split(" ")[1].split("."))
        level = tree.levels[1 - layer]
        lines = text.get_text().split("\n")
        sign, eigenvalue = lines[0].split(" ")
        assert sign == "λ"
        assert abs(float(eigenvalue) - float(level.eigenvalues[number])) <= 0.5 * 10.0 ** -len(eigenvalue.split(".")[1])
        assert lines[1] == f"{100 * float(level.scores[number]):.1f} %"
        assert lines[2] == f"const {float(level.vectors[number, 0]):+.2f}"
        assert lines[3:] == (["2 of 3"] if layer else [])
    assert texts(figure, "output")["output"].get_text() == "a - b\n2 of 3"
    assert "bound on the change" in texts(figure, "title")["title"].get_text()


def test_leaves_are_images_of_the_vectors_without_the_constant():
    tree = lifted_circuit(widths=(2, 3))
    figure = draw_circuit(tree, (2, 3), count=2)
    cells = figure.axes[0].child_axes
    leaves = [leaf for node in tree.components[:2] for leaf in node.children]
    assert len(cells) == len(leaves) == 4
    for cell, leaf in zip(cells, leaves, strict=True):
        np.testing.assert_allclose(cell.images[0].get_array(), leaf.vector[1:].reshape(2, 3))
    assert_no_overlap(figure, [*texts(figure, "component").values(), *cells, *texts(figure, "title").values()])


def test_leaves_are_bars_of_the_largest_entries_by_name():
    tree = lifted_circuit(widths=1, x=torch.ones(4, 6, dtype=torch.float64))
    figure = draw_circuit(tree, names="abcdef")
    vector = tree.levels[-1].vectors[0, 1:]
    order = vector.abs().argsort(descending=True)
    (leaf,) = figure.axes[0].child_axes
    assert [text.get_text() for text in leaf.texts] == ["abcdef"[i] for i in order]
    np.testing.assert_allclose([bar.get_width() for bar in leaf.patches], vector[order] / vector.abs().max())
    unnamed = draw_circuit(lifted_circuit(widths=2))
    assert len(unnamed.axes[0].child_axes) == 4
    assert {text.get_text() for cell in unnamed.axes[0].child_axes for text in cell.texts} == {
        f"x{i}" for i in range(6)
    }
    assert "rms over 4 inputs" in texts(figure, "title")["title"].get_text()
    assert_no_overlap(figure, [leaf, *texts(figure, "component").values()])


def test_lines_are_red_where_a_component_adds_and_wider_for_larger_scores():
    tree = lifted_circuit(widths=None)
    figure = draw_circuit(tree, count=8)
    lines = figure.axes[0].lines
    assert len(lines) == sum(len(level) for level in tree.levels)
    drawn = sorted((line.get_linewidth(), line.get_color()) for line in lines)
    widest = max(float(level.scores.max()) for level in tree.levels)
    signs = [
        (s / widest, v)
        for level in tree.levels
        for s, v in zip(level.scores.tolist(), level.eigenvalues.tolist(), strict=True)
    ]
    expected = sorted((0.6 + 4.4 * share, "tab:red" if value > 0 else "tab:blue") for share, value in signs)
    assert [color for _, color in drawn] == [color for _, color in expected]
    np.testing.assert_allclose([width for width, _ in drawn], [width for width, _ in expected])


class Evaluation(TensorNetwork):
    """A stack on a batch of inputs, which is a mode of the output too."""

    modes = ("batch", "out")

    def __init__(self, network, x):
        self.network, self.x = network, x

    def terms(self):
        inputs = [Term(self.x, ("batch", mode)) for mode in self.network.modes[1:]]
        return (*self.network.terms(), *inputs)


def test_an_evaluation_has_its_output_on_top_and_its_inputs_by_name():
    figure = draw_network(Evaluation(stack(2), torch.ones(7, 5, dtype=torch.float64)))
    heights = {gid: text.get_position()[1] for gid, text in texts(figure, "mode").items()}
    assert heights["mode out"] == max(heights.values())
    assert heights["mode batch"] == min(heights.values())
    names = [text.get_text() for text in texts(figure, "tensor").values()]
    assert names.count("x") == 4
    assert not [name for name in names if name == "tensor"]
    assert "network.0.left" in names


def test_a_circuit_of_one_output_has_its_name():
    network = BilinearNetwork([random_layer(2, 4, 3, seed=0)]).with_names(output_names=["red", "white"])
    for direction, name in (([0.0, 1.0], "white"), ([1.0, -1.0], "an output direction")):
        figure = draw_circuit(circuit(network, torch.tensor(direction).double(), widths=2, progress=False))
        assert f"Circuit of {name}\n" in texts(figure, "title")["title"].get_text()
