"""Conversion of other formats of a bilinear tensor to the CP factors down (out, rank), left and right (in, rank)."""

from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_choice, check_kind, check_list, check_size, check_tensor

__all__ = ["cp_factors", "dense_factors", "module_factors"]


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
    """Return CP factors that equal a dense tensor (out, in1, in2) with in1 = in2; their rank is in * min(in, out).

    The columns of two of the three factors are unit vectors.
    """
    check_tensor("tensor", tensor, ("out", "in1", "in2"))
    check_size("in", in1=tensor.shape[1], in2=tensor.shape[2])
    return _dense_factors(tensor)


def module_factors(module: Any, inputs: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the CP factors of a `torch.nn.Bilinear` without bias.

    inputs: "one" if both inputs of the module are the same vector; the tensor is then symmetrized. "two" if they are
    different vectors x1 and x2; the input of the layer is then cat([x1, x2]).
    """
    check_choice("inputs", inputs, ("one", "two"))
    if check_kind("module", module, torch.nn.Bilinear).bias is not None:
        raise ValueError(
            "the torch.nn.Bilinear has a bias, but a bilinear layer has none; lift the layer instead:"
            " lift(BilinearLayer.from_tensor(module.weight.detach()), bias=module.bias.detach())"
        )
    weight = module.weight.detach()
    if inputs == "two":
        down, left, right = _dense_factors(weight)
        return (
            down,
            torch.nn.functional.pad(left, (0, 0, 0, len(right))),
            torch.nn.functional.pad(right, (0, 0, len(left), 0)),
        )
    if module.in1_features != module.in2_features:
        raise ValueError(
            f"two inputs of {module.in1_features} and {module.in2_features} coordinates cannot be one vector; give"
            " inputs='two'"
        )
    return dense_factors((weight + weight.mT) / 2)


def _dense_factors(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out, in1, in2 = tensor.shape
    left = _unit(in1, tensor).repeat_interleave(min(in2, out), dim=1)  # (in1, in1 * min)
    if in2 <= out:
        return (tensor.reshape(out, -1), left, _unit(in2, tensor).repeat(1, in1))
    return (_unit(out, tensor).repeat(1, in1), left, tensor.permute(2, 1, 0).reshape(in2, -1))


def _unit(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
