"""Patterns say which tensors are a layer's; what they do not name of the layer's module is found."""

import re

import pytest

from tensornet_interp.weights import LAYOUTS, Layout

PUBLISHED = LAYOUTS["published"]


def test_names_of_a_layer_and_the_layers_of_a_file():
    assert PUBLISHED.at(12).left == "transformer.h.12.mlp.w.weight"
    names = [PUBLISHED.at(i).left for i in (0, 2, 11)] + ["transformer.h.x.mlp.w.weight", "lm_head.weight"]
    assert PUBLISHED.indices(names) == [0, 2, 11]
    assert Layout("a.w", "a.v").indices(["a.w", "b.w"]) == [0]
    assert Layout("a.{i}.w{i}", "a.v").indices(["a.1.w1", "a.1.w2"]) == [1]
    assert PUBLISHED.weights.keys() == {"left", "right", "down"}
    assert LAYOUTS["torch_bilinear"].weights == {"dense": "{i}.weight"}


LEFTOVER = {
    "another layer's": (PUBLISHED, ["transformer.h.1.mlp.w.gate", "transformer.h.0.attn.o.weight"], []),
    "in the module": (PUBLISHED, ["transformer.h.0.mlp.gate.weight"], ["transformer.h.0.mlp.gate.weight"]),
    "index 0 is not 01": (PUBLISHED, ["transformer.h.01.mlp.gate"], []),
    "beside a weight": (Layout("w.l.weight", "w.r.weight"), ["w.l.bias", "w.x.bias"], ["w.l.bias"]),
    "beside, with a scale": (Layout("l.{i}.w", "r.{i}.w"), ["l.0.scale", "l.1.scale", "x.0.w"], ["l.0.scale"]),
    "no module": (Layout(dense="weight"), ["bias", "other"], ["bias"]),
    "named": (Layout(dense="weight", bias="bias"), ["bias"], []),
    "ignored": (Layout(dense="{i}.weight", ignore=("{i}.bias",)), ["0.bias", "0.mask"], ["0.mask"]),
}


@pytest.mark.parametrize("case", LEFTOVER)
def test_what_a_layout_does_not_name(case):
    layout, others, expected = LEFTOVER[case]
    assert layout.leftover([*layout.at(0).weights.values(), *others], 0) == expected


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, ValueError, "left and right must both be named, got left='' and right=''"),
        ({"left": "a"}, ValueError, "got left='a' and right=''"),
        ({"dense": "a", "down": "b"}, ValueError, "dense names the whole tensor; give it with a bias at most"),
        ({"left": "a", "right": "a", "first": "up"}, ValueError, "first must be one of left, right; got 'up'"),
        ({"left": "a", "right": "b", "basis": None}, TypeError, "basis must be a text, got None"),
        ({"left": "a", "right": "b", "ignore": "c"}, TypeError, "ignore must be a sequence of texts"),
    ],
)
def test_layouts_that_are_no_layer(options, kind, message):
    with pytest.raises(kind) as caught:
        Layout(**options)
    assert re.search(message, str(caught.value)), str(caught.value)
