"""Spectra of every feature of every layer of a checkpoint, stored as they come."""

import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.checks import check_bool, check_int, check_kind, check_number, check_path, check_seed
from tensornet_interp.executors import Pool, Scratch, check_pool, run_units
from tensornet_interp.float64 import needs_float64
from tensornet_interp.keys import digest, fingerprint
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import nonzero, without_autocast
from tensornet_interp.places import check_device
from tensornet_interp.report import package_version
from tensornet_interp.spectra.leading import CHUNK_ELEMENTS, check_spectra, searched
from tensornet_interp.spectra.matrices import squared_norms
from tensornet_interp.spectra.norms import known
from tensornet_interp.spectra.scaled import Scaled
from tensornet_interp.spectra.shards import Shard, Shards
from tensornet_interp.spectra.table import SpectraTable
from tensornet_interp.tables import Record
from tensornet_interp.weights import Layout, Source, layer_indices, load_layer

Directions = Tensor | Mapping[int, Tensor] | Callable[[int], Tensor]


@needs_float64
def checkpoint_spectra(
    source: Source | Mapping[int, BilinearLayer] | Sequence[BilinearLayer],
    directions: Directions,
    k: int = 2,
    tolerance: float = 1e-3,
    store: str | Path = "spectra",
    *,
    executor: Pool | None = None,
    scratch: Scratch | None = None,
    layout: str | Layout = "published",
    subfolder: str = "",
    gate_removed: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    shard: int = 1024,
    max_elements: int = CHUNK_ELEMENTS,
    repair: bool = False,
    progress: bool = True,
) -> SpectraTable:
    """Compute the spectra of all features of all layers, store them as they come, and return them as a table.

    source: a checkpoint, which workers open themselves with `load_layer` (layout, subfolder, gate_removed, device and
    dtype are its options); or layers in memory, as a list or by number.
    directions: the features (block, out) of each layer: one tensor for all layers; {number of the layer: tensor}, for
    these layers only; or a function of the number, which is called once per layer here, and again when the layer is
    computed. Of a dictionary of outputs these are the rows of its encoder, or the columns of its decoder.
    k, tolerance, seed: as in `spectra`. The tolerance must be one that the dtype of the layers can show.
    store: a folder. It gets a manifest, one file of `shard` features after the other, and a log with times. A call
    whose store has finished shards computes the others. Their bytes are the same, however often the call was
    interrupted, if workers have equal threads; several processes may use one store.
    executor, scratch: where shards are computed, and a folder that the workers see, as in `executors.run_units`; by
    default the store itself, which they must see too.
    max_elements: the most float64 numbers in memory for the search, per worker. In addition each worker holds one layer
    (about four times in float64), the directions of the layer, and the results of a shard.
    repair: whether damaged shards are computed again; if not, they are an error.

    Raises ValueError if the store has other settings, layers, directions or versions, and shows both; for damaged
    shards, which it names; for a zero direction, a k above the rank or a tolerance below the rounding of the dtype,
    before work starts. Raises OSError if the disk is full; finished shards stay.
    Cost: before the work, all layers and directions are read once for their fingerprints. Then that of `spectra`
    for shards / workers shards, each of which computes the norms of its layer: it should have hundreds of features.

    Example: `checkpoint_spectra("model", lambda layer: dictionaries[layer].encoder, store="spectra").top("share")`
    """
    folder, device = check_path("store", store), check_device(device)
    check_pool(executor, scratch)
    for name, flag in (("repair", repair), ("progress", progress), ("gate_removed", gate_removed)):
        check_bool(name, flag)
    k, shard, max_elements = (
        check_int(name, number, 1) for name, number in (("k", k), ("shard", shard), ("max_elements", max_elements))
    )
    tolerance = check_number("tolerance", tolerance, 0)
    loading: dict[str, Any] = {"layout": layout, "subfolder": subfolder, "gate_removed": gate_removed}
    loading |= {"device": str(device), "dtype": dtype}
    layers = _Layers(source, loading)
    settings: dict[str, Any] = {"k": k, "tolerance": tolerance, "seed": check_seed("seed", seed), "shard": shard}
    settings |= {"max_elements": max_elements}
    given = _Objects(layers, directions)
    about = [_described(index, layers[index], given.directions(index), k, tolerance) for index in given.indices]
    versions = {"tensornet_interp": package_version(), "torch": torch.__version__}
    shards = Shards.created(folder, settings | {"versions": versions}, about)
    damaged = shards.damaged()
    if damaged and not repair:
        raise ValueError(
            f"store {folder} has {len(damaged)} damaged shards: {', '.join(one.name for one in damaged)}; pass"
            " repair=True to compute them again"
        )
    todo = [one for one in shards.shards if one in damaged or not shards.there(one)]
    given.indices = sorted({one.layer for one in todo})
    marks = {layer["layer"]: layer["fingerprint"] for layer in about}
    units = [(str(folder.absolute()), tuple(one), settings, layers.path, loading, marks[one.layer]) for one in todo]
    where = f"their shards are in {folder}"
    ended = run_units(_unit, units, given, executor, scratch or folder, device=layers.device, stored=where)
    total, left = (sum(one.stop - one.start for one in some) for some in (shards.shards, todo))
    bar = tqdm(total=total, initial=total - left, desc="spectra", unit="feature", disable=not progress)
    with bar, closing(ended):
        try:
            for number, record in ended:
                shards.log(record)
                bar.update(todo[number].stop - todo[number].start)
        finally:
            _verified.cache_clear()
    return SpectraTable(folder)


