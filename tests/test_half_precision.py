"""What is computed from a bfloat16 or float16 layer is what is computed from the same weights in float64."""

import pytest
import torch

from tensornet_interp import BilinearLayer, BilinearNetwork, decompose, odt, relative_error
from tensornet_interp.adversarial import adversarial_masks, orient, top_positive
from tensornet_interp.attention import (
    AttentionLayer,
)
from tensornet_interp.circuits import circuit
from tensornet_interp.compare import match, ordered_similarity
from tensornet_interp.features import (
    Dictionary,
    circuit_tests,
    feature_interactions,
    low_rank_correlation,
    overlap,
    projections,
    rank_by_structure,
)
from tensornet_interp.fidelity import refit
from tensornet_interp.inner_products import norm, output_similarity, similarity
from tensornet_interp.moments import Moments
from tensornet_interp.spectra import spectra

HALF = [torch.bfloat16, torch.float16]
BASIS = "stream after the norm"
pytestmark = pytest.mark.parametrize("dtype", HALF, ids=str)


def draw(*size, seed, dtype=torch.float64):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def narrow(n_out, n_in, hidden, dtype, seed=0):
    """A layer whose weights were rounded to the dtype, scaled as trained ones are."""
    left, right = (draw(n_in, hidden, seed=10 * seed + at) / n_in**0.5 for at in (1, 2))
    down = draw(n_out, hidden, seed=10 * seed) / hidden**0.5
    return BilinearLayer(down=down.to(dtype), left=left.to(dtype), right=right.to(dtype))


def widened(layer):
    return layer.to(dtype=torch.float64)


def close(found, truth, dtype, factor=1.0):
    """Equal up to rounding to the dtype, each number by itself and beside the largest."""
    found, truth = (torch.as_tensor(part).double() for part in (found, truth))
    eps = factor * torch.finfo(dtype).eps
    torch.testing.assert_close(found, truth, rtol=eps, atol=eps * float(truth.abs().max()), equal_nan=True)


def same(found, truth):
    """Equal: float64 numbers of the same weights, but for the rounding of float64."""
    close(found, truth, torch.float64, 1e5)


def test_a_circuit_of_two_layers_is_complete(dtype):
    network = BilinearNetwork([narrow(6, 64, 5, dtype), narrow(4, 6, 5, dtype, 1)])
    wide = network.to(dtype=torch.float64)
    direction, x = draw(4, seed=7, dtype=dtype), draw(20, 64, seed=8, dtype=dtype)
    for inputs in (None, x):
        tree = circuit(network, direction, widths=None, x=inputs)
        truth = circuit(wide, direction.double(), widths=None, x=None if inputs is None else x.double())
        assert [len(level) for level in tree.levels] == [len(level) for level in truth.levels]
        close(tree.levels[0].eigenvalues, truth.levels[0].eigenvalues, dtype)
        close(tree.levels[0].scores, truth.levels[0].scores, dtype)
        assert tree.relative_error(x) < 10 * torch.finfo(dtype).eps
        assert truth.relative_error(x.double()) < 1e-12


@pytest.mark.parametrize("method", ["krylov", "dense"])
def test_spectra_and_their_result(dtype, method):
    layer, directions = narrow(32, 64, 48, dtype), draw(40, 32, seed=5, dtype=dtype)
    found = spectra(layer, directions, k=3, method=method, progress=False)
    truth = spectra(widened(layer), directions.double(), k=3, method="dense", progress=False)
    off = (found.eigenvalues.double() - truth.eigenvalues).abs()
    assert (off <= found.bounds + 1e-12).all()
    assert (found.bounds <= 1.001e-3 * truth.eigenvalues.abs() + torch.finfo(dtype).eps * truth.eigenvalues.abs()).all()
    assert found.proven.all()
    error = relative_error(found.to_result(), layer)
    assert error == pytest.approx(relative_error(truth.to_result(), layer), abs=0.05 if method == "krylov" else 0.02)
    exact = spectra(layer, directions, k=64, method="dense", progress=False).to_result()
    assert relative_error(exact, layer) < 5 * torch.finfo(dtype).eps


