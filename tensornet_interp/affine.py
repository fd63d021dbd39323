"""Vectors and affine maps in coordinates of which the first can be the constant 1 of a lifted layer."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import check_alike, check_batch, check_size, check_tensor

__all__ = ["affine_matrix", "check_direction", "lift_vectors"]


def check_direction(direction: Tensor, size: int, like: Tensor) -> None:
    """Raise unless the direction is a tensor (..., out) of this size, with the dtype and device of `like`."""
    check_batch("direction", direction, "out")
    check_size("out", layer=size, direction=direction.shape[-1])
    check_alike(layer=like, direction=direction)


def lift_vectors(name: str, x: Tensor, size: int, *, constant: bool, like: Tensor) -> Tensor:
    """Plain vectors (..., in) checked and, if the `size` coordinates begin with the constant 1, put behind that 1.

    `like` is an array of the layer, whose dtype and device they share.
    """
    check_batch(name, x, "in")
    if x.shape[-1] != size - constant:
        lifted = " (the constant coordinate of a lifted layer is added by the call)" if constant else ""
        raise ValueError(f"mode 'in' has size {size - constant} in the layer but {x.shape[-1]} in {name}{lifted}")
    check_alike(layer=like, **{name: x})
    return _with_constant(x) if constant else x


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
    return torch.cat([_with_constant(bias)[:, None], pad(matrix, (0, 0, 1, 0))], 1)


def _with_constant(x: Tensor) -> Tensor:
    """[1, x]: vectors (..., size) behind the constant coordinate."""
    return torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)
