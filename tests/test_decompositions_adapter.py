"""TensorLy's decompositions through ours: the same numbers as a direct call, and none of its traps."""

import threading

import pytest
import tensorly
import torch
from helpers import symmetrized
from tensorly.cp_tensor import CPTensor, cp_to_tensor
from tensorly.decomposition import constrained_parafac, non_negative_parafac, parafac, tensor_train, tucker
from tensorly.tt_tensor import tt_to_tensor
from tensorly.tucker_tensor import TuckerTensor, tucker_to_tensor

from tensornet_interp import BilinearLayer, CPResult, TuckerResult, decompose, lift, relative_error
from tensornet_interp.decompositions import tensorly_adapter
from tensornet_interp.registry import register_decomposition, scratch_registry
from tensornet_interp.testing import check_decomposition, random_layer

# (function, options of ours, those of TensorLy, what makes its answer dense)
DIRECT = {
    "parafac": (parafac, {"rank": 4, "n_iter_max": 30}, cp_to_tensor),
    "parafac rank above a size": (parafac, {"rank": 6, "n_iter_max": 30}, cp_to_tensor),
    "non_negative_parafac": (non_negative_parafac, {"rank": 3, "n_iter_max": 20}, cp_to_tensor),
    "constrained_parafac": (constrained_parafac, {"rank": 3, "n_iter_max": 5, "non_negative": True}, cp_to_tensor),
    "tucker": (tucker, {"rank": (2, 4, 4)}, tucker_to_tensor),
    "hosvd": (tucker, {"rank": (2, 4, 4), "n_iter_max": 0}, tucker_to_tensor),
}


@pytest.mark.parametrize("case", DIRECT)
def test_the_numbers_are_those_of_a_direct_call(case, device):
    function, options, dense = DIRECT[case]
    if function is constrained_parafac and device != "cpu":
        pytest.skip("TensorLy multiplies with arrays of the CPU in it")
    layer = random_layer(5, 7, 6, seed=0, device=device)
    reference = symmetrized(layer.to_tensor())
    # at norm 1, because the start and the clipping of the non-negative ones depend on the scale
    expected = dense(function(reference / reference.norm(), **options, random_state=0)) * reference.norm()
    result = tensorly_adapter(function.__name__)(**options)(layer)
    # iterations carry rounding on, and inner ones stop at 1e-6; both are far below what another fit would give
    tolerance = 1e-5 if function is constrained_parafac else 1e-11
    torch.testing.assert_close(result.to_tensor(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))
    error = (result.to_tensor() - reference + (result.to_tensor() - reference).mT).norm() / 2 / reference.norm()
    assert result.relative_error == pytest.approx(float(error), abs=1e-12)


