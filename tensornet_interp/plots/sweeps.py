"""Figures of sweeps."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from tensornet_interp.checks import (
    check_bool,
    check_list,
    check_mapping,
    check_names,
    check_number,
    check_records,
    check_text,
)
from tensornet_interp.plots.sheets import LABEL, TITLE, Sheet, fitted, legend, plain, wrap

Record = Mapping[str, Any]
_MARKERS = "os^Dv<>pP"
_STYLES = ("-", "--", ":", "-.")
_MOST_MARKERS = 40  # lines with more points have no markers
_ROUNDING = 1e-6  # fits are exact if their errors are below this number, and below this share of the next error


def pareto(
    records: Sequence[Record],
    x: str = "parameters",
    y: str = "relative_error",
    by: str = "method",
    *,
    maximize: bool = False,
) -> Figure:
    """Draw y against x of every record, one colour per value of `by`, and the Pareto front as a line.

    x, y, by: names of fields or of options of the records. The front joins the records that no other record beats.
    Record a beats record b if the x of a is not larger, the y of a is not larger (with maximize=True: not smaller), and
    one of the two is better. Records without the two numbers (failed fits) are left out, and the title says how many.
    An axis is logarithmic if all its values are positive and span more than a factor 10; a y axis that is maximized
    never is. Exact fits, whose error is only rounding, are arrows at the end of the axis if they would squeeze the
    other points together.
    """
    check_records("records", records)
    for name, field in {"x": x, "y": y, "by": by}.items():
        check_text(name, field)
    check_bool("maximize", maximize)
    points = [(value, *xy) for record in records if (xy := _numbers(record, x, y)) for value in [_get(record, by)]]
    if not points:
        raise ValueError(f"no record has finite numbers for both x='{x}' and y='{y}'")
    left_out = len(records) - len(points)
    title = f"{left_out} records without these numbers are not shown" if left_out else ""
    figure = Sheet(7, 4.2, title, layout="constrained")
    axes = figure.subplots()
    front = _front([(px, py) for _, px, py in points], maximize)
    # steps: between two points, the left one is the best known
    axes.step(*zip(*front, strict=True), where="post", color="0.3", linewidth=1.2, zorder=1, label="Pareto front")
    groups = dict.fromkeys(str(value) for value, _, _ in points)
    for group, marker in zip(groups, cycle(_MARKERS), strict=False):
        mine = [(px, py) for value, px, py in points if str(value) == group]
        axes.scatter([p[0] for p in mine], [p[1] for p in mine], s=28, alpha=0.8, marker=marker, label=group, zorder=2)
    axes.plot(*zip(*front, strict=True), "o", markersize=9, fillstyle="none", color="0.2", zorder=3)
    if _spread([px for _, px, _ in points]):
        axes.set_xscale("log")
        axes.tick_params(axis="x", which="minor", labelsize=6)  # at full size "2×10³ 3×10³" would overlap
    if not maximize and _spread([py for _, _, py in points]):
        axes.set_yscale("log")
        _set_exact_fits_apart(axes, points, _words(y))
    axes.set(xlabel=_words(x), ylabel=_words(y))
    axes.grid(True, color="0.92")
    axes.set_axisbelow(True)
    legend(axes, _words(by))
    return figure


def curves(
    records: Sequence[Record],
    x: str,
    y: Sequence[str],
    by: str | None = None,
    *,
    whole: Mapping[str, float] | None = None,
    bands: Mapping[str, tuple[str, str]] | None = None,
) -> Figure:
    """Draw every field of y against x: one panel per field, one line per value of `by`, with records in order of x.

    x, y, by: names of fields or of options of the records. whole: {field of y: number}; a dashed line shows this
    number. bands: {field of y: (field of the lower end, field of the upper end)}; the area between both ends is shaded.
    A panel leaves out records without a finite number, and a band leaves out records without both ends. The x axis is
    logarithmic if all values are positive and span more than a factor 10; a y axis never is.
    """
    check_records("records", records)
    check_text("x", x)
    if by is not None:
        check_text("by", by)
    _check_fields(y)
    for name, value in {} if whole is None else check_mapping("whole", whole).items():
        check_number(f"whole[{name!r}]", value)
    for name, ends in {} if bands is None else check_mapping("bands", bands).items():
        check_names(f"bands[{name!r}]", ends, 2, "end")
    groups = dict.fromkeys(str(_get(record, by)) if by else "" for record in records)
    figure = Sheet(3.4 * len(y) + 0.4, 3.2, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(y), squeeze=False)[0], y, strict=True):
        points = [(_get(record, by) if by else "", *xy) for record in records if (xy := _numbers(record, x, name))]
        if not points:
            raise ValueError(f"no record has finite numbers for both x='{x}' and y='{name}'")
        if whole is not None and name in whole:
            axes.axhline(whole[name], color="0.4", linestyle="--", linewidth=1, label="reference")
        for number, group in enumerate(groups):  # the same colour in all panels
            mine = sorted((px, py) for value, px, py in points if str(value) == group)
            if not mine:
                continue
            look: dict[str, Any] = {"marker": _MARKERS[number % len(_MARKERS)], "markersize": 4}
            if len(mine) > _MOST_MARKERS:
                look = {"linestyle": _STYLES[number % len(_STYLES)]}
            axes.plot(*zip(*mine, strict=True), color=f"C{number}", label=group or "fits", **look)
            if bands is not None and name in bands:
                rows = [record for record in records if not by or str(_get(record, by)) == group]
                _band(axes, rows, x, bands[name], f"C{number}")
        values = sorted({px for _, px, _ in points})
        if _spread(values):
            axes.set_xscale("log")
            if len(values) <= 6:  # few enough to label each
                axes.set_xticks(values)
            else:
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())  # minor labels would overlap
        elif all(value == int(value) for value in values):
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))  # a rank is no 7.5; 800,000 is wide
        axes.set(xlabel=_words(x), ylabel=_words(name))
        axes.grid(True, color="0.92")
        axes.set_axisbelow(True)
    named = [axes for axes in figure.axes if len(axes.lines) > 1]
    if named:  # the first panel with the most groups: others may have no numbers of some
        best = max(named, key=lambda axes: sum(line.get_label() != "reference" for line in axes.lines))
        legend(best, None if by is None else _words(by))
    return figure


def dots(records: Sequence[Record], y: Sequence[str], by: str, *, title: str = "") -> Figure:
    """Draw one panel per field of y, with one dot in one row per record; the first record is on top.

    by: the field that labels the rows. If a record has numbers in the fields NAME_low and NAME_high, where NAME is a
    field of y, an interval between them is drawn. Unlike bars, dots need no axis that starts at zero, so similar
    accuracies can be distinguished. A record without a finite number has no dot in the panel of this field.
    """
    check_records("records", records, empty="there is nothing to draw")
    _check_fields(y)
    check_text("by", by)
    check_text("title", title, empty=True)
    names = [str(_get(record, by)) for record in records]
    labels, widest, row = fitted(names, 2.4, LABEL, 2)
    figure = Sheet(2.4 * len(y) + widest, 1.0 + max(0.28, row + 0.05) * len(names), title, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(y), squeeze=False, sharey=True)[0], y, strict=True):
        places = {at: xy[0] for at, record in enumerate(records) if (xy := _numbers(record, name, name))}
        if not places:
            raise ValueError(f"no record has a finite number y='{name}'")
        ends = {at: xy for at in places if (xy := _numbers(records[at], f"{name}_low", f"{name}_high"))}
        axes.hlines(list(ends), [low for low, _ in ends.values()], [high for _, high in ends.values()], color="0.6")
        axes.plot(list(places.values()), list(places), "o", markersize=5)
        axes.set_xlabel(wrap(plain(_words(name)), 2.2, TITLE))
        axes.tick_params(axis="x", labelsize=8)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(True, color="0.92")
        axes.set_axisbelow(True)
    figure.axes[0].set_yticks(range(len(names)), labels, fontsize=LABEL)
    figure.axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def _check_fields(y: Sequence[str]) -> None:
    if isinstance(y, str):
        raise TypeError(f"y must be a list of fields, as ['{y}'], got '{y}'")
    for number, name in enumerate(check_list("y", y, "name the fields to draw")):
        check_text(f"y[{number}]", name)


def _band(axes: Axes, records: Sequence[Record], x: str, ends: tuple[str, str], color: Any) -> None:
    lows, highs = ({r[0]: r[1] for record in records if (r := _numbers(record, x, end))} for end in ends)
    at = sorted(lows.keys() & highs.keys())
    axes.fill_between(at, [lows[i] for i in at], [highs[i] for i in at], color=color, alpha=0.15, linewidth=0)


def _set_exact_fits_apart(axes: Axes, points: Sequence[tuple[Any, float, float]], name: str) -> None:
    """Start the y axis above the errors of exact fits, and draw these fits as arrows at the end of the axis.

    Otherwise exact fits would squeeze the other points together.
    """
    values = sorted({y for _, _, y in points})
    gap, at = max((high / low, n) for n, (low, high) in enumerate(pairwise(values), 1))
    if values[at - 1] > _ROUNDING or gap < 1 / _ROUNDING:
        return
    bottom = values[at] * (values[at] / values[-1]) ** 0.15 / 2
    axes.set_ylim(bottom=bottom)
    exact = [x for _, x, y in points if y < values[at]]
    label = f"exact: {name} at most {values[at - 1]:.0e}"
    axes.plot(exact, [0.02] * len(exact), "v", color="0.2", transform=axes.get_xaxis_transform(), label=label)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _spread(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > 10 * min(values)


def _get(record: Record, name: str) -> Any:
    return record[name] if name in record else record.get("options", {}).get(name)


def _numbers(record: Record, x: str, y: str) -> tuple[float, float] | None:
    values = [_get(record, name) for name in (x, y)]
    if all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return float(values[0]), float(values[1])
    return None


def _front(points: list[tuple[float, float]], maximize: bool) -> list[tuple[float, float]]:
    """Return the points that no other point beats, from small x to large."""
    sign = -1 if maximize else 1
    front: list[tuple[float, float]] = []
    for px, py in sorted(set(points), key=lambda point: (point[0], sign * point[1])):
        if not front or sign * py < sign * front[-1][1]:
            front.append((px, py))
    return front
