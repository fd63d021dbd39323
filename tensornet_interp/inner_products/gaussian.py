"""Compute Gaussian inner products E[f(x) . g(x)]: exactly for one or two layers, and by a closure at any depth.

The closure is an approximation that treats each layer's outputs as Gaussian. It is exact for one layer.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.balance import without_names
from tensornet_interp.inner_products.stack import Stack, largest_entry
from tensornet_interp.inner_products.symmetric import (
    CHUNK,
    Forms,
    change_input,
    joint_basis,
    output_product,
    quartic_gram,
    unit_gram,
)
from tensornet_interp.inner_products.symmetric import exact_flops as symmetric_flops
from tensornet_interp.moments import HiddenMeans, Moments, cross_moment, hidden_means, input_moments


class LayerMoments(NamedTuple):
    """Layer moments hold what the closure needs of a layer.

    They are the means of the hidden units, a scale of the outputs, and the second moment of the outputs over scale^2.
    """

    means: HiddenMeans
    scale: Tensor
    moment: Tensor


def scaled_input(stack: Stack, moments: Moments | None) -> tuple[Moments, float]:
    """Return the scaled input moments, and the logarithm of the factor by which products are then too small.

    A network with L layers is homogeneous of degree 2^L in its input (constant coordinate included), so a product of
    two networks has degree 2^(L + 1).
    """
    x = input_moments(stack.layers[0], moments)
    scale = largest_entry(torch.cat([x.mean, x.covariance.detach().abs().sqrt().flatten()]))
    return x.divided_by(scale), 2.0 ** (len(stack) + 1) * float(scale.log())


def layer_moments(stack: Stack, x: Moments) -> list[LayerMoments]:
    """Return the moments of every layer of one network, computed by the closure.

    All products of this network with others share these moments.
    """
    mean, moment, result = x.mean, x.second_moment, []
    for layer in stack.layers:
        means = hidden_means(layer, mean, moment)
        moment = cross_moment(layer, layer, moment, means, means)
        scale = largest_entry(moment).sqrt()
        mean, moment = layer.down @ means.expected / scale, moment / scale**2
        result.append(LayerMoments(means, scale, moment))
    return result


def closure(
    f: Stack, g: Stack, moments_f: list[LayerMoments], moments_g: list[LayerMoments], x: Moments
) -> tuple[Tensor, float]:
    """Return E[f[out] g[out]], (out,), divided by a scale, and the logarithm of the scale.

    Each layer's outputs are treated as Gaussian, which is exact for one layer. Cost: O(rank^2 * (in + out)) per layer,
    once `layer_moments` is computed; nothing if f is g.
    """
    moment, log_scale = x.second_moment, 0.0  # E[u u'^T] of the outputs below, (out of f's layer, out of g's layer)
    for layer_f, layer_g, at_f, at_g in zip(f.layers, g.layers, moments_f, moments_g, strict=True):
        scale = at_f.scale * at_g.scale
        log_scale = 2 * log_scale + float(scale.log())
        if f is g:
            moment = at_f.moment
        else:
            moment = cross_moment(layer_f, layer_g, moment, at_f.means, at_g.means) / scale
    return moment.diagonal(), log_scale + f.log_scale + g.log_scale


def exact(f: Stack, g: Stack, x: Moments) -> tuple[Tensor, float]:
    """Return E[f[out] g[out]] of two-layer networks, (out,), divided by a scale, and the logarithm of the scale.

    With x = mean + F z and z standard normal, f[out] is a sum of Hermite polynomials in z. Its coefficients f_k of
    order k = 0 ... 4 are symmetric tensors, and

    E[f g] = sum_k k! <f_k, g_k>

    The term of order 4 is 4! times the symmetric product. Cost: `exact_flops`.
    """
    root = x.root
    basis = joint_basis(f.layers[0], g.layers[0], root)
    affine = torch.cat([x.mean[:, None], root @ basis], 1)  # x = affine [1, z]: (in, 1 + r)
    f, g = change_input(f, affine), change_input(g, affine)
    gram = unit_gram(f, g, _hermite_gram) + 24 * quartic_gram(*(_without_constant(stack) for stack in (f, g)))
    return output_product(f, g, gram), f.log_scale + g.log_scale


def exact_flops(f: Stack, g: Stack) -> float:
    """Return the leading-order flops of `exact`: those of `symmetric`, and 26 * rank * rank' * r^2 for lower orders."""
    (first_f, second_f), (first_g, second_g) = f.layers, g.layers
    size = min(first_f.shape[1], 2 * (first_f.rank + first_g.rank))
    return symmetric_flops(f, g) + 26.0 * second_f.rank * second_g.rank * size**2


