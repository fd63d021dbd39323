"""What notebooks show: the table, the spectrum and the warnings of an object, and figures without a backend."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch
from attention_layers import layer_with
from helpers import layer_of

from tensornet_interp import BilinearNetwork, decompose, lift, plan
from tensornet_interp.attention import SequenceNetwork
from tensornet_interp.cards import Shown, card_of
from tensornet_interp.compare import component_trust
from tensornet_interp.plots import eigenvectors
from tensornet_interp.testing import random_layer


def layer():
    return replace(random_layer(3, 6, 4, seed=0), name="<b>first</b>", basis="a & b").with_names(input_shape=(2, 3))


SHOWN = {
    "layer": layer,
    "lifted": lambda: lift(layer()),
    "network": lambda: BilinearNetwork([random_layer(6, 5, 4, seed=1), layer()]),
    "eigen": lambda: decompose(layer(), "eigen"),
    "cp": lambda: decompose(layer(), "cp", rank=2),
    "hosvd": lambda: decompose(layer(), "hosvd"),
    "report": lambda: decompose(layer(), "cp", rank=2).report,
    "trust": lambda: component_trust(decompose(layer(), "eigen", rank=2), layer()),
    "attention": lambda: layer_with(2, kv_heads=1),
    "sequence": lambda: SequenceNetwork([layer_of(5, 4, 3), layer_of(5, 5, 3)]),
    "plan": lambda: plan(BilinearNetwork([random_layer(6, 5, 4, seed=1), layer()])),
}


def parsed(part):
    """The HTML as XML, which it is: nothing is left open, and no text is taken for a tag."""
    return ET.fromstring(part._repr_html_().replace("&#9888;", "!"))


@pytest.mark.parametrize("name", SHOWN)
def test_a_card_is_short_and_well_formed(name):
    html = SHOWN[name]()._repr_html_()
    assert len(html) < 20_000
    assert "<script" not in html
    assert len(list(parsed(SHOWN[name]()).iter("td"))) >= 4


def test_an_object_without_rows_shows_its_text():
    class Plain(Shown):
        def __repr__(self):
            return "Plain(<b>)"

    assert "Plain(&lt;b&gt;)" in Plain()._repr_html_()


def test_the_spectrum_is_that_of_the_result():
    result = decompose(layer(), "eigen")
    bars = list(parsed(result).iter("rect"))
    values = result.eigenvalues.flatten()
    ordered = values[values.abs().argsort(descending=True)].tolist()
    heights = [float(bar.get("height")) for bar in bars]
    assert heights == pytest.approx([22 * abs(v) / abs(ordered[0]) for v in ordered], abs=0.05)
    assert [bar.get("fill") == "#d62728" for bar in bars if float(bar.get("height"))] == [
        v > 0 for v, h in zip(ordered, heights, strict=True) if h
    ]


def test_a_card_says_names_basis_error_and_warnings():
    result = decompose(layer(), "eigen")
    warned = replace(result, report=replace(result.report, warnings=("beware of < this",), relative_error=0.25))
    text = " ".join(parsed(warned).itertext())
    for words in ("<b>first</b>", "a & b", "images of 2 x 3 pixels", "0.25", "beware of < this"):
        assert words in text
    many = random_layer(3, 70, 4, seed=0).with_names(input_names=[f"input {i}" for i in range(70)])
    text = " ".join(parsed(many).itertext())
    assert "70: input 0, input 1, " in text
    assert "input 5, ..." in text
    six = random_layer(3, 6, 4, seed=0).with_names(input_names=[f"input {i}" for i in range(6)])
    assert "input 5" in " ".join(parsed(six).itertext())
    assert "input 5, ..." not in " ".join(parsed(six).itertext())


def test_long_plans_and_spectra_are_cut():
    network = BilinearNetwork([random_layer(2, 2, 3, seed=i) for i in range(5)])
    deep = plan(network, max_elements=1e12)
    assert re.search(r"and \d+ further lines", deep._repr_html_())
    wide = decompose(random_layer(9, 30, 40, seed=0), "eigen")
    assert len(list(parsed(wide).iter("rect"))) == 64
    assert "64 of 270" in wide._repr_html_()


def test_a_layer_with_gradients_is_shown():
    made = replace(layer(), down=torch.ones(3, 4, dtype=torch.float64, requires_grad=True))
    assert "<svg" in made._repr_html_()


def test_a_figure_is_a_picture_of_its_own():
    picture = eigenvectors(decompose(layer(), "eigen"))._repr_png_()
    assert picture.startswith(b"\x89PNG")


def test_the_values_of_a_tucker_result_are_those_of_its_input_unfolding_if_it_has_them():
    from_hosvd = decompose(layer(), "hosvd")
    assert list(card_of(from_hosvd).values) == from_hosvd.singular_values[1].tolist()
    assert list(card_of(replace(from_hosvd, singular_values=None)).values) == []
