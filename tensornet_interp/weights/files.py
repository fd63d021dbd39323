"""Single tensors on disk, in a safetensors file, a sharded folder or on the Hugging Face hub, and their config."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_path, check_text, suggestion
from tensornet_interp.disk import MAX_JSON, parse_json, read_file, read_json
from tensornet_interp.places import move
from tensornet_interp.tensorfile import TensorFile, convert, explain
from tensornet_interp.weights.layouts import LAYOUTS
from tensornet_interp.weights.sources import CONFIG, NUMPY, PICKLES, SHARDS, WEIGHTS, Source, inside, locate
from tensornet_interp.weights.wrappers import bare, unwrapped

OWN_CONFIG = "config"  # the content of config.json in the metadata of files that this project wrote


class WeightFiles:
    """Weight files give the tensors of a checkpoint by name; opening reads only the names, `read` reads one tensor.

    `source`: a safetensors file; a folder with model.safetensors, with model.safetensors.index.json and its shards, or
    with exactly one safetensors file; or a name on the Hugging Face hub, "owner/name" or "owner/name@revision". If
    there is a folder "owner" here, only the latter is a name on the hub. `subfolder`: the folder in the source, such as
    "12-mlp-out-x4-k30". `names` leaves out what torch.compile, FSDP and activation checkpoints put into names
    (`_orig_mod.`, `_fsdp_wrapped_module.`, `_checkpoint_wrapped_module.`); `shape` and `read` also take a name without
    or with the prefixes `module.`, `model.` and `base_model.model.` if only one tensor can be meant. A shard is opened
    when one of its tensors is first read; a shard on the hub is then downloaded. An opened shard stays open, so that
    all reads come from the same version of its file. Memory: the headers.

    Raises FileNotFoundError if there is no such source, ValueError for a pickle or a broken file, ConnectionError if
    the hub cannot be reached.
    """

    def __init__(self, source: Source, subfolder: str = "") -> None:
        check_path("source", source)
        self.source, self.subfolder = source, subfolder
        self.metadata: dict[str, str] = {}  # of a single file
        self._opened: dict[str, TensorFile] = {}
        path, sharded = _find_weights(source, subfolder)
        if sharded:
            self._files: dict[str, str] = _shards(path)
        else:
            file = self._opened[path.name] = TensorFile(path)
            self.metadata = file.metadata
            self._files = dict.fromkeys(file.entries, path.name)
        self._stored: dict[str, str] = {}  # the name without the prefix to the name in the file
        for stored in self._files:
            name = unwrapped(stored)
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

    def dtype(self, name: str) -> str:
        """Return the dtype of a tensor as safetensors calls it, such as "BF16"; only the header is read."""
        file, stored = self._place(name)
        return file.entries[stored].dtype

    @property
    def shards(self) -> set[str]:
        """Return the names of the files that hold the tensors."""
        return set(self._files.values())

    def read(self, name: str, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """Return one tensor, read directly into its own memory; no other part of the file is read or mapped.

        If `pack` stored the tensor, its checksum is verified.
        """
        file, stored = self._place(name)
        read = file.read(stored)
        return move(name, read, device, dtype)

    def config(self) -> dict[str, Any]:
        """Return the config with which these weights were saved.

        It comes from the weights file itself, or from the config.json beside it if that file holds none.
        """
        if OWN_CONFIG not in self.metadata:
            return read_object(locate(self.source, CONFIG, self.subfolder))
        (file,) = self._opened.values()
        _warn_of_another(file.path.with_name(CONFIG), self.metadata[OWN_CONFIG])
        return _object(parse_json(self.metadata[OWN_CONFIG], f"the config in {file.path}"), file.path)

    def missing(self, name: str) -> str:
        """Return the error message for a tensor that is not in the checkpoint."""
        tied = [layout.embedding for layout in LAYOUTS.values() if layout.unembedding == str(name)]
        hint = suggestion(name, self.names)
        for other in set(tied) & self._stored.keys():
            hint = f"; an unembedding that is tied to the embedding is stored once, as {other!r}"
        return f"tensor of name {name!r} is not in {str(self.source)!r}{hint}"

    def _place(self, name: str) -> tuple[TensorFile, str]:
        known = unwrapped(check_text("name", name, empty=True))
        if known not in self._stored:
            same = [other for other in self.names if bare(other) == bare(name)]
            if len(same) > 1:
                raise ValueError(f"name must be one of {', '.join(map(repr, same))}, got {name!r}")
            if not same:
                raise ValueError(self.missing(name))
            known = same[0]
        stored = self._stored[known]
        file = self._files[stored]
        if file not in self._opened:
            self._opened[file] = TensorFile(locate(self.source, file, self.subfolder))
        if stored not in self._opened[file].entries:
            raise ValueError(
                f"{SHARDS} of {str(self.source)!r} says that {stored!r} is in {file}, which has no such tensor"
            )
        return self._opened[file], stored


def load_config(source: Source, subfolder: str = "") -> dict[str, Any]:
    """Return the config of a checkpoint with all its keys, also unknown ones; no weight is read.

    Models that this project saved keep their config in the safetensors file, so weights and config always belong
    together. Their config.json is only a copy for readers, and a warning says if it differs. Other models keep their
    config in config.json. The published layout has n_head, n_layer, n_ctx, d_model, d_hidden, bilinear, gate, bias,
    normalization and tokenizer. `source` and `subfolder`: see `WeightFiles`.
    Raises FileNotFoundError if there is no config, ConnectionError if the hub cannot be reached, ValueError if the
    config is not a JSON object.
    """
    path = check_path("source", source) / inside(source, subfolder)
    weights = path if path.is_file() else path / WEIGHTS
    if weights.is_file() and weights.suffix == ".safetensors":
        return WeightFiles(weights).config()
    return read_object(locate(source, CONFIG, subfolder))


def tensor_names(source: Source, subfolder: str = "") -> tuple[str, ...]:
    """Return the names of all tensors of a checkpoint, as `WeightFiles.names` has them; no tensor is read."""
    return WeightFiles(source, subfolder).names


def load_tensor(
    source: Source,
    name: str,
    *,
    subfolder: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Load one tensor, such as an embedding, by its full name; no other tensor is read.

    `dtype=None` keeps the dtype of the file. An unembedding that is tied to the embedding is often stored only once,
    under the name of the embedding. Raises ValueError with the most similar name if there is no such tensor.
    """
    return WeightFiles(source, subfolder).read(name, device=device, dtype=dtype)


