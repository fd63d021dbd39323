"""Fit a grid of options and make one record per fit."""

import inspect
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.checks import (
    check_bool,
    check_choice,
    check_list,
    check_names,
    check_path,
    check_seed,
)
from tensornet_interp.decompositions import build, decompose
from tensornet_interp.executors import Pool, Scratch, check_pool, run_units
from tensornet_interp.factored import TuckerResult
from tensornet_interp.inner_products.distance import norm, relative_error
from tensornet_interp.inner_products.pairs import similarity
from tensornet_interp.keys import describe, digest, fingerprint
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.network import check_network
from tensornet_interp.registry import get_decomposition
from tensornet_interp.results import Result
from tensornet_interp.store import stored_type
from tensornet_interp.sweep.records import KEY, RecordFile, filled, key_of
from tensornet_interp.tables import Record

Grid = Mapping[str, Sequence[object]] | Sequence[Mapping[str, object]]
_NUMBERS = ("parameters", "relative_error", "cosine", "iterations", "stop_reason", "seconds")


def sweep(
    layer: TensorNetwork | Sequence[TensorNetwork] | Mapping[str, TensorNetwork],
    method: str | Sequence[str] | Mapping[str, Grid],
    grid: Grid | None = None,
    *,
    seeds: Sequence[int] = (0,),
    path: str | Path | None = None,
    measure: Callable[[Any], Mapping[str, object]] | None = None,
    errors: str = "record",
    progress: bool = True,
    executor: Pool | None = None,
    scratch: Scratch | None = None,
) -> list[Record]:
    """Fit `decompose(layer, method, **options, seed=seed)` for every grid point and seed; return one record per fit.

    layer: a layer; or several, as a list, or as {name: layer} with the names that the records give them. method: a
    name; a list of names, which share the grid; or {name: grid}, without `grid`. Every layer is fitted by every method.
    grid: {option: values}, of which all combinations are fitted, or a list of {option: value}. seeds: the seeds of each
    grid point, for methods with an option "seed"; all other methods are fitted once, with seed None. measure: a
    function of the result that returns more numbers by name, such as the accuracy. errors: "record" writes the error of
    a failed fit into its record and continues; "raise" raises it. An unknown option or a value of a wrong type always
    raises before the first fit, and an error in `measure` always raises.

    path: a JSON-lines file; each record is appended to it as soon as its fit ends. The key of a fit is (method,
    options, seed, fingerprint of the weights of the layer). If the file already has a record with this key, that record
    is returned and the fit is not repeated, even if it failed. Other records in the file stay there and are not
    returned. To repeat a fit, for example with another `measure`, delete its line. Several processes may use one file:
    if two of them run the same fit at the same time, one record is stored, and both return it. An incomplete last line,
    which a killed process left, is removed with a warning, and its fit is repeated.

    executor, scratch: where the fits run, and a folder that the workers see, as in `executors.run_units`. Records are
    written by this process, as the fits end, and returned in the order of the grid. If the workers are processes,
    `measure` must be a function that they can import.

    Each record has the fields method, options, seed, fingerprint, layer, parameters, relative_error, cosine (similarity
    to the symmetrized layer), seconds, iterations, stop_reason and error (None, or the message), and the numbers of
    `measure`. All records have the same keys: what a failed fit does not have is None, and a warning says how many fits
    failed. `keys.describe` converts options
    to JSON; if it cannot describe an option, such as a lambda, TypeError is raised before the first fit.
    Cost: that of fits / workers fits, if these are equal; see `executors.run_units`.
    """
    check_choice("errors", errors, ("record", "raise"))
    check_bool("progress", progress)
    if measure is not None and not callable(measure):
        raise TypeError(f"measure must be a function of a result, got {measure!r:.60}")
    check_pool(executor, scratch)
    heads: dict[tuple[str, str], Record] = {}
    jobs: dict[str, tuple[BilinearLayer, dict[str, Any], Record]] = {}
    for name, target in _layers(layer):
        mark = fingerprint(target)
        for chosen, points in _grids(method, grid):
            for options, seed in _points(chosen, points, seeds):
                seeded = options if seed is None else options | {"seed": seed}
                build(chosen, seeded)
                head = {
                    "method": chosen,
                    "options": describe(options),
                    "seed": seed,
                    "fingerprint": mark,
                    "layer": name,
                }
                heads[key_of(head), name] = head
                jobs.setdefault(key_of(head), (target, seeded, head))
    store = RecordFile(None if path is None else check_path("path", path))
    todo = {key: job for key, job in jobs.items() if key not in store.known}
    objects: dict[str, Any] = {}
    units = []
    for target, options, head in todo.values():
        own = f"layer-{head['fingerprint']}"
        objects[own] = target
        large = {f"option-{digest(value)}": name for name, value in options.items() if _is_stored(value)}
        objects |= {place: options[name] for place, name in large.items()}
        small = {name: value for name, value in options.items() if name not in large.values()}
        units.append((own, head["method"], small, large, measure, errors))
    ended = run_units(
        _unit,
        units,
        objects,
        executor,
        scratch,
        device=next(iter(jobs.values()))[0].down.device,
        stored="" if path is None else f"their records are in {path}",
    )
    methods, keys = ", ".join(dict.fromkeys(head["method"] for *_, head in jobs.values())), list(todo)
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(todo), desc=f"sweep {methods}", disable=not progress)
    with bar, closing(ended):
        for number, found in ended:
            store.add(keys[number], todo[keys[number]][2] | found)
            bar.update()
    records = [store.known[key] | {"layer": name} for key, name in heads]
    failed = [record for record in records if record["error"] is not None]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(records)} fits failed; their records have no numbers. The first error: "
            f"{failed[0]['method']} {failed[0]['options']}: {failed[0]['error']}",
            stacklevel=2,
        )
    return filled(records)


