"""Standard errors are those of the dense Jacobian; noise moves components that far; what is undetermined is flagged."""

import math
import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers import layer_of, normal, orthonormal, symmetrized, with_spectra
from torch.autograd.functional import jacobian

from tensornet_interp import (
    BilinearLayer,
    CPResult,
    Moments,
    Report,
    SpectralResult,
    decompose,
    lift,
    load,
    relative_error,
    save,
)
from tensornet_interp.compare import component_trust, match
from tensornet_interp.decompositions import CP, BlockTerm, Eigen, Smooth, SymmetricCP, Whitened
from tensornet_interp.metric import Metric

SMALL = 1e-10  # of a fit's own rounding: sums of some thousand products


def lengths(size):
    """What each entry on and above the diagonal counts: 1, or sqrt(2) if it stands for two."""
    i, j = torch.triu_indices(size, size)
    return torch.where(i == j, 1.0, 2.0).double().sqrt()


def coordinates(tensor):
    """Symmetric tensors (..., d, d) as vectors of the same norm: entries off the diagonal count once, times sqrt(2)."""
    i, j = torch.triu_indices(*tensor.shape[-2:])
    return (tensor[..., i, j] * lengths(tensor.shape[-1])).flatten(-2)


def terms(factors, kinds):
    """The symmetrized components (component, out, d, d); kinds: a number of vectors per component, or "free"."""
    made, vectors = [], iter(factors[1].T)
    for output, kind in zip(factors[0].T, kinds, strict=True):
        if kind == "free":
            a, b = next(vectors), next(vectors)
            matrix = torch.outer(a, b)
        else:
            own = torch.stack([next(vectors) for _ in kind])
            matrix = own.T @ (own * torch.tensor(kind, dtype=torch.float64)[:, None])
        made.append(output[:, None, None] * (matrix + matrix.T) / 2)
    return torch.stack(made)


def dense(factors, kinds, residual):
    """A layer at which these factors are a stationary point, and the standard errors of the dense Jacobian."""
    sizes = [factor.shape for factor in factors]

    def of(flat):
        parts = flat.split([math.prod(size) for size in sizes])
        return terms([part.view(size) for part, size in zip(parts, sizes, strict=True)], kinds)

    flat = torch.cat([factor.flatten() for factor in factors])
    whole = jacobian(lambda point: coordinates(of(point).sum(0)), flat)  # (data, parameter)
    rank = torch.arange(len(kinds))
    vectors = rank.repeat_interleave(torch.tensor([2 if kind == "free" else len(kind) for kind in kinds]))
    owner = torch.cat([part.repeat(len(factor)) for part, factor in zip((rank, vectors), factors, strict=True)])
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    kept = values > 1e-9 * values[0]
    span = left[:, kept]
    inverse = right[kept].T / values[kept] @ span.T
    noise = coordinates(residual)
    noise = noise - span @ (span.T @ noise)
    made = of(flat)
    moves = torch.stack([(whole * (owner == at) @ inverse).square().sum() for at in rank]).sqrt()
    sigma = noise.norm() / (len(noise) - int(kept.sum())) ** 0.5
    tensor = made.sum(0)
    size = tensor.shape[-1]
    i, j = torch.triu_indices(size, size)
    off = torch.zeros_like(tensor)
    off[:, i, j] = noise.view(len(tensor), -1) / lengths(size)
    off[:, j, i] = off[:, i, j]
    return BilinearLayer.from_tensor(tensor + off), sigma * moves / made.flatten(1).norm(dim=1)


