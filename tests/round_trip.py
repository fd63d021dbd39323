"""Every type that `save` keeps, written here and read in a fresh process: `python tests/round_trip.py` prints a table.

The process that reads imports nothing but `tensornet_interp` before it loads, as a colleague would.
"""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from tensornet_interp import TensorNetwork, load, save
from tensornet_interp.store import stored_type


def same(a, b):
    """Whether two values have equal types and equal parts, tensors and floats bit for bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes()
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if isinstance(a, TensorNetwork):
        return all(same(getattr(a, name), getattr(b, name)) for name in stored_type(type(a)).fields)
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def write(folder):
    from stored_objects import OBJECTS

    for name, value in OBJECTS.items():
        save(value, folder / f"{name}.safetensors")


def read(folder):
    """Load every file, then import what was saved and compare; return the number of objects that are not equal."""
    loaded = {path.stem: load(path) for path in sorted(folder.iterdir())}
    from stored_objects import OBJECTS  # imports every room

    equal = {name: same(loaded[name], value) for name, value in OBJECTS.items()}
    print("| type | fields | equal |\n|---|---|---|")
    for name, value in OBJECTS.items():
        fields = stored_type(type(value)).fields
        print(f"| `{name}` | {', '.join(fields)} | {'yes' if equal[name] else 'NO'} |")
    return len(equal) - sum(equal.values())


def main():
    if len(sys.argv) > 1:
        return read(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return subprocess.run([sys.executable, __file__, folder], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
