"""Import of modules by name: of optional dependencies, and of the rooms of this package that a file names."""

import importlib
from types import ModuleType

__all__ = ["import_page", "optional"]

_PACKAGES = {"sklearn": "scikit-learn", "huggingface_hub": "huggingface-hub"}


def optional(module: str, purpose: str, extra: str = "data") -> ModuleType:
    """Return an imported module; if it is not installed, the ImportError says why it is needed and how to install it.

    purpose: the words after "is needed", such as "for a DataFrame". extra: the extra of this package that installs the
    module.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        package = _PACKAGES.get(package, package)
        raise ImportError(
            f"{package} is needed {purpose}: pip install {package}, or pip install 'tensornet_interp[{extra}]'"
        ) from error


def import_page(module: str) -> ModuleType:
    """Import a contents page of this package, by the name that `contents.pages_of` gives."""
    return importlib.import_module(module)
