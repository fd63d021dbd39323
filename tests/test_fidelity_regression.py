"""Fidelity of a regression: R squared, errors relative to the variance, rankings and curves without labels."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import r2_score

from tensornet_interp import BilinearLayer, decompose, lift, load, save
from tensornet_interp.fidelity import (
    COMPONENT_RANKINGS,
    certificate,
    component_ranking,
    components_needed,
    difference_certificate,
    fidelity,
    network_fidelity,
    truncation_curve,
)
from tensornet_interp.plots import truncation_curves
from tensornet_interp.testing import random_layer


def normal(*sizes: int, seed: int) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = normal(50, 9, seed=1)


@pytest.mark.parametrize("outputs", [1, 3])
def test_r_squared_is_that_of_scikit_learn(outputs: int) -> None:
    layer, other = random_layer(outputs, 9, 6, seed=0), random_layer(outputs, 9, 5, seed=2)
    targets = layer(X) + normal(50, outputs, seed=3)
    got = fidelity(other, layer, X, targets=targets)
    wanted = r2_score(layer(X).numpy(), other(X).numpy(), multioutput="raw_values")
    assert got.r_squared_per_output == pytest.approx(wanted.tolist(), rel=1e-12)
    variance = layer(X).var(0, correction=0)
    assert got.relative_mse == pytest.approx(float(got.mse / variance.sum()), rel=1e-12)
    assert got.r_squared == pytest.approx(1 - got.relative_mse)
    assert got.mse_per_output == pytest.approx((layer(X) - other(X)).square().mean(0).tolist(), rel=1e-12)
    assert sum(got.mse_per_output) == pytest.approx(got.mse, rel=1e-12)
    for found, outs in ((got.target_r_squared, other(X)), (got.reference_target_r_squared, layer(X))):
        share = (outs - targets).square().mean(0).sum() / targets.var(0, correction=0).sum()
        assert found == pytest.approx(float(1 - share), rel=1e-12)


def test_one_output_decides_nothing() -> None:
    layer = random_layer(1, 9, 6, seed=0)
    result = decompose(layer, "eigen", rank=2)
    got = fidelity(result, layer, X)
    assert (got.agreement, got.kl, got.accuracy, got.cross_entropy) == (None,) * 4
    assert 0 < got.relative_mse < 1
    with pytest.raises(ValueError, match="at least 2 outputs"):
        certificate(decompose(layer, "eigen"), 1, X)
    with pytest.raises(ValueError, match="at least 2 outputs"):
        difference_certificate(layer, [1], X)
    assert [record["kl"] for record in truncation_curve(result, layer, X)] == [None, None]
    assert "R squared" in str(network_fidelity(result, layer, X))


@pytest.mark.parametrize("scale", [1e-120, 1e120])
def test_no_scale_changes_a_relative_error(scale: float) -> None:
    """The outputs differ in size by 240 orders, so that the squares of the small one vanish beside the large one."""
    layer, other = random_layer(2, 9, 6, seed=0), random_layer(2, 9, 5, seed=2)
    plain = fidelity(other, layer, X)
    sizes = torch.tensor([[scale], [1 / scale]], dtype=torch.float64)
    moved = fidelity(replace(other, down=other.down * sizes), replace(layer, down=layer.down * sizes), X)
    assert moved.relative_mse_per_output == pytest.approx(plain.relative_mse_per_output, rel=1e-12)
    assert moved.relative_mse == pytest.approx(plain.relative_mse_per_output[0 if scale > 1 else 1], rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_output_has_no_relative_error(dtype: torch.dtype) -> None:
    zero = BilinearLayer(down=torch.zeros(2, 3), left=torch.ones(4, 3), right=torch.ones(4, 3)).to(dtype=dtype)
    layer = lift(
        replace(zero, down=torch.tensor([[0.0, 0, 0], [1, 0, 0]], dtype=dtype)), bias=torch.tensor([0.1, 3.0]).to(dtype)
    )
    other = lift(zero, bias=torch.tensor([0.5, 3.0]).to(dtype))
    got = fidelity(other.drop_constant(), layer.drop_constant(), normal(20, 4, seed=0).to(dtype))
    assert got.relative_mse_per_output[0] is None
    assert got.r_squared_per_output[0] is None
    assert got.relative_mse_per_output[1] is not None
    assert got.mse_per_output[0] == pytest.approx(0.16, rel=1e-5)
    constant = fidelity(layer.drop_constant(), other.drop_constant(), normal(20, 4, seed=0).to(dtype))
    assert (constant.relative_mse, constant.r_squared) == (None, None)


def test_ablation_without_labels_is_the_change_of_the_outputs() -> None:
    result = decompose(random_layer(3, 9, 6, seed=0), "output_svd")
    change = torch.empty_like(result.eigenvalues)
    for block in range(change.shape[0]):
        for rank in range(change.shape[1]):
            mask = torch.ones_like(change, dtype=torch.bool)
            mask[block, rank] = False
            change[block, rank] = (result.keep(mask)(X) - result(X)).square().sum(1).mean()
    assert torch.equal(component_ranking(result, "ablation", X), change.argsort(dim=1, descending=True))


@pytest.mark.parametrize("by", COMPONENT_RANKINGS)
def test_curves_need_no_labels(by: str) -> None:
    layer = random_layer(1, 9, 6, seed=0)
    result = decompose(layer, "eigen")
    records = truncation_curve(result, layer, X, by=by, rank_on=(X, None))
    assert [record["components"] for record in records] == [1, 2, 4, 8, 9]
    for k, record in zip((1, 2, 4, 8, 9), records, strict=True):
        assert record["accuracy"] is record["cross_entropy"] is record["kl"] is None
        if by == "magnitude":
            cut = fidelity(result.truncate(k), layer, X)
            assert record["r_squared"] == pytest.approx(cut.r_squared, abs=1e-12)
    assert records[-1]["r_squared"] == pytest.approx(1, abs=1e-12)
    assert components_needed(records, 1.0, 1e-6, field="r_squared")[1] <= 9
    figure = truncation_curves(records)
    assert [axes.get_ylabel() for axes in figure.axes] == ["R squared", "squared error / variance"]
    with pytest.raises(ValueError, match="records were made without labels"):
        truncation_curves(records, accuracy=0.9)


def test_records_have_the_names_of_the_outputs() -> None:
    layer = random_layer(2, 9, 6, seed=0).with_names(output_names=["price", "risk"])
    got = fidelity(decompose(layer, "eigen", rank=2), layer, X)
    total, *each = got.records()
    assert total["output"] is None
    assert total["r_squared"] == got.r_squared
    assert [row["output"] for row in each] == ["price", "risk"]
    assert tuple(row["r_squared"] for row in each) == got.r_squared_per_output
    assert all(row.keys() == total.keys() for row in each)
    whole = network_fidelity(decompose(layer, "eigen", rank=2), layer, X).records()
    assert [row["part"] for row in whole] == [None, 0]
    assert math.isclose(whole[1]["mse"], got.mse)


def test_a_fidelity_is_saved_with_all_its_numbers(tmp_path) -> None:
    layer = random_layer(3, 9, 6, seed=0).with_names(output_names=["a", "b", "c"])
    layer = replace(layer, down=layer.down * torch.tensor([[1.0], [0.0], [2.0]]).double())  # one output is constant
    got = fidelity(decompose(layer, "eigen", rank=2), layer, X, targets=layer(X))
    assert got.relative_mse_per_output[1] is None
    save(got, tmp_path / "fidelity.safetensors")
    assert load(tmp_path / "fidelity.safetensors") == got
