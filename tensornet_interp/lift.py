"""Biases and residuals as part of a bilinear layer, through a constant input coordinate."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import check_alike, check_size, check_tensor
from tensornet_interp.layer import BilinearLayer


def lift(
    layer: BilinearLayer,
    *,
    left_bias: Tensor | None = None,
    right_bias: Tensor | None = None,
    bias: Tensor | None = None,
    residual: float = 0.0,
) -> BilinearLayer:
    """y = down((left x + left_bias) * (right x + right_bias)) + bias + residual x, as a bilinear layer of [1, x].

    One hidden unit is added for the constant, which is handed on as output coordinate 0, and one for each residual
    coordinate (x_j * 1). Exact; called, it takes and gives plain vectors. left_bias, right_bias: (rank,), bias: (out,).
    """
    if layer.constant_in or layer.constant_out:
        raise ValueError(f"the layer is lifted already: {layer!r}")
    n_out, n_in, _ = layer.shape
    if not isinstance(residual, int | float) or isinstance(residual, bool):
        raise TypeError(f"residual must be a number, got {residual!r}")
    if not math.isfinite(residual):
        raise ValueError(f"residual must be finite, got {residual}")
    if residual and n_in != n_out:
        raise ValueError(f"a residual needs as many outputs as inputs, got out={n_out} and in={n_in}")

    def row(name: str, value: Tensor | None, size: int, mode: str) -> Tensor:
        if value is None:
            return layer.down.new_zeros(size)
        check_tensor(name, value, (mode,))
        check_size(mode, layer=size, **{name: value.shape[0]})
        check_alike(layer=layer.down, **{name: value})
        return value

    left = torch.cat([row("left_bias", left_bias, layer.rank, "rank")[None], layer.left])  # (1 + in, rank)
    right = torch.cat([row("right_bias", right_bias, layer.rank, "rank")[None], layer.right])
    eye = torch.eye(1 + n_in, dtype=left.dtype, device=left.device)
    one = torch.cat([left.new_ones(1), row("bias", bias, n_out, "out")])[:, None]  # the constant unit: 1 * 1
    lefts, rights, downs = [left, eye[:, :1]], [right, eye[:, :1]], [pad(layer.down, (0, 0, 1, 0)), one]
    if residual:  # the residual units: x_j * 1
        lefts, rights, downs = (
            [*lefts, eye[:, 1:]],
            [*rights, eye[:, :1].expand(-1, n_in)],
            [*downs, residual * eye[:, 1:]],
        )
    left, right, down = (torch.cat(columns, 1) for columns in (lefts, rights, downs))
    history = (*layer.history, "lifted")
    return BilinearLayer(down, left, right, layer.name, history, constant_in=True, constant_out=True)
