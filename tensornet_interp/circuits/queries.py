"""Answer questions about a whole network by contraction: values, projections, interactions, terms by degree."""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_alike,
    check_int,
    check_mapping,
    check_notes,
    check_number,
    check_size,
    check_tensor,
)
from tensornet_interp.contraction import Modes, Term, check_terms, contract, mode_sizes, rename
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import as_network, check_network
from tensornet_interp.numerics import without_autocast


class Query(TensorNetwork):
    """A query is a network with given terms and open modes; pass it to `contract`, `plan` or another query function.

    The functions `evaluation` and `project` return queries. Raises ValueError if an open mode is in no term or given
    twice.
    """

    def __init__(self, terms: Sequence[Term], modes: Modes) -> None:
        self._terms, self._modes = check_terms("terms", terms), check_notes("modes", modes)
        if len(set(self._modes)) < len(self._modes):
            raise ValueError(f"modes names a mode twice: {self._modes}")
        missing = set(self._modes) - mode_sizes(self._terms).keys()
        if missing:
            raise ValueError(f"modes must be modes of the terms, but no term has {', '.join(sorted(missing))}")

    @property
    def modes(self) -> Modes:
        """Return the modes of the network that the query leaves open."""
        return self._modes

    def terms(self) -> tuple[Term, ...]:
        """Return the terms of the network and the terms that the query added."""
        return self._terms

    def __repr__(self) -> str:
        return f"Query({len(self._terms)} terms, " + ", ".join(f"{m}={size}" for m, size in self.sizes.items()) + ")"


def evaluation(network: TensorNetwork, x: Tensor) -> Query:
    """Return a query whose contraction is `network(x)`, the output of the network for inputs x.

    y[batch, out] = sum T[out, in1, in2, ...] x[batch, in1] x[batch, in2] ...

    T is the network's tensor. x: (batch, in), without constant coordinate; a lifted network adds its constant. All
    input modes share one array, so equal sub-networks are contracted once. Cost of the contraction: as the forward
    pass, linear in depth.

    Example: `contract(evaluation(network, x), chunk="batch", max_elements=1e7)`.
    """
    stack = as_network(network)
    check_tensor("x", x, ("batch", "in"))
    lifted = stack[0].lift_input("x", x)
    terms = (*stack.terms(), *(Term(lifted, ("batch", mode)) for mode in stack.modes[1:]))
    return Query(terms, ("batch", "out"))


def project(network: TensorNetwork, values: Mapping[str, int | Tensor]) -> Query:
    """Return a query in which the open modes named in `values` are fixed, summed or projected; other modes stay open.

    T'[..., k, ...] = sum_mode T[..., mode, ...] value[mode, k], where T is the network's tensor
    values: per mode one of three kinds.
    - An index fixes the mode at this index and removes it.
    - A vector (size,) sums the mode with these weights and removes it; a vector of ones gives the marginal.
    - A matrix (size, k) projects the mode, which keeps its name and gets size k.

    Sizes are those of the network's open modes, including the constant coordinate 0 of a lifted input. Nothing is
    computed until `contract` or `to_tensor`. Raises ValueError for a mode that is not open or a value of another size.

    Example: `project(network, {"out": direction, "in1": 0, "in2": components})`.
    """
    check_network("network", network)
    terms, modes, sizes = network.terms(), network.modes, network.sizes
    views: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    for mode, value in check_mapping("values", values).items():
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
    """Return how strongly the components act together on an output direction, 2^L at a time, as a tensor (k,) * 2^L.

    A[a, b, ...] = sum direction[out] T[out, in1, in2, ...] components[in1, a] components[in2, b] ..., symmetrized

    L is the number of layers, and k is the number of components. For x = components @ c, the output along the direction
    is sum A[a, b, ...] c[a] c[b] ... The dense tensor over the inputs is never formed.
    direction: (out,), without constant coordinate.
    components: (in, k), including the constant coordinate 0 of a lifted network. In a lifted network the column [1, 0,
    ...] is the constant, and components @ c is an input only if its coordinate 0 is 1.
    Raises ValueError if sizes differ or if more than `max_elements` numbers are needed at once.
    Memory: k^(2^L) numbers. Cost: about 2 * rank * k^(2^L) flops; copies of a layer are computed once.
    """
    stack = as_network(network)
    values: dict[str, int | Tensor] = {"out": direction, **dict.fromkeys(stack.modes[1:], components)}
    for name, value, modes in (("direction", direction, ("out",)), ("components", components, ("in", "k"))):
        check_tensor(name, value, modes)
        check_size(modes[0], network=stack.sizes["out" if modes == ("out",) else "in1"], **{name: value.shape[0]})
    return _symmetrize(contract(project(stack, values), max_elements=max_elements), 0)


