"""Single tensors on disk: in a safetensors file, a sharded folder or on the hub, and the config beside them."""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tensornet_interp.checks import suggestion
from tensornet_interp.optional import optional

WEIGHTS, SHARDS, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
COMPILED = "_orig_mod."  # torch.compile puts it into the names

Source = str | os.PathLike[str]


class Entry(NamedTuple):
    """The place of a tensor in its file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int  # in bytes, from the beginning of the file
    end: int


class WeightFiles:
    """The tensors of a checkpoint by name; opening reads the names, `read` reads one tensor.

    `source`: a safetensors file; a folder with model.safetensors, or with model.safetensors.index.json and its shards,
    or with one safetensors file; or a hub name "owner/name", "owner/name@revision". `_orig_mod.` in names, which
    torch.compile puts there, is left out. A shard is opened (a shard on the hub is fetched) when one of its tensors is
    first read. Memory: the headers.

    Raises FileNotFoundError if nothing is there, ValueError for a pickle or a broken file, ConnectionError if the hub
    cannot be reached.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.metadata: dict[str, str] = {}  # of a single file
        self._headers: dict[str, dict[str, Entry]] = {}  # of each shard that was opened
        path, sharded = _find_weights(source)
        if sharded:
            self._files: dict[str, str] = _shards(path)
        else:
            self._headers[path.name], self.metadata = read_header(path)
            self._files = dict.fromkeys(self._headers[path.name], path.name)
        self._stored: dict[str, str] = {}  # the name without the prefix to the name in the file
        for stored in self._files:
            name = stored.replace(COMPILED, "")
            if name in self._stored:
                raise ValueError(f"{path} has both {self._stored[name]!r} and {stored!r}: one tensor, two values")
            self._stored[name] = stored

    @property
    def names(self) -> tuple[str, ...]:
        """Return all tensor names, sorted."""
        return tuple(sorted(self._stored))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, from the header."""
        return self._entry(name).shape

    def read(self, name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """Read one tensor straight into its own memory; the rest of the file is neither read nor mapped."""
        entry = self._entry(name)
        if entry.dtype not in DTYPES:
            raise ValueError(f"tensor {name!r} is stored as {entry.dtype}; convert it to one of {', '.join(DTYPES)}")
        stored, needed = entry.end - entry.start, math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if stored != needed:
            raise ValueError(f"{entry.path} is corrupt: {name!r} has {stored} bytes, its shape needs {needed}")
        tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="cpu")
        if tensor.nbytes:
            with entry.path.open("rb", buffering=0) as file:
                if hasattr(os, "posix_fadvise"):  # no reading ahead into the tensors of other layers
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                file.seek(entry.start)
                array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
                buffer = memoryview(array)
                while len(buffer):  # one call reads at most 2 GiB
                    count = file.readinto(buffer)
                    if not count:
                        raise ValueError(f"{entry.path} is truncated: it ends inside of {name!r}")
                    buffer = buffer[count:]
        return tensor.to(device=device, dtype=dtype)

    def missing(self, name: str) -> str:
        """Return the message for a tensor that is not there."""
        return f"tensor {name!r} is not in {str(self.source)!r}{suggestion(name, self.names)}"

    def _entry(self, name: str) -> Entry:
        if name not in self._stored:
            raise ValueError(self.missing(name))
        stored = self._stored[name]
        file = self._files[stored]
        if file not in self._headers:
            self._headers[file], _ = read_header(locate(self.source, file))
        if stored not in self._headers[file]:
            raise ValueError(f"{SHARDS} says that {stored!r} is in {file}, which has no such tensor")
        return self._headers[file][stored]


def load_config(source: Source) -> dict[str, Any]:
    """Read config.json without the weights, every key unchanged, unknown ones too.

    The published layout has n_head, n_layer, n_ctx, d_model, d_hidden, bilinear, gate, bias, normalization, tokenizer.
    Raises FileNotFoundError if there is no config.json, ConnectionError if the hub cannot be reached, ValueError if
    the file does not hold a JSON object.
    """
    return read_json(locate(source, CONFIG))


def tensor_names(source: Source) -> tuple[str, ...]:
    """Return the names of all tensors of a checkpoint, sorted; no tensor is read, `_orig_mod.` is left out."""
    return WeightFiles(source).names


def load_tensor(
    source: Source, name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Tensor:
    """Load one tensor, such as an embedding, by its full name; only its own bytes are read.

    `dtype=None` keeps the file's dtype. An unembedding that is tied to the embedding is often stored only once, as the
    embedding. Raises ValueError, with the nearest name, if there is no such tensor.
    """
    return WeightFiles(source).read(name, device=device, dtype=dtype)


def locate(source: Source, file: str, *, cached: bool = False) -> Path:
    """Return the path of one file of a checkpoint; a file on the hub is fetched into the hub's cache.

    `cached=True` looks in that cache only.
    """
    path = Path(source)
    if path.is_file():
        path = path.parent
    if path.is_dir():
        if not (path / file).is_file():
            raise FileNotFoundError(f"{path / file} is missing")
        return path / file
    match = HUB_NAME.fullmatch(source) if isinstance(source, str) else None
    if match is None:
        raise FileNotFoundError(
            f"{str(source)!r} is neither a folder nor a safetensors file here, nor a hub name 'owner/name'"
        )
    hub, errors = (
        optional(module, "for a hub name (or pass a folder)", extra="hub")
        for module in ("huggingface_hub", "huggingface_hub.errors")
    )
    try:
        return Path(hub.hf_hub_download(match["repo"], file, revision=match["revision"], local_files_only=cached))
    except Exception as error:  # the client has many kinds, not all of one family
        absent = isinstance(error, errors.EntryNotFoundError | errors.RepositoryNotFoundError)
        if absent and not isinstance(error, errors.LocalEntryNotFoundError):
            raise FileNotFoundError(f"the hub has no {file} of {source!r} for you: {error}") from error
        raise ConnectionError(
            f"{source!r} is no folder here, and the hub could not be reached for its {file}: copy the checkpoint's "
            f"files ({CONFIG}, {WEIGHTS} or the shards with their index) to a folder and pass that; {error}"
        ) from error


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return the tensors and the metadata of one safetensors file; ValueError if it is not a whole one."""
    try:
        with safe_open(path, framework="pt"):  # sizes, overlaps and bounds: safetensors checks them
            pass
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(size))
        metadata = header.pop("__metadata__", None) or {}
        base = 8 + size
        entries = {
            name: Entry(path, item["dtype"], tuple(item["shape"]), *(base + at for at in item["data_offsets"]))
            for name, item in header.items()
        }
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        with path.open("rb") as file:
            start = file.read(2)
        # a zip archive, or a pickle of protocol 2 to 5
        hint = f"; it looks like a pickle: {_convert(path)}" if start == b"PK" or start[:1] == b"\x80" else ""
        raise ValueError(f"{path} is not a whole safetensors file: corrupt or truncated ({error}){hint}") from error
    size = path.stat().st_size
    for name, at in entries.items():  # two entries of one name: the two readers may take different ones
        if not base <= at.start <= at.end <= size or min(at.shape, default=0) < 0:
            raise ValueError(f"{path} is corrupt or truncated: {name!r} lies outside of it")
    return entries, metadata