def test_eigenvalues_are_in_groups_only_if_rounding_can_make_them_equal(dtype):
    """Eigenvalues 1.5^-i are far apart; of three pairs of equal ones the pairs stay together."""
    basis = torch.linalg.qr(draw(64, 64, seed=1)).Q.to(dtype)
    values = 1.2 ** -torch.arange(64.0, dtype=torch.float64)
    layer = BilinearLayer(down=values[None].to(dtype), left=basis, right=basis)
    result = decompose(layer, "eigen")
    sizes = [len(group.indices) for group in result.groups(0)]
    wide = [len(group.indices) for group in decompose(widened(layer), "eigen").groups(0)]
    assert sizes[:15] == wide[:15] == [1] * 15
    values = torch.tensor([1.0, 1.0, 0.5, 0.5, -0.25, -0.25], dtype=dtype)
    layer = BilinearLayer(down=values[None], left=basis[:, :6], right=basis[:, :6])
    assert [len(group.indices) for group in decompose(layer, "eigen").groups(0)][:3] == [2, 2, 2]


@pytest.mark.parametrize("by", ["positive", "negative", "magnitude"])
def test_runs_are_compared(dtype, by):
    runs = [narrow(5, 64, 48, dtype, seed) for seed in range(3)]
    found = ordered_similarity([decompose(run, "eigen") for run in runs], by, 3)
    truth = ordered_similarity([decompose(widened(run), "eigen") for run in runs], by, 3)
    assert not found.values.isnan().any()
    # shares of the largest eigenvalue, each the difference of two that were rounded, and so is the largest
    assert ((found.gaps - truth.gaps).abs() <= 1.5 * torch.finfo(dtype).eps).all()
    clear = ~(found.degenerate.any(0) | (found.gaps < 0.03).any(0))  # elsewhere rounding may swap two places
    assert clear.any()
    for at in range(3):
        close(found.values[at][clear], truth.values[at][clear], dtype, 3)
    assert torch.isfinite(found.subspaces).all()


def test_masks_move_one_eigenvector_each(dtype):
    result = decompose(narrow(10, 256, 32, dtype), "eigen")
    vectors = orient(top_positive(result, 4))
    masks = adversarial_masks(vectors)
    truth = adversarial_masks(vectors.double())
    close(masks, truth, dtype)
    products = masks.double().flatten(0, 1) @ vectors.double().flatten(0, 1).T
    assert (products - torch.eye(40)).abs().max() < 20 * torch.finfo(dtype).eps


def test_directions_and_their_spans(dtype):
    layer = narrow(32, 64, 48, dtype)
    a, b = draw(5, 32, seed=1, dtype=dtype), draw(7, 32, seed=2, dtype=dtype)
    same(overlap(a, b).cosines, overlap(a.double(), b.double()).cosines)
    vectors = draw(64, 6, seed=3, dtype=dtype)
    basis = decompose(layer, "eigen", rank=5).eigenvectors[0]
    found, truth = projections(vectors, basis), projections(vectors.double(), basis.double())
    for part, expected in zip(found, truth, strict=True):
        same(part, expected)
    square = draw(32, 32, seed=4, dtype=dtype)
    found, truth = (decompose(part, "eigen", directions=square.to(part.down)) for part in (layer, widened(layer)))
    close(found.eigenvalues, truth.eigenvalues, dtype)


def test_features_by_their_eigenpairs(dtype):
    layer, directions = narrow(32, 64, 48, dtype), draw(5, 32, seed=1, dtype=dtype)
    x, decoder = draw(50, 64, seed=2, dtype=dtype), draw(64, 9, seed=3, dtype=dtype)
    for name in ("share", "first", "second", "norm", "effective_rank"):
        found, truth = (
            torch.tensor([row[name] for row in rank_by_structure(part, directions.to(part.down))], dtype=torch.float64)
            for part in (layer, widened(layer))
        )
        same(found, truth)
    found, truth = (
        low_rank_correlation(part, directions.to(part.down), x.to(part.down), (1, 4, 64), basis=BASIS)
        for part in (layer, widened(layer))
    )
    for name in ("correlation", "active_correlation", "active"):
        same(*(torch.tensor([row[name] for row in rows], dtype=torch.float64) for rows in (found, truth)))
    found, truth = (
        feature_interactions(part, directions[0].to(part.down), decoder.to(part.down), basis=BASIS)
        for part in (layer, widened(layer))
    )
    same(found.block(range(9), range(9)), truth.block(range(9), range(9)))


