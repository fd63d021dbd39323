"""Laws of decompositions: each function checks one law on results, and returns what is wrong, or None."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensornet_interp.contraction import Term, contract
from tensornet_interp.decompositions import decompose
from tensornet_interp.float64 import to_float64
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.network import BilinearNetwork
from tensornet_interp.report import Report
from tensornet_interp.sweep import parameters

Method = Callable[[BilinearLayer], TensorNetwork]

_ROOT = 1e-7  # the square root of what rounding leaves of a relative squared error


@dataclass(frozen=True)
class Run:
    """A run holds the results of two equal calls for one layer; `changed` names what the first call wrongly changed."""

    method: Method
    layer: BilinearLayer
    result: BilinearMap
    again: BilinearMap
    changed: tuple[str, ...]

    @cached_property
    def error(self) -> float:
        """Return the relative error between symmetrized tensors, measured on the entries."""
        layer = _dense(self.layer)
        return float((_dense(self.result) - layer).norm() / layer.norm())

    @property
    def slack(self) -> float:
        """Return ten times the rounding error of the layer's dtype, or 0 for float64."""
        return 0.0 if self.layer.down.dtype == torch.float64 else 10 * torch.finfo(self.layer.down.dtype).eps

    @property
    def report(self) -> Report | None:
        """Return the report of the result, if it has one."""
        report = getattr(self.result, "report", None)
        return report if isinstance(report, Report) else None


def run(method: Method, layer: BilinearLayer) -> Run:
    """Decompose a layer twice, then restore the layer and the global state."""
    before = [term.data.clone() for term in layer.terms()]
    with kept_global_state() as state:
        result = decompose(layer, method)
        changed = [name for name, value in _global_state().items() if not _equal(value, state[name])]
        if not _equal([term.data for term in layer.terms()], before):
            changed.append("the layer")
        again = decompose(layer, method)
    for term, data in zip(layer.terms(), before, strict=True):
        term.data.copy_(data)
    return Run(method, layer, result, again, tuple(changed))


def _dense(part: BilinearMap) -> Tensor:
    """Return the symmetrized tensor of the terms, in float64."""
    tensor = contract([Term(to_float64(data.detach()), modes) for data, modes in part.terms()], part.modes)
    return (tensor + tensor.mT) / 2


def _global_state() -> dict[str, Any]:
    """Return, by name, the global state that a decomposition must not change."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "torch's random state": [torch.get_rng_state(), *cuda],
        "numpy's random state": np.random.get_state(),  # noqa: NPY002 - the global stream is what must not move
        "Python's random state": random.getstate(),
        "the grad mode": torch.is_grad_enabled(),
        "the default dtype": torch.get_default_dtype(),
    }


@contextmanager
def kept_global_state() -> Iterator[dict[str, Any]]:
    """Restore the global state (see `_global_state`) at the end, whatever a decomposition does."""
    state = _global_state()
    try:
        yield state
    finally:
        cpu, *cuda = state["torch's random state"]
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        np.random.set_state(state["numpy's random state"])  # noqa: NPY002
        random.setstate(state["Python's random state"])
        torch.set_grad_enabled(state["the grad mode"])
        torch.set_default_dtype(state["the default dtype"])


def _equal(first: Any, second: Any) -> bool:
    """Return True if two values are equal; arrays must be equal in every entry."""
    if isinstance(first, Tensor | np.ndarray):
        return first.shape == second.shape and bool((first == second).all())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)


def same_place(made: Run) -> str | None:
    """The result has the dtype and the device of the layer."""
    found, wanted = made.result.to_layer().down, made.layer.down
    if (found.dtype, found.device) == (wanted.dtype, wanted.device):
        return None
    return f"its factors are {found.dtype} on {found.device}, those of the layer {wanted.dtype} on {wanted.device}"


def same_origin(made: Run) -> str | None:
    """The result has the name, basis and constants of the layer, and its history starts with the layer's history."""
    found, layer = made.result.to_layer(), made.layer
    for what in ("name", "basis", "constant_in", "constant_out"):
        if getattr(found, what) != getattr(layer, what):
            return f"{what} became {getattr(found, what)!r}, that of the layer is {getattr(layer, what)!r}"
    if found.history[: len(layer.history)] != layer.history:
        return f"history became {found.history}, that of the layer is {layer.history}"
    return None


def nothing_changed(made: Run) -> str | None:
    """The call changes neither the layer nor the global state."""
    return f"the call changed {', '.join(made.changed)}" if made.changed else None


def repeatable(made: Run) -> str | None:
    """Two calls give the same arrays, bit for bit."""
    first, second = ([term.data for term in part.terms()] for part in (made.result, made.again))
    return None if _equal(first, second) else "two calls gave two answers"


