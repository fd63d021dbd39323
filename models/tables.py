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
