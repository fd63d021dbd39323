"""Objects on disk: `save` and `load` keep every public value in one safetensors file, without a pickle."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tensornet_interp.checks import check_path
from tensornet_interp.contents import pages_of
from tensornet_interp.disk import parse_json, replace_file
from tensornet_interp.layer import AS_GIVEN, BilinearLayer
from tensornet_interp.optional import import_page
from tensornet_interp.places import check_device, kept_place
from tensornet_interp.registry import decomposition_problems
from tensornet_interp.report import package_version
from tensornet_interp.store import StoredType, get_type, list_types, stored_type
from tensornet_interp.tensorfile import ALL_DTYPES, TensorFile, pack

__all__ = ["FORMAT_VERSION", "load", "save"]

FORMAT, FORMAT_VERSION = "tensornet_interp", 2  # 1 held one layer
_OLD_FORMAT, _OLD_FILE = "tensornet_interp layer 1", "layer.safetensors"
_PACKAGE = __name__.split(".")[0]
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in ALL_DTYPES.values()}
_DEPTH = 100  # levels of nested values
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # numbers that JSON does not have


def save(obj: object, path: str | os.PathLike[str]) -> None:
    """Write an object to one safetensors file, which `load` opens.

    obj: a layer, a network, a result, a report or any other value of a registered type (`register_type`); a tensor; or
    a dict, a list or a tuple of such values. Put several objects into one file as a dict. path: the file. An existing
    file is replaced in one step, after the new file is complete; missing folders are created.

    A tensor is stored under its place in the object, such as "result.outputs". All other values are stored as JSON in
    the metadata. Both have checksums. A tensor that is used twice is stored once. Gradients, devices and strides are
    not stored.
    Raises TypeError if a value cannot be stored, such as a function; the message names its place. Raises ValueError if
    the path is a folder, if values are nested more than 100 levels deep, or if values outside of tensors take more than
    32 MiB. Memory: three times the size of the tensors.

    Example:
    >>> import tempfile
    >>> layer = BilinearLayer(down=torch.ones(3, 4), left=torch.ones(2, 4), right=torch.ones(2, 4), name="layer 3")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"layer": layer, "note": "all ones"}, f"{folder}/kept.safetensors")
    ...     load(f"{folder}/kept.safetensors")
    {'layer': BilinearLayer('layer 3', out=3, in=2, rank=4, float32, basis='as given'), 'note': 'all ones'}
    """
    file = check_path("path", path)
    if file.is_dir():
        raise ValueError(f"path must name a file, and {file} is a folder; give {file / 'name.safetensors'}")
    writer = _Writer()
    words = json.dumps(writer.encode(obj, "", ()), separators=(",", ":"))
    about = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "written_by": f"{_PACKAGE} {package_version()}"}
    content = pack(writer.tensors, about | {"content": words})
    with replace_file(file) as opened:
        opened.write(content)


def load(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Any:
    """Read a file of `save` and return an equal object of the same type; its tensors are equal bit for bit.

    device: the device of the tensors; if it has no float64, float64 tensors are on the CPU. The modules and plugins
    that define the types in the file are imported. Nothing is unpickled: the class of an object makes it from checked
    fields. Files and folders of layers that earlier versions saved can be read too.

    Raises FileNotFoundError if there is no file. Raises ValueError if the file is truncated or edited, has a newer
    format, holds a type that is not registered here, or was not written by `save`. Raises ImportError if the plugin of
    a type cannot be imported. Memory: the size of the tensors.
    """
    file = check_path("path", path)
    place = check_device(device)
    if file.is_dir():
        if not (file / _OLD_FILE).is_file():
            raise ValueError(f"path must name a file that save wrote, and {file} is a folder")
        file = file / _OLD_FILE
    opened = TensorFile(file)
    if opened.metadata.get("format") not in (FORMAT, _OLD_FORMAT):
        raise ValueError(
            f"{file} was not written by save; the room weights opens checkpoints (load_layer), dictionaries"
            " (load_dictionary) and single tensors (load_tensor)"
        )
    with _named(file):
        return _Reader(opened, place).read()


class _Writer:
    """A writer turns objects into JSON and named tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}  # by id of a tensor that `tensors` or its owner keeps alive

    def encode(self, value: Any, place: str, inside: tuple[int, ...]) -> Any:
        """Return the JSON of a value.

        place: the place of the value in the object. inside: the ids of the values that contain it.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
            return self.encode(value.item(), place, inside)
        if kind is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Tensor):
            return {"tensor": self._add(value, place)}
        if isinstance(value, torch.dtype) and value in _DTYPES.values():
            return {"dtype": str(value).removeprefix("torch.")}
        if id(value) in inside:
            raise TypeError(f"{_at(place)} contains itself, so it cannot be saved")
        if len(inside) == _DEPTH:
            raise ValueError(f"{_at(place)} is nested more than {_DEPTH} levels deep")
        inside = (*inside, id(value))
        if kind is np.ndarray:
            return {"array": self._add(self._tensor_of(value, place), place)}
        if kind in (list, tuple, torch.Size):
            items = [self.encode(item, _join(place, i), inside) for i, item in enumerate(value)]
            return items if kind is list else {"tuple": items}
        if kind in (dict, MappingProxyType):
            pairs = [
                [self.encode(key, f"a key of {_at(place)}", inside), self.encode(item, _join(place, key), inside)]
                for key, item in value.items()
            ]
            return {"dict": pairs}
        stored = stored_type(kind)
        if stored is None:
            raise TypeError(
                f"{_at(place)} is a {kind.__module__}.{kind.__qualname__}, which cannot be saved; a class joins with"
                " register_type, and an option can be given as text"
            )
        lost = [name for name in stored.fields if not hasattr(value, name)]
        if lost:
            raise TypeError(f"{_at(place)} lacks {', '.join(lost)}, which its class has registered as fields")
        fields = {name: self.encode(getattr(value, name), _join(place, name), inside) for name in stored.fields}
        return {"object": stored.name, "package": kind.__module__.split(".")[0], "fields": fields}

    def _add(self, tensor: Tensor, place: str) -> str:
        if tensor.layout != torch.strided or tensor.dtype not in _DTYPES.values() or tensor.is_meta:
            raise TypeError(
                f"{_at(place)} is a tensor of {tensor.dtype}, {tensor.layout}, on {tensor.device}; dense tensors are"
                f" saved, of {', '.join(_DTYPES)}"
            )
        name = self._names.get(id(tensor))
        if name is None:
            stem = name = place or "tensor"
            while name in self.tensors or name.startswith("__"):  # "__metadata__" is safetensors' own
                stem, name = stem.lstrip("_"), f"{stem.lstrip('_') or 'tensor'}#{len(self.tensors)}"
            self._names[id(tensor)] = name
            self.tensors[name] = tensor
        return name

    def _tensor_of(self, array: Any, place: str) -> Tensor:
        try:
            return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
        except TypeError:
            raise TypeError(f"{_at(place)} is a numpy array of {array.dtype}, which cannot be saved") from None


class _Reader:
    """A reader makes objects from their JSON and the tensors of a file."""

    def __init__(self, file: TensorFile, device: torch.device) -> None:
        self._file, self._device = file, device
        self._read: dict[str, Tensor] = {}

    def read(self) -> Any:
        about = self._file.metadata
        if about["format"] == _OLD_FORMAT:
            return self._old_layer(parse_json(about["layer"], "layer"))
        if not self._file.verified:
            raise ValueError("its checksums are missing")
        version = int(about["format_version"])
        if version > FORMAT_VERSION:
            raise ValueError(
                f"it has format {version}, written by {about.get('written_by')}, but {_PACKAGE} {package_version()}"
                f" reads formats up to {FORMAT_VERSION}; install a newer version"
            )
        return self._decode(parse_json(about["content"], "content"))

    def _decode(self, words: Any) -> Any:
        match words:
            case list(items):
                return [self._decode(item) for item in items]
            case {"tensor": str(name)}:
                return self._tensor(name)
            case {"array": str(name)}:
                return self._file.read(name, ALL_DTYPES).numpy()
            case {"float": str(name)}:
                return _FLOATS[name]
            case {"dtype": str(name)}:
                return _DTYPES[name]
            case {"tuple": list(items)}:
                return tuple(self._decode(item) for item in items)
            case {"dict": list(pairs)}:
                return {self._decode(key): self._decode(item) for key, item in pairs}
            case {"object": str(name), "package": str(package), "fields": dict(fields)}:
                return self._object(name, package, fields)
            case dict():
                raise ValueError(f"it has a value of {', '.join(words)}, which this version does not know")
        return words

    def _tensor(self, name: str) -> Tensor:
        if name not in self._read:
            read = self._file.read(name, ALL_DTYPES)
            self._read[name] = read.to(kept_place(self._device, read))
        return self._read[name]

    def _object(self, name: str, package: str, fields: Mapping[str, Any]) -> Any:
        stored = _find_type(name, package)
        unknown = [field for field in fields if field not in stored.fields]
        if unknown:
            raise ValueError(
                f"its {name} has fields that are not known here: {', '.join(unknown)}; a newer version of {package}"
                " has written it"
            )
        return stored.make(**{field: self._decode(item) for field, item in fields.items()})

    def _old_layer(self, about: Any) -> BilinearLayer:
        down, left, right = (self._tensor(name) for name in ("down", "left", "right"))
        return BilinearLayer(
            down=down,
            left=left,
            right=right,
            name=about["name"],
            history=about["history"],
            basis=about.get("basis", AS_GIVEN),  # the first files had none
            constant_in=about["constant_in"],
            constant_out=about["constant_out"],
        )


def _find_type(name: str, package: str) -> StoredType:
    """Return the type with this name; import its module or its plugin if the type is not known yet."""
    if package == _PACKAGE and name not in list_types():
        for page in pages_of(name):
            import_page(page)
    if name not in list_types():
        decomposition_problems()  # imports every plugin: one of them may register its result type
    try:
        return get_type(name)
    except ValueError as error:
        raise ValueError(
            f"it holds a {name} of the package {package!r}, which is not known here: install that package, or import it"
            f" before load; known are {', '.join(list_types())}"
        ) from error


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Name the file in errors; an error that a class raises about its fields becomes a ValueError."""
    try:
        yield
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as error:
        said = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(said if str(file) in said else f"{file} cannot be loaded: {said}") from error


def _at(place: str) -> str:
    return f"obj at {place!r}" if place else "obj"


def _join(place: str, part: object) -> str:
    name = str(part).encode("ascii", "backslashreplace").decode()[:80]
    return f"{place}.{name}" if place else name
