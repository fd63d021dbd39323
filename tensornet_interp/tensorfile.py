"""Safetensors files: open a file once, check its header against its size, and read its tensors one by one."""

import json
import math
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

from tensornet_interp.checks import check_kind, check_mapping, check_text
from tensornet_interp.disk import open_file, parse_json
from tensornet_interp.keys import digest

__all__ = ["ALL_DTYPES", "DTYPES", "TensorFile", "convert", "explain", "pack"]

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WHOLE = {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8}
ALL_DTYPES = {**DTYPES, **WHOLE, "BOOL": torch.bool}
BITS = {  # bits per entry, for every dtype that safetensors knows
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **{"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4},
}
MAX_HEADER = 32 << 20
SUMS = "checksums"


class Entry(NamedTuple):
    """An entry of the header holds the dtype and the shape of a tensor, and the bytes at which it starts and ends.

    The byte `end` is the first one after the tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int  # in bytes, from the beginning of the file
    end: int


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file with a checksum of every tensor and of the metadata.

    `WeightFiles` verifies the checksums when it reads. The same arguments always give the same bytes; the writer of
    the safetensors library does not ensure this, because the order of its metadata varies. Each tensor is copied to the
    CPU; tensors that share memory are stored separately. Memory: three times the tensors.
    """
    for name, tensor in check_mapping("tensors", tensors).items():
        if check_kind(f"tensors[{name!r}]", tensor, Tensor).layout != torch.strided:
            raise TypeError(f"tensors[{name!r}] must be dense, got {tensor.layout}")
    for name, text in check_mapping("metadata", metadata).items():
        check_text(f"metadata[{name!r}]", text, empty=True)
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    sums = {"metadata": digest(dict(metadata)), "tensors": {name: _sum(tensor) for name, tensor in copies.items()}}
    content = memoryview(save(copies, {**metadata, SUMS: json.dumps(sums)}))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(bytes(content[8:start])), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stand at multiples of 8 bytes
    if len(header) > MAX_HEADER:
        raise ValueError(f"names and metadata take {len(header)} bytes, but a header has at most {MAX_HEADER}")
    return b"".join([len(header).to_bytes(8, "little"), header, content[start:]])


class TensorFile:
    """A tensor file gives the tensors of one safetensors file by name; opening it reads only the header.

    The file is opened once: if another file later replaces it at this path, reads still use the opened one. If the
    header does not match the size of the file, ValueError is raised before memory is allocated for the tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = open_file(path).detach()  # type: ignore[attr-defined]
        weakref.finalize(self, self._file.close)
        self._opened = self._stamp()
        self.entries, self.metadata = self._header()
        self._sums = self._checksums()

    @property
    def verified(self) -> bool:
        """Return True if the file has checksums of its metadata and tensors."""
        return self._sums is not None

    def read(self, name: str, dtypes: Mapping[str, torch.dtype] = DTYPES) -> Tensor:
        """Return one tensor, read directly into new memory; no other part of the file is read or mapped.

        dtypes: the allowed dtypes by their names in the file; by default, the floating-point types that the package
        uses. Raises ValueError if the tensor has another dtype, or if the checksum does not match.
        """
        entry = self.entries[name]
        if entry.dtype not in dtypes:
            raise ValueError(f"tensor {name!r} is stored as {entry.dtype}; convert it to one of {', '.join(dtypes)}")
        tensor = torch.empty(entry.shape, dtype=dtypes[entry.dtype], device="cpu")
        if tensor.nbytes:
            array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
            self._read_into(memoryview(array), name, entry.start)
        if self._sums is not None and self._sums.get(name) != _sum(tensor):
            raise ValueError(f"{self.path} is corrupt: the checksum of {name!r} does not match")
        return tensor

    def _read_into(self, buffer: memoryview, name: str, start: int) -> None:
        if hasattr(os, "posix_fadvise"):  # no reading ahead into the tensors of other layers
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while len(buffer):  # one call reads at most 2 GiB
            if sys.platform != "win32":
                count = os.preadv(self._file.fileno(), [buffer], start)  # threads and forks share the place of a seek
            else:
                self._file.seek(start)
                count = self._file.readinto(buffer)
            if not count:
                raise ValueError(f"{self.path} is truncated: it ends inside of {name!r}")
            buffer, start = buffer[count:], start + count
        if self._stamp() != self._opened:
            raise ValueError(
                f"{self.path} was changed after it had been opened, so its tensors may come from two different models"
            )

    def _stamp(self) -> tuple[int, int]:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns

    def _header(self) -> tuple[dict[str, Entry], dict[str, str]]:
        start = self._file.read(8) or b""
        length, size = int.from_bytes(start, "little"), self._opened[0]
        try:
            if len(start) < 8 or length > min(size - 8, MAX_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = parse_json(self._file.read(length), "the header")
            metadata = header.pop("__metadata__", None) or {}
            if not all(isinstance(text, str) for text in (*metadata, *metadata.values())):
                raise ValueError("metadata that are not text")
            entries = {name: _entry(item, 8 + length) for name, item in header.items()}
            _check_layout(entries, 8 + length, size)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            known = explain(self.path)
            if known:
                raise ValueError(f"{self.path} {known}") from error
            raise ValueError(f"{self.path} is not a whole safetensors file: corrupt or truncated ({error})") from error
        return entries, metadata

    def _checksums(self) -> dict[str, str] | None:
        text = self.metadata.pop(SUMS, None)
        if text is None:  # of another writer
            return None
        sums = parse_json(text, f"{SUMS} of {self.path}")
        tensors = sums.get("tensors") if isinstance(sums, dict) else None
        if not isinstance(tensors, dict) or sums.get("metadata") != digest(self.metadata):
            raise ValueError(f"{self.path} is corrupt: the checksum of its metadata does not match")
        return tensors


def _sum(tensor: Tensor) -> str:
    return digest(tensor.shape, tensor.reshape(-1))


def _entry(item: Mapping[str, Any], base: int) -> Entry:
    shape, (start, end) = tuple(item["shape"]), item["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError(f"shape {shape} or offsets {(start, end)} that are no natural numbers")
    if item["dtype"] not in BITS:
        raise ValueError(f"unknown dtype {item['dtype']!r}")
    if math.prod(shape) * BITS[item["dtype"]] != (end - start) * 8:
        raise ValueError(f"{end - start} bytes for shape {shape} of {item['dtype']}")
    return Entry(item["dtype"], shape, base + start, base + end)


def _check_layout(entries: Mapping[str, Entry], base: int, size: int) -> None:
    """Raise ValueError unless the tensors fill the file without gaps, from the end of the header to the end."""
    at = base
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.start != at:
            raise ValueError(f"{name!r} starts at byte {entry.start}, where {at} is expected")
        at = entry.end
    if at != size:
        raise ValueError(f"the tensors end at byte {at} of {size}")


def explain(path: Path) -> str:
    """Return what a file that is no safetensors file is, by its first bytes, and what to do; "" if it is not known."""
    with open_file(path) as file:
        start = file.read(START)
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer and not the file itself: run 'git lfs pull' in its repository"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return (
            "is an HTML page and not the file itself: download it again, on the hub from the address with /resolve/ "
            "instead of /blob/, and signed in if the model asks for it"
        )
    if _is_numpy(start):
        return f"is a NumPy file: {convert([path])}"
    if start[:2] == b"PK" or start[:1] == b"\x80":  # a zip archive, or a pickle of protocol 2 to 5
        return f"looks like a pickle, and opening a pickle can run code: {convert([path])}"
    return ""


def convert(paths: Sequence[Path]) -> str:
    """Return what error messages advise about files of one other format: the code that makes one safetensors file."""
    with open_file(paths[0]) as file:
        start = file.read(START)
    target = paths[0].with_suffix(".safetensors")
    if target in paths:
        target = target.with_stem(f"{target.stem}-converted")
    if _is_numpy(start):
        how, steps = "", NUMPY
    elif start[:2] == b"PK" or start.startswith(TORCH):
        how, steps = "", PICKLE.format(load=TORCH_LOAD)
    else:
        how, steps = "if you trust it, since this runs its code, ", PICKLE.format(load=PICKLE_LOAD)
    code = CONVERT.format(files=[str(path) for path in paths], steps=steps, target=str(target))
    return f"convert it {how}with\n\n{code}\nand pass {str(target)!r}"


def _is_numpy(start: bytes) -> bool:
    name = start[30 : 30 + int.from_bytes(start[26:28], "little")]  # of the first file in a zip archive
    return start.startswith(b"\x93NUMPY") or (start[:2] == b"PK" and name.endswith(b".npy"))


START = 512  # bytes that show what a file is
TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began files before it wrote zip archives
CONVERT = """\
    import pickle, numpy, torch
    from safetensors.torch import save_file
    tensors = {{}}
    for path in {files}:
{steps}
        tensors |= {{name: torch.as_tensor(x).clone().contiguous() for name, x in found.items() if hasattr(x, "shape")}}
    save_file(tensors, {target!r})
"""
PICKLE = """\
        state = {load}
        inside = [x for x in (state, *state.values()) if hasattr(x, "items")]  # such as state["model_state_dict"]
        found = max(inside, key=lambda x: sum(hasattr(value, "shape") for value in x.values()))"""
# opened first, because torch.load takes a pickle whose name ends with .safetensors for a safetensors file
TORCH_LOAD = 'torch.load(open(path, "rb"), map_location="cpu", weights_only=True)'
PICKLE_LOAD = 'pickle.load(open(path, "rb"))'
NUMPY = """\
        found = numpy.load(path)
        found = found if hasattr(found, "items") else {"array": found}"""
