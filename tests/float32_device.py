"""Tests on a device without float64: `pytest tests/float32_device.py --second-device float32`."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from helpers import layer_of, normal
from measure_float32 import problems
from torch.utils.data import DataLoader

from tensornet_interp import (
    BilinearNetwork,
    Eigen,
    Moments,
    decompose,
    inner,
    layer_moments,
    load,
    norm,
    odt,
    relative_error,
    save,
    similarity,
)
from tensornet_interp.adversarial import adversarial_masks, baseline_masks
from tensornet_interp.attention import AttentionLayer, Part, SequenceNetwork, stream_moments
from tensornet_interp.checks import DTYPES
from tensornet_interp.circuits import circuit
from tensornet_interp.compare import component_trust, match, null, stability
from tensornet_interp.decompositions import BUILT_IN
from tensornet_interp.features import feature_interactions
from tensornet_interp.fidelity import certificate, fidelity, network_fidelity, truncation_curve
from tensornet_interp.float64 import has_float64, needs_float64, to_float64
from tensornet_interp.inner_products import Gaussian, Symmetric
from tensornet_interp.metric import Metric
from tensornet_interp.spectra import checkpoint_spectra, invariants, spectra
from tensornet_interp.sweep import sweep
from tensornet_interp.testing import check_decomposition, random_layer
from tensornet_interp.weights import from_module, verify

F32 = torch.float32
SAYS = "device second:0 has no float64, so the CPU computed this"
OPTIONS = {"cp": {"max_iterations": 20}, "symmetric_cp": {"max_iterations": 20}, "block_term": {"max_iterations": 20}}
OPTIONS |= {"tucker": {"max_iterations": 20}, "random_components": {"rank": 3}}
OPTIONS |= {name: {"rank": 2} for name in BUILT_IN if name.startswith("tensorly")}


def made(device, seed=0, sizes=(3, 5, 4)):
    return layer_of(*sizes, seed=seed, device=device, dtype=F32)


def stack(device, seed=0):
    return BilinearNetwork([made(device, seed, (5, 5, 4)), made(device, seed + 3)])


def inputs(device, count=20):
    return normal(count, 5, seed=7, device=device, dtype=F32)


def heads(device):
    def draw(*shape, seed):
        return normal(*shape, seed=seed, device=device, dtype=F32)

    queries, keys = [draw(4, 5, seed=1)], [draw(4, 5, seed=3)]
    value, out = draw(6, 5, seed=5), draw(5, 6, seed=6)
    layer = AttentionLayer.from_weights(
        queries=queries, keys=keys, value=value, out=out, heads=2, positions=3, rotary=9
    )
    return SequenceNetwork([Part(layer, 1.0), made(device)])


def gaussian(device):
    return Gaussian(Moments.of(inputs(device)))


CALLS = {
    f'decompose(layer, "{name}")': lambda device, name=name: decompose(made(device), name, **OPTIONS.get(name, {}))
    for name in BUILT_IN
} | {
    "in a metric": lambda device: decompose(made(device), "eigen", moments=Moments.of(inputs(device))),
    "a network": lambda device: decompose(stack(device), "output_svd", rank=2),
    "given directions": lambda device: Eigen(directions=normal(2, 3, device=device, dtype=F32))(made(device)),
    "norm": lambda device: norm(made(device)),
    "relative_error": lambda device: relative_error(decompose(made(device), "eigen", rank=1), made(device)),
    "inner": lambda device: inner(stack(device), stack(device, 20)),
    "inner, symmetric": lambda device: inner(stack(device), stack(device, 20), kind=Symmetric()),
    "inner, gaussian": lambda device: inner(stack(device), stack(device, 20), kind=gaussian(device)),
    "similarity of three": lambda device: similarity([made(device, seed) for seed in (0, 5, 9)]),
    "odt": lambda device: odt(stack(device), Moments.of(inputs(device))).truncate(2),
    "spectra": lambda device: spectra(made(device), torch.eye(3, device=device), 2, progress=False),
    "converged": lambda device: spectra(made(device), torch.eye(3, device=device), 2, progress=False).converged,
    "invariants": lambda device: invariants(made(device), torch.eye(3, device=device)),
    "circuit": lambda device: circuit(stack(device), normal(3, device=device, dtype=F32), widths=2, progress=False),
    "fidelity": lambda device: fidelity(decompose(made(device), "cp", rank=2), made(device), inputs(device)),
    "network_fidelity": lambda device: network_fidelity(
        decompose(stack(device), "eigen", rank=2), stack(device), inputs(device)
    ),
    "truncation_curve": lambda device: truncation_curve(
        decompose(made(device), "eigen"), made(device), inputs(device), None, [1, 2]
    ),
    "certificate": lambda device: certificate(decompose(made(device), "eigen"), 1, inputs(device)),
    "masks": lambda device: adversarial_masks(normal(2, 1, 5, device=device, dtype=F32)),
    "random masks": lambda device: baseline_masks(inputs(device)[0], kind="gaussian", draws=3, seed=0),
    "Moments.of": lambda device: Moments.of(inputs(device)),
    "layer_moments": lambda device: layer_moments(stack(device), inputs(device)),
    "stream_moments": lambda device: stream_moments(heads(device), Moments.of(inputs(device))),
    "match": lambda device: match(decompose(made(device), "eigen"), decompose(made(device, 9), "eigen")),
    "component_trust": lambda device: component_trust(decompose(made(device), "eigen", rank=2), made(device)),
    "stability": lambda device: stability([decompose(made(device, seed), "eigen") for seed in (0, 5, 9)], controls=1),
    "feature_interactions": lambda device: feature_interactions(
        made(device), normal(3, device=device, dtype=F32), normal(5, 7, device=device, dtype=F32), basis="made"
    ).top(3),
    "sweep": lambda device: sweep(made(device), "cp", {"rank": [1, 2]}, seeds=[0], progress=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_what_the_cpu_gives_and_gives_it_on_the_device(device, name):
    assert problems(CALLS[name](device), CALLS[name]("cpu")) == []


@pytest.mark.parametrize("method", BUILT_IN)
def test_the_report_of_every_method_says_where_it_was_computed(device, method):
    result = decompose(made(device), method, **OPTIONS.get(method, {}))
    assert result.report.warnings[-1] == SAYS
    assert result.report.warnings.count(SAYS) == 1
    assert SAYS not in decompose(made("cpu"), method, **OPTIONS.get(method, {})).report.warnings


def test_estimates_and_spectra_say_it_too(device):
    draws = Symmetric(method="sampled", samples=100, seed=0)
    assert SAYS in inner(stack(device), stack(device, 20), kind=draws).warnings
    assert SAYS in spectra(made(device), torch.eye(3, device=device), 2, progress=False).report.warnings


@pytest.mark.parametrize("name", ["eigen", "hosvd"])
def test_the_laws_of_decompositions_hold_there(device, name):
    assert check_decomposition(name, device=device).passed


def test_asking_for_float64_is_an_error_that_names_the_device(device, tmp_path):
    wide, narrow = random_layer(3, 5, 4, seed=0), made(device)
    save(wide, tmp_path / "layer.safetensors")
    for call in (
        lambda: wide.to(device),
        lambda: narrow.to(dtype=torch.float64),
        lambda: decompose(wide, "cp").to(device),
        lambda: BilinearNetwork([wide]).to(device),
        lambda: random_layer(3, 5, 4, seed=0, device=device),
    ):
        with pytest.raises(ValueError, match=r"device second.* has no float64; give dtype=torch\.float32"):
            call()
    assert torch.equal(wide.to(device, F32).down.cpu(), wide.down.to(F32))


def test_what_is_always_float64_stays_on_the_cpu(device, tmp_path):
    moments = Moments.of(inputs("cpu"))
    metric = Metric.of(moments)
    result = decompose(made("cpu"), "output_svd", moments=moments)
    save(result, tmp_path / "result.safetensors")
    for moved in (result.to(device), load(tmp_path / "result.safetensors", device=device)):
        assert (moved.outputs.device.type, moved.singular_values.device.type) == ("second", "cpu")
        assert moved.report.metric.root.device.type == "cpu"
        assert problems(moved, result) == []
    for kept in (moments.to(device).mean, metric.to(device).root, Moments.standard(5, device=device).mean):
        assert (kept.device.type, kept.dtype) == ("cpu", torch.float64)
    wanted = Moments(moments.mean.to(F32), moments.covariance.to(F32))
    assert torch.equal(Moments(wanted.mean.to(device, F32), wanted.covariance.to(device, F32)).mean, wanted.mean)


def test_gradients_come_back_to_the_device(device):
    found = []
    for place in ("cpu", device):
        layer = made("cpu")
        down = layer.down.to(place).requires_grad_()
        whole = type(layer)(down=down, left=layer.left.to(place), right=layer.right.to(place))
        inner(whole, made(place, 9)).value.backward()
        found.append(down.grad)
    assert found[1].device.type == "second"
    assert torch.equal(found[1].cpu(), found[0])


def test_what_a_call_leaves_alone_is_the_same_object(device):
    network = stack(device)
    changed = decompose(network, {0: Eigen(rank=2)})
    assert changed[1] is network[1]
    assert changed[0] is not network[0]


@pytest.mark.parametrize("stream", [iter, list, lambda rows: DataLoader(rows, batch_size=None)])
def test_streams_of_batches(device, stream):
    rows = [inputs(device)[:9], inputs(device)[9:]]
    wanted = Moments.of(inputs("cpu"))
    assert torch.allclose(Moments.of(stream(rows)).covariance, wanted.covariance, 1e-12, 1e-12)
    wanted = layer_moments(stack("cpu"), inputs("cpu"))
    for found, whole in zip(layer_moments(stack(device), stream(rows)), wanted, strict=True):
        assert torch.allclose(found.covariance, whole.covariance, 1e-12, 1e-12)


def test_functions_of_the_caller_get_arrays_of_the_device(device):
    layer, seen = made(device), []

    def product(x):
        seen.append(x.device.type)
        return (x @ layer.left) * (x @ layer.right) @ layer.down.T

    assert verify(layer, product, inputs(device)).relative < 1e-6
    found = null(
        layer, "eigen", lambda made: seen.append(made.outputs.device.type) or made.eigenvalues.sum(), "shuffled", 2
    )
    assert found.values.shape == (2,)
    assert set(seen) == {"second"}


def test_arrays_in_dataclasses_of_others_are_found(device):
    @dataclass
    class Box:
        x: torch.Tensor

    @needs_float64
    def doubled(box):
        return Box((2 * to_float64(box.x)).to(F32))

    x = inputs(device)
    made = doubled(Box(x))
    assert made.x.device == x.device
    assert torch.equal(made.x.cpu(), 2 * x.cpu())


def test_modules_stay_on_the_device(device):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4)).eval()
    wanted = from_module(model, inputs("cpu"))
    model.to(device)
    found = from_module(model, inputs(device))
    assert problems(found, wanted) == []
    assert model[0].weight.device.type == "second"
    assert verify(found, model, inputs(device)).relative < 1e-6


def test_spectra_of_layers_go_to_a_store(device, tmp_path):
    found = [
        checkpoint_spectra([made(place)], torch.eye(3, device=place), 2, 1e-3, tmp_path / place, progress=False)
        for place in ("cpu", device)
    ]
    assert torch.equal(found[0].column("eigenvalue_0"), found[1].column("eigenvalue_0"))


def test_the_decorator_changes_nothing_elsewhere(device):
    @needs_float64
    def given(*values, **more):
        return values, more

    value = [torch.ones(2), {"a": made("cpu")}, range(3)]
    (same,), _ = given(value)
    assert same is value
    there = torch.ones(2, device=device)
    (back, wide), more = given(there, there.cpu().double(), again=[there, "text"])
    assert back is there
    assert more["again"][0] is there
    assert wide.device.type == "cpu"


def test_what_a_device_has_is_tried(device):
    assert not has_float64(torch.device(device))
    assert has_float64(torch.device("cpu"))
    assert has_float64(torch.device("meta"))
    for dtype in DTYPES[1:]:
        found = to_float64(torch.ones(2, dtype=dtype, device=device))
        assert (found.dtype, found.device.type) == (torch.float64, "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert relative_error(made(device), made(device)) < 1e-12
