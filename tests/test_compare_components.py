"""Components are paired up to order, sign, scale and swap; what is planted is found again."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch

from tensornet_interp import BilinearLayer, CPResult, Moments, Report, SpectralResult, decompose, lift, load, save
from tensornet_interp.compare import match, stability
from tensornet_interp.metric import Metric
from tensornet_interp.testing import random_layer

ORDER = [3, 0, 4, 1, 2]


def result_of(layer):
    """A CPResult of the layer's own columns."""
    weights = torch.ones_like(layer.down[0])
    fields = {"outputs": layer.down, "left": layer.left, "right": layer.right}
    for name, factor in fields.items():
        norms = factor.norm(dim=0)
        fields[name], weights = factor / norms, weights * norms
    return CPResult(report=Report.of(layer, "columns", 0.0), weights=weights, **fields)


def shuffled(layer):
    """The same components in another order, with other signs and scales, two of them swapped."""
    scale = torch.tensor([2.0, -0.5, -3, 1, -1], dtype=layer.down.dtype, device=layer.down.device)
    down, left, right = layer.down * scale, -layer.left, -layer.right * 7
    swap = torch.tensor([True, False, True, False, False], device=layer.down.device)
    left, right = torch.where(swap, right, left), torch.where(swap, left, right)
    return BilinearLayer(down=down[:, ORDER], left=left[:, ORDER], right=right[:, ORDER])


@pytest.mark.parametrize("wrap", [result_of, lambda layer: layer], ids=["result", "layer"])
def test_order_sign_scale_and_swap_are_undone(wrap, device):
    layer = random_layer(4, 7, 5, seed=0, device=device)
    other = shuffled(layer)
    matching = match(wrap(layer), wrap(other))
    assert matching.pairs == tuple((i, ORDER.index(i)) for i in range(5))
    torch.testing.assert_close(matching.congruence, torch.ones(5, dtype=torch.float64, device=device))
    assert matching.mean == pytest.approx(1)
    mine, aligned = result_of(layer), matching.aligned
    for factor in ("outputs", "left", "right"):
        torch.testing.assert_close(getattr(aligned, factor), getattr(mine, factor))
    scales = torch.tensor([14.0, -3.5, -21, 7, -7], dtype=torch.float64, device=device)
    torch.testing.assert_close(aligned.weights, mine.weights * scales)
    # a swap transposes: the symmetrized tensor, hence the function, is that of `other`
    dense, expected = aligned.to_tensor(), other.to_tensor()
    torch.testing.assert_close(dense + dense.mT, expected + expected.mT)


def test_congruence_is_the_formula_and_the_pairs_are_the_best():
    a, b = random_layer(3, 4, 4, seed=0), random_layer(3, 4, 5, seed=1)
    matching = match(a, b)

    def unit(column):
        return column / column.norm()

    for i in range(4):
        for j in range(5):
            c, left, right = (unit(f[:, i]) for f in (a.down, a.left, a.right))
            c2, left2, right2 = (unit(f[:, j]) for f in (b.down, b.left, b.right))
            straight, crossed = (left @ left2) * (right @ right2), (left @ right2) * (right @ left2)
            expected = abs(c @ c2) * max(abs(straight), abs(crossed))
            assert float(matching.matrix[i, j]) == pytest.approx(float(expected), abs=1e-14)
    best = max(
        sum(float(matching.matrix[i, j]) for i, j in enumerate(columns)) for columns in permutations(range(5), 4)
    )
    assert float(matching.congruence.sum()) == pytest.approx(best)
    greedy = float(matching.matrix.max(1).values.sum())
    assert best < greedy - 1e-3  # rows want the same column: choosing one by one would not do
    one_back = match(b, a)
    assert sorted((j, i) for i, j in one_back.pairs) == list(matching.pairs)


@pytest.mark.parametrize(("ranks", "pairs"), [((3, 5), 3), ((5, 3), 3)])
def test_ranks_may_differ_and_nothing_is_lost(ranks, pairs):
    a, b = (random_layer(4, 6, 5, seed=0) for _ in range(2))
    a, b = (
        replace(layer, down=layer.down[:, :rank], left=layer.left[:, :rank], right=layer.right[:, :rank])
        for layer, rank in zip((a, b), ranks, strict=True)
    )
    matching = match(a, b)
    assert matching.pairs == tuple((i, i) for i in range(pairs))
    assert matching.matrix.shape == ranks
    torch.testing.assert_close(matching.aligned.to_tensor(), b.to_tensor())


