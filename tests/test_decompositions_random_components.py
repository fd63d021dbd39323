"""Random components: drawn from the layer, refitted by least squares, never better than what is best."""

import pytest
import torch

from tensornet_interp import BilinearLayer, decompose, relative_error
from tensornet_interp.decompositions import RandomComponents
from tensornet_interp.testing import random_layer

LAYER = random_layer(3, 7, 6, seed=0)


def columns(result):
    """The symmetrized products of the components as columns (in * in, rank)."""
    product = torch.einsum("ir,jr->ijr", result.left, result.right)
    return ((product + product.transpose(0, 1)) / 2).flatten(0, 1)


@pytest.mark.parametrize("source", ["hidden", "eigen"])
def test_outputs_are_the_least_squares_fit(source, device):
    layer = random_layer(3, 7, 6, seed=0, device=device)
    result = RandomComponents(rank=4, source=source)(layer)
    dense = layer.to_tensor()
    target = ((dense + dense.mT) / 2).flatten(1).T  # (in * in, out)
    best = torch.linalg.lstsq(columns(result), target).solution.T
    torch.testing.assert_close(result.outputs * result.weights, best, rtol=0, atol=1e-10 * float(best.abs().max()))
    assert result.relative_error == pytest.approx(relative_error(result, layer), abs=1e-12)


def test_a_scalar_refit_cannot_be_scaled_better():
    result = RandomComponents(rank=3, refit="scalar")(LAYER)
    dense, target = (part.to_tensor() for part in (result, LAYER))
    dense, target = dense + dense.mT, target + target.mT
    assert float((dense * (target - dense)).sum() / target.square().sum()) == pytest.approx(0, abs=1e-13)
    assert result.relative_error >= RandomComponents(rank=3)(LAYER).relative_error


def test_hidden_units_are_drawn_without_replacement_and_nested():
    def drawn(rank, seed=0):
        made = RandomComponents(rank=rank, refit="scalar", seed=seed)(LAYER)
        units = LAYER.left / LAYER.left.norm(dim=0)
        return {int((units.T @ v).abs().argmax()) for v in made.left.T}

    assert len(drawn(6)) == 6
    assert drawn(2) < drawn(4)
    assert len({frozenset(drawn(3, seed)) for seed in range(6)}) > 1


def test_eigenpairs_are_tied_components():
    result = RandomComponents(rank=5, source="eigen")(LAYER)
    assert torch.equal(result.left, result.right)
    whole = RandomComponents(rank=3 * 7, source="eigen")(LAYER)
    assert whole.relative_error < 1e-12


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_changes_the_weights_alone(scale):
    small = RandomComponents(rank=3)(LAYER)
    large = RandomComponents(rank=3)(BilinearLayer(down=scale * LAYER.down, left=LAYER.left, right=LAYER.right))
    torch.testing.assert_close(large.weights / scale, small.weights)
    torch.testing.assert_close(large.outputs, small.outputs)


def test_dependent_components_are_no_obstacle():
    twice = BilinearLayer.from_cp((None, [torch.cat([f, f], 1) for f in (LAYER.down, LAYER.left, LAYER.right)]))
    errors = [RandomComponents(rank=rank)(twice).relative_error for rank in (4, 8, 12)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-7


def test_canonical_form_is_the_same_tensor_in_order():
    layer = BilinearLayer(
        down=torch.tensor([[0.0, -3.0], [0, 4]]), left=torch.tensor([[1.0, -2.0], [1, 0]]), right=torch.eye(2) * 2
    )
    result = RandomComponents(rank=2, refit="scalar")(layer)  # all of them
    torch.testing.assert_close(result.weights, torch.tensor([-20.0, 0]))  # 5 * 2 * 2, and left was turned
    torch.testing.assert_close(result.outputs[:, 0], torch.tensor([-0.6, 0.8]))
    torch.testing.assert_close(result.left[:, 0], torch.tensor([1.0, 0]))
    torch.testing.assert_close(result.to_tensor(), layer.to_tensor())


WRONG = {
    "rank above hidden": ({"rank": 7}, ValueError, "from 1 to 6 .*source 'hidden'"),
    "rank above eigen": ({"rank": 22, "source": "eigen"}, ValueError, "from 1 to 21 .*source 'eigen'"),
    "rank 0": ({"rank": 0}, ValueError, "rank must be at least 1"),
    "source": ({"rank": 1, "source": "units"}, ValueError, "source must be one of eigen, hidden"),
    "refit": ({"rank": 1, "refit": "output"}, ValueError, "did you mean 'outputs'"),
    "seed": ({"rank": 1, "seed": None}, TypeError, "seed must be a whole number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_work_is_refused(case):
    options, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        decompose(LAYER, "random_components", **options)
