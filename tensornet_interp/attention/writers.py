"""Who writes what: the vectors that heads, the residual, the bias and the constant give to the part above them."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.parts import Norm, Part
from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.checks import check_int, check_kind


def pair_of_parts(network: SequenceNetwork, i: int) -> tuple[Part, AttentionLayer, Part]:
    """Return the attention part below part i, its layer, and part i."""
    check_kind("network", network, SequenceNetwork)
    if len(network) < 2:
        raise ValueError(f"network must have a part above another, got {len(network)} part")
    i = check_int("i", i, 1, len(network) - 1, "the numbers of the parts above another")
    below, above = network[i - 1], network[i]
    return below, attention_of(below, i - 1), above


def attention_of(part: Part, i: int) -> AttentionLayer:
    """Return the attention layer of part i; raise ValueError if it has none."""
    if not isinstance(part.map, AttentionLayer):
        raise ValueError(f"part {i} must be an attention layer, but it is a {type(part.map).__name__}")
    return part.map


def scaled(norm: Norm | None, x: Tensor, *more: None) -> Tensor:
    """Return the linear part of a norm at given scales, for vectors (..., position, *more, in)."""
    if norm is None:
        return x
    if norm.scale is None:
        raise ValueError("the norm must be at given scales")
    x = x - x.mean(-1, keepdim=True) if norm.centered else x
    scale = norm.scale if not norm.scale.ndim else norm.scale[(..., *more, None)]
    x = x * scale
    return x if norm.weight is None else x * norm.weight


def adjoint(norm: Norm | None, w: Tensor) -> Tensor:
    """Return the transpose of the linear part of a norm at given scales, for vectors (..., position, in)."""
    if norm is None:
        return w
    bare = Norm(centered=norm.centered, scale=norm.scale)  # symmetric
    return scaled(bare, w if norm.weight is None else w * norm.weight)


def head_writes(part: Part, layer: AttentionLayer, x: Tensor, *, constant: bool = True) -> Tensor:
    """Return what every head adds to the stream (..., position, in), as (..., position, head, out).

    The part is at a given pattern and at given scales. constant: whether the constants of norm and values count.
    """
    h = x if part.norm is None else part.norm(x) if constant else scaled(part.norm, x)
    h = pad(h, (1, 0), value=float(constant)) if layer.constant_in else h
    value = layer.value.repeat_interleave(layer.heads // layer.shared_heads, 0)
    pattern = layer.mask.expand(*layer.mask.shape[:-3], layer.heads, -1, -1)
    mixed = torch.einsum("...hst,hci,...ti->...shc", pattern, value, h)
    return torch.einsum("...shc,ohc->...sho", mixed, layer.down[int(layer.constant_out) :])


def writer_vectors(below: Part, above: Part, x: Tensor) -> Tensor:
    """Return the input of the part above by writer, (..., position, writer, in): heads, residual, bias, constant.

    Both parts are at given patterns and scales. x: (..., position, in), the input of the part below.
    """
    heads = head_writes(below, attention_of(below, 0), x)
    bias = torch.zeros_like(heads[..., :1, :])
    bias = bias if below.bias is None else bias + below.bias
    residual = below.residual * x[..., None, :] if below.residual else torch.zeros_like(bias)
    vectors = scaled(above.norm, torch.cat([heads, residual, bias], -2), None)
    constant = torch.zeros_like(bias)
    if above.norm is not None and above.norm.bias is not None:
        constant = constant + above.norm.bias
    vectors = torch.cat([vectors, constant], -2)
    if not getattr(above.map, "constant_in", False):
        return vectors
    ones = torch.zeros_like(vectors[..., :1])
    ones[..., -1, :] = 1
    return torch.cat([ones, vectors], -1)
