"""Grids of fits: plain records, written to disk one by one, so that a sweep goes on where it was stopped."""

import dataclasses
import hashlib
import inspect
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.checks import check_choice, check_int
from tensornet_interp.contraction import TensorNetwork
from tensornet_interp.decompositions import build, decompose
from tensornet_interp.inner_products.distance import norm, relative_error
from tensornet_interp.inner_products.pairs import similarity
from tensornet_interp.layer import as_layer
from tensornet_interp.optional import optional
from tensornet_interp.registry import get_decomposition
from tensornet_interp.results import Result, TuckerResult

__all__ = ["Grid", "Record", "describe", "fingerprint", "load_records", "parameters", "sweep", "to_frame"]

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
    """One record for `decompose(layer, method, **options, seed=seed)` of every point of the grid and every seed.

    grid: {option: values} (all combinations) or a list of {option: value}. seeds: for methods with an option "seed";
    the others run once, with seed None. measure(result): further numbers by name (accuracy, cross-entropy).
    errors: "record" writes a fit that fails into its record and goes on; "raise" stops. What cannot work on any layer
    (an unknown option, a value of the wrong kind) is an error before the first fit in both cases, and so is, when it
    happens, an error of `measure`.

    path: a JSON-lines file to which every record is appended at once. A point whose key (method, options, seed,
    fingerprint of the layer's weights) is in the file is read and not run again, failed ones included; other records
    of the file stay and are not returned. Delete a line to run its point again, after another `measure` for example.
    A last line that was cut off by a kill is removed with a warning and run again.

    Record: method, options, seed, fingerprint, layer, parameters, relative_error, cosine (to the symmetrized layer),
    seconds, iterations, stop_reason, error (None, or what went wrong), and what `measure` gives. Options that JSON has
    no word for are written as text: a tensor by its fingerprint, a dataclass by its fields, the rest by repr.
    """
    check_choice("errors", errors, ("record", "raise"))
    target = as_layer(layer)
    mark = fingerprint(layer)
    jobs: dict[str, tuple[dict[str, Any], int | None, Record]] = {}
    for options, seed in _points(method, grid, seeds):
        seeded = options if seed is None else options | {"seed": seed}
        build(method, seeded)
        head = {"method": method, "options": describe(options), "seed": seed, "fingerprint": mark, "layer": target.name}
        jobs[_key(head)] = (seeded, seed, head)
    path = None if path is None else Path(path)
    known = {} if path is None else {_key(record): record for record in _repaired(path)}
    records = []
    for key, (options, _, head) in tqdm(jobs.items(), desc=f"sweep {method}", disable=not progress):
        if key not in known:
            known[key] = json.loads(json.dumps(head | _fit(layer, method, options, measure, errors)))
            if path is not None:
                with path.open("ab") as file:
                    file.write(json.dumps(known[key]).encode() + b"\n")
                    file.flush()
                    os.fsync(file.fileno())
        records.append(known[key])
    return records


def load_records(path: str | Path) -> list[Record]:
    """All records of a file that `sweep` wrote; a last line that was cut off is left out, the file is not touched."""
    return _read(Path(path))[0]


def to_frame(records: Sequence[Mapping[str, Any]]) -> Any:
    """A pandas DataFrame with a row a record, and a column an option (those whose name is taken as "option_...")."""
    pandas = optional("pandas", "for a DataFrame of records", extra="pandas")
    rows = []
    for record in records:
        taken = record.keys() - {"options"}
        options = {f"option_{k}" if k in taken else k: v for k, v in record["options"].items()}
        rows.append({k: v for k, v in record.items() if k != "options"} | options)
    return pandas.DataFrame(rows)


