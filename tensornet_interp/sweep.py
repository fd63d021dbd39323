"""Sweeps: grids of fits as plain records, written to disk one by one, so a stopped sweep can be continued."""

import inspect
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.checks import (
    check_bool,
    check_choice,
    check_list,
    check_path,
    check_records,
    check_seed,
)
from tensornet_interp.decompositions import build, decompose
from tensornet_interp.disk import appending, open_file, parse_json, read_lines
from tensornet_interp.inner_products.distance import norm, relative_error
from tensornet_interp.inner_products.pairs import similarity
from tensornet_interp.keys import describe, fingerprint
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.network import check_network
from tensornet_interp.optional import optional
from tensornet_interp.registry import get_decomposition
from tensornet_interp.results import Result, TuckerResult

__all__ = ["Grid", "Record", "load_records", "parameters", "sweep", "to_frame"]

Record = dict[str, Any]
Grid = Mapping[str, Sequence[object]] | Sequence[Mapping[str, object]]
_START = b'{"method": '  # how every line begins
_KEY = ("method", "options", "seed", "fingerprint")


def sweep(
    layer: TensorNetwork,
    method: str,
    grid: Grid,
    *,
    seeds: Sequence[int] = (0,),
    path: str | Path | None = None,
    measure: Callable[[Any], Mapping[str, object]] | None = None,
    errors: str = "record",
    progress: bool = True,
) -> list[Record]:
    """Fit `decompose(layer, method, **options, seed=seed)` for every grid point and seed; return one record per fit.

    grid: {option: values} (all combinations) or a list of {option: value}. seeds: for methods with an option "seed";
    all other methods run once, with seed None. measure(result): returns further numbers by name, such as accuracy.
    errors: "record" writes the error of a failed fit into its record and continues; "raise" stops. An option that
    cannot work on any layer (an unknown name, a value of the wrong kind) always raises before the first fit, and an
    error of `measure` always stops.

    path: a JSON-lines file to which every record is appended at once. If the key of a point (method, options, seed,
    fingerprint of the layer's weights) is in the file, its record is read and the point is not run again, even if the
    fit failed. Other records of the file stay and are not returned. To run a point again, for example with another
    `measure`, delete its line. Several processes may work on one file: a point that two of them fit at the same time is
    stored once, and both return that record. A last line that a kill cut off is removed with a warning and run again.

    Record: method, options, seed, fingerprint, layer, parameters, relative_error, cosine (to the symmetrized layer),
    seconds, iterations, stop_reason, error (None, or what went wrong), and the numbers of `measure`. Options are
    written as `keys.describe` describes them; an option that cannot be described (a lambda, an object of a class made
    inside a function) raises TypeError before the first fit.
    """
    check_choice("errors", errors, ("record", "raise"))
    check_bool("progress", progress)
    if measure is not None and not callable(measure):
        raise TypeError(f"measure must be a function of a result, got {measure!r:.60}")
    target = check_network("layer", layer).to_layer()
    mark = fingerprint(target)
    jobs: dict[str, tuple[dict[str, Any], int | None, Record]] = {}
    for options, seed in _points(method, grid, seeds):
        seeded = options if seed is None else options | {"seed": seed}
        build(method, seeded)
        head = {"method": method, "options": describe(options), "seed": seed, "fingerprint": mark, "layer": target.name}
        jobs[_key(head)] = (seeded, seed, head)
    store = _Store(None if path is None else check_path("path", path))
    records = []
    for key, (options, _, head) in tqdm(jobs.items(), desc=f"sweep {method}", disable=not progress):
        if key not in store.known:
            store.add(key, head | _fit(target, method, options, measure, errors))
        records.append(store.known[key])
    return records


def load_records(path: str | Path) -> list[Record]:
    """Return all records of a file that `sweep` wrote, or [] if there is no file; a cut-off last line is left out.

    The file is only read, and other processes may append to it meanwhile. Raises ValueError for any other file.
    """
    path = check_path("path", path)
    try:
        with open_file(path) as file:
            return _records(file, path)[0]
    except FileNotFoundError:
        return []


def to_frame(records: Sequence[Mapping[str, Any]]) -> Any:
    """Return a pandas DataFrame with one row per record and one column per option.

    If a record has a field with the name of an option, the column of the option is called "option_...".
    """
    pandas = optional("pandas", "for a DataFrame of records", extra="pandas")
    rows = []
    for record in check_records("records", records, ("options",)):
        taken = record.keys() - {"options"}
        options = {f"option_{k}" if k in taken else k: v for k, v in record["options"].items()}
        rows.append({k: v for k, v in record.items() if k != "options"} | options)
    return pandas.DataFrame(rows)


