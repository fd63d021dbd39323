"""Read the weights of stages from the affine parts of a forward pass, by forward derivatives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tensornet_interp.weights.polynomials.cuts import Stage
from tensornet_interp.weights.polynomials.values import Value, evaluate

_BLOCK = 256  # unit vectors at a time


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights describe one stage as a function of s = (1, state), in which the constant coordinate comes first.

    above[out] = sum_rank down[out, rank] (left[rank] . s) (right[rank] . s) + linear[out] . s
    """

    left: Tensor  # (rank, 1 + in)
    right: Tensor  # (rank, 1 + in)
    down: Tensor  # (out, rank)
    linear: Tensor  # (out, 1 + in)


def read_weights(plan: Sequence[Stage], device: torch.device) -> list[Weights]:
    """Return the weights of every stage, bottom first, in float64.

    A constant coordinate goes into the weights of the stage that reads it. Coordinates that no stage reads are dropped.
    """
    found = [_simplify(_read_stage(stage, device)) for stage in plan]
    for i in range(len(found) - 1):
        found[i], found[i + 1] = _fold_constants(found[i], found[i + 1])
    for i in reversed(range(len(found) - 1)):
        found[i], found[i + 1] = _drop_unread(found[i], found[i + 1])
    return found


def _read_stage(stage: Stage, device: torch.device) -> Weights:
    n_in, rank, _ = stage.sizes
    forms = _read_affine(stage.below, [side for product in stage.products for side in product.parents], device)
    rows = forms.split([product.size for product in stage.products for _ in range(2)])
    empty = forms[:0]
    constant, down, linear = _read_affine((*stage.products, *stage.below), stage.above, device).split(
        [1, rank, n_in], 1
    )
    return Weights(
        torch.cat([empty, *rows[0::2]]), torch.cat([empty, *rows[1::2]]), down, torch.cat([constant, linear], 1)
    )


def _read_affine(sources: Sequence[Value], targets: Sequence[Value], device: torch.device) -> Tensor:
    """Return the affine map from sources to targets, (target, 1 + source): the constant part, then the matrix.

    Forward derivatives stay accurate if the constant part is large; the differences f(e_j) - f(0) would lose digits.
    """
    sizes = [value.size for value in sources]

    def function(state: Tensor) -> Tensor:
        pieces = zip(sources, state.split(sizes), strict=True)
        known = {source: piece.reshape(source.shape) for source, piece in pieces}
        return torch.cat([state[:0], *(tensor.reshape(-1) for tensor in evaluate(targets, known))])

    zero = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
    matrix = zero.new_empty(sum(value.size for value in targets), 1 + len(zero))
    matrix[:, 0] = function(zero)
    for start in range(0, len(zero) if len(matrix) else 0, _BLOCK):
        rows = range(start, min(start + _BLOCK, len(zero)))
        unit_vectors = zero.new_zeros(len(rows), len(zero))
        unit_vectors.diagonal(start).fill_(1.0)
        columns = torch.func.vmap(lambda e: torch.func.jvp(function, (zero,), (e,))[1])(unit_vectors)
        matrix[:, 1 + start : 1 + start + len(rows)] = columns.T
    return matrix


def _simplify(weights: Weights) -> Weights:
    """Return the weights without unused products; a product with a constant factor becomes a linear part."""
    left, right, down, linear = weights.left, weights.right, weights.down, weights.linear
    for constant, other in ((left, right), (right, left)):
        fixed = ~constant[:, 1:].any(1) & down.any(0)
        linear = linear + (down[:, fixed] * constant[fixed, 0]) @ other[fixed]
        down = torch.where(fixed, 0.0, down)
    used = down.any(0)
    return Weights(left[used], right[used], down[:, used], linear)


def _fold_constants(below: Weights, above: Weights) -> tuple[Weights, Weights]:
    """Return two stages without the constant coordinates between them; the upper stage is simplified."""
    fixed = ~below.down.any(1) & ~below.linear[:, 1:].any(1)
    values = below.linear[fixed, 0]

    def fold(side: Tensor) -> Tensor:
        rest = torch.cat([side[:, :1], side[:, 1:][:, ~fixed]], 1)
        rest[:, 0] += side[:, 1:][:, fixed] @ values
        return rest

    above = Weights(fold(above.left), fold(above.right), above.down, fold(above.linear))
    return replace(below, down=below.down[~fixed], linear=below.linear[~fixed]), _simplify(above)


def _drop_unread(below: Weights, above: Weights) -> tuple[Weights, Weights]:
    """Return two stages without the coordinates between them that the upper stage does not read."""
    read = torch.cat([above.left, above.right, above.linear])[:, 1:].any(0)
    with_constant = torch.cat([read.new_ones(1), read])
    left, right, linear = (side[:, with_constant] for side in (above.left, above.right, above.linear))
    below = _simplify(replace(below, down=below.down[read], linear=below.linear[read]))
    return below, Weights(left, right, above.down, linear)
