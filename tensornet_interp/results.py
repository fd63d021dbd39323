"""Results of decompositions are bilinear maps with the modes of the layer, and a report of their origin and error."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from tensornet_interp.affine import affine_matrix
from tensornet_interp.cards import Card, map_card
from tensornet_interp.checks import check_alike, check_bool, check_kind, check_size, check_tensor
from tensornet_interp.contraction import Modes, mode_sizes
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.metric import Metric
from tensornet_interp.names import Names
from tensornet_interp.numerics import without_autocast
from tensornet_interp.places import kept_place, move
from tensornet_interp.report import Report
from tensornet_interp.tables import Record, entries

__all__ = ["Result"]


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
        report = self.report.unmeasured(f"{self.report.method}, constant output dropped")
        return replace(self, outputs=self.outputs[1:], constant_out=False, report=report)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return the result on a device and in a dtype; singular values stay float64, on the CPU if need be.

        A narrower dtype rounds the arrays, so the report of the new result has no relative error.
        """

        def moved_field(name: str, value: Any) -> Any:
            if isinstance(value, Tensor):
                if name == "singular_values":
                    return value.to(kept_place(device, value))
                return move(name, value, device, dtype)
            if isinstance(value, tuple):
                return tuple(moved_field(name, item) for item in value)
            return value.to(device, dtype) if isinstance(value, BilinearLayer) else value

        moved = replace(self, **{f.name: moved_field(f.name, getattr(self, f.name)) for f in fields(self)})
        if self.report.metric is not None:
            moved = replace(moved, report=replace(self.report, metric=self.report.metric.to(device)))
        if dtype is None or torch.finfo(dtype).eps <= torch.finfo(self.outputs.dtype).eps:
            return moved
        method = f"{self.report.method}, rounded to {str(dtype).removeprefix('torch.')}"
        return replace(moved, report=moved.report.unmeasured(method))

    @property
    def input_fields(self) -> dict[str, int]:
        """Return the fields that hold the arrays of `terms()` with an input axis, and the number of this axis.

        The dict is empty if one of these arrays is no field; `change_basis` cannot keep the type of such a result.
        """
        found: dict[str, int] = {}
        for data, modes in self.terms():
            axes = [axis for axis, mode in enumerate(modes) if mode in ("in1", "in2")]
            own = [f.name for f in fields(self) if getattr(self, f.name) is data]
            if axes and (len(axes) > 1 or not own):
                return {}
            found |= {name: axes[0] for name in own if axes}
        return found

    @without_autocast
    def change_basis(self, inputs: Tensor, *, input_bias: Tensor | None = None, basis: str = "") -> Self:
        """Return the result as an exact function of new inputs x', where x = inputs @ x' + input_bias.

        v'[new in, rank] = sum_in inputs[in, new in] v[in, rank], for every input vector v of the result

        Arguments are those of `BilinearLayer.change_basis`, and the type stays. For example, eigenvectors in an
        embedding become the images that they respond to. Weights, eigenvalues and singular values do not change; the
        new vectors v' are neither orthonormal nor of unit norm. To decompose the layer in the new inputs, change the
        basis of the layer first. The new result has no metric.
        Raises TypeError if an array of `terms()` with an input axis is no field, as it may be in a type of your own;
        change the basis of `to_layer()` there.
        """
        axes = self.input_fields
        if not axes:
            raise TypeError(f"the arrays of {type(self).__name__}.terms() are no fields; use to_layer().change_basis()")
        frame = self._frame()
        full = affine_matrix("input", inputs, input_bias, axis=0, like=frame.left, constant=self.constant_in)
        frame = frame.change_basis(inputs, input_bias=input_bias, basis=basis)
        moved = {name: (getattr(self, name).movedim(at, -1) @ full).movedim(-1, at) for name, at in axes.items()}
        return replace(self, report=self.report.pulled_back(frame), **moved)

    def _frame(self) -> BilinearLayer:
        """Return a zero layer with the sizes, names and basis of the result and one hidden unit."""
        sizes, zeros = self.sizes, self.outputs.new_zeros
        left = zeros(sizes["in1"], 1)
        return self.made_layer(down=zeros(sizes["out"], 1), left=left, right=left)

    @property
    def relative_error(self) -> float | None:
        """Return ||symmetrized layer - result|| / ||symmetrized layer||; None if it was not measured."""
        return self.report.relative_error

    @property
    def filters(self) -> Tensor:
        """Return the vectors that inputs are multiplied with: left and right of every component, (2, in, rank).

        A `SpectralResult` returns its eigenvectors, (block, in, rank), and a `TuckerResult` its input factor, (in, b).
        """
        layer = self.to_layer()
        return torch.stack([layer.left, layer.right])

    @property
    def patterns(self) -> Tensor:
        """Return S times the filters: what varies in the data together with the product of a filter with the input.

        patterns = S W, P^T W = 1 for orthonormal components (P patterns, W filters)

        A filter also contains what it must cancel, so draw patterns and multiply with filters. S is the second moment
        of the metric; without a metric, patterns are filters. Source: Haufe et al., NeuroImage 87 (2014).
        """
        return self.filters if self.metric is None else self.metric.apply(self.filters)

    @property
    def metric(self) -> Metric | None:
        """Return the metric of the data in which the layer was decomposed, if there is one."""
        return self.report.metric

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
