"""Laws of every decomposition in the registry and of networks, on layers that hypothesis draws.

A short run is part of every test run and always the same; `pytest -m laws` draws 30 times as many and others each time
(`--hypothesis-seed=0` for the same again). What has failed once is kept as an example.
"""

import dataclasses
import math
from itertools import pairwise

import extended
import pytest
import tensorly
import torch
from drawn import HALF, Recipe, recipes
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tensornet_interp import BilinearLayer, BilinearNetwork, decompose, difference, lift, odt
from tensornet_interp.circuits import circuit
from tensornet_interp.decompositions import BUILT_IN, FitOptions, tensorly_adapter
from tensornet_interp.decompositions.starts import untie
from tensornet_interp.fidelity import certificate, difference_certificate
from tensornet_interp.inner_products import norm, relative_error, similarity
from tensornet_interp.registry import get_decomposition
from tensornet_interp.spectra import spectra

METHODS = [name for name in sorted(BUILT_IN) if name != "tensorly_non_negative_parafac"]
NESTED, FITTED, ODD = (
    [name for name in METHODS if getattr(get_decomposition(name), flag, False)] for flag in ("nested", "fitted", "odd")
)
FITS = [name for name in METHODS if issubclass(get_decomposition(name), FitOptions)]
DIRECT = ["eigen", "output_svd", "hosvd"]  # they follow the layer through changes of basis without a search
EPS = torch.finfo(torch.float64).eps


def law(*strategies, examples=(), small=12, large=360):
    """Two tests of one law: a short one that is always the same, and a long one behind the marker `laws`."""

    def wrap(body):
        @pytest.mark.parametrize("size", ["small", pytest.param("large", marks=pytest.mark.laws)])
        def test(size):
            run = given(*strategies)(body)
            for case in examples:
                run = example(*case)(run)
            settings(
                max_examples=small if size == "small" else large,
                derandomize=size == "small",
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )(run)()

        test.__doc__ = body.__doc__
        return test

    return wrap


def steps(name, layer):
    """The method from small to exact for a layer; fits with few iterations; methods without a ladder as they are."""
    factory = get_decomposition(name)
    found = list(factory.ladder(layer))
    if not found:
        most = min(layer.shape[0] * layer.shape[1], layer.shape[1] ** 2)
        return [factory(rank=min(rank, most)) for rank in (1, 2)]
    return [dataclasses.replace(step, max_iterations=12) if isinstance(step, FitOptions) else step for step in found]


def middle(name, layer, at=0.5):
    """A step between the first and the last."""
    found = steps(name, layer)
    return found[min(len(found) - 1, int(at * len(found)))]


def is_zero(layer):
    """Whether the tensor is zero, also if hidden units cancel exactly: TensorLy fits nothing then."""
    return not bool(layer.to(dtype=torch.float64).to_tensor().any())


def amplification(layer):
    """The sizes of all hidden units over the norm of the layer: what cancellation makes of rounding."""
    truth = extended.dense(layer)
    wide = layer.to(dtype=torch.float64)
    scale = float(wide.down.detach().abs().max()) or 1.0
    lengths = [part.detach().norm(dim=0) for part in (wide.down / scale, wide.left, wide.right)]
    size = float(extended.norm(truth / scale))
    return float((lengths[0] * lengths[1] * lengths[2]).sum()) / size if size else math.inf


def with_parts(layer, **parts):
    return dataclasses.replace(layer, **{name: part.detach() for name, part in parts.items()})


ANY = recipes()
WIDE = recipes(dtypes=(torch.float64,))
METHOD = st.sampled_from(METHODS)


CANCELLED = Recipe(0, 1, 1, 1, "cancelling", torch.bfloat16)  # to exactly zero, with weights that are not


