"""The figures of `ground_truth.py`, drawn from its table and vectors on disk."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from models.tables import summarise
from tensornet_interp.plots import image_cell, to_numpy

Rows = Sequence[Mapping[str, float | str]]


def spectra(rows: Rows, kept: Mapping[str, Tensor], shape: tuple[int, int], title: str) -> Figure:
    """Draw one row per setting, for seed 0: eigenvalues, most positive eigenvector, linear part, and target."""
    settings = list(dict.fromkeys(str(row["setting"]) for row in rows))
    figure = Figure(figsize=(9.5, 2.1 * len(settings) + 0.6), layout="constrained")
    grid = figure.add_gridspec(len(settings), 4, width_ratios=[2.2, 1, 1, 1])
    for number, name in enumerate(settings):
        row = next(row for row in rows if row["setting"] == name and row["seed"] == 0)
        values = np.sort(to_numpy(kept[f"{name}.eigenvalues"]))[::-1]
        axes = figure.add_subplot(grid[number, 0])
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.plot(range(1, len(values) + 1), values, ".-", markersize=4, linewidth=0.8)
        axes.set_ylabel("eigenvalue")
        axes.set_title(f"{name}: noise {row['noise']:g}, weight decay {row['weight_decay']:g}", fontsize=9)
        if number == len(settings) - 1:
            axes.set_xlabel("eigenvalue number, largest first")
        vector = kept[f"{name}.vector"]
        label = (
            f"eigenvector of {row['eigenvalue']:+.3g}\ncos {row['cosine_raw']:.2f}, centred {row['cosine_centred']:.2f}"
        )
        image_cell(figure.add_subplot(grid[number, 1]), vector, shape, label)
        linear = f"linear part\ncentred cos {row['cosine_linear']:+.2f}"
        image_cell(figure.add_subplot(grid[number, 2]), kept[f"{name}.linear"], shape, linear)
        target = kept["target"]
        image_cell(figure.add_subplot(grid[number, 3]), target - target.mean(), shape, "target minus its mean")
    figure.suptitle(f"Interaction part of close minus far, inputs in the pixel basis, seed 0\n{title}", fontsize=10)
    return figure


def cosines(rows: Rows, title: str) -> Figure:
    """Draw the cosine of the most positive eigenvector with the target: one dot per seed, mean and 95 % interval."""
    panels = {
        "cosine_raw": "raw",
        "cosine_centred": "minus the mean over pixels",
        "cosine_active": "the same, active pixels alone",
    }
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        summary = summarise(rows, ["setting"], [name])
        for place, line in enumerate(summary):
            values = [float(row[name]) for row in rows if row["setting"] == line["setting"]]
            axes.plot(np.linspace(-0.12, 0.12, len(values)) + place, values, "o", color="tab:blue", alpha=0.6)
            mean = float(str(line[name]))
            half = mean - float(str(line[f"{name}_low"])) if f"{name}_low" in line else None
            axes.errorbar([place + 0.28], [mean], None if half is None else [half], fmt="s", color="0.2", capsize=3)
        axes.axhline(0.9, color="0.5", linestyle="--", linewidth=1)
        axes.set_xticks(range(len(summary)), [str(line["setting"]) for line in summary], rotation=20)
        axes.set_title(label, fontsize=9)
        axes.grid(True, axis="y", color="0.92")
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("cosine with the target")
    figure.axes[0].set_ylim(min(0.0, *(float(row["cosine_raw"]) for row in rows)) - 0.02, 1.0)
    seeds = len({row["seed"] for row in rows})
    note = "dots: seeds; square: mean, 95 % interval; dashed: 0.9"
    figure.suptitle(f"Most positive eigenvector and target, {seeds} seeds ({note})\n{title}", fontsize=10)
    return figure


def parts(rows: Rows, title: str) -> Figure:
    """Draw the share of variance, and the accuracy alone, of interaction part, linear part and the one eigenvector."""
    names = {"interaction": "interaction part", "linear": "linear part", "eigenvector": "its eigenvector alone"}
    panels = {"covariance": "share of the variance of close minus far", "accuracy": "test accuracy of the part alone"}
    fields = [f"{panel}_{name}" for panel in panels for name in names]
    summary = summarise(rows, ["setting"], [*fields, "test_accuracy"])
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (panel, label) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for number, (name, text) in enumerate(names.items()):
            means = [float(str(line[f"{panel}_{name}"])) for line in summary]
            lows = [float(str(line.get(f"{panel}_{name}_low", line[f"{panel}_{name}"]))) for line in summary]
            errors = [mean - low for mean, low in zip(means, lows, strict=True)]
            at = np.arange(len(summary)) + 0.26 * (number - 1)
            axes.bar(at, means, 0.24, yerr=errors, capsize=2, label=text)
        if panel == "accuracy":
            whole = [float(str(line["test_accuracy"])) for line in summary]
            ends = np.arange(len(summary))
            axes.hlines(whole, ends - 0.4, ends + 0.4, colors="black", label="the whole model")
            axes.set_ylim(0.4, 1.0)
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_xticks(range(len(summary)), [str(line["setting"]) for line in summary])
        axes.set_ylabel(label, fontsize=9)
    figure.legend(*figure.axes[1].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(
        f"Parts of the function on test images, mean and 95 % interval of {seeds} seeds\n{title}", fontsize=10
    )
    return figure
