"""Search for leading eigenpairs of interaction matrices in Krylov subspaces, and bound the errors of eigenvalues."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.numerics import nonzero
from tensornet_interp.spectra.bounds import Problem, Verdict
from tensornet_interp.spectra.matrices import start_vectors
from tensornet_interp.spectra.shared import Narrow, Shared

_AHEAD = 0.2  # float32 continues to this share of the tolerance: its steps are cheap, and fewer vectors are verified
_SECOND_LOOK = 6  # extra steps with k vectors, which find an eigenvalue that one start vector missed
_ROWS = 512  # vectors in one product that verifies


class Leading(NamedTuple):
    """This tuple holds the leading eigenpairs of every block, with bounds on their errors."""

    values: Tensor  # (block, k), largest magnitude first
    vectors: Tensor  # (block, k, in)
    residuals: Tensor  # (block, k)
    bounds: Tensor  # (block, k)
    proven: Tensor  # (block,), boolean
    steps: Tensor  # (block,), whole numbers


def leading(
    problem: Problem,
    narrow: Narrow | None,
    k: int,
    tolerance: float,
    max_steps: int,
    seed: int,
    room: int,
) -> Leading:
    """Find the k eigenpairs of largest magnitude of every matrix, in Krylov subspaces of at most max_steps vectors.

    narrow: what float32, which then finds the subspaces, works with; None for float64 alone. After float32, float64
    multiplies M by the Ritz vectors that the bounds need, and the bounds depend only on this product. Blocks for which
    float32 was not accurate enough are computed again in float64. room: how many float64 numbers all bases may have.
    """
    size, norms = problem.matrices.left.shape[0], problem.norms
    cap = min(max_steps, size)
    draws = start_vectors(problem.matrices, k, seed)
    todo = torch.ones(len(norms), dtype=torch.bool, device=norms.device)
    parts: list[tuple[Tensor, Leading]] = []
    if narrow is not None:
        inside, start, tails = narrow.compressed(problem.matrices.weights, draws, k)
        single = problem.single(narrow.left, narrow.right, tails)
        drafts = _drafts(single, start.float(), draws[1:].float(), k, tolerance, cap, 2 * room)
        for draft, sure in _verified(problem, drafts, narrow.shared, inside, k, tolerance, room):
            good = sure.verdict.close & (sure.verdict.proven | ~draft.proven) | (draft.used > cap - k)
            parts.append((draft.blocks[good], sure.at(good).pairs(k, draft.used[good])))
            todo[draft.blocks[good]] = False
    again = todo.nonzero()[:, 0]
    for found in _search(problem.at(again), draws[:1], draws[1:], k, tolerance, cap, room):
        parts.append((again[found.blocks], found.pairs(k, torch.full_like(found.blocks, found.used))))
    order = torch.cat([index for index, _ in parts]).argsort()
    return Leading(*(torch.cat(part)[order] for part in zip(*(pairs for _, pairs in parts), strict=True)))


class _Found(NamedTuple):
    """This tuple holds the blocks for which a search has finished, with their Ritz values and vectors."""

    blocks: Tensor
    values: Tensor
    vectors: Tensor
    coupling: Tensor
    basis: Tensor
    verdict: Verdict
    rounding: Tensor
    used: int  # vectors of the basis

    def at(self, mask: Tensor) -> "_Found":
        """Return the blocks for which the mask is true."""
        if bool(mask.all()):
            return self
        blocks, values, vectors, coupling, basis = (part[mask] for part in self[:5])
        verdict = Verdict(*(part[mask] for part in self.verdict))
        return _Found(blocks, values, vectors, coupling, basis, verdict, self.rounding[mask], self.used)

    def rows(self, count: int) -> Tensor:
        """Return the first `count` Ritz vectors, (block, count, in)."""
        return self.vectors[:, :, :count].mT.to(self.basis) @ self.basis

    def pairs(self, k: int, steps: Tensor) -> Leading:
        """Return the first k eigenpairs of every block, which took these steps (block,)."""
        residuals = torch.linalg.vector_norm(self.coupling[:, :, :k], dim=1) + self.rounding[:, None]
        bounds, _, proven, _ = self.verdict
        return Leading(self.values[:, :k], self.rows(k), residuals, bounds, proven, steps)


class _Draft(NamedTuple):
    """A draft holds Ritz vectors that float32 found, for float64 to verify."""

    blocks: Tensor  # (block,)
    rows: Tensor  # (block, n, in)
    proven: Tensor  # (block,), whether float32 would call the result proven
    used: Tensor  # (block,), vectors of the basis


def _drafts(
    single: Problem, start: Tensor, more: Tensor, k: int, tolerance: float, cap: int, room: int
) -> Iterator[_Draft]:
    """Search in float32, and yield for every block the Ritz vectors that are enough to verify its bounds."""
    for found in _search(single, start, more, k, _AHEAD * tolerance, cap, room):
        needed = _needed(found, single.at(found.blocks), k, 0.9 * tolerance)
        for count in needed.unique().tolist():
            some = found.at(needed == count)
            used = torch.full_like(some.blocks, some.used)
            yield _Draft(some.blocks, some.rows(count), some.verdict.proven, used)


def _verified(
    problem: Problem,
    drafts: Iterable[_Draft],
    shared: Shared | None,
    inside: Tensor | None,
    k: int,
    tolerance: float,
    room: int,
) -> Iterator[tuple[_Draft, _Found]]:
    """Yield drafts with what float64 says; drafts wait for others, at most `room` numbers, to share products."""
    waiting: list[_Draft] = []
    for draft in drafts:
        waiting.append(draft)
        if sum(one.rows.numel() for one in waiting) > room:
            yield from _verified_now(problem, waiting, shared, inside, k, tolerance)
            waiting = []
    if waiting:
        yield from _verified_now(problem, waiting, shared, inside, k, tolerance)


def _verified_now(
    problem: Problem, drafts: list[_Draft], shared: Shared | None, inside: Tensor | None, k: int, tolerance: float
) -> Iterator[tuple[_Draft, _Found]]:
    """Yield groups of drafts with as many vectors each, with their Ritz values and bounds in float64."""
    groups: list[_Draft] = []
    for count in sorted({one.rows.shape[1] for one in drafts}):
        same = [one for one in drafts if one.rows.shape[1] == count]
        blocks, rows, proven, used = (torch.cat(part) for part in zip(*same, strict=True))
        basis, _ = _orthonormalised(rows.to(problem.norms))
        groups.append(_Draft(blocks, basis, proven, used))
    index = torch.cat([one.blocks.repeat_interleave(one.rows.shape[1]) for one in groups])
    vectors = torch.cat([one.rows.flatten(0, 1) for one in groups])
    matrices, parts = problem.matrices, zip(index.split(_ROWS), vectors.split(_ROWS), strict=True)
    images = [matrices._replace(weights=matrices.weights[at])(rows[:, None])[:, 0] for at, rows in parts]
    counts = [one.rows.shape[0] * one.rows.shape[1] for one in groups]
    for draft, image in zip(groups, torch.cat(images).split(counts), strict=True):
        own, basis = problem.at(draft.blocks), draft.rows
        image = image.view(basis.shape)
        overlap, _, last = _split(image, basis)
        values, vectors, coupling = _ritz(overlap, last)
        tail = None
        if shared is not None and inside is not None:
            tail = shared.outside(inside[draft.blocks], basis, image, overlap, own.rounding)
        verdict = Verdict.of(own, values, coupling, k, tolerance, tail)
        yield draft, _Found(draft.blocks, values, vectors, coupling, basis, verdict, own.rounding, basis.shape[1])


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

    def extended(self) -> tuple["_State", Tensor, Tensor]:
        """Multiply the next vectors; return the state with them in the basis, the rows after them, their coupling."""
        start, used, room = self.used, self.used + self.x.shape[1], self.basis.shape[1]
        basis, small = self.basis, self.small
        if used > room:
            more = max(used, 2 * room) - room
            basis, small = pad(basis, (0, 0, 0, more)), pad(small, (0, more, 0, more))
        basis[:, start:used] = self.x
        overlap, rows, coupling = _split(self.problem.matrices(self.x), basis[:, :used])
        small[:, start:used, :used] = overlap
        small[:, :used, start:used] = overlap.mT
        return self._replace(basis=basis, small=small, used=used), rows, coupling.to(small)


def _search(
    problem: Problem, start: Tensor, more: Tensor, k: int, tolerance: float, cap: int, room: int
) -> Iterator[_Found]:
    """Search from start (block, in), or (1, in) for all, and yield blocks as they finish.

    The basis is reorthogonalised in full. Unfinished blocks share products; if their bases have more than `room`
    numbers, one half of the blocks waits for the other. A block is done if its bounds are within tolerance and proven;
    or if they are within tolerance, no proof is in reach and `more` random vectors (k - 1, in), which show every
    eigenvalue of multiplicity k, changed nothing for a while; or if its basis has `cap` vectors.
    """
    count = len(problem.norms)
    here, small = torch.arange(count, device=start.device), problem.norms.new_zeros(count, 0, 0)
    x, _ = _orthonormalised(start[:, None])
    basis = start.new_zeros(count, 0, start.shape[1])
    waiting = [_State(problem, here, problem.norms, basis, small, x, 0, 0, cap if k > 1 else 0)]
    while waiting:
        state = waiting.pop()
        while len(state.here):
            if state.basis.numel() > room and len(state.here) > 1:
                first, second = torch.arange(len(state.here), device=start.device).chunk(2)
                waiting.append(state.at(second))
                state = state.at(first)
            state, rows, last = state.extended()
            used, checked = state.used, state.checked
            # the basis couples to all rows: a part of them is enough only if it completes the whole space
            full = used == cap or used + rows.shape[1] > cap < rows.shape[2]
            x = rows if full else _orthogonal(rows, last, state)[:, : cap - used]
            state = state._replace(x=x)
            if not full and used < max(k, checked + 1, checked + checked // 6):
                continue
            basis = state.basis[:, :used]
            values, vectors, coupling = _ritz(state.small[:, :used, :used], last)
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
                found = _Found(state.here, values, vectors, coupling, basis, verdict, state.problem.rounding, used)
                yield found.at(done)
                state = state.at((~done).nonzero()[:, 0])


def _needed(found: _Found, problem: Problem, k: int, tolerance: float) -> Tensor:
    """Return the smallest number (block,) of leading Ritz vectors that give the same verdict as all; k if unproven."""
    needed = torch.where(found.verdict.proven, found.used, k)
    count = k
    while count < found.used and bool((needed > count).any()):
        verdict = Verdict.of(problem, found.values[:, :count], found.coupling[:, :, :count], k, tolerance)
        enough = verdict.proven & (verdict.close | ~found.verdict.close)
        needed = torch.where(enough, needed.clamp_max(count), needed)
        count = max(count + 1, count * 9 // 8)
    return needed


def _split(image: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the coordinates (block, n, m) of the image (block, n, in) in the basis, and the rest as rows and coupling.

    The rest of the image is coupling^T rows, with orthonormal rows. If most of an image is in the basis, the rest is
    projected again; twice is enough (Daniel et al., 1976).
    """
    overlap = image @ basis.mT
    rest = torch.baddbmm(image, overlap, basis, alpha=-1)
    lengths = torch.linalg.vector_norm(image, dim=2), torch.linalg.vector_norm(rest, dim=2)
    if bool((2 * lengths[1] < lengths[0]).any()):
        rest = torch.baddbmm(rest, rest @ basis.mT, basis, alpha=-1)
    return overlap, *_orthonormalised(rest)


def _orthonormalised(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return orthonormal rows and the coupling R, upper triangular, such that the given rows are R^T rows."""
    if rows.shape[1] == 1:
        length = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
        return rows / nonzero(length), length
    columns, coupling = torch.linalg.qr(rows.mT)
    return columns.mT, coupling


def _orthogonal(rows: Tensor, coupling: Tensor, state: _State) -> Tensor:
    """Return the rows that `_split` made; random ones in place of those that may not be orthogonal to the basis."""
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


def _ritz(small: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Ritz values (block, m), largest magnitude first, their vectors in the basis, and their couplings."""
    values, vectors = torch.linalg.eigh(small)
    order = values.abs().argsort(dim=1, descending=True)
    values, vectors = values.gather(1, order), vectors.gather(2, order[:, None, :].expand_as(vectors))
    return values, vectors, last @ vectors[:, -last.shape[2] :]