def result_of(factors, kinds, layer):
    """The result of these factors, which need no fit."""
    report = Report.of(layer, "planted")
    outputs, scale = factors[0] / factors[0].norm(dim=0), factors[0].norm(dim=0)
    if "free" in kinds:
        pairs, vectors = [], list(factors[1].T)
        for kind in kinds:
            first = vectors.pop(0)
            pairs.append((first, vectors.pop(0) if kind == "free" else first))
        left, right = (torch.stack(side, 1) for side in zip(*pairs, strict=True))
        weights = scale * left.norm(dim=0) * right.norm(dim=0)
        left, right = left / left.norm(dim=0), right / right.norm(dim=0)
        return CPResult(report=report, weights=weights, outputs=outputs, left=left, right=right)
    rank, values, bases, at = max(map(len, kinds)), [], [], 0
    for number, kind in enumerate(kinds):
        own = factors[1][:, at : at + len(kind)]
        at += len(kind)
        value, basis = torch.linalg.eigh(own @ torch.diag(torch.tensor(kind, dtype=torch.float64)) @ own.T)
        order = value.abs().argsort(descending=True)[:rank]
        used = (torch.arange(rank) < len(kind)).double()  # missing eigenpairs are zero
        values.append(value[order] * scale[number] * used)
        bases.append(basis[:, order])
    return SpectralResult(
        report=report, outputs=outputs, eigenvalues=torch.stack(values), eigenvectors=torch.stack(bases)
    )


CASES = {
    "fewer components than outputs, free inputs": (6, 9, ["free"] * 3),
    "more components than outputs, vectors that span all inputs": (4, 7, ["free"] * 5),
    "one component": (3, 5, ["free"]),
    "symmetric": (5, 8, [(1,), (-1,), (1,)]),
    "symmetric, spanning all": (3, 4, [(1,), (1,), (-1,), (1,)]),
    "one tied among free ones": (6, 8, ["free", (1,), "free"]),
    "blocks": (5, 9, [(1, 1), (1, -1), (-1, -1)]),
    "blocks of different ranks": (4, 9, [(1, -1, 1), (1,)]),
}


@pytest.mark.parametrize("case", CASES)
def test_standard_errors_are_those_of_the_dense_jacobian(case):
    n_out, size, kinds = CASES[case]
    count = sum(2 if kind == "free" else len(kind) for kind in kinds)
    factors = [normal(n_out, len(kinds), seed=1), normal(size, count, seed=2)]
    residual = symmetrized(normal(n_out, size, size, seed=3))
    layer, expected = dense(factors, kinds, residual)
    found = component_trust(result_of(factors, kinds, layer), layer).standard_error
    assert float(expected.min()) > 0
    torch.testing.assert_close(found, expected, rtol=SMALL, atol=0)


def test_inputs_that_the_layer_ignores_change_nothing():
    """Degrees of freedom are counted in compressed coordinates, and results have the scale and basis of the layer."""
    n_out, size, kinds = CASES["fewer components than outputs, free inputs"]
    factors = [normal(n_out, 3, seed=1), normal(size, 6, seed=2)]
    layer, expected = dense(factors, kinds, symmetrized(normal(n_out, size, size, seed=3)))
    turn = orthonormal(40, size, seed=4)
    wide = replace(layer, down=1e6 * layer.down, left=turn @ layer.left, right=turn @ layer.right)
    result = result_of([1e6 * factors[0], turn @ factors[1]], kinds, wide)
    trust = component_trust(result, wide)
    torch.testing.assert_close(trust.standard_error, expected, rtol=1e-9, atol=0)
    same = component_trust(result, wide, noise=2 * float(trust.noise[0]))
    torch.testing.assert_close(same.standard_error, 2 * expected, rtol=1e-9, atol=0)


def white(n_out, size, seed):
    """Symmetric noise of which every coordinate has variance 1: entries off the diagonal have variance 1/2."""
    return symmetrized(normal(n_out, size, size, seed=seed))


