"""Numbers of attention scale as they should, however large weights are; what no float holds is refused."""

import math
from dataclasses import replace

import pytest
import torch
from helpers import normal

from tensornet_interp import AttentionLayer, Moments, decompose, inner, similarity
from tensornet_interp.attention import (
    LowRank,
    Norm,
    Part,
    SequenceNetwork,
    composition,
    copying_score,
    head_similarity,
    output_moments,
    query_form,
    update_share,
)
from tensornet_interp.circuits import head_circuit
from tensornet_interp.inner_products import Gaussian

POWERS = (-170, -100, 100, 170)
WIDTH, POSITIONS = 4, 3
X, U, MOMENTS = normal(2, POSITIONS, WIDTH, seed=9), normal(WIDTH, seed=10), Moments.standard(POSITIONS * WIDTH)


def layer(seed, scores=2):
    return AttentionLayer.from_weights(
        queries=[normal(4, WIDTH, seed=seed + i) for i in range(scores)],
        keys=[normal(4, WIDTH, seed=seed + 10 + i) for i in range(scores)],
        value=normal(4, WIDTH, seed=seed + 20),
        out=normal(WIDTH, 4, seed=seed + 21),
        heads=2,
        positions=POSITIONS,
        rotary=10.0,
    )


PLAIN, OTHER = layer(0), layer(100)


def scaled(power):
    return replace(PLAIN, down=PLAIN.down * 10.0**power)


def unbalanced():
    """The same layer, with heads and arrays of very different sizes."""
    large = torch.tensor([1e170, 1e-170], dtype=torch.float64)[:, None, None]
    (first, second), (third, fourth) = PLAIN.queries, PLAIN.keys
    queries, keys = (first * large, second / large), (third / large, fourth * large)
    return replace(
        PLAIN, down=PLAIN.down / large.transpose(0, 1), value=PLAIN.value * large, queries=queries, keys=keys
    )


def numbers(changed):
    """Numbers that do not depend on the scale of the layer."""
    circuit = head_circuit(SequenceNetwork([Part(changed)]), X, U, width=None, progress=False)
    return {
        "values below": composition(changed, OTHER, "value"),
        "values above": composition(OTHER, changed, "value"),
        "keys": composition(OTHER, changed, "key", [0, -1]),
        "queries": composition(OTHER, changed, "query", [-1]),
        "heads": head_similarity(changed, OTHER, -1),
        "tensors": similarity(changed, OTHER).to_tensor(),
        "polynomials": similarity(changed, OTHER, kind="symmetric").to_tensor(),
        "copying": copying_score(changed.ov(0)),
        "svd": decompose(changed, "ov_svd", rank=1).ov(1).norm() / changed.ov(1).norm(),
        "circuit": circuit.levels[0].scores.sort().values,
        "circuit's error": circuit.relative_error() < 1e-12,
        "form of a query": query_form(changed, 0, X[0, 0]).vectors.abs(),
    }


def check(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(
            torch.as_tensor(found[name]), torch.as_tensor(value), rtol=1e-9, atol=1e-12, msg=name
        )


@pytest.mark.parametrize("power", POWERS)
def test_numbers_of_a_layer_times_a_power_of_ten(power):
    check(numbers(scaled(power)), numbers(PLAIN))
    log = inner(scaled(power), OTHER).log_scale - inner(PLAIN, OTHER).log_scale
    assert log == pytest.approx(power * math.log(10))


def test_numbers_of_a_layer_with_unbalanced_heads():
    changed = unbalanced()
    torch.testing.assert_close(changed(X), PLAIN(X), rtol=1e-10, atol=0)
    check(numbers(changed), numbers(PLAIN))


@pytest.mark.parametrize("power", [*POWERS, -300, 300])
def test_the_norm_of_a_matrix(power):
    matrix = LowRank(left=normal(5, 2), right=normal(4, 2, seed=1))
    found = replace(matrix, left=matrix.left * 10.0**power).norm()
    assert float(found) * 10.0**-power == pytest.approx(float(matrix.norm()))


def test_eigenvalues_of_nearly_parallel_scores():
    """The small eigenvalue of a form is right although it is the difference of two almost equal numbers."""
    weight = torch.eye(2, dtype=torch.float64)
    turned = torch.tensor([[1.0, 0.0], [1e-6, 1.0]], dtype=torch.float64)
    layer = AttentionLayer.from_weights(
        queries=[weight, weight], keys=[weight, turned], value=weight, out=weight, heads=1, positions=1, scale=1.0
    )
    values = query_form(layer, 0, torch.tensor([1.0, 0.0], dtype=torch.float64)).values
    root = math.sqrt(1 + 1e-12)
    assert values.tolist() == pytest.approx([(1 + root) / 2, -1e-12 / 2 / (1 + root)], rel=1e-9)


def test_moments_that_no_float_holds_are_refused():
    large = scaled(170)
    for call in (
        lambda: output_moments(large, MOMENTS),
        lambda: update_share(large, MOMENTS),
        lambda: similarity(large, OTHER, kind=Gaussian(MOMENTS)),
    ):
        with pytest.raises(ValueError, match="the outputs of part 0 are beyond the range of float64"):
            call()


@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_halves(dtype, size, centered):
    """Squares of 300 fit no float16, and those of 1e-4 are zero there."""
    x = (size * normal(2, POSITIONS, 64)).to(dtype)
    norm = Norm(centered=centered, eps=1e-10)
    expected = norm(x.double())
    bound = 4 * torch.finfo(dtype).eps
    assert float((norm(x).double() - expected).norm()) < bound * float(expected.norm())
    assert norm(x).dtype == norm.given(x).scale.dtype == dtype
    assert float((norm.given(x)(x).double() - expected).norm()) < bound * float(expected.norm())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_layers_with_rounded_rotations_are_compared(dtype):
    a, b = (each.to(dtype=dtype) for each in (PLAIN, OTHER))
    slack = 20 * torch.finfo(dtype).eps
    assert float(similarity(a, b)) == pytest.approx(float(similarity(PLAIN, OTHER)), abs=slack)
