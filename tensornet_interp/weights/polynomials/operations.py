"""Turn operations of a forward pass into values: an operation is affine, a sum of products, or refused.

Only operations in these lists are accepted. Tests on random inputs cannot replace the lists, because a clamp at a
million passes every such test.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.weights.polynomials.calls import Call, Refusal, apply, leaves
from tensornet_interp.weights.polynomials.products import PRODUCTS
from tensornet_interp.weights.polynomials.values import Value

_AFFINE_IN_THE_FIRST = (
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_native_batch_norm_legit_no_training", "_to_copy",
    "_unsafe_index", "_unsafe_view", "adaptive_avg_pool1d", "alias", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "clone", "col2im", "constant_pad_nd", "cumsum", "detach", "diagonal", "div", "expand", "flip", "gather",
    "im2col", "index", "index_select", "lift_fresh_copy", "mean", "neg", "permute", "pixel_shuffle",
    "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "repeat", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "reshape", "roll", "select", "slice", "split", "split_with_sizes",
    "squeeze", "sum", "t", "transpose", "tril", "triu", "unbind", "unfold", "unsqueeze", "upsample_bicubic2d",
    "upsample_bilinear2d", "upsample_linear1d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "upsample_trilinear3d", "view",
)  # fmt: skip
# affine in the arguments at these places together, if all others are constant
_AFFINE: dict[str, tuple[int, ...]] = dict.fromkeys(_AFFINE_IN_THE_FIRST, (0,)) | {
    "add": (0, 1),
    "cat": (0,),
    "copy": (1,),
    "diagonal_scatter": (0, 1),
    "fill": (1,),
    "index_add": (0, 3),
    "index_put": (0, 2),
    "masked_fill": (0, 2),
    "rsub": (0, 1),
    "scatter": (0, 3),
    "scatter_add": (0, 3),
    "select_scatter": (0, 1),
    "slice_scatter": (0, 1),
    "stack": (0,),
    "sub": (0, 1),
    "where": (1, 2),
}
# affine in any one of the first arguments, together with the others
_ONE_OF: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "_trilinear": ((0, 1, 2), ()),
    "addmm": ((1, 2), (0,)),
    "addmv": ((1, 2), (0,)),
    "baddbmm": ((1, 2), (0,)),
    "bmm": ((0, 1), ()),
    "convolution": ((0, 1), (2,)),
    "dot": ((0, 1), ()),
    "mm": ((0, 1), ()),
    "mul": ((0, 1), ()),
    "mv": ((0, 1), ()),
}
_OF_SHAPE = ("empty_like", "full_like", "new_empty", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like")
_WHY = {
    "_softmax": "has exponentials and a division",
    "convolution": "multiplies an image by a kernel that both depend on the input",
    "div": "divides by what depends on the input, or rounds",
    "linalg_vector_norm": "has a root",
    "native_layer_norm": "divides by the standard deviation of its input",
    "reciprocal": "divides by what depends on the input",
    "rsqrt": "has a root and a division, as every norm",
    "sqrt": "is a root",
}


def value_of(call: Call) -> Any:
    """Return the value that a call computes, or a tuple of values for an operation with several results.

    Raises Refusal if the operation is neither affine nor a sum of products.
    """
    if call.name in _OF_SHAPE:
        like = torch.zeros(call.args[0].shape, dtype=torch.float64, device=call.device)
        return call.function(like, *call.args[1:], **call.kwargs)
    types = [leaf for leaf in leaves((call.args, call.kwargs)) if isinstance(leaf, torch.dtype)]
    if any(not dtype.is_floating_point for dtype in types):
        raise Refusal(f"rounds to {types[0]}")
    varying = {i for i, item in enumerate(call.args) if any(isinstance(leaf, Value) for leaf in leaves(item))}
    if varying and not any(isinstance(leaf, Value) for leaf in leaves(call.kwargs)):
        if call.name in _AFFINE and varying - _ignored(call) <= set(_AFFINE[call.name]) and not _rounds(call):
            return _affine(call)
        factors, others = _ONE_OF.get(call.name, ((), ()))
        if varying <= {*factors, *others} and len(varying & set(factors)) <= 1:
            return _affine(call)
        if call.name in PRODUCTS:
            return PRODUCTS[call.name](call)
    raise Refusal(_WHY.get(call.name, "is not one of the affine operations and products that are read"))


def _rounds(call: Call) -> bool:
    reduces = call.name == "scatter" and "reduce" in call.kwargs
    return reduces or call.kwargs.get("rounding_mode") is not None


def _ignored(call: Call) -> set[int]:
    """Return the places of the arguments of which the operation reads only the shape."""
    return {0} if call.name in ("copy", "fill") else set()


def _affine(call: Call) -> Any:
    """Return the value, or the values, of an affine call."""
    function = _FORMS.get(call.name, call.function)
    if call.name in ("copy", "fill"):

        def spread(source: Any) -> Tensor:
            return torch.as_tensor(source, dtype=torch.float64, device=call.device).expand(call.shape)

        return apply(call.path, spread, call.shape, call.args[1])
    if not call.several:
        return apply(call.path, function, call.shape, *call.args, **call.kwargs)
    return tuple(
        apply(call.path, lambda *args, i=i, **kwargs: function(*args, **kwargs)[i], shape, *call.args, **call.kwargs)
        for i, shape in enumerate(call.shapes)
    )


def _reshape(x: Tensor, shape: list[int]) -> Tensor:
    """Return a reshaped tensor; a view fails if `vmap` has laid out the tensor in another order."""
    return x.reshape(shape)


def _slice(x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Tensor:
    """Return a slice whose open end is the size of the axis, because `vmap` cannot take the largest integer."""
    size = x.shape[dim]
    return torch.ops.aten.slice(x, dim, start, size if end is None else min(end, size), step)


def _slice_scatter(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    size = x.shape[dim]
    return torch.slice_scatter(x, source, dim, start, size if end is None else min(end, size), step)


_FORMS: dict[str, Callable[..., Any]] = {
    "_unsafe_view": _reshape,
    "slice": _slice,
    "slice_scatter": _slice_scatter,
    "view": _reshape,
}
