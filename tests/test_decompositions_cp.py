"""CP fits: planted components come back, errors never rise, and what cannot be fitted is said."""

from itertools import pairwise

import pytest
import torch
from helpers import dense, dense_error, normal, of_factors, times

from tensornet_interp import CP, BilinearLayer, decompose, lift
from tensornet_interp.compare import match
from tensornet_interp.testing import random_layer

METHODS = ["cp", "symmetric_cp"]


def planted(method, sizes=(11, 13), rank=8, seed=0):
    """A layer of known components; tied and signed ones for symmetric_cp."""
    n_out, n_in = sizes
    layer = random_layer(n_out, n_in, rank, seed=seed)
    return (
        layer if method == "cp" else BilinearLayer(down=layer.down, left=layer.left, right=layer.left, name=layer.name)
    )


def hidden(layer):
    """The same tensor in other hidden units, so that its own components are not at hand."""
    plus, minus = layer.left + layer.right, layer.left - layer.right  # 4 sym(l r^T) = plus plus^T - minus minus^T
    inputs = torch.cat([plus, minus], 1)
    return BilinearLayer(down=torch.cat([layer.down, -layer.down], 1) / 4, left=inputs, right=inputs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(11, 13), (12, 17)])
def test_the_best_of_five_starts_recovers_planted_components(method, sizes, capsys):
    layer = planted(method, sizes)
    result = decompose(hidden(layer), method, rank=8, starts=5, seed=1)
    assert float(match(layer, result).congruence.min()) > 0.999
    assert dense_error(result, layer) <= 1e-6
    starts = result.report.starts
    assert sorted(start.seed is None for start in starts) == [False] * 4 + [True]
    assert [start.relative_error for start in starts] == sorted(start.relative_error for start in starts)
    assert starts[0].congruence == pytest.approx(1)
    found = [start.congruence > 0.999 for start in starts if start.seed is not None]
    with capsys.disabled():
        print(f" {method} {sizes}: {sum(found)} of {len(found)} random starts recover the factors;", end="")


@pytest.mark.parametrize("method", METHODS)
def test_errors_are_those_of_the_dense_tensor_and_never_rise(method, device):
    layer = random_layer(4, 6, 9, seed=1, device=device)
    result = decompose(layer, method, rank=4, max_iterations=15, tolerance=0)
    assert dense_error(result, layer) == pytest.approx(result.relative_error, rel=1e-6)
    assert all(after <= before for before, after in pairwise(result.report.convergence))
    assert result.relative_error <= result.report.convergence[-1] + 1e-12  # the refitted scale can only help
    assert result.report.stop_reason == "not converged in 15 iterations"
    assert 0 < result.report.tangent_share < 1
    unit = result.outputs.norm(dim=0)
    assert (unit - 1).abs().max() <= 1e-12
    # the scale is the best one
    b, made = dense(layer), dense(result)
    assert float((b * made).sum() / made.square().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_one_iteration_is_not_converged(method):
    report = decompose(random_layer(4, 6, 9, seed=1), method, rank=4, max_iterations=1).report
    assert report.stop_reason == "not converged in 1 iterations"
    assert len(report.convergence) == 2


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_answer_other_seed_other_starts(method):
    layer = random_layer(4, 6, 9, seed=1)
    options = {"rank": 3, "starts": 3, "max_iterations": 5}
    one, two, other = (decompose(layer, method, seed=seed, **options) for seed in (1, 1, 2))
    assert torch.equal(one.outputs, two.outputs)
    assert one.report.starts == two.report.starts
    assert {start.seed for start in one.report.starts} == {None, 1, 2}
    assert {start.seed for start in other.report.starts} == {None, 2, 3}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lifted", [False, True])
def test_a_start_is_continued_and_not_changed(method, lifted, device):
    layer = random_layer(5, 5, 9, seed=1, device=device)
    layer = lift(layer, residual=0.5) if lifted else layer
    first = decompose(layer, method, rank=3, max_iterations=2)
    before = [term.data.clone() for term in first.terms()]
    second = decompose(layer, method, rank=3, max_iterations=5, start=first)
    assert second.report.convergence[0] == pytest.approx(first.relative_error, rel=1e-9)
    assert second.relative_error <= first.relative_error + 1e-12
    more = decompose(layer, method, rank=5, max_iterations=5, start=second)
    assert more.relative_error <= second.relative_error
    assert all(torch.equal(a, term.data) for a, term in zip(before, first.terms(), strict=True))


def test_a_start_in_another_dtype_is_taken():
    layer = random_layer(4, 6, 9, seed=1)
    first = decompose(layer.to(dtype=torch.float32), "symmetric_cp", rank=3, max_iterations=2)
    second = decompose(layer, "symmetric_cp", rank=3, max_iterations=2, start=first)
    assert second.relative_error <= first.relative_error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_scale_changes_nothing_but_the_weights(method, factor):
    layer = planted(method)
    once, again = (decompose(hidden(part), method, rank=8) for part in (layer, times(layer, factor)))
    pairs = match(once, again)
    assert float(pairs.congruence.min()) >= 1 - 1e-6
    weight = again.to_layer().down.norm() / once.to_layer().down.norm()
    assert float(weight) == pytest.approx(factor, rel=1e-3)
    assert again.relative_error == pytest.approx(once.relative_error, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(1, 6, 5), (4, 1, 5), (3, 9, 2), (1, 1, 2)])
