"""Compute the norm, the relative error and the difference of single layers."""

import math
from dataclasses import replace

from torch import Tensor

from tensornet_interp.balance import balance, times_power
from tensornet_interp.checks import check_alike
from tensornet_interp.float64 import needs_float64
from tensornet_interp.inner_products.frobenius import aligned, distance, frobenius
from tensornet_interp.inner_products.operands import check_comparable
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.network import check_network, wide_layer


@needs_float64
def norm(layer: TensorNetwork) -> Tensor:
    """Return the Frobenius norm of a layer's symmetrized tensor, as a float64 tensor of shape ().

    ||B||^2 = sum B[out, in1, in2]^2

    The norm is computed from the factors and is accurate even if hidden units cancel. The norm itself must fit in
    float64, but its square need not. Cost: O(rank^2 * (in + out)), or O(out * in^2 * rank) if hidden units cancel.
    """
    (core,), exponent = balance(wide_layer("layer", layer))
    size = frobenius(core).value
    return times_power(size, exponent)


@needs_float64
def relative_error(approximation: TensorNetwork, reference: TensorNetwork) -> float:
    """Return the relative error between the symmetrized tensors of two layers.

    error = ||A - B|| / ||B||

    A is the approximation and B is the reference. All arrays are converted to float64 first. The error is exact up to
    rounding, even if it is small: if the sum over pairs of hidden units is not accurate enough, the entries of the
    difference are summed instead. Raises ValueError if the reference is zero, or if the layers differ in sizes, in
    device, or in whether they have constant coordinates.
    Cost: O(rank^2 * (in + out)), or O(out * in^2 * rank) for small errors; rank is the sum of both ranks.
    """
    layers = wide_layer("approximation", approximation), wide_layer("reference", reference)
    check_comparable({"approximation": layers[0], "reference": layers[1]})
    if not all(bool(part.any()) for part in (layers[1].down, layers[1].left, layers[1].right)):
        raise ValueError(f"the relative error is undefined: the reference is zero: {layers[1]!r}")
    found = distance(*layers).error
    if math.isinf(found) and not bool(norm(layers[1]) > 0):
        raise ValueError(f"the relative error is undefined: the hidden units of the reference cancel: {layers[1]!r}")
    return found


@needs_float64
def difference(before: TensorNetwork, after: TensorNetwork) -> BilinearLayer:
    """Return the layer after - before: the change between two checkpoints, as a layer that can be decomposed.

    The hidden units of both layers are concatenated. If both have the same rank, with P = down, W = left^T and V =
    right^T of `before` and P', W', V' of `after`, the difference has the factors

    [P' - P, P', P'], [W; W' - W; W'], [V; V; V' - V]

    If corresponding hidden units differ little, these factors keep every digit of the change. A constant output
    coordinate is dropped: it is 1 in both layers, so its change is 0. Raises ValueError if the layers differ in sizes,
    device or dtype, or in whether they have constant coordinates. Cost: one pass over the weights.
    """
    old, new = _two_layers(before, after)
    check_alike(before=old.down, after=new.down)
    name = f"{new.name or 'after'} - {old.name or 'before'}"
    history = (*new.history, "difference of two layers")
    made = aligned(old, new)
    return replace(new, down=made.down, left=made.left, right=made.right, name=name, history=history).drop_constant()


def _two_layers(before: TensorNetwork, after: TensorNetwork) -> tuple[BilinearLayer, BilinearLayer]:
    """Check both arguments of `difference` and return them as layers with equal sizes."""
    named = {"before": before, "after": after}
    layers = {name: check_network(name, part).to_layer() for name, part in named.items()}
    check_comparable(layers)
    return layers["before"], layers["after"]