def test_a_tensor_train_keeps_its_form(device):
    layer = random_layer(5, 7, 6, seed=0, device=device)
    result = tensorly_adapter("tensor_train")(rank=(2, 3))(layer)
    expected = tt_to_tensor(tensor_train(symmetrized(layer.to_tensor()), [1, 2, 3, 1], random_state=0))
    torch.testing.assert_close(result.to_tensor(), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
    torch.testing.assert_close(
        result.to_layer().to_tensor(), expected, rtol=0, atol=1e-12 * float(expected.abs().max())
    )
    torch.testing.assert_close(tt_to_tensor(result.to_tensorly()), result.to_tensor())
    assert "ranks=(2, 3)" in repr(result)
    assert result.relative_error == pytest.approx(relative_error(result, layer), abs=1e-12)


@scratch_registry()
def test_a_registered_adapter_keeps_the_laws():
    register_decomposition("tt")(tensorly_adapter("tensor_train"))
    assert "exact end" not in check_decomposition("tt").skipped


def test_cp_results_are_canonical():
    result = decompose(random_layer(5, 7, 6, seed=0), "tensorly_parafac", rank=4)
    assert isinstance(result, CPResult)
    assert (result.weights.abs().diff() <= 0).all()
    for factor in (result.outputs, result.left, result.right):
        torch.testing.assert_close(factor.norm(dim=0), torch.ones(4, dtype=torch.float64))
        assert (factor.gather(0, factor.abs().argmax(0, keepdim=True)) > 0).all()
    non_negative = decompose(random_layer(5, 7, 6, seed=0), "tensorly_non_negative_parafac", rank=4)
    assert all((term.data >= 0).all() for term in non_negative.terms())


def test_tucker_has_one_orthonormal_basis_of_both_input_factors():
    layer = random_layer(5, 7, 26, seed=0)
    _, factors = tucker(symmetrized(layer.to_tensor()), (3, 2, 2), random_state=0)
    result = decompose(layer, "tensorly_tucker", rank=(3, 2, 2))
    assert isinstance(result, TuckerResult)
    for factor in (result.outputs, result.inputs):
        torch.testing.assert_close(factor.T @ factor, torch.eye(factor.shape[1], dtype=torch.float64))
    both = torch.cat(factors[1:], 1)
    assert result.ranks == (3, int(torch.linalg.matrix_rank(both)))
    torch.testing.assert_close(result.inputs @ (result.inputs.T @ both), both)
    hosvd = decompose(layer, "tensorly_tucker", rank=(3, 2, 2), n_iter_max=0)
    assert hosvd.ranks == (3, 2)  # the two are one where nothing is iterated


def test_the_report_says_how_it_went():
    layer = random_layer(5, 7, 26, seed=0)
    stopped = decompose(layer, "tensorly_parafac", rank=3, n_iter_max=4, seed=7)
    assert (stopped.report.stop_reason, len(stopped.report.convergence), stopped.report.seed) == (
        "max_iterations",
        4,
        7,
    )
    assert stopped.report.method == "TensorlyParafac(rank=3, seed=7, n_iter_max=4)"
    done = decompose(layer, "tensorly_parafac", rank=3, tol=1e-3)
    assert done.report.stop_reason == "tolerance"
    # of a component sum that is symmetrized afterwards the error can only fall
    assert done.relative_error <= done.report.convergence[-1] + 1e-9
    direct = decompose(layer, "tensorly_tucker", rank=2, n_iter_max=0).report
    assert (direct.stop_reason, direct.convergence) == ("direct", ())


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("method", ["tensorly_parafac", "tensorly_non_negative_parafac"])
def test_the_scale_changes_the_weights_alone(method, scale):
    layer = random_layer(5, 7, 6, seed=1)
    scaled = BilinearLayer(down=scale * layer.down, left=layer.left, right=layer.right)
    small, large = (decompose(part, method, rank=2, n_iter_max=10) for part in (layer, scaled))
    torch.testing.assert_close(large.weights / scale, small.weights, rtol=1e-8, atol=0)
    torch.testing.assert_close(large.left, small.left, rtol=0, atol=1e-8)


def test_half_precision_is_computed_in_double():
    layer = random_layer(5, 7, 6, seed=0, dtype=torch.bfloat16)
    result = decompose(layer, "tensorly_tucker", rank=(5, 7, 7))
    assert result.outputs.dtype == torch.bfloat16
    # rounding of 8 bits in each of three factors
    assert result.relative_error < 4 * torch.finfo(torch.bfloat16).eps


def test_a_lifted_layer_stays_lifted():
    layer = lift(random_layer(5, 5, 4, seed=0), residual=0.5)
    result = decompose(layer, "tensorly_tucker", rank=(6, 6, 6))
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(result(x), layer(x))


def test_a_start_is_not_mutated():
    layer = random_layer(5, 7, 6, seed=0)
    draw = torch.Generator().manual_seed(0)
    factors = [torch.rand(n, 2, generator=draw, dtype=torch.float64) for n in (5, 7, 7)]
    cp_start = CPTensor((None, list(factors)))
    tucker_start = TuckerTensor((torch.ones(2, 2, 2, dtype=torch.float64), list(factors)))
    before = [factor.clone() for factor in factors]
    decompose(layer, "tensorly_parafac", rank=2, init=cp_start, n_iter_max=3)
    decompose(layer, "tensorly_tucker", rank=2, init=tucker_start, n_iter_max=3)
    for start in (cp_start, tucker_start):
        assert all(torch.equal(a, b) for a, b in zip(before, start.factors, strict=True))


def test_the_backend_of_this_and_of_other_threads_stays():
    layer = random_layer(3, 5, 4, seed=0)
    seen = []
    done = threading.Event()

    def other():
        done.wait(20)
        seen.append(tensorly.get_backend())

    before = tensorly.get_backend()
    thread = threading.Thread(target=other)
    thread.start()
    tensorly.set_backend("numpy", local_threadsafe=True)
    try:
        result = decompose(layer, "tensorly_parafac", rank=2)
        assert tensorly.get_backend() == "numpy"
    finally:
        tensorly.set_backend(before, local_threadsafe=True)
        done.set()
        thread.join()
    assert isinstance(result.weights, torch.Tensor)
    assert seen == ["pytorch"]  # TensorLy's own context would have left numpy behind


WIDE = random_layer(3, 7, 4, seed=0)
ZERO = BilinearLayer(down=0 * WIDE.down, left=WIDE.left, right=WIDE.right)
WRONG = {
    "rank above out": (lambda: decompose(WIDE, "tensorly_tucker", rank=(4, 7, 7)), ValueError, "from 1 to 3 .*'out'"),
    "one rank for all modes": (lambda: decompose(WIDE, "tensorly_tucker", rank=4), ValueError, "from 1 to 3 .*'out'"),
    "rank above in": (lambda: decompose(WIDE, "tensorly_tucker", rank=(3, 7, 8)), ValueError, "from 1 to 7 .*'in2'"),
    "two ranks": (lambda: decompose(WIDE, "tensorly_tucker", rank=(3, 7)), ValueError, "one number or 3"),
    "cp rank": (lambda: decompose(WIDE, "tensorly_parafac", rank=22), ValueError, "from 1 to 21 .*out=3, in=7"),
    "cp ranks": (lambda: decompose(WIDE, "tensorly_parafac", rank=(2, 2)), TypeError, "one whole number"),
    "train rank": (lambda: tensorly_adapter("tensor_train")(rank=(4, 2))(WIDE), ValueError, "from 1 to 3 .*'a'"),
    "rank 0": (lambda: tensorly_adapter("parafac")(rank=0), ValueError, "rank must be at least 1"),
    "rank a float": (lambda: tensorly_adapter("parafac")(rank=2.0), TypeError, "rank must be a whole number"),
    "seed None": (lambda: tensorly_adapter("parafac")(rank=2, seed=None), TypeError, "seed must be a whole number"),
    "too large": (
        lambda: decompose(WIDE, "tensorly_parafac", rank=2, max_elements=146),
        ValueError,
        r"\(3, 7, 7\): 1.5e\+02 elements, more than max_elements=1e\+02",
    ),
    "zero": (lambda: decompose(ZERO, "tensorly_parafac", rank=2), ValueError, "is zero"),
    "unknown option": (lambda: decompose(WIDE, "tensorly_parafac", rank=2, iters=3), TypeError, "no option 'iters'"),
    "unknown function": (lambda: tensorly_adapter("parafacs"), ValueError, "did you mean 'parafac'"),
    "global stream": (lambda: tensorly_adapter("parafac_power_iteration"), ValueError, "takes no random_state"),
    "no rank": (lambda: tensorly_adapter("robust_pca"), ValueError, "takes no rank and no random_state"),
    "no form of ours": (lambda: tensorly_adapter("tensor_ring")(rank=1)(WIDE), TypeError, "TRTensor, which"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_refused(case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call()


def test_an_answer_that_is_not_finite_is_an_error(monkeypatch):
    broken = lambda tensor, rank, **_: parafac(torch.nan * tensor, rank, n_iter_max=1, init="random", random_state=0)  # noqa: E731
    monkeypatch.setattr(tensorly.decomposition, "parafac", broken)
    with pytest.raises(ValueError, match="TensorLy returned numbers that are not finite"):
        decompose(WIDE, "tensorly_parafac", rank=2)
