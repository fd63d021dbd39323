"""Say what files of weights hold, from their headers: which layout, which layers, and how to open them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensornet_interp.checks import check_choice, check_path
from tensornet_interp.disk import parse_json
from tensornet_interp.features.saelens import check_config
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record
from tensornet_interp.tensorfile import TensorFile, explain
from tensornet_interp.weights.attention import attention_layout
from tensornet_interp.weights.configs import find_gates
from tensornet_interp.weights.dictionaries import (
    CROSS_LAYER_FILE,
    GEMMA_FILE,
    PAPER_FOLDER,
    SAELENS_CONFIG,
    SAELENS_FILE,
)
from tensornet_interp.weights.files import WeightFiles, read_object
from tensornet_interp.weights.layers import sizes_of
from tensornet_interp.weights.layouts import LAYOUTS, SAVED_MODEL, Layout, saved_model_layout
from tensornet_interp.weights.numpyfile import is_numpy
from tensornet_interp.weights.sources import NUMPY, PICKLES, SHARDS, Source, near
from tensornet_interp.weights.wrappers import adapter, bare

_DEPTH = 3  # folders below the given one
_MOST = 200  # files
_NAMES = 6  # tensors that are listed


@register_type("InspectedFile")
@dataclass(frozen=True)
class InspectedFile:
    """An inspected file says what one file of weights holds, or one index with its shards."""

    path: str
    kind: str  # "checkpoint", "dictionary", "saved by tensornet_interp", "other tensors", "not readable"
    layout: str = ""  # the layout of `load_layer`
    layers: tuple[Record, ...] = ()  # of a checkpoint: layer, in, out, rank, dtype, gate
    contents: tuple[str, ...] = ()  # of anything else: what is in it
    opened_by: str = ""  # the call that opens it
    note: str = ""


@register_type("Inspection")
@dataclass(frozen=True)
class Inspection:
    """An inspection says what the files of a folder hold; printed, it is a table."""

    files: tuple[InspectedFile, ...]

    def records(self) -> list[Record]:
        """Return one record per layer of a checkpoint, and one per other file."""
        columns = dict.fromkeys(("layer", "in", "out", "rank", "dtype", "gate"))
        return [
            {"path": file.path, "kind": file.kind, "layout": file.layout or None} | columns | layer
            for file in self.files
            for layer in file.layers or ({},)
        ]

    def __str__(self) -> str:
        return "\n".join(line for file in self.files for line in _lines(file))


def inspect_files(source: str | Path) -> Inspection:
    """Return what a file of weights holds, or every such file in a folder, from the headers alone; nothing is loaded.

    source: a safetensors file, an index of shards, or a folder, which is searched 3 levels deep for up to 200 files.
    Checkpoints: the layout of `load_layer` that fits, and the sizes, the dtype and the gate of every layer; how
    `load_attention` opens attention.
    Dictionaries: which of the formats. Files of `save`: the types of the objects. For a file that cannot be read,
    such as a pickle, the reason and what to do.
    Raises FileNotFoundError if there is no such file or folder, or if a folder has no file of weights.

    Example:
    >>> import tempfile
    >>> from tensornet_interp import save
    >>> from tensornet_interp.testing import random_layer
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(random_layer(3, 5, 4, seed=0), f"{folder}/layer.safetensors")
    ...     print(inspect_files(f"{folder}/layer.safetensors").files[0].contents)
    ('BilinearLayer: down (3, 4), left (5, 4), right (5, 4), F64',)
    """
    path = check_path("source", source)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing{near(path)}")
    found = list(_weights(path, 0))[:_MOST] if path.is_dir() else [path]
    if not found:
        raise FileNotFoundError(f"{path} has no file of weights (safetensors, pickles or NumPy files)")
    return Inspection(tuple(_inspected(file, path) for file in found))


def layer_indices(source: Source, *, layout: str | Layout = "published", subfolder: str = "") -> list[int]:
    """Return the sorted indices of the layers of a checkpoint, for `load_layer`, whose arguments these are."""
    files = WeightFiles(source, subfolder)
    if not isinstance(layout, Layout):
        check_choice("layout", layout, (*LAYOUTS, SAVED_MODEL))
        layout = saved_model_layout(files.config(), 0) if layout == SAVED_MODEL else LAYOUTS[layout]
    found = layout.in_file(files.names, 0).indices(files.names)
    if not found:
        raise ValueError(f"layout fits no layer of {str(source)!r}; weights.inspect_files shows what it holds")
    return found


def _weights(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files of weights in a folder; an index stands for its shards."""
    inside = sorted(folder.iterdir())
    files = [path for path in inside if path.is_file()]
    index = folder / SHARDS
    suffixes = (*PICKLES, *NUMPY, ".safetensors")
    shards = _shards_of(index) if index in files else set()
    yield from ([index] if index in files else [])
    yield from (path for path in files if path.suffix.lower() in suffixes and path.name not in shards)
    if depth < _DEPTH:
        for path in inside:
            if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
                yield from _weights(path, depth + 1)


