"""Define the result type of inner products and similarities: the number, its scale, and how it was obtained."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, indexed

_MOST = 700.0  # exp(700) fits in float64


@register_type("Estimate")
@dataclass(frozen=True, eq=False)
class Estimate:
    """An estimate holds the number value * exp(log_scale), and says how this number was obtained.

    `method` is "exact", "closure" (each layer's outputs are treated as Gaussian) or "sampled".
    """

    value: Tensor  # float64, () or (out,); for a list of n networks (n, n) or (n, n, out)
    method: str
    log_scale: float = 0.0
    standard_error: Tensor | None = None  # standard error of value, in the same shape; None unless sampled
    warnings: tuple[str, ...] = ()  # reasons not to trust the number, one sentence each
    share: float | None = None  # of closures of stacks over positions: the largest E|map|^2 / E|x|^2 of their parts
    choice: str = ""  # of method="auto": what was chosen, and the estimated seconds of each method on one thread

    def to_tensor(self) -> Tensor:
        """Return value * exp(log_scale) as a float64 tensor in the shape of `value`.

        Raises OverflowError if the product does not fit in float64.
        """
        return self._scaled(self.value)

    def __float__(self) -> float:
        if self.value.numel() != 1:
            raise TypeError(
                f"float() needs one number, but this estimate holds {self.value.numel()} numbers of shape"
                f" {tuple(self.value.shape)}; use to_tensor()"
            )
        return float(self._scaled(self.value))

    def records(self) -> list[Record]:
        """Return one record per number: of which networks and which output, its value, and how it was obtained."""
        axes = (["first", "second"] if self.value.ndim > 1 else []) + (["output"] if self.value.ndim % 2 else [])
        rest = {"log_scale": self.log_scale, "method": self.method}
        rows = indexed(axes, value=self.value)
        errors = [None] * len(rows) if self.standard_error is None else self.standard_error.flatten().tolist()
        return [row | {"standard_error": error} | rest for row, error in zip(rows, errors, strict=True)]

    def __repr__(self) -> str:
        error = "" if self.standard_error is None else f" +- {self.standard_error.tolist()}"
        scale = f" * exp({self.log_scale:.6g})" if self.log_scale else ""
        return f"Estimate({self.value.tolist()}{error}{scale}, {self.method})"

    def _scaled(self, value: Tensor) -> Tensor:
        """Return value * exp(log_scale), as two products with exp(log_scale / 2), since exp(log_scale) may overflow."""
        half = math.exp(min(self.log_scale / 2, _MOST))
        scaled = value.to(torch.float64) * half * half
        too_large = self.log_scale / 2 > _MOST and bool(value.any())
        if too_large or not bool(torch.isfinite(scaled).all()):
            raise OverflowError(f"{self!r} does not fit in a float; use its value and log_scale")
        return scaled
