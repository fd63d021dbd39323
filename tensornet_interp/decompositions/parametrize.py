"""Models for fits: a model is a sum of rank-one terms, written as a function of the parameters that are fitted."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.numerics import nonzero


class Curvature(NamedTuple):
    """A curvature is the matrix J^T J of a model; J holds the derivatives of the tensor by the parameters.

    product: returns J^T J times a direction, which has one array per parameter. blocks: one diagonal block (n, n) per
    parameter (size, n); the same block holds for each of its rows.
    """

    product: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
    blocks: tuple[Tensor, ...]


class Model(ABC):
    """A model is a sum of terms outputs[:, r] sym(left[:, r] right[:, r]^T), as a function of a tuple of parameters.

    sym(M) = (M + M^T) / 2
    """

    @abstractmethod
    def components(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factors (out, rank), (in, rank) and (in, rank) of the terms."""

    @abstractmethod
    def balance(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return other parameters of the same tensor, such that no factor is much larger than another."""

    @abstractmethod
    def gradient(self, parameters: tuple[Tensor, ...], wrt: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Return the gradient with respect to the parameters; `wrt` is the gradient with respect to the components."""

    @abstractmethod
    def curvature(self, parameters: tuple[Tensor, ...]) -> Curvature:
        """Return the Gauss-Newton matrix J^T J at the parameters."""


@dataclass(frozen=True)
class Free(Model):
    """A free model has terms with two separate input factors.

    sum_rank outputs[:, rank] sym(left[:, rank] right[:, rank]^T)

    The parameters are (outputs, left, right).
    """

    def components(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the parameters unchanged, because they are the factors."""
        outputs, left, right = parameters
        return outputs, left, right

    def balance(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the parameters, rescaled so that the three factors of each term have the same norm."""
        norms = [factor.norm(dim=0) for factor in parameters]
        size = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
        return tuple(factor * (size / nonzero(n)) for factor, n in zip(parameters, norms, strict=True))

    def gradient(self, parameters: tuple[Tensor, ...], wrt: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Return the gradient with respect to the components unchanged, because the components are the parameters."""
        return wrt

    def curvature(self, parameters: tuple[Tensor, ...]) -> Curvature:
        """Return J^T J; a product with it costs rank^2 * (24 * in + 6 * out) flops."""
        c, a, b = parameters
        cc, aa, bb, ab = c.T @ c, a.T @ a, b.T @ b, a.T @ b
        gram = (aa * bb + ab * ab.T) / 2
        both = torch.cat([a, b], 1)
        rank = a.shape[1]

        def product(direction: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            dc, da, db = direction
            from_a, from_b = da.T @ both, db.T @ both  # (rank, 2 rank)
            daa, dab = from_a[:, :rank], from_a[:, rank:]  # [r, s] = da_r . a_s, da_r . b_s
            dba, dbb = from_b[:, :rank], from_b[:, rank:]
            dcc = dc.T @ c
            # the tangent sum_r dc a b + c da b + c a db against the components
            tangent = (daa * bb + dab * ab.T + aa * dbb + ab * dba) / 2
            stack = torch.cat([a, b, da, db], 1)  # (in, 4 rank)
            to_a = torch.cat([dcc * bb + cc * dbb, dcc * ab + cc * dab, cc * bb, cc * ab])
            to_b = torch.cat([dcc * ab.T + cc * dba, dcc * aa + cc * daa, cc * ab.T, cc * aa])
            return dc @ gram + c @ tangent, stack @ to_a / 2, stack @ to_b / 2

        return Curvature(product, (gram, cc * bb / 2, cc * aa / 2))


@dataclass(frozen=True, eq=False)
class Tied(Model):
    """A tied model has terms with two equal input factors; all terms of a block share one output vector.

    sum_rank (outputs @ signs)[:, rank] vectors[:, rank] vectors[:, rank]^T

    The parameters are (outputs, vectors). The constant array signs (block, rank) has one nonzero entry per column: its
    row is the block to which the vector belongs, and +1 or -1 says whether the term is added or subtracted.
    """

    signs: Tensor

    def components(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three factors; all terms of a block have its output vector, and left and right are one object."""
        outputs, vectors = parameters
        return outputs @ self.signs, vectors, vectors

    def balance(self, parameters: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the parameters, rescaled so that each output vector has the joint norm of all vectors of its block."""
        outputs, vectors = parameters
        block = (vectors.square().sum(0) @ self.signs.abs().T).sqrt()  # (block,)
        size = (nonzero(block) / nonzero(outputs.norm(dim=0))) ** (2 / 3)
        return outputs * size, vectors * (size**-0.5 @ self.signs.abs())

    def gradient(self, parameters: tuple[Tensor, ...], wrt: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Return the gradient with respect to the parameters: the sum over all components that share a parameter."""
        return wrt[0] @ self.signs.T, wrt[1] + wrt[2]

    def curvature(self, parameters: tuple[Tensor, ...]) -> Curvature:
        """Return J^T J; a product with it costs 6 * rank^2 * (in + out) flops."""
        outputs, a = parameters
        c = outputs @ self.signs
        cc, aa = c.T @ c, a.T @ a

        def product(direction: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            dc, da = direction[0] @ self.signs, direction[1]
            daa, dcc = da.T @ a, dc.T @ c
            to_c = dc @ (aa * aa) + 2 * c @ (daa * aa)
            to_a = 2 * (a @ (dcc * aa + cc * daa) + da @ (cc * aa))
            return to_c @ self.signs.T, to_a

        return Curvature(product, (self.signs @ (aa * aa) @ self.signs.T, 2 * cc * aa))
