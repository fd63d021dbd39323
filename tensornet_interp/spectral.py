"""Define spectral results: sums of blocks, each an output vector times a symmetric matrix given by eigenpairs."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from tensornet_interp.affine import check_direction
from tensornet_interp.checks import check_int, check_mask, check_number, check_size, check_tensor
from tensornet_interp.concentration import participation
from tensornet_interp.contraction import Term
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import eigenvalue_noise, nonzero, row_noise, without_autocast
from tensornet_interp.results import Result
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record

__all__ = ["EigenGroup", "SpectralResult"]


@register_type("EigenGroup")
class EigenGroup(NamedTuple):
    """An eigengroup holds eigenvalues of one block that are equal within a tolerance.

    Their eigenvectors span a well-defined subspace, but the individual vectors are arbitrary.
    """

    indices: tuple[int, ...]
    eigenvalue: float  # mean of the group
    projector: Tensor  # (in, in)


@register_type("SpectralResult")
@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class SpectralResult(Result):
    """A spectral result is a sum of blocks; each is an output vector times a symmetric matrix, given by eigenpairs.

    B[out, i, j] = sum_block,rank outputs[out, block] eigenvalues[block, rank] v[block, i, rank] v[block, j, rank]

    v are the eigenvectors. Eigenvalues keep their sign and are sorted by magnitude, largest first. Eigenvectors have
    unit norm, and their entry of largest magnitude is positive; in a metric S they have v^T S v = 1 instead, and after
    `change_basis` any norm. If a block has fewer eigenpairs than `rank`, the
    missing ones are zero. If the blocks are the interaction matrices of output directions, `directions` (block, out)
    holds these directions.
    """

    outputs: Tensor  # (out, block)
    eigenvalues: Tensor  # (block, rank)
    eigenvectors: Tensor  # (block, in, rank)
    directions: Tensor | None = None  # (block, out)
    singular_values: Tensor | None = None  # of the output unfolding, float64; None if the blocks do not come from it

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_arrays(outputs=("out", "block"), eigenvalues=("block", "rank"), eigenvectors=("block", "in", "rank"))
        if self.directions is not None:
            check_tensor("directions", self.directions, ("block", "out"))
            check_size("block", eigenvalues=len(self.eigenvalues), directions=len(self.directions))
        if self.singular_values is not None:
            check_tensor("singular_values", self.singular_values, ("number",))

    @property
    def rank(self) -> int:
        """Return the number of eigenpairs per block."""
        return self.eigenvalues.shape[1]

    @property
    def filters(self) -> Tensor:
        """Return the eigenvectors, (block, in, rank)."""
        return self.eigenvectors

    def terms(self) -> tuple[Term, ...]:
        """Return four terms: the outputs, the eigenvalues, and the eigenvectors twice."""
        return (
            Term(self.outputs, ("out", "block")),
            Term(self.eigenvalues, ("block", "rank")),
            Term(self.eigenvectors, ("block", "in1", "rank")),
            Term(self.eigenvectors, ("block", "in2", "rank")),
        )

    def records(self) -> list[Record]:
        """Return one record per eigenpair: block, component, eigenvalue, and the entries of its vectors with names."""
        return [
            {
                "block": block,
                "component": at,
                "eigenvalue": value,
                "outputs": self._output_entries(self.outputs[:, block]),
                "inputs": self._input_entries(self.eigenvectors[block, :, at]),
            }
            for block, values in enumerate(self.eigenvalues.tolist())
            for at, value in enumerate(values)
        ]

    def _spectrum(self) -> tuple[Tensor, str]:
        return self.eigenvalues, "eigenvalues of all blocks"

    def to_layer(self) -> BilinearLayer:
        """Return the result as a layer of rank block * rank, whose left and right factors are both the eigenvectors."""
        vectors = self.eigenvectors.permute(1, 0, 2).flatten(1)  # (in, block * rank)
        down = (self.outputs[:, :, None] * self.eigenvalues).flatten(1)
        return self.made_layer(down=down, left=vectors, right=vectors)

    def interaction_matrix(self, direction: Tensor) -> Tensor:
        """Return the interaction matrix of each output direction, (..., in, in).

        M[in1, in2] = sum_block (direction . outputs[:, block]) V[block] diag(eigenvalues[block]) V[block]^T

        direction: (..., out). V[block] (in, rank) are the eigenvectors of a block. Cost: (directions + rank) * blocks *
        in^2, for the blocks whose output vector has a nonzero product with a direction.
        """
        check_direction(direction, self.outputs.shape[0], self.outputs)
        weights = direction @ self.outputs  # (..., block)
        used = (weights != 0).flatten(0, -2).any(0) if weights.ndim > 1 else weights != 0
        vectors = self.eigenvectors[used]
        blocks = (vectors * self.eigenvalues[used][:, None, :]) @ vectors.mT  # (used block, in, in)
        return torch.tensordot(weights[..., used], blocks, 1)

    def to_tensorly(self) -> CPTensor:
        """Return the result as a TensorLy `CPTensor`, whose weights are the eigenvalues."""
        layer = self.to_layer()
        outputs = self.outputs.repeat_interleave(self.rank, dim=1)
        return CPTensor((self.eigenvalues.flatten(), [outputs, layer.left, layer.right]))

    @without_autocast
    def activations(self, x: Tensor) -> Tensor:
        """Return the activation eigenvalue * (eigenvector . x)^2 of every component, (batch..., block, rank).

        x: (batch..., in), without constant coordinate.
        """
        x = self.lift_input("x", x)
        blocks, size, rank = self.eigenvectors.shape
        projected = x @ self.eigenvectors.permute(1, 0, 2).reshape(size, blocks * rank)
        projected = projected.unflatten(-1, (blocks, rank))
        return self.eigenvalues * projected * projected

    def contributions(self, x1: Tensor, x2: Tensor | None = None) -> Tensor:
        """Return what every eigenpair of every block adds to every output, (batch..., out, block, rank)."""
        return super().contributions(x1, x2).unflatten(-1, tuple(self.eigenvalues.shape))

    def truncate(self, rank: int) -> "SpectralResult":
        """Return the result with only the first `rank` eigenpairs of every block.

        Its relative error is unknown; `relative_error(result, layer)` measures it.
        """
        rank = check_int("rank", rank, 1, self.rank)
        return self._with(self.eigenvalues[:, :rank], self.eigenvectors[:, :, :rank], f"first {rank} eigenpairs")

    def keep(self, mask: Tensor) -> "SpectralResult":
        """Return the result with eigenvalue 0 for all eigenpairs for which mask (block, rank) is false."""
        check_mask("mask", mask, ("block", "rank"), tuple(self.eigenvalues.shape))
        return self._with(self.eigenvalues * mask, self.eigenvectors, f"{int(mask.sum())} eigenpairs kept")

    def _with(self, eigenvalues: Tensor, eigenvectors: Tensor, note: str) -> "SpectralResult":
        """Return the result with other eigenpairs, a note in the report, and unknown error."""
        report = self.report.unmeasured(f"{self.report.method}, {note}")
        return replace(self, eigenvalues=eigenvalues, eigenvectors=eigenvectors, report=report)

    @needs_float64
    def effective_rank(self) -> Tensor:
        """Return the effective rank of every block, (block,).

        (sum |eigenvalue|)^2 / sum eigenvalue^2

        The effective rank depends on the input basis (`report.basis`). It is 0 for a zero block.
        """
        return participation(self.eigenvalues)

    @needs_float64
    def activation_participation(self, x: Tensor) -> Tensor:
        """Return the effective number of components that each input activates, per block: (batch..., block), float64.

        (sum_rank |a|)^2 / sum_rank a^2, a = activations

        The number is from 1 to the rank and is larger for blocks with a larger effective rank. To compare models with
        different spectra, divide it by the effective rank. For unstructured Gaussian inputs, the quotient is about 1/3
        if the effective rank is large (E z^4 = 3 for standard normal z). Memory: batch * block * rank numbers.
        """
        values, x = (part.to(torch.float64) for part in (self.eigenvalues, self.lift_input("x", x)))
        x = x / nonzero(x.abs().amax(-1, keepdim=True))  # the result has no scale, and squares must not overflow
        coordinates = torch.tensordot(x, self.eigenvectors.to(torch.float64), ([-1], [1]))  # (batch..., block, rank)
        return participation(values / nonzero(values.abs().max()) * coordinates.square())

    @needs_float64
    def groups(self, block: int, rtol: float | None = None) -> list[EigenGroup]:
        """Return groups of eigenvalues of a block that are equal up to rtol, each with a projector.

        The projector is the sum of v v^T over the eigenvectors v of the group. In a metric it is the sum of p w^T over
        patterns p and filters w: with x - projector @ x, the group adds nothing to the output. After `change_basis`,
        where eigenvectors are not orthonormal, it is the orthogonal projector to their span. Neighbours in a group
        differ by at most rtol times the largest magnitude. The default rtol is the rounding error of equal eigenvalues:
        10 * in * eps of float64. For a narrower dtype, the rounding errors of the weights and of each eigenvalue to
        this dtype are added.
        """
        block = check_int("block", block, 0, len(self.eigenvalues) - 1)
        if rtol is not None:
            rtol = check_number("rtol", rtol, 0)
        values = self.eigenvalues[block].to(torch.float64)
        noise = eigenvalue_noise(self.eigenvalues[block], self.eigenvectors.shape[1])
        order = torch.argsort(values, descending=True)
        least = torch.maximum(noise[order][1:], noise[order][:-1]) if rtol is None else rtol * values.abs().max()
        gaps = (values[order].diff().abs() > least).tolist()
        runs: list[list[int]] = [[int(order[0])]]
        for index, gap in zip(order[1:].tolist(), gaps, strict=True):
            runs.append([index]) if gap else runs[-1].append(index)
        groups = []
        for run in runs:
            vectors = self.eigenvectors[block][:, run]
            dual = self.patterns[block][:, run] if self.metric is not None else _dual(vectors)
            groups.append(EigenGroup(tuple(sorted(run)), float(values[run].mean()), dual @ vectors.T))
        return sorted(groups, key=lambda group: -abs(group.eigenvalue))


def _dual(vectors: Tensor) -> Tensor:
    """Return P (in, rank) for which P V^T is the orthogonal projector to the span of the columns of V (in, rank)."""
    wide = vectors.to(torch.float64)
    return torch.linalg.pinv(wide, rtol=row_noise(wide, vectors.dtype)).T.to(vectors.dtype)
