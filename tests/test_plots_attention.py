"""Figures of attention show what they say: circuits, patterns by offset, compositions, stacks over positions."""

import numpy as np
import pytest
import torch
from attention_layers import layer_with
from drawn_texts import cut_off, drawn_texts, overlapping
from helpers import normal
from matplotlib.patches import FancyBboxPatch

from tensornet_interp.attention import AttentionLayer, LinearMap, LowRank, Norm, Part, SequenceNetwork, composition
from tensornet_interp.plots import draw_composition, draw_network, draw_sequence, head_entries, pattern_by_offset
from tensornet_interp.testing import random_layer

COUNTS = [3, 10, pytest.param(62, marks=pytest.mark.slow)]


def names(count):
    """Different names of 3, 40, ... characters, with and without spaces."""
    words = ("W" * 38, "ab", "mean of the radius_and-more of", "iii", "spaces in between")
    return [f"{n}{words[n % 5]}" for n in range(count)]


def texts(figure, kind):
    found = [text for axes in figure.axes for text in axes.texts if (text.get_gid() or "").split(" ")[0] == kind]
    return {text.get_gid(): text.get_text() for text in found}


def circuit(rows, columns):
    return LowRank(left=normal(rows, 2), right=normal(columns, 2, seed=1), rows="position", columns="source", name="QK")


def square(heads, scores=1, seed=0, **options):
    return layer_with(scores, seed, heads=heads, n_in=6, n_out=6, **options)


def stack(*, softmax=True, norm=None):
    parts = [
        Part(square(2, softmax=softmax), 1.0, norm),
        Part(random_layer(6, 6, 4, seed=0), 1.0, norm),
        LinearMap(weight=normal(9, 6), name="unembedding"),
    ]
    return SequenceNetwork(parts)


DRAWN = {
    "entries": lambda n: head_entries(circuit(n, n), names(n), names(n)[::-1], count=min(n * n, 20)),
    "offsets": lambda n: pattern_by_offset(normal(2, n, 7, 7), names(n), title=" ".join(names(3))),
    "composition": lambda n: draw_composition([square(n), square(n, seed=7)], count=20),
    "sequence": lambda n: draw_sequence(stack(norm=Norm()), positions=min(n, 12), title=" ".join(names(3))),
    "network": lambda n: draw_network(square(n, 2)),
}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("figure", DRAWN)
def test_no_text_is_cut_off_or_meets_another(figure, count):
    made = DRAWN[figure](count)
    drawn = drawn_texts(made)
    assert cut_off(made, drawn) == []
    assert overlapping(drawn) == []


def test_a_circuit_is_drawn_with_all_names_and_its_largest_entries():
    matrix = circuit(5, 4)
    dense = matrix.left @ matrix.right.T
    figure = head_entries(matrix, "abcde", "wxyz", count=3)
    heat, bars = (figure.axes[0], figure.axes[2])
    np.testing.assert_allclose(heat.images[0].get_array(), dense)
    assert [label.get_text() for label in heat.get_yticklabels()] == list("abcde")
    assert [label.get_text() for label in heat.get_xticklabels()] == list("wxyz")
    assert (heat.get_ylabel(), heat.get_xlabel()) == ("position", "source")
    best = dense.flatten().abs().argsort(descending=True)[:3].tolist()
    assert [label.get_text() for label in bars.get_yticklabels()] == [
        f"{'abcde'[i // 4]} ← {'wxyz'[i % 4]}" for i in best
    ]
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches], dense.flatten()[best])
    low, high = heat.images[0].get_clim()
    assert (-low, high) == pytest.approx(2 * (float(dense.abs().max()),))
    assert figure.get_suptitle() == "QK"
    assert list(texts(figure, "entry")) == ["entry 0", "entry 1", "entry 2"]
    assert [len(texts(head_entries(circuit(*size)), "entry")) for size in ((2, 2), (5, 4))] == [4, 12]  # or all


def test_a_large_circuit_shows_the_rows_and_columns_of_its_largest_entries():
    matrix = circuit(100, 5)
    figure = head_entries(matrix, count=4)
    top = matrix.top(4)
    shown = [
        [label.get_text() for label in labels]
        for labels in (figure.axes[0].get_yticklabels(), figure.axes[0].get_xticklabels())
    ]
    assert shown == [list(dict.fromkeys(str(e.row) for e in top)), list(dict.fromkeys(str(e.column) for e in top))]
    dense = matrix.left @ matrix.right.T
    np.testing.assert_allclose(
        figure.axes[0].images[0].get_array(), dense[[int(r) for r in shown[0]]][:, [int(c) for c in shown[1]]]
    )
    assert "of 100 x 5" in figure.get_suptitle()


