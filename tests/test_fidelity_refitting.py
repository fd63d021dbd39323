"""Refitted coefficients are those that were planted, and no worse than what they replace."""

from dataclasses import replace

import pytest
import torch
from helpers import normal
from torch.nn.functional import cross_entropy

from tensornet_interp import BilinearLayer, SpectralResult, decompose, lift
from tensornet_interp.fidelity import component_ranking, keep_first, refit
from tensornet_interp.testing import random_layer


def everything(result: SpectralResult) -> torch.Tensor:
    return torch.ones_like(result.eigenvalues, dtype=torch.bool)


@pytest.mark.parametrize("lifted", [False, True])
@pytest.mark.parametrize("mixed", [False, True], ids=["a block an output", "blocks that mix outputs"])
def test_a_form_whose_components_were_mis_scaled_is_recovered(lifted, mixed):
    layer = random_layer(4, 7, 5, seed=0)
    layer = layer if not lifted else lift(layer, bias=normal(4, seed=1)).drop_constant()
    result = decompose(layer, "eigen", directions=normal(4, 4, seed=2) if mixed else None)
    wrong = replace(result, eigenvalues=result.eigenvalues * (1 + normal(*result.eigenvalues.shape, seed=3)))
    x, new = normal(400, 7, seed=4), normal(50, 7, seed=5)
    assert float((wrong(new) - layer(new)).norm() / layer(new).norm()) > 0.1
    fitted = refit(wrong, everything(wrong), x, layer(x))
    # normal equations of squares: a condition of at most 1e7 is squared, of 1e-16
    assert float((fitted(new) - layer(new)).norm() / layer(new).norm()) < 1e-9
    torch.testing.assert_close(fitted.eigenvalues, result.eigenvalues, rtol=1e-8, atol=1e-9)
    assert "eigenpairs refitted by least squares of outputs" in fitted.report.method
    assert fitted.relative_error is None


