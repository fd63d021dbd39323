"""Conversion of other formats of a bilinear tensor to the CP factors down (out, rank), left and right (in, rank).

Layers own their factors: the factors are copies of weights, CP tensors or modules, without a graph of gradients. So a
later training step changes no layer and no result.
"""

from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import (
    check_alike,
    check_bool,
    check_choice,
    check_kind,
    check_list,
    check_size,
    check_tensor,
)

__all__ = ["LayerFactors", "check_factors", "cp_factors", "dense_factors", "linear_factors", "module_factors", "owned"]


class LayerFactors(TypedDict):
    """The factors of a layer, by the names of its fields."""

    down: Tensor  # (out, rank)
    left: Tensor  # (in, rank)
    right: Tensor  # (in, rank)


def check_factors(down: object, left: object, right: object) -> None:
    """Raise an error unless these are factors (out, rank), (in, rank) and (in, rank) of one dtype on one device."""
    downs = check_tensor("down", down, ("out", "rank"))
    lefts, rights = check_tensor("left", left, ("in", "rank")), check_tensor("right", right, ("in", "rank"))
    check_size("rank", left=lefts.shape[1], right=rights.shape[1], down=downs.shape[1])
    check_size("in", left=lefts.shape[0], right=rights.shape[0])
    check_alike(down=downs, left=lefts, right=rights)


def owned(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor, without a graph of gradients."""
    return tensor.detach().clone()


def linear_factors(left: Any, right: Any, down: Any, share: Any) -> LayerFactors:
    """Return a copy of the factors of `nn.Linear` weights: left, right (rank, in), down (out, rank).

    share: if True, nothing is copied.
    """
    for name, value, modes in (("left", left, ("rank", "in")), ("right", right, ("rank", "in"))):
        check_tensor(name, value, modes)
    check_tensor("down", down, ("out", "rank"))
    if check_bool("share", share):
        return {"down": down, "left": left.T, "right": right.T}
    return {"down": owned(down), "left": owned(left).T, "right": owned(right).T}


def cp_factors(cp_tensor: Any) -> LayerFactors:
    """Return a copy of the factors of a TensorLy CP tensor `(weights, [down, left, right])`.

    The weights are multiplied into down.
    """
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
    for name, value in (("left", left), ("right", right)):
        check_tensor(name, value, ("in", "rank"))
    own_left = owned(left)
    return {"down": owned(down), "left": own_left, "right": own_left if right is left else owned(right)}


def dense_factors(tensor: Tensor, *, own: bool = False) -> LayerFactors:
    """Return CP factors that equal a dense tensor (out, in1, in2) with in1 = in2; their rank is in * min(in, out).

    The columns of two factors are unit vectors. The third factor is a view of the tensor, or of a copy if `own` is
    True.
    """
    check_tensor("tensor", tensor, ("out", "in1", "in2"))
    check_size("in", in1=tensor.shape[1], in2=tensor.shape[2])
    return _dense_factors(owned(tensor) if own else tensor)


def module_factors(module: Any, inputs: str) -> LayerFactors:
    """Return a copy of the CP factors of a `torch.nn.Bilinear` without bias.

    inputs: "one" if both inputs of the module are the same vector; the tensor is then symmetrized. "two" if they are
    different vectors x1 and x2; the input of the layer is then cat([x1, x2]).
    """
    check_choice("inputs", inputs, ("one", "two"))
    if check_kind("module", module, torch.nn.Bilinear).bias is not None:
        raise ValueError(
            "the torch.nn.Bilinear has a bias, but a bilinear layer has none; lift the layer instead:"
            " lift(BilinearLayer.from_tensor(module.weight.detach()), bias=module.bias.detach())"
        )
    weight = owned(module.weight)
    if inputs == "two":
        made = _dense_factors(weight)
        left = pad(made["left"], (0, 0, 0, len(made["right"])))
        return {"down": made["down"], "left": left, "right": pad(made["right"], (0, 0, len(made["left"]), 0))}
    if module.in1_features != module.in2_features:
        raise ValueError(
            f"two inputs of {module.in1_features} and {module.in2_features} coordinates cannot be one vector; give"
            " inputs='two'"
        )
    return dense_factors((weight + weight.mT) / 2)


def _dense_factors(tensor: Tensor) -> LayerFactors:
    out, in1, in2 = tensor.shape
    left = _unit(in1, tensor).repeat_interleave(min(in2, out), dim=1)  # (in1, in1 * min)
    if in2 <= out:
        return {"down": tensor.reshape(out, -1), "left": left, "right": _unit(in2, tensor).repeat(1, in1)}
    return {"down": _unit(out, tensor).repeat(1, in1), "left": left, "right": tensor.permute(2, 1, 0).reshape(in2, -1)}


def _unit(size: int, like: Tensor) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
