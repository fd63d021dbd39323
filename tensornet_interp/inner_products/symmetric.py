"""Compute Frobenius products of networks as trees, and of one or two layers as fully symmetrized tensors.

A two-layer network is sum_h down[:, h] (x^T Q_h x)(x^T R_h x), with one term per hidden unit h of its second layer. Its
tensor of order four is a sum of products of two quadratic forms, so its inner products are sums over pairs of hidden
units.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tensornet_interp.balance import without_names
from tensornet_interp.inner_products.frobenius import output_products
from tensornet_interp.inner_products.stack import Stack, largest_entry
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.moments import cross_gram
from tensornet_interp.numerics import nonzero

CHUNK = 2**22  # entries of the quadratic forms held at once (32 MB)


def tree(f: Stack, g: Stack) -> tuple[Tensor, float]:
    """Return <F[out], G[out]> with every layer symmetrized, (out,), divided by a scale, and the logarithm of the scale.

    The result is the diagonal of X_l = down C(X_{l-1}) down'^T of the last layer l. Single layers are accurate even if
    hidden units cancel. Cost: O(rank * rank' * (in + out)) per layer, plus O(rank * in^2) above the first.
    """
    if len(f) == 1:
        value, _ = output_products(f.layers[0], g.layers[0])
        return value, f.log_scale + g.log_scale
    moment: Tensor | None = None  # X_l, (out of f's layer, out of g's layer); None is the identity
    log_scale = 0.0
    for layer_f, layer_g in zip(f.layers, g.layers, strict=True):
        below = layer_f.down @ cross_gram(layer_f, layer_g, moment) @ layer_g.down.T
        scale = largest_entry(below)
        moment, log_scale = below / scale, 2 * log_scale + float(scale.log())
    return below.diagonal() / scale, log_scale + f.log_scale + g.log_scale


def symmetric(f: Stack, g: Stack) -> tuple[Tensor, float]:
    """Return <sym F[out], sym G[out]>, (out,), divided by a scale, and the logarithm of the scale.

    F and G have one or two layers; sym symmetrizes a tensor over all of its inputs. Cost for two layers, in flops:
    rank * r^2 * (4 * h + 8 * h') + rank * h'^2 * (12 * r + 2 * rank'), or the same with the networks exchanged, or 4 *
    rank * rank' * r^3, whichever is least. rank and rank' are the ranks of the second layers, h and h' those of the
    first, and r is the smaller of in and 2 * (h + h'). Memory: rank * rank' numbers, and a few chunks of 32 MB each (or
    of what one hidden unit needs, if that is more).
    """
    if len(f) == 1:
        return tree(f, g)
    basis = joint_basis(f.layers[0], g.layers[0])  # the product does not change under an isometry
    f, g = change_input(f, basis), change_input(g, basis)
    return output_product(f, g, quartic_gram(f, g)), f.log_scale + g.log_scale


class Forms(NamedTuple):
    """Forms hold symmetric matrices Q and R per hidden unit of a second layer: the unit is (x^T Q x)(x^T R x)."""

    left: Tensor  # Q, (units, in, in)
    right: Tensor  # R, (units, in, in)


def unit_gram(f: Stack, g: Stack, product: Callable[[Forms, Forms], Tensor]) -> Tensor:
    """Return product(forms of f, forms of g) for all pairs of hidden units of the second layers, (units, units')."""
    rows, columns = _chunks(f), _chunks(g)
    again = len(rows) * len(columns) > 1 and _learned(f, g)

    def row(x: Forms) -> Tensor:
        def tile(units: slice) -> Tensor:
            return product(x, _forms(g, units))

        return torch.cat([_light(tile, units, again) for units in columns], 1)

    return torch.cat([row(_forms(f, units)) for units in rows])


def quartic_gram(f: Stack, g: Stack) -> Tensor:
    """Return <sym(Q R), sym(Q' R')> for all pairs of hidden units of the second layers, (units, units').

    <sym(Q R), sym(Q' R')> = 1/3 [C + 2 tr(Q Q' R R')], C = 1/2 [<Q, Q'> <R, R'> + <Q, R'> <R, Q'>]
    """
    (first_f, second_f), (first_g, second_g) = f.layers, g.layers
    gram = first_f.down @ cross_gram(first_f, first_g) @ first_g.down.T  # of the interaction matrices below
    (ll, lr), (rl, rr) = (
        [side.T @ gram @ other for other in (second_g.left, second_g.right)] for side in (second_f.left, second_f.right)
    )
    *_, crossed = _cheapest(f, g)
    return ((ll * rr + lr * rl) / 2 + 2 * crossed()) / 3


def _cheapest(f: Stack, g: Stack) -> tuple[float, Callable[[], Tensor]]:
    """Return the flops of the cheapest way to tr(Q Q' R R') for all pairs of hidden units, and that way.

    Either the forms of one network meet the factors of the other network, or its forms.
    """
    (first_f, second_f), (first_g, second_g) = f.layers, g.layers
    size = min(first_f.shape[1], 2 * (first_f.rank + first_g.rank))

    def flops(of: Stack, other: Stack) -> float:
        own, (rank, others) = of.layers[0].rank, (layer.rank for layer in other.layers)
        return of.layers[1].rank * (size**2 * (4.0 * own + 8 * rank) + rank**2 * (12 * size + 2 * others))

    ways: list[tuple[float, Callable[[], Tensor]]] = [
        (flops(f, g), lambda: _crossed(f, g)),
        (flops(g, f), lambda: _crossed(g, f).T),
        (4.0 * second_f.rank * second_g.rank * size**3, lambda: unit_gram(f, g, _crossed_forms)),
    ]
    return min(ways, key=lambda way: way[0])


def _crossed(f: Stack, g: Stack) -> Tensor:
    """Return tr(Q_h Q'_g R_h R'_g) for all pairs of hidden units, (units, units'), without the forms Q' and R' of g.

    Q'_g = sum_u alpha[u, g] sym(l_u r_u^T) and R'_g = sum_u beta[u, g] sym(l_u r_u^T), over the hidden units u of the
    first layer of g, so the trace is alpha_g^T E_h beta_g.

    E_h = 1/4 [Qlr * Rlr^T + Qlr^T * Rlr + Qll * Rrr + Qrr * Rll], Qlr[u, v] = l_u^T Q_h r_v, and so on
    """
    first, second = g.layers
    left, right, rank = first.left, first.right, first.rank
    alpha, beta = first.down.T @ second.left, first.down.T @ second.right
    held = 4 * left.shape[0] * rank + 8 * rank**2 + rank * second.rank  # entries per form

    def on_units(form: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        on_right = form @ right
        return left.T @ (form @ left), left.T @ on_right, right.T @ on_right

    def row(units: slice) -> Tensor:
        (q_ll, q_lr, q_rr), (r_ll, r_lr, r_rr) = (on_units(form) for form in _forms(f, units))
        mixed = q_lr * r_lr.mT
        meeting = mixed + mixed.mT + q_ll * r_rr + q_rr * r_ll  # 4 E, (units, rank, rank)
        return ((meeting @ beta) * alpha).sum(1) / 4

    chunks = _chunks(f, held)
    again = len(chunks) > 1 and _learned(f, g)
    return torch.cat([_light(row, units, again) for units in chunks])


def _crossed_forms(x: Forms, y: Forms) -> Tensor:
    """Return tr(Q Q' R R') for all pairs of hidden units, with one pair of matrix products per pair."""
    return torch.stack([((x.left @ q) * (x.right @ r).mT).sum((1, 2)) for q, r in zip(*y, strict=True)], 1)


def output_product(f: Stack, g: Stack, gram: Tensor) -> Tensor:
    """Return sum_hg down[out, h] gram[h, g] down'[out, g] for every output, (out,)."""
    return ((f.layers[-1].down @ gram) * g.layers[-1].down).sum(1)


def change_input(stack: Stack, basis: Tensor) -> Stack:
    """Return the stack as a function of t, for inputs x = basis @ t; `basis` has shape (in, new in)."""
    first = stack.layers[0]
    first = replace(without_names(first), left=basis.T @ first.left, right=basis.T @ first.right)
    return replace(stack, layers=(first, *stack.layers[1:]))


def joint_basis(f: BilinearLayer, g: BilinearLayer, root: Tensor | None = None) -> Tensor:
    """Return an orthonormal basis (in, r) of the input directions that at least one of the two layers reads.

    root: if given, (old in, in), the directions are those of t, for inputs x = root @ t.
    Other directions contribute nothing to a product. A direction counts only if it is read above the rounding error. r
    is at most min(in, 2 * (rank + rank')). If the layers absorbed embeddings, r is at most the sum of the embedding
    widths.
    """
    columns = torch.cat([f.left, f.right, g.left, g.right], 1).detach()
    columns = columns if root is None else root.detach().T @ columns
    largest = columns.abs().amax(0)
    columns = columns / nonzero(largest)  # the scale of a hidden unit does not change the directions that it reads
    vectors, values, _ = torch.linalg.svd(columns, full_matrices=False)
    seen = values > values[0] * max(columns.shape) * torch.finfo(values.dtype).eps
    return vectors[:, : max(1, int(seen.sum()))]


def exact_flops(f: Stack, g: Stack) -> float:
    """Return the leading-order flops of the symmetric product of two two-layer networks, as `symmetric` gives them."""
    return _cheapest(f, g)[0]


def tree_flops(f: Stack, g: Stack) -> float:
    """Return the leading-order flops of `tree` or of a closure: 2 * rank * rank' * (4 * in + out) per layer."""
    pairs = zip(f.layers, g.layers, strict=True)
    return sum(2.0 * one.rank * other.rank * (4 * one.shape[1] + one.shape[0]) for one, other in pairs)


def _learned(*stacks: Stack) -> bool:
    """Return whether a gradient of some of the weights will be asked for, and may compute again what was not held."""
    weights = (part for stack in stacks for layer in stack.layers for part in (layer.down, layer.left, layer.right))
    if not (torch.is_grad_enabled() and any(part.requires_grad for part in weights)):
        return False
    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved):
            return True
    except RuntimeError:  # in `torch.func`, and wherever such hooks are disabled: all is held then
        return False


def _chunks(stack: Stack, held: int = 0) -> list[slice]:
    """Return the hidden units of the second layer in chunks, whose forms fit into memory.

    held: entries that the caller computes from the forms of each unit; more of them make smaller chunks.
    """
    first, second = stack.layers
    n_in = first.shape[1]
    step = max(1, CHUNK // (n_in * max(n_in, first.rank) + held))
    return [slice(start, start + step) for start in range(0, second.rank, step)]


def _forms(stack: Stack, units: slice) -> Forms:
    """Return the quadratic forms of hidden units of the second layer.

    Q = sum_k left[k] A_k and R = sum_k right[k] A_k, where A_k is the interaction matrix of output k of the first
    layer.
    """
    first, second = stack.layers
    return Forms(*(first.interaction_matrix(side[:, units].T) for side in (second.left, second.right)))


def _light(function: Callable[[slice], Tensor], units: slice, again: bool) -> Tensor:
    """Return function(units); if `again`, what it holds on the way is not kept for a gradient, but computed again."""
    if not again:
        return function(units)
    found: Tensor = checkpoint(function, units, use_reentrant=False)
    return found
