"""Penalties from 0 to 1 that no scale changes, constraints that hold in results, and priors that a user writes."""

import pytest
import torch
from helpers import dense_error, normal

from tensornet_interp import BilinearLayer, decompose, lift
from tensornet_interp.decompositions import Factors, NonNegative, Prior, Smooth, Sparse
from tensornet_interp.testing import random_layer

SHAPE = (5, 7)
PENALTIES = [Sparse("outputs"), Sparse("inputs"), Sparse("left"), Sparse("right"), Smooth(SHAPE)]


def factors(device="cpu", rank=4):
    return Factors(*(normal(n, rank, seed=i, device=device) for i, n in enumerate((6, 35, 35))))


def image(columns):
    """One column an image, on both input factors."""
    flat = columns.flatten()[:, None].double()
    return Factors(flat[:1], flat, flat)


@pytest.mark.parametrize("prior", PENALTIES, ids=repr)
def test_penalties_are_from_0_to_1_and_scale_free(prior, device):
    given = factors(device)
    penalty = float(prior.penalty(given))
    assert 0 < penalty < 1
    scales = torch.tensor([1e-3, -2.0, 1e3, 7.0], dtype=torch.float64, device=device)
    assert float(prior.penalty(Factors(*(f * scales for f in given)))) == pytest.approx(penalty, rel=1e-12)
    twice = Factors(*(torch.cat([f, f], 1) for f in given))  # a mean over components
    assert float(prior.penalty(twice)) == pytest.approx(penalty, rel=1e-12)
    assert torch.isfinite(prior.penalty(Factors(*(0 * f for f in given))))


def test_sparse_goes_from_one_entry_to_all_equal():
    one = torch.eye(35, dtype=torch.float64)[:, :3]
    for columns, expected in ((one, 0.0), (torch.ones_like(one), 1.0), (-torch.ones_like(one), 1.0)):
        given = Factors(columns[:6], columns, columns)
        for mode in ("outputs", "inputs"):
            assert float(Sparse(mode).penalty(given)) == pytest.approx(expected, abs=1e-12)


def test_a_single_entry_is_neither_sparse_nor_dense():
    given = Factors(*(normal(n, 3, seed=i) for i, n in enumerate((1, 4, 4))))
    assert float(Sparse("outputs").penalty(given)) == 0


def test_sparse_gives_a_column_of_zeros_no_reward():
    columns = torch.eye(5, dtype=torch.float64)[:, :2] * torch.tensor([1.0, 0.0])
    assert float(Sparse("left").penalty(Factors(columns, columns, columns))) == 0.0


def test_smooth_goes_from_a_constant_image_to_a_checkerboard():
    size = 40
    inside = torch.zeros(size, size)
    inside[10:30, 10:30] = 1
    board = (torch.arange(size)[:, None] + torch.arange(size)) % 2 * 2 - 1
    smooth = Smooth((size, size))
    assert float(smooth.penalty(image(inside))) == pytest.approx(4 * 20 / (8 * 400))  # only its outline counts
    # neighbours differ by 2 inside, by 1 across the border
    edges = 2 * size * (size - 1) * 4 + 4 * size
    assert float(smooth.penalty(image(board))) == pytest.approx(edges / (8 * size**2))
    assert float(smooth.penalty(image(board))) > 0.97
    lifted = Factors(*(torch.cat([f[:1] * 9, f]) for f in image(inside)))  # the constant coordinate does not count
    assert float(smooth.penalty(lifted)) == pytest.approx(float(smooth.penalty(image(inside))))


@pytest.mark.parametrize("method", ["cp", "symmetric_cp"])
@pytest.mark.parametrize("mode", ["inputs", "outputs"])
def test_non_negative_factors_are_non_negative(method, mode, device):
    layer = random_layer(4, 6, 9, seed=1, device=device)
    result = decompose(layer, method, rank=3, priors=[NonNegative(mode)], max_iterations=60)
    made = result.to_layer()
    checked = [made.left, made.right] if mode == "inputs" else [result.outputs]
    assert all(float(factor.min()) >= 0 for factor in checked)
    if (method, mode) == ("symmetric_cp", "outputs"):  # with left and right free, left may take the sign
        assert float(result.eigenvalues.min()) >= 0
    assert dense_error(result, layer) == pytest.approx(result.relative_error, rel=1e-6)
    assert result.relative_error < 1


def test_a_negative_layer_has_no_non_negative_part():
    layer = random_layer(4, 6, 9, seed=1)
    layer = BilinearLayer(down=-layer.down.abs(), left=layer.left.abs(), right=layer.right.abs())
    priors = [NonNegative("inputs"), NonNegative("outputs")]
    result = decompose(layer, "cp", rank=2, priors=priors, max_iterations=20)
    assert float(result.weights.min()) >= 0
    assert result.relative_error == pytest.approx(1)


def test_a_layer_gets_sparser_with_strength_and_the_fit_worse():
    layer = random_layer(8, 6, 9, seed=1)
    results = [
        decompose(layer, "cp", rank=3, priors=[Sparse("outputs", strength)], max_iterations=150)
        for strength in (0.0, 0.1, 1.0)
    ]
    density = [float(Sparse("outputs").penalty(Factors(r.outputs, r.left, r.right))) for r in results]
    errors = [r.relative_error for r in results]
    assert density[0] > density[1] > density[2]
    assert errors[0] < errors[1] + 1e-3
    assert errors[1] < errors[2] + 1e-3


def test_two_priors_both_hold():
    layer = random_layer(8, 6, 9, seed=1)
    alone = decompose(layer, "cp", rank=3, priors=[NonNegative("inputs")], max_iterations=100)
    both = decompose(layer, "cp", rank=3, priors=[NonNegative("inputs"), Sparse("outputs", 1.0)], max_iterations=100)
    assert float(both.left.min()) >= 0
    sparse = Sparse("outputs")
    density = [float(sparse.penalty(Factors(r.outputs, r.left, r.right))) for r in (alone, both)]
    assert density[1] < density[0] - 0.1


class OneOutput(Prior):
    """Every component acts on one output: all others are set to zero. What a user writes."""

    def constrain(self, factors):
        largest = factors.outputs.abs().argmax(0, keepdim=True)
        mask = torch.zeros_like(factors.outputs).scatter(0, largest, 1.0)
        return factors._replace(outputs=factors.outputs * mask)


class Alike(Prior):
    """Left and right alike, a penalty at its default strength."""

    def penalty(self, factors):
        cosine = torch.nn.functional.cosine_similarity(factors.left, factors.right, dim=0)
        return (1 - cosine.square()).mean()


def test_a_prior_that_a_user_writes_works():
    layer = random_layer(8, 6, 9, seed=1)
    hard = decompose(layer, "cp", rank=3, priors=[OneOutput()], max_iterations=50)
    assert ((hard.outputs != 0).sum(0) == 1).all()
    free, alike = (
        decompose(layer, "cp", rank=3, priors=p, max_iterations=100) for p in ([Sparse("left", 0)], [Alike()])
    )
    penalty = [float(Alike().penalty(Factors(r.outputs, r.left, r.right))) for r in (free, alike)]
    assert penalty[1] < 0.5 * penalty[0]


def test_a_lifted_image_is_smooth_without_its_constant(device):
    layer = lift(random_layer(6, 6, 4, seed=1, device=device), residual=0.5)
    result = decompose(layer, "cp", rank=2, priors=[Smooth((2, 3))], max_iterations=5)
    assert result.left.shape == (7, 2)
    assert (result.constant_in, result.constant_out) == (True, True)
