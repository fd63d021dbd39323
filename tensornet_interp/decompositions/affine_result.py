"""Results that keep the constant and the linear part of a lifted layer, beside a decomposed quadratic part."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from tensornet_interp.affine import affine_matrix
from tensornet_interp.checks import check_alike, check_kind, check_size, check_tensor
from tensornet_interp.contraction import Term
from tensornet_interp.layer import BilinearLayer, BilinearMap
from tensornet_interp.names import Names
from tensornet_interp.network import check_network
from tensornet_interp.numerics import without_autocast
from tensornet_interp.places import move
from tensornet_interp.report import Report
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record


@register_type("AffineResult")
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class AffineResult(BilinearMap):
    """An affine result is a decomposition of the quadratic part about the mean input, and an exact linear part.

    y[out] = interaction([1, x])[out] + sum_in affine[out, in] [1, x][in]

    `interaction` is the result of the decomposition, a function of x minus the mean; its rank says how much of the
    quadratic part is kept. The constant in `affine` is such that every output has the same mean over the data as the
    layer. `report` is about the whole.
    """

    report: Report
    interaction: BilinearMap  # over [1, x]
    affine: Tensor  # (out, 1 + in)

    def __post_init__(self) -> None:
        check_kind("report", self.report, Report)
        check_network("interaction", self.interaction)
        check_tensor("affine", self.affine, ("out", "in"))
        sizes = self.interaction.sizes
        for mode, size, own in zip(("out", "in"), self.affine.shape, (sizes["out"], sizes["in1"]), strict=True):
            check_size(mode, affine=size, interaction=own)
        check_alike(affine=self.affine, interaction=self.interaction.terms()[0].data)
        if not self.interaction.constant_in:
            raise ValueError("interaction must have a constant input coordinate, which carries the mean")

    def __repr__(self) -> str:
        return f"AffineResult(interaction={self.interaction!r}, affine {tuple(self.affine.shape)})"

    @property
    def constant_in(self) -> bool:  # type: ignore[override]
        """Return True: input coordinate 0 is the constant 1."""
        return True

    @property
    def constant_out(self) -> bool:  # type: ignore[override]
        """Return True if output coordinate 0 is constant."""
        return self.interaction.constant_out

    @property
    def names(self) -> Names:
        """Return the names of inputs and outputs, which are those of the layer."""
        return self.report.names

    def _renamed(self, names: Names) -> Self:
        return replace(self, report=replace(self.report, names=names))

    def terms(self) -> tuple[Term, ...]:
        """Return the three terms of `to_layer()`."""
        return self.to_layer().terms()

    def to_layer(self) -> BilinearLayer:
        """Return the result as a layer: the hidden units of the interaction, and one per output (1 * linear)."""
        part = self.interaction.to_layer()
        outputs, size = self.affine.shape
        eye = torch.eye(outputs, dtype=part.down.dtype, device=part.down.device)
        one = part.left.new_zeros(size, outputs)
        one[0] = 1
        return BilinearLayer(
            down=torch.cat([part.down, eye], 1),
            left=torch.cat([part.left, one], 1),
            right=torch.cat([part.right, self.affine.T], 1),
            name=self.report.layer,
            history=(*self.report.history, self.report.method),
            basis=self.report.basis,
            constant_in=True,
            constant_out=self.constant_out,
            names=self.names,
        )

    def records(self) -> list[Record]:
        """Return one record per output: its constant and the norm of its linear part; `interaction` has its own."""
        constants, norms = self.affine[:, 0].tolist(), self.affine[:, 1:].norm(dim=1).tolist()
        return [
            {"output": at, "constant": constant, "linear": norm}
            for at, (constant, norm) in enumerate(zip(constants, norms, strict=True))
        ]

    def drop_constant(self) -> Self:
        """Return the result without its constant output coordinate; its errors are then not measured."""
        if not self.constant_out:
            return self
        report = self.report.unmeasured(f"{self.report.method}, constant output dropped")
        return replace(self, report=report, interaction=self.interaction.drop_constant(), affine=self.affine[1:])

    @without_autocast
    def change_basis(self, inputs: Tensor, *, input_bias: Tensor | None = None, basis: str = "") -> Self:
        """Return the result as an exact function of new inputs x', where x = inputs @ x' + input_bias.

        Both parts are changed, as `Result.change_basis` does it; the new result has no metric and no measured errors.
        """
        check_tensor("inputs", inputs, ("in", "new in"))
        frame = self.to_layer().change_basis(inputs, input_bias=input_bias, basis=basis)
        full = affine_matrix("input", inputs, input_bias, axis=0, like=self.affine.T, constant=True)
        part: Any = self.interaction
        part = part.change_basis(inputs, input_bias=input_bias, basis=basis)
        return replace(self, report=self.report.pulled_back(frame), interaction=part, affine=self.affine @ full)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return the result on a device and in a dtype; the errors of a rounded result are not measured."""
        affine, report = move("affine", self.affine, device, dtype), self.report
        if report.metric is not None:
            report = replace(report, metric=report.metric.to(device))
        if torch.finfo(affine.dtype).eps > torch.finfo(self.affine.dtype).eps:
            report = report.unmeasured(f"{report.method}, rounded to {str(affine.dtype).removeprefix('torch.')}")
        return replace(self, report=report, interaction=self.interaction.to(device, dtype), affine=affine)


def quadratic_part(whitened: BilinearLayer) -> BilinearLayer:
    """Return the interactions of a lifted layer between coordinates other than the constant, for all outputs."""
    left, right = whitened.left[1:], whitened.right[1:]
    return replace(whitened, left=left, right=right, constant_in=False, constant_out=False, names=Names())


def affine_part(whitened: BilinearLayer, found: BilinearLayer, variance: Tensor) -> Tensor:
    """Return the linear map (out, 1 + in) of a whitened layer; its constant makes up for the quadratic part not found.

    affine[out, 0] = B[out, 0, 0] + sum_in variance[in] (Q[out, in, in] - found[out, in, in]),
    affine[out, in] = B[out, 0, in] + B[out, in, 0]

    variance: (in,), the variances of the whitened coordinates over the data, which are uncorrelated.
    """
    w, v, part = whitened.left, whitened.right, quadratic_part(whitened)
    linear = whitened.down @ (w[0] * v[1:] + v[0] * w[1:]).T  # (out, in)
    trace = [layer.down @ (variance[:, None] * layer.left * layer.right).sum(0) for layer in (part, found)]
    return torch.cat([(whitened.down @ (w[0] * v[0]) + trace[0] - trace[1])[:, None], linear], 1)