def parameters(result: TensorNetwork) -> int:
    """Numbers in a result: the sizes of its arrays; arrays that are equal count once (a tied factor).

    Norms, orthogonality and the zeros of a padded block are not taken off. The core of a `TuckerResult` counts as its
    dense symmetric tensor, a b (b + 1) / 2, where that is smaller than its CP factors. TensorLy's Tucker, iterated, has
    two different input factors; as ours it has a basis of both, which counts more than its own a b^2 for the core.
    """
    if isinstance(result, TuckerResult):
        a, b = result.ranks
        core = min(parameters(result.core), a * b * (b + 1) // 2)
        return core + result.outputs.numel() + result.inputs.numel()
    distinct: list[Tensor] = []
    for term in result.terms():
        if not any(torch.equal(term.data, other) for other in distinct):
            distinct.append(term.data)
    return sum(array.numel() for array in distinct)


def fingerprint(part: TensorNetwork) -> str:
    """16 hexadecimal digits of the SHA-256 of the arrays with modes, shapes and dtypes, without name and device."""
    digest = hashlib.sha256()
    for term in part.terms():
        digest.update(f"{term.modes} {_describe_array(term.data)};".encode())
    constants = [getattr(part, name, False) for name in ("constant_in", "constant_out")]
    return hashlib.sha256(digest.digest() + str(constants).encode()).hexdigest()[:16]


def describe(value: object) -> Any:
    """A value in words of JSON; equal values give equal words."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.ndim == 0):
        return value.item()
    if isinstance(value, Tensor | np.ndarray):
        return _describe_array(torch.as_tensor(value))
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [describe(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((describe(item) for item in value), key=repr)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        options = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__} | options
    text = repr(value)
    if " at 0x" in text:
        raise TypeError(f"{text} has no repr that tells it from another one: give its class a __repr__")
    return text


def _fit(layer: TensorNetwork, method: str, options: Mapping[str, Any], measure: Any, errors: str) -> Record:
    start = time.perf_counter()
    try:
        result = decompose(layer, method, **options)
        seconds = time.perf_counter() - start
        record = _numbers(result, layer) | {"seconds": seconds, "error": None}
    except Exception as error:  # one fit that fails must not take the night's work with it
        if errors == "raise":
            raise
        return {"seconds": time.perf_counter() - start, "error": f"{type(error).__name__}: {error}"}
    more = {} if measure is None else {name: describe(value) for name, value in measure(result).items()}
    taken = more.keys() & {*record, *_KEY, "layer"}
    if taken:
        raise ValueError(f"measure gives {sorted(taken)}, which every record has already; choose other names")
    return record | more


def _numbers(result: TensorNetwork, layer: TensorNetwork) -> Record:
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
        raise TypeError(f"method must be a registered name, by which its records are found again, got {method!r}")
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
        raise ValueError("the grid has an option 'seed': give seeds=... instead")
    seeded = "seed" in inspect.signature(get_decomposition(method)).parameters
    chosen = [check_int("seeds", seed, 0) for seed in seeds]
    if not chosen or not points:
        raise ValueError(f"nothing to run: {len(points)} points of the grid, {len(chosen)} seeds")
    return itertools.product(points, chosen if seeded else [None])


def _read(path: Path) -> tuple[list[Record], int]:
    """Records of a file, and how many bytes of it are whole lines."""
    if not path.exists():
        return [], 0
    *lines, last = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            _key(record)
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"line {number} of {path} is not a record of a sweep: {line[:60]!r}") from None
        records.append(record)
    if not (last.startswith(_START) or _START.startswith(last)):
        raise ValueError(f"the end of {path} is not a record of a sweep: {last[:60]!r}")
    return records, sum(len(line) + 1 for line in lines)


def _repaired(path: Path) -> list[Record]:
    records, whole = _read(path)
    if path.exists() and path.stat().st_size > whole:
        warnings.warn(f"the last line of {path} was cut off: removed, and run again", stacklevel=3)
        os.truncate(path, whole)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open("ab").close()  # what cannot be written to is an error before the first fit
    return records


def _key(record: Mapping[str, Any]) -> str:
    return json.dumps([record[name] for name in _KEY], sort_keys=True)


def _describe_array(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"tensor({tuple(tensor.shape)}, {tensor.dtype}, sha256 {hashlib.sha256(raw).hexdigest()[:16]})"
