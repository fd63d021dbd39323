"""Tables in CSV files, and means with confidence intervals over their rows."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tensornet_interp.disk import open_file, read_lines
from tensornet_interp.numerics import t_quantile
from tensornet_interp.tables import write_csv


def write_table(path: str | Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV file with one line per row; the columns are the names in the first row.

    If a row lacks a name, its cell is empty. An existing table is replaced in one step: if the process is killed, the
    old table or the new one is complete on disk.
    """
    for number, row in enumerate(rows):
        if more := [name for name in row if name not in rows[0]]:
            raise ValueError(f"row {number} has fields not in fieldnames, those of the first row: {more}")
    write_csv(list(rows), path)


def read_table(path: str | Path) -> list[dict[str, float | str]]:
    """Return the rows of a CSV file that `write_table` wrote, without the empty cells.

    A cell that reads as a number becomes a number; any other cell is text. Raises FileNotFoundError, saying how to make
    the table, if the file is missing; ValueError, naming the line, if the file is not UTF-8, if two columns have one
    name, or if a line has more cells than there are columns.
    """
    try:
        file = open_file(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; run without --replot first") from None
    with file:
        reader = csv.reader((line.decode() for line in read_lines(file, path)), strict=True)
        try:
            names = next(reader, [])
            if len(set(names)) < len(names):
                raise ValueError(f"two columns have the same name: {names}")
            rows = []
            for cells in filter(None, reader):
                if len(cells) > len(names):
                    raise ValueError(f"{len(cells)} cells for {len(names)} columns")
                rows.append({name: _cell(text) for name, text in zip(names, cells, strict=False) if text})
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path} is not a table: line {reader.line_num}: {error}") from error
    return rows


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the mean and half the width of its confidence interval by Student's t (nan for a single value)."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, math.nan
    return mean, t_quantile(n, confidence) * float(np.std(values, ddof=1)) / n**0.5


def summarise(
    rows: Sequence[Mapping[str, object]], by: Sequence[str], fields: Sequence[str], confidence: float = 0.95
) -> list[dict[str, object]]:
    """Return one row per group of rows with the same values of `by`: the mean of each field, and its interval.

    FIELD is the mean; FIELD_low and FIELD_high are the ends of its confidence interval by Student's t, for independent
    rows (seeds); `n` is the number of rows. With one row there are no ends, and a field that no row has is left out.
    Groups are in the order in which they first appear. Raises KeyError if a row lacks a field of `by`.
    """
    groups: dict[tuple[object, ...], list[Mapping[str, object]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in by), []).append(row)
    found = []
    for key, members in groups.items():
        summary: dict[str, object] = {**dict(zip(by, key, strict=True)), "n": len(members)}
        for name in fields:
            values = [value for row in members if isinstance(value := row.get(name), int | float)]
            if not values:
                continue
            mean, half = interval(values, confidence)
            summary[name] = mean
            if len(values) > 1:
                summary |= {f"{name}_low": mean - half, f"{name}_high": mean + half}
        found.append(summary)
    return found


def plus_minus(row: Mapping[str, object], field: str, digits: int = 3) -> str:
    """Return a mean of `summarise` as text, with half the width of its interval if it has one; "-" if it is missing."""
    if field not in row:
        return "-"
    mean = float(str(row[field]))
    half = f" ±{mean - float(str(row[f'{field}_low'])):.{digits}f}" if f"{field}_low" in row else ""
    return f"{mean:.{digits}f}{half}"


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
