"""Components of one output direction, two input vectors each, by several decompositions; see `sparse_components.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp import BilinearLayer, CPResult, SpectralResult, decompose
from tensornet_interp.decompositions import Factors, Prior, Sparse


class Component(NamedTuple):
    """A `Component` is a quadratic form on a plane: x -> sum_j (left[:, j] . x) (right[:, j] . x)."""

    left: Tensor  # (in, 1 or 2)
    right: Tensor  # (in, 1 or 2)
    plane: Tensor  # (in, 2), which spans what the form sees

    @classmethod
    def product(cls, weight: Tensor, left: Tensor, right: Tensor) -> "Component":
        """Return weight (left . x) (right . x)."""
        return cls((weight * left)[:, None], right[:, None], torch.stack([left, right], 1))

    @classmethod
    def squares(cls, weights: Tensor, vectors: Tensor) -> "Component":
        """Return sum_j weights[j] (vectors[:, j] . x)^2."""
        return cls(weights * vectors, vectors, vectors)

    def activation(self, x: Tensor) -> Tensor:
        """Return the value of the form, (token,), for inputs (token, in)."""
        return ((x @ self.left) * (x @ self.right)).sum(1)

    def matrix(self) -> Tensor:
        """Return the symmetric matrix of the form, (in, in)."""
        one = self.left @ self.right.T
        return (one + one.T) / 2


@dataclass(frozen=True, eq=False)
class SparseActivity(Prior):
    """Ask for terms that few tokens activate: the penalty of `Sparse`, over tokens instead of entries.

    penalty = mean over terms of (|a|_1 / |a|_2 - 1) / (sqrt(tokens) - 1), a = (left . x) (right . x)
    """

    x: Tensor = field(repr=False)  # (token, in)
    strength: float = 0.1

    def penalty(self, factors: Factors) -> Tensor:
        """Return the mean density of the activations of all terms."""
        active = (self.x @ factors.left) * (self.x @ factors.right)  # (token, rank)
        length = active.norm(dim=0).clamp_min(torch.finfo(active.dtype).tiny)
        return ((active.abs().sum(0) / length - 1) / (len(active) ** 0.5 - 1)).mean()


def eigen_pairs(values: Tensor, vectors: Tensor, count: int) -> list[Component]:
    """Return the k-th most positive with the k-th most negative eigenvector, k up to `count`.

    values: (rank,), vectors: (in, rank), of one direction.
    """
    order = values.argsort(descending=True)
    pairs = torch.stack([order[:count], order.flip(0)[:count]], 1)  # (count, 2)
    return [Component.squares(values[pair], vectors[:, pair]) for pair in pairs]


def rotated_pairs(values: Tensor, vectors: Tensor, count: int, seed: int) -> list[Component]:
    """Return other components with the sum of `eigen_pairs`, by a random rotation: the control.

    V l V^T = (V sqrt(l) O) (V sqrt(l) O)^T for every orthogonal O, for the positive eigenvalues l and for the negative
    ones, so the subspace, the sum of all components and its error are the same.
    """
    draw = torch.Generator().manual_seed(seed)
    order = values.argsort(descending=True)
    sides = []
    for chosen in (order[:count], order.flip(0)[:count]):
        noise = torch.randn(len(chosen), len(chosen), generator=draw, dtype=torch.float64).to(values)
        sides.append((vectors[:, chosen] * values[chosen].abs().sqrt()) @ torch.linalg.qr(noise).Q)
    signs = torch.tensor([1.0, -1.0], dtype=values.dtype, device=values.device)
    return [Component.squares(signs, torch.stack(pair, 1)) for pair in zip(*(side.T for side in sides), strict=True)]


def random_planes(values: Tensor, vectors: Tensor, count: int, seed: int) -> list[Component]:
    """Return orthogonal planes of the subspace of `eigen_pairs` in random directions, with what the matrix has on each.

    U U^T M U U^T, for two columns U of V O, where V are the 2 count eigenvectors and O is a random orthogonal matrix
    """
    draw = torch.Generator().manual_seed(seed)
    order = values.argsort(descending=True)
    chosen = torch.cat([order[:count], order.flip(0)[:count]])
    noise = torch.randn(len(chosen), len(chosen), generator=draw, dtype=torch.float64).to(values)
    turn = torch.linalg.qr(noise).Q
    planes = zip((vectors[:, chosen] @ turn).split(2, 1), turn.split(2, 1), strict=True)
    return [Component(plane @ (part.T @ (values[chosen, None] * part)), plane, plane) for plane, part in planes]


def cp_terms(direction: BilinearLayer, count: int, prior: Prior, steps: int) -> list[Component]:
    """Return the terms of a sparse CP of one direction (a layer with one output)."""
    result: CPResult = decompose(direction, "cp", rank=count, priors=[prior], max_iterations=steps)
    parts = zip(result.weights * result.outputs[0], result.left.T, result.right.T, strict=True)
    return [Component.product(weight, left, right) for weight, left, right in parts]


def cp_of_features(
    direction: BilinearLayer, decoder: Tensor, count: int, strength: float, steps: int
) -> list[Component]:
    """Return the terms of a CP that is sparse in input features, as forms of the input itself.

    The fit sees activations a of features, x = decoder a. A factor l on a becomes the v whose decoder^T v is nearest
    to l; then l . a is about v . x.
    """
    inner = direction.change_basis(inputs=decoder, basis="features")
    back = torch.linalg.pinv(decoder.T)  # (in, feature)
    terms = cp_terms(inner, count, Sparse("inputs", strength), steps)
    one = back.new_ones(())
    return [Component.product(one, back @ term.left[:, 0], back @ term.right[:, 0]) for term in terms]


def of_shared(result: CPResult | SpectralResult, direction: Tensor, count: int) -> list[Component]:
    """Return the `count` components of a decomposition of the whole layer that are largest in one direction (out,)."""
    weights = direction @ result.outputs  # (rank,) or (block,)
    if isinstance(result, CPResult):
        triples = zip(weights * result.weights, result.left.T, result.right.T, strict=True)
        found = [Component.product(weight, left, right) for weight, left, right in triples]
    else:
        blocks = zip(weights, result.eigenvalues, result.eigenvectors, strict=True)
        found = [Component.squares(weight * values, vectors) for weight, values, vectors in blocks]
    return largest(found)[:count]


def largest(components: Sequence[Component]) -> list[Component]:
    """Return the components sorted by the norm of their matrices, largest first."""
    return sorted(components, key=lambda component: -float(component.matrix().norm()))


def combined(components: Sequence[Component], matrix: Tensor) -> tuple[Tensor, float]:
    """Return the weights (component,) with which components fit a matrix (in, in) best, and the relative error left."""
    forms = torch.stack([component.matrix().flatten() for component in components], 1)
    goal = matrix.flatten()[:, None]
    weights = torch.linalg.lstsq(forms, goal).solution
    return weights[:, 0], float((forms @ weights - goal).norm() / matrix.norm())
