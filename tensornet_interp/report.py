"""Where a result comes from and how far it can be trusted."""

import functools
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tensornet_interp.layer import BilinearLayer

__all__ = ["Report", "Start", "versions"]


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what computed a result."""
    names = ("torch", "tensorly", "opt-einsum", "numpy")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


class Start(NamedTuple):
    """How one of several starts of an iterative method ended."""

    seed: int | None  # None: the warm start
    relative_error: float
    congruence: float  # mean over the components of the best start of that with their nearest component here
    iterations: int
    stop_reason: str


@dataclass(frozen=True)
class Report:
    """Of what a result is the decomposition, how it was made, and how far it can be trusted."""

    method: str  # the decomposition with its options, as `repr` shows it
    layer: str  # name of the layer
    history: tuple[str, ...]  # what had been done to the layer's weights
    basis: str  # the coordinates of the inputs, hence of eigenvectors and input factors
    relative_error: float | None  # ||symmetrized layer - result|| / ||symmetrized layer||; None: not measured
    seed: int | None = None
    convergence: tuple[float, ...] = ()  # relative error by iteration of an iterative method
    stop_reason: str = "direct"  # "direct" where there is nothing to iterate
    floor: float | None = None  # singular values below this share of the largest are rounding
    starts: tuple[Start, ...] = ()  # of an iterative method that was started more than once, best first
    versions: Mapping[str, str] | None = None

    @classmethod
    def of(
        cls,
        layer: BilinearLayer,
        method: object,
        relative_error: float | None,
        *,
        seed: int | None = None,
        convergence: tuple[float, ...] = (),
        stop_reason: str = "direct",
        floor: float | None = None,
        starts: tuple[Start, ...] = (),
    ) -> "Report":
        """The report of `method` applied to `layer`."""
        return cls(
            repr(method),
            layer.name,
            layer.history,
            layer.basis,
            relative_error,
            seed,
            convergence,
            stop_reason,
            floor,
            starts,
            versions(),
        )