def parameters(result: TensorNetwork) -> int:
    """Return how many numbers a result stores: the total size of its arrays, where equal arrays count once.

    Nothing is subtracted for unit norms, orthogonality or zeros that pad a block. The core of a `TuckerResult` with
    ranks (a, b) counts a * b * (b + 1) / 2, the number of entries of its dense symmetric tensor, if this is less than
    the size of its CP factors. A Tucker result from TensorLy counts more than TensorLy's own form with its core of a *
    b^2 numbers: TensorLy has two input factors of rank b, which are replaced here by one basis of rank up to 2 * b.
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


def _layers(layer: Any) -> list[tuple[str, BilinearLayer]]:
    """Return the layers to fit with their names."""
    several = isinstance(layer, Mapping | list | tuple)
    if several and not layer:
        raise ValueError("layer is empty: give at least one layer")
    if isinstance(layer, Mapping):
        check_names("layer", list(layer))
        return [(name, check_network(f"layer[{name!r}]", part).to_layer()) for name, part in layer.items()]
    given = {f"layer[{at}]": part for at, part in enumerate(layer)} if several else {"layer": layer}
    parts = [check_network(name, part).to_layer() for name, part in given.items()]
    return [(part.name, part) for part in parts]


def _grids(method: object, grid: Grid | None) -> list[tuple[Any, Any]]:
    """Return the methods with their grids."""
    if isinstance(method, Mapping):
        if grid is not None:
            raise ValueError("method gives every method its own grid, so leave grid out")
        pairs = list(method.items())
    else:
        pairs = [(name, grid) for name in (method if isinstance(method, list | tuple) else [method])]
    if not pairs:
        raise ValueError("method is empty: give at least one name")
    return pairs


def _is_stored(value: object) -> bool:
    """Return whether an option is a tensor or an object that `save` writes, such as a result or moments."""
    return isinstance(value, Tensor) or stored_type(type(value)) is not None


def _unit(
    objects: Mapping[str, Any],
    layer: str,
    method: str,
    options: Mapping[str, Any],
    large: Mapping[str, str],
    measure: Any,
    errors: str,
) -> Record:
    """Fit a layer, as a unit of work; large: the options that are among the objects."""
    options = {**options, **{name: objects[place] for place, name in large.items()}}
    build(method, options)  # what a worker does not know is no failed fit
    return _fit(objects[layer], method, options, measure, errors)


def _fit(layer: BilinearLayer, method: str, options: Mapping[str, Any], measure: Any, errors: str) -> Record:
    start = time.perf_counter()
    try:
        result = decompose(layer, method, **options)
        seconds = time.perf_counter() - start
        record = _numbers(result, layer) | {"seconds": seconds, "error": None}
    except Exception as error:  # one failed fit must not stop the whole sweep
        if errors == "raise":
            raise
        lacking = dict.fromkeys(_NUMBERS)
        return lacking | {"seconds": time.perf_counter() - start, "error": f"{type(error).__name__}: {error}"}
    more = {} if measure is None else {name: describe(value) for name, value in measure(result).items()}
    taken = more.keys() & {*record, *KEY, "layer"}
    if taken:
        raise ValueError(f"measure returns {sorted(taken)}, but every record already has these; choose other names")
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
        raise TypeError(f"method must be a registered name, because records are stored by name, got {method!r}")
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
        raise ValueError(f"nothing to run: the grid has {len(points)} points, and there are {len(chosen)} seeds")
    return itertools.product(points, chosen if seeded else [None])
