"""The one place where an optional dependency is imported."""

import importlib
from types import ModuleType

__all__ = ["optional"]

_PACKAGES = {"sklearn": "scikit-learn", "huggingface_hub": "huggingface-hub"}


def optional(module: str, purpose: str, extra: str = "data") -> ModuleType:
    """Import a module; the ImportError says what the module is needed for and how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = _PACKAGES.get(module.split(".")[0], module)
        raise ImportError(
            f"{package} is needed {purpose}: pip install {package}, or pip install 'tensornet_interp[{extra}]'"
        ) from error
