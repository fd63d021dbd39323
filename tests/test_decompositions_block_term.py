"""Block terms: planted ones come back, and the error is never above that of `output_svd` of the same sizes."""

from itertools import pairwise

import pytest
import torch
from helpers import assert_close, dense_error, layer_of, normal, times

from tensornet_interp import BilinearLayer, decompose, lift
from tensornet_interp.compare import match
from tensornet_interp.decompositions import BlockTerm, NonNegative, Sparse
from tensornet_interp.report import Report
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.testing import random_layer


def planted(ranks, n_out=7, n_in=9, seed=0):
    """A layer of known blocks, signs mixed, and the blocks as a result; output vectors are not orthogonal."""
    pairs, blocks = max(ranks), len(ranks)
    outputs = normal(n_out, blocks, seed=seed)
    vectors = torch.linalg.qr(normal(blocks, n_in, pairs, seed=seed + 1)).Q
    values = 1 + torch.rand(blocks, pairs, generator=torch.Generator().manual_seed(seed)).double()
    values[:, 1::2] *= -1
    values *= torch.arange(pairs) < torch.tensor(ranks)[:, None]
    inputs = vectors.permute(1, 0, 2).flatten(1)
    layer = BilinearLayer(down=(outputs[:, :, None] * values).flatten(1), left=inputs, right=inputs, name="planted")
    report = Report.of(layer, "planted", 0.0)
    return layer, SpectralResult(report=report, outputs=outputs, eigenvalues=values, eigenvectors=vectors)


@pytest.mark.parametrize(("ranks", "options"), [
    ([2, 2, 2], {"blocks": 3, "rank": 2}), ([3, 1, 2], {"rank": (1, 2, 3)}), ([3, 3], {"blocks": 2, "rank": 3}),
])  # fmt: skip
def test_planted_blocks_come_back(ranks, options):
    layer, truth = planted(ranks)
    result = decompose(layer, "block_term", starts=4, **options)
    assert dense_error(result, layer) <= 1e-5
    assert float(match(truth, result, blocks=True).congruence.min()) > 0.999
    assert sorted((result.eigenvalues != 0).sum(1).tolist()) == sorted(ranks)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("blocks", "rank"), [(1, 1), (2, 3), (4, 2), (5, 6)])
def test_the_error_is_at_most_that_of_output_svd(blocks, rank, seed):
    layer = random_layer(5, 6, 8, seed=seed)
    result = decompose(layer, "block_term", blocks=blocks, rank=rank, max_iterations=10)
    reference = decompose(layer, "output_svd", blocks=blocks, rank=rank)
    assert result.relative_error <= reference.relative_error + 1e-12
    assert dense_error(result, layer) == pytest.approx(result.relative_error, abs=1e-7)
    assert all(after <= before for before, after in pairwise(result.report.convergence))


def test_it_improves_where_blocks_share_no_orthogonal_outputs():
    layer, _ = planted([2, 2, 2])
    options = {"blocks": 3, "rank": 2}
    assert decompose(layer, "block_term", **options).relative_error < 0.5 * (
        decompose(layer, "output_svd", **options).relative_error
    )


