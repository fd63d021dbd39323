"""Lift layers: a constant input coordinate makes biases and residuals part of a bilinear layer."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.checks import check_alike, check_kind, check_number, check_size, check_tensor
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import without_autocast
from tensornet_interp.store import register_type

__all__ = ["Split", "lift", "split"]


def lift(
    layer: BilinearLayer,
    *,
    left_bias: Tensor | None = None,
    right_bias: Tensor | None = None,
    bias: Tensor | None = None,
    residual: float = 0.0,
    linear: Tensor | None = None,
) -> BilinearLayer:
    """Return a layer with biases, a residual and a linear part as an exact bilinear layer of the lifted input [1, x].

    y = down((left x + left_bias) * (right x + right_bias)) + bias + residual x + linear x

    left_bias, right_bias: (rank,); bias: (out,); residual: a number; linear: (out, in). One hidden unit (1 * 1) is
    added for the constant, which becomes output coordinate 0 and also carries `bias`. For a residual or a linear part,
    one hidden unit (x_j * 1) is added per input, after the unit of the constant. A call takes and returns vectors
    without the constant coordinate. Gradients flow to the biases and to `linear` if the weights of the layer have
    gradients, as after `BilinearLayer.from_weights(..., share=True)`.
    Raises ValueError if the layer is already lifted, if sizes differ, or for a residual if in and out differ.
    """
    check_kind("layer", layer, BilinearLayer, "; a result has to_layer()")
    if layer.constant_in or layer.constant_out:
        raise ValueError(f"the layer is lifted already: {layer!r}")
    n_out, n_in, _ = layer.shape
    residual = check_number("residual", residual)
    if residual and n_in != n_out:
        raise ValueError(f"a residual needs as many outputs as inputs, got out={n_out} and in={n_in}")

    shared = any(term.data.requires_grad for term in layer.terms())

    def given(name: str, value: Tensor | None, **sizes: int) -> Tensor:
        if value is None:
            return layer.down.new_zeros(tuple(sizes.values()))
        check_tensor(name, value, tuple(sizes))
        for axis, (mode, size) in enumerate(sizes.items()):
            check_size(mode, layer=size, **{name: value.shape[axis]})
        check_alike(layer=layer.down, **{name: value})
        return value if shared else value.detach()

    left = torch.cat([given("left_bias", left_bias, rank=layer.rank)[None], layer.left])  # (1 + in, rank)
    right = torch.cat([given("right_bias", right_bias, rank=layer.rank)[None], layer.right])
    eye = torch.eye(1 + n_in, dtype=left.dtype, device=left.device)
    one = torch.cat([left.new_ones(1), given("bias", bias, out=n_out)])[:, None]  # the constant unit: 1 * 1
    lefts, rights, downs = [left, eye[:, :1]], [right, eye[:, :1]], [pad(layer.down, (0, 0, 1, 0)), one]
    if residual or linear is not None:  # the units x_j * 1
        rows = given("linear", linear, out=n_out, **{"in": n_in})
        through = rows + residual * eye[1:, 1:] if residual else rows
        lefts, rights = [*lefts, eye[:, 1:]], [*rights, eye[:, :1].expand(-1, n_in)]
        downs = [*downs, pad(through, (0, 0, 1, 0))]
    left, right, down = (torch.cat(columns, 1) for columns in (lefts, rights, downs))
    history = (*layer.history, "lifted")
    return replace(layer, down=down, left=left, right=right, history=history, constant_in=True, constant_out=True)


@register_type("Split")
class Split(NamedTuple):
    """A split holds the function of a lifted layer by degree: y = interaction(x) + linear x + constant.

    All parts are in plain coordinates, without the constant.
    """

    interaction: BilinearLayer  # (out, in, in), without a constant coordinate
    linear: Tensor  # (out, in)
    constant: Tensor  # (out,)


@without_autocast
def split(layer: BilinearLayer) -> Split:
    """Return the parts of a lifted layer of degree 2, 1 and 0 in the input.

    y[out] = sum B[out, in1, in2] x[in1] x[in2] + sum linear[out, in] x[in] + constant[out]

    In the symmetric interaction matrices, `interaction` is the block without the constant coordinate, `linear` is the
    sum of the row and the column of the constant, and `constant` is the corner entry. The interaction part is a layer
    with the same hidden units, so it can be decomposed like any layer. A layer that is not lifted has only an
    interaction part; the other parts are zero. A constant output is dropped. For networks of several layers,
    `circuits.degree_weights` returns the parts as dense tensors.
    Cost: 2 * rank * in * (1 + out) flops.
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
