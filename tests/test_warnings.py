"""Warnings that a result or an estimate carries: there if they should be, and not otherwise."""

from dataclasses import replace

import pytest
import torch

from tensornet_interp import BilinearLayer, BilinearNetwork, decompose, lift
from tensornet_interp.inner_products import Gaussian, Symmetric, Tree, inner, similarity
from tensornet_interp.testing import random_layer


def diagonal(values):
    """Output i is values[i] (x_2i^2 + 2 x_2i+1^2): its singular values are values times sqrt(5), inputs two by two."""
    n = len(values)
    pairs = torch.eye(2 * n, dtype=torch.float64)
    weights = torch.tensor(values, dtype=torch.float64).repeat_interleave(2) * torch.tensor([1.0, 2.0]).repeat(n)
    down = torch.eye(n, dtype=torch.float64).repeat_interleave(2, 1) * weights
    return BilinearLayer(down=down, left=pairs, right=pairs)


@pytest.mark.parametrize(
    ("values", "kept", "expected"),
    [
        ((3.0, 1.0, 1.0), 2, True),  # the cut divides equal values
        ((3.0, 1.0, 1.0), 1, False),  # equal values are both cut
        ((3.0, 1.0, 1.0), 3, False),  # nothing is cut
        ((3.0, 1.0, 1.0 - 1e-14), 2, True),  # equal up to rounding
        ((3.0, 1.0, 1.0 - 1e-9), 2, False),  # near, but told apart
        ((3.0, 0.0, 0.0), 2, False),  # what is cut is zero: no choice was made
        ((3.0, 2.0, 1.0), 2, False),
    ],
)
def test_a_cut_between_equal_singular_values_is_said(values, kept, expected):
    layer = diagonal(values)
    found = decompose(layer, "output_svd", blocks=kept).report.warnings
    assert [text.startswith("output directions: the cut after") for text in found] == [True] * expected
    for method in ("hosvd", "tucker"):
        found = decompose(layer, method, ranks=(kept, 6)).report.warnings
        assert [text.startswith("output rank: the cut after") for text in found] == [True] * expected


@pytest.mark.parametrize(("kept", "expected"), [(1, False), (2, False), (3, True), (4, False), (5, True), (6, False)])
def test_a_cut_between_equal_input_directions_is_said(kept, expected):
    """The singular values of the inputs are 6, 3, 2, 2, 1, 1."""
    found = decompose(diagonal((3.0, 1.0, 1.0)), "hosvd", ranks=(3, kept)).report.warnings
    assert [text.startswith("input rank: the cut after") for text in found] == [True] * expected


def test_truncation_of_a_lifted_constant_is_said():
    layer = lift(random_layer(4, 6, 5, seed=0), bias=torch.ones(4, dtype=torch.float64))
    for method, options in {
        "hosvd": {"ranks": (2, 3)},
        "output_svd": {"blocks": 1},
        "cp": {"rank": 2},
        "tucker": {"ranks": (1, 1)},
    }.items():
        assert any("constant coordinate" in text for text in decompose(layer, method, **options).report.warnings), (
            method
        )
        assert not decompose(layer.drop_constant(), method, **options).report.warnings
        assert not decompose(random_layer(4, 6, 5, seed=0), method, **options).report.warnings
    for method in ("eigen", "hosvd", "output_svd", "cp"):
        assert not decompose(layer, method).report.warnings
        assert not decompose(layer.to(dtype=torch.bfloat16), method).report.warnings
    assert not decompose(layer, "eigen", rank=1).report.warnings  # the constant's own block has rank one


def test_results_that_do_not_fit_the_dtype():
    layer = random_layer(3, 8, 5, seed=0)
    small = layer.to(dtype=torch.float16)
    small = BilinearLayer(down=small.down * 2.0**-14, left=small.left * 2.0**-4, right=small.right * 2.0**-4)
    found = decompose(small, "eigen").report
    assert any("below the normal numbers of torch.float16" in text for text in found.warnings)
    assert not decompose(small.to(dtype=torch.float32), "eigen").report.warnings
    large = BilinearLayer(down=layer.down * 300, left=layer.left * 300, right=layer.right).to(dtype=torch.float16)
    with pytest.raises(ValueError, match=r"does not fit torch.float16"):
        decompose(large, "eigen")
    wide = large.to(dtype=torch.float32)
    assert not decompose(wide, "eigen").report.warnings
    too_large = replace(wide, left=wide.left * 1e6)
    negative = replace(wide, down=-1e6 * wide.down.abs())  # all entries below the lowest number
    for given in (too_large, negative, decompose(too_large, "eigen"), BilinearNetwork([too_large])):
        with pytest.raises(
            ValueError, match=r"dtype torch\.float16 is too narrow: the largest entry of .* more than 6"
        ):
            given.to(dtype=torch.float16)


@pytest.mark.parametrize("verb", [inner, similarity])
def test_heavy_tails_are_said(verb):
    layers = [random_layer(6, 6, 6, seed=seed) for seed in range(3)]
    deep, shallow = BilinearNetwork(layers), BilinearNetwork(layers[:1])
    sampled = Gaussian(method="sampled")
    assert [text.startswith("heavy tails") for text in verb(deep, deep, kind=sampled).warnings] == [True]
    assert verb(shallow, shallow, kind=sampled).warnings == ()
    for kind in (Tree(), Gaussian(method="closure")):
        assert verb(deep, deep, kind=kind).warnings == ()
    assert verb(shallow, shallow, kind=Symmetric(method="sampled")).warnings == ()