def test_noise_moves_components_as_far_as_predicted():
    truth = layer_of(6, 10, 2, seed=0)
    tensor = symmetrized(truth.to_tensor())
    squares, predicted = torch.zeros(2).double(), torch.zeros(2).double()
    draws = 8
    for seed in range(draws):
        layer = BilinearLayer.from_tensor(tensor + 0.1 * white(6, 10, 50 + seed))
        result = CP(rank=2, start=truth, tolerance=1e-8)(layer)
        trust = component_trust(result, layer)
        assert float(trust.noise[0]) == pytest.approx(0.1, rel=5 * (2 * 330) ** -0.5)  # five standard errors
        for mine, theirs in match(result, truth).pairs:
            one, two = (
                symmetrized(torch.einsum("o,i,j->oij", x.down[:, at], x.left[:, at], x.right[:, at]))
                for x, at in ((result.to_layer(), mine), (truth, theirs))
            )
            squares[theirs] += ((one - two).norm() / two.norm()) ** 2 / draws
            predicted[theirs] += trust.standard_error[mine] / draws
    # a component moves in about 6 + 2 * 10 - 2 directions; four standard errors of a root of a mean of squares
    torch.testing.assert_close(squares.sqrt(), predicted, rtol=4 / (2 * 24 * draws) ** 0.5, atol=0)


def test_error_bars_of_eigenvectors_are_those_of_white_noise():
    values = torch.tensor([[5.0, -4.0, 2.5, 1.0, -0.5, 0.2], [3.0, -6.0, 1.0, 0.0, 0.5, 2.0]]).double()
    layer, sigma, draws = with_spectra(values, seed=3), 0.01, 4000
    result = Eigen()(layer)
    trust = component_trust(result, layer, noise=sigma)
    assert trust.standard_error.shape == (2, 6)
    matrices = layer.interaction_matrix(torch.eye(2).double())
    noisy = torch.linalg.eigh(matrices + sigma * white(2 * draws, 6, 7).unflatten(0, (draws, 2)))
    order = noisy.eigenvalues.abs().argsort(dim=-1, descending=True)
    vectors = noisy.eigenvectors.gather(-1, order[:, :, None].expand(-1, -1, 6, -1))
    for block, count in ((0, 6), (1, 3)):  # further ones are near in magnitude, and change places
        own, drawn = result.eigenvectors[block, :, :count], vectors[:, block, :, :count]
        cosine = (own * drawn).sum(1)
        moved = (drawn * cosine.sign()[:, None] - own).square().sum(1).mean(0)
        # a sum of squares has a relative variance of at most 2; what is of second order is sigma / gap = 3 %
        error = trust.standard_error[block, :count].square()
        torch.testing.assert_close(moved, error, rtol=4 * (2 / draws) ** 0.5, atol=0)


def test_the_noise_of_a_truncated_eigendecomposition_is_that_of_what_it_leaves_out():
    planted = with_spectra(torch.tensor([[30.0, -20.0] + [0.0] * 28]).double(), seed=1)
    layer = BilinearLayer.from_tensor(planted.to_tensor() + 0.1 * white(1, 30, 2))
    trust = component_trust(Eigen(rank=2)(layer), layer)
    assert trust.noise.flatten().tolist() == pytest.approx([0.1, 0.1], rel=4 * (2 * 28 * 29 / 2) ** -0.5)
    assert trust.start_agreement is None


def test_equal_eigenvalues_have_no_eigenvectors():
    layer = with_spectra(torch.tensor([[2.0, 1.0, 1.0, 0.5]]).double(), seed=0)
    errors = component_trust(Eigen()(layer), layer, noise=1e-3).standard_error[0]
    assert errors.isinf().tolist() == [False, True, True, False]


def test_eigenvectors_of_shared_outputs_and_of_a_narrow_dtype():
    layer = layer_of(4, 8, 5)
    wide = component_trust(decompose(layer, "eigen", rank=3), layer)
    result = decompose(layer, "output_svd", blocks=2, rank=3)
    shared = component_trust(result, layer)
    turned = replace(layer, down=result.directions @ layer.down)  # whose first outputs are the shared directions
    expected = component_trust(decompose(turned, "eigen", rank=3), turned)
    torch.testing.assert_close(shared.standard_error, expected.standard_error)
    narrow = decompose(layer, "eigen", rank=3).to(dtype=torch.bfloat16)
    torch.testing.assert_close(component_trust(narrow, layer).standard_error, wide.standard_error)
    double = 2 * torch.eye(8).double()
    pulled, changed = decompose(layer, "eigen", rank=3).change_basis(double), layer.change_basis(inputs=double)
    with pytest.raises(ValueError, match="no leading eigenvalues of this layer"):
        component_trust(pulled, changed)