@without_autocast
def expansion(network: TensorNetwork, x: Tensor) -> Tensor:
    """Return network(x) split exactly by the degree of its terms in x.

    network(t x)[..., out] = sum_n y[..., out, n] t^n

    x: (..., in), without constant coordinate. With L layers, the result y (..., out, degree) has degrees n from 0
    (constant) to 2^L, and its sum over n is network(x). Without biases and residuals only degree 2^L is nonzero. Every
    layer maps polynomials in t to polynomials in t.
    Cost: layer l (counted from 0) has inputs of 2^l + 1 degrees, so up to about 2^L forward passes. Memory:
    batch * 2^L * rank numbers.
    """
    stack = as_network(network)
    one = stack[0].lift_input("x", x)
    powers = torch.stack([torch.zeros_like(one), one], -2)  # (..., degree, in): t x
    if stack.constant_in:
        powers[..., 0, 0], powers[..., 1, 0] = 1, 0
    for layer in stack.layers:
        left, right = powers @ layer.left, powers @ layer.right  # (..., degree, rank)
        degrees = left.shape[-2]
        product = left.new_zeros(*left.shape[:-2], 2 * degrees - 1, layer.rank)
        for i in range(degrees):
            product[..., i : i + degrees, :] += left[..., i : i + 1, :] * right
        powers = product @ layer.down.T
    return powers.mT


def degree_weights(network: TensorNetwork, degree: int, *, max_elements: float = DEFAULT_MAX_ELEMENTS) -> Tensor:
    """Return the dense, symmetric tensor W_n of the terms of degree n in x.

    network(x)[out] = sum_n sum W_n[out, in1, ..., in_n] x[in1] ... x[in_n]

    Degree 0 is the constant (out,), 1 the linear map (out, in), 2 the quadratic form (out, in, in). All are in plain
    coordinates, without the constant. The layers are composed as polynomials, and every product is a planned
    contraction.
    Raises ValueError if a product needs more than `max_elements` numbers at once, or if the degree is above 2^L for L
    layers. Memory: width * in^n numbers, and flops: about L * n * rank * width * in^n; width is the largest layer
    output.
    """
    stack = as_network(network)
    check_number("max_elements", max_elements, 1)
    degree = check_int("degree", degree, 0, 2 ** len(stack), f"the degree of {len(stack)} layers")
    layers = stack.layers
    n_in = layers[0].shape[1]
    eye = torch.eye(n_in, dtype=layers[0].down.dtype, device=layers[0].down.device)
    weights = {0: eye[0], 1: eye[:, 1:]} if stack.constant_in else {1: eye}  # degree: (unit, in, ..., in)
    for layer in layers:
        above: dict[int, Tensor] = {}
        for (i, first), (j, second) in itertools.product(weights.items(), repeat=2):
            if i + j > degree:
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
    if degree in weights:
        return _symmetrize(weights[degree], 1)
    size = [stack.sizes["out"], *[n_in - stack.constant_in] * degree]
    if math.prod(size) > max_elements:
        raise ValueError(
            f"degree {degree} has {math.prod(size):.1e} elements, more than max_elements={max_elements:.0e}"
        )
    return eye.new_zeros(size)


def _without(modes: Modes, mode: str) -> Modes:
    """Return the modes without one of them."""
    return tuple(name for name in modes if name != mode)


def _select(
    terms: Sequence[Term], mode: str, index: int, views: dict[tuple[int, ...], tuple[Tensor, Tensor]]
) -> tuple[Term, ...]:
    """Return the terms with the mode fixed at that index.

    All copies of an array get the same view, which is kept in `views`, so they stay shared.
    """
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
    """Return the mean over all orders of the axes from `first` on.

    The axes are added one at a time, which takes n^2 / 2 transpositions instead of n!.
    """
    for last in range(first + 1, tensor.ndim):
        tensor = sum((tensor.transpose(i, last) for i in range(first, last)), tensor) / (last - first + 1)
    return tensor
