"""Single tensors on disk, in a safetensors file, a sharded folder or on the Hugging Face hub, and their config."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_path, check_text, suggestion
from tensornet_interp.disk import MAX_JSON, parse_json, read_file, read_json
from tensornet_interp.optional import optional
from tensornet_interp.places import check_place
from tensornet_interp.tensorfile import TensorFile, convert

WEIGHTS, SHARDS, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
OWN_CONFIG = "config"  # the content of config.json in the metadata of files that this project wrote
COMPILED = "_orig_mod."  # torch.compile puts it into the names

Source = str | os.PathLike[str]


class WeightFiles:
    """Weight files give the tensors of a checkpoint by name; opening reads only the names, `read` reads one tensor.

    `source`: a safetensors file; a folder with model.safetensors, with model.safetensors.index.json and its shards, or
    with exactly one safetensors file; or a name on the Hugging Face hub, "owner/name" or "owner/name@revision". The
    part `_orig_mod.`, which torch.compile adds to names, is left out. A shard is opened when one of its tensors is
    first read; a shard on the hub is then downloaded. An opened shard stays open, so that all reads come from the same
    version of its file. Memory: the headers.

    Raises FileNotFoundError if there is no such source, ValueError for a pickle or a broken file, ConnectionError if
    the hub cannot be reached.
    """

    def __init__(self, source: Source) -> None:
        check_path("source", source)
        self.source = source
        self.metadata: dict[str, str] = {}  # of a single file
        self._opened: dict[str, TensorFile] = {}
        path, sharded = _find_weights(source)
        if sharded:
            self._files: dict[str, str] = _shards(path)
        else:
            file = self._opened[path.name] = TensorFile(path)
            self.metadata = file.metadata
            self._files = dict.fromkeys(file.entries, path.name)
        self._stored: dict[str, str] = {}  # the name without the prefix to the name in the file
        for stored in self._files:
            name = stored.replace(COMPILED, "")
            if name in self._stored:
                raise ValueError(f"{path} has both {self._stored[name]!r} and {stored!r}: two tensors of one name")
            self._stored[name] = stored

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all tensors, sorted."""
        return tuple(sorted(self._stored))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor; only the header is read."""
        file, stored = self._place(name)
        return file.entries[stored].shape

    def read(self, name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """Return one tensor, read directly into its own memory; no other part of the file is read or mapped.

        If `pack` stored the tensor, its checksum is verified.
        """
        file, stored = self._place(name)
        read = file.read(stored)
        return read.to(*check_place(device, dtype, read))

    def config(self) -> dict[str, Any]:
        """Return the config with which these weights were saved.

        It comes from the weights file itself, or from the config.json beside it if that file holds none.
        """
        if OWN_CONFIG not in self.metadata:
            return read_object(locate(self.source, CONFIG))
        (file,) = self._opened.values()
        _warn_of_another(file.path.with_name(CONFIG), self.metadata[OWN_CONFIG])
        return _object(parse_json(self.metadata[OWN_CONFIG], f"the config in {file.path}"), file.path)

    def missing(self, name: str) -> str:
        """Return the error message for a tensor that is not in the checkpoint."""
        return f"tensor of name {name!r} is not in {str(self.source)!r}{suggestion(name, self.names)}"

    def _place(self, name: str) -> tuple[TensorFile, str]:
        if check_text("name", name, empty=True) not in self._stored:
            raise ValueError(self.missing(name))
        stored = self._stored[name]
        file = self._files[stored]
        if file not in self._opened:
            self._opened[file] = TensorFile(locate(self.source, file))
        if stored not in self._opened[file].entries:
            raise ValueError(
                f"{SHARDS} of {str(self.source)!r} says that {stored!r} is in {file}, which has no such tensor"
            )
        return self._opened[file], stored


def load_config(source: Source) -> dict[str, Any]:
    """Return the config of a checkpoint with all its keys, also unknown ones; no weight is read.

    Models that this project saved keep their config in the safetensors file, so weights and config always belong
    together. Their config.json is only a copy for readers, and a warning says if it differs. Other models keep their
    config in config.json. The published layout has n_head, n_layer, n_ctx, d_model, d_hidden, bilinear, gate, bias,
    normalization and tokenizer.
    Raises FileNotFoundError if there is no config, ConnectionError if the hub cannot be reached, ValueError if the
    config is not a JSON object.
    """
    path = check_path("source", source)
    weights = path if path.is_file() else path / WEIGHTS
    if weights.is_file() and weights.suffix == ".safetensors":
        return WeightFiles(weights).config()
    return read_object(locate(source, CONFIG))


def tensor_names(source: Source) -> tuple[str, ...]:
    """Return the names of all tensors of a checkpoint, sorted and without `_orig_mod.`; no tensor is read."""
    return WeightFiles(source).names


def load_tensor(
    source: Source, name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Tensor:
    """Load one tensor, such as an embedding, by its full name; no other tensor is read.

    `dtype=None` keeps the dtype of the file. An unembedding that is tied to the embedding is often stored only once,
    under the name of the embedding. Raises ValueError with the most similar name if there is no such tensor.
    """
    return WeightFiles(source).read(name, device=device, dtype=dtype)


def locate(source: Source, file: str, *, cached: bool = False) -> Path:
    """Return the path of one file of a checkpoint; a file on the hub is downloaded into the cache of the hub.

    cached: if True, only this cache is searched, and nothing is downloaded.
    """
    path = Path(source)
    if path.exists() and not path.is_dir():
        path = path.parent
    if path.is_dir():
        if not (path / file).exists():
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
            raise FileNotFoundError(f"the hub has no {file} of {source!r}, or denies you access: {error}") from error
        raise ConnectionError(
            f"{source!r} is no folder here, and the hub could not be reached for its {file}: copy the checkpoint's "
            f"files ({CONFIG}, {WEIGHTS} or the shards with their index) to a folder and pass this folder; {error}"
        ) from error


def _find_weights(source: Source) -> tuple[Path, bool]:
    """Return the path of the weights file and False, or the path of the index of the shards and True."""
    path = Path(source)
    if path.suffix.lower() in PICKLES:
        raise ValueError(f"{path} is a pickle by its name, and opening a pickle can run code: {convert(path)}")
    if path.exists() and not path.is_dir():
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
        raise ValueError(f"{path} has no safetensors file, only pickles such as {pickles[0].name}: {convert(path)}")
    raise FileNotFoundError(f"{path} has neither {WEIGHTS} nor {SHARDS}")


def _shards(path: Path) -> dict[str, str]:
    files = read_object(path).get("weight_map")
    if not isinstance(files, Mapping) or not files or not all(isinstance(file, str) for file in files.values()):
        raise ValueError(f"{path} must hold a weight_map from tensor names to files")
    outside = sorted({file for file in files.values() if Path(file).name != file or not file.endswith(".safetensors")})
    if outside:
        raise ValueError(f"{path} must name safetensors files of its own folder, got {outside[0]!r}")
    return dict(files)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raise ValueError if the file holds anything else."""
    return _object(read_json(path), path)


def _warn_of_another(copy: Path, text: str) -> None:
    try:
        same = read_file(copy, MAX_JSON) == text.encode()
    except (OSError, ValueError) as error:
        same = isinstance(error, FileNotFoundError)
    if not same:
        warnings.warn(
            f"{copy} differs from the config that is stored in the weights file beside it, and is not used; save the "
            "model again to change its config",
            stacklevel=5,
        )


def _object(content: object, where: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold a JSON object, got {type(content).__name__}")
    return content
