"""Compute with interaction matrices that are never formed: products, norms, Krylov subspaces, bounds on eigenvalues."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import cross_gram
from tensornet_interp.numerics import nonzero

_GRAM_ROWS = 512  # rows of the Gram matrix of hidden units in memory at once
_SINGLE = 1e-4  # the smallest tolerance that float32 can reach
_AHEAD = 0.2  # float32 continues to this share of the tolerance: its steps are cheap, and fewer vectors are verified
_SECOND_LOOK = 6  # extra steps with k vectors, which find an eigenvalue that one start vector missed


class Matrices(NamedTuple):
    """These arrays define M[block] = 1/2 (left D right^T + right D left^T), D = diag(weights[block]), in float64."""

    left: Tensor  # (in, hidden)
    right: Tensor  # (in, hidden)
    weights: Tensor  # (block, hidden)

    def __call__(self, x: Tensor) -> Tensor:
        """Return M times the rows x (block, n, in); cost: 8 * in * hidden flops per row, shared by all blocks."""
        rows, half = x.flatten(0, 1), self.weights[:, None, :] / 2
        by_left = (rows @ self.left).view(*x.shape[:2], -1).mul_(half).flatten(0, 1)  # (block * n, hidden)
        by_right = (rows @ self.right).view(*x.shape[:2], -1).mul_(half).flatten(0, 1)
        return torch.addmm(by_left @ self.right.T, by_right, self.left.T).view(x.shape)

    def scales(self) -> Tensor:
        """Return sum_hidden |weights| ||left|| ||right||, (block,): an upper bound on the norm of M.

        This number times `rounding_share` bounds the rounding error of M times a unit vector.
        """
        lengths = torch.linalg.vector_norm(self.left, dim=0) * torch.linalg.vector_norm(self.right, dim=0)
        return self.weights.abs() @ lengths


def rounding_share(n_in: int, hidden: int) -> float:
    """Return 4 * (in + hidden) * eps, which bounds the relative rounding error of sums over both modes."""
    return 4 * (n_in + hidden) * torch.finfo(torch.float64).eps


def squared_norms(layer: BilinearLayer, weights: Tensor) -> Tensor:
    """Return ||M||_F^2 per row of weights (block, hidden): weights^T C weights, C = Gram matrix of hidden units.

    Flops: 4 * hidden^2 * in for all blocks together, plus hidden^2 per block. Memory: 512 rows of C at a time.
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
    """`near` bounds |value i - some eigenvalue|, `place` bounds ||value i| - the i-th largest magnitude|."""

    near: Tensor
    place: Tensor


