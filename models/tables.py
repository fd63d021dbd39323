"""Tables on disk."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_table(path: str | Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV file: a line of the names of the first row, and one line a row; names that a row lacks stay empty."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], restval="")
        writer.writeheader()
        writer.writerows(rows)


def read_table(path: str | Path) -> list[dict[str, float | str]]:
    """The rows of a CSV file that `write_table` wrote: numbers where a cell is one, else text; empty cells left out

    Raises FileNotFoundError, saying how to make the table, where there is none.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing; run without --replot first")
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: _cell(text) for key, text in row.items() if text} for row in csv.DictReader(file)]


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
