"""Interaction matrices without forming them: products, norms, Krylov subspaces, and bounds on eigenvalues."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import cross_gram

_GRAM_ROWS = 512  # hidden units whose inner products with the others are held at once
_SECOND_LOOK = 6  # steps with k vectors in which an eigenvalue that one vector did not see shows


class Matrices(NamedTuple):
    """M[block] = 1/2 (left D right^T + right D left^T), D = diag(weights[block]), as a map on rows; float64."""

    left: Tensor  # (in, hidden)
    right: Tensor  # (in, hidden)
    weights: Tensor  # (block, hidden)

    def __call__(self, x: Tensor) -> Tensor:
        """(block, n, in) -> (block, n, in): four matrix products that all blocks share, 8 in * hidden flops a row."""
        rows, half = x.flatten(0, 1), self.weights[:, None, :] / 2
        by_left = (rows @ self.left).view(*x.shape[:2], -1).mul_(half).flatten(0, 1)  # (block * n, hidden)
        by_right = (rows @ self.right).view(*x.shape[:2], -1).mul_(half).flatten(0, 1)
        return torch.addmm(by_left @ self.right.T, by_right, self.left.T).view(x.shape)

    def scales(self) -> Tensor:
        """sum_hidden |weights| ||left|| ||right||, (block,): at least the norm of M, however its terms cancel.

        `rounding_share` times this is at least what rounding does to a product with a unit vector.
        """
        lengths = torch.linalg.vector_norm(self.left, dim=0) * torch.linalg.vector_norm(self.right, dim=0)
        return self.weights.abs() @ lengths


def rounding_share(n_in: int, hidden: int) -> float:
    """4 (in + hidden) eps: above the worst case of sums over in and hidden, and of what is done with them after."""
    return 4 * (n_in + hidden) * torch.finfo(torch.float64).eps


def squared_norms(layer: BilinearLayer, weights: Tensor) -> Tensor:
    """||M||_F^2 = weights^T C weights for every row of weights (block, hidden), C the Gram matrix of hidden units.

    Cost: 4 hidden^2 in for all blocks and hidden^2 a block; memory 512 rows of C.
    """
    total = torch.zeros_like(weights[:, 0])
    for start in range(0, layer.rank, _GRAM_ROWS):
        rows, later = _units(layer, start, start + _GRAM_ROWS), _units(layer, start, layer.rank)
        gram = cross_gram(rows, later)  # (rows, hidden - start): C is symmetric
        gram[:, rows.rank :] *= 2
        total += ((weights[:, start : start + _GRAM_ROWS] @ gram) * weights[:, start:]).sum(1)
    return total


def _units(layer: BilinearLayer, start: int, stop: int) -> BilinearLayer:
    units = slice(start, stop)
    return replace(layer, down=layer.down[:, units], left=layer.left[:, units], right=layer.right[:, units])


class Bounds(NamedTuple):
    """(block, k) each: distance of a value to some eigenvalue, and of its magnitude to that of the same place."""

    near: Tensor
    place: Tensor


def enclose(values: Tensor, coupling: Tensor, rest: Tensor, k: int) -> Bounds:
    """Bounds on eigenvalues of M = [[diag(values), coupling^T], [coupling, C]] where only ||C|| <= rest is known.

    values (block, j), j >= k, largest magnitude first; coupling (block, n, j), n rows that carry all of it; rest
    (block,). With S(c) = [[diag(values), coupling^T], [coupling, c I]], S(-rest) <= M <= S(rest) as quadratic forms:
    the i-th largest eigenvalue of M is at most that of S(rest), or rest, and at least the i-th largest value
    (Cauchy); the smallest likewise. Merged by magnitude they bound the i-th largest magnitude. Such a bound is
    quadratic in the coupling where the value is above rest. The norm of a value's column of the coupling (the
    residual of its Ritz vector) bounds the distance to some eigenvalue, whatever rest is.
    """
    j = values.shape[1]
    top, rest = values[:, :k], rest[:, None]
    matrix = pad(torch.diag_embed(values), (0, coupling.shape[1], 0, coupling.shape[1]))  # (block, j + n, j + n)
    matrix[:, j:, :j] = coupling  # eigvalsh reads the lower triangle
    corner = matrix.diagonal(dim1=1, dim2=2)[:, j:]
    corner[:] = rest
    above = torch.linalg.eigvalsh(matrix).flip(1)[:, :k].maximum(rest)  # at least the i-th largest eigenvalue
    corner[:] = -rest
    below = (-torch.linalg.eigvalsh(matrix)[:, :k]).maximum(rest)  # at least minus the i-th smallest
    rank = torch.where(top > 0, (top > 0).cumsum(1), (top <= 0).cumsum(1)) - 1  # among the values of its sign
    limit = torch.where(top > 0, above.gather(1, rank), below.gather(1, rank))
    near = torch.minimum(torch.linalg.vector_norm(coupling[:, :, :k], dim=1), limit - top.abs())
    merged = torch.cat([above, below], 1).sort(dim=1, descending=True).values[:, :k]
    return Bounds(near.clamp_min(0), (merged - top.abs()).clamp_min(0))


class Leading(NamedTuple):
    """The eigenpairs found, one row a block."""

    values: Tensor  # (block, k), largest magnitude first
    vectors: Tensor  # (block, k, in)
    residuals: Tensor  # (block, k)
    bounds: Tensor  # (block, k)
    proven: Tensor  # (block,), boolean
    steps: Tensor  # (block,), whole numbers


def leading(matrices: Matrices, norms: Tensor, k: int, tolerance: float, max_steps: int, seed: int) -> Leading:
    """The k eigenpairs of largest magnitude of every matrix, from Krylov subspaces of at most max_steps vectors.

    norms: ||M||_F^2, (block,). One vector a step, fully reorthogonalised; products are shared by all blocks that are
    not done. A block is done when its bounds are within tolerance and proven; or within tolerance where no proof is
    in reach, and k - 1 more random vectors, from all of which no eigenvalue of multiplicity k can hide, changed
    nothing for a while; or after max_steps.
    """
    count, size = len(matrices.weights), matrices.left.shape[0]
    cap, scales, share = min(max_steps, size), matrices.scales(), rounding_share(*matrices.left.shape)
    rounding = share * scales
    floor = share**0.5 * scales  # below it the norm, a difference of squares, sees nothing
    norms = norms + floor.square()
    draws = torch.randn(count, k, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(norms)
    here, before = torch.arange(count, device=norms.device), norms  # the blocks that are not done
    basis, small = draws[:, :0], norms.new_zeros(count, 0, 0)  # (block, m, in); M in that basis, (block, m, m)
    x, checked, last_look, parts = _orthonormal(draws[:, :1], basis), 0, cap if k > 1 else 0, []
    while len(here):
        basis, small, x, last = _extend(matrices, basis, small, x)
        used = basis.shape[1]
        x = x[:, : cap - used]
        if used < min(cap, max(k, checked + 1, checked + checked // 8)):
            continue
        values, vectors, coupling = _ritz(small, last)
        missing = (norms - values.square().sum(1) - 2 * coupling.square().sum((1, 2))).clamp_min(0)
        near, place = (bound + rounding[:, None] for bound in enclose(values, coupling, missing.sqrt(), k))
        top = values[:, :k]
        wanted = (tolerance * top.abs()).maximum(2 * rounding[:, None])
        seen = torch.where(top.abs() <= 2 * floor[:, None], 2 * floor[:, None], wanted)  # of what the norm can prove
        close, proven = (near <= wanted).all(1), (place <= near.maximum(seen)).all(1)
        rate = (before - missing) / (used - checked)  # of squared norm found by a step; it falls
        hopeless = ~proven & (missing - top[:, -1].square() > rate * (cap - used))
        done = close & (proven | (hopeless & (used >= last_look)))
        if used == cap:
            done = torch.ones_like(done)
        elif last_look == cap and bool((done | (close & hopeless)).all()) and not bool(done.all()):
            x = _orthonormal(torch.cat([x, draws[here, 1:]], 1)[:, : cap - used], basis)
            last_look = min(cap, used + k * _SECOND_LOOK)
        residuals = torch.linalg.vector_norm(coupling[:, :, :k], dim=1) + rounding[:, None]
        bounds = torch.where(proven[:, None], near.maximum(place), near)
        steps = torch.full_like(here, used)
        pairs = Leading(top, vectors[:, :, :k].mT @ basis, residuals, bounds, proven, steps)
        parts.append((here[done], [part[done] for part in pairs]))
        left = ~done
        here, norms, rounding, floor, before = (part[left] for part in (here, norms, rounding, floor, missing))
        basis, small, x, checked = basis[left], small[left], x[left], used
        matrices = matrices._replace(weights=matrices.weights[left])
    order = torch.cat([index for index, _ in parts]).argsort()
    return Leading(*(torch.cat(part)[order] for part in zip(*(pairs for _, pairs in parts), strict=True)))


def _extend(matrices: Matrices, basis: Tensor, small: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The basis (block, m, in) with x (block, n, in) added, M in it, the next x, and what couples M x to that."""
    basis, n = torch.cat([basis, x], 1), x.shape[1]
    image = matrices(x)
    overlap = image @ basis.mT  # (block, n, m)
    small = pad(small, (0, n, 0, n))
    small[:, -n:] = overlap
    small[:, :, -n:] = overlap.mT
    image = torch.baddbmm(image, overlap, basis, alpha=-1)
    image = torch.baddbmm(image, image @ basis.mT, basis, alpha=-1)  # twice is enough
    following, coupling = torch.linalg.qr(image.mT)
    return basis, small, _orthonormal(following.mT, basis), coupling


def _orthonormal(x: Tensor, basis: Tensor) -> Tensor:
    """Orthonormal rows (block, n, in) orthogonal to the basis; where x has no such part, QR makes one up."""
    for _ in range(2):
        x = torch.linalg.qr(torch.baddbmm(x, x @ basis.mT, basis, alpha=-1).mT).Q.mT
    return x


def _ritz(small: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ritz values (block, m), largest magnitude first, their vectors in the basis, their coupling (block, n, m)."""
    values, vectors = torch.linalg.eigh(small)
    order = values.abs().argsort(dim=1, descending=True)
    values, vectors = values.gather(1, order), vectors.gather(2, order[:, None, :].expand_as(vectors))
    return values, vectors, last @ vectors[:, -last.shape[2] :]
