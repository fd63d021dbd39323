"""What a worker does: it opens the objects of a unit, runs the unit on its own threads and writes the result."""

import os
import pickle
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partialmethod
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tensornet_interp.saving import load, save

__all__ = ["CHECK", "answer_check", "object_file", "process_mark", "result_file", "unseen", "work"]

CHECK = "check"  # the file of the caller in the first unit
_BORN = os.getpid()  # a forked process has another number
_MARK = secrets.token_hex(8)  # of this import: numbers of processes and names of hosts may repeat


def answer_check(folder: str) -> tuple[int, Exception | None]:
    """Write a file beside that of the caller: the first unit of every pool."""
    if not Path(folder, CHECK).is_file():
        return -1, unseen(folder, f"a worker on {socket.gethostname()} does not see it")
    Path(folder, f"{CHECK}ed").touch()
    return -1, None


def unseen(folder: str | Path, why: str) -> FileNotFoundError:
    """Return the error for a folder that a worker or the caller does not see."""
    return FileNotFoundError(
        f"{folder} is not shared: {why}; give scratch=, a folder that the caller and all workers see under one path"
    )


def work(
    function: Callable[..., Any], folder: str, device: str, number: int, unit: tuple[Any, ...], caller: str
) -> tuple[int, Exception | None]:
    """Run a unit in a worker and write its result; return its number, and its error or None."""
    try:
        if process_mark() != caller:
            _prepare_process()
        result = Path(folder) / result_file(number)
        save(function(_Opened(folder, device), *unit), result)
        if not Path(folder, CHECK).exists():  # the caller has gone and removed the folder, and `save` made it again
            result.unlink(missing_ok=True)
            with suppress(OSError):
                Path(folder).rmdir()
    except Exception as error:
        return number, _portable(error)
    return number, None


class _Opened(Mapping[str, Any]):
    """The objects that the caller wrote, opened when they are asked for."""

    def __init__(self, folder: str, device: str) -> None:
        self._folder, self._device = folder, device

    def __getitem__(self, name: str) -> Any:
        return _open(Path(self._folder) / object_file(name), self._device)

    def __contains__(self, name: object) -> bool:
        return Path(self._folder, object_file(str(name))).is_file()

    def __iter__(self) -> Iterator[str]:
        return (path.stem.removeprefix("object-") for path in Path(self._folder).glob(object_file("*")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@lru_cache(maxsize=2)
def _open(path: Path, device: str) -> Any:
    try:
        return load(path, device=device)
    except FileNotFoundError:
        raise unseen(path.parent, f"a worker on {socket.gethostname()} does not see {path.name}") from None


def _prepare_process() -> None:
    """Set the threads of torch in a worker process; refuse a fork in which torch cannot compute gradients.

    tqdm gets a lock of its own, because the one that processes share would be lost with a worker that is killed, and
    shows nothing: the bars of several workers would write over each other and over that of the caller.
    """
    tqdm.set_lock(threading.RLock())
    if not isinstance(vars(tqdm)["__init__"], partialmethod):
        setattr(tqdm, "__init__", partialmethod(tqdm.__init__, disable=True))  # noqa: B010 - mypy forbids to assign it
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


def process_mark() -> str:
    """Return a text that only the threads of one process share."""
    return f"{socket.gethostname()} {os.getpid()} {_BORN} {_MARK}"


def _portable(error: Exception) -> Exception:
    """Return the error, or its words if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def object_file(name: str) -> str:
    """Return the name of the file of an object."""
    return f"object-{name}.safetensors"


def result_file(number: int) -> str:
    """Return the name of the file of the result of a unit."""
    return f"result-{number}.safetensors"
