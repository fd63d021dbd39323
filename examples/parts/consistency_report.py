"""Printed tables and figures of `consistency.py`, from its tables on disk."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from models.tables import read_table
from tensornet_interp import Report, SpectralResult
from tensornet_interp.compare import EIGENVALUE_RANKINGS
from tensornet_interp.plots import curves, eigenvectors, similarity_matrix

PAPER = (0.8, 0.9)
PANELS = (*EIGENVALUE_RANKINGS, "matched")
BAND = ("low", "high")
Table = Sequence[dict[str, float | str]]


def print_tables(tables: Mapping[str, Table]) -> None:
    """Print the results, and compare them with the paper's claim."""
    runs, ordered = tables["runs"], tables["ordered"]
    first = ordered[0]
    print(
        f"\n{first['dataset']}, {first['epochs']:g} epochs, noise {first['noise']:g}, weight decay"
        f" {first['weight_decay']:g}; {first['seeds']:g} seeds per size, all pairs of different seeds,"
        " 95 % intervals by the jackknife over seeds (pairs share seeds)"
    )
    for size in dict.fromkeys(row["size"] for row in runs):
        scores = [float(row["accuracy"]) for row in runs if row["size"] == size]
        print(f"size {size:>4g}: test accuracy {min(scores):.4f} to {max(scores):.4f}")
    print(
        f"\n|cosine| of the first eigenvectors, mean over classes\n{'size':>5} {'basis':<10} {'ranking':<10}",
        end="",
    )
    print(
        f"{'first':>7} {'interval':>16} {'with self':>10} {'other class':>12} {'second':>7} {'third':>7} {'tenth':>7}"
    )
    for row in (row for row in ordered if row["position"] == 1):
        same = [r for r in ordered if all(r[key] == row[key] for key in ("size", "basis", "ranking"))]
        later = [next((float(r["similarity"]) for r in same if r["position"] == at), math.nan) for at in (2, 3, 10)]
        rest = ["-" if math.isnan(value) else f"{value:.3f}" for value in later]
        extra = [f"{row[key]:.3f}" if key in row else "-" for key in ("with_self_pairs", "other_class")]
        print(
            f"{row['size']:>5g} {row['basis']:<10} {row['ranking']:<10}{row['similarity']:>7.3f} {_ends(row):>16}"
            f" {extra[0]:>10} {extra[1]:>12} {rest[0]:>7} {rest[1]:>7} {rest[2]:>7}"
        )
    print_between(tables["between"])
    print("\ncosine of whole functions")
    for row in tables["functions"]:
        print(f"{row['size']:>5g} {row['kind']:<28} {row['similarity']:.3f} {_ends(row)}")
    print("\ncosine of interaction matrices of two classes, different seeds")
    for size, other in dict.fromkeys((row["size"], row["other"]) for row in tables["outputs"]):
        cells = [row for row in tables["outputs"] if (row["size"], row["other"]) == (size, other)]
        if other == first["dataset"]:
            alike = [float(row["similarity"]) for row in cells if row["row"] == row["column"]]
            print(f"{size:>5g} same class {sum(alike) / len(alike):.3f}")
        for word, pick in (("highest", max), ("lowest", min)):
            cell = pick((c for c in cells if other != first["dataset"] or c["row"] != c["column"]), key=_similarity)
            names = f"{_name(cell['row'])} and {_name(cell['column'])} of {other}"
            print(f"{size:>5g} {word} of two classes: {names} {cell['similarity']:+.3f} {_ends(cell)}")
    if len({row["other"] for row in tables["outputs"]}) == 1:
        print("no second data set: --other compares classes of models of two data sets with equal numbers of pixels")
    print_verdict([row for row in ordered if row["position"] == 1])


def print_between(rows: Table) -> None:
    """Print the similarity of two sizes by place."""
    print("\n|cosine| of eigenvectors of two sizes, pixel basis, mean over classes: first place, then 2, 3, 5, 10")
    for size, other, by in dict.fromkeys((row["size"], row["other"], row["ranking"]) for row in rows):
        same = [row for row in rows if (row["size"], row["other"], row["ranking"]) == (size, other, by)]
        places = {int(row["position"]): f"{row['similarity']:.3f}" for row in same}
        later = "  ".join(places[at] for at in (2, 3, 5, 10) if at in places)
        print(f"{size:>5g} and {other:>4g} {by:<9} {places[1]} {_ends(same[0])}  {later}")


def print_verdict(rows: Table) -> None:
    """Compare first eigenvectors with the paper's claim: two runs have a cosine of 0.8 to 0.9 at large sizes."""
    print(f"\nthe paper's {PAPER[0]} to {PAPER[1]} for first eigenvectors at size 300 and up, self-pairs left out:")
    large = [row for row in rows if float(row["size"]) >= 300 and row["ranking"] in EIGENVALUE_RANKINGS]
    if not large:
        print("  not tested here: no size of 300 or more")
    for row in large:
        value, low, high = (float(row[key]) for key in ("similarity", *BAND))
        verdict = "below" if value < PAPER[0] else "above" if value > PAPER[1] else "holds"
        sure = "" if low >= PAPER[0] or high < PAPER[0] else ", not certain: the interval crosses 0.8"
        print(f"  size {row['size']:g}, {row['basis']}, {row['ranking']}: {value:.3f} {_ends(row)} - {verdict}{sure}")


