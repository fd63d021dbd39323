"""A symmetric matrix that is held as factors, and read tile by tile: it is never formed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tensornet_interp.balance import rescale
from tensornet_interp.numerics import EPS, at_largest


@dataclass(frozen=True, eq=False)
class FactoredMatrix:
    """A factored matrix is Q[i, j] = sum_rank factors[i, rank] signs[rank] factors[j, rank], float64."""

    factors: Tensor  # (feature, rank)
    signs: Tensor  # (rank,)
    max_elements: int  # entries of a tile

    def norm(self) -> float:
        """Return the Frobenius norm of Q, which does not overflow if the entries of Q do not."""
        factors, exponent = rescale(self.factors)
        gram = factors.T @ factors * self.signs  # (rank, rank)
        return math.ldexp(max(0.0, float((gram * gram.T).sum())) ** 0.5, 2 * exponent)

    def tile(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return Q[rows, columns]."""
        return (self.factors[rows] * self.signs) @ self.factors[columns].T

    def _tiles(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pairs of feature groups (rows, columns), each pair once; a group is also paired with itself."""
        groups = order.split(max(1, math.isqrt(self.max_elements)))
        yield from ((rows, columns) for i, rows in enumerate(groups) for columns in groups[i:])

    def cross(self) -> Iterator[Tensor]:
        """Yield all Q[i, j] with i < j, one tile at a time."""
        for rows, columns in self._tiles(torch.arange(len(self.factors), device=self.factors.device)):
            tile = self.tile(rows, columns)
            inside = tile[torch.ones_like(tile, dtype=torch.bool).triu(1)] if rows is columns else tile.flatten()
            if len(inside):
                yield inside

    def best(self, n: int, by: str, *, cross: bool) -> tuple[Tensor, Tensor]:
        """Return the values of the n best pairs, and their places, first * features + second."""
        norms = self.factors.norm(dim=1)
        # a feature with itself reaches the bound: leave room for the rounding of norms and products
        norms = norms * (1 + 2 * (self.factors.shape[1] + 2) * EPS)
        values = norms.new_empty(0)
        index = torch.empty(0, dtype=torch.int64, device=norms.device)
        least = -math.inf  # the n-th best score so far
        for rows, columns in self._tiles(norms.argsort(descending=True, stable=True)):
            if float(norms[rows[0]] * norms[columns[0]]) < least:
                continue
            tile = self.tile(rows, columns)
            scored = score(tile, by)
            if rows is columns:  # each pair once, and no diagonal for "cross"
                scored = scored.masked_fill(
                    torch.ones_like(scored, dtype=torch.bool).tril(0 if cross else -1), -math.inf
                )
            flat = scored.flatten()
            scores, at = at_largest(n, flat, flat, torch.arange(len(flat), device=flat.device))
            at = at[scores > -math.inf]
            first = rows[at // len(columns)]
            second = columns[at % len(columns)]
            values = torch.cat([values, tile.flatten()[at]])
            index = torch.cat([index, first * len(self.factors) + second])
            values, index = at_largest(n, score(values, by), values, index)
            if len(values) == n:
                least = float(score(values[-1], by))
        return values, index


def score(values: Tensor, by: str) -> Tensor:
    """Return the numbers whose largest come first."""
    return values.abs() if by == "magnitude" else values if by == "positive" else -values