def noisy(layer, noise=0.05, seed=9):
    tensor = symmetrized(layer.to_tensor())
    error = white(*tensor.shape[:2], seed)
    return BilinearLayer.from_tensor(tensor + noise * float(tensor.norm() / error.norm()) * error)


TRUTH = layer_of(6, 10, 3)


@cache
def planted(rank=3, starts=3):
    """The noisy layer of three components, and its fit of this rank."""
    layer = noisy(TRUTH)
    return layer, CP(rank=rank, starts=starts)(layer)


def test_one_output_and_collinear_outputs_are_not_determined():
    one = noisy(layer_of(1, 9, 2))
    trust = component_trust(decompose(one, "cp", rank=2), one)
    assert trust.standard_error.isinf().all()
    assert any("one output" in flag for flag in trust.flags)
    truth = layer_of(6, 9, 3)
    collinear = noisy(replace(truth, down=truth.down[:, [0, 0, 2]]))
    trust = component_trust(decompose(collinear, "cp", rank=3, starts=2), collinear)
    assert sorted(word.split(",")[0] for word in trust.verdicts) == ["locally determined"] + ["undetermined"] * 2
    pattern = r"the output vectors of components (\d and \d(, )?)+ are collinear within their standard errors"
    assert any(re.fullmatch(pattern, flag) for flag in trust.flags)
    exact = result_of(
        [truth.down[:, [0, 0, 2]], torch.stack([truth.left, truth.right], 2).flatten(1)], ["free"] * 3, truth
    )
    residual = exact.to_layer()
    errors = component_trust(replace(exact, report=replace(exact.report, relative_error=None)), residual, noise=1.0)
    assert errors.standard_error.isinf().tolist() == [True, True, False]


def test_words_numbers_and_flags():
    layer, result = planted()
    runs = [CP(rank=3, start=TRUTH)(noisy(TRUTH, seed=seed)) for seed in (1, 2)]
    trust = component_trust(result, layer, runs)
    assert trust.verdicts == ("locally determined, agrees between starts, returns between seeds",) * 3
    assert trust.near_best == len(result.report.near_best) > 0
    near = [start.congruences for start in result.report.near_best]
    assert trust.start_agreement.tolist() == pytest.approx([min(column) for column in zip(*near, strict=True)])
    matched = torch.stack([match(result, run).congruence for run in runs]).mean(0)
    torch.testing.assert_close(trust.seed_agreement, matched)
    assert float(trust.seed_null.max()) < 0.5 < float(trust.seed_agreement.min())
    assert trust.records()[0]["verdict"] == trust.verdicts[0]
    assert "3 return between seeds" in repr(trust)
    stranger = layer_of(6, 10, 3, seed=5)
    other = component_trust(result, layer, [CP(rank=3, start=stranger)(noisy(stranger))])
    assert all(words.endswith("differs between seeds") for words in other.verdicts)
    alone = component_trust(CP(rank=3, start=TRUTH)(layer), layer)
    assert alone.start_agreement is None
    assert any("one start" in flag for flag in alone.flags)


def test_the_report_keeps_a_congruence_per_component_and_start(tmp_path):
    layer, result = planted()
    for start in result.report.starts:
        assert start.congruence == pytest.approx(sum(start.congruences) / 3)
    assert result.report.starts[0].congruences == pytest.approx((1, 1, 1))
    assert any(name == "starts" for name, _ in result.report.rows())
    trust = component_trust(result, layer)
    save(trust, tmp_path / "trust.safetensors")
    assert load(tmp_path / "trust.safetensors").verdicts == trust.verdicts


