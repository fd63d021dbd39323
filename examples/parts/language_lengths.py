"""Trainings of several lengths in `language_model.py`: how many steps does a gate need, what is its loss in time?"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from examples.parts.language_job import interval
from models.tables import summarise, write_table

Row = dict[str, Any]


def report_lengths(rows: Sequence[Row], bases: Mapping[int, Row], times: Mapping[str, float], out: Path) -> None:
    """Compare each gate with the base of the same seed by the final losses of its trainings of several lengths.

    Writes and prints how many steps a gate needs to the final loss of the base, and its loss at equal time. Both are
    read off between two lengths, with the loss linear in log(steps), and missing outside of them.
    """
    runs: dict[tuple[str, int], dict[int, float]] = {}
    for row in rows:
        if row["seed"] in bases and row["gate"] != bases[row["seed"]]["gate"]:
            runs.setdefault((row["gate"], row["seed"]), {})[row["steps"]] = row["held_out_loss"]
    found: list[Row] = []
    for (gate, seed), losses in runs.items():
        if len(losses) > 1:
            base = bases[seed]
            needed = steps_for(losses, base["held_out_loss"])
            timed = loss_after(losses, base["steps"] * times[base["gate"]] / times[gate])
            row = {"gate": gate, "seed": seed, "needed": needed, "saved": needed and 1 - needed / base["steps"]}
            row["equal_time"] = timed and timed - base["held_out_loss"]
            found.append({name: "" if value is None else value for name, value in row.items()})
    if not found:
        return
    write_table(out / "lengths.csv", found)
    print("\nbetween trainings of several lengths, against the base of the same seed")
    titles = f"{'gate':<14}{'steps to its loss':<34}{'share of steps saved':<30}{'seeds':<8}"
    print(f"{titles}loss at equal time minus its loss")
    for mean in summarise(found, ("gate",), ("needed", "saved", "equal_time")):
        reached = sum(row["gate"] == mean["gate"] and row["saved"] != "" for row in found)
        cells = [interval(mean, name) for name in ("needed", "saved", "equal_time")]
        seeds = f"{reached} of {mean['n']}"
        print(f"{mean['gate']:<14}{cells[0]:<34}{cells[1]:<30}{seeds:<8}{cells[2]}")


def steps_for(losses: Mapping[int, float], goal: float) -> float | None:
    """Return the steps of a training that ends at the loss `goal`, between those of {steps: final loss}, or None."""
    for (short, high), (long, low) in pairwise(sorted(losses.items())):
        if low <= goal <= high and low < high:
            return float(short * (long / short) ** ((high - goal) / (high - low)))
    return None


def loss_after(losses: Mapping[int, float], steps: float) -> float | None:
    """Return the final loss of a training of so many steps, between those of {steps: final loss}, or None."""
    for (short, high), (long, low) in pairwise(sorted(losses.items())):
        if short <= steps <= long:
            return high + (low - high) * math.log(steps / short) / math.log(long / short)
    return None
