"""Cards that notebooks show for an object: a short table, a small spectrum and warnings, as HTML without scripts."""

import html
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["Card", "Shown", "card_of", "map_card", "text_card"]

_MOST = 64  # values of a spectrum that are drawn
_NAMES = 6  # names that are listed
_LINES = 14  # of a printed table
_BAR, _HEIGHT = 5, 44  # pixels


class Card(NamedTuple):
    """A card holds the texts and numbers that a notebook shows for an object."""

    title: str
    rows: Sequence[Sequence[str]]
    values: Sequence[float] = ()  # the spectrum, drawn by magnitude
    caption: str = ""  # what the values are
    warnings: Sequence[str] = ()


class Shown:
    """Base class of objects that a notebook shows as a card."""

    def _card(self) -> Card:
        return Card(repr(self), ())

    def _repr_html_(self) -> str:
        card = self._card()
        cell = "padding:1px 10px 1px 0;text-align:left;vertical-align:top"
        table = "".join(
            "<tr>" + "".join(f'<td style="{cell}">{html.escape(text)}</td>' for text in row) + "</tr>"
            for row in card.rows
        )
        notes = "".join(f'<div style="color:#b35900">&#9888; {html.escape(text)}</div>' for text in card.warnings)
        return (
            f'<div style="max-width:60em"><b>{html.escape(card.title)}</b><table style="border:none">{table}</table>'
            f"{_spectrum(card.values, card.caption)}{notes}</div>"
        )


def card_of(shown: Shown) -> Card:
    """Return the card of an object."""
    return shown._card()


def text_card(text: str) -> Card:
    """Return the card of a printed table: the first line is its title, and two spaces separate its columns."""
    title, *lines = text.split("\n")
    rows = [re.split(r" {2,}", line.strip()) for line in lines[:_LINES]]
    return Card(title, rows + [[f"... and {len(lines) - _LINES} further lines"]] * (len(lines) > _LINES))


def map_card(part: Any, title: str, more: Sequence[Sequence[str]] = (), **options: Any) -> Card:
    """Return the card of a layer or of a decomposition: sizes, names, dtype and device, and the rows `more` below."""
    array, sizes = part.terms()[0].data, part.sizes
    counts = {"outputs": sizes["out"] - part.constant_out, "inputs": sizes["in1"] - part.constant_in}
    constant = [side for side, has in (("input", part.constant_in), ("output", part.constant_out)) if has]
    shape = part.input_shape
    named = {"outputs": _listed(part.output_names), "inputs": _listed(part.input_names)}
    if shape is not None:
        named["inputs"] = f"images of {shape[0]} x {shape[1]} pixels"
    rows = [(side, f"{count}{named[side] and f': {named[side]}'}") for side, count in counts.items()]
    if constant:
        rows.append(("constant coordinate", " and ".join(constant)))
    rows.append(("stored as", f"{str(array.dtype).removeprefix('torch.')} on {array.device}"))
    return Card(title, [*rows, *more], **options)


def _listed(names: Sequence[str] | None) -> str:
    if names is None:
        return ""
    return ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")


def _spectrum(values: Sequence[float], caption: str) -> str:
    """Return bars by magnitude, red above the line for positive values and blue below it for negative ones."""
    shown = sorted(values, key=abs, reverse=True)[:_MOST]
    if not shown or not abs(shown[0]):
        return ""
    middle, scale = (_HEIGHT / 2, _HEIGHT / 2) if min(shown) < 0 else (_HEIGHT, _HEIGHT)
    bars = "".join(
        f'<rect x="{_BAR * at}" y="{middle - max(size, 0):.1f}" width="{_BAR - 1}" height="{abs(size):.1f}"'
        f' fill="{"#d62728" if size > 0 else "#1f77b4"}"/>'
        for at, size in enumerate(scale * value / abs(shown[0]) for value in shown)
    )
    count = f", {len(shown)} of {len(values)}" if len(shown) < len(values) else f" ({len(values)})"
    return (
        f'<svg width="{_BAR * len(shown)}" height="{_HEIGHT}" role="img">{bars}</svg>'
        f'<div style="font-size:smaller">{html.escape(caption)}{count}, largest magnitude {abs(shown[0]):.4g}</div>'
    )