def _without_constant(stack: Stack) -> Stack:
    """Return a stack in [1, z] without the constant coordinate: its forms are the quadratic parts."""
    first = without_names(stack.layers[0])
    first = replace(first, left=first.left[1:], right=first.right[1:])
    return replace(stack, layers=(first, *stack.layers[1:]))


class Hermite(NamedTuple):
    """The Hermite coefficients of order 0 to 3 of the product q(z) * r(z) of two quadratic polynomials per hidden unit.

    q(z) = c + a . z + z^T Q z has mean t, and r(z) = c' + b . z + z^T R z has mean s, for standard normal z.
    """

    zeroth: Tensor  # 2 tr(Q R) + a . b + t s, (units,)
    first: Tensor  # 2 (R a + Q b) + t b + s a, (units, in)
    second: Tensor  # sym of 4 Q R + a b^T + t R + s Q, (units, in, in)
    third: tuple[tuple[Tensor, Tensor], ...]  # sym of a R + b Q, as (vector, matrix)


def _hermite(forms: Forms) -> Hermite:
    """Return the Hermite coefficients of the products of two forms in [1, z]."""
    (q, a, t), (r, b, s) = (_split(form) for form in forms)
    mixed = torch.addcmul(t[:, None, None] * r, s[:, None, None], q)
    pulled = (r @ a[:, :, None] + q @ b[:, :, None])[:, :, 0]
    return Hermite(
        2 * (q.flatten(1)[:, None] @ r.flatten(1)[:, :, None])[:, 0, 0] + (a * b).sum(1) + t * s,
        2 * pulled + t[:, None] * b + s[:, None] * a,
        torch.baddbmm(mixed, q, r, alpha=4).baddbmm(a[:, :, None], b[:, None, :]),
        ((a, r), (b, q)),
    )


def _split(form: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three parts of the quadratic polynomials [1, z]^T form [1, z].

    The parts are the quadratic coefficients (units, in, in), the linear coefficients (units, in) and the mean for
    standard normal z (units,).
    """
    quadratic = form[:, 1:, 1:].contiguous()
    return quadratic, 2 * form[:, 0, 1:], form[:, 0, 0] + quadratic.diagonal(dim1=1, dim2=2).sum(1)


def _hermite_gram(x: Forms, y: Forms) -> Tensor:
    """Return sum_k k! <order k, order k'>, k = 0 ... 3, for all pairs of hidden units, (units, units')."""
    f, g = _hermite(x), _hermite(y)
    twice = g.second + g.second.mT  # one symmetric side is enough
    gram = torch.outer(f.zeroth, g.zeroth) + f.first @ g.first.T + f.second.flatten(1) @ twice.flatten(1).T
    cubic = sum(_cubic_gram(*one, *other) for one in f.third for other in g.third)
    return gram + 6 * cubic


def _cubic_gram(a: Tensor, q: Tensor, b: Tensor, r: Tensor) -> Tensor:
    """Return <sym(a Q), sym(b R)> for all pairs of hidden units, (units, units').

    <sym(a Q), sym(b R)> = 1/3 [(a . b) <Q, R> + 2 (R a) . (Q b)]
    """
    paired = (a @ b.T) * (q.flatten(1) @ r.flatten(1).T)
    step = max(1, CHUNK // a.numel())
    crossed = torch.cat(
        [
            ((a @ part.flatten(0, 1).T).unflatten(1, part.shape[:2]) * (own @ q)).sum(2)  # R a and Q b
            for own, part in zip(b.split(step), r.split(step), strict=True)
        ],
        1,
    )
    return (paired + 2 * crossed) / 3
