"""Priors: what a fit asks of its factors, in addition to a small error. Each prior is a small class.

A fit with priors minimizes the relative squared error plus the sum of strength * penalty over all priors. Every penalty
here is a mean over components, from 0 to 1, and does not change if a component is rescaled. A strength therefore means
the same at every rank and size.
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
    """Factors are what a prior receives, in the coordinates of the layer; a column is a component, at any scale."""

    outputs: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank); the same object as left if both modes share one factor


class Prior:
    """A prior asks something of the factors of a fit. A subclass overrides `penalty`, `constrain` or both.

    A subclass can also override `check`, to refuse layers for which the prior makes no sense.
    """

    strength: float = 1.0

    def check(self, layer: BilinearLayer) -> None:
        """Raise ValueError if the prior cannot apply to this layer."""

    def constrain(self, factors: Factors) -> Factors:
        """Return the factors that replace the given ones in the fit, as a differentiable function of these.

        The scale of a component stays free.
        """
        return factors

    def penalty(self, factors: Factors) -> Tensor:
        """Return the penalty of the constrained factors: a differentiable number, by convention from 0 to 1."""
        return factors.outputs.new_zeros(())


@dataclass(frozen=True)
class Sparse(Prior):
    """Ask for columns with few large entries. The penalty is one minus the sparsity of Hoyer (JMLR 5, 2004).

    penalty = mean over the columns x (n,) of (|x|_1 / |x|_2 - 1) / (sqrt(n) - 1)

    The penalty of a column is 0 if at most one entry is nonzero, and 1 if all entries have the same magnitude.
    The fit adds strength * penalty to its loss.
    mode: the factors whose columns are meant: "outputs", "left", "right", or "inputs" for left and right together.
    """

    mode: str
    strength: float = 0.1

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check_number("strength", self.strength, 0)

    def penalty(self, factors: Factors) -> Tensor:
        """Return the mean density of all columns of the factors that `mode` names."""
        return torch.stack([_density(getattr(factors, name)) for name in MODES[self.mode]]).mean()


@dataclass(frozen=True)
class NonNegative(Prior):
    """Replace the factors that `mode` names by their magnitudes |x|, so that no entry is negative.

    A rectifier would have a zero gradient at negative entries, which would then be stuck at zero; the magnitude has
    not.
    mode: "outputs", "left", "right", or "inputs" for left and right. With "outputs", a decomposition whose left and
    right factors are equal cannot have negative terms.
    """

    mode: str = "inputs"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)

    def constrain(self, factors: Factors) -> Factors:
        """Return the factors with absolute values in the factors that `mode` names."""
        tied = factors.left is factors.right
        changed = factors._replace(**{name: getattr(factors, name).abs() for name in MODES[self.mode]})
        return changed._replace(right=changed.left) if tied and self.mode != "outputs" else changed


@dataclass(frozen=True)
class Smooth(Prior):
    """Ask for input factors that are smooth images.

    penalty = mean over the columns of left and right of sum (differences of neighbouring pixels)^2 / (8 sum pixels^2)

    The penalty is near 0 for an image that changes slowly, and near 1 for a large checkerboard. Pixels beyond the
    border count as 0. The constant coordinate of a lifted layer is left out. The fit adds strength * penalty to its
    loss.
    shape: the height and width of the images, in pixels.
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
        """Raise ValueError if the image and the layer have different numbers of inputs."""
        pixels, size = math.prod(self.shape), layer.shape[1] - layer.constant_in
        if size != pixels:
            raise ValueError(f"an image of shape {self.shape} has {pixels} pixels, but mode 'in' has size {size}")

    def penalty(self, factors: Factors) -> Tensor:
        """Return the mean roughness of all columns of both input factors."""
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
    return ((ratio - 1) / (math.sqrt(size) - 1)).clamp_min(0).mean()
