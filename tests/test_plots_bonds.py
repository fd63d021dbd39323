"""Figures of bonds: every singular value and every record is there."""

import numpy as np
import pytest
import torch

from tensornet_interp import BilinearNetwork, Moments, lift, odt
from tensornet_interp.plots import bond_curves, bond_spectra
from tensornet_interp.testing import random_layer


def network(depth):
    return BilinearNetwork([lift(random_layer(5, 5, 6, seed=i), residual=0.5) for i in range(depth)])


def test_a_panel_a_bond_shows_both_spectra_of_every_odt():
    moments = Moments(torch.arange(5).double(), torch.eye(5))
    found = {"isotropic": odt(network(3)), "data": odt(network(3), moments)}
    figure = bond_spectra(found)
    assert [axes.get_title() for axes in figure.axes] == [
        "bond 1, between layers 0 and 1",
        "bond 2, between layers 1 and 2",
    ]
    for number, axes in enumerate(figure.axes, 1):
        assert axes.get_yscale() == "log"
        shown = {line.get_label(): line.get_ydata() for line in axes.lines}
        assert len(shown) == 4
        for name, result in found.items():
            bond = result.bonds[number]
            assert len(bond.singular_values_without_constant) == bond.size + 1  # without one direction: one is zero
            np.testing.assert_array_equal(shown[name], bond.singular_values_without_constant[: bond.size])
            np.testing.assert_array_equal(shown[f"{name}, with the constant"], bond.singular_values)


def test_rounding_is_not_shown_and_one_layer_shows_its_input():
    layer = random_layer(3, 5, 1, seed=0)  # two inputs matter
    (axes,) = bond_spectra({"layer": odt(layer)}).axes
    assert axes.get_title() == "bond 0, input"
    assert [len(line.get_ydata()) for line in axes.lines] == [2, 2]


def record(metric, removed, value):
    names = ("accuracy", "cross_entropy", "measured", "bound")
    return {"metric": metric, "removed": removed} | {name: value + i for i, name in enumerate(names)}


def test_every_record_is_in_the_curves_of_its_metric():
    records = [record("a", 0.25, 0.1), record("b", 0.25, 0.2), record("a", 0.5, 0.3)]
    figure = bond_curves(records, accuracy=0.9, loss=0.4)
    shown = [{line.get_label(): line.get_xydata().tolist() for line in axes.lines} for axes in figure.axes]
    for axes, offset, whole in zip(shown, (0, 1), (0.9, 0.4), strict=False):
        assert axes["a"] == [[25, 0.1 + offset], [50, 0.3 + offset]]
        assert axes["b"] == [[25, 0.2 + offset]]
        assert {y for _, y in axes["whole network"]} == {whole}
    assert shown[2] == {
        "a: measured": [[25, 2.1], [50, 2.3]],
        "a: bound": [[25, 3.1], [50, 3.3]],
        "b: measured": [[25, 2.2]],
        "b: bound": [[25, 3.2]],
    }
    assert [axes.get_yscale() for axes in figure.axes] == ["linear", "linear", "log"]


def test_networks_of_different_depth_do_not_share_panels():
    with pytest.raises(ValueError, match=r"odts must be of networks of equal depth, got \[1, 2\] bonds"):
        bond_spectra({"two": odt(network(2)), "three": odt(network(3))})
