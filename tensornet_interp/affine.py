"""Affine maps as matrices, over coordinates of which the first can be the constant 1 of a lifted layer."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import check_alike, check_size, check_tensor

__all__ = ["affine_matrix", "with_constant"]


def with_constant(x: Tensor) -> Tensor:
    """[1, x]: the vectors (..., size) with the constant coordinate in front."""
    return torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)


def affine_matrix(
    name: str, matrix: Tensor | None, bias: Tensor | None, *, axis: int, like: Tensor, constant: bool
) -> Tensor:
    """Matrix of x -> matrix @ x + bias, which is [[1, 0], [bias, matrix]] if coordinate 0 is the constant.

    name: "input" or "output", as errors call it. `axis` of the matrix meets the rows of `like`; without a matrix the
    map is x + bias. Raises ValueError for a bias without a constant coordinate.
    """
    size = len(like) - constant
    if bias is not None and not constant:
        raise ValueError(f"{name}_bias needs a lifted layer, whose constant coordinate it is written to; see lift()")
    if matrix is None:
        matrix = torch.eye(size, dtype=like.dtype, device=like.device)
    check_tensor(f"{name}s", matrix, ("row", "column"))
    check_size(name.removesuffix("put"), layer=size, **{f"{name}s": matrix.shape[axis]})
    check_alike(layer=like, **{f"{name}s": matrix})
    if not constant:
        return matrix
    if bias is None:
        bias = matrix.new_zeros(matrix.shape[0])
    check_tensor(f"{name}_bias", bias, (name,))
    check_size(name, **{f"{name}s": matrix.shape[0], f"{name}_bias": bias.shape[0]})
    check_alike(layer=like, **{f"{name}_bias": bias})
    return torch.cat([with_constant(bias)[:, None], pad(matrix, (0, 0, 1, 0))], 1)
