"""Exact moments of attention layers, against tensor Gauss-Hermite and Monte Carlo."""

import numpy as np
import pytest
import torch
from attention_layers import biases_of, layer_with, weights
from helpers import assert_close, layer_of, normal

from tensornet_interp import Moments, decompose, lift
from tensornet_interp.attention import (
    AttentionLayer,
    LinearMap,
    LowRank,
    Norm,
    Part,
    SequenceNetwork,
    output_moments,
    position_inner,
    stream_moments,
    update_share,
)

POSITIONS, WIDTH = 2, 2
CAUSAL = torch.ones(POSITIONS, POSITIONS, dtype=torch.float64).tril()


def moments_of(size, seed=5):
    """A mean, and positions that are correlated."""
    root = normal(size, size, seed=seed) / size**0.5
    return Moments(normal(size, seed=seed + 1) / 2, root @ root.T)


def grid(moments, nodes):
    """Tensor Gauss-Hermite: points (point, input) and weights that are exact to degree 2 nodes - 1 in every input."""
    (points,), (shares,) = zip(*grids(moments, nodes, 10**9), strict=True)
    return points, shares


def grids(moments, nodes, step):
    """The same points and weights, `step` at a time."""
    places, weights = (torch.tensor(array) for array in np.polynomial.hermite_e.hermegauss(nodes))
    size = len(moments.mean)
    powers = nodes ** torch.arange(size)
    for number in torch.arange(nodes**size).split(step):
        digits = number[:, None] // powers % nodes
        yield moments.mean + places[digits] @ moments.root.T, (weights / weights.sum())[digits].prod(1)


def layer(scores, seed, *, with_biases=False, **options):
    options = {
        "mask": CAUSAL,
        "kv_heads": None,
        "n_out": WIDTH,
        "positions": POSITIONS,
        "n_in": WIDTH,
        "size": 2,
    } | options
    more = {name: options.pop(name) for name in ("mask", "positions")}
    given = weights(scores, seed, channel=2, **options)
    if with_biases:
        more |= biases_of(given, seed + 50)
        more.pop("bias")
    return AttentionLayer.from_weights(**given, **more, rotary=7.0 if scores else None)


def outputs(part, points, positions=POSITIONS):
    x = points.unflatten(1, (positions, -1))
    y = part.map(x) + part.residual * x if part.residual else part.map(x)
    return y if part.bias is None else y + part.bias


@pytest.mark.parametrize("scores", [0, 1, 2])
@pytest.mark.parametrize("mask", [CAUSAL, CAUSAL.new_ones(2, 2), normal(2, 2, 2, seed=3)])
@pytest.mark.parametrize("with_biases", [False, True])
@pytest.mark.parametrize("residual", [0.0, 0.7])
def test_moments_are_those_of_a_grid(scores, mask, with_biases, residual):
    moments = moments_of(POSITIONS * WIDTH)
    bias = normal(WIDTH, seed=9) if with_biases else None
    a = Part(layer(scores, 0, mask=mask, with_biases=with_biases), residual, None, bias)
    b = Part(layer(scores, 200, mask=mask, kv_heads=1), residual / 2)
    points, shares = grid(moments, 6)
    ours, theirs = outputs(a, points), outputs(b, points)
    flat = ours.flatten(1)
    mean = shares @ flat
    found = output_moments(a, moments)
    assert_close(found.mean, mean, 1e-10)
    assert_close(found.covariance, (flat - mean).T @ ((flat - mean) * shares[:, None]), 1e-10)
    assert_close(position_inner(a, b, moments), torch.einsum("bso,bso,b->s", ours, theirs, shares), 1e-10)
    assert_close(position_inner(b, a, moments), position_inner(a, b, moments), 1e-10)


