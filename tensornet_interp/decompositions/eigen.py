"""Eigendecomposition of the interaction matrix of each output direction."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tensornet_interp.balance import balance, balance_rows, rescale, times_power
from tensornet_interp.checks import check_alike, check_int, check_size, check_tensor
from tensornet_interp.decompositions.errors import measured
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import EPS, row_noise
from tensornet_interp.report import Report
from tensornet_interp.spectral import SpectralResult

_EIGH_FLOPS = 9  # flops of a dense symmetric eigendecomposition with vectors, in units of size^3
_CHUNK_ELEMENTS = 2**24  # entries of a batch of matrices that are decomposed together (128 MB)


@dataclass(frozen=True, eq=False)
class Eigen:
    """Decompose the symmetrized interaction matrix M_u of each output direction u into eigenpairs.

    M_u[in1, in2] = sum_out u[out] B[out, in1, in2] = sum_rank eigenvalue[u, rank] v[u, in1, rank] v[u, in2, rank]

    directions: the output directions (block, out), one per row; None takes every output. They may be overcomplete or
    linearly dependent: the pseudoinverse of the directions puts the tensor together again. This is exact if they span
    the outputs that the layer uses; otherwise the relative error says how much they miss.
    rank: the number of eigenpairs kept per block, largest magnitude first, with their signs; None keeps all
    min(in, 2 hidden).

    Result: a `SpectralResult` with one block per direction. Differentiable where the eigenvalues of a block differ.
    Cost: per direction 2 r^2 hidden + 9 r^3 flops. If 2 hidden < in, one QR of [left, right] (4 in r^2) makes
    r = 2 hidden; else, or if that is cheaper, r = in. Memory: at most 2^24 matrix entries at once. The error of
    directions other than the outputs takes out in^2 more; above 2^26 entries it is measured without that memory, and
    then errors below 1e-8 are rounding.
    Raises ValueError if rank is above min(in, 2 hidden), if directions have another size, dtype or device than the
    layer's outputs, or if the layer is lifted and they do not span its constant output.
    Source: Pearce et al., 2025, section 3.2; appendix K for overcomplete directions.

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
        """Return the steps from one eigenpair per block to all, which is exact."""
        full = min(layer.shape[1], 2 * layer.rank)
        return [cls(rank=rank) for rank in sorted({1, 2, (full + 1) // 2, full})]

    def __call__(self, layer: BilinearLayer) -> SpectralResult:
        """Decompose a layer. The work is done in float64, and the result has the layer's dtype."""
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
        wide = layer.to(dtype=torch.float64)
        if self.directions is None:
            directions = outputs = torch.eye(n_out, dtype=torch.float64, device=layer.down.device)
        else:
            directions = self.directions.to(torch.float64)
            outputs = invert_directions(self.directions)
            self._check_constant(layer, outputs @ directions)
        values, vectors = eigenpairs(wide, directions, kept)
        return measured(
            SpectralResult,
            layer,
            Report.of(layer, self),
            outputs=outputs,
            eigenvalues=values,
            eigenvectors=fix_signs(vectors),
            directions=directions,
        )

    def _check_constant(self, layer: BilinearLayer, reassembled: Tensor) -> None:
        constant = torch.eye(len(reassembled), dtype=torch.float64, device=reassembled.device)[0]
        noise = 0.0 if layer.down.dtype == torch.float64 else torch.finfo(layer.down.dtype).eps
        tolerance = 10 * len(reassembled) * EPS + len(reassembled) ** 0.5 * noise
        if layer.constant_out and not torch.allclose(reassembled[:, 0], constant, rtol=0, atol=tolerance):
            raise ValueError(
                "directions must span the constant output (coordinate 0) of a lifted layer, or what stands on it"
                " loses its constant; add that direction, or decompose layer.drop_constant()"
            )


def invert_directions(directions: Tensor) -> Tensor:
    """Return the pseudoinverse (out, block) of directions (block, out), float64, that puts the tensor together again.

    Directions that depend on each other up to the rounding of their dtype are taken as dependent.
    """
    wide, exponent = rescale(directions)
    return times_power(torch.linalg.pinv(wide, rtol=row_noise(wide, directions.dtype)), -exponent)


def eigen_flops(n_in: int, hidden: int, blocks: int) -> dict[str, float]:
    """Return the flops of the two ways to decompose `blocks` interaction matrices: "thin" (QR first) and "dense"."""

    def matrices(size: int) -> float:
        return blocks * (2.0 * size**2 * hidden + _EIGH_FLOPS * size**3)

    thin = min(n_in, 2 * hidden)
    return {
        "thin": 4.0 * n_in * thin**2 + matrices(thin) + blocks * 2.0 * n_in * thin**2,
        "dense": matrices(n_in),
    }


def compress_inputs(layer: BilinearLayer, blocks: int) -> tuple[BilinearLayer, Tensor | None]:
    """Return the layer in the coordinates of an orthonormal basis Q (in, 2 hidden) of its inputs, and Q.

    Nothing is lost, since left and right lie in the span of Q. If this saves no flops for that many matrices, the
    layer is returned unchanged, with None for Q.
    """
    flops = eigen_flops(layer.shape[1], layer.rank, blocks)
    if 2 * layer.rank >= layer.shape[1] or flops["dense"] <= flops["thin"]:
        return layer, None
    basis, core = torch.linalg.qr(torch.cat([layer.left, layer.right], 1))  # (in, 2 hidden), (2 hidden, 2 hidden)
    return replace(layer, left=core[:, : layer.rank], right=core[:, layer.rank :], constant_in=False), basis


def eigenpairs(layer: BilinearLayer, directions: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (block, rank) and eigenvectors (block, in, rank) of the interaction matrix of each direction.

    The largest magnitude comes first; there are at most min(in, 2 hidden) eigenpairs per direction. The layer and each
    direction may have any scale.
    """
    (balanced,), exponent = balance(layer)
    core, basis = compress_inputs(balanced, len(directions))
    size = core.shape[1]
    values: list[Tensor] = []
    vectors: list[Tensor] = []
    scaled, powers = balance_rows(directions)
    for rows in scaled.split(max(1, _CHUNK_ELEMENTS // size**2)):
        value, vector = torch.linalg.eigh(core.interaction_matrix(rows))  # (chunk, size), (chunk, size, size)
        order = value.detach().abs().argsort(dim=-1, descending=True, stable=True)[:, :rank]
        vector = vector.gather(-1, order[:, None, :].expand(-1, size, -1))
        values.append(value.gather(-1, order))
        vectors.append(vector if basis is None else basis @ vector)
    return times_power(torch.cat(values).T, powers + exponent).T, torch.cat(vectors)


def fix_signs(vectors: Tensor) -> Tensor:
    """Return the columns (..., in, rank), each with the sign that makes its entry of largest magnitude positive."""
    largest = vectors.detach().abs().argmax(dim=-2, keepdim=True)
    sign = vectors.detach().gather(-2, largest).sign()
    return vectors * torch.where(sign == 0, torch.ones_like(sign), sign)