@law(ANY, METHOD, st.floats(0, 1), small=40, examples=[(CANCELLED, "block_term", 0.0)])
def test_a_result_stands_for_its_layer_and_leaves_it_alone(recipe, name, at):
    """Same modes, sizes, dtype, device, constants; input unchanged; same seed, same answer; drops into a network."""
    layer = recipe.layer()
    assume(bool(layer.down.any()) and (bool(norm(layer) > 0) or not name.startswith("tensorly")))
    before = [(term.data.detach().clone(), term.data.requires_grad, term.data.stride()) for term in layer.terms()]
    state = torch.get_rng_state()
    method = middle(name, layer, at)
    result, again = method(layer), method(layer)
    made, repeated = result.to_layer(), again.to_layer()
    assert (result.modes, result.sizes) == (layer.modes, layer.sizes)
    assert (made.down.dtype, made.down.device) == (layer.down.dtype, layer.down.device)
    assert (made.constant_in, made.constant_out) == (layer.constant_in, layer.constant_out)
    for (data, grad, stride), term in zip(before, layer.terms(), strict=True):
        assert torch.equal(data, term.data)
        assert (grad, stride) == (term.data.requires_grad, term.data.stride())
        assert term.data.grad is None
    for one, two in zip(made.terms(), repeated.terms(), strict=True):
        assert torch.equal(one.data, two.data)
    assert torch.equal(state, torch.get_rng_state())
    assert BilinearNetwork([result]).sizes["in1"] == layer.sizes["in1"]
    assert 0 <= result.relative_error <= result.report.relative_error_bound


@law(ANY, METHOD, examples=[(Recipe(0, 2, 3, 1), "cp"), (Recipe(0, 2, 1, 2), "eigen")])
def test_every_step_of_a_ladder_can_be_taken(recipe, name):
    """Also for one hidden unit, for one input and for one output."""
    layer = recipe.layer()
    assume(bool(layer.down.any()) and (not name.startswith("tensorly") or not is_zero(layer)))
    for step in steps(name, layer):
        assert step(layer).sizes == layer.sizes


@law(recipes(large=True), METHOD, small=30)
def test_the_exact_end_reproduces_the_layer(recipe, name):
    """Up to the rounding of the result to the layer's dtype, and to what cancelling units make of it."""
    layer = recipe.layer()
    assume((not is_zero(layer) and layer.shape[1] <= 64) or not name.startswith("tensorly"))
    worst = amplification(layer)
    assume(worst < 1e6 and len(list(get_decomposition(name).ladder(layer))))
    result = steps(name, layer)[-1](layer)
    eps = torch.finfo(layer.down.dtype).eps
    # each of at most four arrays is rounded once; blocks of a symmetric CP are twice as large as the units
    assert relative_error(result, layer) <= 1e-9 * worst + (0 if layer.down.dtype == torch.float64 else 4 * eps * worst)


@law(ANY, st.sampled_from(NESTED))
def test_the_error_never_rises_along_the_ladder_of_a_nested_method(recipe, name):
    layer = recipe.layer()
    assume(bool(layer.down.any()))
    errors = [step(layer).relative_error for step in steps(name, layer)]
    worst = amplification(layer)
    assume(worst < 1e6)
    slack = 1e-10 * worst + (0 if layer.down.dtype == torch.float64 else 4 * torch.finfo(layer.down.dtype).eps * worst)
    assert all(after <= before + slack for before, after in pairwise(errors))


@law(WIDE, st.sampled_from(FITTED), st.floats(0, 1), small=25)
def test_no_scalar_times_the_result_of_a_method_that_is_fitted_fits_better(recipe, name, at):
    layer = recipe.layer()
    worst = amplification(layer)
    assume(worst < 1e4)
    truth, found = extended.dense(layer), extended.dense(middle(name, layer, at)(layer))
    scale = extended.norm(truth)
    product, squared = ((found / scale) * (truth / scale)).sum(), ((found / scale) ** 2).sum()
    assert abs(float(product - squared)) <= 1e-9 * worst


@law(WIDE, st.sampled_from(ODD), st.floats(0, 1), small=25)
def test_a_method_that_is_odd_takes_minus_the_layer_to_minus_the_result(recipe, name, at):
    """If no cut runs between equal values, which rounding decides."""
    layer = recipe.layer()
    worst = amplification(layer)
    assume(worst < 1e4 and not layer.constant_out)
    method = middle(name, layer, at)
    result = method(layer)
    assume(not any("nearly equal" in warning for warning in result.report.warnings))
    minus = with_parts(layer, down=-layer.down, left=layer.left, right=layer.right)
    off = extended.norm(extended.dense(method(minus)) + extended.dense(result)) / extended.norm(extended.dense(layer))
    assert float(off) <= 1e-6 * worst


@law(WIDE, METHOD, st.floats(0, 1), small=25)
def test_the_error_of_minus_a_layer_is_that_of_the_layer(recipe, name, at):
    layer = recipe.layer()
    assume(amplification(layer) < 1e6)
    assume(not layer.constant_out)  # a lifted layer hands on 1, not -1
    method = middle(name, layer, at)
    minus = with_parts(layer, down=-layer.down, left=layer.left, right=layer.right)
    error, other = method(layer).relative_error, method(minus).relative_error
    assert other == pytest.approx(error, rel=1e-5 if name in FITS else 1e-9, abs=1e-9 * amplification(layer))


