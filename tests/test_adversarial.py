"""Masks from eigenvectors: each moves one vector and no other, and on a planted form it is what was planted."""

import pytest
import torch
from helpers import normal

from tensornet_interp import BilinearLayer, decompose, lift
from tensornet_interp.adversarial import BASELINES, adversarial_masks, baseline_masks, mask_effect, orient, top_positive

BLOCKS, COUNT, SIZE = 3, 2, 11
TOLERANCE = 1e-12  # float64, products of some tens of numbers of order 1


def planted(device="cpu"):
    """A layer whose outputs are quadratic forms of known eigenvectors, orthonormal over all outputs, and those."""
    vectors = torch.linalg.qr(normal(SIZE, 3 * BLOCKS, seed=0)).Q.T.unflatten(0, (BLOCKS, 3))  # (block, 3, in)
    values = torch.tensor([2.0, 1.0, -3.0], dtype=torch.float64)  # the last one is the largest, and negative
    flat = vectors.flatten(0, 1).T  # (in, rank)
    down = torch.block_diag(*[values[None]] * BLOCKS)  # (out, rank)
    return BilinearLayer(down=down.to(device), left=flat.to(device), right=flat.to(device)), vectors[:, :COUNT].to(
        device
    )


def test_a_planted_form_gives_its_positive_eigenvectors_and_they_are_their_own_masks(device):
    layer, vectors = planted(device)
    x = vectors.sum((0, 1))[None]
    found = orient(top_positive(decompose(layer, "eigen"), COUNT), x)
    torch.testing.assert_close(found, vectors, atol=1e-10, rtol=0)
    torch.testing.assert_close(adversarial_masks(found), vectors, atol=1e-10, rtol=0)


def test_a_mask_moves_its_own_vector_by_one_and_no_other(device):
    vectors = normal(BLOCKS, COUNT, SIZE, seed=1, device=device)
    masks = adversarial_masks(vectors)
    products = masks.flatten(0, 1) @ vectors.flatten(0, 1).T
    torch.testing.assert_close(products, torch.eye(BLOCKS * COUNT).to(products), atol=TOLERANCE, rtol=0)
    oracle = torch.linalg.pinv(vectors.flatten(0, 1)).T.unflatten(0, (BLOCKS, COUNT))  # the smallest such masks
    torch.testing.assert_close(masks, oracle, atol=TOLERANCE, rtol=0)


def test_masks_on_allowed_entries_are_zero_elsewhere_and_still_move_one_vector(device):
    vectors = normal(BLOCKS, COUNT, SIZE, seed=2, device=device)
    allowed = torch.arange(SIZE, device=device) % 4 != 1  # 8 of 11
    masks = adversarial_masks(vectors, allowed=allowed)
    assert masks[:, :, ~allowed].abs().max() == 0
    products = masks.flatten(0, 1) @ vectors.flatten(0, 1).T
    torch.testing.assert_close(products, torch.eye(BLOCKS * COUNT).to(products), atol=1e-10, rtol=0)


def test_a_cutoff_leaves_out_what_two_near_vectors_differ_in():
    base, other = torch.linalg.qr(normal(SIZE, 2, seed=3)).Q.T
    vectors = torch.stack([base + 1e-3 * other, base - 1e-3 * other])[:, None]  # (2, 1, in)
    exact, cut = adversarial_masks(vectors), adversarial_masks(vectors, rtol=0.1)
    assert float(exact[0, 0].norm()) == pytest.approx(0.5 * (1 + 1e6) ** 0.5, rel=1e-9)
    torch.testing.assert_close(cut, (base / 2).expand(2, 1, -1), atol=1e-9, rtol=0)


def test_dependent_vectors_have_no_exact_masks():
    vectors = normal(1, 3, SIZE, seed=4)
    vectors[0, 2] = vectors[0, 0] - 2 * vectors[0, 1]
    with pytest.raises(ValueError, match="only 2 of the 1 x 3 vectors are independent on the 11 of 11"):
        adversarial_masks(vectors)
    masks = adversarial_masks(vectors, rtol=1e-6)
    torch.testing.assert_close(masks[0], torch.linalg.pinv(vectors[0], rtol=1e-6).T, atol=1e-9, rtol=0)


def test_the_sign_is_that_of_the_mean_product_or_of_the_sum():
    vectors = normal(BLOCKS, COUNT, SIZE, seed=5)
    x = normal(6, SIZE, seed=6) + 0.2
    for found, reference in ((orient(vectors, x), x), (orient(vectors), torch.ones(1, SIZE, dtype=x.dtype))):
        assert bool((found @ reference.mean(0) > 0).all())
        torch.testing.assert_close(found.abs(), vectors.abs(), rtol=0, atol=0)
    torch.testing.assert_close(orient(vectors, x), orient(-vectors, x), rtol=0, atol=0)


def test_the_constant_of_a_lifted_layer_is_no_pixel():
    layer, _ = planted()
    result = decompose(lift(layer, bias=normal(BLOCKS, seed=7)).drop_constant(), "eigen")
    assert top_positive(result, 1).shape == (BLOCKS, 1, SIZE)


@pytest.mark.parametrize("kind", BASELINES)
def test_baselines_have_the_norm_and_their_own_seed(kind, device):
    allowed = torch.arange(SIZE, device=device) > 3
    mask = normal(SIZE, seed=8, device=device) * allowed
    drawn = baseline_masks(mask, kind, 5, seed=3, allowed=allowed)
    torch.testing.assert_close(drawn.norm(dim=1), mask.norm().expand(5), atol=TOLERANCE, rtol=0)
    assert drawn[:, ~allowed].abs().max() == 0
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn, baseline_masks(mask, kind, 5, seed=3, allowed=allowed))
    assert not torch.equal(drawn, baseline_masks(mask, kind, 5, seed=4, allowed=allowed))
    if kind == "permuted":
        torch.testing.assert_close(drawn.sort(1).values[:, :], mask.sort().values.expand(5, -1), rtol=0, atol=0)


def test_a_planted_mask_turns_every_decision_from_the_norm_on_at_which_it_must(device):
    """Outputs (2 (v1 . x)^2, 2 (v2 . x)^2), x = 3 v1: the mask v2 wins from a norm of 3 on."""
    layer, vectors = planted(device)
    one, two = vectors[0, 0], vectors[1, 0]
    x = torch.stack([3 * one, 3 * one, 3 * two])
    labels = torch.tensor([0, 0, 1], device=device)
    records = mask_effect(layer, 5 * two, x, labels, 1, [2.9, 3.1])
    assert [record["norm"] for record in records] == [2.9, 3.1]
    assert [record["accuracy"] for record in records] == pytest.approx([1.0, 1 / 3])
    assert [record["misclassified"] for record in records] == [0.0, 1.0]  # of the two that are not of class 1


def test_clipping_cuts_the_masked_images():
    eye = torch.eye(2, dtype=torch.float64)
    layer = BilinearLayer(down=eye, left=eye, right=eye)  # y = x^2
    x, labels, mask = torch.tensor([[0.9, 0.1]], dtype=torch.float64), torch.tensor([0]), eye[1]
    (plain,) = mask_effect(layer, mask, x, labels, 1, [2.0])
    (clipped,) = mask_effect(layer, mask, x, labels, 1, [2.0], clip=(0.0, 0.5))
    assert (plain["accuracy"], plain["misclassified"]) == (0.0, 1.0)
    assert (clipped["accuracy"], clipped["misclassified"]) == (1.0, 0.0)  # a tie at 0.5: the first