@pytest.mark.parametrize("rank", [2, (1, 3, 2)])
def test_blocks_are_in_canonical_form(rank, device):
    layer = random_layer(5, 6, 8, seed=1, device=device)
    result = decompose(layer, "block_term", blocks=3, rank=rank, max_iterations=5)
    for block in range(3):
        used = result.eigenvalues[block] != 0
        vectors = result.eigenvectors[block][:, used]
        assert (vectors.T @ vectors - torch.eye(int(used.sum())).to(vectors)).abs().max() <= 1e-12
        assert bool((result.eigenvalues[block].abs().diff() <= 0).all())
        assert not bool(result.eigenvectors[block][:, ~used].any())
    assert (result.outputs.norm(dim=0) - 1).abs().max() <= 1e-12
    assert bool((result.eigenvalues.norm(dim=1).diff() <= 0).all())


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("rank", [2, (1, 3)])
def test_a_start_is_continued_and_not_changed(rank, lifted, device):
    layer = random_layer(5, 5, 8, seed=1, device=device)
    layer = lift(layer, residual=0.5) if lifted else layer
    first = decompose(layer, "block_term", blocks=2, rank=rank, max_iterations=2)
    before = [term.data.clone() for term in first.terms()]
    second = decompose(layer, "block_term", blocks=2, rank=rank, max_iterations=3, start=first)
    assert second.report.convergence[0] == pytest.approx(first.relative_error, rel=1e-9)
    assert second.relative_error <= first.relative_error + 1e-12
    wider = decompose(layer, "block_term", blocks=2, rank=4, max_iterations=3, start=second)
    assert wider.relative_error <= second.relative_error
    assert all(torch.equal(a, term.data) for a, term in zip(before, first.terms(), strict=True))


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_scale_changes_nothing_but_the_eigenvalues(factor):
    layer, _ = planted([2, 2, 2])
    once, again = (decompose(part, "block_term", blocks=3, rank=2) for part in (layer, times(layer, factor)))
    assert float(match(once, again, blocks=True).congruence.min()) >= 1 - 1e-6
    assert float(again.eigenvalues.norm() / once.eigenvalues.norm()) == pytest.approx(factor, rel=1e-3)


@pytest.mark.parametrize("prior", [NonNegative("outputs"), NonNegative("inputs"), Sparse("outputs", 0.3)], ids=repr)
def test_the_result_is_what_was_fitted_under_a_prior(prior):
    layer = random_layer(6, 9, 13, seed=3)
    result = decompose(layer, "block_term", blocks=2, rank=3, priors=[prior], max_iterations=60)
    error = dense_error(result, layer)
    assert min(abs(step / error - 1) for step in result.report.convergence) <= 0.01  # a step of the fit
    assert error == pytest.approx(result.relative_error, rel=1e-6)
    if prior == NonNegative("outputs"):
        assert float(result.outputs.min()) >= 0


def test_what_can_go_wrong_with_a_layer(device):
    zero = times(random_layer(4, 6, 9, seed=1, device=device), 0.0)
    result = decompose(zero, "block_term", blocks=2, rank=2, starts=2)
    assert (result.relative_error, bool(result.to_tensor().any())) == (0.0, False)
    for sizes in [(1, 6, 5), (4, 1, 5), (12, 3, 4)]:
        layer = random_layer(*sizes, seed=2, device=device)
        assert dense_error(decompose(layer, "block_term", max_iterations=5), layer) <= 1e-7
    report = decompose(random_layer(5, 6, 8, seed=1), "block_term", blocks=2, rank=2, max_iterations=1).report
    assert report.stop_reason == "not converged in 1 iterations"
    single = random_layer(5, 6, 8, seed=1, dtype=torch.float32, device=device)
    assert decompose(single, "block_term", blocks=2, rank=2, max_iterations=3).outputs.dtype == torch.float32


@pytest.mark.parametrize(
    ("sizes", "steps"), [((4, 6, 5), [(1, 1), (2, 3), (4, 6)]), ((5, 9, 3), [(1, 1), (3, 3), (5, 6)])]
)
def test_the_ladder_goes_from_one_eigenvector_by_halves_to_all(sizes, steps):
    assert [(step.blocks, step.rank) for step in BlockTerm.ladder(layer_of(*sizes, 0))] == steps


def test_whole_blocks_are_the_layer_without_a_fit():
    layer = layer_of(3, 6, 5, 0)
    result = decompose(layer, "block_term")
    assert result.report.stop_reason == "exact: the layer's own components"
    assert result.relative_error < 1e-14
    assert_close(result.to_tensor(), layer.symmetrize().to_tensor())
    fitted = decompose(layer, "block_term", rank=3)
    assert fitted.report.stop_reason != result.report.stop_reason
    assert fitted.relative_error > 1e-3
