"""Figures of attention: circuits of heads by feature or token, patterns by offset, and how heads compose."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from tensornet_interp.attention import AttentionLayer, LowRank, composition
from tensornet_interp.checks import check_int, check_kind, check_list, check_names, check_tensor, check_text
from tensornet_interp.plots.images import DIVERGING, to_numpy
from tensornet_interp.plots.matrices import cell_numbers, heat_map
from tensornet_interp.plots.networks import canvas
from tensornet_interp.plots.sheets import LABEL, SMALL, bare, fitted, line_height, numbers, plain, signs, wrap

_MOST_NAMES = 64  # the most rows or columns of a circuit that are all drawn
_CELL, _NARROW = 0.38, 0.17  # inches
_WIDEST = 2.4  # inches: of the label of an entry
_BARS = 1.3  # inches
_KINDS = {"query": "tab:green", "key": "tab:orange", "value": "tab:purple"}
_NODE, _LAYER = 0.62, 1.5  # inches: between heads, between layers


def head_entries(
    circuit: LowRank,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    count: int | None = None,
    title: str = "",
) -> Figure:
    """Draw a circuit of a head as a heat map with names, and its `count` entries of largest magnitude as bars.

    circuit: such as those of `AttentionLayer.qk` and `AttentionLayer.ov`, between features or tokens; see
    `LowRank.change_basis`.
    rows, columns: one name per row and per column; by default, they are numbered. A bar "a ← b" is the entry in row a
    and column b: for QK, the position a looks for the source b; for OV, the source b raises the output a. With more
    than 64 rows or columns, only those of the `count` entries are drawn. count: by default 12, or all if there are
    fewer. title: by default, the name of the circuit.
    """
    check_kind("circuit", circuit, LowRank)
    sizes = len(circuit.left), len(circuit.right)
    named = []
    for side, names, size, mode in zip(("rows", "columns"), (rows, columns), sizes, circuit.modes, strict=True):
        named.append([str(i) for i in range(size)] if names is None else list(check_names(side, names, size, mode)))
    most = sizes[0] * sizes[1]
    top = circuit.top(min(12, most) if count is None else check_int("count", count, 1, most, "entries of the circuit"))
    check_text("title", title, empty=True)
    title = title or circuit.name or "Circuit of a head"
    shown = [list(range(size)) for size in sizes]
    if max(sizes) > _MOST_NAMES:
        shown = [list(dict.fromkeys(found)) for found in ([e.row for e in top], [e.column for e in top])]
        title += f"\nrows and columns of the {len(top)} largest entries, of {sizes[0]} x {sizes[1]}"
    left, right = (side[kept] for side, kept in zip((circuit.left, circuit.right), shown, strict=True))
    limit = abs(top[0].value) or 1.0
    figure, _ = heat_map(
        to_numpy(left @ right.T),
        [named[0][i] for i in shown[0]],
        [named[1][i] for i in shown[1]],
        cell=_NARROW if max(map(len, shown)) > 12 else _CELL,
        cmap=DIVERGING,
        limits=(-limit, limit),
        legend=f"entry[{circuit.rows}, {circuit.columns}]",
        axis_names=(circuit.rows, circuit.columns),
    )
    entries = [f"{named[0][entry.row]} ← {named[1][entry.column]}" for entry in top]
    labels, widest, row = fitted(entries, _WIDEST, SMALL, 2)
    width, height = figure.get_size_inches()
    needed = len(top) * (row + 0.05)
    figure.set_size_inches(width + widest + _BARS + 0.7, max(height, needed + 0.5))
    axes = figure.panel(width + widest + 0.1, 0.1, _BARS, needed)
    values = [entry.value for entry in top]
    axes.barh(range(len(top)), values, height=0.7, color=signs(values))
    axes.axvline(0, color="0.5", linewidth=0.6)
    bare(axes)
    axes.set_yticks(range(len(top)), labels, fontsize=SMALL)
    axes.tick_params(length=0)
    axes.set(xlim=(-limit if min(values) < 0 else 0, limit if max(values) > 0 else 0), ylim=(len(top) - 0.4, -0.6))
    for at, text in enumerate(numbers(values)):
        axes.text(1.04, at, text, transform=axes.get_yaxis_transform(), fontsize=SMALL, va="center", gid=f"entry {at}")
    figure.suptitle(plain(title))
    return figure


def pattern_by_offset(
    pattern: Tensor, names: Sequence[str] | None = None, *, count: int | None = None, title: str = ""
) -> Figure:
    """Draw what every head takes from the source at every offset, as a heat map; -1 is the previous position.

    The value is the mean of pattern[head, s, s + offset] over samples and over the positions s that have such a source.
    pattern: (..., head, position, source), as `AttentionLayer.pattern` gives it; it may be negative. names: one per
    head; by default, heads are numbered. count: the number of offsets, 0, -1, ...; by default all, at most 24.
    """
    modes = ("...",) * max(0, getattr(pattern, "ndim", 0) - 3)
    check_tensor("pattern", pattern, (*modes, "head", "position", "source"))
    heads, positions = pattern.shape[-3], pattern.shape[-1]
    if pattern.shape[-2] != positions:
        raise ValueError(f"pattern must have as many sources as positions, got {tuple(pattern.shape)}")
    names = [f"head {head}" for head in range(heads)] if names is None else check_names("names", names, heads, "head")
    most = min(positions, 24) if count is None else check_int("count", count, 1, positions, "the positions")
    check_text("title", title, empty=True)
    mean = pattern.flatten(0, -4).mean(0) if pattern.ndim > 3 else pattern
    values = to_numpy(torch.stack([mean.diagonal(-back, -2, -1).mean(-1) for back in range(most)], -1))
    signed = float(values.min()) < 0
    limit = float(np.abs(values).max()) or 1.0
    figure, axes = heat_map(
        values,
        names,
        [str(-back) for back in range(most)],
        cell=_CELL,
        cmap=DIVERGING if signed else "viridis",
        limits=(-limit if signed else 0.0, limit),
        legend="mean of the pattern",
        axis_names=("", "offset of the source"),
        title=plain(title or "Pattern by offset"),
    )
    if max(values.shape) <= 30:
        cell_numbers(axes, values, limit, signed=signed)
    return figure


def draw_composition(layers: Sequence[AttentionLayer], *, offset: int = -1, count: int = 12, title: str = "") -> Figure:
    """Draw heads as nodes, bottom layer first, and the `count` strongest compositions between them as lines.

    Green lines: what a head writes is read by the queries of a head above; orange: by its keys; purple: by its values.
    Wider lines have larger scores; the list gives the numbers, see `composition`. Heads are named LAYER.HEAD.
    layers: at least two attention layers of one stack, bottom first. offset: of the source that is read, for queries
    and keys. Of a layer with two scores, the larger of both compositions counts.
    """
    given = check_list("layers", layers, "give at least two")
    for i, layer in enumerate(given):
        check_kind(f"layers[{i}]", layer, AttentionLayer)
    if len(given) < 2:
        raise ValueError(f"layers must be at least two, because heads compose with heads below, got {len(given)}")
    check_text("title", title, empty=True)
    edges = _edges(given, offset)
    edges = edges[: check_int("count", count, 1)]
    lines = [f"{upper[0]}.{upper[1]} ← {lower[0]}.{lower[1]}" for _, _, lower, upper in edges]
    wide = _NODE * max(layer.heads for layer in given) + 0.3
    column = max(0.9, fitted(lines, 3.0, LABEL, 1)[1]) + 1.2
    width = wide + column + 0.5
    title = title or f"Composition of heads, the {len(edges)} strongest; keys and queries at offset {offset}"
    title = wrap(plain(title), width - 0.3, LABEL)
    top = line_height(LABEL) * (1 + title.count("\n")) + 0.45
    row = line_height(LABEL) + 0.04
    body = max(_LAYER * (len(given) - 1) + 0.6, row * (len(edges) + 1))
    height = top + body
    figure, axes = canvas(width, height, title, LABEL)
    strongest = edges[0][0] or 1.0

    def place(head: tuple[int, int]) -> tuple[float, float]:
        x = 0.15 + wide / 2 + _NODE * (head[1] - (given[head[0]].heads - 1) / 2)
        return x, 0.35 + head[0] * (body - 0.6) / (len(given) - 1)

    shift = dict(zip(_KINDS, (-0.05, 0.0, 0.05), strict=True))
    for score, kind, lower, upper in edges:
        (x0, y0), (x1, y1) = place(lower), place(upper)
        axes.plot(
            [x0 + shift[kind], x1 + shift[kind]],
            [y0, y1],
            color=_KINDS[kind],
            linewidth=0.5 + 4 * score / strongest,
            alpha=0.65,
            zorder=1,
            gid=f"{kind} {upper[0]}.{upper[1]} {lower[0]}.{lower[1]}",
        )
    for i, layer in enumerate(given):
        for head in range(layer.heads):
            box = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": "0.4"}
            style: dict[str, Any] = {"fontsize": 7, "ha": "center", "va": "center", "zorder": 3}
            axes.text(*place((i, head)), f"{i}.{head}", bbox=box, gid=f"head {i}.{head}", **style)
    left = wide + 0.4
    for at, (line, (score, kind, _, _)) in enumerate(zip(lines, edges, strict=True)):
        y = height - top - row * (at + 0.3)
        axes.text(left, y, line, fontsize=LABEL, va="center", gid=f"edge {at}")
        axes.text(width - 0.15, y, f"{kind} {score:.2f}", fontsize=LABEL, va="center", ha="right", color=_KINDS[kind])
    return figure


def _edges(layers: Sequence[AttentionLayer], offset: int) -> list[tuple[float, str, tuple[int, int], tuple[int, int]]]:
    """Return (score, kind, lower head, upper head) of all pairs of heads, strongest first."""
    found = []
    for j, upper in enumerate(layers):
        for i, lower in enumerate(layers[:j]):
            for kind in _KINDS:
                scores = range(1 if kind == "value" else len(upper.queries))
                if not len(scores):
                    continue
                tables = [composition(lower, upper, kind, [offset], score)[0] for score in scores]
                values = torch.stack(tables).amax(0).tolist()
                found += [(value, kind, (i, b), (j, a)) for a, row in enumerate(values) for b, value in enumerate(row)]
    return sorted(found, key=lambda edge: -edge[0])
