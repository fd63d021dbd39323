"""Do time and memory grow as the docstrings say?

Every call runs at three or four sizes in geometric steps, with everything else fixed, in its own process and on one
thread. The exponent is the slope of log time over log size at the three largest sizes; the range beside it is that of
the slopes between neighbouring sizes. Time is processor time, and the minimum of several calls that take turns; for
calls with several workers it is wall clock. Memory is the peak of the first call minus what the process held before,
and has an exponent if it is above 16 MiB. The predicted exponents are those of the terms that the docstring states,
over the same sizes. The script prints the table of docs/costs.md and writes out/cost_laws.csv as the calls end. Calls
in the file that are not measured again stay there, so `--only` measures a part. Run nothing else meanwhile.
"""

import argparse
import math
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from examples.benchmarks.laws import Call, Growth, Slope, measured, memory, slope
from examples.benchmarks.laws_decompositions import DECOMPOSITIONS
from examples.benchmarks.laws_features import FEATURES
from examples.benchmarks.laws_networks import NETWORKS
from examples.benchmarks.laws_products import PRODUCTS
from examples.benchmarks.measure import machine
from models.tables import read_table, write_table
from tensornet_interp.checks import check_choice, check_int

Row = Mapping[str, object]
COLUMNS = ("call", "grows", "fixed", "s", "time", "predicted", "MiB", "memory", "predicted")
CALLS = PRODUCTS | DECOMPOSITIONS | NETWORKS | FEATURES


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the chosen calls, and print the table of all calls on disk."""
    options = _options(argv)
    chosen = [check_choice("--only", name, CALLS) for name in options.only.split(",")] if options.only else list(CALLS)
    repeats = check_int("--repeats", options.repeats, 1)
    path = Path(options.out)
    rows: list[Row] = list(read_table(path)) if options.replot or path.exists() else []
    if not options.replot:
        about = machine(threads=1)
        if float(str(about["load_average"] or 0)) > 0.5:
            print("something else is running: do not quote these times")
        path.parent.mkdir(parents=True, exist_ok=True)
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes, which inherit it
        context = multiprocessing.get_context("spawn")
        for name in tqdm(chosen, unit="call", disable=not options.progress):
            with ProcessPoolExecutor(1, mp_context=context) as process:
                found = process.submit(_measured, name, repeats, options.smoke).result()
            rows = [row for row in rows if row["name"] != name] + [row | about for row in found]
            write_table(path, rows)
    print(table(rows, options.smoke))
    print(f"table: {path}")


def _measured(name: str, repeats: int, smoke: bool) -> list[dict[str, object]]:
    """Return the rows of a call, measured in this process."""
    torch.set_num_threads(1)
    return [
        {"name": name, "parameter": growth.parameter, **row}
        for growth in CALLS[name].growths
        for row in measured(CALLS[name], growth, repeats, smoke)
    ]


def table(rows: Sequence[Row], smoke: bool = False) -> str:
    """Return the measured and the predicted exponents of all calls in the rows, as a table in Markdown."""
    remarks: list[str] = []
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, call in CALLS.items():
        for growth in call.growths:
            points = [row for row in rows if (row["name"], row["parameter"]) == (name, growth.parameter)]
            if not points:
                continue
            mark = ""
            if growth.remark:
                if growth.remark not in remarks:
                    remarks.append(growth.remark)
                mark = f" [{remarks.index(growth.remark) + 1}]"
            lines.append(_line(call, growth, points, mark, smoke))
    return "\n".join([*lines, "", *(f"{number}. {remark}" for number, remark in enumerate(remarks, 1))])


def _line(call: Call, growth: Growth, points: Sequence[Row], mark: str, smoke: bool) -> str:
    sizes, seconds, peaks = ([float(str(row.get(key, math.nan))) for row in points]
                             for key in ("size", "seconds", "peak_mib"))  # fmt: skip
    cells = [
        f"`{call.what}`",
        f"{growth.parameter} {sizes[0]:.0f} to {sizes[-1]:.0f}",
        ", ".join(f"{name} {size}" for name, size in growth.points(smoke)[0].items() if name != growth.parameter),
        f"{seconds[-1]:.2g}",
        _slope(slope(sizes, seconds)) + mark,
        _number(call.predicted(growth, call.cost, smoke)),
        "" if call.workers or math.isnan(peaks[-1]) else f"{peaks[-1]:.0f}",
        _slope(memory(call, sizes, peaks)),
        _number(call.predicted(growth, call.memory, smoke)),
    ]
    return f"| {' | '.join(cells)} |"


def _slope(found: Slope | None) -> str:
    if found is None:
        return ""
    return f"{found.exponent:.2f}" + (f" ({found.low:.2f} to {found.high:.2f})" if found.high > found.low else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"calls, separated by commas, of: {', '.join(CALLS)}; default: all")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls after the first one")
    parser.add_argument("--no-progress", dest="progress", action="store_false")
    parser.add_argument("--replot", action="store_true", help="print the table on disk again")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that all runs")
    parser.add_argument("--out", default="out/cost_laws.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
