"""Paths of contractions: the order of the pairwise sums, found by an optimizer or given by the caller."""

import copy
import functools
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import opt_einsum
from opt_einsum.paths import PathOptimizer

from tensornet_interp.checks import check_int

__all__ = ["Modes", "Optimizer", "Path", "find_path"]

Modes = tuple[str, ...]
Path = tuple[tuple[int, ...], ...]  # of each step: positions among the operands that are left; its result is put last
Optimizer = str | Callable[..., Any] | Sequence[Sequence[int]]


def find_path(term_modes: tuple[Modes, ...], sizes: Mapping[str, int], output: Modes, optimize: Optimizer) -> Path:
    """Return the path that an optimizer finds; it is cached by modes, sizes and optimizer.

    optimize: the name of an optimizer of opt_einsum; a path, which is returned as it is; or an optimizer object or a
    function. Such an object or function is called with the modes of every term, the modes of the output, the sizes of
    all modes and, if it takes four arguments, None for the memory limit. One optimizer object serves any number of
    contractions, except objects of opt_einsum with a pool.
    """
    if not isinstance(optimize, str) and not callable(optimize):
        return _given(optimize)
    find = _cached if isinstance(optimize, Hashable) else _find
    return find(term_modes, tuple(sizes.items()), output, optimize)


def _given(path: object) -> Path:
    """Return a given path as tuples; raise TypeError or ValueError if it is not a path."""
    if not isinstance(path, list | tuple) or not all(isinstance(step, list | tuple) for step in path):
        raise TypeError(
            "optimize must be a name, an optimizer of opt_einsum's kind, or a path, which is a list of tuples of"
            f" positions; got {path!r:.60}"
        )
    return tuple(tuple(check_int(f"optimize[{i}]", position, 0) for position in step) for i, step in enumerate(path))


def _find(
    term_modes: tuple[Modes, ...],
    size_items: tuple[tuple[str, int], ...],
    output: Modes,
    optimize: str | Callable[..., Any],
) -> Path:
    """Return the path that an optimizer finds, without a cache; `size_items` holds pairs (mode, size)."""
    letters = {mode: opt_einsum.get_symbol(i) for i, (mode, _) in enumerate(size_items)}
    sizes = {letters[mode]: size for mode, size in size_items}
    *inputs, wanted = ("".join(letters[mode] for mode in modes) for modes in (*term_modes, output))
    if isinstance(optimize, str):
        shapes = [tuple(sizes[letter] for letter in indices) for indices in inputs]
        try:
            equation = f"{','.join(inputs)}->{wanted}"
            found, _ = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize=optimize)
        except KeyError as error:
            raise ValueError(f"optimize must be an opt_einsum optimizer, got {optimize!r}: {error.args[0]}") from None
    elif isinstance(optimize, PathOptimizer) and len(inputs) <= 2:  # as in opt_einsum: there is nothing to search
        found = [range(len(inputs))]
    else:
        arguments = ([frozenset(indices) for indices in inputs], frozenset(wanted), sizes, None)
        found = _own(optimize)(*arguments[: 4 if _takes(optimize, *arguments) else 3])
    return tuple(tuple(positions) for positions in found)


def _own(optimize: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of an optimizer object with new lists and dicts, because some objects serve only one contraction.

    A deep copy does not work: it fails on the locks and modules that optimizers hold, and the half-made copy of a pool
    then closes the pipes of the pool. An optimizer that shuts down its pool when it is deleted is not copied.
    """
    shuts_down = hasattr(type(optimize), "__del__") and getattr(optimize, "parallel", False)
    if not isinstance(optimize, PathOptimizer) or shuts_down:
        return optimize
    own = copy.copy(optimize)
    vars(own).update({name: copy.copy(value) for name, value in vars(own).items() if isinstance(value, list | dict)})
    return own


def _takes(function: Callable[..., Any], *arguments: object) -> bool:
    """Return True if a function can be called with these arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True


_cached = functools.lru_cache(maxsize=1024)(_find)