class _Layers:
    """The layers of a source by number, and where they are computed; `path` is None if they are in memory."""

    def __init__(self, source: Any, loading: Mapping[str, Any]) -> None:
        self.path: str | None = None
        self.device, self._loading = torch.device(loading["device"]), loading
        if isinstance(source, Mapping | list | tuple):
            self._given = dict(source) if isinstance(source, Mapping) else dict(enumerate(source))
            if not self._given:
                raise ValueError("source is empty: give at least one layer")
            for index, layer in self._given.items():
                check_int("a number of source", index, 0)
                check_kind(f"source[{index}]", layer, BilinearLayer, "; a result has to_layer()")
            self.indices = list(self._given)
            self.device = next(iter(self._given.values())).down.device
        else:
            path = check_path("source", source)
            self.path = str(path.absolute()) if path.exists() else str(source)
            self.indices = layer_indices(source, layout=loading["layout"], subfolder=loading["subfolder"])

    def __getitem__(self, index: int) -> BilinearLayer:
        if self.path is None:
            return self._given[index]
        return load_layer(self.path, index, **self._loading)


class _Objects(Mapping[str, Any]):
    """What units need: layers in memory, and the directions of each layer, made when they are asked for."""

    def __init__(self, layers: _Layers, directions: Directions) -> None:
        self._layers, self._directions = layers, directions
        self._last: tuple[int, Tensor] | None = None
        self.indices = layers.indices
        if isinstance(directions, Mapping):
            self.indices = sorted(check_int("a number of directions", index, 0) for index in directions)
            unknown = [index for index in self.indices if index not in layers.indices]
            if unknown or not self.indices:
                raise ValueError(f"directions has layers {unknown or 'none'}; those of source are {layers.indices}")
        elif not isinstance(directions, Tensor) and not callable(directions):
            raise TypeError(
                "directions must be a tensor (block, out), a mapping from layers to tensors or a function of a layer,"
                f" got {type(directions).__name__}"
            )

    def directions(self, index: int) -> Tensor:
        """Return the directions of a layer."""
        if isinstance(self._directions, Tensor):
            return self._directions
        if isinstance(self._directions, Mapping):
            return self._directions[index]
        if self._last is None or self._last[0] != index:
            self._last = index, self._directions(index)
        return self._last[1]

    def __getitem__(self, name: str) -> Any:
        kind, _, index = name.partition("-")
        return self._layers[int(index)] if kind == "layer" else self.directions(int(index))

    def __iter__(self) -> Iterator[str]:
        yield from (f"directions-{index}" for index in self.indices)
        if self._layers.path is None:
            yield from (f"layer-{index}" for index in self.indices)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _described(index: int, layer: BilinearLayer, directions: Tensor, k: int, tolerance: float) -> Record:
    """Return what the manifest says of a layer, after checks of everything that the computation could refuse."""
    try:
        check_spectra(
            layer, directions.to(layer.down.device) if isinstance(directions, Tensor) else directions, k, tolerance
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"layer {index}: {error}") from error
    eps = torch.finfo(layer.down.dtype).eps
    if tolerance < eps:
        raise ValueError(
            f"layer {index}: tolerance must be at least {eps:.1e}, the rounding of {layer.down.dtype}, got"
            f" {tolerance:g}; pass dtype=torch.float64 for eigenvalues in float64"
        )
    sizes = dict(zip(("out", "in"), layer.shape[:2], strict=True)) | {"hidden": layer.rank}
    marks = {"fingerprint": fingerprint(layer), "directions": digest(directions)}
    place = {"dtype": str(layer.down.dtype), "device": layer.down.device.type}
    return {"layer": index, "name": layer.name, "features": len(directions)} | sizes | place | marks


