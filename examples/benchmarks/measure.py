"""Measure the rows of a benchmark: each in its own process, timed in turn, with memory and flops."""

import csv
import ctypes
import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

LONG = 20.0  # seconds: a row that takes longer runs once, without a warm-up
PAUSE = 0.2  # seconds before every timed call, in which the threads of the last row fall asleep
MIB = 2**20


class Outcome(NamedTuple):
    """An `Outcome` is the result of one call of a row: the work in words, the object found, and its iterations."""

    work: str
    found: Any = None
    iterations: int = 1
    complete: bool = True  # False: the call was stopped before its goal, so its time is a lower bound


class Checked(NamedTuple):
    """A `Checked` is the quality of the object found, by the measure that the table names."""

    fit: float | None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A `Row` is one thing to measure: run(subject, **options), with subject = prepare(**given).

    Only `run` is timed. Both functions belong to a module, so that another process can import them. `check(subject,
    found)` returns a `Checked`. `counted` names the option that limits the iterations, if there is one. Flops are then
    counted in runs of one and two iterations and extrapolated; without it, they are counted in one more whole run. A
    row with `counted` is warmed up by one iteration, since it may be too long to run twice.
    """

    what: str
    prepare: Callable[..., Any]
    given: Mapping[str, Any]
    run: Callable[..., Outcome]
    options: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Any, Any], Checked] | None = None
    counted: str | None = None


@dataclass(frozen=True)
class Table:
    """A `Table` holds the rows of one job; ratios are seconds over the seconds of row `base`.

    `base` is None if the rows do different jobs.
    """

    title: str
    fit: str  # the meaning of the column "fit"
    rows: Sequence[Row]
    base: int | None = 0


@dataclass(frozen=True)
class Record:
    """A `Record` holds the measurements of a row."""

    what: str
    work: str
    flops: float | None
    fit: float | None
    seconds: float
    peak_mib: float | None  # peak of the process minus its memory before the call
    process_mib: float | None  # peak of the process
    ratio: float | None
    complete: bool
    runs: int
    note: str


COLUMNS = tuple(f.name for f in fields(Record))


def measure(table: Table, *, repeats: int, threads: int) -> list[Record]:
    """Measure all rows of a table: their processes start together and then run one at a time, in turn."""
    workers = [_Worker(row, threads) for row in table.rows]
    try:
        for worker in workers:
            worker.ask("prepare")
        for worker in workers:
            worker.first()
        for _ in range(repeats):
            for worker in workers:
                if worker.seconds[0] <= LONG:
                    worker.seconds.append(worker.ask("time"))
        for worker in workers:
            worker.flops = worker.ask("count")
    finally:
        for worker in workers:
            worker.end()
    best = [min(worker.seconds[1:] or worker.seconds) for worker in workers]  # the first was the warm-up
    return [
        Record(
            row.what,
            worker.work,
            worker.flops,
            worker.checked.fit,
            seconds,
            worker.memory[0],
            worker.memory[1],
            None if table.base is None else seconds / best[table.base],
            worker.complete,
            len(worker.seconds[1:]) or 1,
            worker.checked.note,
        )
        for row, worker, seconds in zip(table.rows, workers, best, strict=True)
    ]


class _Worker:
    """The parent's side of the process of a row."""

    def __init__(self, row: Row, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, other = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(other, row, threads), daemon=True)
        self._process.start()
        other.close()
        self._name = row.what
        self.seconds: list[float] = []
        self.memory: tuple[float | None, float | None] = (None, None)
        self.flops: float | None = None

    def ask(self, order: str) -> Any:
        """Send an order and return the answer; an error in the process raises RuntimeError here."""
        self._connection.send(order)
        try:
            failed, answer = self._connection.recv()
        except EOFError:
            raise RuntimeError(f"the process of row {self._name!r} ended; was it out of memory?") from None
        if failed:
            raise RuntimeError(f"row {self._name!r} failed:\n{answer}")
        return answer

    def first(self) -> None:
        """Make the first call: the warm-up, or the only call of a long row."""
        seconds, self.work, self.complete, self.memory, self.checked = self.ask("first")
        self.seconds.append(seconds)

    def end(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join()


def _serve(connection: Connection, row: Row, threads: int) -> None:
    """The child's side: answer orders until the parent closes the connection."""
    torch.set_num_threads(threads)
    subject: Any = None
    outcome = Outcome("")
    while True:
        try:
            order = connection.recv()
        except EOFError:
            return
        try:
            answer: Any = None
            if order == "prepare":
                subject = row.prepare(**row.given)
                if row.counted is not None:
                    row.run(subject, **{**row.options, row.counted: 1})
            elif order == "first":
                before = reset_peak()
                seconds, outcome = timed(row, subject)
                peak = memory_status("VmHWM")
                memory = (None, None) if peak is None or before is None else (peak - before, peak)
                checked = Checked(None) if row.check is None else row.check(subject, outcome.found)
                answer = (seconds, outcome.work, outcome.complete, memory, checked)
            elif order == "time":
                answer, _ = timed(row, subject)
            else:
                answer = flops(row, subject, outcome.iterations)
            connection.send((False, answer))
        except Exception:
            connection.send((True, traceback.format_exc()))


def timed(row: Row, subject: Any) -> tuple[float, Outcome]:
    """Make one call of a row after a pause, and return its seconds and its outcome."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    outcome = row.run(subject, **row.options)
    return time.perf_counter() - start, outcome


def flops(row: Row, subject: Any, iterations: int) -> float:
    """Return the flops of the matrix products in a call of a row, as FlopCounterMode counts them.

    Factorizations (svd, eigh, qr, cholesky), solves and elementwise work are not counted.
    """

    def count(options: Mapping[str, Any]) -> int:
        with FlopCounterMode(display=False) as counter:
            row.run(subject, **options)
        return cast(int, counter.get_total_flops())

    if row.counted is None:
        return count(row.options)
    one, two = (count({**row.options, row.counted: n}) for n in (1, 2))
    return one + (iterations - 1) * (two - one)


def reset_peak() -> float | None:
    """Reset the peak memory of the process, and return the MiB that it holds now (None without Linux)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)  # freed memory goes back to the system
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return memory_status("VmRSS")