@law(recipes(kinds=("one output",), dtypes=(torch.float64,), lifted=False), st.integers(1, 4), st.sampled_from((-1, 1)))
def test_a_symmetric_cp_of_one_output_is_no_worse_than_its_eigenpairs(recipe, rank, sign):
    """Whatever the signs of the eigenvalues: right = -left has none that is positive."""
    layer = recipe.layer()
    for right in (layer.right, sign * layer.left):
        one = with_parts(layer, down=layer.down.abs(), left=layer.left, right=right)
        pairs = min(rank, one.shape[1], 2 * one.rank)
        eigen = decompose(one, "eigen", rank=pairs)
        fitted = decompose(one, "symmetric_cp", rank=pairs)
        assert fitted.relative_error <= eigen.relative_error + 1e-7


FAR = Recipe(0, 1, 1, 1, power=95, lifted=True)  # a constant of 1 beside weights of 1e95


FALLING = Recipe(0, 1, 2, 1, kind="cancelling", power=1, lifted=True)  # its best terms of rank 2 grow without end
AT_REST = Recipe(0, 2, 2, 1, kind="cancelling", power=1, lifted=True)  # the squared error of its fit is rounding


@law(
    *(WIDE, METHOD, st.floats(0, 1), st.integers(-150, 150)),
    small=25,
    examples=[(FAR, "symmetric_cp", 0.5, 0), (FALLING, "cp", 0.5, 1), (AT_REST, "block_term", 0.5, 1)],
)
def test_scaling_left_by_c_and_right_by_1_over_c_changes_nothing(recipe, name, at, power):
    """Fits end alike as far as their tolerance says: they stop if ten steps gain less than 1e-3 of the squared error,
    or, near an exact fit, somewhere below an error of 1e-5. Those that are cut off do not: where starts tie, and near
    saddles, steps enlarge the rounding of the weights."""
    layer = recipe.layer()
    assume(amplification(layer) < 1e6)
    c = 10.0**power
    other = with_parts(layer, down=layer.down, left=layer.left * c, right=layer.right / c)
    assume(bool(torch.isfinite(other.right).all()) and bool(torch.isfinite(other.left).all()))
    method = middle(name, layer, at)
    made, again = method(layer), method(other)
    rounding = 1e-9 * amplification(layer)
    if name not in FITS:
        assert again.relative_error == pytest.approx(made.relative_error, rel=1e-9, abs=rounding)
    elif any(result.report.stop_reason.startswith("not converged") for result in (made, again)):
        assert again.relative_error <= 1 + rounding  # no worse than the zero layer
    else:
        assert again.relative_error == pytest.approx(made.relative_error, rel=1e-3, abs=max(1e-5, rounding))
    assert relative_error(other, layer) <= 1e-12 * amplification(layer)
    assert float(norm(other)) == pytest.approx(float(norm(layer)), rel=1e-9)


@law(WIDE, st.sampled_from([name for name in METHODS if name != "random_components"]), st.floats(0, 1), small=25)
def test_the_order_of_hidden_units_changes_nothing(recipe, name, at):
    """Except for what is drawn of them by number; fits end where their tolerance ends them."""
    layer = recipe.layer()
    assume(amplification(layer) < 1e4)
    order = torch.randperm(layer.rank, generator=torch.Generator().manual_seed(recipe.seed))
    other = with_parts(layer, down=layer.down[:, order], left=layer.left[:, order], right=layer.right[:, order])
    method = middle(name, layer, at)
    error = method(layer).relative_error
    assert method(other).relative_error == pytest.approx(error, rel=1e-3 if name in FITS else 1e-8, abs=1e-7)
    assert relative_error(other, layer) <= 1e-12 * amplification(layer)
    assert float(similarity(layer, other)) == pytest.approx(1, abs=1e-9)


