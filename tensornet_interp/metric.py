"""The metric of the data weighs every input direction by how much the inputs of a layer vary along it."""

import copy
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.affine import affine_matrix
from tensornet_interp.checks import (
    check_alike,
    check_bool,
    check_int,
    check_kind,
    check_number,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.float64 import needs_float64
from tensornet_interp.moments import Moments, check_moments
from tensornet_interp.numerics import EPS
from tensornet_interp.places import kept_place
from tensornet_interp.store import register_type

__all__ = ["Metric"]

WHITENED = "whitened by the data"  # the basis of a layer in whitened coordinates
_FEW = 10  # a second moment is known to about sqrt(in / count): fewer inputs per coordinate than this give a warning


@runtime_checkable
class HasBasis(Protocol):
    """A part has a basis if its inputs can be changed, as those of layers and results."""

    def change_basis(self, inputs: Tensor, *, input_bias: Tensor | None = None, basis: str = "") -> Any:
        """Return the part as a function of new inputs x', where x = inputs @ x' + input_bias."""


R = TypeVar("R", bound=HasBasis)


@register_type("Metric")
@dataclass(frozen=True, eq=False)
class Metric:
    """A metric holds a root F of the second moment S = F F^T of the inputs of a layer.

    ||B||_S^2 = sum_out <B[out], S B[out] S> = E |B(x1, x2)|^2, for independent inputs x1, x2 with second moment S

    B is symmetrized. The columns of F are orthogonal, so the pseudoinverse of F is F^T with every row divided by its
    squared norm. The metric of a lifted layer has the mean of the inputs as `center`, and F F^T is their covariance; S
    is then the second moment of [1, x]. All tensors are float64. `Metric.of` makes one from `Moments`.
    Raises ValueError if sizes or devices differ, or if a column of the root is zero.
    """

    root: Tensor  # (in, rank), without the constant coordinate
    center: Tensor | None = None  # (in,), of a lifted layer
    ridge: float = 0.0  # the share of the mean eigenvalue that was added to every eigenvalue
    count: int | None = None  # how many inputs the moments were computed from, if they come from data
    note: str = ""  # where the moments come from

    def __post_init__(self) -> None:
        check_tensor("root", self.root, ("in", "rank"))
        if self.center is not None:
            check_tensor("center", self.center, ("in",))
            check_size("in", root=len(self.root), center=len(self.center))
            check_alike(root=self.root, center=self.center)
        if not bool(self.root.any(0).all()):
            raise ValueError("root has a column of zeros; leave it out")
        check_number("ridge", self.ridge, 0)
        if self.count is not None:
            check_int("count", self.count, 1)
        check_text("note", self.note, empty=True)

    @classmethod
    @needs_float64
    def of(cls, moments: Moments, *, ridge: float = 0.0, lifted: bool = False) -> "Metric":
        """Return the metric of inputs with these moments.

        F F^T = S + ridge * (trace S / in) * identity

        S is the second moment E[x x^T], or for a lifted layer the covariance. Eigenvalues of S that rounding cannot
        tell from 0 are left out: 10 * in * eps of the largest, or the size of the most negative one if that is more.
        ridge: a share of the mean eigenvalue. lifted: whether the layer has a constant input.
        Raises ValueError if the inputs do not vary, so that nothing is left. Cost: 9 * in^3 flops.
        """
        moments = check_kind("moments", check_moments(moments), Moments)
        ridge = check_number("ridge", ridge, 0)
        matrix = moments.covariance if check_bool("lifted", lifted) else moments.second_moment
        values, vectors = torch.linalg.eigh(matrix.detach())
        values = values + ridge * values.clamp_min(0).mean()
        keep = values > max(10 * len(values) * EPS * float(values[-1]), -float(values[0]), 0.0)
        if not bool(keep.any()):
            what = "their covariance is 0" if lifted else "they are all 0"
            raise ValueError(f"moments say that the inputs do not vary: {what}, so no input direction has any weight")
        root = (vectors[:, keep] * values[keep].sqrt()).flip(1)  # (in, rank), largest first
        return cls(root, moments.mean.detach() if lifted else None, ridge, moments.count, moments.note)

    def __repr__(self) -> str:
        size, rank = self.root.shape
        return f"Metric(in={size}, rank={rank}, ridge={self.ridge:g}, count={self.count}, note={self.note!r})"

    @property
    def rank(self) -> int:
        """Return the number of input directions that have a weight, without the constant of a lifted layer."""
        return self.root.shape[1]

    def full(self) -> Tensor:
        """Return F over all coordinates: (in, rank), or [[1, 0], [center, F]] for a lifted layer."""
        lifted = self.center is not None
        like = self.root.new_zeros(len(self.root) + lifted, 1)
        return affine_matrix("input", self.root, self.center, axis=0, like=like, constant=lifted)

    def inverse(self) -> tuple[Tensor, Tensor | None]:
        """Return the pseudoinverse F+ (rank, in), and for a lifted layer the bias -F+ center (rank,), else None.

        Whitened coordinates of an input x are F+ x, or F+ x - F+ center: its part outside the span of F is lost.
        """
        inverse = self.root.T / self.root.square().sum(0)[:, None]
        return inverse, None if self.center is None else -inverse @ self.center

    @needs_float64
    def whiten(self, part: R) -> R:
        """Return a layer or a result in whitened coordinates z, where x = F z, or F z + center for a lifted layer.

        The tensor products of vectors are those of the metric there: similarities, norms and matches of whitened
        layers and results are in the metric. Raises ValueError if sizes, dtype (float64) or device differ.
        """
        if not isinstance(part, HasBasis):
            raise TypeError(f"part must be a layer or a result, got {type(part).__name__}")
        whitened: R = part.change_basis(self.root, input_bias=self.center, basis=WHITENED)
        return whitened

    @needs_float64
    def coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the whitened coordinates of plain inputs x (batch, in), and the distances (batch,) to the support.

        z = F+ (x - center), distance = |x - center - F z|

        The coordinates (batch, rank) of a lifted layer have the constant 1 in front. If the distance is not 0 up to
        rounding, the metric does not see a part of x.
        """
        check_tensor("x", x, ("batch", "in"))
        check_size("in", metric=len(self.root), x=x.shape[1])
        moved = x.to(torch.float64) if self.center is None else x.to(torch.float64) - self.center
        z = moved @ self.inverse()[0].T
        distance = torch.linalg.vector_norm(moved - z @ self.root.T, dim=1)
        return z if self.center is None else pad(z, (1, 0), value=1.0), distance

    def apply(self, vectors: Tensor) -> Tensor:
        """Return S times vectors (..., in, rank) over all coordinates, in the dtype of the vectors."""
        full = self.full()
        return (full @ (full.T @ vectors.to(torch.float64))).to(vectors.dtype)

    def warnings(self) -> list[str]:
        """Return what to know before you trust a result in this metric, one sentence each."""
        size, found = len(self.root), []
        if self.count is not None and self.count < _FEW * size:
            found.append(
                f"the metric comes from {self.count} inputs in {size} dimensions, which determine it to about"
                f" {(size / self.count) ** 0.5:.0%}; use more inputs, or a larger ridge than {self.ridge:g}"
            )
        if self.rank < size:
            found.append(
                f"the metric has rank {self.rank} of {size}: the result is zero on the other directions, along which"
                " the inputs do not vary; a ridge above 0 keeps them"
            )
        return found

    def to(self, device: torch.device | str | None = None) -> "Metric":
        """Return the same metric on another device; one in float64 goes to the CPU if the device has no float64."""
        place = kept_place(device, self.root)
        changed = copy.copy(self)
        object.__setattr__(changed, "root", self.root.to(place))
        object.__setattr__(changed, "center", None if self.center is None else self.center.to(place))
        return changed
