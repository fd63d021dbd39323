"""Spectral results: blocks, each an output vector times a symmetric matrix in its eigenbasis."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from tensorly.cp_tensor import CPTensor
from torch import Tensor

from tensornet_interp.affine import check_direction
from tensornet_interp.checks import check_int, check_size, check_tensor
from tensornet_interp.concentration import participation
from tensornet_interp.contraction import Term
from tensornet_interp.layer import CHANGED, BilinearLayer
from tensornet_interp.numerics import eigenvalue_noise, nonzero
from tensornet_interp.results import Result

__all__ = ["EigenGroup", "SpectralResult"]


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

    def interaction_matrix(self, direction: Tensor) -> Tensor:
        """M[in1, in2] = sum_block (direction . outputs[:, block]) V[block] diag(eigenvalues[block]) V[block]^T.

        direction: (..., out); result (..., in, in), as for a layer. Cost: in^2 rank for every block that any of the
        directions has a part of, and directions * blocks * in^2.
        """
        check_direction(direction, self.outputs.shape[0], self.outputs)
        weights = direction @ self.outputs  # (..., block)
        used = (weights != 0).flatten(0, -2).any(0) if weights.ndim > 1 else weights != 0
        vectors = self.eigenvectors[used]
        blocks = (vectors * self.eigenvalues[used][:, None, :]) @ vectors.mT  # (used block, in, in)
        return torch.tensordot(weights[..., used], blocks, 1)

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
        projected = projected.unflatten(-1, (blocks, rank))
        return self.eigenvalues * projected * projected

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
        values, x = (part.to(torch.float64) for part in (self.eigenvalues, self.lift_input("x", x)))
        x = x / nonzero(x.abs().amax(-1, keepdim=True))  # it depends on no scale, and squares must not overflow
        coordinates = torch.tensordot(x, self.eigenvectors.to(torch.float64), ([-1], [1]))  # (batch..., block, rank)
        return participation(values / nonzero(values.abs().max()) * coordinates.square())

    def groups(self, block: int, rtol: float | None = None) -> list[EigenGroup]:
        """Runs of eigenvalues of a block that differ by less than rtol times the largest, each with its projector.

        rtol: by default what rounding makes of equal eigenvalues: 10 * in * the rounding of float64, and for a narrower
        dtype its rounding of the weights and of each value.
        """
        block = check_int("block", block, 0, len(self.eigenvalues) - 1)
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
            groups.append(EigenGroup(tuple(sorted(run)), float(values[run].mean()), vectors @ vectors.T))
        return sorted(groups, key=lambda group: -abs(group.eigenvalue))
