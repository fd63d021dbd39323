"""What decompositions return: maps with the modes of the layer, that say what they are of and how good they are."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from tensorly.cp_tensor import CPTensor
from tensorly.tucker_tensor import TuckerTensor
from torch import Tensor

from tensornet_interp.checks import check_int, check_size, check_tensor
from tensornet_interp.concentration import participation
from tensornet_interp.contraction import Term
from tensornet_interp.layer import CHANGED, BilinearLayer, BilinearMap
from tensornet_interp.report import Report

__all__ = ["CPResult", "EigenGroup", "Result", "SpectralResult", "TuckerResult"]


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


class EigenGroup(NamedTuple):
    """Eigenvalues that are equal within a tolerance: the subspace is defined, its single vectors are not."""

    indices: tuple[int, ...]
    eigenvalue: float  # mean of the group
    projector: Tensor  # (in, in)


@dataclass(frozen=True, eq=False, kw_only=True)
class SpectralResult(Result):
    """B[out, i, j] = sum_block,rank outputs[out, block] eigenvalues[block, rank] v[block, i, rank] v[block, j, rank].

    Each block is an output vector times a symmetric matrix in its eigenbasis. Eigenvectors have unit norm (where the
    block has that many), largest eigenvalue magnitude first, sign kept; the sign of a vector is such that its entry
    of largest magnitude is positive. `directions` (block, out) are the output directions of which the blocks are the
    interaction matrices, where that is how they were made.
    """

    outputs: Tensor  # (out, block)
    eigenvalues: Tensor  # (block, rank)
    eigenvectors: Tensor  # (block, in, rank)
    directions: Tensor | None = None  # (block, out)
    singular_values: Tensor | None = None  # all of the output unfolding, where the blocks come from it; float64

    def __post_init__(self) -> None:
        check_tensor("outputs", self.outputs, ("out", "block"))
        check_tensor("eigenvalues", self.eigenvalues, ("block", "rank"))
        check_tensor("eigenvectors", self.eigenvectors, ("block", "in", "rank"))
        block, rank = self.eigenvalues.shape
        check_size("block", eigenvalues=block, outputs=self.outputs.shape[1], eigenvectors=self.eigenvectors.shape[0])
        check_size("rank", eigenvalues=rank, eigenvectors=self.eigenvectors.shape[2])

    def __repr__(self) -> str:
        n_out, n_in, _ = (self.sizes[mode] for mode in self.modes)
        blocks, rank = self.eigenvalues.shape
        return f"SpectralResult(out={n_out}, in={n_in}, block={blocks}, rank={rank}, {self._provenance})"

    @property
    def rank(self) -> int:
        """Eigenpairs a block."""
        return self.eigenvalues.shape[1]

    def terms(self) -> tuple[Term, ...]:
        """Outputs, eigenvalues, and the eigenvectors twice."""
        return (
            Term(self.outputs, ("out", "block")),
            Term(self.eigenvalues, ("block", "rank")),
            Term(self.eigenvectors, ("block", "in1", "rank")),
            Term(self.eigenvectors, ("block", "in2", "rank")),
        )

    def to_layer(self) -> BilinearLayer:
        """The CP tensor of rank block * rank: left = right = the eigenvectors."""
        vectors = self.eigenvectors.permute(1, 0, 2).flatten(1)  # (in, block * rank)
        down = (self.outputs[:, :, None] * self.eigenvalues).flatten(1)
        return self._made_layer(down=down, left=vectors, right=vectors)

    def to_tensorly(self) -> CPTensor:
        """TensorLy's `CPTensor`, eigenvalues as weights."""
        layer = self.to_layer()
        outputs = self.outputs.repeat_interleave(self.rank, dim=1)
        return CPTensor((self.eigenvalues.flatten(), [outputs, layer.left, layer.right]))

    def activations(self, x: Tensor) -> Tensor:
        """eigenvalues (eigenvectors . x)^2: the activation of every component, (batch..., block, rank)."""
        x = self.lift_input("x", x)
        blocks, size, rank = self.eigenvectors.shape
        projected = x @ self.eigenvectors.permute(1, 0, 2).reshape(size, blocks * rank)
        return self.eigenvalues * projected.unflatten(-1, (blocks, rank)).square()

    def contributions(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """What every eigenpair of every block adds to every output: (batch..., out, block, rank)."""
        return super().contributions(x1, x2).unflatten(-1, tuple(self.eigenvalues.shape))

    def truncate(self, rank: int) -> "SpectralResult":
        """The first `rank` eigenpairs of every block; `relative_error(result, layer)` measures what that costs."""
        rank = check_int("rank", rank, 1, self.rank)
        return self._with(self.eigenvalues[:, :rank], self.eigenvectors[:, :, :rank], f"first {rank} eigenpairs")

    def keep(self, mask: Tensor) -> "SpectralResult":
        """Only the eigenpairs where mask (block, rank) is true; the others get eigenvalue 0."""
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask must be a boolean tensor (block, rank), got {type(mask).__name__}")
        if mask.dtype != torch.bool or mask.shape != self.eigenvalues.shape:
            raise ValueError(
                f"mask must be boolean of shape {tuple(self.eigenvalues.shape)}, got {mask.dtype} {tuple(mask.shape)}"
            )
        return self._with(self.eigenvalues * mask, self.eigenvectors, f"{int(mask.sum())} eigenpairs kept")

    def _with(self, eigenvalues: Tensor, eigenvectors: Tensor, note: str) -> "SpectralResult":
        report = replace(self.report, method=f"{self.report.method}, {note}", relative_error=None)
        return replace(self, eigenvalues=eigenvalues, eigenvectors=eigenvectors, report=report)

    def pull_back(self, inputs: Tensor, *, input_bias: Tensor | None = None, basis: str = CHANGED) -> "SpectralResult":
        """v'[new in, rank] = sum_in inputs[in, new in] v[in, rank]: the function of x with inputs @ x where it stood.

        Exact, as `BilinearLayer.change_basis`, whose arguments these are. Eigenvectors in an embedding become the
        images that they respond to; they are no longer orthonormal nor of unit norm, and eigenvalues stay those of the
        embedding. The eigenvectors of the layer in the new inputs are others: change its basis, then decompose.
        """
        layer = self.to_layer().change_basis(inputs, input_bias=input_bias, basis=basis)
        vectors = layer.left.unflatten(1, tuple(self.eigenvalues.shape)).permute(1, 0, 2)
        method = f"{self.report.method}, pulled back from basis {self.report.basis!r}"
        report = replace(self.report, method=method, basis=layer.basis, relative_error=None)
        return replace(self, eigenvectors=vectors, report=report)

    def effective_rank(self) -> Tensor:
        """(sum |eigenvalue|)^2 / sum eigenvalue^2 of every block, 0 for a zero block; it depends on `report.basis`."""
        return participation(self.eigenvalues)

    def activation_participation(self, x: Tensor) -> Tensor:
        """(sum_rank |a|)^2 / sum_rank a^2 of the activations a of each input: (batch..., block), float64.

        How many components of a block one input activates: from 1 to the rank. It grows with the effective rank:
        divide by that to compare models whose spectra differ. Gaussian inputs without structure give a third of it
        where it is large (E z^4 = 3). Memory: batch * block * rank numbers.
        """
        return participation(self.activations(x))

    def groups(self, block: int, rtol: float | None = None) -> list[EigenGroup]:
        """Runs of eigenvalues of a block that differ by less than rtol times the largest, each with its projector.

        rtol: by default 10 * in * the rounding of the dtype.
        """
        rtol = 10 * self.eigenvectors.shape[1] * torch.finfo(self.eigenvalues.dtype).eps if rtol is None else rtol
        block = check_int("block", block, 0, len(self.eigenvalues) - 1)
        values = self.eigenvalues[block]
        order = torch.argsort(values, descending=True)
        gaps = (values[order].diff().abs() > rtol * values.abs().max()).tolist()
        runs: list[list[int]] = [[int(order[0])]]
        for index, gap in zip(order[1:].tolist(), gaps, strict=True):
            runs.append([index]) if gap else runs[-1].append(index)
        groups = []
        for run in runs:
            vectors = self.eigenvectors[block][:, run]
            groups.append(EigenGroup(tuple(sorted(run)), float(values[run].mean()), vectors @ vectors.T))
        return sorted(groups, key=lambda group: -abs(group.eigenvalue))


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
