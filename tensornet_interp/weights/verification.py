"""Compare the outputs of a network, a layer or a decomposition with those of a model, on given inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.checks import check_batch, check_kind, check_size
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import as_network
from tensornet_interp.numerics import without_autocast
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, indexed

__all__ = ["Verification", "verify"]


@register_type("Verification")
@dataclass(frozen=True, eq=False)
class Verification:
    """A verification holds the difference between network(x) and model(x), with all axes after the batch flattened."""

    difference: float  # the largest |network(x) - model(x)|
    relative: float  # difference / the largest |model(x)|, or / 1 if all outputs are 0
    worst_input: int  # the row of x at which the difference is largest
    worst_output: int  # the output at which the difference is largest
    by_output: Tensor  # (out,), the largest difference of each output, float64
    samples: int

    def records(self) -> list[Record]:
        """Return one record per output with its largest difference."""
        return indexed(("output",), difference=self.by_output)

    def __str__(self) -> str:
        return (
            f"{self.samples} inputs, {len(self.by_output)} outputs: largest difference {self.difference:.1e}"
            f" ({self.relative:.1e} of the largest output), at input {self.worst_input}, output {self.worst_output}"
        )


@needs_float64
@without_autocast
def verify(network: TensorNetwork, model: Callable[[Tensor], Tensor], x: Tensor) -> Verification:
    """Return how far a network is from a model on inputs x (sample, ...).

    difference = max |network(x.reshape(sample, -1)) - model(x).reshape(sample, -1)|

    network: a layer, a decomposition or a network; it computes in its own dtype. model: any function of x, such as a
    module in evaluation mode or a submodule. Use this function also for weights that you copied by hand, and for
    truncated networks. Rounding gives a relative difference of about 1e-7 in float32 and 1e-16 in float64, times the
    number of layers.
    Raises ValueError if sizes differ, if the model is in training mode, or if its outputs are not finite.

    Example:
    >>> from tensornet_interp.testing import random_layer
    >>> layer = random_layer(3, 5, 4, seed=0)
    >>> found = verify(layer, lambda x: (x @ layer.left) * (x @ layer.right) @ layer.down.T, torch.ones(2, 5).double())
    >>> found.relative < 1e-12, tuple(found.by_output.shape)
    (True, (3,))
    """
    network = as_network(network)
    if not callable(model):
        raise TypeError(f"model must be a module or another function of x, got {type(model).__name__}")
    if isinstance(model, torch.nn.Module) and any(module.training for module in model.modules()):
        raise ValueError("model must be in evaluation mode, or dropout changes its outputs: call model.eval()")
    if check_batch("x", x, "in").ndim < 2:
        raise ValueError(f"x must be (sample, ...), got shape {tuple(x.shape)}")
    rows = x.reshape(len(x), -1)
    like = network.parts[0].to_layer().down
    with torch.no_grad():
        found = network(rows.to(like)).to(torch.float64)
        expected = model(x.clone())
    check_kind("the output of model", expected, Tensor)
    check_size("sample", x=len(x), **{"the output of model": len(expected) if expected.ndim else 0})
    expected = expected.detach().to(found).reshape(len(x), -1)
    check_size("out", network=found.shape[1], model=expected.shape[1])
    check_batch("the output of model", expected, "out")
    apart = (found - expected).abs().nan_to_num(torch.inf)
    worst = int(apart.argmax())
    difference, largest = float(apart.max()), float(expected.abs().max())
    return Verification(
        difference=difference,
        relative=difference / (largest or 1.0),
        worst_input=worst // apart.shape[1],
        worst_output=worst % apart.shape[1],
        by_output=apart.amax(0),
        samples=len(x),
    )