def consistent(made: Run) -> str | None:
    """The result gives the same outputs by terms(), by to_layer(), as a call, and as the last part of a network."""
    layer, result = made.layer, made.result
    generator = torch.Generator().manual_seed(5)
    size = layer.shape[1] - layer.constant_in
    x = torch.randn(6, size, generator=generator, dtype=torch.float64, device="cpu").to(layer.down)
    lifted = to_float64(layer.lift_input("x", x))
    wanted = torch.einsum("oij,bi,bj->bo", _dense(result), lifted, lifted)[:, int(layer.constant_out) :]
    ways: dict[str, BilinearMap | BilinearNetwork] = {
        "to_layer()": result.to_layer(),
        "the call": result,
        "a network": BilinearNetwork([result]),
    }
    for way, part in ways.items():
        off = float((to_float64(part(x).detach()) - wanted).abs().max())
        if off > (1e-9 + made.slack * layer.rank * size) * float(wanted.abs().max()):
            return f"{way} gives other outputs than terms(), by up to {off:.3g}"
    return None


def no_worse_than_zero(made: Run) -> str | None:
    """The relative error is at most 1."""
    return None if made.error <= 1 + 1e-9 + made.slack else f"relative error {made.error:.6g}; the zero layer has 1"


def true_report(made: Run) -> str | None:
    """The errors in the report are the true errors of the result."""
    if made.report is None:
        return None
    error, off = made.error, 1e-6 * made.error + max(_ROOT, made.slack)
    said = {"relative_error": made.report.relative_error, "convergence[-1]": [None, *made.report.convergence][-1]}
    for what, number in said.items():
        if number is not None and not abs(number - error) <= off:
            return f"{what} says {number:.6g}, but the relative error is {error:.6g}"
    bound = made.report.relative_error_bound
    if bound is not None and not bound >= error - off:
        return f"relative_error_bound says {bound:.6g}, but the relative error is {error:.6g}"
    return None


def fitted(made: Run) -> str | None:
    """No multiple of the result fits the layer better than the result."""
    result, layer = _dense(made.result), _dense(made.layer)
    scalar = float((result * layer).sum() / result.square().sum()) if result.any() else 1.0
    return None if abs(scalar - 1) <= 1e-6 + made.slack else f"times {scalar:.7g} it fits the layer better"


def odd(made: Run) -> str | None:
    """The decomposition of -layer is minus that of layer; a layer with a constant output is not tested."""
    if made.layer.constant_out:
        return None
    minus = decompose(replace(made.layer, down=-made.layer.down), made.method)
    off = float((_dense(minus) + _dense(made.result)).norm() / _dense(made.layer).norm())
    return None if off <= 1e-6 + made.slack else f"f(layer) + f(-layer) is {off:.3g} of the layer, and should be 0"


def parameters_grow(before: Run, after: Run) -> str | None:
    """A step of the ladder holds more numbers than the step before."""
    held, more = parameters(before.result), parameters(after.result)
    return None if more > held else f"it holds {more} numbers; {before.method!r}, the step before, holds {held}"


def error_falls(before: Run, after: Run) -> str | None:
    """A step of the ladder has no larger error than the step before."""
    if after.error <= before.error + 1e-12 + after.slack:
        return None
    return f"relative error {after.error:.6g}; {before.method!r}, the step before, has {before.error:.6g}"


def exact(last: Run, tolerance: float) -> str | None:
    """The last step of the ladder reproduces the layer."""
    tolerance = max(tolerance, last.slack * last.layer.rank)
    return None if last.error <= tolerance else f"relative error {last.error:.6g}, more than {tolerance:.3g}"


def zero_to_zero(made: Run) -> str | None:
    """The decomposition of the zero layer is zero, or raises ValueError."""
    try:
        found = _dense(decompose(replace(made.layer, down=0 * made.layer.down), made.method))
    except ValueError:
        return None
    return f"that of the zero layer has entries up to {float(found.abs().max()):.3g}" if found.any() else None


def shown(made: Run) -> str | None:
    """The repr of the method is not an address, because reports and tables show it."""
    text = repr(made.method)
    return "its repr is an address, and should show its options" if " at 0x" in text or not text else None


THE_REPORT = "the numbers of the report are true"
ALWAYS: dict[str, Callable[[Run], str | None]] = {
    "dtype and device kept": same_place,
    "name, basis, history and constants kept": same_origin,
    "layer, global random state and settings untouched": nothing_changed,
    "same call, same answer": repeatable,
    "terms, layer, call and network agree": consistent,
    "no worse than the zero layer": no_worse_than_zero,
    THE_REPORT: true_report,
    "a zero layer gives zero or a ValueError": zero_to_zero,
    "repr shows options": shown,
}
DECLARED = {  # by the attribute of the class that declares it
    "nested": "the error never rises along the ladder",
    "fitted": "the best scalar is 1",
    "odd": "f(-layer) = -f(layer)",
}
