"""Output directions shared by all outputs, ordered by singular value, and the eigenpairs of each direction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tensornet_interp.checks import check_int, check_kind
from tensornet_interp.decompositions.compress import compress, unfolding
from tensornet_interp.decompositions.eigen import eigenpairs, fix_signs
from tensornet_interp.decompositions.errors import cut_warning, with_error
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.report import Report
from tensornet_interp.spectral import SpectralResult


@dataclass(frozen=True)
class OutputSVD:
    """Find the output directions with the largest singular values, and the eigenpairs of each direction.

    B[out, i, j] = sum_block u[out, block] M[block, i, j],
    M[block, i, j] = sum_rank eigenvalue[block, rank] v[block, i, rank] v[block, j, rank]

    The directions u are the left singular vectors of the symmetrized tensor, unfolded to a matrix (out, in1 * in2). The
    singular value of a block is the Frobenius norm of M[block].
    blocks: the number of output directions kept; None keeps all whose singular value is above rounding.
    rank: the number of eigenpairs kept per block, at most min(in, 2 * hidden), where hidden is the number of hidden
    units; None keeps that many.

    Result: a `SpectralResult` with all singular values. Those below `report.floor` times the largest one are rounding
    errors. Differentiable if singular values and eigenvalues are distinct.
    Cost in flops: 4 * hidden^2 * (4 * in + out) to compress the layer to r input coordinates, at most min(in, 2 *
    hidden), and to measure the error; the unfolding along out, as in `HOSVD`; and blocks * r^2 * (2 * hidden + 9 * r).
    Raises ValueError if blocks is above out, or if rank is above min(in, 2 * hidden).
    Source: Pearce et al., 2025, section 3.3 and appendix D.
    """

    blocks: int | None = None
    rank: int | None = None
    nested: ClassVar[bool] = True  # the error never rises along the ladder
    fitted: ClassVar[bool] = True  # the best scalar is 1
    odd: ClassVar[bool] = True  # -layer gives minus the result
    differentiable: ClassVar[bool] = True  # the result keeps the graph of gradients of a layer that has one

    def __post_init__(self) -> None:
        for name in ("blocks", "rank"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), 1)

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["OutputSVD"]:
        """Return decompositions from one direction with one eigenpair to all of both; the last is exact."""
        blocks, pairs = layer.shape[0], min(layer.shape[1], 2 * layer.rank)
        steps = sorted({(1, 1), (1, pairs), ((blocks + 1) // 2, pairs), (blocks, pairs)})
        return [cls(blocks=b, rank=r) for b, r in steps]

    @needs_float64
    def __call__(self, layer: BilinearLayer) -> SpectralResult:
        """Decompose a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
        n_out, n_in, _ = layer.shape
        pairs = min(n_in, 2 * layer.rank)
        rank = pairs if self.rank is None else check_int("rank", self.rank, 1, pairs, f"min(in={n_in}, 2 hidden)")
        blocks = None if self.blocks is None else check_int("blocks", self.blocks, 1, n_out, f"out={n_out}")
        state = compress(layer)
        left, values, floor = unfolding(state.core, "out")
        if blocks is None:
            blocks = max(1, int((values > floor * values[0]).sum()))
        directions = fix_signs(left[:, :blocks])
        found = min(rank, state.core.shape[1])
        eigenvalues, vectors = eigenpairs(state.core, directions.T, found)
        # blocks are orthogonal to each other and eigenpairs within a block: what is left out adds in squares
        left_out = float(1 - eigenvalues.detach().square().sum())
        return with_error(
            SpectralResult,
            layer,
            Report.of(layer, self, floor=floor, warnings=cut_warning(values, blocks, "output directions", floor)),
            left_out,
            state.norm,
            outputs=directions,
            eigenvalues=state.scale * eigenvalues,
            eigenvectors=fix_signs(state.expand(vectors)),
            directions=directions.T,
            singular_values=state.scale * values,
        )
