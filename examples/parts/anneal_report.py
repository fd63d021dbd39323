"""What `anneal_gate.py` prints and draws: final losses, the gap to the baseline and how it changes, beta."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.parts.language_job import interval
from models.annealing import schedule
from models.tables import read_table, summarise, write_table
from tensornet_interp.plots import curves

BASELINE, ABRUPT, LINEARIZED = "baseline", "abrupt", "linearized"
START, CUT, FITTED = "not tuned", "not, beta 0", "not, linearized"
EXACT = 1e-5  # relative error up to which a layer counts as equal to its MLP, in float32
Row = Mapping[str, Any]


def read_pooled(folders: Sequence[Path], name: str) -> list[dict[str, Any]]:
    """Return the rows of one table of several folders; with more than one, a seed is named by folder and number."""
    rows: list[dict[str, Any]] = []
    for number, folder in enumerate(folders):
        for row in read_table(folder / name):
            rows.append(row | {"seed": f"{number}: {row['seed']}"} if len(folders) > 1 else row)
    return rows


def report(rows: Sequence[Row], records: Sequence[Row], out: Path) -> None:
    """Print the final losses, their differences from the baseline of the same seed, and the layer errors; draw.

    Then print how the gap to the baseline changes after annealing.
    """
    seeds = len({row["seed"] for row in rows})
    print(f"\n{rows[0]['model']}: held-out loss in nats per token, on {rows[0]['tokens']:,.0f} tokens; mean and 95 %")
    print(f"confidence interval over models and orders of batches ({seeds}); layers without gates are read from disk")
    print(f"{'run':<17}{'held-out loss':<27}{'minus baseline':<28}max |MLP - layer| / max |MLP|")
    for found in summarise(rows, ("run",), ("held_out_loss", "above_baseline")):
        cells = f"{interval(found, 'held_out_loss'):<27}{interval(found, 'above_baseline'):<28}"
        errors = [row["layer_error"] for row in rows if row["run"] == found["run"] and "layer_error" in row]
        exact = "exactly bilinear" if max(errors, default=0.0) <= EXACT else f"NOT BILINEAR, above {EXACT:g}"
        print(
            f"{found['run']:<17}{cells}"
            + (f"{max(errors):.1e}, {exact}" if errors else "gated" if found["run"] in (START, BASELINE) else "")
        )
    gaps = after_annealing(rows, records)
    write_table(out / "gaps.csv", gaps)
    print(
        "\nabove the baseline after annealing, on the held-out tokens of the curves: last loss, and slopes of a line in"
    )
    print("nats per 100 steps, over all steps after annealing and over the last third of them")
    print(f"{'run':<17}{'steps':<14}{'at the end':<29}{'slope':<31}slope of the last third")
    for found in summarise(gaps, ("run", "first", "last"), ("gap", "slope", "late_slope")):
        parts = (f"{interval(found, 'gap'):<29}", f"{interval(found, 'slope'):<31}", interval(found, "late_slope"))
        print(f"{found['run']:<17}{found['first']} to {found['last']:<8}{''.join(parts)}")
    fields = ("beta", "during_loss", "above_baseline")
    points = [found | {"held_out_loss": found["during_loss"]} for found in summarise(records, ("run", "step"), fields)]
    bands = {"above_baseline": ("above_baseline_low", "above_baseline_high")}
    points = [{name: value for name, value in point.items() if name != "beta"} for point in points]
    figure = curves([*betas(rows), *points], "step", ["beta", "held_out_loss", "above_baseline"], by="run", bands=bands)
    figure.set_size_inches(12, 3.8)
    title = f"{rows[0]['model']} with the gate z sigmoid(beta z), fine-tuned; loss in nats per token on held-out text"
    figure.suptitle(f"{title}, mean of {seeds} seed{'s' * (seeds > 1)}", fontsize=10)
    figure.savefig(out / "anneal.png", dpi=120)
    print(f"\nfigure, tables and models: {out}")


def after_annealing(rows: Sequence[Row], records: Sequence[Row]) -> list[dict[str, Any]]:
    """Return, per run and seed, the gap to the baseline at the end, and its slopes in nats per 100 steps.

    gap = loss - loss of the baseline at the same step; a slope is that of the line of least squares over the measured
    steps with beta = 0 ("slope"), or over the last third of these steps ("late_slope"). A slope of fewer than two
    points is empty.
    """
    ends = {(row["run"], row["seed"]): int(row["end"]) for row in rows}
    curve: dict[tuple[str, Any], dict[int, float]] = {}
    for row in records:
        key = row["run"], row["seed"]
        if row["run"] != BASELINE and int(row["step"]) > ends[key]:
            curve.setdefault(key, {})[int(row["step"])] = float(row["above_baseline"])
    found = []
    for (run, seed), gaps in curve.items():
        first, last = min(gaps), max(gaps)
        late = {step: gap for step, gap in gaps.items() if step >= last - (last - ends[run, seed]) / 3}
        row = {"run": run, "seed": seed, "first": first, "last": last, "gap": gaps[last]}
        found.append(row | {"slope": _slope(gaps), "late_slope": _slope(late)})
    return found


def _slope(gaps: Mapping[int, float]) -> float | str:
    if len(gaps) < 2:
        return ""
    return 100 * float(np.polyfit(list(gaps), list(gaps.values()), 1)[0])


def betas(rows: Sequence[Row]) -> list[Row]:
    """Return beta at every step of every run: between the few steps at which losses are measured, it is no line."""
    found: list[Row] = []
    for row in {row["run"]: row for row in rows if row["run"] not in (START, CUT, FITTED, LINEARIZED)}.values():
        steps, start, end = (int(row[name]) for name in ("steps", "start", "end"))
        name = "linear" if row["run"] == ABRUPT else row["run"]
        beta = None if row["run"] == BASELINE else schedule(name, start, end)
        found += [{"run": row["run"], "step": step, "beta": beta(step) if beta else 1.0} for step in range(steps + 1)]
    return found
