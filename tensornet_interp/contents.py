"""Contents pages, which are modules that define __all__: where a name is, and errors for names that a page lacks.

The errors suggest a similar name, or the right page.
"""

import ast
import difflib
import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensornet_interp.optional import import_page

__all__ = ["explain_missing_names", "pages_of"]

_FOLDER = Path(__file__).parent


def explain_missing_names(page: str, lazy: Mapping[str, str] | None = None) -> None:
    """Make a module raise an AttributeError that suggests a similar name, or the page that has the missing name.

    lazy: the names that the module takes from other pages, each with its page, which is imported at the first use.

    This function sets the `__getattr__` of the module. If the source of the module defined it, a type checker would
    accept every name. At the first missing name, the other pages are read from their source, so no room is imported for
    this.
    """

    def __getattr__(name: str) -> Any:
        if lazy is not None and name in lazy:
            value = getattr(import_page(lazy[name]), name)
            setattr(sys.modules[page], name, value)
            return value
        raise AttributeError(f"module '{page}' has no name '{name}'{_hint(page, name)}", name=name)

    setattr(sys.modules[page], "__getattr__", __getattr__)  # noqa: B010 - mypy knows no such attribute of modules


def pages_of(name: str) -> list[str]:
    """Return the contents pages that have a public name; nothing is imported."""
    return _pages().get(name, [])


def _hint(page: str, name: str) -> str:
    if name.startswith("_"):  # Python and its tools look such names up in every module
        return ""
    if page == _FOLDER.name and _source(name).is_file():
        return f" before it is imported: import {page}.{name}"
    pages = _pages()
    if name in pages:
        return f"; it is on {' and '.join(pages[name])}"
    near = difflib.get_close_matches(name, pages, n=1, cutoff=0.75)
    if not near:
        return ""
    return f"; did you mean '{near[0]}'{'' if page in pages[near[0]] else f', on {pages[near[0]][0]}'}?"


def _source(module: str) -> Path:
    """Return the path of the file of a room or of a ground module."""
    room = _FOLDER / module / "__init__.py"
    return room if room.is_file() else _FOLDER / f"{module}.py"


@functools.cache
def _pages() -> dict[str, list[str]]:
    """Return a dict from each public name to the contents pages that have it."""
    root = _FOLDER.name
    found: dict[str, list[str]] = {}
    for stem in ["__init__", *sorted(path.stem for path in _FOLDER.iterdir() if path.stem != "__init__")]:
        module = root if stem == "__init__" else f"{root}.{stem}"
        if _source(stem).is_file():
            listed = re.search(r"^__all__ = (\[[^]]*\])", _source(stem).read_text(encoding="utf-8"), re.MULTILINE)
            for name in ast.literal_eval(listed[1]) if listed else []:
                found.setdefault(name, []).append(module)
    return found
