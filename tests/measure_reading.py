"""Run by itself: opens layer argv[2] of folder argv[1] and prints what that read and how memory grew, as JSON.

read: bytes handed over by read calls. cached: bytes of the file that the kernel holds afterwards, of none before (a
mapped page or reading ahead would show here), None where the file system keeps them. peak: growth of resident memory.
"""

import ctypes
import json
import mmap
import os
import sys
from pathlib import Path

from tensornet_interp import BilinearLayer  # noqa: F401 - imported before memory is measured
from tensornet_interp.weights import load_layer


def counter(file, key):
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def cached(descriptor, size):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    failed = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages)
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    if failed:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


folder, index = Path(sys.argv[1]), int(sys.argv[2])
path = folder / "model.safetensors"
size = path.stat().st_size
descriptor = os.open(path, os.O_RDONLY)
os.fsync(descriptor)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
dropped = cached(descriptor, size) == 0
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
memory, before = counter("/proc/self/status", "VmRSS:"), counter("/proc/self/io", "rchar:")
layer = load_layer(folder, index)
read = counter("/proc/self/io", "rchar:") - before
peak = counter("/proc/self/status", "VmHWM:") - memory
kept = cached(descriptor, size) if dropped else None
print(json.dumps({"file": size, "read": read, "peak": 1024 * peak, "cached": kept, "rank": layer.rank}))
