"""Calls of operations on values and constant tensors, and values that are affine functions of others."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tensornet_interp.weights.polynomials.values import Value


class Call(NamedTuple):
    """A call is one operation of the graph, with values or constant tensors as its arguments."""

    name: str  # such as "add"
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: Sequence[torch.Size]  # one per result
    several: bool  # whether the operation has several results
    path: str  # the path of the module call
    device: torch.device

    @property
    def shape(self) -> torch.Size:
        """Return the shape of the only result."""
        return self.shapes[0]


class Refusal(Exception):
    """An operation is neither affine nor a product; the message says why in a verb phrase, such as "is random"."""


def replace_leaves(item: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested lists, tuples and dicts with every leaf replaced by change(leaf)."""
    if isinstance(item, dict):
        return {key: replace_leaves(part, change) for key, part in item.items()}
    if isinstance(item, list | tuple):
        made = [replace_leaves(part, change) for part in item]
        return tuple(made) if isinstance(item, tuple) else made
    return change(item)


def leaves(item: Any) -> list[Any]:
    """Return the leaves of nested lists, tuples and dicts."""
    found: list[Any] = []
    replace_leaves(item, found.append)
    return found


def apply(path: str, function: Callable[..., Any], shape: Sequence[int], *args: Any, **kwargs: Any) -> Any:
    """Return function(*args, **kwargs) as a value that is affine in the values among the arguments.

    If no argument is a value, return the result of the function. shape: the shape of the result.
    """
    parents = tuple(leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Value))
    if not parents:
        return function(*args, **kwargs)

    def of_parents(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        filled = replace_leaves((args, kwargs), lambda leaf: next(rest) if isinstance(leaf, Value) else leaf)
        return function(*filled[0], **filled[1])

    return Value(torch.Size(shape), parents, of_parents, path)
