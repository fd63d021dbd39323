"""Search for leading eigenpairs of interaction matrices in Krylov subspaces, and bound the errors of eigenvalues."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.spectra.bounds import Problem, Verdict
from tensornet_interp.spectra.matrices import start_vectors
from tensornet_interp.spectra.search import Found, Leading, needed, orthonormalised, ritz, search, split
from tensornet_interp.spectra.shared import Narrow, Shared

_AHEAD = 0.2  # float32 continues to this share of the tolerance: its steps are cheap, and fewer vectors are verified
_ROWS = 512  # vectors in one product that verifies


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
    for found in search(problem.at(again), draws[:1], draws[1:], k, tolerance, cap, room):
        parts.append((again[found.blocks], found.pairs(k, torch.full_like(found.blocks, found.used))))
    order = torch.cat([index for index, _ in parts]).argsort()
    return Leading(*(torch.cat(part)[order] for part in zip(*(pairs for _, pairs in parts), strict=True)))


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
    for found in search(single, start, more, k, _AHEAD * tolerance, cap, room):
        counts = needed(found, single.at(found.blocks), k, 0.9 * tolerance)
        for count in counts.unique().tolist():
            some = found.at(counts == count)
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
) -> Iterator[tuple[_Draft, Found]]:
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
) -> Iterator[tuple[_Draft, Found]]:
    """Yield groups of drafts with as many vectors each, with their Ritz values and bounds in float64."""
    groups: list[_Draft] = []
    for count in sorted({one.rows.shape[1] for one in drafts}):
        same = [one for one in drafts if one.rows.shape[1] == count]
        blocks, rows, proven, used = (torch.cat(part) for part in zip(*same, strict=True))
        basis, _ = orthonormalised(rows.to(problem.norms))
        groups.append(_Draft(blocks, basis, proven, used))
    index = torch.cat([one.blocks.repeat_interleave(one.rows.shape[1]) for one in groups])
    vectors = torch.cat([one.rows.flatten(0, 1) for one in groups])
    matrices, parts = problem.matrices, zip(index.split(_ROWS), vectors.split(_ROWS), strict=True)
    images = [matrices._replace(weights=matrices.weights[at])(rows[:, None])[:, 0] for at, rows in parts]
    counts = [one.rows.shape[0] * one.rows.shape[1] for one in groups]
    for draft, image in zip(groups, torch.cat(images).split(counts), strict=True):
        own, basis = problem.at(draft.blocks), draft.rows
        image = image.view(basis.shape)
        overlap, _, last = split(image, basis)
        values, vectors, coupling = ritz(overlap, last)
        tail = None
        if shared is not None and inside is not None:
            tail = shared.outside(inside[draft.blocks], basis, image, overlap, own.rounding)
        verdict = Verdict.of(own, values, coupling, k, tolerance, tail)
        yield draft, Found(draft.blocks, values, vectors, coupling, basis, verdict, own.rounding, basis.shape[1])