def _find_weights(source: Source) -> tuple[Path, bool]:
    """The file with the weights, or (True) the index of the shards."""
    path = Path(source)
    if path.suffix.lower() in PICKLES:
        raise ValueError(f"{path} is a pickle by its name, which can run code when it is opened: {_convert(path)}")
    if path.is_file():
        return path, path.name.endswith(".index.json")
    try:
        return locate(source, WEIGHTS), False
    except OSError as error:
        first = error
    try:
        return locate(source, SHARDS, cached=isinstance(first, ConnectionError)), True
    except OSError:
        if not path.is_dir():
            raise first from None
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0], False
    if found:
        raise ValueError(f"{path} has several safetensors files and no {SHARDS}: pass one of {[f.name for f in found]}")
    pickles = sorted(file for file in path.iterdir() if file.suffix.lower() in PICKLES)
    if pickles:
        raise ValueError(f"{path} has no safetensors file, only pickles such as {pickles[0].name}: {_convert(path)}")
    raise FileNotFoundError(f"{path} has neither {WEIGHTS} nor {SHARDS}")


def _convert(path: Path) -> str:
    """What to do with a pickle."""
    return (
        "convert it where it came from, with safetensors.torch.save_file(torch.load(file, weights_only=True), "
        f"'{WEIGHTS}'), and pass that file or its folder"
    )


def _shards(path: Path) -> dict[str, str]:
    files = read_json(path).get("weight_map")
    if not isinstance(files, Mapping) or not files or not all(isinstance(file, str) for file in files.values()):
        raise ValueError(f"{path} must hold a weight_map from tensor names to files")
    outside = sorted({file for file in files.values() if Path(file).name != file or not file.endswith(".safetensors")})
    if outside:
        raise ValueError(f"{path} must name safetensors files of its own folder, got {outside[0]!r}")
    return dict(files)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; ValueError if the file holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
