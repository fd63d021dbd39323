"""Sparsity and energy of vectors whose answer is known."""

import pytest
import torch
from bad_input import NAN, RESULT, X, cases, check, spoiled
from helpers import normal

from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.concentration import energy_share, participation, rare_inputs


def test_n_equal_entries_participate_as_n_whatever_their_scale_and_signs():
    values = torch.zeros(3, 7)
    values[0, 2], values[1, :4], values[2] = -5.0, torch.tensor([3.0, -3, 3, -3]), 1e-3
    assert participation(values).tolist() == pytest.approx([1, 4, 7], rel=1e-6)  # 1e-3 in float32
    assert participation(1000 * values.double()).tolist() == pytest.approx([1, 4, 7], rel=1e-12)
    assert participation(values.T, dim=0).dtype == torch.float64
    assert participation(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist() == pytest.approx([49 / 25, 0])


def test_an_input_activates_the_components_that_were_planted():
    """One class sees x0^2 + x1^2 - x2^2, the other 2 x3^2: an input on k of the squares activates k components."""
    down = torch.tensor([[1.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 2.0]], dtype=torch.float64)
    layer = BilinearLayer(down=down, left=torch.eye(4, dtype=torch.float64), right=torch.eye(4, dtype=torch.float64))
    result = decompose(layer, "eigen")
    x = torch.tensor([[1, 0, 0, 0], [1, -1, 0, 0], [2, 2, 2, 5], [0, 0, 0, 1]], dtype=torch.float64)
    expected = torch.tensor([[1, 0], [2, 0], [3, 1], [0, 1]], dtype=torch.float64)
    assert torch.allclose(result.activation_participation(x), expected, atol=1e-12)
    assert torch.allclose(result.activation_participation(x[2]), expected[2], atol=1e-12)
    activations = result.activations(X := normal(6, 4))
    oracle = activations.abs().sum(-1) ** 2 / (activations**2).sum(-1)
    assert torch.allclose(result.activation_participation(X), oracle, rtol=1e-12)


def test_inputs_without_structure_activate_a_third_of_the_effective_rank():
    size = 400
    layer = BilinearLayer(down=torch.ones(1, size), left=torch.eye(size), right=torch.eye(size))
    result = decompose(layer, "eigen")
    found = result.activation_participation(normal(2000, size).float()) / result.effective_rank()
    # n^2 / sum z^4: a relative deviation of sqrt(96 / 9 / 400) = 0.16 an input, 0.004 of 2000; bias below 1 / 400 * 11
    assert float(found.mean()) == pytest.approx(1 / 3, rel=0.04)


def test_rare_pixels_are_those_below_the_share():
    x = torch.zeros(200, 5)
    for pixel, active in enumerate((0, 1, 2, 3, 200)):
        x[:active, pixel] = 0.5
    assert rare_inputs(x).tolist() == [True, True, False, False, False]  # 2 of 200 is 1 %, not under it
    assert rare_inputs(x, 0.0125).tolist() == [True, True, True, False, False]
    assert (rare_inputs(x) & (x > 0).any(0)).tolist() == [False, True, False, False, False]


def test_planted_energy_on_rare_pixels():
    vectors = torch.zeros(2, 3, 5, dtype=torch.float64)
    vectors[0, 0] = torch.tensor([3.0, 0, 4, 0, 0])
    vectors[0, 1] = 1.0
    vectors[1, 2, 4] = -2.0
    mask = torch.tensor([True, True, False, False, False])
    expected = torch.tensor([[9 / 25, 2 / 5, 0], [0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(energy_share(vectors, mask), expected, rtol=1e-12)
    assert torch.allclose(energy_share(-7 * vectors, mask), expected, rtol=1e-12)
    both = energy_share(normal(4, 5), mask) + energy_share(normal(4, 5), ~mask)
    assert torch.allclose(both, torch.ones(4, dtype=torch.float64))


MASK = torch.tensor([True, False, True, False, True])

BAD = [
    ("x size", lambda: RESULT.activation_participation(normal(2, 6)), ValueError, "size 5 in the layer but 6 in x"),
    ("NaN", lambda: rare_inputs(spoiled(NAN)), ValueError, "x has 1 entries that are NaN"),
    ("integer images", lambda: rare_inputs(MASK[None].long()), TypeError, "x must be real floating point"),
    ("one image", lambda: rare_inputs(X[0]), ValueError, r"x must have 2 dimensions \('batch', 'in'\)"),
    ("share 0", lambda: rare_inputs(X, 0.0), ValueError, r"share must be in \(0, 1\], got 0.0"),
    ("share in percent", lambda: rare_inputs(X, 1.5), ValueError, r"share must be in \(0, 1\], got 1.5"),
    ("mask of weights", lambda: energy_share(X, X[0]), TypeError, r"mask must be a boolean .*torch\.float64"),
    ("mask of a list", lambda: energy_share(X, [True]), TypeError, "mask must be a boolean .*list"),
    (
        "mask of images",
        lambda: energy_share(X, MASK[None]),
        ValueError,
        r"mask must be boolean of shape \(5,\), got \(1, 5\)",
    ),
    ("mask size", lambda: energy_share(X, MASK[:4]), ValueError, r"mask must be boolean of shape \(5,\), got \(4,\)"),
]


@pytest.mark.parametrize(("call", "kind", "message"), cases(BAD))
def test_bad_input(call, kind, message):
    check(call, kind, message)
