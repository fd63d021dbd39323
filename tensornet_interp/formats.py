"""Conversion of other formats of a bilinear tensor into CP factors: down (out, rank), left and right (in, rank)."""

from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_list, check_size, check_tensor

__all__ = ["cp_factors", "dense_factors"]


def cp_factors(cp_tensor: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factors of a TensorLy CP tensor `(weights, [down, left, right])`; down absorbs the weights."""
    if isinstance(cp_tensor, str | Tensor) or not hasattr(cp_tensor, "__len__") or len(cp_tensor) != 2:
        raise TypeError(f"cp_tensor must be a pair (weights, [down, left, right]), got {type(cp_tensor).__name__}")
    weights, factors = cp_tensor
    if len(check_list("factors of cp_tensor", factors)) != 3:
        raise ValueError(f"a bilinear layer has 3 factors (down, left, right), got {len(factors)} in cp_tensor")
    down, left, right = factors
    check_tensor("down", down, ("out", "rank"))
    if weights is not None:
        check_tensor("weights", weights, ("rank",))
        check_size("rank", down=down.shape[1], weights=weights.shape[0])
        down = down * weights
    return (down, left, right)


def dense_factors(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return exact CP factors of a dense tensor (out, in1, in2), of rank in * min(in, out).

    The columns of two of the factors are unit vectors.
    """
    check_tensor("tensor", tensor, ("out", "in1", "in2"))
    check_size("in", in1=tensor.shape[1], in2=tensor.shape[2])
    n_out, n_in, _ = tensor.shape
    eye = torch.eye(n_in, dtype=tensor.dtype, device=tensor.device)
    left = eye.repeat_interleave(min(n_in, n_out), dim=1)  # (in, in * min)
    if n_in <= n_out:
        return (tensor.reshape(n_out, -1), left, eye.repeat(1, n_in))
    down = torch.eye(n_out, dtype=tensor.dtype, device=tensor.device).repeat(1, n_in)
    return (down, left, tensor.permute(2, 1, 0).reshape(n_in, -1))
