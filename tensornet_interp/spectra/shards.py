"""A store of spectra on disk: a manifest with the settings, and one file of checked columns per range of features.

The columns are safetensors files and not Parquet: the package reads and writes them without a further dependency, a
column is read alone, and equal results give equal bytes, which Parquet does not promise between versions of its writer.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from tensornet_interp.disk import appending, read_json, replace_file
from tensornet_interp.keys import digest
from tensornet_interp.tables import Record
from tensornet_interp.tensorfile import ALL_DTYPES, TensorFile, pack

FORMAT, FORMAT_VERSION = "tensornet_interp spectra", 1
MANIFEST, LOG = "manifest.json", "log.jsonl"
COLUMNS = ("eigenvalues", "bounds", "residuals", "proven", "steps", "trace", "norm", "rank_low", "rank_high", "share")
_SHOWN = 8  # differences between two settings in an error


class Shard(NamedTuple):
    """A shard holds the features start to stop - 1 of one layer."""

    layer: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Return the name of the file."""
        return f"layer-{self.layer:05}-{self.start:08}.safetensors"


class Shards:
    """The shards of a store, whose manifest says which there are."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.mark = digest(manifest)
        size = manifest["settings"]["shard"]
        self.shards = [
            Shard(layer["layer"], start, min(start + size, layer["features"]))
            for layer in manifest["layers"]
            for start in range(0, layer["features"], size)
        ]

    @classmethod
    def opened(cls, folder: Path) -> "Shards":
        """Return the shards of a folder.

        Raises FileNotFoundError if it has no manifest, and ValueError if the manifest is damaged or has another format.
        """
        file = folder / MANIFEST
        found = read_json(file)
        try:
            if found.pop("checksum") != digest(found) or found["format"] != FORMAT:
                raise ValueError("its checksum does not match")
            if found["format_version"] != FORMAT_VERSION:
                raise ValueError(f"it has format {found['format_version']}, but this version reads {FORMAT_VERSION}")
            return cls(folder, found)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is not the manifest of a store of spectra: {error}") from error

    @classmethod
    def created(cls, folder: Path, settings: Mapping[str, Any], layers: Sequence[Record]) -> "Shards":
        """Return the shards of a folder, whose manifest is written if there is none.

        Raises ValueError, which shows both, if the folder has other settings or other layers.
        """
        wanted = {"format": FORMAT, "format_version": FORMAT_VERSION, "settings": settings, "layers": layers}
        wanted = json.loads(json.dumps(wanted))
        if not (folder / MANIFEST).exists():
            with appending(folder / LOG):  # one process at a time
                if not (folder / MANIFEST).exists():
                    with replace_file(folder / MANIFEST) as file:
                        file.write(json.dumps(wanted | {"checksum": digest(wanted)}, indent=1).encode())
        found = cls.opened(folder)
        if found.manifest != wanted:
            there, here = (dict(_flat(manifest)) for manifest in (found.manifest, wanted))
            names = [name for name in there | here if there.get(name) != here.get(name)]
            listed = [f"{name} is {there.get(name)} there and {here.get(name)} here" for name in names[:_SHOWN]]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise ValueError(f"store {folder} has other settings: {'; '.join(listed)}{more}; choose another folder")
        return found

    def there(self, shard: Shard) -> bool:
        """Return whether the file of a shard exists; it may be damaged."""
        return (self.folder / shard.name).exists()

    def damaged(self) -> list[Shard]:
        """Return the shards whose files are there and cannot be read whole."""
        return [shard for shard in self.shards if self.there(shard) and not self.whole(shard)]

    def whole(self, shard: Shard) -> bool:
        """Return whether the file of a shard is there and all its checksums match."""
        with suppress(ValueError, FileNotFoundError):
            self.read(shard)
            return True
        return False

    def read(self, shard: Shard, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return columns of a shard, by default all; nothing else is read.

        Raises ValueError, which names the file, if a checksum does not match or the file is not of this store.
        """
        path = self.folder / shard.name
        file = TensorFile(path)
        if not file.verified or file.metadata != self._about(shard):
            raise ValueError(f"{path} is not a shard of this store: its checksums or its settings are others")
        wanted = COLUMNS if names is None else names
        if not set(wanted) <= set(file.entries):
            raise ValueError(f"{path} is corrupt: it lacks {', '.join(sorted(set(wanted) - set(file.entries)))}")
        return {name: file.read(name, ALL_DTYPES) for name in wanted}

    def write(self, shard: Shard, columns: Mapping[str, Tensor]) -> None:
        """Write a shard in one step; the same columns always give the same bytes."""
        with replace_file(self.folder / shard.name) as file:
            file.write(pack(columns, self._about(shard)))

    def log(self, record: Record) -> None:
        """Append a line to the log; what differs between two runs, such as times, is only there."""
        with appending(self.folder / LOG) as file:
            file.write(json.dumps(record).encode() + b"\n")

    def _about(self, shard: Shard) -> dict[str, str]:
        return {"format": FORMAT, "manifest": self.mark} | {name: str(at) for name, at in shard._asdict().items()}


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the single values of a manifest with their places; the layers stand under their numbers."""
    if isinstance(value, list):
        value = {str(item["layer"]): item for item in value}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{place}.{key}".lstrip("."))
    else:
        yield place, value
