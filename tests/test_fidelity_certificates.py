"""A proof of a decision is never wrong, is found where one is known to exist, and not where none can be."""

from dataclasses import replace

import pytest
import torch
from helpers import normal, orthonormal

from tensornet_interp import BilinearLayer, Moments, decompose, lift
from tensornet_interp.fidelity import certificate, difference_certificate
from tensornet_interp.testing import random_layer


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("overcomplete", [False, True])
def test_a_certified_decision_is_never_wrong_and_some_are_certified(lifted: bool, overcomplete: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    layer = random_layer(4, 9, 6, seed=0)
    layer = layer if not lifted else lift(layer, bias=torch.randn(4, generator=generator).double()).drop_constant()
    directions = torch.randn(7, 4, generator=generator).double() if overcomplete else None
    result = decompose(layer, "eigen", directions=directions)
    x = torch.randn(2000, 9, generator=generator).double()
    shares = []
    for k in range(1, result.rank + 1):
        proven = certificate(result, k, x)
        same = result.truncate(k)(x).argmax(-1) == layer(x).argmax(-1)
        assert bool(same[proven].all())
        shares.append(float(proven.double().mean()))
    assert shares[-1] == 1.0
    assert 0 < shares[-3] < 1


def test_the_certificate_is_tight_on_its_worst_input() -> None:
    """Cut part of class 0: -1 on pixel 1. Margin x0^2 against it: proven exactly while x0^2 > x1^2."""
    eye = torch.eye(2, dtype=torch.float64)
    layer = BilinearLayer(down=torch.tensor([[2.0, -1.0], [0.0, 0.0]]).double(), left=eye, right=eye)
    result = decompose(layer, "eigen")
    x = torch.tensor([[1.0, 1.41], [1.0, 1.42]]).double()
    assert certificate(result, 1, x).tolist() == [True, False]


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize(("seed", "sizes"), [(0, (4, 9, 6)), (1, (3, 7, 2)), (2, (2, 5, 8)), (3, (5, 6, 11))])
def test_differences_never_prove_a_decision_that_the_layer_does_not_make(lifted, seed, sizes) -> None:
    generator = torch.Generator().manual_seed(seed)
    layer = random_layer(*sizes, seed=seed)
    if lifted:
        layer = lift(layer, left_bias=torch.randn(sizes[2], generator=generator).double(), residual=0.0)
    x = 2 * torch.randn(2000, sizes[1], generator=generator).double()
    full = min(layer.shape[1], 2 * layer.rank)
    decides = layer(x).argmax(-1)
    shares = []
    for proven in difference_certificate(layer, range(1, full + 1), x):
        found = proven >= 0
        assert torch.equal(proven[found], decides[found])
        shares.append(float(found.double().mean()))
    assert shares[-1] == 1.0  # nothing is cut
    assert any(0 < share < 1 for share in shares)


def test_worst_inputs_are_never_proven_wrong() -> None:
    """Inputs along the cut eigenvectors of a difference, where the bound is what they reach."""
    layer = random_layer(4, 9, 6, seed=4)
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    directions = torch.stack([torch.eye(4)[a] - torch.eye(4)[b] for a, b in pairs]).double()
    vectors = decompose(layer, "eigen", directions=directions).eigenvectors.permute(0, 2, 1).flatten(0, 1)
    mixed = torch.randn(3000, len(vectors), generator=torch.Generator().manual_seed(0)).double() ** 5 @ vectors
    x = torch.cat([vectors, mixed])
    decides = layer(x).argmax(-1)
    for proven in difference_certificate(layer, [1, 3, 5, 8], x):
        assert torch.equal(proven[proven >= 0], decides[proven >= 0])
        assert bool((proven >= 0).any())


def test_a_part_that_the_classes_share_is_no_obstacle_to_their_difference() -> None:
    """Classes share 5 x2^2, 4 x3^2, 3 x4^2 and differ by x0^2 against x1^2: 2 eigenpairs of the difference are all."""
    eye = torch.eye(5, dtype=torch.float64)
    layer = BilinearLayer(down=torch.tensor([[1.0, 0, 5, 4, 3], [0, 1, 5, 4, 3]]).double(), left=eye, right=eye)
    x = torch.tensor([[1.0, 0.9, 7, 7, 7], [0.9, 1.0, 7, 7, 7], [1, 0, 0, 0, 0]]).double()
    assert difference_certificate(layer, [2], x).tolist() == [[0, 1, 0]]
    # of every class the two leading eigenpairs are shared ones: the truncated classes are equal, nothing is proven
    assert certificate(decompose(layer, "eigen"), 2, x).tolist() == [False] * 3


def test_the_bound_of_a_difference_is_tight_on_its_worst_input() -> None:
    """M_0 - M_1 has 2 on pixel 0 and -1 on pixel 1; with the first alone 0 is proven exactly while 2 x0^2 > x1^2."""
    eye = torch.eye(2, dtype=torch.float64)
    layer = BilinearLayer(down=torch.tensor([[2.0, 0.0], [0.0, 1.0]]).double(), left=eye, right=eye)
    x = torch.tensor([[1.0, 1.414], [1.0, 1.415]]).double()
    assert difference_certificate(layer, [1, 2], x).tolist() == [[0, -1], [0, 1]]


def test_a_tie_is_never_proven() -> None:
    layer = BilinearLayer.from_cp((None, [torch.ones(size, 2, dtype=torch.float64) for size in (3, 4, 4)]))
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).double()
    assert bool((difference_certificate(layer, [1, 4], x) == -1).all())


