"""A number from an inner product, with what is known about it."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Estimate:
    """Numbers times exp(log_scale), and how they were come by: "exact", "closure" or "sampled"."""

    value: Tensor  # float64: one number, or one an output; a matrix of them for a list of networks
    method: str
    log_scale: float = 0.0
    standard_error: Tensor | None = None  # of value, where it was sampled

    def to_tensor(self) -> Tensor:
        """The numbers themselves, value * exp(log_scale), float64, in the shape of value."""
        return self.value * math.exp(self.log_scale)

    def __float__(self) -> float:
        if self.value.numel() != 1:
            raise TypeError(f"{self.value.numel()} numbers of shape {tuple(self.value.shape)}: use to_tensor()")
        try:
            return float(self.value) * math.exp(self.log_scale)
        except OverflowError:
            raise OverflowError(f"{self!r} does not fit in a float; use its value and log_scale") from None

    def __repr__(self) -> str:
        error = "" if self.standard_error is None else f" +- {self.standard_error.tolist()}"
        scale = f" * exp({self.log_scale:.6g})" if self.log_scale else ""
        return f"Estimate({self.value.tolist()}{error}{scale}, {self.method})"
