"""The spectra of a checkpoint as one table, whose columns are read from the store when they are asked for."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tensornet_interp.checks import check_bool, check_choice, check_int, check_path
from tensornet_interp.spectra.shards import Shard, Shards
from tensornet_interp.tables import Record, indexed

_NUMBERED = {"eigenvalue": "eigenvalues", "bound": "bounds", "residual": "residuals"}


class SpectraTable:
    """A table of spectra has one row per feature of a checkpoint, in the order of layers and features.

    Its columns are layer, feature, eigenvalue_0 and so on (largest magnitude first), bound_0, residual_0, proven,
    steps, share (of the squared Frobenius norm: that of the two leading eigenvalues), trace, norm, rank_low and
    rank_high; see `Spectra` and `Invariants`. Columns are read from the store when they are asked for. A store that is
    still computed can be opened: the table has the rows that were finished then.
    """

    def __init__(self, store: str | Path) -> None:
        self._shards = shards = Shards.opened(check_path("store", store))
        self._there = [shard for shard in shards.shards if shards.there(shard)]
        self.settings = dict(shards.manifest["settings"])
        self.layers: list[Record] = list(shards.manifest["layers"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the columns."""
        numbered = [f"{name}_{i}" for name in _NUMBERED for i in range(self.settings["k"])]
        whole = ("proven", "steps", "share", "trace", "norm", "rank_low", "rank_high")
        return ("layer", "feature", *numbered, *whole)

    @property
    def total(self) -> int:
        """Return the number of rows of the complete table."""
        return sum(layer["features"] for layer in self.layers)

    def __len__(self) -> int:
        return sum(shard.stop - shard.start for shard in self._there)

    def column(self, name: str) -> Tensor:
        """Return one column (row,); only this column is read from the files.

        Raises ValueError for an unknown name, and for a shard with a wrong checksum, which it names.
        """
        check_choice("name", name, self.columns)
        parts = [self._part(shard, name) for shard in self._there]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64, device="cpu")

    def top(self, by: str = "share", n: int = 10, *, largest: bool = True) -> list[Record]:
        """Return the n rows with the largest, or smallest, entries in a column, best first, as records.

        Equal entries keep their order. Memory: two columns of a shard, and n rows.
        """
        check_choice("by", by, self.columns)
        check_int("n", n, 0)
        check_bool("largest", largest)
        best: list[tuple[float, Shard, int]] = []
        for shard in self._there:
            values = self._part(shard, by).to(torch.float64)
            picks = values.argsort(descending=largest, stable=True)[:n].tolist()
            best += [(float(values[row]), shard, row) for row in picks]
            best = sorted(best, key=lambda item: -item[0] if largest else item[0])[:n]
        wanted: dict[Shard, list[Record]] = {}
        for _, shard, _ in best:
            if shard not in wanted:
                wanted[shard] = self._rows(shard)
        return [wanted[shard][row] for _, shard, row in best]

    def records(self) -> list[Record]:
        """Return one record per row."""
        return list(self)

    def __iter__(self) -> Iterator[Record]:
        for shard in self._there:
            yield from self._rows(shard)

    def __repr__(self) -> str:
        features = f"{len(self)} of {self.total} features"
        return f"SpectraTable({features} of {len(self.layers)} layers, k={self.settings['k']}, {self._shards.folder})"

    def _part(self, shard: Shard, name: str) -> Tensor:
        """Return the rows of a shard in a column."""
        count = shard.stop - shard.start
        if name == "layer":
            return torch.full((count,), shard.layer, dtype=torch.int64, device="cpu")
        if name == "feature":
            return torch.arange(shard.start, shard.stop, dtype=torch.int64, device="cpu")
        stem, _, number = name.rpartition("_")
        stored = _NUMBERED.get(stem, name)
        column = self._shards.read(shard, [stored])[stored]
        return column[:, int(number)] if stem in _NUMBERED else column

    def _rows(self, shard: Shard) -> list[Record]:
        rows = indexed(("row",), **{name: self._part(shard, name) for name in self.columns})
        return [{name: value for name, value in row.items() if name != "row"} for row in rows]


def open_spectra(store: str | Path) -> SpectraTable:
    """Open the table of spectra in the folder that `checkpoint_spectra` wrote; only the manifest is read.

    Raises FileNotFoundError if there is no store, and ValueError if its manifest is damaged or of another version.
    """
    return SpectraTable(store)
