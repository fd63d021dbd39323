"""Executors: units of work run in threads, in processes or on other machines, and their results come back as files.

A unit is a plain function of a few names and numbers. The objects that units need are written once, by `save`, to a
folder that every worker sees, and each worker opens what it needs there.
"""

import asyncio
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, runtime_checkable

import torch

from tensornet_interp.checks import check_path
from tensornet_interp.keys import digest
from tensornet_interp.report import package_version
from tensornet_interp.saving import load, save
from tensornet_interp.workers import CHECK, answer_check, object_file, process_mark, result_file, unseen, work

__all__ = ["Executor", "Pool", "Scratch", "check_pool", "pair_tiles", "run_units"]

Scratch = str | os.PathLike[str]
_AGAIN = 3  # how often a function that makes pools is asked for another one


@runtime_checkable
class Executor(Protocol):
    """An executor takes calls and returns a future for each, like the executors of Python's concurrent.futures."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Return a future for fn(*args)."""
        ...


Pool = Executor | Callable[[], Executor]


class _LostError(Exception):
    """The executor, not a unit, has failed."""


def check_pool(executor: object, scratch: object = None) -> None:
    """Raise TypeError unless `executor` is an executor, a function that makes one, or None, and `scratch` a path."""
    if executor is not None and not _is_executor(executor) and not callable(executor):
        raise TypeError(
            "executor must be an executor, such as concurrent.futures.ProcessPoolExecutor(2), a function that makes"
            f" one, or None, got {executor!r:.60} ({type(executor).__name__})"
        )
    if scratch is not None:
        check_path("scratch", scratch)


def run_units(
    function: Callable[..., Any],
    units: Sequence[tuple[Any, ...]],
    objects: Mapping[str, Any],
    executor: Pool | None = None,
    scratch: Scratch | None = None,
    *,
    device: torch.device | str = "cpu",
    stored: str = "",
) -> Generator[tuple[int, Any], None, None]:
    """Yield (number, function(objects, *units[number])) of every unit, as soon as it is there.

    function: a function at the top level of a module. It takes a mapping from names to objects and the arguments of a
    unit by position, and returns what `save` can write. Without an executor it is called here, in order.
    With an executor the objects are written to a folder in `scratch`, and the mapping of a worker opens them there, on
    `device`. stored: where the caller keeps results, for errors; if it is empty and `scratch` is given, finished
    results stay in `scratch` until the call is complete, and the same call goes on from them.

    A worker process computes on one thread of torch, or on OMP_NUM_THREADS threads if its environment says so. A forked
    process always computes on one: the threads of the process that it was forked from do not exist in it.
    Raises the error of a unit. Raises RuntimeError, which counts the finished units, if the executor is closed, breaks
    or loses results, and FileNotFoundError if a worker does not see the folder. A function that makes executors is
    asked again for the units that are left, at most three times. If the generator is closed early, waiting units are
    cancelled and the folder is removed.
    """
    check_pool(executor, scratch)
    if executor is None:
        yield from ((number, function(objects, *unit)) for number, unit in enumerate(units))
        return
    kept = None
    if scratch is not None and not stored:
        marks = [digest(objects[name]) for name in objects]
        kept = Path(scratch) / f"{function.__name__}-{digest(function, list(objects), marks, units, package_version())}"
        stored = f"their results are kept in {kept}"
    done = set[int]()
    if kept is not None:
        yield from _finished(kept, len(units), done, device)
    if len(done) < len(units):
        yield from _computed(function, units, objects, executor, scratch, device, kept, stored, done)
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)


def _finished(folder: Path, count: int, done: set[int], device: torch.device | str) -> Iterator[tuple[int, Any]]:
    """Yield the results in a folder of units that are not done, and add their numbers to `done`."""
    for number in range(count):
        if number not in done:
            with suppress(FileNotFoundError, ValueError):  # not finished, or damaged
                value = load(folder / result_file(number), device=device)
                done.add(number)
                yield number, value


