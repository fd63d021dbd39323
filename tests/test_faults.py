"""Small inputs that once gave a wrong number in silence, each one of a kind, with the right value."""

import math

import extended
import numpy as np
import pytest
import torch

from tensornet_interp import BilinearLayer, decompose, difference, inner, list_decompositions, norm, relative_error
from tensornet_interp.testing import random_layer

HALF = [torch.bfloat16, torch.float16]
OURS = ["eigen", "output_svd", "hosvd", "tucker", "cp", "symmetric_cp", "block_term"]


def narrow(d, hidden, outputs, dtype, decay=0.0, seed=0):
    """A layer of a low-precision dtype whose input weights decay as (1 + i)^-decay, scaled as trained ones are."""
    generator = torch.Generator().manual_seed(seed)
    inputs = (1.0 + torch.arange(d)) ** -decay / d**0.5
    left, right = (torch.randn(hidden, d, generator=generator) * inputs for _ in range(2))
    down = torch.randn(outputs, hidden, generator=generator) / hidden**0.5
    return BilinearLayer.from_weights(left=left.to(dtype), right=right.to(dtype), down=down.to(dtype))


def rounded(result, dtype):
    """The error that rounding alone makes: the float64 result of the same layer, its arrays rounded to the dtype."""
    return result.to(dtype=dtype)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    "size", [(256, 32, 4, 0.0), (64, 48, 10, 0.0), pytest.param((256, 400, 16, 1.0), marks=pytest.mark.laws)], ids=str
)
@pytest.mark.parametrize("method", OURS)
def test_w1_the_exact_end_of_a_half_precision_layer_is_exact_to_its_rounding(method, size, dtype):
    d, hidden, outputs, decay = size
    layer = narrow(d, hidden, outputs, dtype, decay)
    wide = layer.to(dtype=torch.float64)
    exact = decompose(layer, method)
    reference = decompose(wide, method)
    rounding = relative_error(reference.to(dtype=dtype).to(dtype=torch.float64), wide)
    assert relative_error(exact.to(dtype=torch.float64), wide) <= 2 * rounding
    assert exact.relative_error == pytest.approx(
        relative_error(exact.to(dtype=torch.float64), wide), rel=1e-6, abs=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", OURS)
def test_w1_the_exact_end_of_a_large_bfloat16_layer(method):
    test_w1_the_exact_end_of_a_half_precision_layer_is_exact_to_its_rounding(
        method, (1024, 256, 32, 0.0), torch.bfloat16
    )


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_w1_directions_of_a_half_precision_layer(dtype):
    layer = narrow(64, 48, 128, dtype)
    result = decompose(layer, "eigen", directions=torch.eye(128, dtype=dtype))
    assert result.relative_error < 2 * torch.finfo(dtype).eps


def test_w1_a_coordinate_with_small_weights_and_large_values_is_kept():
    """Weights 1e-6 of the others in one input, values 1e6: half of the function is this input."""
    layer = random_layer(3, 12, 5, seed=0, dtype=torch.float32)
    scale = torch.ones(12, 1)
    scale[3] = 1e-6
    layer = BilinearLayer(down=layer.down, left=scale * layer.left, right=scale * layer.right)
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(1)).double()
    x[:, 3] *= 1e6
    truth = layer.to(dtype=torch.float64)(x)
    for method in OURS:
        result = decompose(layer, method).to(dtype=torch.float64)
        assert float((result(x) - truth).norm() / truth.norm()) < 1e-5, method


def cancelling():
    a = random_layer(4, 12, 8, seed=0)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    moved = a.left + 1e-9 * torch.randn(12, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return difference(a, BilinearLayer(down=a.down[:, order], left=moved[:, order], right=a.right[:, order]))


def test_w2_hidden_units_that_cancel():
    extended.needs_extended()
    d = cancelling()
    truth = extended.dense(d)
    assert float(norm(d)) == pytest.approx(float(extended.norm(truth)), rel=1e-5)
    result = decompose(d, "eigen", rank=3)
    assert result.relative_error == pytest.approx(float(extended.relative_error(result, d)), rel=1e-4)
    assert result.relative_error > 0.2


@pytest.mark.parametrize("seed", range(40))
def test_w2_the_inner_product_of_a_layer_with_itself_is_not_negative(seed):
    a = random_layer(4, 12, 8, seed=seed)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    copy = BilinearLayer(down=a.down[:, order], left=a.left[:, order], right=a.right[:, order])
    d = difference(a, copy)
    assert float(inner(d, d)) >= 0


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("exponent", [-165, -100, 100, 155])
def test_w3_scales_beyond_the_range_of_squares(method, exponent):
    layer = random_layer(3, 6, 4, seed=0)
    scaled = BilinearLayer(down=layer.down * 10.0**exponent, left=layer.left, right=layer.right)
    options = {"eigen": {"rank": 2}, "output_svd": {"rank": 2}, "hosvd": {"ranks": (2, 3)}, "tucker": {"ranks": (2, 3)}}
    options |= {"cp": {"rank": 2}, "symmetric_cp": {"rank": 2}, "block_term": {"blocks": 2, "rank": 2}}
    expected = decompose(layer, method, **options[method])
    found = decompose(scaled, method, **options[method])
    assert found.relative_error == pytest.approx(expected.relative_error, rel=1e-6)
    ratio = found.to_layer().to_tensor() / 10.0**exponent
    torch.testing.assert_close(ratio, expected.to_layer().to_tensor(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", OURS)
def test_w3_unbalanced_columns(method):
    layer = random_layer(3, 6, 4, seed=0)
    unbalanced = BilinearLayer(down=layer.down * 1e-170, left=layer.left * 1e170, right=layer.right)
    assert decompose(unbalanced, method).relative_error < 1e-9


@pytest.mark.parametrize("blocks", [9, 10])
def test_w4_block_term_does_not_end_at_zero(blocks):
    outputs = torch.eye(10, dtype=torch.float64) - 0.1
    layer = random_layer(10, 16, 12, seed=5).change_basis(outputs=outputs)
    start = decompose(layer, "output_svd", blocks=blocks, rank=2)
    result = decompose(layer, "block_term", blocks=blocks, rank=2)
    assert result.relative_error <= start.relative_error + 1e-12
    assert result.relative_error < 0.3


@pytest.mark.parametrize("method", OURS)
def test_w10_autocast_does_not_reach_the_library(method):
    layer = random_layer(3, 12, 5, seed=0, dtype=torch.float32)
    alone = decompose(layer, method)
    with torch.autocast("cpu", torch.bfloat16):
        inside = decompose(layer, method)
        changed = layer.change_basis(outputs=torch.eye(3))
    assert changed.down.dtype == torch.float32
    assert inside.relative_error == pytest.approx(alone.relative_error, rel=1e-3, abs=1e-7)


def test_the_list_of_methods_is_whole():
    others = {entry.name for entry in list_decompositions() if entry.name.startswith(("tensorly", "random"))}
    assert set(OURS) | others >= {"eigen", "cp"}
    assert math.isfinite(float(np.float64(1)))