@law(recipes(dtypes=(torch.float64,), lifted=False), st.sampled_from([*DIRECT, "tucker"]), st.floats(0, 1))
def test_an_orthogonal_change_of_basis_changes_no_error(recipe, name, at):
    layer = recipe.layer()
    assume(amplification(layer) < 1e6)
    turned = {"inputs": torch.linalg.qr(recipe.draw(layer.shape[1], layer.shape[1], seed=20)).Q}
    if name != "eigen":  # whose blocks are the outputs
        turned["outputs"] = torch.linalg.qr(recipe.draw(layer.shape[0], layer.shape[0], seed=21)).Q
    other = with_parts(layer, down=layer.down, left=layer.left, right=layer.right).change_basis(**turned)
    method = middle(name, layer, at)
    error = method(layer).relative_error
    assert method(other).relative_error == pytest.approx(error, rel=1e-6, abs=1e-9 * amplification(layer))


TRAIN = tensorly_adapter("tensor_train")


@law(
    recipes(dtypes=(torch.float64, torch.float32)),
    st.sampled_from([*METHODS, "tensor_train"]),
    st.floats(0, 1),
    small=30,
)
def test_to_tensorly_made_dense_is_to_tensor(recipe, name, at):
    """Of every result type, by TensorLy's own functions."""
    layer = recipe.layer()
    assume(bool(layer.down.any()))
    result = (TRAIN(rank=1) if name == "tensor_train" else middle(name, layer, at))(layer)
    form = result.to_tensorly()
    dense = {
        "CPTensor": tensorly.cp_to_tensor,
        "TuckerTensor": tensorly.tucker_to_tensor,
        "TTTensor": tensorly.tt_to_tensor,
    }[type(form).__name__](form)
    truth = result.to_tensor()
    size = float(truth.detach().abs().max())
    parts = result.to_layer()
    terms = float((parts.down.abs() @ (parts.left.norm(dim=0) * parts.right.norm(dim=0))).detach().max())
    off = float((dense - truth).detach().abs().max())
    assert off <= 50 * torch.finfo(truth.dtype).eps * max(size, terms)


@law(WIDE, st.integers(1, 5), st.integers(1, 9))
def test_tucker_is_no_worse_than_the_hosvd_from_which_it_starts(recipe, a, b):
    """Also if one mode is full and only the other can move."""
    layer = recipe.layer()
    assume(amplification(layer) < 1e6)
    n_out, n_in, _ = layer.shape
    for ranks in ((min(a, n_out), min(b, n_in)), (n_out, min(b, n_in)), (min(a, n_out), n_in)):
        start, found = (decompose(layer, method, ranks=ranks) for method in ("hosvd", "tucker"))
        assert found.relative_error <= start.relative_error + 1e-9 * amplification(layer)


@law(
    recipes(dtypes=(torch.float64,)),
    st.sampled_from([*FITS, "tucker"]),
    st.floats(0, 1),
    small=20,
    examples=[
        (Recipe(seed=0, n_out=3, n_in=1, rank=2, kind="cancelling"), "cp", 0.0),
        (Recipe(seed=0, n_out=1, n_in=3, rank=1, kind="cancelling"), "block_term", 0.5),
    ],
)
def test_the_last_error_of_a_fit_is_the_reported_one(recipe, name, at):
    """Up to the final scale, which can only lower it, and the rounding of a square that is expanded into terms."""
    layer = recipe.layer()
    size = amplification(layer)
    assume(size < 1e4)
    result = middle(name, layer, at)(layer)
    assume(len(result.report.convergence))
    last = result.report.convergence[-1]
    # of 1 - 2 <B, B'> + <B', B'>: of the layer, and of products over pairs of hidden units whose sizes cancel
    rounding = (EPS * size * max(50, size)) ** 0.5
    assert result.relative_error == pytest.approx(last, rel=1e-4, abs=rounding)
    assert result.relative_error <= last + rounding
    squares = [error**2 for error in result.report.convergence]
    assert all(after <= before * (1 + 1e-12) + rounding**2 for before, after in pairwise(squares))


@law(recipes(lifted=False))
def test_groups_of_minus_a_layer_are_those_of_the_layer(recipe):
    layer = recipe.layer()
    minus = with_parts(layer, down=-layer.down, left=layer.left, right=layer.right)
    result, other = decompose(layer, "eigen"), decompose(minus, "eigen")
    for block in range(layer.shape[0]):
        found, mirrored = result.groups(block), other.groups(block)
        assert sorted(len(group.indices) for group in found) == sorted(len(group.indices) for group in mirrored)
        values = torch.tensor(sorted(group.eigenvalue for group in found), dtype=torch.float64)
        opposite = torch.tensor(sorted(-group.eigenvalue for group in mirrored), dtype=torch.float64)
        torch.testing.assert_close(values, opposite, rtol=1e-12, atol=1e-12 * float(values.abs().max()))