def test_spectral_components_are_eigenpairs(device):
    layer = random_layer(3, 6, 4, seed=0, device=device)
    result = decompose(layer, "eigen", rank=2)
    flipped = replace(result, eigenvectors=-result.eigenvectors.flip(0), eigenvalues=result.eigenvalues.flip(0))
    flipped = replace(flipped, outputs=result.outputs.flip(1), directions=None)
    matching = match(result, flipped)
    assert matching.pairs == ((0, 4), (1, 5), (2, 2), (3, 3), (4, 0), (5, 1))
    assert float(matching.congruence.min()) == pytest.approx(1)
    assert matching.aligned.report.method.endswith(", aligned")
    torch.testing.assert_close(matching.aligned.left, result.to_layer().left)


def blocks(seed, degenerate=False):
    """Blocks of rank 2 with orthonormal eigenvectors."""
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(3, 6, 2, generator=draw, dtype=torch.float64)).Q
    values = torch.ones(3, 2) if degenerate else torch.tensor([[3.0, -1], [2, 1], [-1, 0]])
    outputs = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    report = Report.of(random_layer(4, 6, 2, seed=0), "blocks", 0.0)
    return SpectralResult(report=report, outputs=outputs, eigenvalues=values.double(), eigenvectors=vectors)


def test_blocks_are_compared_as_matrices():
    a = blocks(0, degenerate=True)
    angle = torch.tensor(0.7).double()
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    order = [2, 0, 1]
    b = replace(a, outputs=-3 * a.outputs[:, order], eigenvectors=(a.eigenvectors @ turn)[order])
    whole = match(a, b, blocks=True)
    assert whole.pairs == ((0, 1), (1, 2), (2, 0))
    assert float(whole.congruence.min()) == pytest.approx(1)
    # the eigenvectors themselves are not defined where eigenvalues are equal
    assert match(a, b).mean < 0.9
    torch.testing.assert_close(whole.aligned.outputs, 3 * a.outputs)
    torch.testing.assert_close(whole.aligned.to_tensor(), b.to_tensor())


def test_block_congruence_is_the_cosine_of_dense_blocks():
    a, b = blocks(1), blocks(2)
    # not orthonormal, as block terms of a user may be
    b = replace(b, eigenvectors=b.eigenvectors + 0.3 * b.eigenvectors.flip(2))
    matrix = match(a, b, blocks=True).matrix
    for i in range(3):
        for j in range(3):
            dense = [
                torch.einsum("o,r,ir,jr->oij", part.outputs[:, k], part.eigenvalues[k], *2 * [part.eigenvectors[k]])
                for part, k in ((a, i), (b, j))
            ]
            cosine = (dense[0] * dense[1]).sum() / (dense[0].norm() * dense[1].norm())
            assert float(matrix[i, j]) == pytest.approx(abs(float(cosine)), abs=1e-14)


def test_a_zero_component_is_like_nothing():
    layer = random_layer(3, 5, 2, seed=0)
    empty = replace(layer, down=layer.down * torch.tensor([1.0, 0.0]).double())
    matching = match(layer, empty)
    assert matching.congruence.tolist() == pytest.approx([1, 0])
    assert torch.isfinite(matching.aligned.to_tensor()).all()


def test_dtype_is_kept_and_gradients_are_no_obstacle():
    layer = random_layer(3, 5, 2, seed=0, dtype=torch.float32)
    layer.down.requires_grad_(True)
    matching = match(layer, layer)
    assert matching.aligned.outputs.dtype == torch.float32
    assert matching.congruence.dtype == torch.float64
    assert not matching.matrix.requires_grad


def test_stability_counts_distinct_pairs_only():
    planted = random_layer(4, 7, 5, seed=0)
    stranger = random_layer(4, 7, 5, seed=1)
    mixed = stability([planted, shuffled(planted), stranger])
    foreign = match(planted, stranger).mean
    assert mixed.matrix.diagonal().isnan().all()
    torch.testing.assert_close(mixed.matrix[0, 1], torch.tensor(1.0).double())
    assert mixed.mean == pytest.approx((1 + 2 * foreign) / 3)
    per_component = (1 + match(planted, stranger).congruence) / 2
    torch.testing.assert_close(mixed.components[0], per_component)
    assert stability([planted, stranger]).mean == pytest.approx(foreign)
    same = stability([blocks(0), blocks(0)], blocks=True)
    assert same.components[0].tolist() == pytest.approx([1, 1, 1])
    assert repr(same) == "Stability(2 fits, mean congruence 1.0000)"


