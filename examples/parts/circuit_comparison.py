"""Several finished folders of `feature_circuits.py` in one table and figure, with means over models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from examples.parts.circuit_job import check_folders
from examples.parts.circuit_statistics import ACTIVITY, with_two_eigenpairs
from examples.parts.circuit_tables import about_negation, print_rows
from examples.parts.language_job import interval
from models.tables import read_table, summarise, write_table
from tensornet_interp.plots import curves

USUAL = (
    "self_std",
    "cross_std",
    "self_largest",
    "cross_largest",
    "outside",
    "most_positive",
    "most_negative",
    "edge",
)
NEGATION = ("correlation", "active_correlation")
PLANE = (
    "captured",
    "captured_usual",
    "captured_place",
    "along",
    "along_usual",
    "along_place",
    "agree",
    "agree_usual",
    "activation_place",
    "one_sided",
    "one_sided_usual",
)
REASSEMBLED = ("error", "error_quarter", "error_sixteenth", "between", "random", "within")
Row = Mapping[str, Any]


def compare(folders: Sequence[Path]) -> None:
    """Compare several models in one table and one figure, written to the first folder; print means over the models.

    Settings that differ are printed too, because the means are over all models. Raises ValueError if two folders have
    one name.
    """
    check_folders(folders)
    rows, settings = [], [json.loads((folder / "settings.json").read_text(encoding="utf-8")) for folder in folders]
    for folder, setting in zip(folders, settings, strict=True):
        graded = {row["steps"]: row for row in read_table(folder / "quality.csv") if row["point"] == "mlp-out"}
        name = f"{folder.name}, {setting['parameters'] / 1e6:.2g} M"
        for row in read_table(folder / "summary.csv"):
            more = {name: graded[row["steps"]][name] for name in ("nmse", "loss_recovered", "dead_share", "loss")}
            rows.append({"model": name} | row | more)
    write_table(folders[0] / "comparison.csv", rows)
    two = [row for row in rows if row["k"] == 2]
    print_rows("two eigenpairs, active held-out tokens", two)
    figure = curves(two, "trained", ["mean_correlation", "share_above", "nmse"], by="model")
    figure.savefig(folders[0] / "comparison.png", dpi=150)
    for name in (name for name in settings[0] if name not in ("weights", "train", "held_out")):
        values = [setting.get(name) for setting in settings]
        if any(value != values[0] for value in values):
            print(f"\nthe models differ in {name}, and the means are over all of them: {values}")
    longest = [row for row in rows if row["trained"] == max(other["trained"] for other in rows)]
    print_means("correlation on active held-out tokens", longest, ("k",), ("mean_correlation", "share_above"))
    usual = [_usual(folder) for folder in folders]
    print_means("what is usual among features", usual, (), list(dict.fromkeys(name for row in usual for name in row)))
    planes = [row for folder in folders for row in _planes(folder)]
    print_means("vectors in the planes of features", planes, ("plane", "kind"), PLANE)
    everywhere = [row for folder in folders for row in read_table(folder / "planes.csv")]
    print_means("vectors in the planes of all features", everywhere, ("of", "vector"), ("place", "far"))
    reassembled = [row for folder in folders for row in read_table(folder / "reassembly.csv")]
    print_means("the tensor from the eigenpairs of features", reassembled, ("features", "outputs"), REASSEMBLED)
    print(f"\ncomparison: {folders[0] / 'comparison.png'}")


def print_means(title: str, rows: Sequence[Row], by: Sequence[str], fields: Sequence[str]) -> None:
    """Print means over models with 95 % intervals, one line per group and field."""
    lines = [
        {name: found[name] for name in by} | {"number": field, "mean": interval(found, field)}
        for found in summarise(rows, by, fields)
        for field in fields
    ]
    print_rows(f"{title}: means over models, with 95 % intervals", lines)


def _usual(folder: Path) -> Row:
    """Return means over the features of a model, the most negative cosine of two decoder columns, and what two
    eigenvectors give of the first feature about negation.
    """
    rows = list(read_table(folder / "statistics.csv"))
    means = {name: float(np.mean([float(row[name]) for row in rows])) for name in USUAL}
    means["most_opposed"] = min(float(row["cosine"]) for row in rows)
    two = with_two_eigenpairs(read_table(folder / "correlation.csv"))
    last = max(float(row["steps"]) for row in two)
    final = {row["feature"]: row for row in two if row["steps"] == last}
    for field in ACTIVITY:
        both = [row for row in rows if row["feature"] in final]
        correlations = [final[row["feature"]]["active_correlation"] for row in both]
        means[f"correlation_with_{field}"] = float(
            stats.spearmanr(correlations, [row[field] for row in both]).statistic
        )
    for feature in about_negation(read_table(folder / "ranking.csv"))[:1]:
        if feature in final:
            means |= {f"negation_{name}": float(final[feature][name]) for name in NEGATION}
    return means


def _planes(folder: Path) -> list[Row]:
    """Return the rows of plane.csv: means over the two opposed features, and the first feature about negation."""
    rows = list(read_table(folder / "plane.csv"))
    opposed = list(dict.fromkeys(row["feature"] for row in rows))[:2]
    negation = about_negation(read_table(folder / "ranking.csv"))[:1]
    found: list[Row] = []
    for name, features in (("opposed pair", opposed), ("negation", negation)):
        mine = [row for row in rows if row["feature"] in features]
        for vector in dict.fromkeys(str(row["vector"]) for row in mine):
            same = [row for row in mine if row["vector"] == vector]
            means = {field: float(np.mean([float(row[field]) for row in same])) for field in PLANE}
            found.append({"plane": name, "kind": vector} | means)
    return found
