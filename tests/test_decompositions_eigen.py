"""Eigendecompositions are those of the dense interaction matrices, and say how exact they are."""

import itertools
import math

import pytest
import torch
from helpers import dense, layer_of, normal

from tensornet_interp import BilinearLayer, decompose, lift, relative_error
from tensornet_interp.decompositions import Eigen
from tensornet_interp.decompositions.eigen import eigen_flops

SIZES = [(23, 7, 5), (7, 23, 5), (19, 19, 3), (1, 3, 2)]  # (d, H, K); the first takes the thin way


EXACT = 1e-10  # of the largest magnitude: eigh is backward stable to about size * eps = 1e-14


def dense_of_fields(result):
    """What the fields say in float64: `to_layer` multiplies two of them, and rounds once more in narrow dtypes."""
    data = (result.outputs, result.eigenvalues, result.eigenvectors, result.eigenvectors)
    return torch.einsum("ob,br,bir,bjr->oij", *(part.to(torch.float64) for part in data))


def fields_error(result, layer):
    return float((dense_of_fields(result) - dense(layer)).norm() / dense(layer).norm())


def by_magnitude(values, count):
    order = values.abs().argsort(dim=-1, descending=True)
    return values.gather(-1, order)[..., :count]


def directions_of(kind, k, device="cpu", dtype=torch.float64):
    if kind == "default":
        return None
    if kind == "overcomplete":
        return normal(k + 3, k, seed=71, device=device, dtype=dtype)
    if kind == "dependent":  # k + 2 rows that span all outputs, two of them repeated
        rows = normal(k, k, seed=72, device=device, dtype=dtype)
        return torch.cat([rows, rows[:1], 2 * rows[:1]])
    if kind == "rotation":
        return torch.linalg.qr(normal(k, k, seed=73, device=device)).Q.to(dtype)
    raise AssertionError(kind)


KINDS = ["default", "overcomplete", "dependent", "rotation"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("d", "hidden", "k"), SIZES)
def test_eigenpairs_are_those_of_the_dense_matrices(d, hidden, k, kind, device):
    layer, directions = layer_of(k, d, hidden, 1, device=device), directions_of(kind, k, device)
    result = decompose(layer, "eigen", directions=directions)
    used = torch.eye(k, dtype=torch.float64, device=device) if directions is None else directions
    matrices = torch.einsum("bo,oij->bij", used, dense(layer))
    full = min(d, 2 * hidden)
    reference = by_magnitude(torch.linalg.eigvalsh(matrices), full)
    largest = reference.abs().max()
    assert result.eigenvalues.shape == (len(used), full)
    assert (result.eigenvalues - reference).abs().max() <= EXACT * largest
    rebuilt = torch.einsum("br,bir,bjr->bij", result.eigenvalues, result.eigenvectors, result.eigenvectors)
    assert (rebuilt - matrices).abs().max() <= EXACT * largest
    gram = result.eigenvectors.mT @ result.eigenvectors
    assert (gram - torch.eye(full, dtype=torch.float64, device=device)).abs().max() <= EXACT
    assert (result.to_tensor() - dense(layer)).abs().max() <= EXACT * dense(layer).abs().max()
    assert (result.to_layer().to_tensor() - dense(layer)).abs().max() <= EXACT * dense(layer).abs().max()
    assert torch.equal(result.directions, used)
    assert result.relative_error <= EXACT
    x = normal(6, d, seed=9, device=device)
    assert (result(x) - layer(x)).abs().max() <= EXACT * layer(x).abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(("d", "hidden", "k"), SIZES[:3])
def test_relative_error_is_the_dense_one(d, hidden, k, rank, kind, device):
    layer = layer_of(k, d, hidden, 1, device=device)
    result = decompose(layer, "eigen", directions=directions_of(kind, k, device), rank=rank)
    assert result.rank == rank
    assert result.relative_error == pytest.approx(fields_error(result, layer), rel=EXACT)
    assert result.relative_error == pytest.approx(relative_error(result, layer), rel=EXACT)
    assert result.relative_error > 0.01  # a random spectrum is not of that rank


def test_truncation_of_one_output_is_the_best_approximation():
    layer = layer_of(1, 7, 5, 1)
    values = torch.linalg.eigvalsh(dense(layer)[0])
    left_out = by_magnitude(values, 7)[2:].norm() / values.norm()
    assert decompose(layer, "eigen", rank=2).relative_error == pytest.approx(float(left_out), rel=EXACT)


@pytest.mark.parametrize("orthonormal", [True, False])
def test_directions_that_miss_outputs_say_so(orthonormal, device):
    layer = layer_of(4, 7, 6, 1, device=device)
    directions = normal(2, 4, seed=74, device=device)
    if orthonormal:
        directions = torch.linalg.qr(directions.T).Q.T
    result = decompose(layer, "eigen", directions=directions)
    projector = torch.linalg.pinv(directions) @ directions
    projected = torch.einsum("po,oij->pij", projector, dense(layer))
    assert (dense_of_fields(result) - projected).abs().max() <= EXACT * projected.abs().max()
    assert result.relative_error == pytest.approx(fields_error(result, layer), rel=EXACT)


