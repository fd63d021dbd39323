"""Expectations of products of scores and vectors, for Gaussian inputs over positions.

Every score a = q . k is a bead u = [q, k] with a = u^T J u / 2; J swaps the halves. Expectations of products of beads
are sums over orders: chains from one vector to another through beads, and rings of beads (cumulants). Orders are summed
by recursion over subsets of the at most four beads of two heads.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Beads = frozenset[int]


class Stream:
    """Gaussian vectors at every position: their mean (position, in), and their covariance, computed when needed."""

    def __init__(self, mean: Tensor, spread: Callable[[], Tensor]) -> None:
        """spread: a function that returns the covariance (position, in, position, in)."""
        self.mean, self._make = mean, spread

    @functools.cached_property
    def spread(self) -> Tensor:
        """Return the covariance (position, in, position, in)."""
        return self._make()


class Source(NamedTuple):
    """The linear maps of one layer, from inputs to features: values, and turned queries and keys of each score."""

    maps: Tensor  # (position, head, feature, in)
    parts: dict[str, slice]  # which features are the "value", "query0", "key0", ...
    stream: Stream  # what the layer reads


class Piece(NamedTuple):
    """A batch of vectors: some features of a source, each at a position and of a head."""

    source: int
    part: str
    position: Tensor  # (batch,)
    head: Tensor  # (batch,)


Vector = tuple[Piece, ...]  # of pieces, stacked: a bead is a query and a key


class Tables:
    """The means and covariances of all features of one source, or of two that read jointly Gaussian streams."""

    def __init__(self, sources: Sequence[Source], between: Tensor | None = None) -> None:
        """between: the covariance of the stream of the first source with that of the second."""
        self.sources, self.between = tuple(sources), between
        self.means = [torch.einsum("shfi,si->shf", source.maps, source.stream.mean) for source in sources]
        self.centred = not any(bool(mean.any()) for mean in self.means)
        self._tables: dict[tuple[int, int], Tensor] = {}

    def mean(self, vector: Vector) -> Tensor:
        """Return (batch, size)."""
        found = [self.means[p.source][p.position, p.head][:, self.sources[p.source].parts[p.part]] for p in vector]
        return torch.cat(found, 1)

    def covariance(self, a: Vector, b: Vector) -> Tensor:
        """Return (batch, size of a, size of b)."""
        blocks = [[self._block(p, q) for q in b] for p in a]
        if len(a) == len(b) == 1:
            return blocks[0][0]
        rows, columns = [row[0].shape[1] for row in blocks], [block.shape[2] for block in blocks[0]]
        found = blocks[0][0].new_empty(len(blocks[0][0]), sum(rows), sum(columns))
        for parts, row in zip(found.split(rows, 1), blocks, strict=True):
            for part, block in zip(parts.split(columns, 2), row, strict=True):
                part.copy_(block)
        return found

    def _block(self, p: Piece, q: Piece) -> Tensor:
        if p.source > q.source:
            return self._block(q, p).mT
        key, same = (p.source, q.source), p.source == q.source  # if same, both pieces belong to one head
        if key not in self._tables:
            ours, theirs = self.sources[p.source], self.sources[q.source]
            spread = ours.stream.spread if same else self.between
            left = torch.einsum("shfi,sitj->sthfj", ours.maps, spread)
            equation = "sthfj,thgj->sthfg" if same else "sthfj,tkgj->sthkfg"
            self._tables[key] = torch.einsum(equation, left, theirs.maps)
        table = self._tables[key][..., self.sources[p.source].parts[p.part], self.sources[q.source].parts[q.part]]
        if same:
            return table[p.position, q.position, p.head]
        return table[p.position, q.position, p.head, q.head]


def _swap(matrix: Tensor, axis: int = 1) -> Tensor:
    """Return J matrix: the two halves of the rows (axis 1) swapped; or matrix J, those of the columns (axis 2)."""
    return matrix.roll(matrix.shape[axis] // 2, axis)


class Wick:
    """Expectations of products of beads and of at most two vectors, for a batch."""

    def __init__(self, beads: list[Vector], tables: Tables) -> None:
        self.beads, self.tables = beads, tables
        self.means = [tables.mean(bead[::-1])[..., None] for bead in beads]  # J mu, (batch, 2 size, 1)
        self.steps = {  # J C_ij
            (i, j): tables.covariance(beads[i][::-1], beads[j])
            for i, j in itertools.product(range(len(beads)), repeat=2)
        }
        self.all = frozenset(range(len(beads)))
        self._kappa: dict[Beads, Tensor] = {}
        self._moment: dict[Beads, Tensor] = {}
        self._open: dict[tuple[Beads, int], Tensor] = {}
        self._pairs: dict[tuple[int, ...], Tensor] = {}

    def chains(self, starts: dict[int, Tensor]) -> dict[tuple[Beads, int], Tensor]:
        """Return the sums over all orders of each subset by its last bead, from a first factor per bead."""
        found = {(frozenset({i}), i): start for i, start in starts.items()}
        for size in range(2, len(self.all) + 1):
            for subset in map(frozenset, itertools.combinations(sorted(self.all), size)):
                for j in subset:
                    before = subset - {j}
                    first, *rest = before
                    total = found[before, first] @ self.steps[first, j]
                    for i in rest:
                        total = torch.baddbmm(total, found[before, i], self.steps[i, j])
                    found[subset, j] = total
        return found

    def from_means(self) -> dict[tuple[Beads, int], Tensor]:
        """Return the chains that start at the mean of a bead, as rows (batch, 1, 2 size); none if all means are 0."""
        if not self._open and not self.tables.centred:
            self._open = self.chains({i: _swap(mean).mT for i, mean in enumerate(self.means)})
        return self._open

    def cumulants(self) -> dict[Beads, Tensor]:
        """Return the joint cumulant of the scores of every subset, (batch,)."""
        if not self._kappa and self.beads:
            self._kappa = {subset: self._rings(*sorted(subset)) for subset in _subsets(self.all) if subset}
            for (subset, j), row in self.from_means().items():
                self._kappa[subset] = self._kappa[subset] + (row @ self.means[j])[:, 0, 0] / 2
        return self._kappa

    def _rings(self, first: int, *others: int) -> Tensor:
        """Return half the sum over all rings of at most four beads; a ring and its reverse have equal traces."""
        if not others:
            return self.steps[first, first].diagonal(dim1=1, dim2=2).sum(1) / 2
        if len(others) == 1:
            return (self.steps[first, others[0]] * self.steps[others[0], first].mT).sum((1, 2)) / 2
        if len(others) == 2:
            i, j = others
            return (self._two(first, i, j) * self.steps[j, first].mT).sum((1, 2))
        rings = []
        for j in others:  # opposite to the first; the way back is the reverse of a way there: J (two steps)^T J
            i, k = (bead for bead in others if bead != j)
            back = _swap(_swap(self._two(first, k, j)), 2)
            rings.append((self._two(first, i, j) * back).sum((1, 2)))
        return torch.stack(rings).sum(0)

    def _two(self, *beads: int) -> Tensor:
        """Return the product of two steps."""
        if beads not in self._pairs:
            i, j, k = beads
            self._pairs[beads] = self.steps[i, j] @ self.steps[j, k]
        return self._pairs[beads]

    def moment(self, subset: Beads) -> Tensor:
        """Return E[product of the scores of a subset], (batch,): the sum over partitions of products of cumulants."""
        if not subset:
            return self.tables.means[0].new_ones(1)
        if subset not in self._moment:
            first = min(subset)
            blocks = [block | {first} for block in _subsets(subset - {first})]
            products = [self.cumulants()[block] * self.moment(subset - block) for block in blocks]
            self._moment[subset] = torch.stack(products).sum(0)
        return self._moment[subset]

    def one(self, vector: Vector) -> dict[Beads, Tensor]:
        """Return e_v of every subset, the empty one included: (batch, size, 1)."""
        last = [self.tables.covariance(bead[::-1], vector).mT for bead in self.beads]
        found: dict[Beads, Tensor] = {frozenset(): self.tables.mean(vector)[..., None]}
        for (subset, j), row in self.from_means().items():  # each order backwards, from the mean to the vector
            end = last[j] @ row.mT
            found[subset] = found[subset] + end if subset in found else end
        return found

    def with_one(self, v: Vector) -> Tensor:
        """Return E[v prod a], (batch, size)."""
        return torch.stack([e[..., 0] * self.moment(self.all - s)[:, None] for s, e in self.one(v).items()]).sum(0)

    def slopes(self, v: Vector) -> list[Tensor]:
        """Return the expected derivatives of v prod a: by v, (batch,), and by each bead, (batch, size of v, size)."""
        return [self.moment(self.all), *(_swap(slope, 2) for slope in self._slopes(v))]

    def _slopes(self, v: Vector) -> list[Tensor]:
        """Return the expected derivatives by J u for each bead u."""
        starts = {i: self.tables.covariance(v, bead) for i, bead in enumerate(self.beads)}
        found = [torch.zeros_like(start) for start in starts.values()]
        for (subset, j), chain in self.chains(starts).items():
            found[j] = torch.addcmul(found[j], chain, self.moment(self.all - subset)[:, None, None])
        if self.tables.centred or not self.beads:
            return found
        ours = self.one(v)
        none = torch.zeros_like(self.means[0][:, 0, 0])
        for j in self.all:
            rows = {subset: row for (subset, last), row in self.from_means().items() if last == j}
            rest = [
                torch.stack([none if s & t else none + self.moment(self.all - s - t) for t in rows], 1) for s in ours
            ]
            found[j] = found[j] + torch.cat(list(ours.values()), 2) @ (
                torch.stack(rest, 1) @ torch.cat(list(rows.values()), 1)
            )
        return found

    def with_two(self, v: Vector, w: Vector) -> Tensor:
        """Return E[v w^T prod a], (batch, size of v, size of w).

        By Stein's lemma, Cov(v prod a, w) is the sum of the expected derivatives times the covariances with w.
        """
        total = self.tables.covariance(v, w) * self.moment(self.all)[:, None, None]
        for bead, slope in zip(self.beads, self._slopes(v), strict=True):
            total = torch.baddbmm(total, slope, self.tables.covariance(bead[::-1], w))
        return total if self.tables.centred else total + self.with_one(v)[..., None] * self.tables.mean(w)[:, None]


def _subsets(items: Beads) -> Iterator[Beads]:
    for size in range(len(items) + 1):
        yield from map(frozenset, itertools.combinations(sorted(items), size))
