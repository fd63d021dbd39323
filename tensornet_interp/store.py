"""The table of types that `save` writes and `load` reads: a type joins by a name and the names of its fields."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from tensornet_interp.checks import check_notes
from tensornet_interp.registry import Registry

__all__ = ["StoredType", "get_type", "list_types", "register_type", "stored_type"]


T = TypeVar("T", bound=type)


class StoredType(NamedTuple):
    """A stored type says how objects of one class are taken apart and made again."""

    name: str
    fields: tuple[str, ...]
    make: Callable[..., Any]  # called with the fields by name


_types = Registry("saved type", "tensornet_interp.types")
_rules: dict[type, StoredType] = {}
_latest: dict[str, type] = {}  # by name: a notebook's cell that runs twice defines its class twice


def register_type(
    name: str, fields: Sequence[str] | None = None, make: Callable[..., Any] | None = None
) -> Callable[[T], T]:
    """Return a decorator that lets `save` and `load` keep objects of a class, under `name` in the file.

    fields: the attributes that are stored; by default those of a dataclass or a NamedTuple, so write the decorator
    above `@dataclass`. make: what is called with the fields by name to make the object again; by default the class. A
    field may hold a tensor, a numpy array, a number, a text, None, a dtype, a tuple, a list or a dict of these, or an
    object of a registered class. A field that a later version adds needs a default value, so that old files open.

    A plugin that an entry point names, of a decomposition or in the group "tensornet_interp.types", is imported when
    `load` meets a type that is not known. Raises ValueError if another class has the name, TypeError if the fields are
    not known. A class that is defined again in its module, as in a notebook, replaces the old one.

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
    """Return the type of that name; raises ValueError that lists the known ones, ImportError if a plugin is broken.

    If an entry point has the name, its package is imported.
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