def _shards_of(index: Path) -> set[str]:
    try:
        return WeightFiles(index).shards
    except (OSError, ValueError):  # the index itself is then reported as not readable
        return set()


def _inspected(file: Path, root: Path) -> InspectedFile:
    name = str(file.relative_to(root)) if file != root else file.name
    try:
        if file.name == GEMMA_FILE and is_numpy(file):
            return InspectedFile(name, "dictionary", "Gemma Scope", opened_by=f"load_dictionary({str(file.parent)!r})")
        files = WeightFiles(file)
        if files.metadata.get("format", "").startswith("tensornet_interp"):
            return _saved(name, file)
        names = set(map(bare, files.names))
        if file.name == SAELENS_FILE or {"W_enc", "W_dec"} <= names or {"w_enc.weight", "w_dec.weight"} <= names:
            return _dictionary(name, file, files)
        if CROSS_LAYER_FILE.fullmatch(file.name) and file.stem in files.names:
            call = f"load_cross_layer({str(file.parent)!r}, {file.stem.rpartition('_')[2]})"
            return InspectedFile(name, "dictionary", "circuit-tracer", contents=_listed(files), opened_by=call)
        return _checkpoint(name, file, files)
    except (OSError, ValueError) as error:
        known = explain(file) if file.is_file() else ""
        said = f"it {known}" if known else str(error)
        return InspectedFile(name, "not readable", note=said)


def _saved(name: str, file: Path) -> InspectedFile:
    """Return what a file of `save` holds: the types of its objects, or of the entries of its dict."""
    opened = TensorFile(file)
    words = parse_json(opened.metadata.get("content", "null"), f"the content of {file}")
    if isinstance(words, dict) and isinstance(words.get("dict"), list):
        entries = [(f"{key}: ", value) for key, value in words["dict"]]
    else:
        entries = [("", words)]
    contents = tuple(f"{key}{_described(value, opened)}" for key, value in entries)
    writer = opened.metadata.get("written_by", "an earlier version")
    return InspectedFile(name, f"saved by {writer}", contents=contents, opened_by=f"load({str(file)!r})")


def _described(words: Any, file: TensorFile) -> str:
    match words:
        case {"object": str(kind), "fields": dict(fields)}:
            tensors = {field: value["tensor"] for field, value in fields.items() if _is_tensor(value)}
            return f"{kind}: {_shapes(tensors, file)}" if tensors else kind
        case {"tensor": str(name)} | {"array": str(name)}:
            return _shapes({"tensor": name}, file)
        case {"tuple": list(items)} | list(items):
            return f"{len(items)} values: {', '.join(_described(item, file) for item in items[:_NAMES])}"
        case {"dict": list(items)}:
            return f"dict of {len(items)} values"
        case None if "down" in file.entries:  # a layer of an earlier version
            return f"BilinearLayer: {_shapes({name: name for name in sorted(file.entries)}, file)}"
    return repr(words)[:80]


def _is_tensor(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("tensor"), str)


def _shapes(tensors: Mapping[str, str], file: TensorFile) -> str:
    known = {field: file.entries[name] for field, name in tensors.items() if name in file.entries}
    dtypes = dict.fromkeys(entry.dtype for entry in known.values())
    return ", ".join([*(f"{field} {entry.shape}" for field, entry in known.items()), *dtypes])


