"""The meaning of directions: coordinates in eigenvectors, names of the nearest vectors, overlap of two sets, and tokens
as directions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import (
    check_alike,
    check_bool,
    check_int,
    check_list,
    check_names,
    check_size,
    check_tensor,
)
from tensornet_interp.float64 import needs_float64
from tensornet_interp.numerics import row_noise, unit_columns
from tensornet_interp.store import register_type


@register_type("Projection")
class Projection(NamedTuple):
    """A projection holds the coordinates of vectors in a set of eigenvectors, float64."""

    coordinates: Tensor  # (vector, rank): v . x
    cosines: Tensor  # (vector, rank): v . x / (|v| |x|), 0 for a zero vector
    captured: Tensor  # (vector,): share of |x|^2 in the span of the eigenvectors


@register_type("Label")
class Label(NamedTuple):
    """A label is the name of a vector near a direction, and the cosine of the two."""

    name: str
    cosine: float


@register_type("Overlap")
class Overlap(NamedTuple):
    """An overlap measures how much the spans of two sets of directions share, float64."""

    cosines: Tensor  # (min(rank of a, rank of b),): cosines of the principal angles, largest first
    first_in_second: float  # share of the first span inside the second: sum cosines^2 / rank of a
    second_in_first: float


@needs_float64
@torch.no_grad()
def projections(vectors: Tensor, eigenvectors: Tensor) -> Projection:
    """Return the coordinates of vectors in eigenvectors, the cosines, and the share of each vector in the span.

    coordinates[vector, rank] = sum_in eigenvectors[in, rank] vectors[in, vector]

    vectors: (in, vector), one vector per column, such as a decoder, differences of token unembeddings or an embedded
    prompt. These vectors must be in the input space of the layer. eigenvectors: (in, rank), such as
    `result.eigenvectors[block]`. For a lifted layer, vectors and eigenvectors have the constant coordinate first; this
    coordinate is 0 for a direction and 1 for an input. Raises ValueError if sizes differ. Cost: 2 * in * vectors * rank
    flops.
    """
    check_tensor("vectors", vectors, ("in", "vector"))
    check_tensor("eigenvectors", eigenvectors, ("in", "rank"))
    check_size("in", eigenvectors=eigenvectors.shape[0], vectors=vectors.shape[0])
    check_alike(vectors=vectors, eigenvectors=eigenvectors)
    wide, basis = vectors.to(torch.float64), eigenvectors.to(torch.float64)
    units = unit_columns(wide)[0]
    captured = (units.T @ _row_basis(eigenvectors.T).T).square().sum(1)
    return Projection(wide.T @ basis, units.T @ unit_columns(basis)[0], captured)


@needs_float64
@torch.no_grad()
def label_directions(
    directions: Tensor, vectors: Tensor, names: Sequence[str] | None = None, n: int = 5
) -> list[list[Label]]:
    """Return for each direction the names of the n nearest vectors: the largest |cosine| comes first.

    directions: (direction, size), such as `decompose(layer, "output_svd").directions`. vectors: (vector, size), one
    vector per row, such as an unembedding (token, out) or an encoder (feature, out). The sign of a singular direction
    is arbitrary, so vectors are ranked by |cosine|; the labels hold the cosine with its sign. names: one name per
    vector; by default its index. A zero vector has cosine 0. Raises ValueError if sizes differ. Cost: 2 * directions *
    vectors * size flops; memory: directions * vectors numbers.
    """
    check_tensor("directions", directions, ("direction", "size"))
    check_tensor("vectors", vectors, ("vector", "size"))
    check_size("size", directions=directions.shape[1], vectors=vectors.shape[1])
    check_alike(directions=directions, vectors=vectors)
    n = check_int("n", n, 1, len(vectors), f"there are {len(vectors)} vectors")
    if names is not None:
        check_names("names", names, len(vectors), "vector")
    a, b = (unit_columns(rows.to(torch.float64).T)[0] for rows in (directions, vectors))
    cosines = a.T @ b  # (direction, vector)
    order = cosines.abs().argsort(dim=1, descending=True, stable=True)[:, :n]
    return [
        [Label(str(at) if names is None else names[at], float(row[at])) for at in picks]
        for row, picks in zip(cosines, order.tolist(), strict=True)
    ]


@needs_float64
@torch.no_grad()
def overlap(a: Tensor, b: Tensor) -> Overlap:
    """Return how much the spans of two sets of directions, each (direction, size), share.

    cosines = singular values of Qa Qb^T, where the rows of Qa and Qb are orthonormal bases of the two spans

    Only the spans count, not the lengths of directions. Directions that are dependent up to the rounding of their dtype
    count once. A set that spans the whole space contains every other set, so compare only leading directions. For
    random spans of rank p and q, the share of the first in the second is q / size on average. Raises ValueError if all
    directions of a set are zero. Cost: three singular value decompositions.
    """
    check_tensor("a", a, ("direction", "size"))
    check_tensor("b", b, ("direction", "size"))
    check_size("size", a=a.shape[1], b=b.shape[1])
    check_alike(a=a, b=b)
    bases = [_row_basis(side) for side in (a, b)]
    for name, basis in zip("ab", bases, strict=True):
        if not len(basis):
            raise ValueError(f"{name} spans nothing: all its directions are zero")
    cosines = torch.linalg.svdvals(bases[0] @ bases[1].T).clamp(max=1)
    shared = float(cosines.square().sum())
    return Overlap(cosines, shared / len(bases[0]), shared / len(bases[1]))


@needs_float64
@torch.no_grad()
def token_directions(
    unembedding: Tensor,
    tokens: Sequence[int],
    instead_of: Sequence[int] | None = None,
    *,
    norm_weight: Tensor | None = None,
    centered: bool = False,
) -> Tensor:
    """Return the output directions along which a layer raises the logits of tokens: a quadratic logit lens.

    direction = norm_weight * (unembedding[token] - unembedding[instead_of])

    The part that a layer y = layer(x) adds directly to the difference of two logits, before later layers read it, is
    (direction . y) / s. The scalar s > 0 is the root mean square of the final norm on that token (for a layer norm, the
    standard deviation), so it changes no sign and no order of the features on a token. `feature_interactions(layer,
    direction, ...)` then finds the pairs of input features that make the model say one token rather than the other.

    unembedding: (token, out), one row per token, such as the weight of the model's head. tokens: the numbers of the
    tokens to say. instead_of: the numbers of the tokens not to say, one per entry of tokens; None subtracts nothing.
    norm_weight: (out,), the factor of the final norm per coordinate (Gemma stores this factor minus 1); None if it is 1
    or folded into the unembedding already. centered: whether the final norm subtracts the mean, as a layer norm does;
    then the mean of each direction is subtracted too.
    Returns (direction, out), in the dtype of unembedding. Biases of the norm and of the logits do not depend on the
    layer and are left out. A layer whose output passes another norm before it is added needs this norm's weight, too.
    For a layer with a constant output coordinate, put a 0 before each direction.
    Raises ValueError if sizes differ, for a number that is no row of unembedding, or if a token is compared with
    itself. Cost: 3 * directions * out flops.

    Example:
    >>> head = torch.eye(3)
    >>> token_directions(head, [0], [2], norm_weight=torch.tensor([2.0, 1.0, 1.0])).tolist()
    [[2.0, 0.0, -1.0]]
    """
    check_tensor("unembedding", unembedding, ("token", "out"))
    chosen = _token_numbers("tokens", tokens, len(unembedding))
    directions = unembedding[chosen].to(torch.float64)
    if instead_of is not None:
        others = _token_numbers("instead_of", instead_of, len(unembedding))
        check_size("direction", tokens=len(chosen), instead_of=len(others))
        for at, (token, other) in enumerate(zip(chosen, others, strict=True)):
            if token == other:
                raise ValueError(f"tokens[{at}] and instead_of[{at}] are both {token}: their difference is zero")
        directions = directions - unembedding[others].to(torch.float64)
    if norm_weight is not None:
        check_tensor("norm_weight", norm_weight, ("out",))
        check_size("out", unembedding=unembedding.shape[1], norm_weight=len(norm_weight))
        check_alike(unembedding=unembedding, norm_weight=norm_weight)
        directions = directions * norm_weight.to(torch.float64)
    if check_bool("centered", centered):
        directions = directions - directions.mean(1, keepdim=True)
    return directions.to(unembedding.dtype)


def _token_numbers(name: str, value: Sequence[int], count: int) -> list[int]:
    check_list(name, value, "give the numbers of tokens")
    return [check_int(f"{name}[{at}]", token, 0, count - 1, "a row of unembedding") for at, token in enumerate(value)]


def _row_basis(rows: Tensor) -> Tensor:
    """Return orthonormal rows with the same span as `rows`, up to rounding; the lengths of `rows` do not matter."""
    units = unit_columns(rows.to(torch.float64).T)[0].T
    _, values, basis = torch.linalg.svd(units, full_matrices=False)
    return basis[values > row_noise(units, rows.dtype) * values[0]]