@pytest.mark.parametrize("width", [3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mask", [CAUSAL, CAUSAL.new_ones(2, 2), normal(2, 2, 2, seed=3)])
def test_wider_moments_are_those_of_a_grid(width, mask):
    """Two positions of 4 inputs have 6^8 points, which are summed in pieces."""
    moments = moments_of(POSITIONS * width)
    parts = [
        Part(layer(2, seed, n_in=width, n_out=width, mask=mask, with_biases=seed > 0), 0.7, None, normal(width, seed=9))
        for seed in (0, 200)
    ]
    products, mean = torch.zeros(POSITIONS, dtype=torch.float64), torch.zeros(POSITIONS * width, dtype=torch.float64)
    second = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for points, shares in grids(moments, 6, 2**16):
        ours, theirs = (outputs(part, points) for part in parts)
        flat = ours.flatten(1)
        products += torch.einsum("bso,bso,b->s", ours, theirs, shares)
        mean += shares @ flat
        second += flat.T @ (flat * shares[:, None])
    found = output_moments(parts[0], moments)
    assert_close(found.mean, mean, 1e-10)
    assert_close(found.covariance, second - torch.outer(mean, mean), 1e-10)
    assert_close(position_inner(*parts, moments), products, 1e-10)


def at_every_position(seed, kind, norm):
    """A part of maps at every position, with everything that it can have."""
    given = layer_of(WIDTH, WIDTH, 3, seed)
    maps = {
        "bilinear": lift(given, left_bias=normal(3, seed=seed + 5), right_bias=normal(3, seed=seed + 6)),
        "plain": given,
        "eigen": decompose(given, "eigen"),
        "linear": LinearMap(weight=normal(WIDTH, WIDTH, seed=seed), bias=normal(WIDTH, seed=seed + 1)),
        "low rank": LowRank(left=normal(WIDTH, 1, seed=seed), right=normal(WIDTH, 1, seed=seed + 1)),
        "attention": layer(2, seed, with_biases=True),
        "a pattern": layer(2, seed).given(normal(2, 2, 2, seed=seed)),
    }
    return Part(maps[kind], 0.7, norm, normal(WIDTH, seed=seed + 9))


NORMS = [
    None,
    Norm(scale=normal(POSITIONS, seed=1), weight=normal(WIDTH, seed=2), bias=normal(WIDTH, seed=3), centered=True),
]


@pytest.mark.parametrize(
    "kinds",
    [
        ("bilinear", "plain"),
        ("eigen", "bilinear"),
        ("linear", "bilinear"),
        ("linear", "attention"),
        ("low rank", "linear"),
        ("a pattern", "attention"),
        ("a pattern", "bilinear"),
        ("attention", "attention"),
    ],
)
@pytest.mark.parametrize("norm", NORMS, ids=["no norm", "norms at fixed scales"])
def test_moments_of_every_kind_of_part_are_those_of_a_grid(kinds, norm):
    moments = moments_of(POSITIONS * WIDTH)
    a, b = (at_every_position(seed, kind, norm) for seed, kind in zip((0, 40), kinds, strict=True))
    points, shares = grid(moments, 6)
    x = points.unflatten(1, (POSITIONS, -1))
    ours, theirs = (SequenceNetwork([part])(x) for part in (a, b))
    flat = ours.flatten(1)
    mean = shares @ flat
    found = output_moments(a, moments)
    assert_close(found.mean, mean, 1e-10)
    assert_close(found.covariance, (flat - mean).T @ ((flat - mean) * shares[:, None]), 1e-10)
    assert_close(position_inner(a, b, moments), torch.einsum("bso,bso,b->s", ours, theirs, shares), 1e-10)
    update = SequenceNetwork([Part(a.map, 0.0, norm)])(x).square().sum((1, 2)) @ shares
    assert update_share(a, moments) == pytest.approx(float(update / (points.square().sum(1) @ shares)), rel=1e-10)


def test_layers_of_different_scores_and_sizes_are_compared():
    moments = moments_of(POSITIONS * WIDTH)
    a, b = layer(2, 0, n_out=3), layer(1, 200, n_out=3, size=4, with_biases=True)
    points, shares = grid(moments, 6)
    expected = torch.einsum("bso,bso,b->s", outputs(Part(a), points), outputs(Part(b), points), shares)
    assert_close(position_inner(a, b, moments), expected, 1e-10)
    update = outputs(Part(a), points).square().sum((1, 2)) @ shares
    inputs = points.square().sum(1) @ shares
    assert update_share(a, moments) == pytest.approx(float(update / inputs), rel=1e-10)


def test_a_larger_layer_agrees_with_monte_carlo():
    moments = moments_of(4 * 6)
    part = Part(layer(2, 0, mask="causal", positions=4, n_in=6, n_out=6, size=4), 0.5)
    x = moments.mean + normal(40_000, 24, seed=11) @ moments.root.T
    y = outputs(part, x, 4)
    products = y.square().sum(-1)  # (sample, position)
    error = products.std(0) / len(x) ** 0.5
    assert bool(((products.mean(0) - position_inner(part, part, moments)).abs() < 3 * error).all())


@pytest.mark.parametrize("spread", [0.0, 1e-18, 1e-12])
@pytest.mark.parametrize("seed", range(4))
def test_outputs_that_hardly_vary_have_moments(seed, spread):
    """Where the inputs are nearly fixed, the layer is its slope there, and rounding makes no variance negative."""
    eye = torch.eye(POSITIONS * WIDTH, dtype=torch.float64)
    moments = Moments(normal(POSITIONS * WIDTH, seed=seed), spread * eye)
    part = layer(2, 100 * seed, with_biases=True)
    found = output_moments(part, moments)
    x = moments.mean.unflatten(0, (POSITIONS, WIDTH))
    assert_close(found.mean, part(x).flatten(), 1e-10)
    slope = torch.autograd.functional.jacobian(part, x).flatten(2).flatten(0, 1)
    rounding = 1e-14 * float(found.mean.square().max())
    assert float((found.covariance - spread * slope @ slope.T).abs().max()) < rounding + 1e-8 * spread
    assert torch.equal(found.covariance, found.covariance.T)


def test_inputs_that_are_zero_have_shares():
    nothing = Moments(torch.zeros(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64))
    assert update_share(layer(2, 0), nothing) == 0.0
    assert update_share(layer(2, 0, with_biases=True), nothing) == float("inf")
    dead = SequenceNetwork([LinearMap(weight=torch.zeros(2, 2, dtype=torch.float64)), layer(2, 0)])
    assert stream_moments(dead, moments_of(4), progress=False).shares == (0.0, 0.0)


def test_what_has_no_exact_moments_is_refused():
    moments = moments_of(POSITIONS * WIDTH)
    with pytest.raises(
        ValueError, match=r"part has softmax, whose moments .* layer.given\(pattern\).*method='sampled'"
    ):
        output_moments(layer_with(1, softmax=True), moments)
    with pytest.raises(ValueError, match="part has a norm"):
        output_moments(Part(layer(2, 0), 0.0, Norm()), moments)
    with pytest.raises(ValueError, match="part has one mask per sample; its moments need one mask for all"):
        output_moments(layer(2, 0).given(normal(3, 2, POSITIONS, POSITIONS)), moments)
    with pytest.raises(ValueError, match="moments must be those of 1 to 2 positions of 2 inputs, flattened, got 6"):
        output_moments(layer(2, 0), moments_of(6))
    with pytest.raises(ValueError, match="mode 'out' has size 2 in a but 3 in b"):
        position_inner(layer(2, 0), layer(2, 0, n_out=3), moments)
    with pytest.raises(
        ValueError, match=r"part 0 must be attention in both of a and b, or .* AttentionLayer and Bilinear"
    ):
        position_inner(layer(2, 0), layer_of(2, 2, 3), moments)
    with pytest.raises(ValueError, match="part has a norm with one scale per sample; its moments need one for all"):
        output_moments(Part(layer(2, 0), 0.0, Norm(scale=normal(3, POSITIONS))), moments)
    with pytest.raises(ValueError, match=r"the moments of part at 2 positions need 3.2e\+03 numbers at once"):
        output_moments(layer(2, 0), moments, max_elements=1000)