def parameters(result: TensorNetwork) -> int:
    """Return how many numbers a result holds: the sizes of its arrays, where equal arrays (a tied factor) count once.

    Nothing is subtracted for unit norms, orthogonality or the zeros of a padded block. The core of a `TuckerResult`
    counts as its dense symmetric tensor, a b (b + 1) / 2, if that is smaller than its CP factors. TensorLy's iterated
    Tucker has two different input factors. As a `TuckerResult` it has one basis of both, so its core counts more than
    the a b^2 of the original.
    """
    if isinstance(result, TuckerResult):
        a, b = result.ranks
        core = min(parameters(result.core), a * b * (b + 1) // 2)
        return core + result.outputs.numel() + result.inputs.numel()
    check_network("result", result)
    distinct: list[Tensor] = []
    for term in result.terms():
        if not any(torch.equal(term.data, other) for other in distinct):
            distinct.append(term.data)
    return sum(array.numel() for array in distinct)


def _fit(layer: BilinearLayer, method: str, options: Mapping[str, Any], measure: Any, errors: str) -> Record:
    start = time.perf_counter()
    try:
        result = decompose(layer, method, **options)
        seconds = time.perf_counter() - start
        record = _numbers(result, layer) | {"seconds": seconds, "error": None}
    except Exception as error:  # one failed fit must not stop the whole sweep
        if errors == "raise":
            raise
        return {"seconds": time.perf_counter() - start, "error": f"{type(error).__name__}: {error}"}
    more = {} if measure is None else {name: describe(value) for name, value in measure(result).items()}
    taken = more.keys() & {*record, *_KEY, "layer"}
    if taken:
        raise ValueError(f"measure gives {sorted(taken)}, which every record has already; choose other names")
    return record | more


def _numbers(result: TensorNetwork, layer: BilinearLayer) -> Record:
    report = result.report if isinstance(result, Result) else None
    error = report.relative_error if report else None
    return {
        "parameters": parameters(result),
        "relative_error": relative_error(result, layer) if error is None else error,
        "cosine": float(similarity(result, layer)) if norm(result) > 0 and norm(layer) > 0 else None,
        "iterations": len(report.convergence) if report else 0,
        "stop_reason": report.stop_reason if report else "direct",
    }


def _points(method: str, grid: Grid, seeds: Sequence[int]) -> Iterator[tuple[dict[str, Any], int | None]]:
    if not isinstance(method, str):
        raise TypeError(f"method must be a registered name, which identifies its records, got {method!r}")
    if isinstance(grid, Mapping):
        for option, values in grid.items():
            if not isinstance(values, list | tuple | range) or not len(values):
                raise TypeError(f"grid['{option}'] must be a list of at least one value, got {values!r}")
        points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    elif isinstance(grid, list | tuple) and all(isinstance(point, Mapping) for point in grid):
        points = [dict(point) for point in grid]
    else:
        raise TypeError(f"grid must be a mapping of lists or a list of mappings, got {type(grid).__name__}")
    if any("seed" in point for point in points):
        raise ValueError("the grid has an option 'seed'; use seeds=... instead")
    seeded = "seed" in inspect.signature(get_decomposition(method)).parameters
    chosen = [check_seed("seeds", seed) for seed in check_list("seeds", seeds)]
    if not chosen or not points:
        raise ValueError(f"nothing to run: {len(points)} points of the grid, {len(chosen)} seeds")
    return itertools.product(points, chosen if seeded else [None])


class _Store:
    """Records by key, and the file, if there is one, to which several processes append whole lines."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.known = path, dict[str, Record]()
        self._read = (0, 0, 0)  # device and number of the file, and how far it was read
        if path is not None:
            with appending(path) as file:  # a path that cannot be written raises before the first fit
                self._refresh(file, path)

    def add(self, key: str, record: Record) -> None:
        """Keep the record, or the record of the same key that another process has written meanwhile."""
        line = json.dumps(record).encode() + b"\n"
        if self.path is None:
            self.known[key] = json.loads(line)
            return
        with appending(self.path) as file:
            self._refresh(file, self.path)
            if key not in self.known:
                _write(file, line)
                self.known[key] = json.loads(line)

    def _refresh(self, file: IO[bytes], path: Path) -> None:
        """Read what other processes appended, and cut off the end that a killed or failed write left."""
        status = os.fstat(file.fileno())
        *same, read = self._read
        start = read if same == [status.st_dev, status.st_ino] and read <= status.st_size else 0
        records, end = _records(file, path, start)
        self.known |= {_key(record): record for record in records}
        if end < status.st_size:
            warnings.warn(f"the last line of {path} was cut off: removed, and run again", stacklevel=5)
            file.truncate(end)
        self._read = (status.st_dev, status.st_ino, end)


def _records(file: IO[bytes], path: Path, start: int = 0) -> tuple[list[Record], int]:
    """Return the records of an open file from byte `start` on, and the position after its last whole line."""
    records, end = list[Record](), start
    for line in read_lines(file, path, start):
        if not line.endswith(b"\n"):
            if not (line.startswith(_START) or _START.startswith(line)):
                raise ValueError(f"the end of {path} is not a record of a sweep: {line[:60]!r}")
            break
        try:
            record = parse_json(line, "the line")
            _key(record)
        except (ValueError, TypeError, KeyError):
            where = f"line {len(records) + 1} of" if start == 0 else "a line of"
            raise ValueError(f"{where} {path} is not a record of a sweep: {line[:60]!r}") from None
        records.append(record)
        end += len(line)
    return records, end


def _write(file: IO[bytes], line: bytes) -> None:
    """Append a line, either whole or not at all."""
    start, written = file.seek(0, os.SEEK_END), 0
    try:
        while written < len(line):
            written += file.write(line[written:])
        os.fsync(file.fileno())
    except BaseException:
        file.truncate(start)
        raise


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps([record[name] for name in _KEY], sort_keys=True)