def test_a_report_without_congruences_of_the_components_says_so():
    layer, result = planted()
    starts = tuple(start._replace(congruences=()) for start in result.report.starts)
    trust = component_trust(replace(result, report=replace(result.report, starts=starts)), layer)
    assert trust.start_agreement is None
    assert "the report keeps no congruences of these components" in trust.flags


def test_one_component_has_no_chance_agreement():
    layer = layer_of(4, 6, 1)
    result = CP(rank=1)(layer)
    trust = component_trust(result, layer, [CP(rank=1, seed=1)(layer)])
    assert trust.seed_null is None
    assert trust.seed_agreement.tolist() == pytest.approx([1.0])


def test_blocks_of_starts_are_compared_as_blocks():
    """Within a block the vectors of a fit may be turned; as a matrix it is the same."""
    truth = decompose(layer_of(5, 9, 6), "block_term", blocks=2, rank=2).to_layer()
    layer = noisy(truth)
    result = BlockTerm(blocks=2, rank=2, starts=3)(layer)
    assert len(result.report.starts[0].congruences) == 2
    near = result.report.near_best
    assert near
    assert min(min(start.congruences) for start in near) > 0.99


def test_a_residual_with_structure_is_flagged_and_white_noise_is_not():
    for rank, expected in ((3, False), (2, True)):
        layer, result = planted(rank)
        assert any("not white" in flag for flag in component_trust(result, layer).flags) == expected


def test_congruences_are_in_the_order_of_the_result():
    """Three components and, as the fourth and smallest, one of noise, which each start finds elsewhere."""
    sizes = torch.tensor([1.0, 0.7, 0.5]).double()
    result = CP(rank=4, starts=4)(noisy(replace(TRUTH, down=TRUTH.down * sizes), seed=3))
    near = torch.tensor([start.congruences for start in result.report.near_best])
    assert float(near[:, 3].min()) < 0.9 < float(near[:, :3].min())


def test_a_lifted_layer_and_its_narrow_dtype_are_no_obstacle():
    lifted = lift(noisy(layer_of(4, 8, 2)))
    result = CP(rank=2)(lifted)
    wide = component_trust(result, lifted).standard_error
    narrow = component_trust(result.to(dtype=torch.float32), lifted.to(dtype=torch.float32)).standard_error
    # errors of 6e-8 in every number, and a condition of less than 1e3
    torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=0)


IN_METRIC = {
    "cp": CP(rank=2, starts=2),
    "symmetric_cp": SymmetricCP(rank=2),
    "block_term": BlockTerm(blocks=2, rank=2),
    "eigen": Eigen(rank=2),
}


@pytest.mark.parametrize(
    ("name", "lifted"),
    [("cp", True), ("symmetric_cp", False), ("block_term", False), ("eigen", False), ("eigen", True)],
)
def test_trust_in_a_metric_is_that_of_the_fit_to_the_whitened_layer(name, lifted):
    moments = Moments.of(normal(300, 8, seed=1) @ normal(8, 8, seed=2))
    layers = [noisy(layer_of(5, 8, 2), seed=seed) for seed in (9, 10)]
    layers = [lift(layer, left_bias=normal(8 * 5, seed=3)[: layer.rank]) if lifted else layer for layer in layers]
    layers = [layer.drop_constant() for layer in layers]
    metric = Metric.of(moments, ridge=0.1, lifted=lifted)
    found = [decompose(layer, Whitened(IN_METRIC[name], moments, 0.1)) for layer in layers]
    plain = [IN_METRIC[name](metric.whiten(layer)) for layer in layers]
    own = component_trust(found[0], layers[0], found[1:])
    expected = component_trust(plain[0], metric.whiten(layers[0]), plain[1:])
    # errors, noise and congruences are functions of fits that differ by what mapping back and forth rounds
    for field in ("standard_error", "noise", "seed_agreement", "seed_null"):
        torch.testing.assert_close(getattr(own, field), getattr(expected, field), rtol=1e-6, atol=1e-8)
    assert own.flags == expected.flags
    without = component_trust(IN_METRIC[name](layers[0]), layers[0])
    assert not torch.allclose(own.standard_error, without.standard_error, rtol=0.05)


