"""Write operations that multiply two values as sums of entry by entry products."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.weights.polynomials.calls import Call, Refusal, apply
from tensornet_interp.weights.polynomials.values import Value

Item = Value | Tensor


def _product(path: str, a: Item, b: Item, shape: Sequence[int]) -> Any:
    """Return the entry by entry product of two arrays that broadcast to `shape`."""

    def expand(x: Value) -> Value:
        return x if x.shape == torch.Size(shape) else apply(path, lambda x: x.expand(shape), shape, x)

    if isinstance(a, Value) and isinstance(b, Value):
        return Value(torch.Size(shape), (expand(a), expand(b)), path=path)
    return apply(path, torch.mul, shape, a, b)


def _multiply(call: Call) -> Any:
    return _product(call.path, call.args[0], call.args[1], call.shape)


def _matrix_product(call: Call) -> Any:
    """Return [..., n, k] times [..., k, m] as products of entries, summed over k."""
    first = 1 if call.name in ("addmm", "addmv", "baddbmm") else 0
    a, b = call.args[first : first + 2]
    if b.ndim == 1:  # mv, dot
        found = _sum(call.path, _product(call.path, a, b, a.shape), -1)
    else:
        shape = (*a.shape, b.shape[-1])  # (..., n, k, m)
        column = apply(call.path, lambda x: x.unsqueeze(-1), (*a.shape, 1), a)
        row = apply(call.path, lambda x: x.unsqueeze(-3), (*b.shape[:-2], 1, *b.shape[-2:]), b)
        found = _sum(call.path, _product(call.path, column, row, shape), -2)
    if not first:
        return found
    beta, alpha = call.kwargs.get("beta", 1), call.kwargs.get("alpha", 1)
    return apply(call.path, lambda c, x: beta * c + alpha * x, found.shape, call.args[0], found)


def _sum(path: str, x: Item, dim: int, *, keepdim: bool = False) -> Any:
    shape = list(x.shape)
    shape[dim : dim + 1 or None] = [1] * keepdim
    return apply(path, lambda x: x.sum(dim, keepdim=keepdim), shape, x)


def _power(call: Call) -> Any:
    x, exponent = call.args[:2]
    if isinstance(exponent, Tensor) and exponent.numel() and bool((exponent == exponent.reshape(-1)[0]).all()):
        exponent = float(exponent.reshape(-1)[0])
    if not isinstance(x, Value) or isinstance(exponent, Item) or exponent < 0 or not float(exponent).is_integer():
        raise Refusal("has a power other than 0, 1, 2, ...")
    return _by_squaring(call.path, x, int(exponent), call.shape)


def _by_squaring(path: str, x: Item, exponent: int, shape: torch.Size) -> Any:
    if exponent == 0:
        return apply(path, lambda x: torch.ones_like(x), shape, x)
    if exponent == 1:
        return apply(path, lambda x: x.expand(shape), shape, x)
    half = _by_squaring(path, x, exponent // 2, shape)
    square = _product(path, half, half, shape)
    return _product(path, square, x, shape) if exponent % 2 else square


def _product_along(call: Call) -> Any:
    """Return the product of the entries along an axis, or of all entries, as a balanced tree of products."""
    x = call.args[0]
    if len(call.args) == 1:
        x, dim, keepdim = apply(call.path, lambda x: x.reshape(-1), (x.size,), x), 0, False
    else:
        dim = call.args[1] % max(x.ndim, 1)
        keepdim = len(call.args) > 2 and bool(call.args[2])

    def narrow(x: Item, start: int, length: int) -> Any:
        shape = list(x.shape)
        shape[dim] = length
        return apply(call.path, lambda x: x.narrow(dim, start, length), shape, x)

    while (size := x.shape[dim]) > 1:
        half = size // 2
        a, b = narrow(x, 0, half), narrow(x, half, half)
        rest = [narrow(x, size - 1, 1)] if size % 2 else []
        both = _product(call.path, a, b, a.shape)
        shape = list(both.shape)
        shape[dim] = half + len(rest)
        x = apply(call.path, lambda parts: torch.cat(parts, dim), shape, [both, *rest]) if rest else both
    return apply(call.path, lambda x: x.reshape(call.shape), call.shape, x) if not keepdim else x


def _trilinear(call: Call) -> Any:
    """Return the sum of a w b over axes, with a constant w; first w times b is summed over the axes that a lacks.

    `torch.nn.Bilinear` computes such a sum. (w b) is affine, so out * in1 products suffice instead of out * in1 * in2.
    """
    a, w, b, *expand, summed = call.args[:7]
    if not isinstance(a, Value) or not isinstance(b, Value) or isinstance(w, Value):
        raise Refusal("has a weight that depends on the input, a product of three")
    for axes, at in zip(expand, range(3), strict=True):
        for axis in axes:
            a, w, b = (_unsqueezed(call.path, x, axis) if i == at else x for i, x in enumerate((a, w, b)))
    lacks_a, lacks_b = ([axis for axis in summed if x.shape[axis] == 1] for x in (a, b))
    if math.prod(w.shape[axis] for axis in lacks_a) < math.prod(w.shape[axis] for axis in lacks_b):
        a, b, lacks_a = b, a, lacks_b
    shape = torch.broadcast_shapes(w.shape, b.shape)
    inner = apply(call.path, torch.mul, shape, w, b)
    for axis in lacks_a:
        inner = _sum(call.path, inner, axis, keepdim=True)
    found = _product(call.path, a, inner, torch.broadcast_shapes(a.shape, inner.shape))
    for axis in sorted(summed, reverse=True):
        found = _sum(call.path, found, axis)
    return found


def _unsqueezed(path: str, x: Item, axis: int) -> Any:
    shape = list(x.shape)
    shape.insert(axis, 1)
    return apply(path, lambda x: x.unsqueeze(axis), shape, x)


PRODUCTS: dict[str, Callable[[Call], Any]] = dict.fromkeys(
    ("addmm", "addmv", "baddbmm", "bmm", "dot", "mm", "mv"), _matrix_product
) | {"_trilinear": _trilinear, "mul": _multiply, "pow": _power, "prod": _product_along}
