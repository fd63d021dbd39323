"""Devices without float64, such as Apple's GPUs: what needs float64 goes to the CPU, and its result back."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import FunctionType, MappingProxyType, MethodType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["has_float64", "needs_float64", "to_float64"]

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = __name__.split(".")[0]
_CPU = torch.device("cpu")
_PLAIN = frozenset((str, int, float, bool, bytes, type(None)))


@functools.cache
def has_float64(device: torch.device) -> bool:
    """Return whether a device has float64, which is tried once with one number; True if there is no such device."""
    try:
        number = torch.ones(1, dtype=torch.float32, device=device)
    except (AssertionError, NotImplementedError, RuntimeError):  # torch says it where the device is used
        return True
    try:
        number.to(torch.float64)
    except (RuntimeError, TypeError):
        return False
    return True


def to_float64(value: Tensor) -> Tensor:
    """Return an array in float64, on the CPU if its device has no float64."""
    return (value if has_float64(value.device) else value.to(_CPU)).to(torch.float64)


def needs_float64(function: Callable[P, R]) -> Callable[P, R]:
    """Return the function such that it runs on the CPU if an argument is on a device without float64.

    Then all tensors in the arguments go to the CPU, and those in the result to the device, except for float64, which
    stays on the CPU. If the result or an object in it has a field `warnings`, a sentence there says so. Functions among
    the arguments are called with what is on the device. On other devices nothing changes. Use this decorator on public
    functions that compute in float64, above `without_autocast`.

    Tensors are found in lists, tuples, mappings, modules, dataclasses and objects of this package's classes, and in
    what a stream yields if another argument is on the device.
    """

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = _without_float64((args, kwargs))
        if device is None:
            return function(*args, **kwargs)
        trip = _Trip(device)
        args, kwargs = trip.there((args, kwargs))
        return trip.back(function(*args, **kwargs))

    return run


def _without_float64(value: object) -> torch.device | None:
    """Return the device without float64 of a tensor in a value; None if there is no such tensor."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if type(item) in _PLAIN:
            continue
        if isinstance(item, Tensor):
            if not has_float64(item.device):
                return item.device
        elif id(item) not in seen:
            seen.add(id(item))
            waiting += _parts(item)
    return None


class _Trip:
    """A trip takes values from a device without float64 to the CPU, and other values back."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._moved: dict[int, tuple[Any, Any]] = {}  # by id: a value of the caller, and the same on the CPU
        self._origins: dict[int, tuple[Any, Any]] = {}  # by id: the other way

    def there(self, value: Any) -> Any:
        found = _replaced(value, self._leave, self._moved)
        self._origins = {id(new): (new, old) for old, new in self._moved.values()}
        return found

    def back(self, value: Any) -> Any:
        """Return a value on the device; what the caller gave is the very same again."""
        return _replaced(value, self._return, dict(self._origins), self._with_warning)

    def briefly_there(self, value: Any) -> Any:
        """Return a value on the CPU, without a reference to it: of streams and functions, too many to keep."""
        return _replaced(value, self._leave, {})

    def _leave(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return item.to(_CPU) if item.device == self.device else item
        if isinstance(item, torch.nn.Module):
            moved: dict[int, Any] = {id(part): self._copied(part) for part in _parts(item)}
            return copy.deepcopy(item, moved)  # which copies no array
        if isinstance(item, Iterator):
            return map(self.briefly_there, item)
        if isinstance(item, Iterable) and not isinstance(item, Collection):  # such as a DataLoader
            return _Stream(item, self)
        if isinstance(item, FunctionType | MethodType | functools.partial):
            return _Function(item, self)
        return item

    def _copied(self, part: Tensor) -> Tensor:
        moved = part.detach().to(_CPU)
        return torch.nn.Parameter(moved, part.requires_grad) if isinstance(part, torch.nn.Parameter) else moved

    def _return(self, item: Any) -> Any:
        if not isinstance(item, Tensor) or item.dtype in (torch.float64, torch.complex128):
            return item
        return item.to(self.device)

    def _with_warning(self, fields: dict[str, Any]) -> dict[str, Any]:
        warnings, new = fields.get("warnings"), f"device {self.device} has no float64, so the CPU computed this"
        if not isinstance(warnings, tuple) or new in warnings:
            return fields
        return fields | {"warnings": (*warnings, new)}


class _Stream:
    """A stream of the caller yields its items on the CPU; it can be read as often as the stream itself."""

    def __init__(self, stream: Iterable[Any], trip: _Trip) -> None:
        self._stream, self._trip = stream, trip

    def __iter__(self) -> Iterator[Any]:
        return map(self._trip.briefly_there, self._stream)


class _Function:
    """A function of the caller gets its arguments on the device; another process gets the function itself."""

    def __init__(self, function: Callable[..., Any], trip: _Trip) -> None:
        self._function, self._trip = function, trip

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._trip.back((args, kwargs))
        return self._trip.briefly_there(self._function(*args, **kwargs))

    def __reduce__(self) -> Any:
        return _itself, (self._function,)


def _itself(value: R) -> R:
    return value


def _parts(value: Any) -> Iterable[Any]:
    """Return what a value consists of: nothing if it is no container."""
    if isinstance(value, dict | MappingProxyType):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, torch.nn.Module):
        return [*value.parameters(), *value.buffers()]
    kind: Any = type(value)
    return vars(value).values() if _is_record(kind) else ()


def _replaced(
    value: Any,
    change: Callable[[Any], Any],
    done: dict[int, tuple[Any, Any]],
    finish: Callable[[dict[str, Any]], dict[str, Any]] = _itself,
) -> Any:
    """Return a value in which `change` was applied to everything that is no container; what is unchanged is the same.

    done: what was replaced so far, by the id of the old value: the old value, which it keeps alive, and the new one.
    finish: applied to the attributes of each object.
    """
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if id(value) in done:
        return done[id(value)][1]
    found = value
    if isinstance(value, dict | MappingProxyType):
        items = {key: _replaced(item, change, done, finish) for key, item in value.items()}
        if any(items[key] is not value[key] for key in items):
            found = items if isinstance(value, dict) else MappingProxyType(items)
    elif isinstance(value, list | tuple):
        parts = [_replaced(item, change, done, finish) for item in value]
        if any(new is not old for new, old in zip(parts, value, strict=True)):
            found = kind(*parts) if hasattr(value, "_fields") else kind(parts)
    elif _is_record(kind):
        old = vars(value)
        new = finish({name: _replaced(item, change, done, finish) for name, item in old.items()})
        if any(new[name] is not old[name] for name in new):
            found = object.__new__(kind)
            vars(found).update(new)
    else:
        found = change(value)
    done[id(value)] = (value, found)
    return found


@functools.cache
def _is_record(kind: type) -> bool:
    """Return whether the attributes of an object are its parts: dataclasses, this package's classes, and mappings."""
    if not kind.__dictoffset__ or issubclass(kind, type | Tensor | torch.nn.Module):
        return False
    ours = any(base.__module__.split(".")[0] == _PACKAGE for base in kind.__mro__)
    return ours or dataclasses.is_dataclass(kind) or issubclass(kind, Mapping)  # tensors of TensorLy are mappings