def test_outputs_that_are_all_zero_are_ties_without_a_margin() -> None:
    """Margin and rounding are both zero, and a proof needs more."""
    layer = replace(random_layer(3, 5, 4, seed=0), down=torch.zeros(3, 4, dtype=torch.float64))
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0)).double()
    assert not bool(certificate(decompose(layer, "eigen"), 2, x).any())
    assert not bool(certificate(decompose(random_layer(3, 5, 4, seed=0), "eigen"), 2, torch.zeros(2, 5).double()).any())


def test_single_precision_is_worked_in_double() -> None:
    layer = random_layer(4, 9, 6, seed=0).to(dtype=torch.float32)
    x = torch.randn(500, 9, generator=torch.Generator().manual_seed(1))
    proven = difference_certificate(layer, [9], x)[0]
    exact = layer.to(dtype=torch.float64)(x.double()).argmax(-1)
    assert torch.equal(proven, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_certificates_of_its_whole_spectrum(dtype: torch.dtype) -> None:
    layer = random_layer(3, 9, 40, seed=0).to(dtype=dtype)
    x = torch.randn(2000, 9, generator=torch.Generator().manual_seed(1)).to(dtype).double()
    decisions = layer.to(dtype=torch.float64)(x).argmax(-1)
    result = decompose(layer, "eigen")
    proven = certificate(result, result.rank, x.to(dtype))
    assert proven.float().mean() > 0.5  # many are proven
    assert torch.equal(result.to(dtype=torch.float64)(x).argmax(-1)[proven], decisions[proven])
    with pytest.raises(ValueError, match="whole spectrum"):
        certificate(decompose(layer, "eigen", rank=6), 1, x.to(dtype))


def test_eigenvectors_that_are_no_unit_vectors_prove_no_more() -> None:
    """The same function with longer eigenvectors and smaller eigenvalues seems to leave less for the cut part."""
    layer = random_layer(4, 9, 6, seed=0)
    x = torch.randn(2000, 9, generator=torch.Generator().manual_seed(1)).double()
    result = decompose(layer, "eigen")
    longer = replace(result, eigenvectors=result.eigenvectors * 1.01, eigenvalues=result.eigenvalues / 1.01**2)
    torch.testing.assert_close(longer(x), result(x))
    for rank in (4, 6, 8):
        exact, found = certificate(result, rank, x), certificate(longer, rank, x)
        assert exact.any()
        assert not (found & ~exact).any()


def test_bad_input() -> None:
    layer = random_layer(4, 9, 6, seed=0)
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(ValueError, match="whole spectrum"):
        certificate(decompose(layer, "eigen", rank=2), 1, x)
    with pytest.raises(ValueError, match="rank must be from 1 to 9"):
        certificate(decompose(layer, "eigen"), 10, x)
    with pytest.raises(TypeError, match=r"BilinearLayer, got SpectralResult; a result has to_layer\(\)"):
        difference_certificate(decompose(layer, "eigen"), [1], x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"counts must be from 1 to 9 \(eigenpairs of a difference\), got 10"):
        difference_certificate(layer, [10], x)
    with pytest.raises(ValueError, match="counts is empty"):
        difference_certificate(layer, [], x)
    with pytest.raises(ValueError, match="at least 2 outputs, the layer has 1"):
        difference_certificate(random_layer(1, 9, 6, seed=0), [1], x)
    with pytest.raises(ValueError, match="x is empty"):
        difference_certificate(layer, [1], x[:0])


@pytest.mark.parametrize("size", [1.0, 1e8])
def test_rounding_of_hidden_units_that_cancel_proves_nothing(size: float) -> None:
    """Two outputs that differ by 1e-9 of what each of them sums up: what is left of their difference is rounding."""
    generator = torch.Generator().manual_seed(1)
    layer = random_layer(2, 7, 5, seed=0)
    down = layer.down[:1] * size
    twice = torch.cat([torch.cat([down, -down], 1), torch.cat([down, -down], 1)])
    nearly = BilinearLayer(
        down=twice, left=torch.cat([layer.left] * 2, 1), right=torch.cat([layer.right] * 2, 1)
    )  # both outputs are 0
    x = torch.randn(500, 7, generator=generator).double()
    assert bool((difference_certificate(nearly, range(1, 8), x) == -1).all())
    noise = 1e-14 * size * torch.randn(10, generator=generator).double()
    tied = BilinearLayer(
        down=torch.stack([twice[0].abs(), twice[0].abs() + noise]), left=nearly.left, right=nearly.right
    )
    assert bool((difference_certificate(tied, range(1, 8), x) == -1).all())


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 1e-2])
def test_in_a_metric_a_search_of_inputs_finds_no_false_proof(lifted, ridge):
    """100,000 inputs in all: those that the moments describe, others far out, and differences of two."""
    layer = random_layer(4, 6, 9, seed=5)
    if lifted:
        layer = lift(layer, left_bias=normal(9, seed=1), bias=normal(4, seed=2)).drop_constant()
    turn = orthonormal(6, 6, seed=3) * torch.tensor([5.0, 2, 1, 0.5, 0.1, 0.02]).double()
    data = normal(2000, 6, seed=4) @ turn.T + normal(6, seed=5)
    result = decompose(layer, "eigen", moments=Moments.of(data), ridge=ridge)
    draws = normal(23_000, 6, seed=6) @ turn.T
    x = torch.cat([data, draws[:8000] + data.mean(0), draws[8000:] ** 3])
    assert len(x) == 25_000
    decision = layer(x).argmax(-1)
    shares = []
    for rank in (1, 3, 5, result.rank):
        proven = certificate(result, rank, x)
        assert torch.equal(result.truncate(rank)(x).argmax(-1)[proven], decision[proven])
        shares.append(float(proven.double().mean()))
    assert 0 < shares[1] <= shares[2] <= shares[3]
    assert shares[3] > 0.99
    # without its metric, the filters would be taken for eigenvectors of unit norm
    blind = replace(result, report=replace(result.report, metric=None))
    assert not certificate(blind, 5, x[:500]).any()


def test_an_input_off_the_support_of_singular_moments_is_refused():
    data = normal(300, 6, seed=1) * torch.tensor([1.0, 1, 1, 1, 0, 0])
    layer = random_layer(3, 6, 5, seed=5)
    seen, x = decompose(layer, "eigen", moments=Moments.of(data), ridge=0), data[:9].clone()
    assert seen.report.metric.rank == 4
    assert certificate(seen, 4, x).all()  # all that is left
    x[7, 5] = 1e-9
    with pytest.raises(
        ValueError, match=r"x\[7\] is off the support of the metric \(rank 4 of 6\) by a part of length 1e-09"
    ):
        certificate(seen, 4, x)
    assert certificate(decompose(layer, "eigen", moments=Moments.of(data), ridge=1e-2), 6, x).all()