def _dictionary(name: str, file: Path, files: WeightFiles) -> InspectedFile:
    names = list(map(bare, files.names))
    saelens = "w_enc.weight" not in names
    weight = "w_enc.weight" if not saelens else "W_enc" if "W_enc" in names else "W_dec"
    shape = files.shape(weight)
    width, features = shape if weight == "W_enc" else shape[::-1]
    layout = "SAELens" if saelens else "Pearce et al."
    whole = file.name == SAELENS_FILE or PAPER_FOLDER.fullmatch(file.parent.name)
    note = "" if whole else "its folder does not say k: see load_dictionary"
    contents = (f"{features} features of size {width}, {files.dtype(weight)}",)
    call = f"load_dictionary({str(file.parent)!r})"
    if file.name == SAELENS_FILE:
        try:
            check_config(read_object(file.with_name(SAELENS_CONFIG)), SAELENS_CONFIG)
        except (OSError, TypeError, ValueError) as error:
            note, call = str(error), ""
    return InspectedFile(name, "dictionary", layout, (), contents, call, note)


def _checkpoint(name: str, file: Path, files: WeightFiles) -> InspectedFile:
    options = _options(files)
    source = file.parent if file.name == SHARDS else file
    attention = attention_layout(files)
    opened = f"load_attention({str(source)!r}, 0, layout={attention!r})" if attention else ""
    also = (f"attention: {opened}",) if attention else ()
    for title, layout in _layouts(options):
        here = layout.in_file(files.names, 0)
        layers = [_layer(files, here.at(index), index, options) for index in here.indices(files.names)]
        known = [layer for layer in layers if layer is not None]
        if known:
            call = f"load_layer({str(source)!r}, {known[0]['layer']}, layout={title!r})"
            more = f"{len(files.names)} tensors" + ("" if options else "; no config.json: gate and norm are not known")
            return InspectedFile(name, "checkpoint", title, tuple(known), also, call, more)
    note = (
        adapter(files.names)
        or f"no layout of load_layer fits ({', '.join((*LAYOUTS, SAVED_MODEL))}): describe it with Layout(...)"
    )
    return InspectedFile(name, "other tensors", contents=_listed(files), opened_by=opened, note=note)


def _listed(files: WeightFiles) -> tuple[str, ...]:
    listed = [f"{tensor} {files.shape(tensor)}, {files.dtype(tensor)}" for tensor in files.names[:_NAMES]]
    if len(files.names) > _NAMES:
        listed.append(f"... and {len(files.names) - _NAMES} further tensors")
    return tuple(listed)


def _options(files: WeightFiles) -> dict[str, Any]:
    try:
        options = files.config()
    except FileNotFoundError:
        return {}
    inner = options.get("text_config", options.get("config"))
    return {**options, **inner} if isinstance(inner, Mapping) else options


def _layouts(options: Mapping[str, Any]) -> Iterator[tuple[str, Layout]]:
    if "class" in options:
        with suppress(TypeError, ValueError):  # a class of another project
            yield SAVED_MODEL, saved_model_layout(options, 0)
    yield from LAYOUTS.items()


def _layer(files: WeightFiles, layout: Layout, index: int, options: Mapping[str, Any]) -> Record | None:
    """Return the sizes of a layer; None if a weight is missing or the sizes do not agree."""
    if not set(layout.weights.values()) <= set(files.names):
        return None
    sizes = sizes_of(files, layout, layout.weights)
    if sizes is None:
        return None
    gates = find_gates(layout, options)
    if options.get("bilinear") is False:
        gates = ["an ordinary MLP: bilinear=false in config.json"]
    gate = "; ".join(gates) if gates else "none" if options else "not known"
    dtypes = dict.fromkeys(files.dtype(name) for name in layout.weights.values())
    return {"layer": index, **sizes, "dtype": ", ".join(dtypes), "gate": gate}


def _lines(file: InspectedFile) -> Iterator[str]:
    layout = f", layout {file.layout}" if file.layout else ""
    note, *code = file.note.split("\n")
    yield f"{file.path}: {file.kind}{layout}{f' ({note})' if note and not code else ''}"
    yield from (f"  {line}".rstrip() for line in (note, *code) if code)
    runs: list[tuple[list[int], str]] = []  # layers of equal sizes that follow each other
    for layer in file.layers:
        words = ", ".join(f"{key} {value}" for key, value in layer.items() if key != "layer")
        if runs and runs[-1][1] == words and runs[-1][0][-1] + 1 == layer["layer"]:
            runs[-1][0].append(layer["layer"])
        else:
            runs.append(([layer["layer"]], words))
    for numbers, words in runs:
        which = f"layers {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"layer {numbers[0]}"
        yield f"  {which}: {words}"
    yield from (f"  {line}" for line in file.contents)
    if file.opened_by:
        yield f"  open: {file.opened_by}"