def figures(tables: Mapping[str, Table], out: Path) -> dict[str, Figure]:
    """Draw the figures and return them by name."""
    first = tables["ordered"][0]
    about = f"{first['dataset']}, {first['seeds']:g} seeds, pairs of different seeds, 95 % over seeds"
    bands = {ranking: (f"{ranking}_low", f"{ranking}_high") for ranking in PANELS}
    wide: dict[tuple[float | str, ...], dict[str, float | str]] = {}  # one record per place, with all rankings
    for row in tables["ordered"]:
        place = {"size": f"{row['size']:g}", "width": row["size"], "basis": row["basis"], "position": row["position"]}
        ranking, cells = str(row["ranking"]), wide.setdefault(tuple(place.values()), place)
        cells |= {ranking: row["similarity"], f"{ranking}_low": row["low"], f"{ranking}_high": row["high"]}
    rows, drawn = list(wide.values()), {}
    for basis in dict.fromkeys(str(row["basis"]) for row in rows):
        figure = curves([r for r in rows if r["basis"] == basis], "position", PANELS, by="size", bands=bands)
        drawn[f"positions_{basis}"] = _titled(figure, f"Eigenvectors by place, {basis} basis: {about}", 0.0)
    places = [row for row in rows if row["position"] == 1]
    figure = curves(places, "width", PANELS, by="basis", bands=bands)
    lowest = min(float(row[ranking]) for row in places for ranking in PANELS)
    drawn["sizes"] = _titled(figure, f"First eigenvectors: {about}", max(0.0, lowest - 0.2))
    functions = [{**row, "whole functions": row["similarity"]} for row in tables["functions"]]
    figure = curves(functions, "size", ["whole functions"], by="kind", bands={"whole functions": BAND})
    figure.set_size_inches(6, 4)
    lowest = min(float(row["similarity"]) for row in tables["functions"])
    drawn["functions"] = _titled(figure, f"Whole functions\n{about}", max(0.0, lowest - 0.2))
    return drawn | class_matrices(tables["outputs"], str(first["dataset"])) | images(out, str(first["dataset"]))


def class_matrices(rows: Table, dataset: str) -> dict[str, Figure]:
    """Draw the similarity of every two classes, for each second data set, at its largest size."""
    drawn = {}
    for other in dict.fromkeys(str(row["other"]) for row in rows):
        largest = max(float(row["size"]) for row in rows if row["other"] == other)
        mine = [row for row in rows if row["other"] == other and row["size"] == largest]
        cells = {(_name(row["row"]), _name(row["column"])): float(row["similarity"]) for row in mine}
        names, columns = (list(dict.fromkeys(cell[side] for cell in cells)) for side in (0, 1))
        matrix = torch.tensor([[cells[name, column] for column in columns] for name in names])
        high = 1.0 if other == dataset else float(matrix.abs().max())
        title = f"interaction matrices of classes\n{dataset} (rows) by {other}, size {largest:g}\ndifferent seeds"
        drawn[f"classes_{other}"] = similarity_matrix(matrix, names, title, columns=columns, high=high)
    return drawn


def images(out: Path, dataset: str) -> dict[str, Figure]:
    """Draw the leading eigenvectors of one class: one figure per size, one column per seed."""
    (image,) = read_table(out / "images.csv")
    shape = (int(image["height"]), int(image["width"]))
    stored, drawn = load_file(out / "eigenvectors.safetensors"), {}
    for size in dict.fromkeys(key.split("/")[0] for key in stored):
        values, vectors = stored[f"{size}/eigenvalues"], stored[f"{size}/eigenvectors"]
        report = Report("eigen", "one column per seed", (), "pixel basis", None)
        ones = torch.ones(1, len(values))
        result = SpectralResult(report=report, outputs=ones, eigenvalues=values, eigenvectors=vectors)
        figure = eigenvectors(result, shape, [f"seed {i}" for i in range(len(values))])
        about = f"class {_name(image['class'])} of {dataset}, size {size}, pixel basis"
        drawn[f"eigenvectors_{size}"] = _titled(figure, f"Leading eigenvectors with their eigenvalues\n{about}")
    return drawn


def _titled(figure: Figure, title: str, bottom: float | None = None) -> Figure:
    """Add a title; panels of cosines get the same lower end and end at 1, even if intervals reach above it."""
    figure.suptitle(title, fontsize=10)
    if bottom is not None:
        for axes in figure.axes:
            axes.set_ylim(bottom, 1.02)
            name = axes.get_ylabel()
            axes.set_ylabel(f"|cosine|, {name}" if name in PANELS else f"cosine of {name}")
    return figure


def _ends(row: dict[str, float | str]) -> str:
    return f"[{row['low']:.3f}, {row['high']:.3f}]"


def _similarity(row: dict[str, float | str]) -> float:
    return float(row["similarity"])


def _name(cell: float | str) -> str:
    """Return a class name as text: `read_table` reads the name "5" as a number."""
    return f"{cell:g}" if isinstance(cell, float) else cell
