"""Priors: demands on the factors of a fitted decomposition, beside a small error. Each prior is one small class.

A fit with priors minimizes the relative squared error plus the sum of strength * penalty. Every penalty is a mean over
components, from 0 to 1, and does not change if a component is rescaled. So a strength means the same at every rank and
size.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import check_choice, check_int, check_number
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import nonzero

MODES = {"outputs": ("outputs",), "inputs": ("left", "right"), "left": ("left",), "right": ("right",)}


class Factors(NamedTuple):
    """The factors that a prior sees, in the coordinates of the layer; columns are components, with any scale."""

    outputs: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank); the same object as left if both modes share one factor


class Prior:
    """A demand on the factors of a fit; subclass it and override `penalty`, or `constrain`, or both.

    Override `check` to refuse a layer that the prior does not fit.
    """

    strength: float = 1.0

    def check(self, layer: BilinearLayer) -> None:
        """Raise ValueError if the prior cannot apply to this layer."""

    def constrain(self, factors: Factors) -> Factors:
        """Return the factors to use in the place of the free ones; differentiable, without fixing the scales."""
        return factors

    def penalty(self, factors: Factors) -> Tensor:
        """Return a differentiable number of the constrained factors, by convention from 0 to 1."""
        return factors.outputs.new_zeros(())


@dataclass(frozen=True)
class Sparse(Prior):
    """Ask for columns with few large entries: one minus the sparsity of Hoyer (JMLR 5, 2004).

    strength * mean_rank (|x|_1 / |x|_2 - 1) / (sqrt(n) - 1) over the columns x (n,) of a mode

    The penalty of a column is 0 if it has one entry, and 1 if all entries have the same magnitude.
    mode: "outputs", "inputs" (left and right, their mean), "left" or "right".
    """

    mode: str
    strength: float = 0.1

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check_number("strength", self.strength, 0)

    def penalty(self, factors: Factors) -> Tensor:
        """Return the mean over the columns, and over the two input factors."""
        return torch.stack([_density(getattr(factors, name)) for name in MODES[self.mode]]).mean()


@dataclass(frozen=True)
class NonNegative(Prior):
    """Use the magnitudes |x| of the factors of a mode, so that no entry is negative and none is stuck at zero.

    mode: "outputs", "inputs", "left" or "right". With "outputs", a decomposition whose left and right factors are equal
    can have no negative components.
    """

    mode: str = "inputs"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)

    def constrain(self, factors: Factors) -> Factors:
        """Return the factors with absolute values in the mode that this prior is for."""
        tied = factors.left is factors.right
        changed = factors._replace(**{name: getattr(factors, name).abs() for name in MODES[self.mode]})
        return changed._replace(right=changed.left) if tied and self.mode != "outputs" else changed


@dataclass(frozen=True)
class Smooth(Prior):
    """Ask for input factors that are smooth images.

    strength * mean_rank sum (differences of neighbouring pixels)^2 / (8 sum pixels^2) over left and right

    The penalty is near 0 for an image that changes slowly, and 1 for a checkerboard. Pixels beyond the border are 0.
    The constant coordinate of a lifted layer is left out.
    shape: the (height, width) of the image that the inputs are.
    """

    shape: tuple[int, int]
    strength: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.shape, tuple | list) or len(self.shape) != 2:
            raise TypeError(f"shape must be a pair (height, width), got {self.shape!r}")
        for name, size in zip(("height of shape", "width of shape"), self.shape, strict=True):
            check_int(name, size, 1)
        check_number("strength", self.strength, 0)

    def check(self, layer: BilinearLayer) -> None:
        """Raise ValueError if the image has another number of pixels than the layer has inputs."""
        pixels, size = math.prod(self.shape), layer.shape[1] - layer.constant_in
        if size != pixels:
            raise ValueError(f"an image of shape {self.shape} has {pixels} pixels, but mode 'in' has size {size}")

    def penalty(self, factors: Factors) -> Tensor:
        """Return the mean over the columns, and over the two input factors."""
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
