"""Norm, relative error and difference of single layers."""

import math

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike
from tensornet_interp.inner_products.operands import check_comparable
from tensornet_interp.inner_products.stack import common_exponents, factor_exponents, rescale
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.moments import cross_gram
from tensornet_interp.network import check_network

_DENSE_DIFFERENCE = 2**25  # entries of a compressed dense difference that are still cheap (256 MB)


def norm(layer: TensorNetwork) -> Tensor:
    """Return the Frobenius norm of the symmetrized tensor of a layer, float64.

    ||B||^2 = sum B[out, in1, in2]^2, computed from the factors. It is safe from overflow: the norm is never squared at
    full scale. Cost: O(rank^2 (in + out)).
    """
    layer = check_network("layer", layer).to_layer()
    exponents = factor_exponents(layer)
    scale = torch.tensor(float(sum(exponents)), dtype=torch.float64, device=layer.down.device).exp2()
    return _norm(rescale(layer, exponents)) * scale


def _norm(layer: BilinearLayer) -> Tensor:
    return ((layer.down.T @ layer.down) * cross_gram(layer, layer)).sum().clamp_min(0).sqrt()


def relative_error(approximation: TensorNetwork, reference: TensorNetwork) -> float:
    """Return the relative error of one layer's symmetrized tensor against another's.

    error = ||A - B|| / ||B||, where B is the reference. It is exact to rounding if the difference in compressed
    coordinates has at most 2^25 entries, out r^2 with r = min(in, 2 (rank of A + rank of B)). Larger ones are computed
    from `difference` by inner products, which resolve errors above 1e-8 only, unless the two layers are aligned.
    Raises ValueError if the reference is zero. Cost: out rank r^2.
    """
    layers = _two_layers(approximation, reference)
    own = factor_exponents(layers[1])
    size = _norm(rescale(layers[1], own))
    if not size > 0:
        raise ValueError(f"the relative error is undefined: the reference is zero: {layers[1]!r}")
    if not all(bool(term.data.any()) for term in layers[0].terms()):
        return 1.0
    exponents = common_exponents(*layers)
    approx, ref = (rescale(layer, e) for layer, e in zip(layers, exponents, strict=True))
    scale = math.ldexp(float(size), sum(own) - sum(exponents[1]))  # of ref, which may be too small to be squared
    delta = _difference(ref, approx)
    n_out, n_in, _ = delta.shape
    width = min(n_in, 2 * (approx.rank + ref.rank))
    if n_out * width**2 > _DENSE_DIFFERENCE:
        return float(_norm(delta) / scale)
    down = torch.cat([approx.down, -ref.down], 1)
    left, right = torch.cat([approx.left, ref.left], 1), torch.cat([approx.right, ref.right], 1)
    if width < n_in:
        core = torch.linalg.qr(torch.cat([left, right], 1), mode="r").R  # one basis for both layers
        left, right = core[:, : left.shape[1]], core[:, left.shape[1] :]
    squared = torch.zeros((), dtype=torch.float64, device=down.device)
    for row in down:
        matrix = (left * row) @ right.T
        squared = squared + ((matrix + matrix.T) / 2).square().sum()
    return float(squared.sqrt() / scale)


def difference(before: TensorNetwork, after: TensorNetwork) -> BilinearLayer:
    """Return the layer after - before: what changed between two checkpoints, as a layer that can be decomposed.

    The hidden units are concatenated. If both layers have the same rank, the difference has the factors
    ([P' - P, P', P'], [W; W' - W; W'], [V; V; V' - V]), with primes for `after`; these keep every digit of a small
    change of aligned weights. The constant output of lifted layers is dropped, since its difference is 0 and not 1.
    """
    old, new = _two_layers(before, after)
    check_alike(before=old.down, after=new.down)
    return _difference(old, new).drop_constant()


def _difference(old: BilinearLayer, new: BilinearLayer) -> BilinearLayer:
    """Return new - old over all coordinates, the constant output included."""
    if old.rank == new.rank:
        down = torch.cat([new.down - old.down, new.down, new.down], 1)
        left = torch.cat([old.left, new.left - old.left, new.left], 1)
        right = torch.cat([old.right, old.right, new.right - old.right], 1)
    else:
        down = torch.cat([new.down, -old.down], 1)
        left, right = torch.cat([new.left, old.left], 1), torch.cat([new.right, old.right], 1)
    name = f"{new.name or 'after'} - {old.name or 'before'}"
    history = (*new.history, "difference of two layers")
    return BilinearLayer(
        down=down,
        left=left,
        right=right,
        name=name,
        history=history,
        basis=new.basis,
        constant_in=old.constant_in,
        constant_out=old.constant_out,
    )


def _two_layers(a: TensorNetwork, b: TensorNetwork) -> tuple[BilinearLayer, BilinearLayer]:
    """Return both as single layers with the same inputs and outputs."""
    first, second = (check_network(name, part).to_layer() for name, part in (("a", a), ("b", b)))
    check_comparable({"a": first, "b": second})
    return first, second