@pytest.mark.parametrize("scale", [1 + 4e-6, 1 - 1e-9, 3.0])
def test_directions_need_not_have_unit_length(scale, device):
    layer = layer_of(4, 7, 6, 1, device=device)
    directions = scale * torch.eye(4, dtype=torch.float64, device=device)
    result = decompose(layer, "eigen", directions=directions)
    assert (dense_of_fields(result) - dense(layer)).abs().max() <= EXACT * dense(layer).abs().max()
    assert result.relative_error == pytest.approx(fields_error(result, layer), abs=EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("d", "hidden", "k"), SIZES)
def test_low_precision_layers_lose_only_the_rounding_of_the_result(d, hidden, k, kind, dtype, device):
    layer = layer_of(k, d, hidden, 1, device=device, dtype=dtype)
    directions = directions_of(kind, k, device, dtype)
    result = decompose(layer, "eigen", directions=directions)
    for part in (result.eigenvalues, result.eigenvectors, result.outputs, result.directions):
        assert part.dtype == dtype
    eps = torch.finfo(dtype).eps
    used = torch.eye(k, dtype=dtype, device=device) if directions is None else directions
    matrices = torch.einsum("bo,oij->bij", used.to(torch.float64), dense(layer))
    reference = by_magnitude(torch.linalg.eigvalsh(matrices), result.rank)
    error = (result.eigenvalues.to(torch.float64).abs() - reference.abs()).abs()
    assert error.max() <= eps / 2 * reference.abs().max() * (1 + 1e-6)  # one rounding, nothing else
    # rounded columns: each of two factors moves by at most eps / 2 a column, eigenvalues and outputs by eps / 2 each,
    # and the pseudoinverse may amplify the sum over blocks by its condition number
    condition = float(torch.linalg.cond(used.to(torch.float64)))
    bound = eps / 2 * (2 * math.sqrt(result.rank) + 2) * (1 + eps) ** 3 * max(condition, 1) * math.sqrt(len(used))
    assert fields_error(result, layer) <= bound
    # the field is what the rounded result really misses
    assert result.relative_error == pytest.approx(fields_error(result, layer), rel=1e-6)


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_contributions_sum_to_the_output(kind, lifted, device):
    layer = layer_of(4, 7, 6, 1, device=device)
    k = 4
    if lifted:
        layer, k = lift(layer, bias=normal(4, seed=5, device=device)), 5
    result = decompose(layer, "eigen", directions=directions_of(kind, k, device), rank=3)
    x1, x2 = normal(2, 3, 7, seed=8, device=device), normal(2, 3, 7, seed=9, device=device)
    parts = result.contributions(x1)
    assert parts.shape == (2, 3, 4, *result.eigenvalues.shape)
    assert (parts.sum((-1, -2)) - result(x1)).abs().max() <= EXACT * result(x1).abs().max()
    both = result.contributions(x1, x2).sum((-1, -2))
    assert (both - result(x1, x2)).abs().max() <= EXACT * result(x1, x2).abs().max()
    activations = result.activations(x1)
    summed = torch.einsum("ob,xybr->xyo", result.outputs, activations)[..., int(lifted) :]
    assert (summed - result(x1)).abs().max() <= EXACT * result(x1).abs().max()


@pytest.mark.parametrize("rank", [None, 4])
def test_a_lifted_layer_is_decomposed_with_its_constant(rank, device):
    plain = layer_of(4, 4, 6, 1, device=device)
    biases = {
        "left_bias": normal(6, seed=5, device=device),
        "right_bias": normal(6, seed=6, device=device),
        "bias": normal(4, seed=7, device=device),
    }
    layer = lift(plain, **biases, residual=0.5)
    result = decompose(layer, "eigen", rank=rank)
    assert result.sizes == {"out": 5, "in1": 5, "in2": 5}
    assert (result.constant_in, result.constant_out) == (True, True)
    assert result.relative_error == pytest.approx(fields_error(result, layer), rel=EXACT, abs=EXACT)
    x = normal(6, 4, seed=9, device=device)
    assert result(x).shape == (6, 4)
    if rank is None:
        assert (result(x) - layer(x)).abs().max() <= EXACT * layer(x).abs().max()


def test_a_wide_lifted_layer_takes_the_thin_way(device):
    layer = lift(layer_of(2, 30, 3, 1, device=device), left_bias=normal(3, seed=5, device=device)).drop_constant()
    result = decompose(layer, "eigen")
    assert result.rank == 2 * layer.rank < 31
    x = normal(6, 30, seed=9, device=device)
    assert (result(x) - layer(x)).abs().max() <= EXACT * layer(x).abs().max()


