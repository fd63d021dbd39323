"""Descriptions and hashes of everything that determines a result: values, options, layers and data."""

import copyreg
import dataclasses
import functools
import hashlib
import json
import sys
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensornet_interp.layer import TensorNetwork

__all__ = ["describe", "digest", "fingerprint"]

_PIECE = 1 << 22  # elements hashed at a time
_TEXT = (complex, bytes, torch.dtype, torch.device)  # types whose repr says everything


def describe(value: object) -> Any:
    """Describe a value in JSON: equal values have equal descriptions, and different descriptions mean different values.

    The description of a tensor has its shape, its dtype and a hash of its entries. The description of another object
    has the name of its class and its state, as pickle would store it; so a module is described by its weights, and a
    dataclass by its fields and other attributes. The repr of an object is not used, because it may hide part of the
    state. The code of a class is not part of the description.

    Raises TypeError for values that cannot be described: lambdas, classes and functions defined inside a function,
    iterators, open files, and objects that contain themselves.
    """
    return _describe(value, ())


def digest(*values: object) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 hash of values, as `describe` describes them."""
    words = json.dumps([describe(value) for value in values], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def fingerprint(part: TensorNetwork) -> str:
    """Return the first 16 hexadecimal digits of a SHA-256 hash of the arrays of a network.

    The hash depends on modes, shapes, dtypes and constant coordinates, but not on names and devices. Raises TypeError
    if the object is not a network.
    """
    made = hashlib.sha256()
    if not isinstance(part, TensorNetwork):
        raise TypeError(f"part must be a layer, a decomposition of one or a network, got {type(part).__name__}")
    for term in part.terms():
        made.update(f"{term.modes} {_describe_array(term.data)};".encode())
    constants = [getattr(part, name, False) for name in ("constant_in", "constant_out")]
    return hashlib.sha256(made.digest() + str(constants).encode()).hexdigest()[:16]


def _describe(value: object, inside: tuple[int, ...]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.ndim == 0):
        return _describe(value.item(), inside)
    if isinstance(value, _TEXT):
        return repr(value)
    if isinstance(value, Tensor):
        return _describe_array(value)
    if isinstance(value, np.ndarray):
        numbers = value.dtype.kind in "biufc" and value.dtype.itemsize <= 16 and value.dtype != np.longdouble
        return _describe_array(torch.from_numpy(np.array(value))) if numbers else _describe(value.tolist(), inside)
    if isinstance(value, type | types.FunctionType):
        return _name(value)
    if id(value) in inside:
        raise TypeError(f"a {type(value).__name__} contains itself, so it cannot be described")
    inside = (*inside, id(value))
    if isinstance(value, dict | types.MappingProxyType):
        if all(type(key) is str for key in value):
            return {key: _describe(item, inside) for key, item in value.items()}
        pairs = [[_describe(key, inside), _describe(item, inside)] for key, item in value.items()]
        return {"class": "dict", "pairs": sorted(pairs, key=repr)}
    if type(value) in (list, tuple, range):
        return [_describe(item, inside) for item in value]  # type: ignore[attr-defined]
    if isinstance(value, set | frozenset):
        return sorted((_describe(item, inside) for item in value), key=repr)
    return {"class": _name(type(value))} | _state(value, inside)


def _state(value: object, inside: tuple[int, ...]) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        more = {name: item for name, item in getattr(value, "__dict__", {}).items() if name not in fields}
        return {name: _describe(item, inside) for name, item in (fields | _stored(value, more)).items()}
    try:
        reduced = value.__reduce_ex__(4)
    except Exception as error:  # a class that cannot be pickled may raise any error
        raise TypeError(f"{_short(value)} has no state that can be described: {error}") from error
    if isinstance(reduced, str):
        return {"name": reduced}
    make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    words: dict[str, Any] = {}
    if make is not copyreg.__newobj__:  # type: ignore[attr-defined]
        words["made by"] = f"{make.__module__}.{make.__qualname__}"
    else:
        arguments = arguments[1:]
    if isinstance(state, Mapping):
        state = _stored(value, dict(state))
    parts = {"arguments": arguments, "state": state, "items": items and list(items), "pairs": pairs and list(pairs)}
    return words | {name: _describe(part, inside) for name, part in parts.items() if part}


def _stored(value: object, state: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of an object without cached properties, which were computed from the others."""
    kind = type(value)
    return {k: v for k, v in state.items() if not isinstance(getattr(kind, k, None), functools.cached_property)}


def _name(kind: type | types.FunctionType) -> str:
    """Return the module and the name of a class or function.

    Raises TypeError if this name, looked up in the module, does not give the same object.
    """
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    if found is not kind:
        raise TypeError(
            f"{kind.__module__}.{kind.__qualname__} cannot be told from another object of this name: define it at the "
            "top level of a module"
        )
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _short(value: object) -> str:
    return f"{repr(value)[:60]} ({type(value).__name__})"


def _describe_array(tensor: Tensor) -> str:
    made = hashlib.sha256()
    flat = tensor.detach().resolve_conj().resolve_neg()
    for piece in (flat.to_dense() if flat.layout != torch.strided else flat).reshape(-1).split(_PIECE):
        made.update(piece.cpu().contiguous().view(torch.uint8).numpy().data)
    return f"tensor({tuple(tensor.shape)}, {tensor.dtype}, sha256 {made.hexdigest()[:16]})"
