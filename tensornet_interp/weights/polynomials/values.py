"""Values in the forward pass of one sample: the input, affine functions of values, and products of two values."""

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
    """Return the values and all values that they are computed from, parents first, but no parents of `known` values."""
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
    """Return the tensors of the values `targets`, computed from the tensors of the `known` values."""
    tensors = dict(known)
    for value in ancestors(targets, known):
        if value not in tensors:
            parents = [tensors[parent] for parent in value.parents]
            tensors[value] = parents[0] * parents[1] if value.function is None else value.function(*parents)
    return [tensors[value] for value in targets]


def levels(values: Iterable[Value]) -> dict[Value, int]:
    """Return for each value the largest number of products on one path from the input to this value."""
    found: dict[Value, int] = {}
    for value in values:
        found[value] = max((found[parent] for parent in value.parents), default=0) + value.is_product
    return found


def degree(output: Value) -> int:
    """Return an upper bound on the degree of a value in the input: products add the degrees of their factors."""
    found: dict[Value, int] = {}
    for value in ancestors([output]):
        below = [found[parent] for parent in value.parents]
        found[value] = sum(below) if value.is_product else max(below, default=1)
    return found[output]