def test_parts_on_two_devices_are_refused():
    layer = random_layer(4, 7, 5, seed=0)
    with pytest.raises(ValueError, match="tensors must share one device; got a cpu, b meta"):
        match(layer, layer.to("meta"))


def test_a_component_without_a_partner_is_not_stable():
    layer = random_layer(4, 7, 3, seed=0)
    fewer = replace(layer, down=layer.down[:, :2], left=layer.left[:, :2], right=layer.right[:, :2])
    assert stability([layer, fewer]).components[0].tolist() == pytest.approx([1, 1, 0])


def test_the_null_of_stability_keeps_vectors_but_not_which_belong_together(tmp_path):
    planted = random_layer(4, 7, 5, seed=0)
    fits = [planted, shuffled(planted), shuffled(planted)]
    found = stability(fits, controls=5)
    assert found.mean == pytest.approx(1)
    assert found.null.mean < 0.5
    assert found.null.null is None
    assert found.null.mean == pytest.approx(float(torch.stack(found.null.components).mean()))
    assert torch.equal(stability(fits, controls=5).null.matrix[0, 1], found.null.matrix[0, 1])
    assert not torch.equal(stability(fits, controls=5, seed=1).null.matrix[0, 1], found.null.matrix[0, 1])
    assert (stability(fits).null, stability(fits).records()[0]["null"]) == (None, None)
    row = found.records()[6]
    values = {"congruence": found.components[1], "null": found.null.components[1]}
    assert row == {"fit": 1, "component": 1} | {name: float(value[1]) for name, value in values.items()}
    save(found, tmp_path / "kept.safetensors")
    assert torch.equal(load(tmp_path / "kept.safetensors").null.components[2], found.null.components[2])
    # one output direction and left = right: what a null exchanges is the same everywhere
    eye, ones = torch.eye(5, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64)
    same = stability([BilinearLayer(down=ones, left=eye, right=eye)] * 2, controls=2)
    assert (same.mean, same.null.mean) == pytest.approx((1, 1))


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("method", ["eigen", "cp", "hosvd"])
def test_stability_and_its_null_in_a_metric(method, lifted):
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = Moments.of(x * torch.tensor([5, 3, 1, 0.5, 0.1]).double())
    metric = Metric.of(moments, ridge=1e-2, lifted=lifted)
    layers = [random_layer(3, 5, 6, seed=seed) for seed in range(2)]
    layers = [lift(layer, bias=torch.ones(3).double()) if lifted else layer for layer in layers]
    fits = [metric.whiten(decompose(layer, method, moments=moments)) for layer in layers]
    found = stability(fits, blocks=method == "eigen", controls=2)
    assert found.mean == pytest.approx(match(*fits, blocks=method == "eigen").mean)
    assert 0 < found.null.mean < 1


LAYER = random_layer(3, 5, 4, seed=0)
WRONG = {
    "outputs": (lambda: match(LAYER, random_layer(4, 5, 4, seed=0)), ValueError, "'out' has size 3 in a but 4 in b"),
    "inputs": (lambda: match(LAYER, random_layer(3, 6, 4, seed=0)), ValueError, "'in' has size 5 in a but 6 in b"),
    "one is lifted": (lambda: match(LAYER, lift(random_layer(2, 4, 4, seed=0))), ValueError, "constant coordinate"),
    "a tensor": (lambda: match(LAYER, LAYER.down), TypeError, "got Tensor"),
    "no bool": (lambda: match(LAYER, LAYER, blocks="yes"), TypeError, "blocks must be True or False"),
    "blocks of a layer": (lambda: match(LAYER, LAYER, blocks=True), TypeError, "compares SpectralResults"),
    "a null of one component": (
        lambda: stability([random_layer(3, 5, 1, seed=0)] * 2, controls=1),
        ValueError,
        "recombines at least 2",
    ),
    "fewer than no controls": (lambda: stability([LAYER, LAYER], controls=-1), ValueError, "controls must be at least"),
    "one fit": (lambda: stability([LAYER]), ValueError, "at least 2 results, got 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_compared_is_refused(case):
    call, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        call()


def test_a_vector_that_is_orthogonal_to_its_partner_keeps_its_sign():
    first, second = torch.eye(3, dtype=torch.float64)[:, :2].split(1, 1)
    one = torch.ones(1, dtype=torch.float64)
    a = CPResult(
        weights=one, outputs=first, left=first, right=first, report=Report.of(random_layer(3, 3, 1, seed=0), "a")
    )
    b = replace(a, outputs=second)
    assert torch.equal(match(a, b).aligned.outputs, second)
