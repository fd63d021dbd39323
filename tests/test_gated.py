"""Gated layers and the bilinear layers nearest to them, against least squares and exact integrals."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import normal

from tensornet_interp import Moments, load, save
from tensornet_interp.gated import GATES, GatedLayer, gate_fit, linearization_error, linearize

INS, RANK, OUTS = 4, 6, 3
X = normal(400, INS, seed=1) @ normal(INS, INS, seed=2) + normal(INS, seed=3)


def gated(gate="silu", *, biases=True, dtype=torch.float64, **about):
    given = {
        "left_bias": normal(RANK, seed=4) / 3,
        "right_bias": normal(RANK, seed=5) / 3,
        "bias": normal(OUTS, seed=6),
    }
    return GatedLayer.from_weights(
        left=normal(RANK, INS, seed=7) / 2,
        right=normal(RANK, INS, seed=8) / 2,
        down=normal(OUTS, RANK, seed=9),
        gate=gate,
        **(given if biases else {}),
        **about,
    ).to(dtype=dtype)


def cubic(u):
    return 1 + u / 2 - u**2 / 3 + u**3 / 5


def grid(moments, nodes):
    """Points and weights of a tensor Gauss-Hermite rule, exact for polynomials of degree 2 nodes - 1 in each input."""
    points, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(nodes))
    size = len(moments.mean)
    z = torch.cartesian_prod(*[points] * size)
    share = torch.cartesian_prod(*[weights / math.sqrt(2 * math.pi)] * size).prod(1)
    return moments.mean + z @ moments.root.T, share


@pytest.mark.parametrize("gate", sorted(GATES))
def test_a_call_is_the_gated_mlp(gate):
    layer = gated(gate)
    left = X @ layer.left + layer.left_bias
    expected = (GATES[gate](left) * (X @ layer.right + layer.right_bias)) @ layer.down.T + layer.bias
    torch.testing.assert_close(layer(X), expected, rtol=1e-14, atol=1e-14)
    assert layer(X[0]).shape == (OUTS,)


@pytest.mark.parametrize("gate", ["silu", "relu", cubic])
@pytest.mark.parametrize("weighted", [True, False])
def test_lines_are_those_of_least_squares(gate, weighted):
    layer = gated(gate)
    found = gate_fit(layer, X, weighted=weighted)
    u, v = layer.halves(X)
    g = GATES.get(gate, gate)(u)
    weights = v if weighted else torch.ones_like(v)
    for unit in range(RANK):
        w = weights[:, unit]
        columns = torch.stack([w, w * u[:, unit]], 1)
        target = w * g[:, unit]
        solved = torch.linalg.lstsq(columns, target[:, None], driver="gelsd").solution[:, 0]
        line = torch.stack([found.offsets[unit], found.slopes[unit]])
        torch.testing.assert_close(line, solved, rtol=1e-11, atol=1e-12)
        left = (target - columns @ solved).square().sum() / target.square().sum()
        assert float(found.residuals[unit]) == pytest.approx(float(left), rel=1e-9)
    assert found.count == len(X)


def test_a_gate_is_tried_from_minus_4_to_4():
    assert gated(lambda u: (4.1 - u).log() + (4.1 + u).log()).gate is not None
    for ends in (lambda u: (3.9 - u).log(), lambda u: (3.9 + u).log()):
        with pytest.raises(ValueError, match="gate must be finite from -4 to 4"):
            gated(ends)


@pytest.mark.slow
def test_a_layer_of_more_units_than_a_block_holds_is_read_row_by_row():
    units = 2**22 + 1  # entries of a block
    ones = torch.ones(units, 1, dtype=torch.float64)
    layer = GatedLayer.from_weights(left=ones, right=ones, down=ones.T, gate="silu")
    x = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    found = gate_fit(layer, x)
    torch.testing.assert_close(found.offsets[-1] + found.slopes[-1] * x[:, 0], GATES["silu"](x[:, 0]))
    assert found.count == 2


def test_two_inputs_are_enough_for_a_line():
    layer = gated()
    found, (u, _) = gate_fit(layer, X[:2], weighted=False), layer.halves(X[:2])
    torch.testing.assert_close(found.offsets + found.slopes * u, GATES["silu"](u), rtol=1e-9, atol=1e-11)
    assert found.count == 2
    with pytest.raises(ValueError, match="a line needs at least 2 inputs, got 1"):
        gate_fit(layer, X[:1])


def test_a_stream_gives_the_lines_of_its_rows_together():
    layer = gated()
    whole, parts = gate_fit(layer, X), gate_fit(layer, iter(X.split([1, 150, 249])))
    for name in ("offsets", "slopes", "residuals"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("gate", ["silu", "relu"])
def test_no_other_down_and_linear_part_is_nearer(gate, linear):
    layer = gated(gate)
    fit, found = gate_fit(layer, X), linearize(layer, X, linear=linear)
    u, v = layer.halves(X)
    columns = [(fit.offsets + fit.slopes * u) * v, torch.ones_like(X[:, :1]), *([X] if linear else [])]
    features = torch.cat(columns, 1)
    best = torch.linalg.lstsq(features, layer(X), driver="gelsd").solution
    torch.testing.assert_close(found(X), features @ best, rtol=1e-9, atol=1e-10)
    assert found.rank == features.shape[1]
    error = (found(X) - layer(X)).norm() / layer(X).norm()
    assert linearization_error(layer, found, X.split(100)) == pytest.approx(float(error), rel=1e-12)
    assert error < linearization_error(layer, linearize(layer, X, refit=False), X)


def test_a_gate_that_is_a_line_is_linearized_exactly():
    layer = gated(lambda u: 2 - 3 * u)
    for inputs in (X, Moments.of(X)):
        for options in ({}, {"refit": False}, {"linear": False}, {"weighted": False}):
            found = linearize(layer, inputs, **options)
            torch.testing.assert_close(found(X), layer(X), rtol=1e-10, atol=1e-10)
    assert float(gate_fit(layer, X).residuals.max()) < 10 * torch.finfo(torch.float64).eps  # a difference of squares


def test_without_refitting_the_weights_are_those_of_the_layer():
    layer = gated()
    fit, found = gate_fit(layer, X), linearize(layer, X, refit=False)
    assert torch.equal(found.down[1:, :RANK], layer.down)
    assert torch.equal(found.right[1:, :RANK], layer.right)
    torch.testing.assert_close(found.left[1:, :RANK], layer.left * fit.slopes, rtol=1e-15, atol=0)


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("biases", [True, False])
def test_from_moments_all_is_exact_for_gaussian_inputs(biases, linear):
    """A cubic gate makes every mean one of a polynomial, of degree at most 8 in an input."""
    layer = gated(cubic, biases=biases)
    moments = Moments(normal(INS, seed=10) / 2, torch.eye(INS, dtype=torch.float64) / 2 + 0.1)
    points, share = grid(moments, 6)
    root = share.sqrt()[:, None]
    fit, found = gate_fit(layer, moments), linearize(layer, moments, linear=linear)
    u, v = layer.halves(points)
    for unit in range(RANK):
        w = root[:, 0] * v[:, unit]
        columns = torch.stack([w, w * u[:, unit]], 1)
        solved = torch.linalg.lstsq(columns, (w * cubic(u[:, unit]))[:, None], driver="gelsd").solution[:, 0]
        line = torch.stack([fit.offsets[unit], fit.slopes[unit]])
        torch.testing.assert_close(line, solved, rtol=1e-10, atol=1e-11)
    columns = [(fit.offsets + fit.slopes * u) * v, torch.ones_like(points[:, :1]), *([points] if linear else [])]
    features = torch.cat(columns, 1)
    best = torch.linalg.lstsq(root * features, root * layer(points), driver="gelsd").solution
    torch.testing.assert_close(
        found(X),
        torch.cat(
            [
                (fit.offsets + fit.slopes * layer.halves(X)[0]) * layer.halves(X)[1],
                torch.ones_like(X[:, :1]),
                *([X] if linear else []),
            ],
            1,
        )
        @ best,
        rtol=1e-8,
        atol=1e-8,
    )
    assert fit.count is None


@pytest.mark.parametrize("mean", [0.0, 0.7, -2.5])
def test_the_line_of_relu_has_its_closed_form(mean):
    """slope = E relu'(u) = Phi(m / s), offset = E relu(u) - slope m: Stein's lemma, without weights."""
    one = torch.ones(1, 1, dtype=torch.float64)
    layer = GatedLayer(down=one, left=1.5 * one, right=one, gate="relu", left_bias=mean * one[0])
    found = gate_fit(layer, Moments.standard(1), weighted=False)
    below = 0.5 * math.erfc(-mean / 1.5 / math.sqrt(2))
    expected = 1.5 * math.exp(-((mean / 1.5) ** 2) / 2) / math.sqrt(2 * math.pi) + mean * below
    assert float(found.slopes) == pytest.approx(below, rel=1e-12)
    assert float(found.offsets) == pytest.approx(expected - below * mean, rel=1e-11)


def test_units_that_depend_on_each_other_share_their_part():
    layer = gated()
    twice = GatedLayer(
        **{side: torch.cat([getattr(layer, side)] * 2, 1) for side in ("left", "right")},
        down=torch.cat([layer.down / 4, layer.down * 3 / 4], 1),
        gate="silu",
        left_bias=layer.left_bias.repeat(2),
        right_bias=layer.right_bias.repeat(2),
        bias=layer.bias,
    )
    torch.testing.assert_close(linearize(twice, X)(X), linearize(layer, X)(X), rtol=1e-6, atol=1e-6)


def test_units_that_never_fire_are_named():
    layer = gated("relu")
    left_bias = layer.left_bias.clone()
    left_bias[[1, 4]] = -1e3
    layer = replace(layer, left_bias=left_bias)
    assert gate_fit(layer, X).silent == (1, 4)
    with pytest.warns(UserWarning, match="2 hidden units are 0 on all inputs: 1, 4"):
        found = linearize(layer, X)
    assert torch.isfinite(found(X)).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linearize(gated("relu"), X)


def test_constant_halves_get_no_slope():
    layer = gated("silu", biases=False)
    flat = GatedLayer(
        down=layer.down, left=torch.zeros_like(layer.left), right=layer.right, gate="silu", left_bias=layer.left[0]
    )
    for inputs in (X, Moments.of(X)):
        found = gate_fit(flat, inputs)
        torch.testing.assert_close(found.offsets, GATES["silu"](layer.left[0]), rtol=1e-12, atol=1e-14)
        assert not found.slopes.any()
        torch.testing.assert_close(linearize(flat, inputs)(X), flat(X), rtol=1e-9, atol=1e-9)


def test_scales_of_units_change_nothing():
    layer = gated()
    scale = torch.tensor([1e-120, 1e120, 1.0, 1e-3, 1e3, 1.0], dtype=torch.float64)
    other = GatedLayer(
        down=layer.down / scale,
        left=layer.left,
        right=layer.right * scale,
        gate="silu",
        left_bias=layer.left_bias,
        right_bias=layer.right_bias * scale,
        bias=layer.bias,
    )
    torch.testing.assert_close(linearize(other, X)(X), linearize(layer, X)(X), rtol=1e-9, atol=1e-9)


def test_the_result_keeps_what_describes_the_layer_and_says_what_was_done():
    layer = gated(name="mlp 3", basis="after the norm", history=("loaded",))
    found = linearize(layer, X, held_out=X[:50])
    assert (found.name, found.basis) == ("mlp 3", "after the norm")
    error = linearization_error(layer, found, X[:50])
    assert found.history == (
        "loaded",
        "linearized: lines through the gate silu, for 400 inputs",
        "down refitted, with a linear part",
        f"relative error {error:.4g} on 50 other inputs",
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_layers_are_linearized_in_float64(dtype):
    layer = gated(dtype=dtype)
    found = linearize(layer, X.to(dtype))
    assert found.down.dtype == dtype
    wide = linearize(layer.to(dtype=torch.float64), X.to(dtype).double())
    for side in ("down", "left", "right"):
        assert torch.equal(getattr(found, side), getattr(wide, side).to(dtype))


def test_a_named_gate_is_saved_and_a_function_is_refused(tmp_path):
    save({"layer": gated(), "fit": gate_fit(gated(), X)}, tmp_path / "kept.safetensors")
    found = load(tmp_path / "kept.safetensors")
    assert torch.equal(found["layer"](X), gated()(X))
    assert repr(found["fit"]) == repr(gate_fit(gated(), X))
    with pytest.raises(TypeError, match=r"'gate' is a builtins\.function, which cannot be saved"):
        save(gated(cubic), tmp_path / "other.safetensors")


def test_records_of_a_fit_have_one_row_per_unit():
    found = gate_fit(gated(), X)
    records = found.records()
    assert [record["unit"] for record in records] == list(range(RANK))
    assert [record["residual"] for record in records] == found.residuals.tolist()


def test_moments_of_few_inputs_are_named():
    with pytest.warns(UserWarning, match=r"the moments come from 39 inputs in 4 dimensions, .* about 32%"):
        linearize(gated(), Moments.of(X[:39]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linearize(gated(), Moments.of(X[:40]))


BAD = {
    "softmax": (lambda: gated(lambda u: u.softmax(0)), ValueError, "entries of .* depend on each other"),
    "one number": (lambda: gated(lambda u: u.sum()), ValueError, "one number per entry"),
    "not finite": (lambda: gated(torch.log), ValueError, "gate must be finite from -4 to 4"),
    "unknown": (lambda: gated("silo"), ValueError, "did you mean 'silu'"),
    "no gate": (lambda: gated(None), TypeError, "gate must be one of"),
    "bias of another size": (lambda: replace(gated(), bias=normal(4)), ValueError, "mode 'out'"),
    "other width": (lambda: linearize(gated(), normal(50, 5)), ValueError, "mode 'in' has size 4 in the layer but 5"),
    "other moments": (lambda: linearize(gated(), Moments.standard(5)), ValueError, "'in'"),
    "too few": (
        lambda: linearize(gated(), X[:10]),
        ValueError,
        "inputs has 10 vectors, but 11 coefficients per output",
    ),
    "one input": (lambda: gate_fit(gated(), X[:1]), ValueError, "at least 2 inputs, got 1"),
    "read once": (lambda: linearize(gated(), iter([X])), ValueError, "can be read only once"),
    "not finite inputs": (lambda: linearize(gated(), X / 0), ValueError, "inputs"),
    "a layer": (lambda: linearize(linearize(gated(), X), X), TypeError, "gated must be a GatedLayer"),
    "held out of another width": (lambda: linearize(gated(), X, held_out=normal(9, 5)), ValueError, "held_out"),
    "no outputs": (lambda: linearization_error(gated(biases=False), linearize(gated(), X), 0 * X), ValueError, "zero"),
}


@pytest.mark.parametrize(("call", "kind", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
