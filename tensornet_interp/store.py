"""The table of types that `save` writes and `load` reads; a type is registered by its name and its fields."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from tensornet_interp.checks import check_notes
from tensornet_interp.registry import Registry

__all__ = ["StoredType", "get_type", "list_types", "register_type", "stored_type"]


T = TypeVar("T", bound=type)


class StoredType(NamedTuple):
    """A stored type says which fields of a class `save` writes, and how `load` makes an object from them."""

    name: str
    fields: tuple[str, ...]
    make: Callable[..., Any]  # called with the fields by name


_types = Registry("saved type", "tensornet_interp.types")
_rules: dict[type, StoredType] = {}
_latest: dict[str, type] = {}  # by name: a notebook's cell that runs twice defines its class twice


def register_type(
    name: str, fields: Sequence[str] | None = None, make: Callable[..., Any] | None = None
) -> Callable[[T], T]:
    """Return a decorator for a class whose objects `save` and `load` should handle; files call the class `name`.

    fields: the names of the attributes that are stored; by default, the fields of the dataclass or NamedTuple. So write
    the decorator above `@dataclass`. make: a function that returns the object and takes the fields as keyword
    arguments; by default, the class. A field may hold a tensor, a numpy array, a number, a text, None, a dtype, an
    object of a registered class, or a tuple, a list or a dict of these. If a later version adds a field, the field
    needs a default value, so that old files can be read.

    If `load` finds an unknown type, it imports the plugins that entry points name: plugins of decompositions, and
    plugins in the group "tensornet_interp.types". A class that is defined again in its module, as in a notebook,
    replaces the old class. Raises ValueError if another class has the name. Raises TypeError if `fields` is None and
    the class is neither a dataclass nor a NamedTuple.

    Example:
    >>> @register_type("Peak")
    ... @dataclasses.dataclass(frozen=True)
    ... class Peak:
    ...     place: int
    >>> stored_type(Peak).fields
    ('place',)
    """
    register = _types.register(name)
    given = None if fields is None else check_notes("fields", fields)
    if make is not None and not callable(make):
        raise TypeError(f"make must be callable, got {make!r}")

    def add(item: T) -> T:
        if not isinstance(item, type):
            raise TypeError(f"register_type({name!r}) stands above a class, got {item!r}")
        found = given if given is not None else _own_fields(item)
        known = _latest.get(name)
        if known is None or (known.__module__, known.__qualname__) != (item.__module__, item.__qualname__):
            register(item)
        _latest[name] = item
        _rules[item] = StoredType(name, found, make or item)
        return item

    return add


def stored_type(kind: type) -> StoredType | None:
    """Return how objects of exactly this class are stored; None if the class is not registered."""
    return _rules.get(kind)


def get_type(name: str) -> StoredType:
    """Return the type with this name.

    If an entry point has the name, its package is imported. Raises ValueError, which lists the known types, if the name
    is unknown, and ImportError if a plugin cannot be imported.
    """
    found: Any = _types.get(name)
    if name not in _latest:  # an entry point to a class without the decorator
        register_type(name)(found)
    return _rules[_latest[name]]


list_types = _types.names


def _own_fields(kind: type) -> tuple[str, ...]:
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind) if field.init)
    names: Any = getattr(kind, "_fields", None)
    if issubclass(kind, tuple) and names is not None:
        return tuple(names)
    raise TypeError(
        f"{kind.__name__} is no dataclass and no NamedTuple: name its fields, register_type(name, fields=[...]),"
        " or write register_type above @dataclass"
    )
