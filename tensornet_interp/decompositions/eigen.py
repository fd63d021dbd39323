"""Eigendecomposition of interaction matrices (Pearce et al. 2025, section 3.2; overcomplete directions: appendix K)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_int, check_size, check_tensor
from tensornet_interp.inner import norm
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.results import Report, SpectralResult, fix_signs

_EIGH_FLOPS = 9  # flops of a dense symmetric eigendecomposition with vectors, in units of size^3
_CHUNK_ELEMENTS = 2**24  # entries of a batch of matrices that are decomposed together (128 MB)


@dataclass(frozen=True, eq=False)
class Eigen:
    """M_u[in1, in2] = sum_out u[out] B[out, in1, in2], symmetrized, = sum_rank eigenvalue v[in1] v[in2], for every u.

    directions: (block, out), one output direction a row; by default every output. They may be overcomplete or
    linearly dependent: the tensor is reassembled by the pseudoinverse, exactly when they span the outputs that
    occur; otherwise the relative error says what they miss.
    rank: eigenpairs kept a block, by magnitude with their sign; None keeps all min(in, 2 * hidden).

    Factored: where 2 * hidden < in, one thin QR of [left, right] serves every direction and cores of size 2 * hidden
    are decomposed; else matrices of size in: whichever `eigen_flops` says is cheaper. Differentiable; eigenvectors
    of degenerate eigenvalues are not.
    Memory: chunks of at most 2^24 matrix entries, and out * size^2 for directions that are not orthonormal.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.tensor([[1.0, -3.0]]))
    >>> Eigen()(layer).eigenvalues
    tensor([[-3.,  1.]])
    """

    directions: Tensor | None = None
    rank: int | None = None
    nested: ClassVar[bool] = True  # the error never rises along the ladder

    def __post_init__(self) -> None:
        if self.directions is not None:
            check_tensor("directions", self.directions, ("block", "out"))
        if self.rank is not None:
            check_int("rank", self.rank, 1)

    def __repr__(self) -> str:
        directions = "every output" if self.directions is None else f"{tuple(self.directions.shape)}"
        return f"Eigen(directions={directions}, rank={self.rank})"

    @classmethod
    def ladder(cls, layer: BilinearLayer) -> Sequence["Eigen"]:
        """From one eigenpair a block to all, which is exact."""
        full = min(layer.shape[1], 2 * layer.rank)
        return [cls(rank=rank) for rank in sorted({1, 2, (full + 1) // 2, full})]

    def __call__(self, layer: BilinearLayer) -> SpectralResult:
        """Decompose a layer; the result has the layer's dtype, the work is done in float64."""
        n_out, n_in, _ = layer.shape
        full = min(n_in, 2 * layer.rank)
        kept = (
            full
            if self.rank is None
            else check_int("rank", self.rank, 1, full, f"min(in={n_in}, 2 hidden={2 * layer.rank})")
        )
        if self.directions is not None:
            check_size("out", layer=n_out, directions=self.directions.shape[1])
            check_alike(layer=layer.down, directions=self.directions)
        work = layer.to(dtype=torch.float64)
        directions = torch.eye(n_out, dtype=torch.float64, device=work.down.device)
        if self.directions is not None:
            directions = self.directions.to(torch.float64)
        values, vectors, outputs, error = _decompose(work, directions, kept, layer.down.dtype)
        dtype = layer.down.dtype
        scale = float(norm(layer))
        report = Report.of(layer, self, float(error) / scale if scale > 0 else 0.0)
        return SpectralResult(
            report=report,
            constant_in=layer.constant_in,
            constant_out=layer.constant_out,
            outputs=outputs.to(dtype),
            eigenvalues=values.to(dtype),
            eigenvectors=fix_signs(vectors).to(dtype),
            directions=directions.to(dtype),
        )


def eigen_flops(n_in: int, hidden: int, blocks: int) -> dict[str, float]:
    """Flops of the two ways to decompose `blocks` interaction matrices: "thin" (QR first) and "dense"."""

    def matrices(size: int) -> float:
        return blocks * (2.0 * size**2 * hidden + _EIGH_FLOPS * size**3)

    thin = min(n_in, 2 * hidden)
    return {
        "thin": 4.0 * n_in * thin**2 + matrices(thin) + blocks * 2.0 * n_in * thin**2,
        "dense": matrices(n_in),
    }


def compress_inputs(layer: BilinearLayer, blocks: int) -> tuple[BilinearLayer, Tensor | None]:
    """The layer in coordinates of an orthonormal basis Q (in, 2 * hidden) of its inputs, and Q; or (layer, None).

    Lossless: left and right lie in the span of Q. Done only where that saves flops for that many matrices.
    """
    flops = eigen_flops(layer.shape[1], layer.rank, blocks)
    if 2 * layer.rank >= layer.shape[1] or flops["dense"] <= flops["thin"]:
        return layer, None
    basis, core = torch.linalg.qr(torch.cat([layer.left, layer.right], 1))  # (in, 2 hidden), (2 hidden, 2 hidden)
    return replace(layer, left=core[:, : layer.rank], right=core[:, layer.rank :], constant_in=False), basis


def _decompose(
    layer: BilinearLayer, directions: Tensor, rank: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvalues (block, rank), eigenvectors (block, in, rank), outputs (out, block), Frobenius error of the sum."""
    blocks, n_out = directions.shape
    core, basis = compress_inputs(layer, blocks)
    size = core.shape[1]
    gram = directions @ directions.T
    orthonormal = bool(torch.allclose(gram, torch.eye(blocks, dtype=gram.dtype, device=gram.device), atol=1e-12))
    outputs = directions.T if orthonormal else torch.linalg.pinv(directions)  # (out, block)
    residual = layer.down.new_zeros(() if orthonormal else (n_out, size, size))
    values: list[Tensor] = []
    vectors: list[Tensor] = []
    for rows in directions.split(max(1, _CHUNK_ELEMENTS // size**2)):
        matrices = core.interaction_matrix(rows)  # (chunk, size, size)
        value, vector = torch.linalg.eigh(matrices)
        order = value.detach().abs().argsort(dim=-1, descending=True, stable=True)[:, :rank]
        value = value.gather(-1, order)
        vector = vector.gather(-1, order[:, None, :].expand(-1, size, -1))
        with torch.no_grad():  # what is left once the result is rounded to the caller's dtype
            kept = vector.to(dtype).to(vector.dtype)
            rest = matrices - (kept * value.to(dtype).to(value.dtype)[:, None, :]) @ kept.mT
            at = sum(map(len, values))
            chunk = outputs[:, at : at + len(rows)]
            residual = residual + (rest.square().sum() if orthonormal else torch.einsum("ob,bij->oij", chunk, rest))
        values.append(value)
        vectors.append(vector if basis is None else basis @ vector)
    with torch.no_grad():
        missed = layer.down - outputs @ (directions @ layer.down)  # outputs that the directions do not span
        squared = norm(replace(layer, down=missed)).square() + (residual if orthonormal else residual.square().sum())
    return torch.cat(values), torch.cat(vectors), outputs, squared.sqrt()
