"""Safe files: a file is written completely or not at all, and its size is checked before it is read.

A write creates a new file in the folder of its target, flushes it to the disk and renames it to the target, so a reader
finds either the old file or the new one. A read opens the path once and uses only the opened file, even if another file
replaces it at this path meanwhile.
"""

import json
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

__all__ = [
    "MAX_JSON",
    "appending",
    "open_file",
    "parse_json",
    "read_file",
    "read_json",
    "read_lines",
    "remove_leftovers",
    "replace_file",
    "replace_files",
]

MAX_JSON = 32 << 20  # bytes; 4 times the index of the largest published checkpoints
MAX_LINE = 8 << 20  # bytes
PATIENCE = 60.0  # seconds that a writer waits for another writer, who holds a file for milliseconds
_PREFIX, _SUFFIX = ".tensornet_interp-", ".partial"
_IRREGULAR = "is not a regular file (a folder, a pipe or a device)"
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # do not wait for the other end of a pipe


@contextmanager
def replace_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for writing; if the `with` block ends without an error, this file replaces `path` in one step."""
    with _beside(path) as (file, temporary):
        yield file
        _to_disk(file)
        os.replace(temporary, path)
    _folders_to_disk([path])


def replace_files(parts: Sequence[tuple[Path, bytes]]) -> None:
    """Write each content to its path; missing folders are created.

    All new files are complete before the first of them replaces an old file, so a failed write leaves all old files. If
    the process is killed between two replacements, the first files are new and the others are old; a reader must detect
    this.
    """
    with ExitStack() as stack:
        written = []
        for path, content in parts:
            file, temporary = stack.enter_context(_beside(path))
            file.write(content)
            _to_disk(file)
            written.append((temporary, path))
        for temporary, path in written:
            os.replace(temporary, path)
    _folders_to_disk([path for path, _ in parts])


@contextmanager
def appending(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for appending, locked for one thread of one process; a missing file is created.

    Writes go to the end of the file and are not buffered. Raises TimeoutError if another process or thread keeps the
    file locked for a minute. Raises ValueError if the path is not a regular file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _NO_WAIT, 0o666), "a+b", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} {_IRREGULAR}")
        end = time.monotonic() + PATIENCE
        while not _locked(file):
            if time.monotonic() > end:
                raise TimeoutError(f"another process has kept {path} locked for more than {PATIENCE:.0f} seconds")
            time.sleep(0.005)
        with _named(path):
            yield file


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading; raise ValueError at once for a folder, a pipe, a socket or a device."""
    try:
        number = os.open(path, os.O_RDONLY | _NO_WAIT)
    except FileNotFoundError:
        raise FileNotFoundError(f"{os.fspath(path)} is missing") from None
    status = os.fstat(number)
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return os.fdopen(number, "rb")
    os.close(number)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{os.fspath(path)} {_IRREGULAR}")
    return open(os.devnull, "rb")  # an empty file; files under /proc also have size 0, but some of them never end


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the content of a regular file; raise ValueError, before it is read, if it exceeds `limit` bytes."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if 0 < size <= limit else b""
    found = max(size, len(content))
    if found > limit:
        raise ValueError(f"{os.fspath(path)} has {found} bytes, but at most {limit} are allowed")
    return content


def read_lines(file: IO[bytes], path: str | os.PathLike[str], start: int = 0) -> Iterator[bytes]:
    """Yield the lines of an open file from byte `start` on, with their line ends.

    Raises ValueError for a line of more than 8 MiB.
    """
    with os.fdopen(os.dup(file.fileno()), "rb") as reader:  # buffered; a file for appending is not
        reader.seek(start)
        while line := reader.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise ValueError(f"{os.fspath(path)} has a line of more than {MAX_LINE} bytes")
            yield line


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the value in a JSON file of at most 32 MiB.

    Raises FileNotFoundError if there is no such file. Raises ValueError if the file is larger or is not valid JSON.
    """
    return parse_json(read_file(path, MAX_JSON), os.fspath(path))


def parse_json(text: bytes | str, where: str) -> Any:
    """Return the value of a JSON text; error messages call the text `where`.

    Raises ValueError if the text is not valid JSON or is nested too deeply, or if a name occurs twice in one object,
    because two readers could then read different values.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"{len(pairs) - len(made)} of the {len(pairs)} names of an object occur twice")
    return made


@contextmanager
def _beside(path: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Create a new locked file in the folder of `path`; remove it at the end unless it was renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary, file = _create(path.parent)
    try:
        with _named(path), file:  # closing the file may also fail
            yield file, temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create(folder: Path) -> tuple[Path, IO[bytes]]:
    while True:
        temporary = folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        file = temporary.open("xb")
        if _locked(file) and temporary.exists():  # else another writer took the file for a leftover
            return temporary, file
        file.close()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; these files are no longer locked."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            if _locked(file):
                path.unlink()


def _locked(file: IO[bytes]) -> bool:
    """Try to lock an open file; return False if another process has locked it, otherwise True.

    A system without such locks also returns True.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the name of the file to an OSError without a file name, such as the error of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
        raise


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
    if sys.platform == "win32":
        file.close()  # an open file cannot be renamed there


def _folders_to_disk(paths: Sequence[Path]) -> None:
    if sys.platform != "win32":
        for folder in {path.parent for path in paths}:
            number = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)
