"""Networks through other libraries and back: quimb, TensorLy; optimizers of opt_einsum and cotengra."""

import sys
from concurrent.futures import ThreadPoolExecutor

import opt_einsum
import pytest
import tensorly
import torch
from helpers import assert_close, layer_of, normal, stack
from tensorly.cp_tensor import CPTensor
from tensorly.tucker_tensor import TuckerTensor

from tensornet_interp import (
    BilinearNetwork,
    CPResult,
    SpectralResult,
    Term,
    TuckerResult,
    contract,
    decompose,
    lift,
    plan,
    relative_error,
)
from tensornet_interp.decompositions import TensorTrainResult, from_tensorly, tensorly_adapter
from tensornet_interp.interchange import TermNetwork, from_quimb, to_quimb
from tensornet_interp.paths import find_path

LAYER = layer_of(3, 5, 4, seed=1, name="made")
NETWORKS = {
    "layer": LAYER,
    "lifted": lift(layer_of(5, 5, 4, seed=2), residual=0.5),
    "result": decompose(LAYER, "hosvd", ranks=(2, 3)),
    "stack": stack((3, 4, 2), (5, 6), seed=3),
    "float32": layer_of(2, 3, 4, seed=4, dtype=torch.float32),
}


@pytest.fixture
def quimb():
    return pytest.importorskip("quimb.tensor", reason="quimb is not installed")


@pytest.fixture
def cotengra():
    return pytest.importorskip("cotengra", reason="cotengra is not installed")


@pytest.mark.parametrize("name", NETWORKS)
def test_quimb_contracts_a_network_to_its_tensor(name, quimb):
    network = NETWORKS[name]
    made, output_inds = to_quimb(network)
    assert isinstance(made, quimb.TensorNetwork)
    assert output_inds == network.modes
    dense = network.to_tensor()
    assert_close(
        made.contract(output_inds=output_inds, optimize="greedy").data, dense, 100 * torch.finfo(dense.dtype).eps
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_from_quimb_with_the_same_arrays_and_modes(name, quimb):
    """So hyperedges are still modes of three terms, and arrays are shared."""
    network = NETWORKS[name]
    back = from_quimb(*to_quimb(network))
    assert back.modes == network.modes
    assert [term.modes for term in back.terms()] == [term.modes for term in network.terms()]
    assert all(a.data is b.data for a, b in zip(back.terms(), network.terms(), strict=True))
    assert torch.equal(back.to_tensor(), network.to_tensor())
    assert plan(back).flops == plan(network).flops


def test_a_hyperedge_may_stay_open(quimb):
    made, _ = to_quimb(LAYER)
    units = from_quimb(made, ("rank", "out"))
    assert units.sizes == {"rank": 4, "out": 3}
    assert_close(units.to_tensor(), torch.einsum("or,ir,jr->ro", LAYER.down, LAYER.left, LAYER.right))


def test_a_network_of_quimb_is_contracted_converted_and_decomposed(quimb):
    """A random one, with arrays of numpy and an exponent apart."""
    made = quimb.TN_rand_reg(6, 3, D=2, seed=1, dtype="float64")
    inds = tuple(sorted(made.ind_map))[:3]
    made = made.reindex(dict(zip(inds, ("out", "in1", "in2"), strict=True)))
    wanted = made.contract(output_inds=("out", "in1", "in2"), optimize="greedy").data
    made.exponent = 2.0
    network = from_quimb(made, ("out", "in1", "in2"))
    assert_close(network.to_tensor(), 100 * torch.from_numpy(wanted))
    assert decompose(network, "eigen").relative_error < 1e-12
    assert BilinearNetwork([network])(normal(7, 2)).shape == (7, 2)


def test_arrays_of_numpy_may_be_read_only_reversed_or_a_number(quimb):
    values = normal(3).numpy()
    fixed = values.copy()
    fixed.flags.writeable = False
    tensors = [quimb.Tensor(fixed, ("a",)), quimb.Tensor(values[::-1], ("a",)), quimb.Tensor(2.0, ())]
    network = from_quimb(quimb.TensorNetwork(tensors), ("a",))
    assert_close(network.to_tensor(), torch.from_numpy(2 * values * values[::-1]))


def test_one_tensor_of_quimb_is_a_network_of_one_term(quimb):
    data = normal(2, 3)
    network = from_quimb(quimb.Tensor(data, ("a", "b")), ("b", "a"))
    assert torch.equal(network.to_tensor(), data.T)
    assert repr(network) == "TermNetwork(1 terms, b=3, a=2)"


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda q: to_quimb(normal(3)), TypeError, "network must be a layer, a decomposition of one or a network"),
        (
            lambda q: from_quimb(LAYER, ("out",)),
            TypeError,
            "must be a quimb TensorNetwork or Tensor, got BilinearLayer",
        ),
        (
            lambda q: from_quimb(to_quimb(LAYER)[0], ("out", "in3")),
            ValueError,
            "modes: 'in3' is in no term; .* have: out",
        ),
        (lambda q: from_quimb(to_quimb(LAYER)[0], ("out", "out")), ValueError, "modes names a mode twice"),
        (lambda q: from_quimb(to_quimb(LAYER)[0], "out"), TypeError, "modes"),
        (lambda q: from_quimb(q.TN_rand_reg(4, 3, 2, dtype=complex), ()), TypeError, "must be real floating point"),
        (lambda q: from_quimb(q.TensorNetwork([]), ()), ValueError, "terms is empty"),
    ],
)
def test_what_is_no_network_is_a_clear_error(quimb, call, kind, message):
    with pytest.raises(kind, match=message):
        call(quimb)


