"""What `truncation.py` measured, as printed tables and figures, from its tables alone."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from scipy.stats import t as student
from torch import Tensor

from tensornet_interp import BilinearLayer, decompose
from tensornet_interp.fidelity import components_needed
from tensornet_interp.plots import curves, explanation

DROPS = (0.1, 0.01)  # points of accuracy that may be lost
Record = dict[str, float | str]
Row = dict[str, object]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval by Student's t (nan for a single value)."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, math.nan
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, float(student.ppf(0.975, n - 1)) * spread / math.sqrt(n)


def grouped(records: Sequence[Record], *fields: str) -> dict[tuple[float | str, ...], list[Record]]:
    """Records by the values of the fields, in the order of their first appearance."""
    groups: dict[tuple[float | str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(tuple(record[field] for field in fields), []).append(record)
    return groups


def averaged(records: Sequence[Record], by: Sequence[str], values: Sequence[str]) -> list[Record]:
    """Means over seeds of every group that has all its seeds at that number of components."""
    rows: list[Record] = []
    for key, group in grouped(records, *by, "components").items():
        row: Record = dict(zip((*by, "components"), key, strict=True))
        rows.append(row | {name: interval([float(r[name]) for r in group])[0] for name in values})
    return rows


def print_tables(tables: dict[str, list[Record]]) -> list[Row]:
    """Print, and return the table of the components that are needed."""
    curve = tables["curves"]
    print(f"\n{curve[0]['dataset']}, {curve[0]['epochs']:.0f} epochs, noise {curve[0]['noise']}, weight decay", end=" ")
    print(f"{curve[0]['weight_decay']}; mean over seeds ± 95 % interval (t)\n\nwhole models, test images")
    for (size,), rows in sorted(grouped(curve, "size").items()):
        whole = {r["seed"]: float(r["full_accuracy"]) for r in rows}
        print(f"  size {size:>4.0f}: accuracy {_text([100 * v for v in whole.values()], 2)} %, {len(whole)} seeds")
    summary: list[Row] = []
    print("\ncomponents a class that lose at most so many points of accuracy: the first number that does, and the one")
    print("after which it stays so (with - where none does, in k of n seeds); largest number over seeds in brackets")
    heads = "".join(f"{f'{drop} points, first':>26}{'stays':>22}" for drop in DROPS)
    print(f"{'size':>5} {'basis':<10} {'order':<27}{heads}")
    for (size, basis, order), rows in sorted(grouped(curve, "size", "basis", "order").items(), key=_by_size):
        cells = []
        for drop in DROPS:
            seeds = [
                components_needed(list(one), float(one[0]["full_accuracy"]), drop / 100)
                for one in grouped(rows, "seed").values()
            ]
            cells += [_counts([first for first, _ in seeds]), _counts([stays for _, stays in seeds])]
            for one, (first, stays) in zip(grouped(rows, "seed").values(), seeds, strict=True):
                head = {key: one[0][key] for key in ("dataset", "size", "seed", "epochs", "noise", "weight_decay")}
                found = {"basis": basis, "order": order, "points": drop, "first": first, "stays": stays}
                summary.append({**head, **found})
        print(f"{size:>5.0f} {basis:<10} {order:<27}{cells[0]:>26}{cells[1]:>22}{cells[2]:>26}{cells[3]:>22}")
    print(
        "\nshare of test images with a proof (of k eigenpairs of every class: that the truncated model decides as the"
    )
    print("whole one; of every class difference: of the decision of the whole one)")
    counts = [2, 4, 8, 16, 32, 64]
    print(f"{'size':>5} {'basis':<10} {'eigenpairs of':<17}" + "".join(f"{f'k = {k}':>18}" for k in counts))
    fields = ("size", "basis", "eigenpairs of")
    for (size, basis, kind), rows in sorted(grouped(tables["certificates"], *fields).items(), key=_by_size):
        by_count = grouped(rows, "components")
        cells = [_text([float(r["proven"]) for r in by_count[k,]], 4) if (k,) in by_count else "" for k in counts]
        print(f"{size:>5.0f} {basis:<10} {kind:<17}" + "".join(f"{cell:>18}" for cell in cells))
    print(
        "\nshare of the winning output, and of its margin over the next, from the first k components of a class (pixel)"
    )
    print(f"{'size':>5} {'decision':<9} {'of':<7}" + "".join(f"{f'k = {k}':>18}" for k in counts))
    for (size, decision), rows in sorted(grouped(tables["shares"], "size", "decision").items(), key=_by_size):
        by_count = grouped(rows, "components")
        for part in ("logit", "margin"):
            key = f"share of {part}"
            cells = [_text([float(r[key]) for r in by_count[k,]], 3) if (k,) in by_count else "" for k in counts]
            print(f"{size:>5.0f} {decision:<9} {part:<7}" + "".join(f"{cell:>18}" for cell in cells))
    return summary


def figures(tables: dict[str, list[Record]], size: int) -> dict[str, Figure]:
    """Curves by order, by size and by basis, certificates, and shares of the output; means over seeds."""
    curve = [
        row | {"lost points": 100 * (float(row["full_accuracy"]) - float(row["accuracy"]))} for row in tables["curves"]
    ]
    name = f"{curve[0]['dataset']}"
    shown = ["lost points", "cross_entropy", "kl"]
    seeds = len({row["seed"] for row in curve})
    means = averaged(curve, ("size", "basis", "order"), shown)
    pixel = [row for row in means if row["basis"] == "pixel" and float(row["components"]) <= 128]
    mine = [row for row in pixel if row["size"] == size]
    of_size = [row for row in curve if row["size"] == size]
    loss, _ = interval([float(row["full_cross_entropy"]) for row in of_size])
    drawn = {}
    drawn["by_order"] = curves(mine, "components", shown, "order", whole={"cross_entropy": loss})
    drawn["by_order"].suptitle(
        f"{name}, size {size}, pixel basis, components a class; mean of {seeds} seeds", fontsize=10
    )
    by_size = [row | {"size": int(row["size"])} for row in pixel if row["order"] == "magnitude"]
    drawn["by_size"] = curves(by_size, "components", shown, "size")
    drawn["by_size"].suptitle(
        f"{name}, pixel basis, components a class by magnitude; mean of {seeds} seeds", fontsize=10
    )
    for key in drawn:
        for axes, low in zip(drawn[key].axes, (0.01, 0.01, 1e-4), strict=True):
            axes.set_yscale(
                "symlog" if axes is drawn[key].axes[0] else "log",
                **({"linthresh": low} if axes is drawn[key].axes[0] else {}),
            )
    certified = averaged(tables["certificates"], ("size", "basis", "eigenpairs of"), ["proven"])
    for basis in dict.fromkeys(str(row["basis"]) for row in certified):
        rows = [
            row | {"eigenpairs of a": f"{row['eigenpairs of']}, size {row['size']:.0f}"}
            for row in certified
            if row["basis"] == basis and float(row["components"]) <= 128
        ]
        drawn[f"certificates_{basis}"] = figure = curves(rows, "components", ["proven"], "eigenpairs of a")
        figure.set_size_inches(6, 4)
        figure.axes[0].set_ylabel("share of test images with a proof")
        figure.suptitle(f"{name}, {basis} basis; mean of {seeds} seeds", fontsize=10)
    shares = averaged(tables["shares"], ("size", "decision"), ["share of logit", "share of margin"])
    rows = [row for row in shares if row["size"] == size and float(row["components"]) <= 128]
    drawn["shares"] = curves(rows, "components", ["share of logit", "share of margin"], "decision")
    drawn["shares"].suptitle(
        f"{name}, size {size}, pixel basis, first components of every class; mean of {seeds} seeds", fontsize=9
    )
    return drawn


def explanations(layer: BilinearLayer, images: dict[str, Tensor]) -> dict[str, Figure]:
    """One right and one wrong decision taken apart, where there are such."""
    result = decompose(layer, "eigen")
    names = bytes(images["names"].tolist()).decode().split("\n")
    height, width = images["shape"].tolist()
    return {
        f"explanation_{name}": explanation(
            result, images[name], (height, width), names, label=int(images[f"{name}_label"])
        )
        for name in ("right", "wrong")
        if name in images
    }


def _by_size(item: tuple[tuple[float | str, ...], list[Record]]) -> tuple[float, str]:
    (size, *_), _ = item
    return float(size), str(item[0][1])


def _text(values: Sequence[float], digits: int) -> str:
    mean, half = interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def _counts(found: Sequence[int | None]) -> str:
    known = [k for k in found if k is not None]
    if not known:
        return "-"
    missing = f", - in {len(found) - len(known)} of {len(found)}" if len(known) < len(found) else ""
    return f"{_text(known, 1)} ({max(known)}{missing})"
