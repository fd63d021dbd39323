"""Moments of inner layers, and decompositions whose constant and linear part are exact."""

import pytest
import torch
from helpers import dense, normal, stack
from metric_cases import a_layer, metric_error, moments_of
from numpy.polynomial.hermite_e import hermegauss

from tensornet_interp import BilinearNetwork, Moments, decompose, inner, layer_moments, lift, load, relative_error, save
from tensornet_interp.decompositions import AffineResult, Whitened
from tensornet_interp.inner_products import Gaussian
from tensornet_interp.metric import Metric
from tensornet_interp.registry import get_decomposition


@pytest.mark.parametrize("lifted", [False, True])
def test_moments_of_inner_layers_are_those_of_the_data(lifted):
    network = stack([4, 5, 6, 3], [4, 4, 4], 1, lifted=lifted)
    x, found = normal(50, 4, seed=2), layer_moments(network, normal(50, 4, seed=2).split(8))
    for number, moments in enumerate(found):
        expected = Moments.of(x)
        assert moments.count == 50
        torch.testing.assert_close(moments.mean, expected.mean, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(moments.covariance, expected.covariance, rtol=1e-11, atol=1e-13)
        layer = network.layers[number]
        x = layer(x)
    assert decompose(network, "eigen", moments=found)[1].report.metric.count == 50


@pytest.mark.parametrize("lifted", [False, True])
def test_from_moments_the_second_layer_is_exact_for_gaussian_inputs(lifted):
    """Gauss-Hermite quadrature with 5 nodes per input is exact for products of two quadratic forms."""
    network, given = stack([3, 4, 2], [4, 4], 3, lifted=lifted), moments_of(3, 3)
    nodes, weights = (torch.from_numpy(part) for part in hermegauss(5))
    weights = weights / weights.sum()
    z, weight = torch.cartesian_prod(nodes, nodes, nodes), torch.cartesian_prod(weights, weights, weights).prod(1)
    y = network.layers[0](given.mean + z @ given.root.T)
    mean = weight @ y
    covariance = ((y - mean) * weight[:, None]).T @ (y - mean)
    first, second = layer_moments(network, given)
    assert first is given
    torch.testing.assert_close(second.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(second.covariance, covariance, rtol=1e-10, atol=1e-10)
    assert second.note == "Gaussian closure of 1 layers: computed from data"


@pytest.mark.parametrize("name", ["eigen", "output_svd", "hosvd", "cp"])
@pytest.mark.parametrize("constant_out", [False, True])
@pytest.mark.parametrize("rank", [6, 4])
def test_with_an_exact_linear_part_the_last_step_is_the_layer(name, constant_out, rank):
    layer, moments = a_layer(True), moments_of(6, rank)
    layer = layer if constant_out else layer.drop_constant()
    for ridge in (0.0, 0.1):
        result = decompose(layer, name, moments=moments, ridge=ridge, linear="exact")
        assert type(result) is AffineResult
        assert type(result.interaction) is type(get_decomposition(name)()(layer))
        assert metric_error(result, layer, moments, ridge) <= 1e-7
        assert result.report.metric_error <= 1e-9
    assert result.sizes == layer.sizes
    assert relative_error(result, layer) == pytest.approx(result.report.relative_error, abs=1e-9)


@pytest.mark.parametrize("method", ["eigen", lambda layer: layer.symmetrize()], ids=["result", "layer"])
def test_an_affine_result_in_a_new_basis_is_the_same_function(method):
    layer, moments = a_layer(True).drop_constant(), moments_of(6, 6)
    result = decompose(layer, Whitened(method, moments, linear="exact"))
    inputs, bias, x = normal(6, 4, seed=3), normal(6, seed=4), normal(9, 4, seed=5)
    moved = result.change_basis(inputs, input_bias=bias, basis="pixels")
    assert type(moved) is AffineResult
    torch.testing.assert_close(moved(x), result(x @ inputs.T + bias), rtol=1e-12, atol=1e-10)
    report = moved.report
    assert (report.basis, report.metric, report.relative_error, report.metric_error) == ("pixels", None, None, None)
    metric = Metric.of(moments, ridge=1e-2, lifted=True)
    error = relative_error(metric.whiten(result), metric.whiten(layer))
    assert error == pytest.approx(result.report.metric_error, abs=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_gaussian_loss_is_twice_the_squares_of_the_eigenvalues_left_out(rank):
    layer, moments = a_layer(True).drop_constant(), moments_of(6, 6)
    whole = decompose(layer, "eigen", moments=moments, ridge=0, linear="exact")
    found = decompose(layer, "eigen", rank=rank, moments=moments, ridge=0, linear="exact")
    pairs = ((found, found), (found, layer), (layer, layer))
    own, both, whole_square = (inner(*pair, kind=Gaussian(moments)) for pair in pairs)
    loss = float(own) - 2 * float(both) + float(whole_square)
    left_out = 2 * float(whole.interaction.eigenvalues[:, rank:].square().sum())
    assert loss == pytest.approx(left_out, rel=1e-8)


def test_the_mean_of_every_output_over_the_data_stays():
    data = normal(40, 6, seed=3).exp()
    count, layer = len(data), a_layer(True).drop_constant()
    found = Moments.of(data)
    moments = Moments(found.mean, found.covariance * (count - 1) / count)
    for ridge in (0.0, 0.2):
        result = decompose(layer, "hosvd", ranks=(2, 2), moments=moments, ridge=ridge, linear="exact")
        assert float((result(data) - layer(data)).norm()) > 1
        torch.testing.assert_close(result(data).mean(0), layer(data).mean(0), rtol=1e-11, atol=1e-11)


def test_an_affine_result_is_a_part_of_a_network_and_a_value_in_a_file(tmp_path):
    network = stack([4, 5, 3], [4, 4], 1, lifted=True)
    x = normal(60, 4, seed=2)
    moments = layer_moments(network, x)
    small = decompose(network, "eigen", moments=moments, linear="exact")
    assert isinstance(small[1], AffineResult)
    torch.testing.assert_close(small(x), network(x), rtol=1e-8, atol=1e-8)
    save(small, tmp_path / "kept.safetensors")
    assert torch.equal(load(tmp_path / "kept.safetensors")(x), small(x))
    layer = lift(a_layer(False, torch.float32))
    narrow = decompose(layer, "eigen", moments=moments_of(6, 6), linear="exact")
    assert {term.data.dtype for term in narrow.terms()} == {torch.float32}
    assert 0 < narrow.report.metric_error < 1e-5
    assert narrow.to(dtype=torch.float16).report.metric_error is None
    assert narrow.with_names(output_names="abc").output_names == ("a", "b", "c")
    assert "AffineResult(interaction=SpectralResult(" in repr(narrow)
    assert BilinearNetwork([narrow])[0].constant_out is False
    assert dense(narrow).shape == dense(layer).shape
