"""Results of decompositions: bilinear maps with the modes of the layer, and a report of their origin and error."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from tensorly.cp_tensor import CPTensor
from tensorly.tucker_tensor import TuckerTensor
from torch import Tensor

from tensornet_interp.cards import Card, map_card
from tensornet_interp.checks import check_alike, check_bool, check_kind, check_size, check_tensor
from tensornet_interp.contraction import Modes, Term, mode_sizes
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.names import Names
from tensornet_interp.numerics import without_autocast
from tensornet_interp.places import move
from tensornet_interp.report import Report
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, entries

__all__ = ["CPResult", "Result", "TuckerResult"]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Result(BilinearMap):
    """A result is a decomposition of a layer: a bilinear map with a report of its origin and error.

    A subclass adds arrays as fields, which `check_arrays` checks, and defines `terms()` and `to_layer()`; the latter
    returns what `made_layer` makes. The mode "out" is that of `outputs`.
    """

    report: Report
    outputs: Tensor  # (out, block), (out, rank) or (out, a)
    constant_in: bool = False
    constant_out: bool = False

    def __post_init__(self) -> None:
        check_kind("report", self.report, Report)
        check_bool("constant_in", self.constant_in)
        check_bool("constant_out", self.constant_out)

    def __repr__(self) -> str:
        sizes = mode_sizes(self.terms())
        sizes = {"out": sizes.pop("out"), "in": sizes.pop("in1"), **sizes}
        del sizes["in2"]
        return (
            f"{type(self).__name__}({', '.join(f'{mode}={size}' for mode, size in sizes.items())}, {self._provenance})"
        )

    def check_arrays(self, **arrays: Modes) -> None:
        """Check that the fields of these names are tensors with these modes, and that sizes, dtypes and devices agree.

        Raises ValueError or TypeError that names the field.
        """
        for name, modes in arrays.items():
            check_tensor(name, getattr(self, name), modes)
        check_alike(**{name: getattr(self, name) for name in arrays})
        sizes = mode_sizes(self.terms())
        check_size("in", in1=sizes["in1"], in2=sizes["in2"])
        self.names.check(inputs=sizes["in1"] - self.constant_in, outputs=sizes["out"] - self.constant_out)

    @property
    def names(self) -> Names:
        """Return the names of inputs and outputs, which are those of the layer."""
        return self.report.names

    def _renamed(self, names: Names) -> Self:
        return replace(self, report=replace(self.report, names=names))

    def drop_constant(self) -> Self:
        """Return the result without its constant output coordinate, as the last part of a network needs it.

        The report of the new result has no relative error. A result without this coordinate is returned unchanged.
        """
        if not self.constant_out:
            return self
        report = replace(
            self.report,
            method=f"{self.report.method}, constant output dropped",
            relative_error=None,
            relative_error_bound=None,
        )
        return replace(self, outputs=self.outputs[1:], constant_out=False, report=report)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return the result on a device and in a dtype; singular values stay float64.

        A narrower dtype rounds the arrays, so the report of the new result has no relative error.
        """

        def moved_field(name: str, value: Any) -> Any:
            if isinstance(value, Tensor):
                kept = value.dtype if name == "singular_values" or dtype is None else dtype
                return move(name, value, device, kept)
            if isinstance(value, tuple):
                return tuple(moved_field(name, item) for item in value)
            return value.to(device, dtype) if isinstance(value, BilinearLayer) else value

        moved = replace(self, **{f.name: moved_field(f.name, getattr(self, f.name)) for f in fields(self)})
        if dtype is None or torch.finfo(dtype).eps <= torch.finfo(self.outputs.dtype).eps:
            return moved
        method = f"{self.report.method}, rounded to {str(dtype).removeprefix('torch.')}"
        report = replace(self.report, method=method, relative_error=None, relative_error_bound=None)
        return replace(moved, report=report)

    @property
    def relative_error(self) -> float | None:
        """Return ||symmetrized layer - result|| / ||symmetrized layer||; None if it was not measured."""
        return self.report.relative_error

    def made_layer(self, *, down: Tensor, left: Tensor, right: Tensor) -> BilinearLayer:
        """Return a layer with these factors; its name, basis and history come from the report of the result."""
        return BilinearLayer(
            down=down,
            left=left,
            right=right,
            name=self.report.layer,
            history=(*self.report.history, self.report.method),
            basis=self.report.basis,
            constant_in=self.constant_in,
            constant_out=self.constant_out,
            names=self.names,
        )

    def records(self) -> list[Record]:
        """Return one record per column of `outputs`, with its norm, and its entries if the outputs have names."""
        return [
            {"component": at, "norm": float(column.detach().norm()), "outputs": self._output_entries(column)}
            for at, column in enumerate(self.outputs.T)
        ]

    def _output_entries(self, vector: Tensor) -> dict[str, float] | None:
        return entries(vector, self.output_names, self.constant_out)

    def _input_entries(self, vector: Tensor) -> dict[str, float] | None:
        return entries(vector, self.input_names, self.constant_in)

    def _card(self) -> Card:
        values, caption = self._spectrum()
        about = self.report.rows()
        listed = values.detach().flatten().tolist()
        return map_card(self, type(self).__name__, about, values=listed, caption=caption, warnings=self.report.warnings)

    def _spectrum(self) -> tuple[Tensor, str]:
        return self.outputs.new_zeros(0), ""

    @property
    def _provenance(self) -> str:
        error = "not measured" if self.relative_error is None else f"{self.relative_error:.3g}"
        return f"of {self.report.layer!r}, basis={self.report.basis!r}, relative error {error}"