LAYER = noisy(layer_of(4, 8, 2))
OTHER = noisy(layer_of(4, 8, 2, seed=5))
RESULT = CP(rank=2)(LAYER)
TUCKER = decompose(LAYER, "hosvd")
NO_FREEDOM = layer_of(2, 3, 6)
NARROW = layer_of(4, 7, 3)
RUN = CP(rank=2)(layer_of(5, 8, 4))
WIDE = layer_of(9, 60, 70)
BLOCKS = BlockTerm(blocks=9, rank=5, max_iterations=1)
SPECTRUM = decompose(layer_of(4, 8, 8), "eigen")
LOWER = replace(SPECTRUM, eigenvalues=SPECTRUM.eigenvalues[:, 2:4], eigenvectors=SPECTRUM.eigenvectors[:, :, 2:4])


def with_error(result, layer):
    """The result with a report by hand, which says its true error."""
    return replace(result, report=replace(result.report, relative_error=float(relative_error(result, layer))))


WRONG = {
    "no component": (
        lambda: component_trust(with_error(replace(RESULT, weights=0 * RESULT.weights), LAYER), LAYER),
        ValueError,
        "no component that is not zero",
    ),
    "lower eigenpairs": (
        lambda: component_trust(with_error(LOWER, layer_of(4, 8, 8)), layer_of(4, 8, 8)),
        ValueError,
        "holds no leading eigenvalues of this layer",
    ),
    "another result": (lambda: component_trust(TUCKER, LAYER), TypeError, "result must be a CPResult"),
    "another layer": (lambda: component_trust(RESULT, OTHER), ValueError, "of another layer"),
    "sizes": (lambda: component_trust(RESULT, NARROW), ValueError, "'in' has size 8 in result but 7 in layer"),
    "sizes of runs": (
        lambda: component_trust(RESULT, LAYER, [RUN]),
        ValueError,
        r"'out' has size 4 in result but 5 in runs\[0\]",
    ),
    "kind of runs": (lambda: component_trust(RESULT, LAYER, [Eigen()(LAYER)]), TypeError, r"runs\[0\] is a Spectral"),
    "no runs": (lambda: component_trust(RESULT, LAYER, []), ValueError, "runs is empty"),
    "no freedom": (
        lambda: component_trust(CP(rank=3)(NO_FREEDOM), NO_FREEDOM),
        ValueError,
        "18 free parameters for the 12 entries",
    ),
    "all eigenpairs": (lambda: component_trust(Eigen()(LAYER), LAYER), ValueError, "keeps 8 of 8 eigenpairs"),
    "priors": (
        lambda: component_trust(CP(rank=2, priors=[Smooth((2, 4), 10.0)], max_iterations=100)(LAYER), LAYER),
        ValueError,
        "no least-squares fit of the layer",
    ),
    "NaN": (lambda: component_trust(RESULT, LAYER, noise=math.nan), ValueError, "noise must be finite"),
    "large blocks": (lambda: component_trust(BLOCKS(WIDE), WIDE), ValueError, "more than 2000 for block terms"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_has_no_standard_error_is_refused(case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call()


def test_a_fit_that_one_more_step_would_improve_is_flagged():
    layer = noisy(layer_of(6, 9, 3))
    fitted = decompose(layer, "cp", rank=3, starts=1)
    said = "the fit has not converged: one more step would take "
    assert not any(flag.startswith(said) for flag in component_trust(fitted, layer).flags)
    error, moved = fitted.relative_error, torch.ones_like(fitted.outputs)
    moved *= fitted.outputs.norm() / moved.norm()
    # moving a sum of unit terms by this share of it adds about 4 % to the squared error
    other = fitted.report.unmeasured("moved")
    result = replace(fitted, outputs=fitted.outputs + 0.2 * error * moved, report=other)
    (flag,) = [flag for flag in component_trust(result, layer).flags if flag.startswith(said)]
    assert 1 < float(flag.removeprefix(said).split("%")[0]) < 10
