"""The strongest sources of one target: kept and counted piece by piece, so the matrix of all pairs is never formed."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.features.factored import FactoredMatrix
from tensornet_interp.graphs.graph import Path
from tensornet_interp.graphs.places import Place


class Atom(NamedTuple):
    """An atom is one feature at one position, on one path."""

    place: Place
    path: Path
    feature: int
    position: int  # given: of the prompt; averaged: positions before the target
    activation: float


class Kept(NamedTuple):
    """What is kept of the sources of one target, and what is known of the rest."""

    atoms: list[Atom]
    rows: Tensor  # (atom, reading), per unit of activation
    others: dict[str, Tensor]  # rows of what is no feature
    share_left_out: float
    bound: float
    proven: bool


@dataclass(eq=False)
class Sources:
    """Sources take in the rows of one target, and keep the `candidates` of largest norm.

    Q[i, j] = sum_r rows[i, r] signs[r] rows[j, r]; without signs there is one reading, and L[i] = rows[i, 0].
    """

    signs: Tensor | None
    candidates: int
    max_elements: int
    active: int = 0  # how many sources can be active at once, for the bound
    _groups: list[tuple[Place, Path]] = field(default_factory=list)
    _rows: Tensor | None = None
    _index: Tensor | None = None  # (candidate, 4): group, feature, position, number of the row
    _amounts: Tensor | None = None  # (candidate, 2): activation, largest activation
    _gram: Tensor | None = None
    _cut: float = 0.0  # largest norm among rows that were dropped
    _most: float = 0.0  # largest norm of all
    _sizes: list[Tensor] = field(default_factory=list)  # of every row at its largest activation: norm, |linear|

    def add(
        self,
        place: Place,
        path: Path,
        rows: Tensor,
        feature: Tensor,
        position: Tensor,
        amounts: Tensor,
        largest: Tensor,
        constant: Tensor,
    ) -> None:
        """Take in rows (source, reading) per unit of activation, with their activations and largest activations.

        constant: (reading,), what is no feature, for the linear terms of the bound.
        """
        if not len(rows):
            return
        number = sum(map(len, self._sizes)) + torch.arange(len(rows), device=rows.device)
        index = torch.stack([torch.full_like(feature, len(self._groups)), feature, position, number], 1)
        self._groups.append((place, path))
        gram = rows.T @ rows
        self._gram = gram if self._gram is None else self._gram + gram
        norms = rows.norm(dim=1)
        if self.signs is None:
            linear = torch.zeros_like(norms)
        else:
            linear = 2 * (rows @ (self.signs * constant)).abs() * largest
        self._sizes.append(torch.stack([norms * largest, linear], 1))
        both = torch.stack([amounts, largest], 1)
        if self._rows is not None and self._index is not None and self._amounts is not None:
            rows, index = torch.cat([self._rows, rows]), torch.cat([self._index, index])
            both = torch.cat([self._amounts, both])
            norms = rows.norm(dim=1)
        scaled = norms * both[:, 0].abs()
        self._most = max(self._most, float(scaled.max()))
        if len(rows) > self.candidates:
            order = scaled.argsort(descending=True, stable=True)
            self._cut = max(self._cut, float(scaled[order[self.candidates]]))
            best = order[: self.candidates]
            rows, index, both = rows[best], index[best], both[best]
        self._rows, self._index, self._amounts = rows, index, both

    def keep(self, features: int, others: dict[str, Tensor]) -> Kept:
        """Return the first `features` sources of the strongest pairs, or of the largest rows of a linear target."""
        if self._rows is None or self._index is None or self._amounts is None or self._gram is None:
            return Kept([], torch.stack(list(others.values()))[:0], others, 0.0, 0.0, True)
        scaled = self._rows * self._amounts[:, :1]
        if self.signs is None:
            order = scaled[:, 0].abs().argsort(descending=True, stable=True)[:features]
            picks, weakest = order, float(scaled[order[-1], 0].abs())
            proven = self._cut <= weakest
        else:
            picks, weakest = self._of_pairs(scaled, self.signs, others, features)
            most = max([self._most, *(float(row.norm()) for row in others.values())])
            proven = 2 * self._cut * most <= weakest  # an edge of two sources has twice the entry of Q
        rows = self._rows[picks]
        share = self._share(rows)
        atoms = []
        for at, (group, feature, position, _) in zip(picks.tolist(), self._index[picks].tolist(), strict=True):
            place, path = self._groups[group]
            atoms.append(Atom(place, path, feature, position, float(self._amounts[at, 0])))
        return Kept(atoms, rows, others, share, self._bound(self._index[picks, 3]), proven)

    def _of_pairs(
        self, scaled: Tensor, signs: Tensor, others: dict[str, Tensor], features: int
    ) -> tuple[Tensor, float]:
        """Return the first sources that the strongest edges name, and the magnitude of the last of these edges."""
        count, size = len(scaled), len(scaled) + len(others)
        wanted = min(features, count)
        rows = torch.cat([scaled, *(row[None] for row in others.values())])
        matrix = FactoredMatrix(rows, signs, self.max_elements)
        alone = rows.square() @ signs  # Q[i, i]
        pairs, most = 4 * features, size * (size - 1) // 2
        while True:
            pairs = min(pairs, most)
            values, index = matrix.best(pairs, "magnitude", cross=True)
            values = 2 * values
            # among the edges that were not looked at, none is larger than `least`
            least = float(values.abs().min()) if pairs < most else 0.0
            own = (alone.abs() >= least).nonzero()[:, 0]
            values, index = torch.cat([values, alone[own]]), torch.cat([index, own * size + own])
            order = values.abs().argsort(descending=True, stable=True)
            first, second = (index // size)[order].tolist(), (index % size)[order].tolist()
            found = dict[int, None]()
            weakest = 0.0
            for at, (i, j) in enumerate(zip(first, second, strict=True)):
                found |= {k: None for k in (i, j) if k < count}
                weakest = float(values[order[at]].abs())
                if len(found) >= wanted:
                    break
            if len(found) >= wanted or pairs == most:
                picks = torch.tensor(list(found)[:features], device=scaled.device)
                return picks, weakest
            pairs *= 4

    def _share(self, rows: Tensor) -> float:
        """Return 1 - |Q_KK|^2 / |Q|^2."""
        if self._gram is None:
            return 0.0
        kept, whole = (
            float(gram[0, 0] if self.signs is None else ((gram * self.signs) * (gram * self.signs).T).sum())
            for gram in (rows.T @ rows, self._gram)
        )
        return max(0.0, 1 - kept / whole) if whole > 0 else 0.0

    def _bound(self, kept: Tensor) -> float:
        """Return a bound of the change if all sources but the kept ones are removed, with at most `active` on at once.

        |change| <= O(m)^2 + 2 O(m) I(active - m) + l(m), the largest over m. m of the sources that are on are left out;
        O and I are the sums of the largest norms of those left out and kept, l that of linear terms left out.
        """
        norms, linear = torch.cat(self._sizes).T
        inside = norms[kept]
        norms, linear = norms.index_fill(0, kept, 0), linear.index_fill(0, kept, 0)
        most = min(self.active, len(norms))
        outside = _sums(norms, most)
        if self.signs is None:
            return float(outside[-1])
        rest = _sums(inside, most).flip(0)  # of active - m
        return float((outside.square() + 2 * outside * rest + _sums(linear, most)).max())


def _sums(values: Tensor, most: int) -> Tensor:
    """Return the sums of the 0, 1, ..., `most` largest values, as many as there are."""
    best = values.new_zeros(most + 1)
    top = values.topk(min(most, len(values))).values
    best[1 : len(top) + 1] = top
    return best.cumsum(0)