@lru_cache(maxsize=1)
def _verified(path: str, index: int, mark: str, **loading: Any) -> BilinearLayer:
    """Return a layer of a checkpoint after a check that it has this fingerprint."""
    layer = load_layer(path, index, **loading)
    if fingerprint(layer) != mark:
        where = f"on {socket.gethostname()}"
        raise ValueError(f"source {path} holds other weights of layer {index} {where} than where the call began")
    return layer


@torch.no_grad()
@without_autocast
def _unit(
    objects: Mapping[str, Any],
    store: str,
    which: tuple[int, int, int],
    settings: Mapping[str, Any],
    path: str | None,
    loading: Mapping[str, Any],
    mark: str,
) -> Record:
    """Compute and write a shard, unless another process has; return a record for the log."""
    shard, start = Shard(*which), time.perf_counter()
    shards = Shards.opened(Path(store))
    if not shards.whole(shard):
        if path is None:
            layer = objects[f"layer-{shard.layer}"]
        else:
            layer = _verified(path, shard.layer, mark, **loading)
        rows = objects[f"directions-{shard.layer}"][shard.start : shard.stop].to(layer.down.device)
        shards.write(shard, {name: column.cpu() for name, column in _columns(layer, rows, settings).items()})
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {"shard": shard.name, "seconds": time.perf_counter() - start, "host": socket.gethostname(), "at": when}


@needs_float64
def _columns(layer: BilinearLayer, directions: Tensor, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the columns of a shard; the norms are computed once, for the search and for the table."""
    k, tolerance, seed = settings["k"], settings["tolerance"], settings["seed"]
    # products of views and of their copies may round differently: a layer from a file and one in memory
    factors = {name: getattr(layer, name).contiguous() for name in ("down", "left", "right")}
    layer, directions = replace(layer, **factors), directions.contiguous()
    scaled = Scaled.of(layer, directions)
    squares = squared_norms(scaled.core, scaled.matrices.weights)
    found = searched(
        layer, directions, scaled, k, tolerance, None, "auto", seed, settings["max_elements"], squares, False
    )
    whole = known(scaled, squares)
    leading = found.eigenvalues[:, :2].to(torch.float64) / nonzero(whole.norm)[:, None]
    columns = {name: getattr(found, name) for name in ("eigenvalues", "bounds", "residuals", "proven", "steps")}
    return columns | vars(whole) | {"share": leading.square().sum(1)}