def _find_weights(source: Source, subfolder: str) -> tuple[Path, bool]:
    """Return the path of the weights file and False, or the path of the index of the shards and True."""
    path = Path(source) / inside(source, subfolder)
    if path.suffix.lower() in PICKLES and path.is_file():
        known = explain(path) or f"is a pickle by its name, and opening a pickle can run code: {convert([path])}"
        raise ValueError(f"{path} {known}")
    if path.exists() and not path.is_dir():
        return path, path.name.endswith(".index.json")
    try:
        return locate(source, WEIGHTS, subfolder), False
    except OSError as error:
        first = error
    try:
        return locate(source, SHARDS, subfolder, cached=isinstance(first, ConnectionError)), True
    except OSError:
        if not path.is_dir():
            raise first from None
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0], False
    if found:
        raise ValueError(f"{path} has several safetensors files and no {SHARDS}: pass one of {[f.name for f in found]}")
    for suffixes, kind in ((PICKLES, "pickles"), (NUMPY, "NumPy files")):
        others = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes and file.is_file())
        if others:
            shards = [file for file in others if file.name.startswith("pytorch_model")] or others[:1]
            raise ValueError(f"{path} has no safetensors file, only {kind} such as {shards[0].name}: {convert(shards)}")
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
    try:
        return _object(read_json(path), path)
    except ValueError:
        known = explain(path)
        if not known:
            raise
        raise ValueError(f"{path} {known}") from None


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
