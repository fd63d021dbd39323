"""Questions to a whole network, answered by contraction: evaluation, projection, interactions, order by order."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tensornet_interp.checks import DEFAULT_MAX_ELEMENTS, check_alike, check_int, check_size, check_tensor
from tensornet_interp.contraction import Modes, TensorNetwork, Term, contract, rename
from tensornet_interp.layer import BilinearMap
from tensornet_interp.network import BilinearNetwork


class Query(TensorNetwork):
    """A network of given terms with given open modes, for `plan`, `contract` and further queries."""

    def __init__(self, terms: Sequence[Term], modes: Modes) -> None:
        self._terms, self._modes = tuple(terms), modes

    @property
    def modes(self) -> Modes:
        """The open modes that are left."""
        return self._modes

    def terms(self) -> tuple[Term, ...]:
        """The terms of the network that was asked and those of the question."""
        return self._terms

    def __repr__(self) -> str:
        return f"Query({len(self._terms)} terms, " + ", ".join(f"{m}={size}" for m, size in self.sizes.items()) + ")"


def evaluation(network: TensorNetwork, x: Tensor) -> Query:
    """y[batch, out] = T[out, in1, ...] x[batch, in1] x[batch, in2] ...: `network(x)` as one network to contract.

    x: (batch, in), plain; the constant of a lifted network is added. One array stands at every input, so equal
    sub-networks are contracted once: cost of the forward pass, linear in depth.

    Example: `contract(evaluation(network, x), chunk="batch", max_elements=1e7)`.
    """
    stack = _stack(network)
    check_tensor("x", x, ("batch", "in"))
    lifted = stack[0].lift_input("x", x)
    terms = (*stack.terms(), *(Term(lifted, ("batch", mode)) for mode in stack.modes[1:]))
    return Query(terms, ("batch", "out"))


def project(network: TensorNetwork, values: Mapping[str, int | Tensor]) -> Query:
    """T'[..., k, ...] = sum_mode T[..., mode, ...] value[mode, k] for every mode in `values`; the others stay open.

    values: an index (that slice), a vector (size,) (the mode is summed with these weights; ones give the marginal) or
    a matrix (size, k) (the mode has size k from then on and keeps its name). Sizes are those of the network's open
    modes, the constant coordinate 0 of a lifted input included. Nothing is computed before `contract` or `to_tensor`.

    Example: `project(network, {"out": direction, "in1": 0, "in2": components})`.
    """
    if not isinstance(network, TensorNetwork):
        raise TypeError(f"network must be a TensorNetwork, got {type(network).__name__}")
    terms, modes, sizes = network.terms(), network.modes, network.sizes
    views: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    for mode, value in values.items():
        if mode not in modes:
            raise ValueError(f"mode '{mode}' is not open; there are: {', '.join(modes)}")
        if not isinstance(value, Tensor):
            index = check_int(f"index of mode '{mode}'", value, -sizes[mode], sizes[mode] - 1)
            terms, modes = _select(terms, mode, index, views), _without(modes, mode)
            continue
        name = f"value of mode '{mode}'"
        check_tensor(name, value, (mode,) if value.ndim == 1 else (mode, "component"))
        check_size(mode, network=sizes[mode], value=value.shape[0])
        check_alike(network=terms[0].data, **{name: value})
        if value.ndim == 1:
            terms, modes = (*terms, Term(value, (mode,))), _without(modes, mode)
            continue
        used = {name for term in terms for name in term.modes}
        inner = next(name for i in itertools.count() if (name := f"{mode}.{i}") not in used)
        terms = (*rename(terms, {mode: inner}), Term(value, (inner, mode)))
    return Query(terms, modes)


def interaction_tensor(
    network: TensorNetwork, direction: Tensor, components: Tensor, *, max_elements: float = DEFAULT_MAX_ELEMENTS
) -> Tensor:
    """A[a, b, ...] = sum direction[out] T[out, in1, in2, ...] components[in1, a] components[in2, b] ..., symmetrized.

    How strongly the 2**L components act together on an output direction: with x = components @ c the output along the
    direction is sum A[a, b, ...] c[a] c[b] ... The dense tensor over the inputs is never formed.
    direction: (out,), plain; components: (in, k), the constant coordinate 0 of a lifted network included (so that a
    column [1, 0, ...] is the constant, and only c with (components @ c)[0] = 1 are inputs). Result: (k,) * 2**L.
    Memory: k^(2^L); flops: about rank k^(2^L), copies of a layer done once.
    """
    stack = _stack(network)
    values: dict[str, int | Tensor] = {"out": direction, **dict.fromkeys(stack.modes[1:], components)}
    for name, value, modes in (("direction", direction, ("out",)), ("components", components, ("in", "k"))):
        check_tensor(name, value, modes)
        check_size(modes[0], network=stack.sizes["out" if modes == ("out",) else "in1"], **{name: value.shape[0]})
    return _symmetrize(contract(project(stack, values), max_elements=max_elements), 0)


def expansion(network: TensorNetwork, x: Tensor) -> Tensor:
    """y[..., out, n]: what the terms of order n in x add to network(x), n from 0 (constant) to 2**L; exact.

    The coefficients of t^n in network(t x), carried through the layers as polynomials in t; the sum over n is
    network(x). Without biases and residuals all is in order 2**L. x: (..., in), plain.
    Cost: layer l has 2**l + 1 orders: up to 2**L forward passes, memory batch * 2**L * rank.
    """
    stack = _stack(network)
    one = stack[0].lift_input("x", x)
    powers = torch.stack([torch.zeros_like(one), one], -2)  # (..., order, in): t x
    if stack.constant_in:
        powers[..., 0, 0], powers[..., 1, 0] = 1, 0
    for layer in stack.layers:
        left, right = powers @ layer.left, powers @ layer.right  # (..., order, rank)
        orders = left.shape[-2]
        product = left.new_zeros(*left.shape[:-2], 2 * orders - 1, layer.rank)
        for i in range(orders):
            product[..., i : i + orders, :] += left[..., i : i + 1, :] * right
        powers = product @ layer.down.T
    return powers.mT


def order_weights(network: TensorNetwork, order: int, *, max_elements: float = DEFAULT_MAX_ELEMENTS) -> Tensor:
    """W[out, in1, ..., in_n] of order n: network(x) = sum_n W_n[out, in1, ...] x[in1] ... x[in_n]; dense, symmetric.

    Order 0 is the constant (out,), 1 the linear map (out, in), 2 the quadratic form (out, in, in); plain coordinates.
    The layers are composed as polynomials, every product a planned contraction. Raises ValueError where more than
    `max_elements` would be alive together in one. Memory: width in^n; flops: about L n rank width in^n.
    """
    stack = _stack(network)
    order = check_int("order", order, 0, 2 ** len(stack), f"the degree of {len(stack)} layers")
    layers = stack.layers
    n_in = layers[0].shape[1]
    eye = torch.eye(n_in, dtype=layers[0].down.dtype, device=layers[0].down.device)
    weights = {0: eye[0], 1: eye[:, 1:]} if stack.constant_in else {1: eye}  # order: (unit, in, ..., in)
    for layer in layers:
        above: dict[int, Tensor] = {}
        for (i, first), (j, second) in itertools.product(weights.items(), repeat=2):
            if i + j > order:
                continue
            legs = tuple(f"in{leg + 1}" for leg in range(i + j))
            terms = [
                *rename(layer.terms(), {"in1": "left", "in2": "right"}),
                Term(first, ("left", *legs[:i])),
                Term(second, ("right", *legs[i:])),
            ]
            part = contract(terms, ("out", *legs), max_elements=max_elements)
            above[i + j] = above[i + j] + part if i + j in above else part
        weights = above
    if order in weights:
        return _symmetrize(weights[order], 1)
    size = [stack.sizes["out"], *[n_in - stack.constant_in] * order]
    if math.prod(size) > max_elements:
        raise ValueError(f"order {order} has {math.prod(size):.1e} elements, more than max_elements={max_elements:.0e}")
    return eye.new_zeros(size)


def _stack(network: TensorNetwork) -> BilinearNetwork:
    """A network, or a single layer or decomposition as one."""
    if isinstance(network, BilinearNetwork):
        return network
    if isinstance(network, BilinearMap):
        return BilinearNetwork([network])
    raise TypeError(f"expected a BilinearNetwork, a layer or a decomposition of one, got {type(network).__name__}")


def _without(modes: Modes, mode: str) -> Modes:
    return tuple(name for name in modes if name != mode)


def _select(
    terms: Sequence[Term], mode: str, index: int, views: dict[tuple[int, ...], tuple[Tensor, Tensor]]
) -> tuple[Term, ...]:
    """Every term that has the mode at that index; copies of an array get one view, kept in `views`, and stay shared."""
    selected = []
    for data, modes in terms:
        while mode in modes:
            axis = modes.index(mode)
            # with the array itself: once freed, its id could become that of another
            data = views.setdefault((id(data), axis, index), (data, data.select(axis, index)))[1]
            modes = (*modes[:axis], *modes[axis + 1 :])
        selected.append(Term(data, modes))
    return tuple(selected)


def _symmetrize(tensor: Tensor, first: int) -> Tensor:
    """The mean over all orders of the axes from `first` on, one axis at a time: n^2 / 2 transpositions, not n!."""
    for last in range(first + 1, tensor.ndim):
        tensor = sum((tensor.transpose(i, last) for i in range(first, last)), tensor) / (last - first + 1)
    return tensor
