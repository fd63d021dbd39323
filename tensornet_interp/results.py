"""What decompositions return: maps with the modes of the layer, that say what they are of and how good they are."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from tensorly.cp_tensor import CPTensor
from tensorly.tucker_tensor import TuckerTensor
from torch import Tensor

from tensornet_interp.contraction import Term
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.report import Report

__all__ = ["CPResult", "Result", "TuckerResult"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Result(BilinearMap):
    """A decomposition of a layer: a bilinear map with a report."""

    report: Report
    outputs: Tensor  # (out, block), (out, rank), (out, a)
    constant_in: bool = False
    constant_out: bool = False

    def drop_constant(self) -> Self:
        """Without the constant output coordinate, as the last part of a network must be; the function is the same."""
        if not self.constant_out:
            return self
        report = replace(self.report, method=f"{self.report.method}, constant output dropped", relative_error=None)
        return replace(self, outputs=self.outputs[1:], constant_out=False, report=report)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return the result on a device, in a dtype; singular values stay float64, the report stays as it is."""

        def move(name: str, value: Any) -> Any:
            if isinstance(value, Tensor):
                kept = value.dtype if name == "singular_values" else dtype or value.dtype
                return value.to(device=device or value.device, dtype=kept)
            if isinstance(value, tuple):
                return tuple(move(name, item) for item in value)
            return value.to(device, dtype) if isinstance(value, BilinearLayer) else value

        return replace(self, **{field.name: move(field.name, getattr(self, field.name)) for field in fields(self)})

    @property
    def relative_error(self) -> float | None:
        """||symmetrized layer - result|| / ||symmetrized layer||; None for a part cut out of a result later."""
        return self.report.relative_error

    def _made_layer(self, *, down: Tensor, left: Tensor, right: Tensor) -> BilinearLayer:
        """A layer with these factors and what the report says of it: name, basis, and the method in the history."""
        return BilinearLayer(
            down=down,
            left=left,
            right=right,
            name=self.report.layer,
            history=(*self.report.history, self.report.method),
            basis=self.report.basis,
            constant_in=self.constant_in,
            constant_out=self.constant_out,
        )

    @property
    def _provenance(self) -> str:
        error = "not measured" if self.relative_error is None else f"{self.relative_error:.3g}"
        return f"of {self.report.layer!r}, basis={self.report.basis!r}, relative error {error}"


@dataclass(frozen=True, eq=False, kw_only=True)
class CPResult(Result):
    """B[out, in1, in2] = sum_rank weights[rank] outputs[out, rank] left[in1, rank] right[in2, rank].

    Unit-norm factors, largest weight magnitude first.
    """

    weights: Tensor  # (rank,)
    outputs: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank)

    def __repr__(self) -> str:
        return f"CPResult(out={self.outputs.shape[0]}, in={self.left.shape[0]}, rank={self.rank}, {self._provenance})"

    @property
    def rank(self) -> int:
        """Number of components."""
        return len(self.weights)

    def terms(self) -> tuple[Term, ...]:
        """Weights and the three factors."""
        return (
            Term(self.weights, ("rank",)),
            Term(self.outputs, ("out", "rank")),
            Term(self.left, ("in1", "rank")),
            Term(self.right, ("in2", "rank")),
        )

    def to_layer(self) -> BilinearLayer:
        """The weights absorbed into `down`."""
        return self._made_layer(down=self.outputs * self.weights, left=self.left, right=self.right)

    def to_tensorly(self) -> CPTensor:
        """TensorLy's `CPTensor`."""
        return CPTensor((self.weights, [self.outputs, self.left, self.right]))


@dataclass(frozen=True, eq=False, kw_only=True)
class TuckerResult(Result):
    """B[out, in1, in2] = sum core[a, b, c] outputs[out, a] inputs[in1, b] inputs[in2, c], the core itself a layer.

    Orthonormal factors; one input factor, used twice.
    """

    core: BilinearLayer  # (a, b, c)
    outputs: Tensor  # (out, a)
    inputs: Tensor  # (in, b)
    singular_values: tuple[Tensor, Tensor] | None = None  # all of the two unfoldings: (out, ...), (in, ...); float64

    def __repr__(self) -> str:
        n_out, n_in = self.outputs.shape[0], self.inputs.shape[0]
        return f"TuckerResult(out={n_out}, in={n_in}, ranks={self.ranks}, {self._provenance})"

    @property
    def ranks(self) -> tuple[int, int]:
        """(output rank, input rank)."""
        return (self.outputs.shape[1], self.inputs.shape[1])

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """(outputs, inputs, inputs)."""
        return (self.outputs, self.inputs, self.inputs)

    def terms(self) -> tuple[Term, ...]:
        """The three factors of the core and the two of the result, the input factor twice."""
        return (
            Term(self.outputs, ("out", "core_out")),
            Term(self.inputs, ("in1", "core_in1")),
            Term(self.inputs, ("in2", "core_in2")),
            Term(self.core.down, ("core_out", "rank")),
            Term(self.core.left, ("core_in1", "rank")),
            Term(self.core.right, ("core_in2", "rank")),
        )

    def to_layer(self) -> BilinearLayer:
        """The factors multiplied into the core: the rank of the core stays."""
        return self._made_layer(
            down=self.outputs @ self.core.down, left=self.inputs @ self.core.left, right=self.inputs @ self.core.right
        )

    def to_tensorly(self) -> TuckerTensor:
        """TensorLy's `TuckerTensor`; its core is dense, product of the ranks."""
        return TuckerTensor((self.core.to_tensor(), list(self.factors)))
