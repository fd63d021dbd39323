"""Executors: units of work run in threads, in processes or on other machines, and their results come back as files.

A unit is a plain function of a few names and numbers. The objects that units need are written once, by `save`, to a
folder that every worker sees, and each worker opens what it needs there.
"""

import asyncio
import os
import pickle
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, runtime_checkable

import torch

from tensornet_interp.checks import check_path
from tensornet_interp.keys import digest
from tensornet_interp.report import package_version
from tensornet_interp.saving import load, save

__all__ = ["Executor", "Pool", "Scratch", "check_pool", "run_units"]

Scratch = str | os.PathLike[str]
_AGAIN = 3  # how often a function that makes pools is asked for another one
_BORN = os.getpid()  # a forked process has another number
_CHECK = "check"


@runtime_checkable
class Executor(Protocol):
    """An executor takes calls and returns a future for each, like `concurrent.futures.Executor`."""

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
) -> Iterator[tuple[int, Any]]:
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
    asked again for the units that are left, at most three times.
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
    for number in range(len(units)):
        if kept is not None:
            with suppress(FileNotFoundError, ValueError):  # not finished, or damaged
                value = load(kept / _name(number), device=device)
                done.add(number)
                yield number, value
    with _folder(scratch) as folder:
        for name in objects:
            save(objects[name], folder / _name(name))
        for attempt in range(1 + _AGAIN * (not _is_executor(executor))):
            todo = [number for number in range(len(units)) if number not in done]
            try:
                with _pool(executor) as pool, closing(_run(pool, function, units, todo, folder, device)) as found:
                    for number in found:
                        value = load(folder / _name(number), device=device)
                        if kept is not None:
                            kept.mkdir(parents=True, exist_ok=True)
                            os.replace(folder / _name(number), kept / _name(number))
                        done.add(number)
                        yield number, value
                break
            except _LostError as error:
                lost = error.args[0]
                if _is_executor(executor) or attempt == _AGAIN:
                    where = f"{stored}, and the same call goes on from there"
                    raise RuntimeError(
                        f"the executor failed with {len(done)} of {len(units)} units finished"
                        f" ({type(lost).__name__}: {lost}); "
                        + (where if stored else "they are not stored: give scratch=, a folder that keeps them")
                    ) from lost
    if kept is not None:
        shutil.rmtree(kept, ignore_errors=True)


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
        if not todo:
            return
        (folder / _CHECK).write_text("from the caller", encoding="utf-8")
        submit(-1, _answer, str(folder))
        collect()
        if not (folder / f"{_CHECK}ed").is_file():
            raise _unseen(folder, "the caller does not see what a worker writes there")
        for number in todo:
            submit(number, _work, function, str(folder), str(device), number, units[number], _process())
        for _ in todo:
            yield collect()
    finally:
        for future in futures:
            future.cancel()


def _answer(folder: str) -> tuple[int, Exception | None]:
    """Write a file beside that of the caller: the first unit of every pool."""
    if not Path(folder, _CHECK).is_file():
        return -1, _unseen(folder, f"a worker on {socket.gethostname()} does not see it")
    Path(folder, f"{_CHECK}ed").touch()
    return -1, None


def _unseen(folder: str | Path, why: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"{folder} is not shared: {why}; give scratch=, a folder that the caller and all workers see under one path"
    )


def _work(
    function: Callable[..., Any], folder: str, device: str, number: int, unit: tuple[Any, ...], caller: str
) -> tuple[int, Exception | None]:
    """Run a unit in a worker and write its result; return its number, and its error or None."""
    try:
        if _process() != caller:
            _prepare_process()
        save(function(_Opened(folder, device), *unit), Path(folder) / _name(number))
    except Exception as error:
        return number, _portable(error)
    return number, None


class _Opened(Mapping[str, Any]):
    """The objects that the caller wrote, opened when they are asked for."""

    def __init__(self, folder: str, device: str) -> None:
        self._folder, self._device = folder, device

    def __getitem__(self, name: str) -> Any:
        return _open(Path(self._folder) / _name(name), self._device)

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in Path(self._folder).glob(_name("*")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@lru_cache(maxsize=2)
def _open(path: Path, device: str) -> Any:
    try:
        return load(path, device=device)
    except FileNotFoundError:
        raise _unseen(path.parent, f"a worker on {socket.gethostname()} does not see {path.name}") from None


def _prepare_process() -> None:
    """Set the threads of torch in a worker process; refuse a fork in which torch cannot compute gradients."""
    forked = os.getpid() != _BORN
    said = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    wanted = int(said) if said.isdecimal() and int(said) and not forked else 1
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    if forked:
        try:
            torch.ones((), dtype=torch.float64, device="cpu", requires_grad=True).backward()
        except RuntimeError as error:
            raise RuntimeError(
                "executor forks its workers, and a fork of a process that has used an accelerator cannot compute"
                " gradients: give its mp_context=multiprocessing.get_context('spawn')"
            ) from error


def _process() -> str:
    return f"{socket.gethostname()} {os.getpid()} {_BORN} {_MARK}"


_MARK = secrets.token_hex(8)


def _portable(error: Exception) -> Exception:
    """Return the error, or its words if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


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
        yield Path(folder).resolve()


def _name(name: str | int) -> str:
    return f"{name}.safetensors"
