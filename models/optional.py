"""The one place where `models` imports what is not a core dependency."""

import importlib
from types import ModuleType


def optional(module: str, purpose: str, extra: str = "data") -> ModuleType:
    """The module, or an ImportError that says what it is needed for and how it is installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"sklearn": "scikit-learn"}.get(module.split(".")[0], module)
        raise ImportError(
            f"{package} is needed {purpose}: pip install {package}, or pip install 'tensornet_interp[{extra}]'"
        ) from error
