"""Search in Krylov subspaces, in the dtype of the start vectors: many matrices share products."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.numerics import nonzero
from tensornet_interp.spectra.bounds import Problem, Verdict

_SECOND_LOOK = 6  # extra steps with k vectors, which find an eigenvalue that one start vector missed


class Leading(NamedTuple):
    """This tuple holds the leading eigenpairs of every block, with bounds on their errors."""

    values: Tensor  # (block, k), largest magnitude first
    vectors: Tensor  # (block, k, in)
    residuals: Tensor  # (block, k)
    bounds: Tensor  # (block, k)
    proven: Tensor  # (block,), boolean
    steps: Tensor  # (block,), whole numbers


class Found(NamedTuple):
    """This tuple holds the blocks for which a search has finished, with their Ritz values and vectors."""

    blocks: Tensor
    values: Tensor
    vectors: Tensor
    coupling: Tensor
    basis: Tensor
    verdict: Verdict
    rounding: Tensor
    used: int  # vectors of the basis

    def at(self, mask: Tensor) -> "Found":
        """Return the blocks for which the mask is true."""
        if bool(mask.all()):
            return self
        blocks, values, vectors, coupling, basis = (part[mask] for part in self[:5])
        verdict = Verdict(*(part[mask] for part in self.verdict))
        return Found(blocks, values, vectors, coupling, basis, verdict, self.rounding[mask], self.used)

    def rows(self, count: int) -> Tensor:
        """Return the first `count` Ritz vectors, (block, count, in)."""
        return self.vectors[:, :, :count].mT.to(self.basis) @ self.basis

    def pairs(self, k: int, steps: Tensor) -> Leading:
        """Return the first k eigenpairs of every block, which took these steps (block,)."""
        residuals = torch.linalg.vector_norm(self.coupling[:, :, :k], dim=1) + self.rounding[:, None]
        bounds, _, proven, _ = self.verdict
        return Leading(self.values[:, :k], self.rows(k), residuals, bounds, proven, steps)


class _State(NamedTuple):
    """The state of a search: the blocks that are not finished, the basis of each, and M in it."""

    problem: Problem
    here: Tensor  # (block,), their numbers
    before: Tensor  # (block,), the squared norm that was missing at the last check
    basis: Tensor  # (block, >= used, in)
    small: Tensor  # (block, >= used, >= used), in float64
    x: Tensor  # (block, n, in), the next vectors; (1, 1, in) at the start
    used: int  # vectors in the basis
    checked: int  # vectors in the basis at the last check
    last_look: int  # no block is finished without proof before

    def at(self, index: Tensor) -> "_State":
        """Return the state of the blocks that `index` selects."""
        basis, small = self.basis[:, : self.used], self.small[:, : self.used, : self.used]
        return self._replace(
            problem=self.problem.at(index),
            here=self.here[index],
            before=self.before[index],
            basis=basis[index],
            small=small[index],
            x=self.x[index],
        )

    @property
    def rows(self) -> int:
        """Return how many vectors the array of the basis has room for, with the next ones; it grows by doubling."""
        used, rows = self.used + self.x.shape[1], self.basis.shape[1]
        return rows if used <= rows else max(used, 2 * rows)

    @property
    def numbers(self) -> int:
        """Return how many numbers the array of the bases has, with the next vectors."""
        return len(self.here) * self.rows * self.x.shape[2]

    def extended(self) -> tuple["_State", Tensor, Tensor]:
        """Multiply the next vectors; return the state with them in the basis, the rows after them, their coupling."""
        start, used, more = self.used, self.used + self.x.shape[1], self.rows - self.basis.shape[1]
        basis, small = self.basis, self.small
        if more:
            basis, small = pad(basis, (0, 0, 0, more)), pad(small, (0, more, 0, more))
        basis[:, start:used] = self.x
        overlap, rows, coupling = split(self.problem.matrices(self.x), basis[:, :used])
        small[:, start:used, :used] = overlap
        small[:, :used, start:used] = overlap.mT
        return self._replace(basis=basis, small=small, used=used), rows, coupling.to(small)


def search(
    problem: Problem, start: Tensor, more: Tensor, k: int, tolerance: float, cap: int, room: int
) -> Iterator[Found]:
    """Search from start (block, in), or (1, in) for all, and yield blocks as they finish.

    The basis is reorthogonalised in full. Unfinished blocks share products; if their bases have more than `room`
    numbers, one half of the blocks waits for the other. A block is done if its bounds are within tolerance and proven;
    or if they are within tolerance, no proof is in reach and `more` random vectors (k - 1, in), which show every
    eigenvalue of multiplicity k, changed nothing for a while; or if its basis has `cap` vectors.
    """
    count = len(problem.norms)
    here, small = torch.arange(count, device=start.device), problem.norms.new_zeros(count, 0, 0)
    x, _ = orthonormalised(start[:, None])
    basis = start.new_zeros(count, 0, start.shape[1])
    waiting = [_State(problem, here, problem.norms, basis, small, x, 0, 0, cap if k > 1 else 0)]
    while waiting:
        state = waiting.pop()
        while len(state.here):
            if state.numbers > room and len(state.here) > 1:
                first, second = torch.arange(len(state.here), device=start.device).chunk(2)
                waiting.append(state.at(second))
                state = state.at(first)
            state, rows, last = state.extended()
            used, checked = state.used, state.checked
            # the basis couples to all rows: a part of them is enough only if it completes the whole space
            full = used == cap or used + rows.shape[1] > cap < rows.shape[2]
            x = rows if full else _orthogonal(rows, last, state)[:, : cap - used]
            state = state._replace(x=x)
            if not full and used < max(k, checked + 1, checked + checked // 4):
                continue
            basis = state.basis[:, :used]
            values, vectors, coupling = ritz(state.small[:, :used, :used], last)
            verdict = Verdict.of(state.problem, values, coupling, k, tolerance)
            rate = (state.before - verdict.missing) / (used - checked)  # squared norm found per step; it falls
            hopeless = ~verdict.proven & (verdict.missing - values[:, k - 1].square() > rate * (cap - used))
            done = verdict.close & (verdict.proven | (hopeless & (used >= state.last_look)))
            if full:
                done = torch.ones_like(done)
            elif state.last_look == cap and not bool(done.all()) and bool((done | (verdict.close & hopeless)).all()):
                x = _orthonormal(torch.cat([x, more.expand(len(x), -1, -1)], 1)[:, : cap - used], basis)
                state = state._replace(x=x, last_look=min(cap, used + k * _SECOND_LOOK))
            state = state._replace(before=verdict.missing, checked=used)
            if bool(done.any()):
                found = Found(state.here, values, vectors, coupling, basis, verdict, state.problem.rounding, used)
                yield found.at(done)
                state = state.at((~done).nonzero()[:, 0])


def needed(found: Found, problem: Problem, k: int, tolerance: float) -> Tensor:
    """Return the smallest number (block,) of leading Ritz vectors that give the same verdict as all; k if unproven."""
    needed = torch.where(found.verdict.proven, found.used, k)
    count = k
    while count < found.used and bool((needed > count).any()):
        verdict = Verdict.of(problem, found.values[:, :count], found.coupling[:, :, :count], k, tolerance)
        enough = verdict.proven & (verdict.close | ~found.verdict.close)
        needed = torch.where(enough, needed.clamp_max(count), needed)
        count = max(count + 1, count * 9 // 8)
    return needed


def split(image: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the coordinates (block, n, m) of the image (block, n, in) in the basis, and the rest as rows and coupling.

    The rest of the image is coupling^T rows, with orthonormal rows. If most of an image is in the basis, the rest is
    projected again; twice is enough (Daniel et al., 1976).
    """
    overlap = image @ basis.mT
    rest = torch.baddbmm(image, overlap, basis, alpha=-1)
    lengths = torch.linalg.vector_norm(image, dim=2), torch.linalg.vector_norm(rest, dim=2)
    if bool((2 * lengths[1] < lengths[0]).any()):
        rest = torch.baddbmm(rest, rest @ basis.mT, basis, alpha=-1)
    return overlap, *orthonormalised(rest)


