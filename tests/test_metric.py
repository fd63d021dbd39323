"""Decompositions in the metric of the data: laws for every name of the registry, on lifted layers and singular moments.

The errors are measured here on dense tensors: ||F^T (B - A) F|| over all coordinates, with any F F^T = S.
"""

import sys
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import dense, layer_of, normal, orthonormal
from metric_cases import LIFTED, SINGULAR, a_layer, metric_error, moments_of, second_moment, steps
from snippets import ROOT

from tensornet_interp import (
    BilinearLayer,
    BilinearNetwork,
    Moments,
    SpectralResult,
    decompose,
    inner,
    load,
    norm,
    relative_error,
    save,
)
from tensornet_interp.decompositions import BUILT_IN, CP, Eigen, Sparse, SymmetricCP, Whitened
from tensornet_interp.factored import CPResult, TuckerResult
from tensornet_interp.metric import Metric
from tensornet_interp.registry import get_decomposition, register_decomposition, scratch_registry
from tensornet_interp.sweep import sweep

NAMES = [*sorted(BUILT_IN), "kept_units"]
KIT = 1e-9  # what `testing.check_decomposition` asks of an exact end


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    """The example plugin, registered as its distribution would."""
    monkeypatch.setitem(sys.modules, "kept_units", None)
    monkeypatch.delitem(sys.modules, "kept_units")
    monkeypatch.syspath_prepend(ROOT / "examples" / "plugin")
    with scratch_registry():
        module = pytest.importorskip("kept_units")
        register_decomposition("kept_units")(module.KeptUnits)
        yield


@LIFTED
@SINGULAR
@pytest.mark.parametrize("name", NAMES)
def test_the_last_step_of_every_ladder_is_the_layer_in_the_metric(name, lifted, rank):
    layer, moments = a_layer(lifted), moments_of(6, rank)
    ladder = steps(name, layer, moments)
    assert bool(ladder) == bool(get_decomposition(name).ladder(layer))
    if not ladder:  # the method has no exact end
        return
    result = decompose(layer, ladder[-1])
    # squares of differences lose half the digits: 1e-9 of the norm is 1e-18 of its square
    assert metric_error(result, layer, moments) <= 1e-7
    assert relative_error(*(whiten(part, moments) for part in (result, layer))) <= KIT


def whiten(part, moments):
    return Metric.of(moments, lifted=part.constant_in).whiten(part.to_layer())


@LIFTED
@pytest.mark.parametrize("name", [n for n in NAMES if getattr(BUILT_IN.get(n), "nested", False)])
def test_the_metric_error_never_rises_along_a_nested_ladder(name, lifted):
    layer, moments = a_layer(lifted), moments_of(6, 6)
    errors = [metric_error(decompose(layer, step), layer, moments) for step in steps(name, layer, moments)]
    assert len(errors) > 2
    assert all(after <= before + 1e-7 for before, after in pairwise(errors))


@LIFTED
@pytest.mark.parametrize("name", ["eigen", "output_svd", "hosvd"])
@pytest.mark.parametrize("condition", [1.0, 30.0, 1e3])
def test_direct_methods_are_exact_to_rounding_for_a_condition_up_to_a_thousand(name, condition, lifted):
    layer = a_layer(lifted)
    turn, sizes = orthonormal(6, 6, seed=3), torch.logspace(0, -1, 6, base=condition).double()
    moments = Moments(torch.zeros(6), (turn * sizes.square()) @ turn.T)
    result = steps(name, layer, moments)[-1](layer)
    assert result.report.metric_error <= 1e-12
    assert relative_error(*(whiten(part, moments) for part in (result, layer))) <= 1e-12


@LIFTED
@SINGULAR
@pytest.mark.parametrize("name", ["eigen", "hosvd", "cp", "symmetric_cp"])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_the_report_has_both_errors_and_says_what_the_metric_is(name, ridge, lifted, rank):
    layer, moments = a_layer(lifted), moments_of(6, rank)
    result = steps(name, layer, moments, ridge)[0](layer)
    report = result.report
    assert report.metric_error == pytest.approx(metric_error(result, layer, moments, ridge), rel=1e-9)
    assert report.relative_error == pytest.approx(relative_error(result, layer), rel=1e-9)
    assert report.relative_error_bound >= report.relative_error
    assert report.metric_error_bound >= report.metric_error
    # S has one dimension more than the covariance, along the mean, unless the layer is lifted
    assert report.metric.rank == (6 if ridge else min(6, rank + (not lifted)))
    assert (report.metric.ridge, report.metric.count, report.metric.note) == (ridge, 300, "computed from data")
    assert (report.layer, report.basis, report.history) == (layer.name, layer.basis, layer.history)
    (record,) = report.records()
    names = ("metric_error", "metric_rank", "metric_ridge", "metric_samples")
    assert [record[name] for name in names] == [report.metric_error, report.metric.rank, ridge, 300]
    assert "error in the metric" in dict(report.rows())
    assert result.sizes == layer.sizes
    cut = result.truncate(1) if isinstance(result, SpectralResult) else result.drop_constant()
    if cut is not result:
        assert (cut.report.metric_error, cut.report.metric_error_bound, cut.relative_error) == (None, None, None)