@law(recipes(dtypes=(torch.float64,), kinds=("normal", "unbalanced"), powers=False, lifted=False), st.integers(-60, 60))
def test_a_certificate_proves_nothing_about_ties_and_sees_no_scale(recipe, power):
    """Outputs that are tied up to rounding, at weights of size 1 and 1e8; left times c, right over c."""
    layer = dataclasses.replace(recipe, n_out=3).layer()
    x = recipe.draw(30, layer.shape[1], seed=30)
    c = 10.0**power
    for size in (1.0, 1e8):
        tied = torch.cat([layer.down[:2], layer.down[1:2] * (1 + EPS), layer.down[2:]]) * size
        one = with_parts(layer, down=tied, left=layer.left, right=layer.right)
        for values, rank in ((x, 1), (size * x, decompose(one, "eigen").rank)):
            outputs = one.to(dtype=torch.float64)(values)
            tie = outputs.argmax(1) % 3 > 0  # outputs 1 and 2 are equal up to rounding and lead
            tie = tie & (outputs.argmax(1) < 3)
            assert not certificate(decompose(one, "eigen"), rank, values)[tie].any()
            assert (difference_certificate(one, (rank,), values)[0][tie] == -1).all()
    plain = certificate(decompose(layer, "eigen"), decompose(layer, "eigen").rank, x)
    scaled = with_parts(layer, down=layer.down, left=layer.left * c, right=layer.right / c)
    assert torch.equal(plain, certificate(decompose(scaled, "eigen"), decompose(scaled, "eigen").rank, x))
    assert torch.equal(*(difference_certificate(part, (1, min(2, layer.shape[1])), x) for part in (layer, scaled)))


@law(recipes(lifted=False))
def test_a_layer_whose_constant_output_was_dropped_is_not_lifted_again(recipe):
    layer = recipe.layer()
    with pytest.raises(ValueError, match="lifted already"):
        lift(lift(layer).drop_constant())


@law(ANY, METHOD, examples=[(Recipe(0, 1, 2, 1, dtype=torch.float32, lifted=True), "block_term")])
def test_a_network_of_one_is_its_layer(recipe, name):
    layer = recipe.layer()
    assume(bool(layer.down.any()))
    result = middle(name, layer)(layer).drop_constant()
    plain, network = layer.drop_constant(), BilinearNetwork([layer])
    assert relative_error(result, network) == relative_error(result, plain)
    assert relative_error(BilinearNetwork([result]), network) == relative_error(result, plain)
    one, two = difference(network, BilinearNetwork([result])), difference(plain, result)
    assert all(torch.equal(a.data, b.data) for a, b in zip(one.terms(), two.terms(), strict=True))


@law(recipes(lifted=False), st.sampled_from(("out", "in")))
def test_a_result_of_another_size_is_refused(recipe, mode):
    """As a plugin with a fault would return it."""
    layer = recipe.layer()
    extra = {"outputs": torch.ones(layer.shape[0] + 1, layer.shape[0], dtype=layer.down.dtype)}
    if mode == "in":
        extra = {"inputs": torch.ones(layer.shape[1], layer.shape[1] + 1, dtype=layer.down.dtype)}
    with pytest.raises(ValueError, match="changed the open modes"):
        decompose(layer, lambda given: given.change_basis(**extra))


@law(recipes(large=True), METHOD, st.floats(0, 1), small=40)
def test_the_reported_error_is_true_and_below_its_bound(recipe, name, at):
    """Against the dense tensors in extended precision."""
    extended.needs_extended()
    layer = recipe.layer()
    truth = extended.dense(layer)
    assume(float(extended.norm(truth)) > 0 and (layer.shape[1] <= 64 or not name.startswith("tensorly")))
    result = middle(name, layer, at)(layer)
    error, bound = float(extended.relative_error(result, layer)), result.report.relative_error_bound
    assert error <= bound
    assert abs(result.relative_error - error) <= bound - result.relative_error + 1e-15


