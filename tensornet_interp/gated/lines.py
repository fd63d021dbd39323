"""Weighted lines through the gate of every hidden unit, and means over Gaussian left halves."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tensornet_interp.gated.gates import gate_function
from tensornet_interp.gated.layer import GatedLayer
from tensornet_interp.moments import Moments
from tensornet_interp.numerics import nonzero

_REACH, _NODES = 10.0, 80  # the density of a standard normal beyond 10 is below 1e-21 of its peak
_CHUNK_ELEMENTS = 2**22  # entries of a block that is held at once (32 MB)


class Sums(NamedTuple):
    """Sums over weighted pairs (u, g) per hidden unit: the total weight, the means, and the centred squares."""

    weight: Tensor
    mean_u: Tensor
    mean_g: Tensor
    uu: Tensor
    ug: Tensor
    gg: Tensor

    @classmethod
    def of(cls, u: Tensor, g: Tensor, weights: Tensor) -> "Sums":
        """Return the sums of rows: all arguments are (row, rank)."""
        weight = weights.sum(0)
        share = weights / nonzero(weight)
        mean_u, mean_g = (share * u).sum(0), (share * g).sum(0)
        du, dg = u - mean_u, g - mean_g
        return cls(weight, mean_u, mean_g, *((weights * a * b).sum(0) for a, b in ((du, du), (du, dg), (dg, dg))))

    def merged(self, other: "Sums") -> "Sums":
        """Return the sums of the rows of both."""
        total = self.weight + other.weight
        share = other.weight / nonzero(total)
        du, dg = other.mean_u - self.mean_u, other.mean_g - self.mean_g
        between = self.weight * share
        return Sums(
            total,
            self.mean_u + share * du,
            self.mean_g + share * dg,
            self.uu + other.uu + between * du * du,
            self.ug + other.ug + between * du * dg,
            self.gg + other.gg + between * dg * dg,
        )

    def line(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return offset and slope of the nearest line, and the share of E[g^2] that it leaves."""
        spread = self.uu > 1e-28 * self.weight * self.mean_u.square()  # otherwise u is constant up to rounding
        slope = torch.where(spread, self.ug / nonzero(torch.where(spread, self.uu, 0.0)), 0.0)
        left = (self.gg - slope * self.ug).clamp_min(0)
        share = left / nonzero(self.gg + self.weight * self.mean_g.square())
        return self.mean_g - slope * self.mean_u, slope, share


class GaussianUnits:
    """The halves u and v of a gated layer for Gaussian inputs: u = mean + std z, z standard normal, per hidden unit.

    Means over z are Gauss-Legendre sums on both sides of u = 0, where gates such as ReLU have their kink.
    """

    def __init__(self, gated: GatedLayer, moments: Moments) -> None:
        lifted = moments.lifted()
        self.mean, self.covariance = lifted.mean, lifted.covariance
        zeros = gated.down.new_zeros(gated.rank)
        biases = (zeros if bias is None else bias for bias in (gated.left_bias, gated.right_bias))
        self.left, self.right = (
            torch.cat([bias[None], side]) for bias, side in zip(biases, (gated.left, gated.right), strict=True)
        )
        self.with_left = self.covariance @ self.left  # (1 + in, rank)
        self.std = (self.left * self.with_left).sum(0).clamp_min(0).sqrt()
        z, self.density = _quadrature(-(self.mean @ self.left), self.std)
        self.z, self.u = z, self.mean @ self.left + self.std * z  # (node, rank)
        self.g = gate_function(gated.gate)(self.u)

    def squares_of_v(self) -> Tensor:
        """Return E[v^2 | z], (node, rank)."""
        along = self.along(self.right).diagonal()
        rest = (self.right * (self.covariance @ self.right)).sum(0) - along.square()
        return (self.mean @ self.right + along * self.z).square() + rest.clamp_min(0)

    def along(self, forms: Tensor, units: slice = slice(None)) -> Tensor:
        """Return Cov(form, z) of linear forms (1 + in, form), (unit, form)."""
        return (self.with_left[:, units].T @ forms) / nonzero(self.std[units])[:, None]

    def cross(self, p: Tensor, q: Tensor) -> Tensor:
        """Return E[gate(u) v (p . x) (q . x)] for pairs of forms p, q (1 + in, pair) of [1, x]: (rank, pair).

        Given z the three factors v, p . x and q . x are Gaussian, so their mean product is a cubic in z, and the means
        E[gate(u) z^k] for k = 0 to 3 suffice. Cost: 12 rank (in + 6) pairs in flops.
        """
        powers = [(self.density * self.g * self.z**k).sum(0)[:, None] for k in range(4)]  # each (rank, 1)
        mean_p, mean_q = self.mean @ p, self.mean @ q
        moved_p, moved_q = self.covariance @ p, self.covariance @ q
        pq = (p * moved_q).sum(0)
        found = []
        for units in _slices(len(self.std), p.shape[1]):
            v = self.right[:, units]
            a = (self.with_left[:, units] * v).sum(0)[:, None] / nonzero(self.std[units])[:, None]
            b, c = self.along(p, units), self.along(q, units)
            mean_v = (self.mean @ v)[:, None]
            vp, vq, rest = v.T @ moved_p - a * b, v.T @ moved_q - a * c, pq - b * c
            cubic = (
                mean_v * (mean_p * mean_q + rest) + mean_p * vq + mean_q * vp,
                a * (mean_p * mean_q + rest) + b * (mean_v * mean_q + vq) + c * (mean_v * mean_p + vp),
                a * b * mean_q + a * c * mean_p + b * c * mean_v,
                a * b * c,
            )
            found.append(sum(power[units] * term for power, term in zip(powers, cubic, strict=True)))
        return torch.cat(found)  # type: ignore[arg-type]


def _quadrature(kink: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes z (node, rank) from -10 to 10 and their weights times the density of a standard normal.

    The two panels meet where u = 0, at z = kink / std; for a constant u, at 0.
    """
    at = torch.where(std > 0, kink / nonzero(std), 0.0).clamp(-_REACH, _REACH)
    points, weights = (torch.from_numpy(values).to(at) for values in np.polynomial.legendre.leggauss(_NODES))
    z, density = [], []
    for low, high in ((torch.full_like(at, -_REACH), at), (at, torch.full_like(at, _REACH))):
        half = (high - low) / 2
        z.append((low + high) / 2 + half * points[:, None])
        density.append(half * weights[:, None] * torch.exp(-z[-1].square() / 2) / math.sqrt(2 * math.pi))
    return torch.cat(z), torch.cat(density)


def _slices(count: int, width: int) -> list[slice]:
    step = max(1, _CHUNK_ELEMENTS // max(1, width))
    return [slice(at, at + step) for at in range(0, count, step)]
