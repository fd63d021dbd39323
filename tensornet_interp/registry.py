"""A registry maps names to implementations.

A decorator registers an implementation. Installed packages can offer more implementations as entry points (plugins). A
plugin is loaded when its name or the list of all is first asked for; if it fails to load, only asking for its name
raises an error.
"""

import copy
import difflib
import importlib.metadata
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

__all__ = [
    "ENTRY_POINT_GROUP",
    "Listed",
    "Registry",
    "decomposition_problems",
    "get_decomposition",
    "list_decompositions",
    "register_decomposition",
    "scratch_registry",
]

T = TypeVar("T", bound=Callable[..., object])

ENTRY_POINT_GROUP = "tensornet_interp.decompositions"


class Listed(NamedTuple):
    """One line of the list of a registry."""

    name: str
    summary: str  # the first line of the docstring; of a plugin that cannot be used: why
    origin: str  # the package that registered it; of an entry point: its distribution, version and object
    options: tuple[str, ...]  # as in a call: "rank" must be given, "rank=None" has this default


class Registry:
    """A registry is a map from names to objects of one kind, such as decompositions.

    Entry points of `group` are looked up when a name is first asked for. They never replace a registered name: one that
    would is refused with a warning.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._known: dict[str, Callable[..., object]] = {}
        self._waiting: dict[str, importlib.metadata.EntryPoint] | None = None
        self._broken: dict[str, str] = {}  # by name: plugins that failed to load
        self._refused: dict[str, str] = {}  # by name and origin: entry points whose name was taken
        self._origins: dict[str, str] = {}  # by name: of what an entry point led to

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers an object under `name`.

        Raises ValueError if the name is not an identifier or if another object already has it, and TypeError if the
        object is not callable. The same object may be registered twice.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"the name of a {self.kind} must be an identifier, got {name!r}")

        def add(item: T) -> T:
            if not callable(item):
                raise TypeError(f"{self.kind} '{name}' must be callable, got {item!r}")
            if self._known.setdefault(name, item) is not item:
                raise ValueError(f"{self.kind} '{name}' is taken by {_describe(self._known[name])}")
            waiting = (self._waiting or {}).pop(name, None)
            if waiting is not None:
                self._compare(waiting)
            return item

        return add

    def get(self, name: str) -> Callable[..., object]:
        """Return the object with this name; if a plugin provides it, the plugin is loaded first.

        Raises ValueError with all known names if there is no such object, ImportError if its plugin fails to load, and
        TypeError if the name is not a string.
        """
        if not isinstance(name, str):
            raise TypeError(f"the name of a {self.kind} must be a string, got {type(name).__name__}")
        self._find()
        if name not in self._known:
            self._load(name)
        if name in self._known:
            return self._known[name]
        if name in self._broken:
            raise ImportError(f"{self.kind} '{name}' cannot be used: {self._broken[name]}")
        names = self.names()
        near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"no {self.kind} named {name!r}; available: {', '.join(names)}{hint}")

    def names(self) -> list[str]:
        """Return all names in alphabetical order, including those of plugins that are not loaded yet."""
        return sorted({*self._known, *self._find(), *self._broken})

    def listing(self) -> list[Listed]:
        """Load every plugin, and return name, summary, origin and options of all objects, in the order of their names.

        A plugin that cannot be used is listed too: its summary says why, and it has no options.
        """
        self.problems()
        found = [
            Listed(name, _summary(item), self._origins.get(name) or item.__module__.split(".")[0], _options(item))
            for name, item in self._known.items()
        ]
        broken = [
            Listed(name, f"cannot be used: {why}", why.split(" failed")[0], ()) for name, why in self._broken.items()
        ]
        return sorted(found + broken)

    def problems(self) -> dict[str, str]:
        """Load every plugin; return a dict from each plugin that failed to load or was refused to the reason.

        The key of a plugin that failed is its name; the key of a refused one is "name (origin)".
        """
        for name in list(self._find()):
            self._load(name)
        return self._broken | self._refused

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """Undo, at the end of a `with` block, every registration and loading of the block; meant for tests.

        Use it in one thread only, because registrations by other threads during the block are forgotten too.
        """
        before = {name: copy.copy(value) for name, value in vars(self).items()}
        try:
            yield
        finally:
            vars(self).update(before)

    def _find(self) -> dict[str, importlib.metadata.EntryPoint]:
        if self._waiting is None:
            self._waiting = {}
            for entry in importlib.metadata.entry_points(group=self.group):
                owner = self._waiting.get(entry.name)
                if entry.name in self._known:
                    self._compare(entry)
                elif owner is not None and owner.value != entry.value:
                    self._refuse(entry, f"{_origin(owner)} has the name already")
                else:
                    self._waiting[entry.name] = entry
        return self._waiting

    def _compare(self, entry: importlib.metadata.EntryPoint) -> None:
        """Refuse an entry point whose name another object has; nothing is imported."""
        item = self._known[entry.name]
        found: object = sys.modules.get(entry.module)
        for attribute in filter(None, entry.attr.split(".")):
            found = getattr(found, attribute, None)
        if found is item:
            self._origins[entry.name] = _origin(entry)
        else:
            self._refuse(entry, f"the name '{entry.name}' is taken by {_describe(item)}")

    def _refuse(self, entry: importlib.metadata.EntryPoint, why: str) -> None:
        """Keep why an entry point is not used, and warn."""
        self._refused[f"{entry.name} ({_origin(entry)})"] = why
        warnings.warn(f"the {self.kind} '{entry.name}' of {_origin(entry)} is not used: {why}", stacklevel=2)

    def _load(self, name: str) -> None:
        entry = self._find().pop(name, None)
        if entry is None:
            return
        try:
            self.register(name)(entry.load())
            self._origins[name] = _origin(entry)
        except Exception as error:  # a plugin may fail in any way, but it must not stop the others
            self._broken[name] = f"{_origin(entry)} failed to load: {type(error).__name__}: {error}"


def _describe(item: Callable[..., object]) -> str:
    qualified = getattr(item, "__qualname__", None)
    return f"{item.__module__}.{qualified}" if qualified else repr(item)


def _summary(item: Callable[..., object]) -> str:
    """Return the first line of the docstring, or nothing if there is none."""
    first = (inspect.getdoc(item) or "").partition("\n")[0]
    made = first.startswith(
        f"{getattr(item, '__name__', '')}("
    )  # the signature, which a dataclass gets for want of one
    return "" if made else first


def _options(item: Callable[..., object]) -> tuple[str, ...]:
    """Return the parameters as they are written in a call, with their defaults."""
    try:
        parameters = inspect.signature(item).parameters.values()
    except ValueError:  # of some classes written in C
        return ()
    return tuple(str(parameter.replace(annotation=parameter.empty)) for parameter in parameters)


def _origin(entry: importlib.metadata.EntryPoint) -> str:
    dist = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"
    return f"{dist}, {entry.value}"


_decompositions = Registry("decomposition", ENTRY_POINT_GROUP)
register_decomposition = _decompositions.register
get_decomposition = _decompositions.get
list_decompositions = _decompositions.listing
decomposition_problems = _decompositions.problems
scratch_registry = _decompositions.scratch
