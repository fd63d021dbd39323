"""Norm, relative error and difference of single layers."""

import math
from dataclasses import replace

from torch import Tensor

from tensornet_interp.balance import balance, times_power
from tensornet_interp.checks import check_alike
from tensornet_interp.inner_products.frobenius import aligned, distance, frobenius
from tensornet_interp.inner_products.operands import check_comparable
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.network import check_network, wide_layer


def norm(layer: TensorNetwork) -> Tensor:
    """Return the Frobenius norm of the symmetrized tensor of a layer, float64.

    ||B||^2 = sum B[out, in1, in2]^2, computed from the factors. Hidden units that cancel do not spoil it, and only the
    norm itself must fit float64, not its square. Cost: O(rank^2 (in + out)), or O(out in^2 rank) if units cancel.
    """
    (core,), exponent = balance(wide_layer("layer", layer))
    size = frobenius(core).value
    return times_power(size, exponent)


def relative_error(approximation: TensorNetwork, reference: TensorNetwork) -> float:
    """Return the relative error of one layer's symmetrized tensor against another's.

    error = ||A - B|| / ||B||, where B is the reference. The arrays of both are converted to float64. The error is exact
    up to rounding, even if it is small: if pairs of hidden units do not resolve it, the entries of the difference are
    summed. Raises ValueError if the reference is zero. Cost: O(rank^2 (in + out)), or O(out in^2 rank) for small
    errors, with the rank of both together.
    """
    layers = wide_layer("approximation", approximation), wide_layer("reference", reference)
    check_comparable({"approximation": layers[0], "reference": layers[1]})
    if not all(bool(part.any()) for part in (layers[1].down, layers[1].left, layers[1].right)):
        raise ValueError(f"the relative error is undefined: the reference is zero: {layers[1]!r}")
    found = distance(*layers).error
    if math.isinf(found) and not bool(norm(layers[1]) > 0):
        raise ValueError(f"the relative error is undefined: the hidden units of the reference cancel: {layers[1]!r}")
    return found


def difference(before: TensorNetwork, after: TensorNetwork) -> BilinearLayer:
    """Return the layer after - before: what changed between two checkpoints, as a layer that can be decomposed.

    The hidden units are concatenated. If both layers have the same rank, the difference has the factors
    ([P' - P, P', P'], [W; W' - W; W'], [V; V; V' - V]), with primes for `after`; these keep every digit of a small
    change of aligned weights. The constant output of lifted layers is dropped, since its difference is 0 and not 1.
    """
    old, new = _two_layers(before, after)
    check_alike(before=old.down, after=new.down)
    name = f"{new.name or 'after'} - {old.name or 'before'}"
    history = (*new.history, "difference of two layers")
    made = replace(aligned(old, new), name=name, history=history, basis=new.basis, constant_in=old.constant_in)
    return replace(made, constant_out=old.constant_out).drop_constant()


def _two_layers(before: TensorNetwork, after: TensorNetwork) -> tuple[BilinearLayer, BilinearLayer]:
    named = {"before": before, "after": after}
    layers = {name: check_network(name, part).to_layer() for name, part in named.items()}
    check_comparable(layers)
    return layers["before"], layers["after"]