def _computed(
    function: Callable[..., Any],
    units: Sequence[tuple[Any, ...]],
    objects: Mapping[str, Any],
    executor: Pool,
    scratch: Scratch | None,
    device: torch.device | str,
    kept: Path | None,
    stored: str,
    done: set[int],
) -> Iterator[tuple[int, Any]]:
    """Yield the results of units that are not done, move them to `kept`, and add their numbers to `done`."""
    with _folder(scratch) as folder:
        for name in objects:
            save(objects[name], folder / object_file(name))
        for attempt in range(1 + _AGAIN * (not _is_executor(executor))):
            todo = [number for number in range(len(units)) if number not in done]
            try:
                with _pool(executor) as pool, closing(_run(pool, function, units, todo, folder, device)) as ended:
                    for number in ended:
                        value = load(folder / result_file(number), device=device)
                        if kept is not None:
                            kept.mkdir(parents=True, exist_ok=True)
                            os.replace(folder / result_file(number), kept / result_file(number))
                        done.add(number)
                        yield number, value
                return
            except _LostError as error:
                yield from _finished(folder, len(units), done, device)  # the workers wrote them before the end
                if len(done) == len(units):
                    return
                lost = error.args[0]
                if _is_executor(executor) or attempt == _AGAIN:
                    where = f"{stored}, and the same call goes on from there"
                    raise RuntimeError(
                        f"the executor failed with {len(done)} of {len(units)} units finished"
                        f" ({type(lost).__name__}: {lost}); "
                        + (where if stored else "they are not stored: give scratch=, a folder that keeps them")
                    ) from lost


def pair_tiles(pairs: Sequence[tuple[int, int]], count: int) -> list[list[tuple[int, int]]]:
    """Return pairs of `count` things in groups, each of which needs few of the things: at most 36 tiles of a matrix."""
    size = -(-count // 8)
    tiles: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for i, j in pairs:
        tiles.setdefault((i // size, j // size), []).append((i, j))
    return list(tiles.values())


def _run(
    pool: Executor,
    function: Callable[..., Any],
    units: Sequence[tuple[Any, ...]],
    todo: Sequence[int],
    folder: Path,
    device: torch.device | str,
) -> Generator[int, None, None]:
    """Yield the numbers of units as they end; the first unit checks that a worker sees the folder."""
    ended: SimpleQueue[tuple[int, Future[Any]]] = SimpleQueue()
    futures = []

    def submit(number: int, *call: Any) -> None:
        try:
            future = pool.submit(*call)
        except Exception as error:
            raise _failure(error) from error
        futures.append(future)
        future.add_done_callback(lambda future: ended.put((number, future)))

    def collect() -> int:
        number, future = ended.get()
        try:
            answer = future.result()
        except (Exception, asyncio.CancelledError) as error:
            raise _failure(error) from error
        if not (isinstance(answer, tuple) and len(answer) == 2 and answer[0] == number):
            raise _LostError(ValueError(f"it returned {answer!r:.60} instead of the result of unit {number}"))
        if answer[1] is not None:
            raise answer[1]
        return number

    try:
        (folder / CHECK).write_text("from the caller", encoding="utf-8")
        submit(-1, answer_check, str(folder))
        collect()
        if not (folder / f"{CHECK}ed").is_file():
            raise unseen(folder, "the caller does not see what a worker writes there")
        for number in todo:
            submit(number, work, function, str(folder), str(device), number, units[number], process_mark())
        for _ in todo:
            yield collect()
    finally:
        for future in futures:
            future.cancel()


def _failure(error: BaseException) -> Exception:
    """Return what to raise for an error that is not that of a unit."""
    if isinstance(error, pickle.PicklingError) or "pickle" in str(error) or "serialize" in str(error):
        return TypeError(f"executor cannot send an argument to its workers; define it in a module: {error}")
    return _LostError(error)


def _is_executor(executor: object) -> bool:
    return isinstance(executor, Executor) and not isinstance(executor, type)


@contextmanager
def _pool(executor: Pool) -> Iterator[Executor]:
    """Give the executor, or one that the function makes, which is shut down at the end."""
    if not isinstance(executor, type) and isinstance(executor, Executor):
        yield executor
        return
    made = executor()
    if not _is_executor(made):
        raise TypeError(f"executor must make executors, but it returned {made!r:.60} ({type(made).__name__})")
    try:
        yield made
    finally:
        getattr(made, "shutdown", lambda: None)()


@contextmanager
def _folder(scratch: Scratch | None) -> Iterator[Path]:
    """Give a new folder in `scratch`, by default in that for temporary files, which is removed at the end."""
    if scratch is not None:
        Path(scratch).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tensornet_interp-", dir=scratch, ignore_cleanup_errors=True) as folder:
        try:
            yield Path(folder).absolute()
        finally:
            with suppress(OSError):
                Path(folder, CHECK).unlink()  # units that still run see by this that the caller has gone
