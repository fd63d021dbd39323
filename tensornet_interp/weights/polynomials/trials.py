"""Compare a network with the graph that it was read from, in float64, and with the module, in its own dtype."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.network import BilinearNetwork
from tensornet_interp.weights.polynomials.values import Value, degree, evaluate

_COUNT = 32
_STEPS = 16  # roundings per degree that a forward pass may have, each of the size of what is added up


def probes(example: Tensor) -> Tensor:
    """Return at most 32 samples of the example and 32 random samples of similar size.

    The random samples have the root mean square of the example. If the example holds whole numbers, the second part
    holds its samples with the last axis reversed instead.
    """
    given = example[:_COUNT].detach()
    if not example.is_floating_point():
        return torch.cat([given, given.flip(-1)])
    wide = example.detach().to("cpu").to(torch.float64)
    scale = float(wide.square().mean().sqrt()) or 1.0
    generator = torch.Generator().manual_seed(0)
    shape = (_COUNT, *example.shape[1:])
    random = scale * torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return torch.cat([given, random.to(example.device, example.dtype)])


def check_against_graph(network: BilinearNetwork, source: Value, output: Value, x: Tensor) -> None:
    """Raise ValueError unless a float64 network computes the same as the graph on rows x (sample, in)."""
    expected = torch.stack([evaluate([output], {source: row.reshape(source.shape)})[0].reshape(-1) for row in x])
    _compare(network(x), expected, _tolerance(network, x, degree(output), torch.float64), "the graph of model", x.dtype)


def check_against_model(
    network: BilinearNetwork, model: Callable[[Tensor], Tensor], samples: Tensor, power: int
) -> None:
    """Raise ValueError unless a float64 network, rounded to the samples' dtype, computes the same as the module.

    The module gets the samples together and one by one, which shows whether it mixes the rows of a batch. power: the
    degree of the polynomial, which determines the tolerance.
    """
    with torch.no_grad(), _full_precision():
        apart = torch.cat([_call(model, sample[None]) for sample in samples])
        together = _call(model, samples)
        again = _call(model, samples[:1])
        x = samples.reshape(len(samples), -1)
        tolerance = _tolerance(network, x.to(network.layers[0].down), power, samples.dtype)
        found = network.to(samples.device, samples.dtype)(x)
    if not bool(torch.isfinite(apart[0]).all()):
        raise ValueError(f"model gives NaN or infinity at the example in {samples.dtype}: scale the example down")
    if _worst(again, apart[:1], tolerance[:1]) > 1:
        raise ValueError("model gives two outputs for one input, so it depends on more: a state, or random numbers")
    if together.shape != apart.shape or _worst(together, apart, tolerance) > 1:
        raise ValueError(
            "model mixes the rows of a batch (as x - x.mean(0) does): a sample alone gives another output than in a"
            f" batch of {len(samples)}, so no function of one input describes it"
        )
    _compare(found, apart, tolerance, "model", samples.dtype)


def watch(model: torch.nn.Module, paths: Iterable[str], samples: Tensor) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Call the model once; return inputs and outputs of the submodules that take one tensor and return one tensor."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in paths}
    for path, pairs in seen.items():

        def keep(
            module: object, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, pairs: Any = pairs
        ) -> None:
            tensors = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
            if len(tensors) == 1 and isinstance(result, Tensor):
                pairs.append((tensors[0].clone(), result.clone()))

        model.get_submodule(path.partition("@")[0]).register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad(), _full_precision():
        _call(model, samples)
    return seen


def check_part(network: BilinearNetwork, path: str, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Check a float64 part on the inputs and outputs of its submodule, if these have one row per sample."""
    n_in, n_out = network.sizes["in1"] - network.constant_in, network.sizes["out"]
    for x, y in pairs:
        if len(x) == len(y) and (x[0].numel(), y[0].numel()) == (n_in, n_out):
            wide, y = x.reshape(len(x), -1).to(network.layers[0].down), y.reshape(len(y), -1)
            tolerance = _tolerance(network, wide, 2 ** len(network), y.dtype)
            _compare(network(wide), y, tolerance, f"model's {path}", y.dtype)


def _call(model: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """Return rows (sample, out) of the module, which gets a copy because it may write to its input."""
    try:
        result = model(samples.clone())
    except Exception as error:  # the user's code
        raise ValueError(f"model fails on a batch of {len(samples)} such as example: {repr(error)[:300]}") from None
    if not isinstance(result, Tensor):
        return samples
    return result.reshape(len(samples) if result.shape[:1] == samples.shape[:1] else 1, -1)


def _tolerance(network: BilinearNetwork, x: Tensor, power: int, dtype: torch.dtype) -> Tensor:
    """Return a bound (sample, out) on the rounding error of one evaluation: a share of the sums of magnitudes."""
    size = network.parts[0].lift_input("x", x).abs()
    for layer in network.layers:
        size = ((size @ layer.left.abs()) * (size @ layer.right.abs())) @ layer.down.abs().T
    return _STEPS * min(power, 64) * torch.finfo(dtype).eps * size + torch.finfo(dtype).tiny


def _worst(found: Tensor, expected: Tensor, tolerance: Tensor) -> float:
    """Return the largest ratio of difference and tolerance over the samples with finite expected values."""
    found, expected = found.to(tolerance), expected.to(tolerance)
    finite = torch.isfinite(expected).all(1) & torch.isfinite(tolerance).all(1)
    ratio = ((found - expected).abs() / tolerance)[finite]
    return float(ratio.nan_to_num(torch.inf).max()) if len(ratio) else 0.0


def _compare(found: Tensor, expected: Tensor, tolerance: Tensor, what: str, dtype: torch.dtype) -> None:
    if _worst(found, expected, tolerance) <= 1:
        return
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"the network overflows in {dtype} where {what} does not; give model and example in float64")
    difference, size = (float(part.abs().max()) for part in (found.to(expected) - expected, expected))
    raise ValueError(
        f"the network differs from {what} by up to {difference:.1e} at outputs of up to {size:.1e}, which is more than"
        f" {dtype} rounds; does the forward pass depend on more than its input (a state, hooks, autocast)?"
    )


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Compute products in their full dtype, because GPUs may round float32 to ten bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
