"""The parts of a page: sections with facts, figures and tables."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tensornet_interp.tables import Record

MOST_ROWS = 10_000  # of a table; the page shows them in steps


class Figure(NamedTuple):
    """A figure is a Bokeh model with a title above it and a note below it; `width` is its least width in CSS."""

    title: str
    model: Any
    width: str = "300px"
    note: str = ""


class Table(NamedTuple):
    """A table has one list of numbers, texts or None per row; the page sorts it and shows it in steps.

    `links` has one file per row, to which the first cell of the row links; "" is no link.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    links: Sequence[str] | None = None


class Piece(NamedTuple):
    """A piece is a token of an example, its activation, and how dark it is, from 0 to 1; None is not active."""

    text: str
    activation: str = ""
    shade: float | None = None


class Examples(NamedTuple):
    """Examples are stretches of text, each with the activation at its peak and its pieces."""

    title: str
    rows: Sequence[tuple[str, Sequence[Piece]]]


class Group(NamedTuple):
    """A group is a row of figures under one heading, such as the eigenvectors of one output."""

    title: str
    figures: Sequence[Figure]


@dataclass
class Section:
    """A section has a heading and, in this order, text, facts, warnings, examples, figures, groups of them, tables."""

    title: str
    text: str = ""
    facts: Sequence[Sequence[str]] = ()
    warnings: Sequence[str] = ()
    examples: list[Examples] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def table_of(title: str, records: Iterable[Record], note: str = "") -> Table:
    """Return records as a table, without the columns that have no value; of very many records, the first ones."""
    records = list(records)
    shown = records[:MOST_ROWS]
    columns = dict.fromkeys(key for record in shown for key in record)
    used = [key for key in columns if any(record.get(key) is not None for record in shown)]
    rows = [[plain_value(record.get(key)) for key in used] for record in shown]
    if len(shown) < len(records):
        note = f"The first {len(shown)} of {len(records)} rows; write_csv writes all of them. {note}".rstrip()
    return Table(title, [key.replace("_", " ") for key in used], rows, note)


def plain_value(value: object) -> object:
    """Return a value as JSON has it: floats with 6 digits, and texts for all that is no number."""
    if value is None or isinstance(value, bool | int | str):
        return str(value) if isinstance(value, bool) else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(plain_value(item)) for item in value)
    return str(value)