@pytest.mark.parametrize(("d", "hidden", "k"), SIZES)
def test_largest_entry_of_an_eigenvector_is_positive(d, hidden, k, device):
    vectors = decompose(layer_of(k, d, hidden, 1, device=device), "eigen").eigenvectors
    at = vectors.abs().argmax(dim=1, keepdim=True)
    assert (vectors.gather(1, at) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_truncating_later_is_truncating_at_once(kind, device):
    layer, directions = layer_of(4, 7, 6, 1, device=device), directions_of(kind, 4, device)
    full = decompose(layer, "eigen", directions=directions)
    later, once = full.truncate(3), decompose(layer, "eigen", directions=directions, rank=3)
    assert torch.equal(later.eigenvalues, once.eigenvalues)
    assert torch.equal(later.eigenvectors, once.eigenvectors)
    assert later.relative_error is None
    assert relative_error(later, layer) == pytest.approx(once.relative_error, rel=EXACT)
    assert full.rank == 7
    with pytest.raises(ValueError, match="from 1 to 7"):
        full.truncate(8)


def test_thin_way_is_chosen_only_where_it_can_save():
    chosen = set()
    for d, hidden, blocks in itertools.product([1, 2, 5, 16, 64, 784], [1, 3, 8, 31, 32, 33, 256], [1, 10, 1000]):
        flops = eigen_flops(d, hidden, blocks)
        thin = flops["thin"] < flops["dense"]
        chosen.add(thin)
        assert not thin or 2 * hidden < d
    assert chosen == {True, False}
    wide = eigen_flops(784, 32, 10)
    assert wide["thin"] < wide["dense"] / 10


@pytest.mark.parametrize(("d", "hidden", "k"), [(7, 2, 3), (3, 5, 2)], ids=["thin", "dense"])
def test_eigenvalues_are_differentiable(d, hidden, k, device):
    weights = [part.requires_grad_() for part, _ in layer_of(k, d, hidden, 1, device=device).terms()]

    def eigenvalues(down, left, right):
        return Eigen()(BilinearLayer(down=down, left=left, right=right)).eigenvalues

    assert torch.autograd.gradcheck(eigenvalues, weights)


def test_a_zero_layer_has_zero_eigenvalues():
    layer = layer_of(4, 7, 6, 1)
    result = decompose(BilinearLayer(down=0 * layer.down, left=layer.left, right=layer.right), "eigen")
    assert (result.eigenvalues == 0).all()
    assert result.relative_error == 0
    assert [len(group.indices) for group in result.groups(0)] == [7]


def test_the_report_says_what_was_done():
    layer = layer_of(4, 7, 6, 1, name="it").change_basis(normal(7, 5, seed=1), basis="pixels")
    report = decompose(layer, "eigen", rank=2).report
    assert (report.layer, report.basis) == ("it", "pixels")
    assert "rank=2" in report.method
    assert "torch" in report.versions


def test_the_ladder_ends_exact_and_never_rises():
    layer = layer_of(4, 7, 6, 1)
    errors = [step(layer).relative_error for step in Eigen.ladder(layer)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= EXACT


def test_arguments_are_checked():
    layer = layer_of(4, 7, 2, 1)
    with pytest.raises(ValueError, match=r"rank must be from 1 to 4 .*2 hidden=4"):
        decompose(layer, "eigen", rank=5)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        decompose(layer, "eigen", rank=0)
    with pytest.raises(ValueError, match="mode 'out' has size 4 in layer but 5 in directions"):
        decompose(layer, "eigen", directions=normal(2, 5, seed=1))
    with pytest.raises(ValueError, match="dtype"):
        decompose(layer, "eigen", directions=normal(2, 4, seed=1).float())
    with pytest.raises(TypeError, match=r"has no option 'rnk'.*did you mean 'rank'"):
        decompose(layer, "eigen", rnk=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_dependent_directions_of_low_precision_project(dtype):
    """Six directions in a plane, dependent to the rounding of their dtype alone: the result is the projection."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    layer = BilinearLayer.from_cp((None, [draw(4, 5).to(dtype) for _ in range(3)]))
    plane = draw(2, 4)
    result = decompose(layer, "eigen", directions=(draw(6, 2) @ plane).to(dtype))
    whole = layer.to(dtype=torch.float64).symmetrize().to_tensor()
    expected = torch.einsum("ok,kij->oij", torch.linalg.pinv(plane) @ plane, whole)
    # rounding of directions, outputs and eigenvectors, each amplified by the conditioning of six vectors in a plane
    worst = float((result.to_tensor().double() - expected).abs().max() / whole.abs().max())
    assert worst < 100 * torch.finfo(dtype).eps
    assert result.relative_error < 1