def test_without_quimb_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "quimb.tensor", None)
    with pytest.raises(
        ImportError, match=r"quimb is needed to make .*: pip install quimb, or .*tensornet_interp\[interop\]"
    ):
        to_quimb(LAYER)


# TensorLy


RESULTS = {
    "eigen": ("eigen", {"rank": 2}, SpectralResult),
    "eigen, directions": ("eigen", {"directions": normal(5, 3, seed=9)}, SpectralResult),
    "output_svd": ("output_svd", {}, SpectralResult),
    "block_term": ("block_term", {"rank": [3, 1]}, SpectralResult),
    "symmetric_cp": ("symmetric_cp", {"rank": 4}, SpectralResult),
    "cp": ("cp", {"rank": 3}, CPResult),
    "hosvd": ("hosvd", {"ranks": (2, 3)}, TuckerResult),
    "tucker": ("tucker", {"ranks": (2, 3)}, TuckerResult),
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_result_comes_back_from_tensorly(name, dtype):
    method, options, kind = RESULTS[name]
    options = {key: value.to(dtype) if isinstance(value, torch.Tensor) else value for key, value in options.items()}
    result = decompose(LAYER.to(dtype=dtype), method, **options)
    back = from_tensorly(result.to_tensorly(), kind, LAYER.to(dtype=dtype))
    assert type(back) is kind
    eps = torch.finfo(dtype).eps
    assert_close(back.to_tensor(), result.to_tensor(), 50 * eps)
    for field in ("outputs", "weights", "left", "right", "eigenvalues", "eigenvectors", "inputs"):
        if hasattr(result, field):
            assert_close(getattr(back, field), getattr(result, field), 50 * eps)
    assert back.relative_error == pytest.approx(result.relative_error, rel=1e-6, abs=50 * eps)
    assert (back.report.layer, back.report.basis) == ("made", "as given")


def test_a_tensor_train_comes_back_from_tensorly():
    result = tensorly_adapter("tensor_train")(rank=(2, 3))(LAYER)
    back = from_tensorly(result.to_tensorly(), TensorTrainResult)
    assert_close(back.to_tensor(), result.to_tensor())
    assert back.relative_error is None
    assert torch.equal(back.middle, result.middle)


@pytest.mark.parametrize("weights", [None, normal(4, seed=3)])
def test_a_cp_tensor_of_any_form_is_a_result_in_the_canonical_form(weights):
    factors = [normal(size, 4, seed=size) for size in (3, 5, 6)]
    tensor = CPTensor((weights, [factors[0], factors[1], 2 * factors[1].flip(0)]))
    result = from_tensorly(tensor, CPResult)
    assert_close(result.to_tensor(), tensorly.cp_to_tensor(tensor))
    assert_close(result.left.norm(dim=0), torch.ones(4, dtype=torch.float64))
    assert result.weights.abs().diff().max() <= 0


def test_a_tucker_tensor_of_two_input_factors_is_a_result_of_one():
    tensor = TuckerTensor((normal(2, 2, 1), [normal(3, 2), normal(5, 2, seed=1), normal(5, 1, seed=2)]))
    result = from_tensorly(tensor, TuckerResult)
    assert result.ranks == (2, 3)
    assert_close(result.to_tensor(), tensorly.tucker_to_tensor(tensor))


def test_a_fit_of_tensorly_gets_the_report_of_a_result():
    found = tensorly.decomposition.parafac(LAYER.symmetrize().to_tensor(), 2, random_state=0)
    result = from_tensorly(found, CPResult, LAYER)
    assert result.relative_error == pytest.approx(relative_error(result, LAYER), rel=1e-9)
    assert result.report.method == "TensorLy's CPTensor"
    assert result.to_layer().name == "made"


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: from_tensorly(normal(3), CPResult),
            TypeError,
            "must be a CPTensor, TuckerTensor or TTTensor of TensorLy",
        ),
        (
            lambda: from_tensorly(LAYER.cp, TuckerResult),
            TypeError,
            "a CPTensor makes a CPResult or a SpectralResult, got T",
        ),
        (lambda: from_tensorly(LAYER.cp, SpectralResult), ValueError, "has equal input factors; columns .* differ by"),
        (lambda: from_tensorly(LAYER.cp, "cp"), TypeError, "kind: a CPTensor makes"),
        (lambda: from_tensorly(LAYER.cp, CPResult, layer_of(3, 6, 4)), ValueError, "'in1': 5.*the layer has.*'in1': 6"),
        (lambda: from_tensorly(LAYER.cp, CPResult, "layer"), TypeError, "layer must be a BilinearLayer, got str"),
        (lambda: from_tensorly(CPTensor((None, [normal(3, 2)] * 2)), CPResult), ValueError, "3 factors"),
        (
            lambda: from_tensorly(TuckerTensor((normal(2, 2), [normal(3, 2)] * 2)), TuckerResult),
            ValueError,
            "dimensions",
        ),
    ],
)
def test_what_is_no_tensor_of_tensorly_is_a_clear_error(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


# optimizers

STACK = stack((4, 4, 4), (5, 6), seed=5)
X = normal(50, 4, seed=6)
EVALUATION = (*STACK.terms(), *(Term(X, ("batch", f"in{i}")) for i in range(1, 5)))
OUTPUT = ("batch", "out")


def serves(optimizer, more=True):
    """It contracts whole and in slices, twice, and, if it serves several, another network too."""
    wanted = STACK(X)
    assert_close(contract(EVALUATION, OUTPUT, optimize=optimizer), wanted)
    peak = plan(EVALUATION, OUTPUT, optimize=optimizer).peak_elements
    sliced = {"chunk": "batch", "max_elements": 0.75 * peak}
    assert plan(EVALUATION, OUTPUT, optimize=optimizer, **sliced).chunk.slices > 1
    for _ in range(2):
        assert_close(contract(EVALUATION, OUTPUT, optimize=optimizer, **sliced), wanted)
    if more:
        assert_close(contract(STACK.terms(), STACK.modes, optimize=optimizer), STACK.to_tensor())
        assert_close(contract(LAYER.terms()[:2], ("out", "in1"), optimize=optimizer), LAYER.down @ LAYER.left.T)


@pytest.mark.parametrize(
    "make", [opt_einsum.DynamicProgramming, opt_einsum.RandomGreedy, lambda: opt_einsum.paths.greedy, lambda: "greedy"]
)
def test_an_optimizer_of_opt_einsum_serves_any_number_of_contractions(make):
    serves(make())


def test_an_optimizer_with_a_pool_serves_one_contraction_and_says_so():
    """It cannot be copied, and so it keeps what it has found."""
    with ThreadPoolExecutor(2) as pool:
        optimizer = opt_einsum.RandomGreedy(max_repeats=4, parallel=pool)
        serves(optimizer, more=False)
        with pytest.raises(ValueError, match="try creating a new instance"):
            contract(STACK.terms(), STACK.modes, optimize=optimizer)


@pytest.mark.filterwarnings("ignore:Couldn't import `kahypar`")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("HyperOptimizer", {"max_repeats": 4, "parallel": False}),
        ("ReusableHyperOptimizer", {"max_repeats": 4, "parallel": False}),
        ("RandomGreedyOptimizer", {"max_repeats": 4}),
        ("GreedyOptimizer", {}),
        ("OptimalOptimizer", {}),
        ("AutoOptimizer", {}),
    ],
)
def test_an_optimizer_of_cotengra_serves(name, options, cotengra):
    serves(getattr(cotengra, name)(**options))