@law(recipes(kinds=("normal", "deficient", "unbalanced"), lifted=False), st.integers(0, 10**6), small=15)
def test_networks(recipe, seed):
    """Norms, cosines, complete circuits and bonds of two layers do not see order, balance or scale of hidden units."""
    below = recipe.layer().to(dtype=torch.float64)
    above = Recipe(seed, 3, below.shape[0], 4, power=-recipe.power).layer()
    network = BilinearNetwork([below, above])
    order = torch.randperm(below.rank, generator=torch.Generator().manual_seed(seed))
    parts = {name: getattr(below, name).detach()[:, order] for name in ("down", "left", "right")}
    other = BilinearNetwork(
        [with_parts(below, **parts | {"left": 8 * parts["left"], "right": parts["right"] / 8}), above]
    )
    for kind in ("tree", "symmetric"):
        assert float(similarity(network, other, kind=kind)) == pytest.approx(1, abs=1e-9)
    one, two = odt(network), odt(other)
    for a, b in zip(one.bonds, two.bonds, strict=True):
        assert a.log_norm == pytest.approx(b.log_norm, abs=1e-9)
        torch.testing.assert_close(a.singular_values[:1], b.singular_values[:1], rtol=1e-9, atol=0)
    assert one.truncate(error=0.0).measured <= 1e-6
    direction, x = recipe.draw(3, seed=40), recipe.draw(9, below.shape[1], seed=41)
    assert circuit(other, direction, widths=None, progress=False).relative_error(x) <= 1e-8
    exact = decompose(network, "eigen")
    assert relative_error(exact[0], below) <= 1e-9 * amplification(below)
    found = spectra(below, torch.eye(below.shape[0], dtype=torch.float64), k=1, progress=False)
    truth = decompose(below, "eigen", rank=1).eigenvalues
    assert ((found.eigenvalues.abs() - truth.abs()).abs() <= found.bounds + 1e-12 * truth.abs().max()).all()


@law(recipes(dtypes=HALF, large=True, kinds=("normal", "unbalanced")), st.sampled_from(METHODS), small=15)
def test_a_result_of_a_half_precision_layer_is_that_of_the_same_weights(recipe, name):
    """It is the float64 result, rounded: fits included, since all work is in float64."""
    layer = dataclasses.replace(recipe, grad=False).layer()
    assume(layer.shape[1] <= 64 or not name.startswith("tensorly"))
    wide = with_parts(layer, down=layer.down.double(), left=layer.left.double(), right=layer.right.double())
    method = middle(name, layer)
    found, truth = method(layer), method(wide)
    for one, two in zip(found.terms(), truth.to(dtype=layer.down.dtype).terms(), strict=True):
        assert torch.equal(one.data, two.data)


@dataclasses.dataclass(frozen=True)
class Terms:
    down: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    def only(self, rank):
        return Terms(*(part[:, rank : rank + 1] for part in (self.down, self.left, self.right)))

    def layer(self):
        return BilinearLayer(down=self.down, left=self.left, right=self.right)


@law(recipes(dtypes=(torch.float64,), kinds=("normal",), powers=False, lifted=False), st.integers(-8, 8), st.booleans())
def test_untying_changes_a_term_by_the_square_of_the_push(recipe, power, opposite):
    """u and c u become u + n and c (u - n): c u u^T changes by c n n^T, whatever the lengths of both."""
    outputs, vectors = recipe.draw(2, 3, seed=1), recipe.draw(recipe.n_in, 3, seed=2)
    c = 10.0**power * (-1 if opposite else 1)
    first = Terms(outputs, vectors, c * vectors)
    second = Terms(*untie((outputs, vectors, c * vectors), recipe.seed))
    noise = (second.left - first.left).norm(dim=0) / first.left.norm(dim=0)
    assert (noise > 0).all()
    for rank in range(3):
        one, two = (extended.dense(part.only(rank).layer()) for part in (first, second))
        assert extended.norm(two - one) <= 1.01 * float(noise[rank]) ** 2 * extended.norm(one)


@law(
    recipes(dtypes=(torch.float64,), kinds=("normal", "unbalanced"), lifted=False), st.permutations((1, 2, 3)), small=6
)
def test_a_fit_that_starts_with_unequal_ranks_uses_the_room_it_gains(recipe, ranks):
    layer = dataclasses.replace(recipe, n_out=4, n_in=8, rank=7).layer()
    start = decompose(layer, "block_term", rank=list(ranks), max_iterations=20)
    assert sorted((start.eigenvalues != 0).sum(1).tolist()) == [1, 2, 3]
    found = decompose(layer, "block_term", rank=4, blocks=3, start=start, max_iterations=20)
    assert ((found.eigenvalues != 0).sum(1) == 4).all()
    assert found.relative_error < start.relative_error - 1e-3
