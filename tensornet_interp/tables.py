"""Tables: plain records of results and reports, as a pandas DataFrame or as a CSV file.

A record is a dict from column names to numbers, texts and None. A value that is itself a dict, such as the options of a
fit or the entries of a vector by name, becomes one column per entry.
"""

import csv
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from tensornet_interp.checks import check_list, check_mapping, check_path
from tensornet_interp.disk import replace_files
from tensornet_interp.optional import optional

__all__ = ["HasRecords", "Record", "entries", "flat_records", "indexed", "to_frame", "write_csv"]

Record = dict[str, Any]


@runtime_checkable
class HasRecords(Protocol):
    """A result or a report that gives its content as records."""

    def records(self) -> list[Record]:
        """Return one dict per row of a table; all rows have the same keys."""
        ...


def to_frame(records: HasRecords | Sequence[Any]) -> Any:
    """Return a pandas DataFrame with one row per record.

    records: a result or a report; or a list of dicts, of named tuples, or of results and reports, whose rows follow
    each other. A dict in a record gives one column per entry. Options have their own names, or "option_" + name if a
    field of the record has this name; all other columns of this kind have the name of the field in the singular before
    them, such as "input_age" for an entry of "inputs".
    Raises ImportError, saying how to install it, if there is no pandas; TypeError for any other object.
    """
    pandas = optional("pandas", "for a DataFrame of records", extra="pandas")
    return pandas.DataFrame(flat_records(records))


def write_csv(records: HasRecords | Sequence[Any], path: str | Path) -> None:
    """Write a CSV file with one line per record; records and columns are those of `to_frame`, without pandas.

    The columns are those of all records, in the order in which they appear first; a record that lacks a column, or has
    None there, leaves the cell empty. Lists are written as JSON. Missing folders are made. An existing file is replaced
    in one step: if the process is killed, the old file or the new one is complete on disk.
    """
    rows = flat_records(records)
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(dict.fromkeys(column for row in rows for column in row)), restval="")
    writer.writeheader()
    writer.writerows({column: _cell(value) for column, value in row.items()} for row in rows)
    replace_files([(check_path("path", path), file.getvalue().encode())])


def entries(vector: Tensor, names: Sequence[str] | None, constant: bool) -> dict[str, float] | None:
    """Return the entries of a vector by name, or None without names; the constant coordinate is called "(constant)"."""
    if names is None:
        return None
    return dict(zip(["(constant)", *names] if constant else names, vector.detach().tolist(), strict=True))


def indexed(axes: Sequence[str], **arrays: Tensor) -> list[Record]:
    """Return one record per place of arrays of one shape: the index along each axis, and the entries by name."""
    values = {name: array.detach().flatten().tolist() for name, array in arrays.items()}
    shape = next(iter(arrays.values())).shape
    return [
        dict(zip(axes, place, strict=True)) | {name: listed[at] for name, listed in values.items()}
        for at, place in enumerate(itertools.product(*map(range, shape)))
    ]


def flat_records(records: object) -> list[Record]:
    """Return the records of a result or a report, or of a list of them, without dicts inside: see `to_frame`."""
    if callable(own := getattr(records, "records", None)):
        return [_flat(record) for record in own()]
    rows = []
    for number, item in enumerate(check_list("records", records)):
        if hasattr(item, "records"):
            rows += flat_records(item)
        else:
            named = item._asdict() if hasattr(item, "_asdict") else item
            rows.append(_flat(check_mapping(f"records[{number}]", named)))
    return rows


def _flat(record: Mapping[str, Any]) -> Record:
    flat = {field: value for field, value in record.items() if not isinstance(value, Mapping)}
    for field, value in record.items():
        if isinstance(value, Mapping):
            prefix = f"{field.removesuffix('s')}_"
            plain = field == "options"
            flat |= {name if plain and name not in flat else f"{prefix}{name}": item for name, item in value.items()}
    return flat


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | tuple | dict) else value