@pytest.mark.filterwarnings("ignore:Couldn't import `kahypar`")
@pytest.mark.parametrize("name", ["HyperOptimizer", "RandomGreedyOptimizer"])
def test_what_an_optimizer_found_for_a_cheap_contraction_is_not_taken_for_another(name, cotengra):
    with ThreadPoolExecutor(2) as pool:
        optimizer = getattr(cotengra, name)(max_repeats=4, parallel=pool)
        for network in (stack((2, 2, 2), (2, 2), seed=1), stack((3, 3, 3, 3), (5, 5, 5), seed=2)):
            assert_close(contract(network, optimize=optimizer), network.to_tensor())


def test_a_path_is_followed_whole_and_in_slices():
    sizes = plan(EVALUATION, OUTPUT).sizes
    serves(find_path(tuple(term.modes for term in EVALUATION), sizes, OUTPUT, "greedy"), more=False)
    found, _ = opt_einsum.contract_path("or,ir,jr->oij", *LAYER.cp.factors, optimize="optimal")
    assert_close(contract(LAYER, optimize=found), LAYER.to_tensor())
    assert [step.names for step in plan(LAYER, optimize=[(0, 2), (0, 1)]).steps] != [
        step.names for step in plan(LAYER, optimize=[(0, 1), (0, 1)]).steps
    ]