def test_small_and_flat_layers(method, sizes, device):
    layer = random_layer(*sizes, seed=2, device=device)
    for rank in {1, sizes[2] - 1, sizes[2]}:
        result = decompose(layer, method, rank=rank, starts=2, max_iterations=20)
        assert dense_error(result, layer) == pytest.approx(result.relative_error, abs=1e-7)
        assert result.relative_error <= 1


@pytest.mark.parametrize("method", METHODS)
def test_rank_deficient_layers_are_fitted_by_what_they_hold(method, device):
    """Repeated and zero hidden units: more components than the tensor has leave no error and no NaN."""
    layer = planted(method, (4, 6), 3)
    zero = [torch.zeros(n, 2, dtype=torch.float64) for n in (4, 6)]
    wasteful = BilinearLayer(
        down=torch.cat([layer.down, layer.down, zero[0]], 1).to(device),
        left=torch.cat([layer.left, layer.right, zero[1]], 1).to(device),
        right=torch.cat([layer.right, layer.left, normal(6, 2, seed=3)], 1).to(device),
    )
    for rank in (4, 7):
        result = decompose(wasteful, method, rank=rank, starts=2, max_iterations=30)
        assert result.relative_error <= 1e-2
        assert dense_error(result, wasteful) == pytest.approx(result.relative_error, abs=1e-7)


@pytest.mark.parametrize("options", [{}, {"starts": 3}, {"rank": 9}])
@pytest.mark.parametrize("method", METHODS)
def test_a_zero_layer_gives_zero(method, options, device):
    layer = times(random_layer(4, 6, 9, seed=1, device=device), 0.0)
    result = decompose(layer, method, **({"rank": 3} | options))
    assert not bool(result.to_tensor().any())
    assert result.relative_error == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_narrow_dtypes_are_fitted_in_float64_and_come_back(method, dtype, tolerance, device):
    layer = random_layer(4, 6, 9, seed=1, dtype=dtype, device=device)
    narrow = decompose(layer, method, rank=4, max_iterations=10)
    wide = decompose(layer.to(dtype=torch.float64), method, rank=4, max_iterations=10)
    assert narrow.outputs.dtype == dtype
    assert narrow.relative_error == pytest.approx(wide.relative_error, abs=tolerance)
    assert dense_error(narrow, layer) == pytest.approx(narrow.relative_error, rel=1e-3)


@pytest.mark.parametrize(
    ("method", "options"), [("cp", {"rank": 3}), ("output_svd", {"blocks": 2}), ("hosvd", {"ranks": (2, 4)})]
)
def test_the_error_is_that_of_the_result_where_its_weights_underflow(method, options, device):
    wide = random_layer(3, 12, 6, seed=0, device=device)
    layer = BilinearLayer.from_cp((None, [(1e-3 * t).to(torch.float16) for t in (wide.down, wide.left, wide.right)]))
    result = decompose(layer, method, **options)
    assert dense_error(result, layer) > 0.5  # weights near 1e-8, of which float16 has one digit or none
    assert result.relative_error == pytest.approx(dense_error(result, layer), rel=1e-6)


def test_cp_leaves_a_tied_start(device):
    layer = random_layer(3, 12, 6, seed=0, device=device)
    tied = decompose(layer, "symmetric_cp", rank=4)
    assert decompose(layer, "cp", rank=4, start=tied).relative_error < 0.5 * tied.relative_error
    # outputs of one sign: every eigenvalue is positive, and eigencomponents have no partner
    inputs = normal(9, 7, seed=3, device=device)
    positive = BilinearLayer(down=normal(4, 7, seed=4, device=device).abs(), left=inputs, right=inputs)
    free, tied = (decompose(positive, method, rank=3).relative_error for method in ("cp", "symmetric_cp"))
    assert free < 0.99 * tied


@pytest.mark.parametrize("method", METHODS)
def test_a_lifted_layer_keeps_its_constant_coordinates(method, device):
    layer = lift(random_layer(5, 5, 4, seed=1, device=device), residual=0.5)
    result = decompose(layer, method)
    assert (result.constant_in, result.constant_out) == (True, True)
    x = torch.linspace(-1, 1, 10, dtype=torch.float64, device=device).reshape(2, 5)
    assert (result(x) - layer(x)).abs().max() <= 1e-10 * layer(x).abs().max()


@pytest.mark.parametrize("rank", [3, None])
@pytest.mark.parametrize("method", [*METHODS, "block_term"])
def test_fits_carry_no_gradient(method, rank):
    """They are not differentiable: half a gradient, through the scale alone, would be a trap."""
    layer = random_layer(3, 5, 4, seed=1)
    layer = of_factors(*(t.requires_grad_() for t in (layer.down, layer.left, layer.right)))
    assert not decompose(layer, method, rank=rank, max_iterations=2).to_tensor().requires_grad
    with torch.inference_mode():
        assert decompose(random_layer(3, 5, 4, seed=1), method, rank=rank, max_iterations=2).relative_error < 1


def test_the_repr_of_a_fit_shows_the_options_that_were_changed():
    assert repr(CP(rank=3)) == "CP(rank=3)"
    assert repr(CP(rank=3, starts=2, tolerance=1e-3)) == "CP(starts=2, rank=3)"
