"""Arrays in an .npz file, as `numpy.savez` writes them: not packed and no pickles, read without trust in the file."""

import math
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tensornet_interp.disk import open_file

_HEADER = re.compile(  # what `numpy.savez` writes before an array
    rb"\x93NUMPY\x01\x00(?P<length>[\s\S]{2})"
    rb"\{'descr': '(?P<dtype><f[248])', 'fortran_order': (?P<columns>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,18},? ?){0,9})\), \} *\n"
)
_CHUNK = 16 << 20  # bytes


def is_numpy(path: Path) -> bool:
    """Return whether a file begins as `numpy.savez` begins its files: with an archive whose first file is an array."""
    with open_file(path) as file:
        start = file.read(30)
        return start[:4] == b"PK\x03\x04" and file.read(int.from_bytes(start[26:28], "little")).endswith(b".npy")


def read_npz(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an .npz file by name, as tensors; the checksum of each array is verified.

    Raises ValueError if the file is no zip archive, is damaged, or holds arrays that are packed, as
    `numpy.savez_compressed` writes them, or that are not real floating point. Memory: the size of the file.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                if sum(entry.file_size for entry in entries) > size:
                    raise ValueError("its arrays are packed or longer than the file; save them with numpy.savez")
                arrays = {entry.filename.removesuffix(".npy"): _read(archive, entry) for entry in entries}
        except (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{path} is no .npz file of floating-point arrays: {error}") from error
    if len(arrays) < len(entries):
        raise ValueError(f"{path} has two arrays of one name")
    return arrays


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    """Return one array, after a check that its header and the archive agree on its size."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is packed; save the arrays with numpy.savez")
    with archive.open(entry) as file:
        start = file.read(10)
        header = _HEADER.fullmatch(start + file.read(int.from_bytes(start[8:], "little")))
        if header is None:
            raise ValueError(f"{entry.filename} has no header of an array of 16, 32 or 64-bit floating point")
        shape = tuple(int(number) for number in re.findall(rb"\d+", header["shape"]))
        dtype, columns = np.dtype(header["dtype"].decode()), header["columns"] == b"True"
        if math.prod(shape) * dtype.itemsize != entry.file_size - file.tell():
            raise ValueError(f"{entry.filename} has {entry.file_size} bytes, which do not fit its shape {shape}")
        array = np.empty(math.prod(shape), dtype)
        content, done = array.view(np.uint8), 0
        while part := file.read(_CHUNK):  # at the end, zipfile verifies the checksum
            content[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done += len(part)
        if done < len(content):
            raise ValueError(f"{entry.filename} ends after {done} of {len(content)} bytes")
    return torch.from_numpy(np.asarray(array.reshape(shape, order="F" if columns else "C"), order="C"))
