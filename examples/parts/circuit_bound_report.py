"""Printed tables and figures of `circuit_bound.py`, from its tables on disk."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from models.tables import read_table, summarise
from tensornet_interp.plots import curves

Row = dict[str, object]
Cells = Mapping[str, float | str]


def report_images(out: Path) -> None:
    """Print and draw the tables of classifiers."""
    rows, decisions = read_table(out / "images.csv"), read_table(out / "decisions.csv")
    seeds = len({row["seed"] for row in rows})
    fields = ("ratio", "of_output", "outside")
    title = f"{rows[0]['dataset']}, outputs of {seeds} seeds: mean over classes [95 % interval over seeds]"
    shown = print_rows(summarise(rows, ("seed", "k", "way"), fields), fields, title + violations(rows))
    title = "share of test images whose decision k eigenvectors of every difference prove"
    certain = print_rows(decisions, ("proven",), title)
    print_means(read_table(out / "images_means.csv"))
    draw(shown, certain, f"{rows[0]['dataset']}, {seeds} seeds").savefig(out / "bound.png", dpi=120)


def report_language(place: Path) -> None:
    """Print and draw the tables of a language model."""
    rows, circuits = read_table(place / "features.csv"), read_table(place / "circuits.csv")
    fields = ("ratio", "of_output", "proven", "outside")
    title = f"{len({row['feature'] for row in rows})} features of {place.name} [95 % interval over features]"
    shown = print_rows(rows, fields, title + violations(rows))
    print_means(read_table(place / "features_means.csv"))
    draw(shown, shown, f"features of {place.name}").savefig(place / "bound.png", dpi=120)
    print(f"\ncircuits of input features, each at the token of largest activation{violations(circuits)}")
    print("members of active features; bound over change, and over the activation: median (quartiles) over features")
    for row in summarise(circuits, ("members",), ("active",)):
        cells = []
        for field in ("ratio", "of_activation"):
            mine = [float(one[field]) for one in circuits if one["members"] == row["members"] and field in one]
            low, middle, high = np.quantile(mine, (0.25, 0.5, 0.75)) if mine else [math.nan] * 3
            cells.append(f"{middle:.3g} ({low:.3g} to {high:.3g})")
        print(f"{row['members']:>7.0f} of {row['active']:.1f}   {cells[0]:<24} {cells[1]}")


def violations(rows: Sequence[Cells]) -> str:
    """Return how many changes were not within their bounds, as text."""
    return f"; {sum(int(row['violations']) for row in rows)} changes beyond their bound"


def print_rows(rows: Sequence[Mapping[str, object]], fields: Sequence[str], title: str) -> list[Row]:
    """Print means per k and way, and return them."""
    print(f"\n{title}\n{'k':>5}  {'way':<16}" + "".join(f"{field:>28}" for field in fields))
    found = summarise(rows, ("k", "way"), fields)
    for row in found:
        print(f"{row['k']:>5.0f}  {row['way']:<16}" + "".join(f"{told(row, field):>28}" for field in fields))
    return found


def print_means(rows: Sequence[Cells]) -> None:
    """Print what second moments say about means, over what the test inputs have."""
    print("\nexpected from the second moment of training inputs, over what test inputs have (no bound for one input):")
    print("sum lambda_i E z_i over the mean change, the median over directions; sum |lambda_i| E z_i over the mean of")
    print("|change|, the mean over directions")
    for k in dict.fromkeys(row["k"] for row in rows):
        mine = [row for row in rows if row["k"] == k]
        shares = sorted(float(row["mean_expected"]) / float(row["mean"]) for row in mine)
        sizes = [{"k": k, "size": float(row["magnitude_at_most"]) / float(row["magnitude"])} for row in mine]
        print(f"{k:>5.0f}  {shares[len(shares) // 2]:>8.3f}  {told(summarise(sizes, ('k',), ('size',))[0], 'size')}")


def told(row: Mapping[str, object], field: str) -> str:
    """Return the mean of a field and its interval as text."""
    if field not in row:
        return "-"
    ends = f" [{row[f'{field}_low']:.4g}, {row[f'{field}_high']:.4g}]" if f"{field}_low" in row else ""
    return f"{row[field]:.4g}{ends}"


def draw(shown: Sequence[Row], certain: Sequence[Row], title: str) -> Figure:
    """Draw the ratio, the interval over the range of the output, and the share that is proven, against k."""
    proofs = {(row["k"], row["way"]): row["proven"] for row in certain}
    rows = [row | {"share proven": proofs[row["k"], row["way"]]} for row in shown]
    figure = curves(rows, "k", ["ratio", "of_output", "share proven"], "way")
    ratio, output, share = figure.axes[:3]
    ratio.set(yscale="log", ylabel="proven over actual change")
    output.set(yscale="log", ylabel="proven over range of the output")
    share.set(ylim=(-0.03, 1.03), ylabel="share of inputs proven")
    for axes in (ratio, output, share):
        axes.set_xlabel("eigenvectors kept")
    figure.suptitle(title, fontsize=10)
    return figure