@register_type("CPResult")
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class CPResult(Result):
    """A CP result holds weights and three factors.

    B[out, in1, in2] = sum_rank weights[rank] outputs[out, rank] left[in1, rank] right[in2, rank]

    The columns of the factors have unit norm. The component with the largest weight magnitude comes first.
    """

    weights: Tensor  # (rank,)
    outputs: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_arrays(weights=("rank",), outputs=("out", "rank"), left=("in", "rank"), right=("in", "rank"))

    @property
    def rank(self) -> int:
        """Return the number of components."""
        return len(self.weights)

    def terms(self) -> tuple[Term, ...]:
        """Return four terms: the weights and the three factors."""
        return (
            Term(self.weights, ("rank",)),
            Term(self.outputs, ("out", "rank")),
            Term(self.left, ("in1", "rank")),
            Term(self.right, ("in2", "rank")),
        )

    def records(self) -> list[Record]:
        """Return one record per component: its weight, and the entries of its vectors if they have names."""
        return [
            {
                "component": at,
                "weight": weight,
                "outputs": self._output_entries(self.outputs[:, at]),
                "left": self._input_entries(self.left[:, at]),
                "right": self._input_entries(self.right[:, at]),
            }
            for at, weight in enumerate(self.weights.tolist())
        ]

    def _spectrum(self) -> tuple[Tensor, str]:
        return self.weights, "weights of the components"

    def to_layer(self) -> BilinearLayer:
        """Return the result as a layer; its factor down is outputs * weights."""
        return self.made_layer(down=self.outputs * self.weights, left=self.left, right=self.right)

    def to_tensorly(self) -> CPTensor:
        """Return the result as a `CPTensor` of TensorLy."""
        return CPTensor((self.weights, [self.outputs, self.left, self.right]))


@register_type("TuckerResult")
@dataclass(frozen=True, eq=False, kw_only=True)
class TuckerResult(Result):
    """A Tucker result holds a core (itself a layer), an output factor, and one input factor for both input modes.

    B[out, in1, in2] = sum_a,b,c core[a, b, c] outputs[out, a] inputs[in1, b] inputs[in2, c]

    The columns of the factors are orthonormal.
    """

    core: BilinearLayer  # (a, b, c)
    outputs: Tensor  # (out, a)
    inputs: Tensor  # (in, b)
    singular_values: tuple[Tensor, Tensor] | None = None  # all those of the output and the input unfolding; float64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind("core", self.core, BilinearLayer)
        self.check_arrays(outputs=("out", "a"), inputs=("in", "b"))
        if self.singular_values is not None and not isinstance(self.singular_values, tuple):
            raise TypeError(f"singular_values must be a pair of tensors, got {type(self.singular_values).__name__}")
        for values in self.singular_values or ():
            check_tensor("singular_values", values, ("number",))

    def __repr__(self) -> str:
        n_out, n_in = self.outputs.shape[0], self.inputs.shape[0]
        return f"TuckerResult(out={n_out}, in={n_in}, ranks={self.ranks}, {self._provenance})"

    @property
    def ranks(self) -> tuple[int, int]:
        """Return the pair (output rank, input rank)."""
        return (self.outputs.shape[1], self.inputs.shape[1])

    @property
    def factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors of the three modes: (outputs, inputs, inputs)."""
        return (self.outputs, self.inputs, self.inputs)

    def terms(self) -> tuple[Term, ...]:
        """Return six terms: the output factor, the input factor twice, and the three factors of the core."""
        return (
            Term(self.outputs, ("out", "core_out")),
            Term(self.inputs, ("in1", "core_in1")),
            Term(self.inputs, ("in2", "core_in2")),
            Term(self.core.down, ("core_out", "rank")),
            Term(self.core.left, ("core_in1", "rank")),
            Term(self.core.right, ("core_in2", "rank")),
        )

    def records(self) -> list[Record]:
        """Return one record per column of the two factors: its side, its singular value if known, its named entries."""
        found = []
        for side, factor in enumerate((self.outputs, self.inputs)):
            known = self.singular_values[side].tolist() if self.singular_values else [None] * factor.shape[1]
            for at, (column, value) in enumerate(zip(factor.T, known, strict=False)):
                named = (None, self._input_entries(column)) if side else (self._output_entries(column), None)
                found.append({"side": "input" if side else "output", "component": at, "singular_value": value})
                found[-1] |= {"outputs": named[0], "inputs": named[1]}
        return found

    def _spectrum(self) -> tuple[Tensor, str]:
        if self.singular_values is None:
            return super()._spectrum()
        return self.singular_values[1], "singular values of the input unfolding"

    @without_autocast
    def to_layer(self) -> BilinearLayer:
        """Return the result as a layer with as many hidden units as the core; the factors of the two are multiplied."""
        return self.made_layer(
            down=self.outputs @ self.core.down, left=self.inputs @ self.core.left, right=self.inputs @ self.core.right
        )

    def to_tensorly(self) -> TuckerTensor:
        """Return the result as a `TuckerTensor` of TensorLy; its core is dense, with a * b * b entries."""
        return TuckerTensor((self.core.to_tensor(), list(self.factors)))
