"""Networks in the form of other libraries: quimb's tensor networks. For TensorLy's tensors, see `from_tensorly`."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tensornet_interp.checks import check_list
from tensornet_interp.contraction import Modes, Term, mode_sizes
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import check_network
from tensornet_interp.optional import optional
from tensornet_interp.store import register_type

__all__ = ["TermNetwork", "from_quimb", "to_quimb"]


@register_type("TermNetwork", ["arrays", "modes"], make=lambda arrays, modes: TermNetwork(arrays, modes))
class TermNetwork(TensorNetwork):
    """A term network is made of any terms and open modes, from another library or put together by hand.

    terms: the arrays with their modes. modes: the open modes; a mode that several terms share may be open too.
    Raises ValueError if an open mode is in no term or named twice, or if sizes, dtypes or devices of terms differ.

    Example:
    >>> terms = [Term(torch.ones(2, 3), ("out", "rank")), Term(torch.ones(4, 3), ("in", "rank"))]
    >>> TermNetwork(terms, ("out", "in")).to_tensor().shape
    torch.Size([2, 4])
    """

    def __init__(self, terms: Sequence[Term], modes: Sequence[str]) -> None:
        sizes = mode_sizes(terms)
        if not terms:
            raise ValueError("terms is empty: a network needs at least one array")
        self.arrays = tuple(Term(term.data, tuple(term.modes)) for term in terms)
        self._modes = tuple(check_list("modes", modes))
        for mode in self._modes:
            if not isinstance(mode, str) or mode not in sizes:
                raise ValueError(f"modes: {mode!r} is in no term; the terms have: {', '.join(sizes)}")
        if len(set(self._modes)) < len(self._modes):
            raise ValueError(f"modes names a mode twice: {self._modes}")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{mode}={size}" for mode, size in self.sizes.items())
        return f"TermNetwork({len(self.arrays)} terms, {sizes})"

    @property
    def modes(self) -> Modes:
        """Return the open modes, in the order of the axes of `to_tensor()`."""
        return self._modes

    def terms(self) -> tuple[Term, ...]:
        """Return the arrays with their modes."""
        return self.arrays


def to_quimb(network: TensorNetwork) -> tuple[Any, Modes]:
    """Return a layer, a result or a network as a tensor network of quimb, and its open modes.

    Every term becomes one tensor over the same array; its modes become indices. The hidden units of a layer are one
    index of three tensors (a hyperedge). quimb sums such an index unless its argument output_inds names the index, so
    pass the open modes as output_inds to the methods of quimb.
    Raises ImportError if quimb is not installed.
    """
    quimb = _quimb("to make a quimb network")
    check_network("network", network)
    return quimb.TensorNetwork([quimb.Tensor(data, modes) for data, modes in network.terms()]), network.modes


def from_quimb(network: Any, output_inds: Sequence[str]) -> TermNetwork:
    """Return a tensor network or a tensor of quimb as a network of terms, with these open modes.

    output_inds: the open indices, in the order of the axes; an index of several tensors may be open too. An index may
    belong to any number of tensors. Arrays of torch and numpy are shared. If quimb keeps an exponent apart, the first
    array is multiplied by 10 to this power.

    Raises ImportError if quimb is not installed. Raises TypeError for another object, or if arrays are not real
    floating point. Raises ValueError if an open index is in no tensor or named twice.
    """
    quimb = _quimb("to read a quimb network")
    if not isinstance(network, quimb.Tensor | quimb.TensorNetwork):
        raise TypeError(f"network must be a quimb TensorNetwork or Tensor, got {type(network).__name__}")
    tensors = [network] if isinstance(network, quimb.Tensor) else list(network.tensors)
    arrays = [_as_torch(t.data) for t in tensors]
    exponent = getattr(network, "exponent", 0.0)
    if exponent and arrays:
        arrays[0] = arrays[0] * 10.0**exponent
    return TermNetwork([Term(data, t.inds) for data, t in zip(arrays, tensors, strict=True)], output_inds)


def _as_torch(data: Any) -> Any:
    """Return a numpy array as a tensor, over the same memory if it is writable; return other objects unchanged."""
    if not isinstance(data, np.ndarray | np.generic | float):
        return data
    return torch.from_numpy(np.require(np.asarray(data), requirements=["C", "W"]))


def _quimb(purpose: str) -> ModuleType:
    """Return quimb's module of tensor networks; raise ImportError with a hint if quimb is not installed."""
    return optional("quimb.tensor", purpose, "interop")
