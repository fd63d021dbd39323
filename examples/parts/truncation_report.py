"""Printed tables and figures of `truncation.py`, from its tables on disk."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from models.tables import interval
from tensornet_interp import decompose
from tensornet_interp.fidelity import components_needed
from tensornet_interp.plots import curves, explanation

DROPS = (0.1, 0.01)  # points of accuracy that may be lost
DRAWN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # components per class in the figures
Record = dict[str, float | str]
Row = dict[str, object]


def grouped(records: Sequence[Record], *fields: str) -> dict[tuple[float | str, ...], list[Record]]:
    """Group records by the values of the fields, in the order in which the groups first appear."""
    groups: dict[tuple[float | str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[field] for field in fields), []).append(record)
    return groups


def averaged(records: Sequence[Record], by: Sequence[str], values: Sequence[str]) -> list[Record]:
    """Return the means over seeds of every group, at the numbers of components in `DRAWN`; sizes become integers."""
    rows: list[Record] = []
    records = [row | {"size": int(row["size"])} for row in records if row["components"] in DRAWN]
    for key, group in grouped(records, *by, "components").items():
        row: Record = dict(zip((*by, "components"), key, strict=True))
        rows.append(row | {name: interval([float(r[name]) for r in group])[0] for name in values})
    return rows


def print_tables(tables: dict[str, list[Record]]) -> list[Row]:
    """Print all tables, and return the table of the components that are needed."""
    curve = tables["curves"]
    print(f"\n{curve[0]['dataset']}, {curve[0]['epochs']:.0f} epochs, noise {curve[0]['noise']}, weight decay", end=" ")
    print(f"{curve[0]['weight_decay']}; mean over seeds ± 95 % interval (t)\n\nwhole models, test images")
    for (size,), rows in sorted(grouped(curve, "size").items()):
        whole = {r["seed"]: float(r["full_accuracy"]) for r in rows}
        print(f"  size {size:>4.0f}: accuracy {_text([100 * v for v in whole.values()], 2)} %, {len(whole)} seeds")
    summary: list[Row] = []
    print("\ncomponents per class that lose at most so many points of accuracy: the first such number, and the number")
    print("from which on it stays so (-: there is none); largest over seeds in brackets; refits at some numbers only")
    heads = "".join(f"{f'{drop} points, first':>30}{'stays':>30}" for drop in DROPS)
    print(f"{'size':>5} {'basis':<10} {'ranking':<27}{heads}")
    for (size, basis, ranking), rows in sorted(grouped(curve, "size", "basis", "ranking").items(), key=_by_size):
        cells = []
        for drop in DROPS:
            seeds = [
                components_needed(list(one), float(one[0]["full_accuracy"]), drop / 100)
                for one in grouped(rows, "seed").values()
            ]
            cells += [_counts([first for first, _ in seeds]), _counts([stays for _, stays in seeds])]
            for one, (first, stays) in zip(grouped(rows, "seed").values(), seeds, strict=True):
                head = {key: one[0][key] for key in ("dataset", "size", "seed", "epochs", "noise", "weight_decay")}
                found = {"basis": basis, "ranking": ranking, "points": drop, "first": first, "stays": stays}
                summary.append({**head, **found})
        print(f"{size:>5.0f} {basis:<10} {ranking:<27}{cells[0]:>30}{cells[1]:>30}{cells[2]:>30}{cells[3]:>30}")
    counts = [2, 4, 8, 16, 32, 64]
    print("\npoints of accuracy lost with the first k components per class, by magnitude")
    print(f"{'size':>5} {'basis':<10}" + "".join(f"{f'k = {k}':>18}" for k in counts))
    by_magnitude = [row for row in curve if row["ranking"] == "magnitude"]
    for (size, basis), rows in sorted(grouped(by_magnitude, "size", "basis").items(), key=_by_size):
        by_count = grouped(rows, "components")
        cells = [_text([_lost(r) for r in by_count[k,]], 2) if (k,) in by_count else "" for k in counts]
        print(f"{size:>5.0f} {basis:<10}" + "".join(f"{cell:>18}" for cell in cells))
    if tables["certificates"]:
        print("\nshare of test images with a proof (class: k eigenpairs per class prove that the truncated model makes")
        print("the same decision as the full model; class difference: k per difference prove its decision)")
        print(f"{'size':>5} {'basis':<10} {'eigenpairs of':<17}" + "".join(f"{f'k = {k}':>18}" for k in counts))
        fields = ("size", "basis", "eigenpairs of")
        for (size, basis, kind), rows in sorted(grouped(tables["certificates"], *fields).items(), key=_by_size):
            by_count = grouped(rows, "components")
            cells = [_text([float(r["proven"]) for r in by_count[k,]], 4) if (k,) in by_count else "" for k in counts]
            print(f"{size:>5.0f} {basis:<10} {kind:<17}" + "".join(f"{cell:>18}" for cell in cells))
    if tables["shares"]:
        print("\nshare of the winning output, and of its margin, from the first k components per class (pixel basis)")
        print(f"{'size':>5} {'decision':<9} {'of':<7}" + "".join(f"{f'k = {k}':>18}" for k in counts))
        for (size, decision), rows in sorted(grouped(tables["shares"], "size", "decision").items(), key=_by_size):
            by_count = grouped(rows, "components")
            for part in ("logit", "margin"):
                key = f"share of {part}"
                cells = [_text([float(r[key]) for r in by_count[k,]], 3) if (k,) in by_count else "" for k in counts]
                print(f"{size:>5.0f} {decision:<9} {part:<7}" + "".join(f"{cell:>18}" for cell in cells))
    return summary


def figures(tables: dict[str, list[Record]], size: int) -> dict[str, Figure]:
    """Draw means over seeds: curves by ranking, by size and by basis, certificates, and shares of the output."""
    curve = [row | {"lost points": _lost(row)} for row in tables["curves"]]
    sizes = "size " + ", ".join(f"{value:.0f}" for value in dict.fromkeys(float(row["size"]) for row in curve))
    seeds = len({row["seed"] for row in curve})
    shown = ["lost points", "cross_entropy", "kl"]
    means = averaged(curve, ("size", "basis", "ranking"), shown)
    pixel = [row for row in means if row["basis"] == "pixel"]
    loss, _ = interval([float(row["full_cross_entropy"]) for row in curve if row["size"] == size])
    drawn = {
        "by_ranking": curves([row for row in pixel if row["size"] == size], "components", shown, "ranking"),
        "by_size": curves([row for row in pixel if row["ranking"] == "magnitude"], "components", shown, "size"),
        "by_basis": curves(
            [row for row in means if row["size"] == size and row["ranking"] == "magnitude"],
            "components",
            shown,
            "basis",
        ),
    }
    titles = {
        "by_ranking": f"size {size}, pixel basis",
        "by_size": f"{sizes}, pixel basis, by magnitude",
        "by_basis": f"size {size}, by magnitude",
    }
    for name, figure in drawn.items():
        points, entropy, kl = figure.axes
        points.axhline(0, color="0.4", linewidth=0.8)
        for drop in DROPS:
            points.axhline(drop, color="0.4", linestyle=":", linewidth=0.8)
        points.set_yscale("symlog", linthresh=0.01)
        points.set_ylabel("points of accuracy lost")
        entropy.set(yscale="log", ylabel="cross-entropy (nats)")
        if name != "by_size":
            entropy.axhline(loss, color="0.4", linestyle="--", linewidth=0.8)
        kl.set(yscale="log", ylabel="KL from the full model (nats)", ylim=(1e-8, None))
    certified = averaged(tables["certificates"], ("size", "basis", "eigenpairs of"), ["proven"])
    for basis in dict.fromkeys(str(row["basis"]) for row in certified):
        rows = [row | {f"of every {row['eigenpairs of']}": row["proven"]} for row in certified if row["basis"] == basis]
        kinds = ["of every class", "of every class difference"]
        drawn[f"certificates_{basis}"] = figure = curves(rows, "components", kinds, "size")
        titles[f"certificates_{basis}"] = f"{sizes}, {basis} basis, share of test images with a proof"
        for axes, kind in zip(figure.axes, kinds, strict=True):
            axes.set(ylim=(-0.03, 1.03), ylabel="share proven")
            axes.set_title(f"k eigenpairs {kind}", fontsize=9)
    rows = averaged(tables["shares"], ("size", "decision"), ["share of logit", "share of margin"])
    rows = [row for row in rows if row["size"] == size]
    if rows:
        drawn["shares"] = curves(rows, "components", ["share of logit", "share of margin"], "decision")
        titles["shares"] = f"size {size}, pixel basis, what the first components make up"
    for name, figure in drawn.items():
        title = f"{curve[0]['dataset']}, {titles[name]}; mean of {seeds} seed{'s' * (seeds > 1)}"
        figure.suptitle(title, fontsize=10)
        _finish(figure)
    return drawn


def _lost(row: Record) -> float:
    return 100 * (float(row["full_accuracy"]) - float(row["accuracy"]))


def _finish(figure: Figure) -> None:
    """Set ticks at powers of two up to 128, and move the legend from the curves to beside the panels."""
    ticks = [2**power for power in range(8)]
    for axes in figure.axes:
        axes.set(xlabel="components per class", xscale="log", xlim=(0.9, 140))
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        legend = axes.get_legend()
        if legend is not None:
            handles, labels = axes.get_legend_handles_labels()
            legend.remove()
            width, height = figure.get_size_inches()
            figure.set_size_inches(width + 2, height)
            figure.legend(handles, labels, loc="outside right upper", title=legend.get_title().get_text(), fontsize=8)


def explanations(kept: dict[str, Any]) -> dict[str, Figure]:
    """Draw one right and one wrong decision taken apart; a kind that does not exist is left out."""
    result = decompose(kept["layer"], "eigen")
    return {
        f"explanation_{name}": explanation(result, one["image"], kept["shape"], kept["names"], label=one["label"])
        for name, one in kept["images"].items()
    }


def _by_size(item: tuple[tuple[float | str, ...], list[Record]]) -> tuple[float, str]:
    (size, *_), _ = item
    return float(size), str(item[0][1])  # then by ranking or basis


def _text(values: Sequence[float], digits: int) -> str:
    mean, half = interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def _counts(found: Sequence[int | None]) -> str:
    known = [k for k in found if k is not None]
    if not known:
        return "-"
    missing = f", - in {len(found) - len(known)} of {len(found)}" if len(known) < len(found) else ""
    return f"{_text(known, 1)} ({max(known)}{missing})"
