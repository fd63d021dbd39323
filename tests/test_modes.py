"""What must not matter: threads, processes, default device and dtype, inference mode, autocast, deterministic mode.

And what `torch.compile` and `torch.func` can do with a layer.
"""

import contextlib
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from operations import CALLS, Inputs, numbers

from tensornet_interp import lift

EVERY_CALL = pytest.mark.parametrize("name", CALLS)


def result_of(name, given=None):
    return [part.detach() for part in numbers(CALLS[name](given or Inputs()))]


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for mine, other in zip(found, expected, strict=True):
        assert (mine.dtype, mine.device) == (other.dtype, other.device)
        torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


MODES = {
    "default device": lambda: default_device("meta"),  # anything made there has no values
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic,
}


@pytest.mark.parametrize("mode", MODES)
@EVERY_CALL
def test_numbers_are_those_without_the_mode(name, mode):
    given = Inputs(torch.float32)  # autocast leaves float64 alone
    expected = result_of(name, given)
    with MODES[mode]():
        found = result_of(name, given)
    assert_same(found, expected)


@EVERY_CALL
def test_layers_made_in_inference_mode_do(name):
    expected = result_of(name)
    with torch.inference_mode():
        assert_same(result_of(name), expected)


def test_autocast_of_the_forward_pass_reaches_no_gradient():
    given = Inputs(torch.float32)
    leaves = [given.x.clone().requires_grad_() for _ in range(2)]
    alone = given.layer(leaves[0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = given.layer(leaves[1])
        assert (given.x @ given.eye).dtype == torch.bfloat16  # autocast goes on after the call
    for value in (alone, inside):
        value.square().sum().backward()
    assert_same([leaves[1].grad], [leaves[0].grad])


THREADS = 8


def test_threads_at_once_compute_what_one_computes_alone():
    """Each begins at another call, so that different and same ones meet; all share inputs and the cache of plans."""
    given, names = Inputs(), list(CALLS)
    expected = {name: result_of(name, given) for name in names}
    start = threading.Barrier(THREADS)

    def work(number):
        mine = (names * 2)[number * len(names) // THREADS :][: len(names) // 2]
        start.wait(60)
        return {name: result_of(name, given) for name in mine}

    with ThreadPoolExecutor(THREADS) as pool:
        for found in pool.map(work, range(THREADS)):
            for name, tensors in found.items():
                assert_same(tensors, expected[name])


def everything(_):
    return {name: [part.numpy() for part in result_of(name)] for name in CALLS}


@pytest.mark.slow
def test_a_spawned_process_computes_the_same():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (found,) = pool.map(everything, [0])
    for name in CALLS:
        assert_same([torch.from_numpy(part) for part in found[name]], result_of(name))


# What can be traced: each takes one tensor, and the same values are computed in a trace of it
TRACED = {
    "layer": lambda g: (g.layer, g.x),
    "lifted layer": lambda g: (lift(g.layer, left_bias=g.bias, residual=0.5), g.x),
    "network": lambda g: (g.network, g.x),
    "result": lambda g: (g.spectrum, g.x),
    "contributions": lambda g: (g.layer.contributions, g.x),
    "activations": lambda g: (g.spectrum.activations, g.x),
    "interaction_matrix": lambda g: (g.layer.interaction_matrix, g.x),
    "encode": lambda g: (g.outputs.encode, g.x),
}


@pytest.mark.parametrize("name", TRACED)
def test_calls_compile_as_one_graph(name):
    function, x = TRACED[name](Inputs())
    torch.compiler.reset()
    assert_same([torch.compile(function, backend="eager", fullgraph=True)(x)], [function(x)])


@pytest.mark.parametrize("name", TRACED)
def test_calls_are_mapped_and_differentiated_by_torch_func(name):
    function, x = TRACED[name](Inputs())
    torch.testing.assert_close(torch.func.vmap(function)(x), function(x))
    torch.testing.assert_close(
        torch.func.vmap(torch.func.jacrev(function))(x)[2], torch.autograd.functional.jacobian(function, x[2])
    )


def test_what_cannot_be_seen_in_a_trace_is_an_error_outside_of_it():
    layer, bad = Inputs().layer, torch.full((5,), torch.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="x1 has 5 entries that are NaN"):
        layer(bad)
    assert torch.func.vmap(layer)(bad[None]).isnan().all()
