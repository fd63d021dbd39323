"""The result of an inner product: its value, its scale, and how it was obtained."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MOST = 700.0  # exp of it fits in float64


@dataclass(frozen=True, eq=False)
class Estimate:
    """The result is value * exp(log_scale); method says how it was obtained: "exact", "closure" or "sampled"."""

    value: Tensor  # float64: one number, or one per output; for a list of n networks (n, n) of them
    method: str
    log_scale: float = 0.0
    standard_error: Tensor | None = None  # of value, in its shape, if it was sampled
    warnings: tuple[str, ...] = ()  # what to know before the number is trusted, one sentence each

    def to_tensor(self) -> Tensor:
        """Return value * exp(log_scale), float64, in the shape of value."""
        return self._scaled(self.value)

    def __float__(self) -> float:
        if self.value.numel() != 1:
            raise TypeError(f"{self.value.numel()} numbers of shape {tuple(self.value.shape)}: use to_tensor()")
        return float(self._scaled(self.value))

    def __repr__(self) -> str:
        error = "" if self.standard_error is None else f" +- {self.standard_error.tolist()}"
        scale = f" * exp({self.log_scale:.6g})" if self.log_scale else ""
        return f"Estimate({self.value.tolist()}{error}{scale}, {self.method})"

    def _scaled(self, value: Tensor) -> Tensor:
        """Multiply by exp(log_scale) in two halves: the factor alone may be out of range even if the product is not."""
        half = math.exp(min(self.log_scale / 2, _MOST))
        scaled = value.to(torch.float64) * half * half
        too_large = self.log_scale / 2 > _MOST and bool(value.any())
        if too_large or not bool(torch.isfinite(scaled).all()):
            raise OverflowError(f"{self!r} does not fit in a float; use its value and log_scale")
        return scaled
