"""Gates by name: the functions of one number that gated MLPs apply to their left half."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tensornet_interp.checks import check_choice

Gate = str | Callable[[Tensor], Tensor]


def _tanh_gelu(u: Tensor) -> Tensor:
    return functional.gelu(u, approximate="tanh")


# by the names that configs use
GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": lambda u: u * torch.sigmoid(1.702 * u),
    "relu": functional.relu,
    "relu2": lambda u: functional.relu(u).square(),
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "swish": functional.silu,
    "tanh": torch.tanh,
}


def gate_function(gate: Gate) -> Callable[[Tensor], Tensor]:
    """Return the function of a gate, which is a name of `GATES` or the function itself."""
    return GATES[gate] if isinstance(gate, str) else gate


def check_gate(gate: object, name: str = "gate") -> None:
    """Raise an error unless the gate is a name of `GATES` or a function of one number that acts entry by entry.

    The function is tried on nine numbers between -4 and 4: in order, in reverse, and one by one.
    """
    if isinstance(gate, str):
        check_choice(name, gate, GATES)
        return
    if not callable(gate) or isinstance(gate, type):
        raise TypeError(f"{name} must be one of {', '.join(GATES)}, or a function of a tensor, got {gate!r}")
    u = torch.linspace(-4, 4, 9, dtype=torch.float64, device=torch.device("cpu"))
    with torch.no_grad():
        found = gate(u)
        if not isinstance(found, Tensor) or found.shape != u.shape or not found.is_floating_point():
            raise ValueError(f"{name} must return one number per entry of its tensor, got {found!r:.80}")
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{name} must be finite from -4 to 4, got {found.tolist()}")
        single = torch.cat([gate(entry) for entry in u.split(1)])
        if not (torch.allclose(gate(u.flip(0)).flip(0), found) and torch.allclose(single, found)):
            raise ValueError(f"{name} must be a function of one number, but entries of {gate!r} depend on each other")