def test_a_pattern_is_averaged_along_its_diagonals():
    pattern = normal(3, 2, 5, 5).abs()
    figure = pattern_by_offset(pattern, count=3)
    expected = [
        [float(torch.stack([pattern[:, head, s, s - back] for s in range(back, 5)]).mean()) for back in range(3)]
        for head in range(2)
    ]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), expected)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "-1", "-2"]
    assert figure.axes[0].images[0].get_cmap().name == "viridis"
    signed = pattern_by_offset(-pattern[0]).axes[0].images[0]
    assert signed.get_cmap().name == "RdBu_r"
    assert signed.get_clim()[0] == -signed.get_clim()[1]


def test_the_strongest_compositions_are_lines_between_heads():
    layers = [square(2, 2, seed=0), square(3, 2, seed=5)]
    scores = {
        (kind, f"1.{a}", f"0.{b}"): max(
            float(composition(*layers, kind, [-2], score)[0, a, b]) for score in range(1 if kind == "value" else 2)
        )
        for kind in ("query", "key", "value")
        for a in range(3)
        for b in range(2)
    }
    best = sorted(scores, key=scores.get, reverse=True)[:7]
    figure = draw_composition(layers, offset=-2, count=7)
    axes = figure.axes[0]
    lines = {line.get_gid(): line.get_linewidth() for line in axes.lines}
    assert list(lines) == [" ".join(edge) for edge in best]
    widths = list(lines.values())
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[-1]
    assert set(texts(figure, "head")) == {"head 0.0", "head 0.1", "head 1.0", "head 1.1", "head 1.2"}
    assert list(texts(figure, "edge").values()) == [f"{upper} ← {lower}" for _, upper, lower in best]
    shown = [text.get_text() for text in axes.texts]
    assert all(f"{edge[0]} {scores[edge]:.2f}" in shown for edge in best)


def test_heads_without_scores_compose_by_their_values_alone():
    averaging = AttentionLayer.from_weights(
        queries=[], keys=[], value=normal(6, 6), out=normal(6, 6, seed=1), heads=2, positions=3
    )
    figure = draw_composition([square(2), averaging], count=20)
    edges = [line.get_gid() for line in figure.axes[0].lines]
    assert len(edges) == 4
    assert {edge.split()[0] for edge in edges} == {"value"}


def test_composition_needs_heads_below():
    with pytest.raises(ValueError, match="at least two, because heads compose with heads below, got 1"):
        draw_composition([square(2)])


@pytest.mark.parametrize("norm", [None, Norm()])
def test_a_stack_shows_parts_positions_residuals_and_norms(norm):
    figure = draw_sequence(stack(norm=norm), positions=2)
    assert list(texts(figure, "position").values()) == ["position 0", "position 1"]
    assert list(texts(figure, "name").values()) == ["part 0", "random 0", "unembedding"]
    shown = [
        text.get_text().replace("\n", " ") for text in figure.axes[0].texts if (text.get_gid() or "").startswith("part")
    ]
    assert shown == ["2 heads, softmax", *["bilinear to 6"] * 2, *["linear to 9"] * 2]
    lines = [line.get_gid() for line in figure.axes[0].lines]
    assert (lines.count("residual 0"), lines.count("residual 1"), lines.count("residual 2")) == (2, 2, 0)
    assert lines.count("source 0") == 3  # position 1 has two sources
    assert sorted(texts(figure, "norm")) == ([] if norm is None else ["norm 0", "norm 1"])
    assert list(texts(figure, "size").values()) == ["6", "6", "6"]


def test_the_text_of_a_part_stays_in_its_box():
    named = LinearMap(weight=normal(9, 6), name=" ".join(names(3)))
    figure = draw_sequence(SequenceNetwork([*stack().parts[:2], Part(named)]), positions=2)
    figure.draw_without_rendering()
    boxes = [patch.get_window_extent() for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]
    labels = [text for text in figure.axes[0].texts if (text.get_gid() or "").startswith("part")]
    assert len(labels) == 5
    for label in labels:
        extent = label.get_window_extent()
        assert any(box.x0 <= extent.x0 and extent.x1 <= box.x1 for box in boxes)


def test_cells_are_narrower_from_thirteen_rows_on():
    def cell(count):
        figure = head_entries(circuit(count, count), names(count), names(count), count=3)
        figure.draw_without_rendering()
        return figure.axes[0].get_window_extent().width / count

    assert cell(11) == pytest.approx(cell(12), rel=1e-6)
    assert cell(13) < 0.9 * cell(12)


def test_a_stack_of_many_parts_is_refused():
    network = SequenceNetwork([LinearMap(weight=torch.eye(2))] * 41)
    with pytest.raises(ValueError, match="the network has 41 parts, but a figure holds at most 40"):
        draw_sequence(network)


def test_the_boxes_of_an_attention_layer_carry_the_names_of_its_fields():
    shown = texts(draw_network(square(2, 2)), "tensor")
    assert sorted(shown.values()) == sorted(
        ["mask", "down", "value", "queries.0", "queries.1", "keys.0", "keys.1", *["rotation"] * 4]
    )