def test_a_path_of_one_term_sums_it():
    term = [Term(normal(2, 3), ("a", "b"))]
    for path in ([], [(0,)]):
        assert_close(contract(term, ("b",), optimize=path), normal(2, 3).sum(0))


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ([(0, 3), (0, 1)], ValueError, r"step 0 of the path of `optimize` is \(0, 3\); .* the 3 terms .* from 0 to 2"),
        ([(0, 1), (0, 2)], ValueError, r"step 1 of the path of `optimize` is \(0, 2\); .* the 2 terms .* from 0 to 1"),
        ([(0, 0), (0, 1)], ValueError, r"step 0 .* is \(0, 0\); it must name different positions"),
        ([(), (0, 1)], ValueError, r"step 0 .* is \(\)"),
        ([(0, 1)], ValueError, "leaves 2 terms; it must contract all into one"),
        ([(0, -1), (0, 1)], ValueError, r"optimize\[0\] must be at least 0, got -1"),
        ([(0, 1.0), (0, 1)], TypeError, r"optimize\[0\] must be a whole number"),
        (["einsum_path", (0, 1), (0, 1)], TypeError, "optimize must be a name, .*, or a path"),
        (3, TypeError, "optimize must be a name"),
    ],
)
def test_a_wrong_path_is_refused_before_anything_is_contracted(path, kind, message):
    with pytest.raises(kind, match=message):
        plan(LAYER, optimize=path)


def test_terms_that_do_not_fit_are_no_network():
    with pytest.raises(ValueError, match="mode 'a' has size 2 in one term but 3 in term 1"):
        TermNetwork([Term(normal(2), ("a",)), Term(normal(3), ("a",))], ())