def test_only_kept_components_are_left_and_blocks_may_have_fewer():
    layer = random_layer(3, 6, 4, seed=0)
    result = decompose(layer, "eigen")
    kept = torch.zeros_like(everything(result))
    kept[0, [1, 4]], kept[1, 2] = True, True  # nothing of class 2
    x = normal(300, 6, seed=1)
    target = result.keep(kept)(x)  # what the kept ones give as they are: refitting must find their eigenvalues
    mis_scaled = replace(result, eigenvalues=torch.where(result.eigenvalues > 0, 0.0, 5.0).double())
    fitted = refit(mis_scaled, kept, x, target)
    assert fitted.eigenvalues.shape == (3, 2)
    expected = torch.stack(
        [result.eigenvalues[0, [1, 4]], result.eigenvalues[1, [2, 2]] * torch.tensor([1, 0]), normal(2, seed=0) * 0]
    )
    torch.testing.assert_close(fitted.eigenvalues, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(fitted.eigenvectors[0, :, 1], result.eigenvectors[0, :, 4])
    torch.testing.assert_close(fitted(x), target, rtol=1e-9, atol=1e-10)


def test_no_other_coefficients_are_closer():
    """The residual of least squares is orthogonal to every kept feature."""
    layer = random_layer(4, 7, 5, seed=0)
    result = decompose(layer, "eigen")
    x = normal(200, 7, seed=1)
    fitted = refit(result, keep_first(component_ranking(result, "magnitude"), 3), x, layer(x))
    left = layer(x) - fitted(x)  # (batch, out); blocks are outputs
    features = (x @ fitted.eigenvectors).square()  # (block, batch, rank)
    slopes = torch.einsum("no,onr->or", left, features) / features.square().sum(1).sqrt() / left.norm()
    assert float(slopes.abs().max()) < 1e-10
    assert float(left.norm()) < float((layer(x) - result.truncate(3)(x)).norm())
    assert (fitted.eigenvalues.abs().diff(dim=1) <= 0).all()  # largest magnitude first


@pytest.mark.parametrize("mixed", [False, True])
def test_labels_are_fitted_by_softmax_regression(mixed):
    """At the optimum the slope of the cross-entropy is zero along every coefficient; the labels are drawn."""
    layer = random_layer(3, 6, 4, seed=0)
    result = decompose(layer, "eigen", directions=normal(5, 3, seed=2) if mixed else None)
    x = normal(600, 6, seed=1)
    labels = torch.multinomial((layer(x) / 5).softmax(-1), 1, generator=torch.Generator().manual_seed(2))[:, 0]
    kept = keep_first(component_ranking(result, "magnitude"), 2)
    fitted = refit(result, kept, x, labels)
    values = fitted.eigenvalues.clone().requires_grad_()
    loss = cross_entropy(replace(fitted, eigenvalues=values)(x), labels)
    loss.backward()
    scale = (x @ fitted.eigenvectors).square().square().mean(1).sqrt()  # slopes in units of the features
    assert float((values.grad / scale).abs().max()) < 1e-4
    assert float(loss.detach()) < float(cross_entropy(result.truncate(2)(x), labels)) - 1e-3


def test_keep_first_is_the_front_of_the_ranking():
    ranking = torch.tensor([[2, 0, 1], [0, 2, 1]])
    assert keep_first(ranking, 2).tolist() == [[True, False, True], [True, False, True]]
    assert keep_first(ranking, 1).tolist() == [[False, False, True], [True, False, False]]
    with pytest.raises(ValueError, match=r"count must be from 1 to 3 \(components per block in ranking\), got 4"):
        keep_first(ranking, 4)


def test_dtype_is_that_of_the_result():
    layer = random_layer(3, 6, 4, seed=0).to(dtype=torch.float32)
    result = decompose(layer, "eigen")
    x = normal(100, 6, seed=1).float()
    for target in (layer(x), layer(x).argmax(-1)):
        fitted = refit(result, everything(result), x, target, max_iterations=3)
        assert fitted.eigenvalues.dtype == fitted(x).dtype == torch.float32


def test_bad_input():
    layer = random_layer(3, 6, 4, seed=0)
    result = decompose(layer, "eigen")
    kept, x = everything(result), normal(10, 6, seed=1)
    with pytest.raises(ValueError, match=r"kept must be boolean of shape \(3, 6\)"):
        refit(result, kept[:2], x, layer(x))
    with pytest.raises(ValueError, match="kept has no component"):
        refit(result, ~kept, x, layer(x))
    with pytest.raises(ValueError, match="mode 'batch' has size 10 in x but 9 in targets"):
        refit(result, kept, x, layer(x)[:9])
    with pytest.raises(ValueError, match="mode 'out' has size 3 in result but 2 in targets"):
        refit(result, kept, x, layer(x)[:, :2])
    with pytest.raises(TypeError, match="outputs or of int64 labels, got list"):
        refit(result, kept, x, [0] * 10)
    with pytest.raises(TypeError, match="int64 class numbers"):
        refit(result, kept, x, torch.zeros(10, dtype=torch.int32))
    with pytest.raises(ValueError, match="targets must be classes from 0 to 2, got 3 to 3"):
        refit(result, kept, x, torch.full((10,), 3))
    with pytest.raises(ValueError, match="max_iterations must be at least 1, got 0"):
        refit(result, kept, x, torch.zeros(10, dtype=torch.int64), max_iterations=0)


def test_components_that_no_sample_activates_are_left_at_zero_and_do_not_disturb_the_others():
    eye = torch.eye(3, dtype=torch.float64)
    layer = BilinearLayer(down=torch.tensor([[1.0, 2.0, 3.0], [3.0, -1.0, 0.5]]).double(), left=eye, right=eye)
    result = decompose(layer, "eigen")
    x = normal(200, 3, seed=0)
    x[:, 1] = 0
    labels = (layer(x) + normal(200, 2, seed=1)).argmax(1)
    for targets in (layer(x), labels):
        fitted = refit(result, everything(result), x, targets)
        silent = fitted.eigenvectors[:, 1].abs() == 1  # (block, rank): the component of input 1
        assert silent.sum() == 2
        assert bool((fitted.eigenvalues[silent] == 0).all())
        assert bool((fitted.eigenvalues[~silent] != 0).all())
    seen = result.eigenvectors[:, 1].abs() == 0
    torch.testing.assert_close(refit(result, seen, x, labels)(x), fitted(x), rtol=1e-4, atol=1e-4)
