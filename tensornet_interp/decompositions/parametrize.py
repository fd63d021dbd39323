"""Models for fits: a model is a sum of rank-one terms, written as a function of the parameters that are fitted."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tensornet_interp.numerics import nonzero


class Model(ABC):
    """A model is a sum of terms outputs[:, r] sym(left[:, r] right[:, r]^T), as a function of a tuple of parameters.

    sym(M) = (M + M^T) / 2

    The first parameter is the outputs (out, m). The others, side by side, are the inputs (in, n). Every column has a
    partner, and the model is the sum over all columns of a column times its partner; `merge` gives each to an output.
    """

    damping: float = 1e-3  # of the first step of a fit

    @abstractmethod
    def components(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors (out, rank), (in, rank) and (in, rank) of the terms."""

    @abstractmethod
    def scales(self, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return numbers (m,) and (n,) that rescale the columns such that none is much larger than another.

        The rescaled parameters are those of the same tensor.
        """

    @abstractmethod
    def partner(self, columns: Tensor) -> Tensor:
        """Return an array (..., n) with every column in the place of its partner."""

    @abstractmethod
    def merge(self, columns: Tensor) -> Tensor:
        """Return the shares (..., m) of the outputs in products (..., n) of columns with their partners."""

    @abstractmethod
    def spread(self, outputs: Tensor) -> Tensor:
        """Return the adjoint of `merge`: (..., m) becomes (..., n)."""

    def partner_both(self, array: Tensor) -> Tensor:
        """Apply `partner` to both axes of an array (n, n)."""
        return self.partner(self.partner(array).mT).mT

    def merge_both(self, array: Tensor) -> Tensor:
        """Apply `merge` to both axes of an array (n, n)."""
        return self.merge(self.merge(array).mT).mT

    def spread_both(self, array: Tensor) -> Tensor:
        """Apply `spread` to both axes of an array (m, m)."""
        return self.spread(self.spread(array).mT).mT


@dataclass(frozen=True)
class Free(Model):
    """A free model has terms with two separate input factors.

    sum_rank outputs[:, rank] sym(left[:, rank] right[:, rank]^T)

    The parameters are (outputs, left, right). The inputs are [left, right]; the partner of a column of left is that of
    right, and the two products of a pair have a half each.
    """

    def components(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the parameters unchanged, because they are the factors."""
        outputs, left, right = parameters
        return outputs, left, right

    def scales(self, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scales with which the three factors of each term have the same norm."""
        norms = [outputs.norm(dim=0), *inputs.norm(dim=0).chunk(2)]
        size = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
        first, *both = [size / nonzero(n) for n in norms]
        return first, torch.cat(both)

    def partner(self, columns: Tensor) -> Tensor:
        """Return an array (..., n) with its two halves exchanged."""
        return columns.roll(columns.shape[-1] // 2, -1)

    def merge(self, columns: Tensor) -> Tensor:
        """Return the mean of the two halves of the columns."""
        first, second = columns.chunk(2, -1)
        return (first + second) / 2

    def spread(self, outputs: Tensor) -> Tensor:
        """Return half of the outputs, twice side by side."""
        return torch.cat([outputs, outputs], -1) / 2


@dataclass(frozen=True, eq=False)
class Tied(Model):
    """A tied model has terms with two equal input factors; all terms of a block share one output vector.

    sum_rank (outputs @ signs)[:, rank] vectors[:, rank] vectors[:, rank]^T

    The parameters are (outputs, vectors). The constant array signs (block, rank) has one nonzero entry per column: its
    row is the block to which the vector belongs, and +1 or -1 says whether the term is added or subtracted. A column is
    its own partner.
    """

    signs: Tensor
    damping: float = 1e-3

    @cached_property
    def single(self) -> bool:
        """Return whether every block is one term that is added, so that blocks and terms are the same."""
        return self.signs.shape[0] == self.signs.shape[1] and bool((self.signs.diagonal() == 1).all())

    def components(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three factors; all terms of a block have its output vector, and left and right are one object."""
        outputs, vectors = parameters
        return outputs @ self.signs, vectors, vectors

    def scales(self, outputs: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scales with which each output vector has the joint norm of all vectors of its block."""
        block = (inputs.square().sum(0) @ self.signs.abs().T).sqrt()  # (block,)
        size = (nonzero(block) / nonzero(outputs.norm(dim=0))) ** (2 / 3)
        return size, size**-0.5 @ self.signs.abs()

    def partner(self, columns: Tensor) -> Tensor:
        """Return the columns unchanged."""
        return columns

    def merge(self, columns: Tensor) -> Tensor:
        """Return the signed sums over the columns of each block."""
        return columns if self.single else columns @ self.signs.to(columns.dtype).T

    def spread(self, outputs: Tensor) -> Tensor:
        """Return the entry of its block for each column, with its sign."""
        return outputs if self.single else outputs @ self.signs.to(outputs.dtype)
