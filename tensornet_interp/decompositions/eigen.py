"""Eigendecompositions of the interaction matrices of output directions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from tensornet_interp.balance import balance, balance_rows, rescale, times_power, without_names
from tensornet_interp.checks import check_alike, check_int, check_kind, check_size, check_tensor
from tensornet_interp.decompositions.errors import measured
from tensornet_interp.float64 import needs_float64
from tensornet_interp.formats import owned
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import EPS, row_noise, thin_qr
from tensornet_interp.report import Report
from tensornet_interp.spectral import SpectralResult

_EIGH_FLOPS = 9  # flops of a dense symmetric eigendecomposition with vectors, in units of size^3
_CHUNK_ELEMENTS = 2**24  # entries of a batch of matrices that are decomposed together (128 MB)


@dataclass(frozen=True, eq=False)
class Eigen:
    """Decompose the symmetrized interaction matrix M_u of each output direction u into eigenpairs.

    M_u[in1, in2] = sum_out u[out] B[out, in1, in2] = sum_rank eigenvalue[u, rank] v[u, in1, rank] v[u, in2, rank]

    directions: the output directions (block, out), one per row; None takes every output. There may be more directions
    than outputs, and they may be linearly dependent: their pseudoinverse reassembles the tensor. This is exact if the
    directions span all outputs that the layer uses; otherwise the relative error measures what they miss.
    rank: the number of eigenpairs kept per block. The largest magnitude comes first, and eigenvalues keep their sign.
    None keeps all min(in, 2 * hidden) eigenpairs, where hidden is the number of hidden units.

    Result: a `SpectralResult` with one block per direction. Differentiable if the eigenvalues of each block are
    distinct.
    Cost in flops: 2 * r^2 * hidden + 9 * r^3 per direction with r = in. If 2 * hidden < in, one QR decomposition of
    [left, right] (4 * in * r^2) can reduce r to 2 * hidden, and each direction then costs 2 * in * r^2 more; the
    cheaper way is taken. Memory: 2^24 matrix entries at once, besides the result. To measure the relative error, the
    norm of the layer is computed, for 2 * hidden^2 * (4 * in + out) flops, and the entries of both tensors are compared
    (2 * out * in^2 * hidden flops); above 2e11 flops the error is computed from the factors instead.
    Raises ValueError if rank is above min(in, 2 * hidden), if directions have another size, dtype or device than the
    outputs of the layer, or if the layer is lifted and the directions do not span its constant output.
    Source: Pearce et al., 2025, section 3.2; appendix K for more directions than outputs.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.tensor([[1.0, -3.0]]))
    >>> Eigen()(layer).eigenvalues
    tensor([[-3.,  1.]])
    """

    directions: Tensor | None = None
    rank: int | None = None
    nested: ClassVar[bool] = True  # the error never rises along the ladder
    fitted: ClassVar[bool] = True  # the best scalar is 1
    odd: ClassVar[bool] = True  # -layer gives minus the result
    differentiable: ClassVar[bool] = True  # the result keeps the graph of gradients of a layer that has one

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
        """Return decompositions with one, two, half and all eigenpairs per block; the last is exact."""
        full = min(layer.shape[1], 2 * layer.rank)
        return [cls(rank=rank) for rank in sorted({1, min(2, full), (full + 1) // 2, full})]

    @needs_float64
    def __call__(self, layer: BilinearLayer) -> SpectralResult:
        """Decompose a layer in float64; the result has the dtype of the layer."""
        check_kind("layer", layer, BilinearLayer, "; decompose() takes results and networks")
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
            given = owned(self.directions)  # gradients flow to the weights only
            directions, outputs = given.to(torch.float64), invert_directions(given)
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
                "directions must span the constant output (coordinate 0) of a lifted layer, or the next layer"
                " loses its constant; add that direction, or decompose layer.drop_constant()"
            )


def invert_directions(directions: Tensor) -> Tensor:
    """Return the pseudoinverse (out, block) of directions (block, out), float64, which reassembles the tensor.

    Directions count as linearly dependent if they are dependent up to the rounding of their dtype.
    """
    wide, exponent = rescale(directions)
    return times_power(torch.linalg.pinv(wide, rtol=row_noise(wide, directions.dtype)), -exponent)


def eigen_flops(n_in: int, hidden: int, blocks: int) -> dict[str, float]:
    """Return the flops of two ways to decompose `blocks` interaction matrices: "thin" (QR first) or "dense" (no QR)."""

    def matrices(size: int) -> float:
        return blocks * (2.0 * size**2 * hidden + _EIGH_FLOPS * size**3)

    thin = min(n_in, 2 * hidden)
    return {
        "thin": 4.0 * n_in * thin**2 + matrices(thin) + blocks * 2.0 * n_in * thin**2,
        "dense": matrices(n_in),
    }


def compress_inputs(layer: BilinearLayer, blocks: int) -> tuple[BilinearLayer, Tensor | None]:
    """Return the layer in the coordinates of an orthonormal basis Q (in, 2 * hidden) of its input factors, and Q.

    Nothing is lost, because left and right lie in the span of Q. If this does not save flops for `blocks` interaction
    matrices, the layer is returned unchanged, and None instead of Q.
    """
    flops = eigen_flops(layer.shape[1], layer.rank, blocks)
    if 2 * layer.rank >= layer.shape[1] or flops["dense"] <= flops["thin"]:
        return layer, None
    basis, core = thin_qr(torch.cat([layer.left, layer.right], 1))  # (in, 2 hidden), (2 hidden, 2 hidden)
    return replace(without_names(layer), left=core[:, : layer.rank], right=core[:, layer.rank :]), basis


def eigenpairs(layer: BilinearLayer, directions: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (block, rank) and eigenvectors (block, in, rank) of the interaction matrix of each direction.

    The largest magnitude comes first; `rank` must be at most min(in, 2 * hidden). The layer and each direction may have
    any scale.
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
    """Return the columns of (..., in, rank), each with the sign that makes its entry of largest magnitude positive."""
    largest = vectors.detach().abs().argmax(dim=-2, keepdim=True)
    sign = vectors.detach().gather(-2, largest).sign()
    return vectors * torch.where(sign == 0, torch.ones_like(sign), sign)