@LIFTED
def test_the_metric_is_the_mean_square_on_independent_inputs(lifted):
    """||B||_S^2 = E |B(x1, x2)|^2 over all pairs of a set of inputs, for any distribution."""
    layer, x = a_layer(lifted).drop_constant(), normal(30, 6, seed=4).exp()
    count = len(x)
    moments = Moments.of(x)
    # Moments divide by count - 1; the mean over all pairs is that of the population
    population = Moments(moments.mean, moments.covariance * (count - 1) / count)
    pairs = (layer(x[:, None], x[None]) + layer(x[None], x[:, None])) / 2
    found = whiten(layer, population).symmetrize()
    assert float(dense(found).square().sum()) == pytest.approx(float(pairs.square().sum(-1).mean()), rel=1e-12)


@pytest.mark.parametrize(("name", "kind"), [("eigen", SpectralResult), ("cp", CPResult), ("hosvd", TuckerResult)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_type_and_dtype_are_kept(name, kind, dtype):
    layer, moments = a_layer(True, dtype), moments_of(6, 6)
    result = steps(name, layer, moments)[-1](layer)
    assert type(result) is kind
    assert {term.data.dtype for term in result.terms()} == {dtype}
    noise = torch.finfo(dtype).eps * 20 if dtype != torch.float64 else 1e-9
    assert result.report.metric_error <= noise
    assert relative_error(*(whiten(part.to(dtype=torch.float64), moments) for part in (result, layer))) <= noise


def test_a_type_whose_arrays_are_fields_is_kept_and_any_other_becomes_a_layer():
    layer, moments = a_layer(False), moments_of(6, 6)
    assert type(decompose(layer, "kept_units", moments=moments)).__name__ == "UnitsResult"
    plain = decompose(layer, lambda given: given, moments=moments, ridge=0)
    assert type(plain) is BilinearLayer
    assert (plain.basis, plain.history[-1][:9]) == (layer.basis, "Whitened(")
    assert relative_error(plain, layer) <= 1e-12
    with pytest.raises(ValueError, match="changed the open modes"):
        decompose(layer, lambda given: given.change_basis(outputs=normal(2, 3)), moments=moments)
    with pytest.raises(ValueError, match=r"share one dtype; got the layer that the strategy was given torch.float64"):
        decompose(layer, lambda given: given.to(dtype=torch.float32), moments=moments)


def test_one_place_serves_names_objects_networks_and_sweeps():
    layer, moments = a_layer(False), moments_of(6, 6)
    named = decompose(layer, "eigen", rank=2, moments=moments, ridge=0.1)
    assert "Whitened(strategy=Eigen(directions=every output, rank=2)" in named.report.method
    for same in (
        Whitened(Eigen(rank=2), moments, 0.1)(layer),
        decompose(layer, Eigen(rank=2), moments=moments, ridge=0.1),
        decompose(BilinearNetwork([layer]), "eigen", rank=2, moments=moments, ridge=0.1)[0],
        decompose(BilinearNetwork([layer]), {0: Whitened(Eigen(rank=2), moments, 0.1)})[0],
    ):
        assert torch.equal(same.eigenvectors, named.eigenvectors)
    records = sweep(layer, "eigen", {"rank": [1, 2], "moments": [moments], "ridge": [0.1]})
    assert records[1]["relative_error"] == named.relative_error
    square = layer_of(6, 6, 4, 3)
    network = BilinearNetwork([square, layer])
    two = decompose(network, "eigen", rank=2, moments=[moments_of(6, 6, seed=20), moments])
    assert [part.report.metric.count for part in two] == [300, 300]
    one = decompose(network, "eigen", rank=2, moments={-1: moments})
    assert [part.report.metric is None for part in one] == [True, False]
    assert decompose(layer, "eigen", moments=None).report.metric is None


def test_an_option_of_the_strategy_of_the_same_name_goes_to_the_strategy():
    class Ridged:
        def __init__(self, ridge: float = 3.0) -> None:
            self.ridge = ridge

        def __call__(self, layer):
            return decompose(layer, "eigen")

        def __repr__(self):
            return f"Ridged({self.ridge})"

    register_decomposition("ridged")(Ridged)
    moments = moments_of(6, 6)
    found = decompose(a_layer(False), "ridged", ridge=5.0, moments=moments)
    assert "Ridged(5.0)" in found.report.method
    assert found.report.metric.ridge == 1e-2


def test_a_start_is_given_in_the_coordinates_of_the_layer():
    layer, moments = a_layer(True), moments_of(6, 6)
    found = decompose(layer, "symmetric_cp", rank=3, moments=moments)
    again = decompose(layer, SymmetricCP(3, start=found, max_iterations=1), moments=moments)
    assert again.report.metric_error <= found.report.metric_error * (1 + 1e-9)
    assert again.report.convergence[0] == pytest.approx(found.report.metric_error, rel=1e-6)


def test_gradients_flow_through_the_metric():
    layer = BilinearLayer(
        **{
            k: v.requires_grad_()
            for k, v in zip(("down", "left", "right"), (normal(3, 5), normal(6, 5), normal(6, 5, seed=2)), strict=True)
        }
    )
    result = decompose(layer, "eigen", moments=moments_of(6, 6))
    result.eigenvalues.square().sum().backward()
    assert all(bool(part.grad.abs().max() > 0) for part in (layer.down, layer.left, layer.right))


@LIFTED
def test_the_gradient_of_the_metric_norm_is_that_of_autograd(lifted):
    """Of ||B||_S, by the factors of the whitened layer and on the dense tensor."""
    moments, layer = moments_of(6, 6), a_layer(lifted)
    s, factors = second_moment(moments, lifted), ("down", "left", "right")
    grads = []
    for of in ("factors", "entries"):
        parts = {name: getattr(layer, name).clone().requires_grad_() for name in factors}
        if of == "factors":
            found = norm(Metric.of(moments, lifted=lifted).whiten(replace(layer, **parts)))
        else:
            tensor = torch.einsum("or,ir,jr->oij", *parts.values())
            tensor = (tensor + tensor.mT) / 2
            found = (tensor * (s @ tensor @ s)).sum().sqrt()
        grads.append(torch.autograd.grad(found, list(parts.values())))
    for own, expected in zip(*grads, strict=True):
        assert (own - expected).abs().max() <= 1e-10 * expected.abs().max()


@LIFTED
@SINGULAR
def test_the_gradient_of_the_metric_error_is_that_of_autograd(lifted, rank):
    """Of ||B - A||_S^2 by the factors of A: from the inner products of factors, and on the dense tensors."""
    moments, factors = moments_of(6, rank), ("down", "left", "right")
    layer, candidate = (a_layer(lifted, seed=seed).drop_constant() for seed in (1, 2))
    s, metric, grads = second_moment(moments, lifted), Metric.of(moments, lifted=lifted), []
    for of in ("factors", "entries"):
        parts = {name: getattr(candidate, name).clone().requires_grad_() for name in factors}
        if of == "factors":
            a, b = metric.whiten(replace(candidate, **parts)), metric.whiten(layer)
            found = inner(b, b).to_tensor() - 2 * inner(a, b).to_tensor() + inner(a, a).to_tensor()
        else:
            rest = dense(layer) - torch.einsum("or,ir,jr->oij", *parts.values())
            rest = (rest + rest.mT) / 2
            found = (rest * (s @ rest @ s)).sum()
        grads.append(torch.autograd.grad(found, list(parts.values())))
    for own, expected in zip(*grads, strict=True):
        assert (own - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_a_ridge_is_independent_noise_on_both_inputs():
    """||B||_{S + eI}^2 = ||B||_S^2 + 2 e sum <B_k, S B_k> + e^2 ||B||^2."""
    layer, moments = a_layer(False), moments_of(6, 4)
    s, b = second_moment(moments, False), dense(layer.symmetrize())
    e = 0.3 * float(s.trace()) / 6
    found = dense(Metric.of(moments, ridge=0.3).whiten(layer).symmetrize()).square().sum()
    expected = (b * (s @ b @ s)).sum() + 2 * e * (b * (s @ b)).sum() + e**2 * b.square().sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_what_to_know_of_the_metric_is_a_warning():
    layer = a_layer(True)
    few = decompose(layer, "eigen", moments=Moments.of(normal(5, 6, seed=1)), ridge=0).report
    assert few.warnings[0].startswith(
        "the metric comes from 5 inputs in 6 dimensions, which determine it to about 110%"
    )
    assert few.warnings[1].startswith("the metric has rank 4 of 6: the result is zero on the other directions")
    many = decompose(layer, "eigen", moments=moments_of(6, 6)).report
    assert not [text for text in many.warnings if "metric" in text]


def test_a_metric_on_another_device_and_in_a_file(tmp_path):
    result = decompose(a_layer(True), "hosvd", moments=moments_of(6, 6))
    save(result, tmp_path / "kept.safetensors")
    again = load(tmp_path / "kept.safetensors")
    assert torch.equal(again.patterns, result.patterns)
    assert again.report.metric_error == result.report.metric_error
    assert torch.equal(result.to("cpu").metric.root, result.metric.root)


def test_a_prior_on_outputs_is_the_same_in_every_metric():
    found = decompose(a_layer(False), CP(2, priors=[Sparse("outputs")], max_iterations=3), moments=moments_of(6, 6))
    assert found.report.metric is not None


def test_a_stream_gives_the_moments_of_all_its_inputs():
    x = normal(50, 4, seed=3) + 2
    for stream in (x.split(7), (batch for batch in x.split(50)), [x[:1], x[1:]]):
        found, whole = Moments.of(stream), Moments.of(x)
        assert found.count == 50
        torch.testing.assert_close(found.mean, whole.mean, rtol=1e-13, atol=0)
        torch.testing.assert_close(found.covariance, whole.covariance, rtol=0, atol=1e-13)
