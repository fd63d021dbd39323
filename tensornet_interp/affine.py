"""Check vectors and affine maps of a layer; coordinate 0 of a lifted layer is the constant 1."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import check_alike, check_batch, check_size, check_tensor

__all__ = ["affine_matrix", "check_direction", "check_inputs", "check_pair", "lift_vectors"]


def check_direction(direction: Tensor, size: int, like: Tensor) -> None:
    """Raise an error unless a direction is a tensor (..., out) that matches the layer.

    size: the number of outputs. like: an array of the layer, whose dtype and device the direction must have.
    """
    check_batch("direction", direction, "out")
    check_size("out", layer=size, direction=direction.shape[-1])
    check_alike(layer=like, direction=direction)


def check_inputs(x1: Tensor, x2: Tensor | None, like: Tensor) -> Tensor:
    """Check inputs (..., in), constant coordinate included; return x2, or x1 if x2 is None.

    like: an array of the layer with one row per input coordinate. NaN and infinite entries are allowed.
    """
    for name, x in [("x1", x1)] + ([] if x2 is None else [("x2", x2)]):
        check_batch(name, x, "in", finite=False)
        check_size("in", layer=len(like), **{name: x.shape[-1]})
        check_alike(layer=like, **{name: x})
    if x2 is None:
        return x1
    check_pair(x1, x2)
    return x2


def check_pair(x1: Tensor, x2: Tensor) -> None:
    """Raise ValueError unless the batch axes (all axes but the last) of x1 and x2 broadcast."""
    pairs = zip(reversed(x1.shape[:-1]), reversed(x2.shape[:-1]), strict=False)
    if any(a != b and 1 not in (a, b) for a, b in pairs):
        raise ValueError(f"x1 and x2 must have batches that broadcast, got {tuple(x1.shape)} and {tuple(x2.shape)}")


def lift_vectors(name: str, x: Tensor, size: int, *, constant: bool, like: Tensor) -> Tensor:
    """Check vectors (..., in) without the constant and return them; if `constant` is true, put the 1 in front.

    size: the number of input coordinates, constant included. like: an array of the layer, whose dtype and device the
    vectors must have.
    """
    check_batch(name, x, "in")
    if x.shape[-1] != size - constant:
        lifted = " (the call adds the constant coordinate of a lifted layer)" if constant else ""
        raise ValueError(f"mode 'in' has size {size - constant} in the layer but {x.shape[-1]} in {name}{lifted}")
    check_alike(layer=like, **{name: x})
    return _with_constant(x) if constant else x


def affine_matrix(
    name: str, matrix: Tensor | None, bias: Tensor | None, *, axis: int, like: Tensor, constant: bool
) -> Tensor:
    """Return the matrix of the map x -> matrix @ x + bias, or [[1, 0], [bias, matrix]] with a constant coordinate.

    name: "input" or "output", for error messages. matrix: if it is None, the map is x + bias. like: an array of the
    layer with one row per coordinate. axis: the axis of the matrix that has one entry per row of `like`, without the
    constant row. constant: whether the layer has a constant coordinate. Raises ValueError for a bias without a constant
    coordinate, and if sizes, dtypes or devices differ.
    """
    size = len(like) - constant
    if bias is not None and not constant:
        raise ValueError(f"{name}_bias needs a lifted layer: its constant coordinate holds the bias; see lift()")
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
    """Return [1, x]: vectors (..., size) with the constant coordinate in front."""
    return torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)