def orthonormalised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return orthonormal rows and the coupling R, upper triangular, such that the given rows are R^T rows."""
    if rows.shape[1] == 1:
        length = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
        return rows / nonzero(length), length
    columns, coupling = torch.linalg.qr(rows.mT)
    return columns.mT, coupling


def _orthogonal(rows: Tensor, coupling: Tensor, state: _State) -> Tensor:
    """Return the rows that `split` made; random ones in place of those that may not be orthogonal to the basis."""
    eps, n = torch.finfo(rows.dtype).eps, rows.shape[1]
    own = coupling.square().sum(1)
    whole = own + state.small[:, state.used - n : state.used, : state.used].square().sum(2)
    pivots = coupling.diagonal(dim1=1, dim2=2).square()
    if bool(((pivots <= (100 * eps) ** 2 * whole) | (pivots < 1e-4 * own)).any()):
        return _orthonormal(rows, state.basis[:, : state.used])
    return rows


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


def ritz(small: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Ritz values (block, m), largest magnitude first, their vectors in the basis, and their couplings."""
    values, vectors = torch.linalg.eigh(small)
    order = values.abs().argsort(dim=1, descending=True)
    values, vectors = values.gather(1, order), vectors.gather(2, order[:, None, :].expand_as(vectors))
    return values, vectors, last @ vectors[:, -last.shape[2] :]