def test_circuits_of_features_are_tested(dtype):
    layer = narrow(8, 16, 12, dtype)
    inputs = Dictionary(draw(20, 16, seed=1, dtype=dtype), draw(16, 20, seed=2, dtype=dtype))
    outputs = Dictionary(draw(6, 8, seed=3, dtype=dtype), draw(8, 6, seed=4, dtype=dtype))
    x = draw(200, 16, seed=5, dtype=dtype)
    active = (widened(layer)(x.double()) @ outputs.encoder[0].double()) > 0.1
    x, window = x[active], torch.arange(int(active.sum())) // 5
    wide = [part.to(dtype=torch.float64) for part in (layer, inputs, outputs)]
    members = torch.tensor([0, 3])
    for found, truth in zip(
        circuit_tests(layer, inputs, outputs, 0, members, x, window),
        circuit_tests(*wide, 0, members, x.double(), window),
        strict=True,
    ):
        assert found.verdict == truth.verdict
        close(found.drop, truth.drop, dtype, 4)  # the plane is that of rounded eigenvectors
        assert found.activation == pytest.approx(truth.activation, rel=1e-9)


def test_similarities_bonds_and_refits(dtype):
    one, two = narrow(5, 64, 48, dtype), narrow(5, 64, 20, dtype, 1)
    same(float(norm(one)), float(norm(widened(one))))
    same(float(similarity(one, two)), float(similarity(widened(one), widened(two))))
    same(output_similarity(one, two), output_similarity(widened(one), widened(two)))
    same(match(one, two).matrix, match(widened(one), widened(two)).matrix)
    network = BilinearNetwork([one, narrow(3, 5, 7, dtype, 2)])
    found, truth = odt(network), odt(network.to(dtype=torch.float64))
    for bond, expected in zip(found.bonds, truth.bonds, strict=True):
        same(bond.singular_values, expected.singular_values)
    assert found.truncate(3).measured == pytest.approx(truth.truncate(3).measured, rel=1e-9)
    result, x = decompose(one, "eigen", rank=3), draw(60, 64, seed=3, dtype=dtype)
    kept, targets = torch.ones_like(result.eigenvalues, dtype=torch.bool), draw(60, 5, seed=4)
    fitted = refit(result, kept, x, targets)
    expected = refit(result.to(dtype=torch.float64), kept, x.double(), targets)
    close(fitted.eigenvalues, expected.eigenvalues, dtype)


def test_a_covariance_that_is_none_is_refused_and_a_rounded_one_is_not(dtype):
    values = draw(400, 64, seed=0)
    covariance = torch.cov(values.T)
    Moments(torch.zeros(64, dtype=dtype), covariance.to(dtype))
    flipped = covariance.clone()
    flipped[0, 1] += 0.5
    with pytest.raises(ValueError, match="symmetric"):
        Moments(torch.zeros(64, dtype=dtype), flipped.to(dtype))
    with pytest.raises(ValueError, match="semidefinite"):
        Moments(torch.zeros(64, dtype=dtype), (covariance - 2 * torch.eye(64)).to(dtype))


@pytest.mark.parametrize("softmax", [True, False])
def test_attention_and_its_heads(dtype, softmax):
    weights, scores = [(draw(64, 64, seed=i) / 8).to(dtype) for i in range(6)], 1 if softmax else 2
    layer = AttentionLayer.from_weights(
        queries=weights[:scores],
        keys=weights[2 : 2 + scores],
        value=weights[4],
        out=weights[5],
        heads=4,
        positions=16,
        rotary=1e4,
        softmax=softmax,
    )
    wide, x = widened(layer), draw(3, 16, 64, seed=9, dtype=dtype)
    y = x.double()
    # a call rounds on its way: queries, keys, their rotations, scores, patterns, values, what is mixed, the output
    for i in range(scores):
        close(layer.scores(x, i), wide.scores(y, i), dtype, 4)
    close(layer.pattern(x), wide.pattern(y), dtype, 4)
    close(layer(x), wide(y), dtype, 4)
    close(layer.given(layer.pattern(x))(x), wide(y), dtype, 4)
    # analyses round what they return: two factors, or one number
    small, truth = (decompose(one, "ov_svd", rank=3) for one in (layer, wide))
    for head in range(4):
        pairs = [(layer.qk(head, -2), wide.qk(head, -2)), (layer.ov(head), wide.ov(head))]
        pairs += [(small.ov(head), truth.ov(head))]
        for found, expected in pairs:
            close(found.entries(), expected.entries(), dtype, 2)
            close(found.svd().values, expected.svd().values, dtype, 1)
            close(found.norm(), expected.norm(), dtype, 1)
            close(found.truncate(2).entries(), expected.truncate(2).entries(), dtype, 2)
