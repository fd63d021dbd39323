"""Printed tables and the figure of `sparse_components.py`, from its table on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from examples.parts.circuit_bound_report import told
from models.tables import read_table, summarise
from tensornet_interp.features import REMOVAL_RULE
from tensornet_interp.plots import dots

FIRST = "eigen pairs"
SPARSE = ("kurtosis", "share_90", "above")
LABELS = (
    "kurtosis",
    "tokens with 90 % of energy",
    "tokens beyond one std",
    "removal: drop beyond control",
    "share that pass removal",
)
REMOVED = ("drop", "difference", "passes", "confirmed")
TOGETHER = ("error", "correlation", "drop", "control_drop", "confirmed")
Cells = Mapping[str, float | str]
Row = dict[str, object]


def report(out: Path) -> None:
    """Print means over directions and the differences from eigenvectors, and draw them."""
    rows = read_table(out / "components.csv")
    single = per_direction([row for row in rows if float(row["number"]) > 0])
    together: list[Row] = [dict(row) for row in rows if row["number"] == 0]
    count = int(max(float(row["number"]) for row in rows))
    directions = len({row["feature"] for row in rows})
    print(f"\n{directions} directions, {count} components each; mean [95 % interval over directions]")
    print("kurtosis: the median over components; share_90: tokens that carry 90 % of the energy; above: tokens with a")
    print("magnitude above the standard deviation; difference: drop of the feature minus that of the control")
    print(f"passes: the interval of this difference is above 0. {REMOVAL_RULE}")
    shown = table(single, (*SPARSE, *REMOVED), "components, one by one")
    table(differences(single, (*SPARSE, *REMOVED)), (*SPARSE, *REMOVED), f"the same minus {FIRST}, paired by direction")
    table(together, TOGETHER, "all components together")
    figure = dots(shown, [*SPARSE, "difference", "passes"], "method", title=f"{directions} directions of high rank")
    figure.axes[0].set_xscale("log")
    for axes, label in zip(figure.axes, LABELS, strict=True):
        axes.set_xlabel(label, fontsize=9)
    figure.savefig(out / "components.png", dpi=120)
    print(f"\ntable and figure: {out}")


def per_direction(rows: Sequence[Cells]) -> list[Row]:
    """Return one row per direction and method: the mean over its components, of the kurtosis the median."""
    groups: dict[tuple[float | str, str], list[Cells]] = {}
    for row in rows:
        groups.setdefault((row["feature"], str(row["method"])), []).append(row)
    found: list[Row] = []
    for (feature, method), members in groups.items():
        one: Row = {"feature": feature, "method": method}
        for field in (*SPARSE, *REMOVED):
            values = [float(row[field]) for row in members]
            one[field] = median(values) if field == "kurtosis" else sum(values) / len(values)
        found.append(one)
    return found


def differences(rows: Sequence[Row], fields: Sequence[str]) -> list[Row]:
    """Return the rows of all other methods minus those of eigenvectors for the same direction."""
    first = {row["feature"]: row for row in rows if row["method"] == FIRST}
    return [
        {"method": row["method"]}
        | {field: float(str(row[field])) - float(str(first[row["feature"]][field])) for field in fields}
        for row in rows
        if row["method"] != FIRST
    ]


def table(rows: Sequence[Row], fields: Sequence[str], title: str) -> list[Row]:
    """Print the means of every method, and return them."""
    found = summarise(rows, ("method",), fields)
    width = 2 + max(len(str(row["method"])) for row in found)
    print(f"\n{title}\n{'':<{width}}" + "".join(f"{field:<34}" for field in fields))
    for row in found:
        print(f"{row['method']!s:<{width}}" + "".join(f"{told(row, field):<34}" for field in fields))
    return found
