"""The file of a sweep: one JSON line per record, to which several processes append."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tensornet_interp.checks import check_path
from tensornet_interp.disk import appending, open_file, parse_json, read_lines
from tensornet_interp.tables import Record

_START = b'{"method": '  # how every line begins
KEY = ("method", "options", "seed", "fingerprint")


def load_records(path: str | Path) -> list[Record]:
    """Return all records of a file that `sweep` wrote, or [] if there is no such file.

    All records have the same keys; what a record lacks is None. An incomplete last line is left out. The file is not
    changed, and other processes may append to it meanwhile. Raises ValueError if `sweep` did not write the file.
    """
    path = check_path("path", path)
    try:
        with open_file(path) as file:
            return filled(_records(file, path)[0])
    except FileNotFoundError:
        return []


def filled(records: Sequence[Record]) -> list[Record]:
    """Return the records with the keys of all of them; what a record lacks is None."""
    keys = dict.fromkeys(key for record in sorted(records, key=len, reverse=True) for key in record)
    return [dict.fromkeys(keys) | record for record in records]


class RecordFile:
    """A record file holds records by key.

    If it has a path, several processes append whole lines to the file there.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.known = path, dict[str, Record]()
        self._read = (0, 0, 0)  # device and number of the file, and how far it was read
        if path is not None:
            with appending(path) as file:  # a path that cannot be written raises before the first fit
                self._refresh(file, path)

    def add(self, key: str, record: Record) -> None:
        """Keep the record; if another process has meanwhile written a record with the same key, keep that one."""
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
        """Read the records that other processes appended, and remove an incomplete last line from the file."""
        status = os.fstat(file.fileno())
        *same, read = self._read
        start = read if same == [status.st_dev, status.st_ino] and read <= status.st_size else 0
        records, end = _records(file, path, start)
        self.known |= {key_of(record): record for record in records}
        if end < status.st_size:
            warnings.warn(f"the incomplete last line of {path} was removed; its fit is run again", stacklevel=5)
            file.truncate(end)
        self._read = (status.st_dev, status.st_ino, end)


def _records(file: IO[bytes], path: Path, start: int = 0) -> tuple[list[Record], int]:
    """Return the records of an open file from byte `start` on, and the position after the last complete line."""
    records, end = list[Record](), start
    for line in read_lines(file, path, start):
        if not line.endswith(b"\n"):
            if not (line.startswith(_START) or _START.startswith(line)):
                raise ValueError(f"the end of {path} is not a record of a sweep: {line[:60]!r}")
            break
        try:
            record = parse_json(line, "the line")
        except ValueError:
            record = None
        if not (isinstance(record, dict) and {*KEY, "error"} <= record.keys()):
            where = f"line {len(records) + 1} of" if start == 0 else "a line of"
            raise ValueError(f"{where} {path} is not a record of a sweep: {line[:60]!r}")
        records.append(record)
        end += len(line)
    return records, end


def _write(file: IO[bytes], line: bytes) -> None:
    """Append a line to a file; if writing fails, remove what was written of the line."""
    start, written = file.seek(0, os.SEEK_END), 0
    try:
        while written < len(line):
            written += file.write(line[written:])
        os.fsync(file.fileno())
    except BaseException:
        file.truncate(start)
        raise


def key_of(record: Mapping[str, Any]) -> str:
    """Return the key of a fit: its method, options, seed and layer, as a text."""
    return json.dumps([record[name] for name in KEY], sort_keys=True)
