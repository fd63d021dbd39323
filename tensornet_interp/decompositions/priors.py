"""What is asked of the factors of a CP decomposition beside a small error. Each prior is one small class.

A fit with priors minimizes relative squared error + sum of strength * penalty. Every penalty is a mean over components,
unchanged when a component is rescaled, and goes from 0 to 1, so that a strength means the same at every rank and size.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import check_choice, check_int
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import nonzero

MODES = {"outputs": ("outputs",), "inputs": ("left", "right"), "left": ("left",), "right": ("right",)}


class Factors(NamedTuple):
    """The factors a prior sees, in the coordinates of the layer: columns are components, scales are arbitrary."""

    outputs: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank); the same object where the factors are tied


class Prior:
    """Override `penalty`, or `constrain`, or both; `check` to refuse a layer that it does not fit."""

    strength: float = 1.0

    def check(self, layer: BilinearLayer) -> None:
        """Raise ValueError where the prior cannot apply to this layer."""

    def constrain(self, factors: Factors) -> Factors:
        """The factors that are used in the place of the free ones; differentiable, scales left free."""
        return factors

    def penalty(self, factors: Factors) -> Tensor:
        """A differentiable number, by convention from 0 to 1, of the constrained factors."""
        return factors.outputs.new_zeros(())


@dataclass(frozen=True)
class Sparse(Prior):
    """strength * mean_rank (|x|_1 / |x|_2 - 1) / (sqrt(n) - 1) over the columns x (n,) of a mode.

    One minus Hoyer's sparsity (JMLR 5, 2004): 0 where a column has one entry, 1 where all are equal.
    mode: "outputs", "inputs" (left and right, their mean), "left" or "right".
    """

    mode: str
    strength: float = 0.1

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        _check_strength(self.strength)

    def penalty(self, factors: Factors) -> Tensor:
        """Mean over columns, and over the two input factors."""
        return torch.stack([_density(getattr(factors, name)) for name in MODES[self.mode]]).mean()


@dataclass(frozen=True)
class NonNegative(Prior):
    """x -> |x| for the factors of a mode: no negative entries, and no entry that is stuck at zero.

    mode: "outputs", "inputs", "left" or "right". With "outputs" and tied inputs the signs of components are lost.
    """

    mode: str = "inputs"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)

    def constrain(self, factors: Factors) -> Factors:
        """Absolute values."""
        tied = factors.left is factors.right
        changed = factors._replace(**{name: getattr(factors, name).abs() for name in MODES[self.mode]})
        return changed._replace(right=changed.left) if tied and self.mode != "outputs" else changed


@dataclass(frozen=True)
class Smooth(Prior):
    """strength * mean_rank sum (differences of neighbouring pixels)^2 / (8 sum pixels^2) over left and right.

    shape: (height, width) of the image that an input is; zeros are taken beyond its border. 0 for a constant image far
    from the border, 1 for a checkerboard. The constant coordinate of a lifted layer is left out.
    """

    shape: tuple[int, int]
    strength: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple | list) or len(self.shape) != 2:
            raise TypeError(f"shape must be a pair (height, width), got {self.shape!r}")
        for name, size in zip(("height", "width"), self.shape, strict=True):
            check_int(name, size, 1)
        _check_strength(self.strength)

    def check(self, layer: BilinearLayer) -> None:
        """The image must have as many pixels as there are inputs, the constant one left out."""
        pixels, size = math.prod(self.shape), layer.shape[1] - layer.constant_in
        if size != pixels:
            raise ValueError(f"an image of shape {self.shape} has {pixels} pixels, but mode 'in' has size {size}")

    def penalty(self, factors: Factors) -> Tensor:
        """Mean over columns and over the two input factors."""
        return (self._roughness(factors.left) + self._roughness(factors.right)) / 2

    def _roughness(self, columns: Tensor) -> Tensor:
        images = columns[-math.prod(self.shape) :].T.unflatten(1, self.shape)  # (rank, height, width)
        padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
        energy = padded.diff(dim=1).square().sum((1, 2)) + padded.diff(dim=2).square().sum((1, 2))
        squared = images.square().sum((1, 2))
        return (energy / (8 * nonzero(squared))).mean()


def _density(columns: Tensor) -> Tensor:
    size = columns.shape[0]
    if size == 1:
        return columns.new_zeros(())
    length = columns.norm(dim=0)
    ratio = columns.abs().sum(0) / nonzero(length)
    return ((ratio - 1) / (math.sqrt(size) - 1)).mean()


def _check_strength(strength: object) -> None:
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        raise TypeError(f"strength must be a number, got {strength!r}")
    if not 0 <= strength < math.inf:
        raise ValueError(f"strength must be finite and at least 0, got {strength}")