def memory_status(name: str) -> float | None:
    """Return an entry of the status of the process in MiB, such as "VmHWM", its peak (None without Linux)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / MIB for line in lines if line.startswith(name + ":")), None)


def show(table: Table, records: Sequence[Record]) -> str:
    """Return a table as text."""
    width = max(len(record.what) for record in records)
    work = max(len(record.work) for record in records)
    lines = [
        f"\n{table.title}\n(fit: {table.fit})" if table.fit else f"\n{table.title}",
        f"{'what':<{width}}  {'work':<{work}}  {'flops':>8}  {'fit':>9}  {'seconds':>9}  {'peak MiB':>8}"
        f"  {'process':>7}  {'ratio':>9}  note",
    ]
    for record in records:
        bound = "" if record.complete else ">"
        ratio = "" if record.ratio is None else f"{bound}{record.ratio:.4g}"
        lines.append(
            f"{record.what:<{width}}  {record.work:<{work}}  {_number(record.flops, '.2e'):>8}"
            f"  {_number(record.fit, '.6g'):>9}  {bound + format(record.seconds, '.4g'):>9}"
            f"  {_number(record.peak_mib, '.0f'):>8}  {_number(record.process_mib, '.0f'):>7}"
            f"  {ratio:>9}  {record.note}".rstrip()
        )
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, form)


def write_csv(path: Path, tables: Sequence[tuple[Table, Sequence[Record]]], about: Mapping[str, object]) -> None:
    """Write all rows of a section, each with the title of its table and with the description of the machine."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["table", *COLUMNS, *about])
        writer.writeheader()
        for table, records in tables:
            writer.writerows({"table": table.title} | asdict(record) | dict(about) for record in records)


def machine(threads: int) -> dict[str, object]:
    """Return a description of the machine: processor, threads, load, and version of torch."""
    name = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    return {
        "machine": f"{name}, {os.cpu_count()} cores",
        "threads": threads,
        "load_average": f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "",
        "torch": torch.__version__,
    }
