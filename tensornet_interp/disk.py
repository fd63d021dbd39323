"""Files that are either the old ones or the new ones."""

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["replace_files"]


def replace_files(parts: Sequence[tuple[Path, bytes]]) -> None:
    """Write every content to its path, in folders that are made where they are absent

    All are complete beside the old ones before they replace them, one step each, so a write that fails leaves the old.
    """
    for path, _ in parts:
        path.parent.mkdir(parents=True, exist_ok=True)
    written = [path.with_name(f".{path.name}.{os.getpid()}") for path, _ in parts]
    try:
        for temporary, (_, content) in zip(written, parts, strict=True):
            temporary.write_bytes(content)
        for temporary, (path, _) in zip(written, parts, strict=True):
            os.replace(temporary, path)
    finally:
        for temporary in written:
            temporary.unlink(missing_ok=True)
