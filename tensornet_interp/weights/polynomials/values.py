"""Values of the forward pass of one sample: the input, affine functions of values, products of two values."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_numbers = itertools.count()


@dataclass(frozen=True, eq=False)
class Value:
    """A value is the input (no parents), the product of two parents, or an affine `function` of its parents."""

    shape: torch.Size
    parents: tuple["Value", ...] = ()
    function: Callable[..., Tensor] | None = None  # of the parents' tensors; None for the input and for products
    path: str = ""  # of the module call that computes it
    number: int = field(default_factory=lambda: next(_numbers))  # parents have smaller ones

    @property
    def is_product(self) -> bool:
        """Return True for the entry by entry product of two values of one shape."""
        return self.function is None and len(self.parents) == 2

    @property
    def size(self) -> int:
        """Return the number of coordinates."""
        return self.shape.numel()

    @property
    def ndim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)


def ancestors(values: Iterable[Value], known: Collection[Value] = ()) -> list[Value]:
    """Return the values and all that they are computed from, parents first; nothing is below a `known` value."""
    found: set[Value] = set()
    todo = list(values)
    while todo:
        value = todo.pop()
        if value not in found:
            found.add(value)
            if value not in known:
                todo.extend(value.parents)
    return sorted(found, key=lambda value: value.number)


def evaluate(targets: Sequence[Value], known: Mapping[Value, Tensor]) -> list[Tensor]:
    """Return the tensors of `targets`, computed from those of `known` values."""
    tensors = dict(known)
    for value in ancestors(targets, known):
        if value not in tensors:
            parents = [tensors[parent] for parent in value.parents]
            tensors[value] = parents[0] * parents[1] if value.function is None else value.function(*parents)
    return [tensors[value] for value in targets]


def levels(values: Iterable[Value]) -> dict[Value, int]:
    """Return how many products lie one behind the other on the way to each value."""
    found: dict[Value, int] = {}
    for value in values:
        found[value] = max((found[parent] for parent in value.parents), default=0) + value.is_product
    return found


def degree(output: Value) -> int:
    """Return the degree in the input that the operations allow: products add the degrees of their factors."""
    found: dict[Value, int] = {}
    for value in ancestors([output]):
        below = [found[parent] for parent in value.parents]
        found[value] = sum(below) if value.is_product else max(below, default=1)
    return found[output]
