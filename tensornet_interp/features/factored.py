"""A symmetric matrix that is held as factors, and read tile by tile: it is never formed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

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
        """Return the values of the n best pairs, and their places, first * features + second.

        After the first tile, tiles are computed in float32. Only what can be among the n best, by the error bound of
        float32, is computed in float64, so the result is that of float64.
        """
        norms = self.factors.norm(dim=1)
        # a feature with itself reaches the bound: leave room for the rounding of norms and products
        norms = norms * (1 + 2 * (self.factors.shape[1] + 2) * EPS)
        values = norms.new_empty(0)
        index = torch.empty(0, dtype=torch.int64, device=norms.device)
        least = -math.inf  # the n-th best score so far
        screen = self._screen()
        for rows, columns in self._tiles(norms.argsort(descending=True, stable=True)):
            most = float(norms[rows[0]] * norms[columns[0]])
            if most < least:
                continue
            found = None if screen is None or least == -math.inf else screen.candidates(rows, columns, most, least, by)
            if found is None:
                tile = self.tile(rows, columns).flatten()
                place = torch.arange(len(tile), device=rows.device)
                i, j = place // len(columns), place % len(columns)
            else:
                i, j = found
                tile = (self.factors[rows[i]] * self.signs * self.factors[columns[j]]).sum(1)
            scored = score(tile, by)
            if rows is columns:  # each pair once, and no diagonal for "cross"
                scored = scored.masked_fill(i >= j if cross else i > j, -math.inf)
            scores, at = at_largest(n, scored, scored, torch.arange(len(scored), device=scored.device))
            at = at[scores > -math.inf]
            values = torch.cat([values, tile[at]])
            index = torch.cat([index, rows[i[at]] * len(self.factors) + columns[j[at]]])
            values, index = at_largest(n, score(values, by), values, index)
            if len(values) == n:
                least = float(score(values[-1], by))
        return values, index

    def _screen(self) -> "_Screen | None":
        """Return the factors in float32 if that saves work, and if products are computed in full float32."""
        if self.factors.dtype != torch.float64 or torch.get_float32_matmul_precision() != "highest":
            return None
        scaled, exponent = rescale(self.factors)
        narrow = scaled.to(torch.float32)
        return _Screen(narrow * self.signs.to(torch.float32), narrow, exponent)


class _Screen(NamedTuple):
    """Factors times signs, and factors, in float32 and divided by 2^exponent."""

    signed: Tensor
    factors: Tensor
    exponent: int

    def candidates(self, rows: Tensor, columns: Tensor, most: float, least: float, by: str) -> Tensor | None:
        """Return the places (2, candidate) in a tile that may score `least` or more; None if they are too many.

        most: the largest product of norms in the tile. The error of a product of rounded vectors of r numbers is at
        most (r + 2) eps of the product of their norms, and here less than 2^-120 where numbers are too small.
        """
        slack = (self.factors.shape[1] + 4) * torch.finfo(torch.float32).eps * most
        floor = math.ldexp(least - slack, -2 * self.exponent) - 2.0**-100
        scored = score(self.signed[rows] @ self.factors[columns].T, by)
        found = (scored >= floor).nonzero().T
        return found if found.shape[1] * 8 < scored.numel() else None


def score(values: Tensor, by: str) -> Tensor:
    """Return the numbers whose largest come first."""
    return values.abs() if by == "magnitude" else values if by == "positive" else -values