def enclose(values: Tensor, coupling: Tensor, rest: Tensor, k: int) -> Bounds:
    """Return error bounds for the values as eigenvalues of M = [[diag(values), coupling^T], [coupling, C]].

    C is unknown except for ||C|| <= rest (block,). values: (block, j), j >= k, largest magnitude first; coupling:
    (block, n, j), n rows with all coupling. With S(c) = [[diag(values), coupling^T], [coupling, c I]], S(-rest) <= M <=
    S(rest) as quadratic forms. So the i-th largest eigenvalue of M is at most the i-th largest of S(rest), or rest, and
    at least the i-th largest value (Cauchy). The same holds for the smallest. Merged by magnitude, these bounds enclose
    the i-th largest magnitude; they are quadratic in the coupling if the value is above rest. For every rest, the norm
    of a value's coupling column (the residual of its Ritz vector) bounds its distance to some eigenvalue.
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
    """This tuple holds the leading eigenpairs of every block, with bounds on their errors."""

    values: Tensor  # (block, k), largest magnitude first
    vectors: Tensor  # (block, k, in)
    residuals: Tensor  # (block, k)
    bounds: Tensor  # (block, k)
    proven: Tensor  # (block,), boolean
    steps: Tensor  # (block,), whole numbers


def leading(matrices: Matrices, norms: Tensor, k: int, tolerance: float, max_steps: int, seed: int) -> Leading:
    """Find the k eigenpairs of largest magnitude of every matrix, in Krylov subspaces of at most max_steps vectors.

    norms: ||M||_F^2, (block,). If the tolerance is at least 1e-4, float32 finds the subspaces. Then float64 multiplies
    M by the Ritz vectors that the bounds need, and the bounds depend only on this product. Blocks for which float32 was
    not accurate enough are computed again in float64.
    """
    problem, cap = _Problem.of(matrices, norms), min(max_steps, matrices.left.shape[0])
    size = (len(norms), k, matrices.left.shape[0])
    draws = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu").to(
        norms
    )
    todo = torch.ones(len(norms), dtype=torch.bool, device=norms.device)
    parts: list[tuple[Tensor, Leading]] = []
    if tolerance >= _SINGLE:
        single, start, more = problem.single(), draws[:, :1].float(), draws[:, 1:].float()
        for draft in _search(single, start, more, k, _AHEAD * tolerance, cap):
            needed = _needed(draft, single.at(draft.blocks), k, 0.9 * tolerance)
            for count in needed.unique().tolist():
                some = draft.at(needed == count)
                (sure,) = _search(
                    problem.at(some.blocks), some.rows(count).to(norms), draws[:, :0], k, tolerance, count
                )
                good = sure.verdict.close & (sure.verdict.proven | ~some.verdict.proven) | (some.used > cap - k)
                parts.append((some.blocks[good], sure.at(good).pairs(k, some.used)))
                todo[some.blocks[good]] = False
    again = todo.nonzero()[:, 0]
    for found in _search(problem.at(again), draws[again, :1], draws[again, 1:], k, tolerance, cap):
        parts.append((again[found.blocks], found.pairs(k, found.used)))
    order = torch.cat([index for index, _ in parts]).argsort()
    return Leading(*(torch.cat(part)[order] for part in zip(*(pairs for _, pairs in parts), strict=True)))


class _Problem(NamedTuple):
    """A problem consists of matrices and of bounds (block,) on their norms and on rounding errors."""

    matrices: Matrices
    norms: Tensor  # at least ||M||_F^2
    rounding: Tensor  # error of a product with a unit vector
    floor: Tensor  # the smallest norm that a difference of squared norms can show

    @classmethod
    def of(cls, matrices: Matrices, norms: Tensor) -> "_Problem":
        share, scales = rounding_share(*matrices.left.shape), matrices.scales()
        return cls(matrices, norms + share * scales.square(), share * scales, share**0.5 * scales)

    def single(self) -> "_Problem":
        """Return the problem in float32, each matrix divided by its norm, with typical (not worst-case) rounding."""
        length, eps = nonzero(self.norms).sqrt(), torch.finfo(torch.float32).eps
        left, right, weights = self.matrices
        tops = [top if top > 0 else 1.0 for top in (float(left.abs().max()), float(right.abs().max()))]
        parts = (left / tops[0], right / tops[1], weights / length[:, None] * tops[0] * tops[1])
        rounding, floor = (self.rounding / length).clamp_min(10 * eps), (self.floor / length).clamp_min(3 * eps**0.5)
        matrices = Matrices(*(part.to(torch.float32) for part in parts))
        return _Problem(matrices, self.norms / length.square(), rounding, floor)

    def at(self, index: Tensor) -> "_Problem":
        """Return the problem of the blocks that `index` selects."""
        matrices = self.matrices._replace(weights=self.matrices.weights[index])
        return _Problem(matrices, *(part[index] for part in self[1:]))


class _Verdict(NamedTuple):
    bounds: Tensor  # (block, k)
    close: Tensor  # (block,), whether each value is close to an eigenvalue
    proven: Tensor  # (block,)
    missing: Tensor  # (block,), bound on the squared norm of M outside of the subspace

    @classmethod
    def of(cls, problem: _Problem, values: Tensor, coupling: Tensor, k: int, tolerance: float) -> "_Verdict":
        """Return the verdict on Ritz values (block, j), from their coupling (block, n, j) to other vectors."""
        missing = (problem.norms - values.square().sum(1) - 2 * coupling.square().sum((1, 2))).clamp_min(0)
        rounding, blind = problem.rounding[:, None], 2 * problem.floor[:, None]
        near, place = (bound + rounding for bound in enclose(values, coupling, missing.sqrt(), k))
        size = values[:, :k].abs()
        wanted = (tolerance * size).maximum(2 * rounding)
        proven = (place <= near.maximum(torch.where(size <= blind, blind, wanted))).all(1)
        return cls(torch.where(proven[:, None], near.maximum(place), near), (near <= wanted).all(1), proven, missing)


class _Found(NamedTuple):
    """This tuple holds the blocks for which a search has finished, with their Ritz values and vectors."""

    blocks: Tensor
    values: Tensor
    vectors: Tensor
    coupling: Tensor
    basis: Tensor
    verdict: _Verdict
    rounding: Tensor
    used: int  # vectors of the basis

    def at(self, mask: Tensor) -> "_Found":
        """Return the blocks for which the mask is true."""
        tensors = (self.blocks, self.values, self.vectors, self.coupling, self.basis)
        verdict = _Verdict(*(part[mask] for part in self.verdict))
        blocks, values, vectors, coupling, basis = (part[mask] for part in tensors)
        return _Found(blocks, values, vectors, coupling, basis, verdict, self.rounding[mask], self.used)

    def rows(self, count: int) -> Tensor:
        """Return the first `count` Ritz vectors, (block, count, in)."""
        return self.vectors[:, :, :count].mT.to(self.basis) @ self.basis

    def pairs(self, k: int, steps: int) -> Leading:
        """Return the first k eigenpairs of every block."""
        residuals = torch.linalg.vector_norm(self.coupling[:, :, :k], dim=1) + self.rounding[:, None]
        bounds, _, proven, _ = self.verdict
        return Leading(self.values[:, :k], self.rows(k), residuals, bounds, proven, torch.full_like(self.blocks, steps))


def _search(problem: _Problem, start: Tensor, more: Tensor, k: int, tolerance: float, cap: int) -> Iterator[_Found]:
    """Search from start (block, n, in) with full reorthogonalisation, and yield blocks as they finish.

    Unfinished blocks share products. A block is done if its bounds are within tolerance and proven; or if they are
    within tolerance, no proof is in reach and `more` random vectors (block, k - 1, in), which show every eigenvalue of
    multiplicity k, changed nothing for a while; or if its basis has `cap` vectors.
    """
    here, before = torch.arange(len(start), device=start.device), problem.norms
    basis, small = start[:, :0], problem.norms.new_zeros(len(start), 0, 0)  # (block, m, in), M in it (block, m, m)
    x, checked, last_look = _orthonormal(start, basis), 0, cap if more.shape[1] else 0
    while len(here):
        basis, small, x, last = _extend(problem.matrices, basis, small, x)
        used = basis.shape[1]
        # the basis couples to all rows of x: a part of them is enough only if it completes the whole space
        full = used == cap or used + x.shape[1] > cap < x.shape[2]
        x = x[:, : cap - used]
        if not full and used < max(k, checked + 1, checked + checked // 6):
            continue
        values, vectors, coupling = _ritz(small, last.to(small))
        verdict = _Verdict.of(problem, values, coupling, k, tolerance)
        rate = (before - verdict.missing) / (used - checked)  # squared norm found per step; it falls
        hopeless = ~verdict.proven & (verdict.missing - values[:, k - 1].square() > rate * (cap - used))
        done = verdict.close & (verdict.proven | (hopeless & (used >= last_look)))
        if full:
            done = torch.ones_like(done)
        elif last_look == cap and not bool(done.all()) and bool((done | (verdict.close & hopeless)).all()):
            x = _orthonormal(torch.cat([x, more[here]], 1)[:, : cap - used], basis)
            last_look = min(cap, used + k * _SECOND_LOOK)
        checked, before = used, verdict.missing
        if bool(done.any()):
            yield _Found(here, values, vectors, coupling, basis, verdict, problem.rounding, used).at(done)
            here, before, problem = here[~done], before[~done], problem.at(~done)
            basis, small, x = basis[~done], small[~done], x[~done]


def _needed(found: _Found, problem: _Problem, k: int, tolerance: float) -> Tensor:
    """Return the smallest number (block,) of leading Ritz vectors that give the same verdict as all; k if unproven."""
    needed = torch.where(found.verdict.proven, found.used, k)
    count = k
    while count < found.used and bool((needed > count).any()):
        verdict = _Verdict.of(problem, found.values[:, :count], found.coupling[:, :, :count], k, tolerance)
        enough = verdict.proven & (verdict.close | ~found.verdict.close)
        needed = torch.where(enough, needed.clamp_max(count), needed)
        count = max(count + 1, count * 9 // 8)
    return needed


def _extend(matrices: Matrices, basis: Tensor, small: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Add x (block, n, in) to the basis (block, m, in); return the basis, M in this basis, the next x, its coupling."""
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
    """Return orthonormal rows (block, n, in) orthogonal to the basis; random rows if x (unit rows) lies in its span."""
    # the rest of such an x is rounding, mostly inside the basis: new random rows are added every time
    generator = torch.Generator().manual_seed(2**31 + basis.shape[1])
    spare = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64, device="cpu")
    spare = (torch.finfo(x.dtype).eps * spare).to(x)
    for part in (spare, None, None):
        x = torch.baddbmm(x, x @ basis.mT, basis, alpha=-1)
        x = torch.linalg.qr((x if part is None else x + part).mT).Q.mT
    return x


def _ritz(small: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Ritz values (block, m), largest magnitude first, their vectors in the basis, and their couplings."""
    values, vectors = torch.linalg.eigh(small)
    order = values.abs().argsort(dim=1, descending=True)
    values, vectors = values.gather(1, order), vectors.gather(2, order[:, None, :].expand_as(vectors))
    return values, vectors, last @ vectors[:, -last.shape[2] :]
