"""Lifting: a constant input coordinate makes biases and residuals part of a bilinear layer."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import check_alike, check_kind, check_number, check_size, check_tensor
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import without_autocast

__all__ = ["Split", "lift", "split"]


def lift(
    layer: BilinearLayer,
    *,
    left_bias: Tensor | None = None,
    right_bias: Tensor | None = None,
    bias: Tensor | None = None,
    residual: float = 0.0,
) -> BilinearLayer:
    """Return a layer with biases and a residual as a bilinear layer of [1, x], exactly.

    y = down((left x + left_bias) * (right x + right_bias)) + bias + residual x

    One hidden unit is added for the constant, which becomes output coordinate 0, and one for each residual coordinate
    (x_j * 1). A call takes and returns plain vectors. left_bias, right_bias: (rank,); bias: (out,).
    Raises ValueError if the layer is lifted already, if sizes differ, or for a residual if in and out differ.
    """
    check_kind("layer", layer, BilinearLayer, "; a result has to_layer()")
    if layer.constant_in or layer.constant_out:
        raise ValueError(f"the layer is lifted already: {layer!r}")
    n_out, n_in, _ = layer.shape
    residual = check_number("residual", residual)
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
    return replace(layer, down=down, left=left, right=right, history=history, constant_in=True, constant_out=True)


class Split(NamedTuple):
    """A split holds the function of a lifted layer by degree: y = interaction(x) + linear x + constant.

    All parts are in plain coordinates.
    """

    interaction: BilinearLayer  # (out, in, in), without a constant coordinate
    linear: Tensor  # (out, in)
    constant: Tensor  # (out,)


@without_autocast
def split(layer: BilinearLayer) -> Split:
    """Split a lifted layer into its parts of degree 2, 1 and 0.

    y[out] = sum B[out, in1, in2] x[in1] x[in2] + sum linear[out, in] x[in] + constant[out]

    The interaction part is the block of the interaction matrices without the constant coordinate, the linear part is
    the sum of row and column of the constant, and the constant part is their corner. The interaction part keeps the
    factors, so it can be decomposed like any layer. A layer that is not lifted has only an interaction part. A
    constant output is dropped. `circuits.degree_weights` returns dense parts, also of networks of several layers.
    Cost: 2 rank in (1 + out).
    """
    layer = check_kind("layer", layer, BilinearLayer, "; see to_layer()").drop_constant()
    down = layer.down
    if not layer.constant_in:
        return Split(layer, down.new_zeros(layer.shape[:2]), down.new_zeros(layer.shape[0]))
    a, b, left, right = layer.left[0], layer.right[0], layer.left[1:], layer.right[1:]
    history = (*layer.history, "interaction part, without biases")
    return Split(
        replace(layer, left=left, right=right, history=history, constant_in=False),
        down @ (a * right + b * left).T,
        down @ (a * b),
    )
