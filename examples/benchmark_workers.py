"""How much faster are sweeps and spectra with workers than in one process, each worker on one thread?

One process and the workers take turns, and the minimum counts. The workers are started, and have run a unit, before the
first clock starts. The script prints the ratio and whether the results are the same, and writes out/workers.csv. Run
nothing else meanwhile.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from examples.benchmarks.pools import started
from models.tables import write_table
from tensornet_interp import BilinearLayer
from tensornet_interp.checks import check_int
from tensornet_interp.keys import digest
from tensornet_interp.spectra import checkpoint_spectra
from tensornet_interp.sweep import sweep

SMOKE = {"hidden": 24, "d": 24, "fits": 4, "iterations": 3, "features": 16, "shard": 4}
WHOLE = {"hidden": 512, "d": 256, "fits": 16, "iterations": 60, "features": 2048, "shard": 128}


def main(argv: Sequence[str] | None = None) -> None:
    """Time both kinds of work, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", default="out/workers.csv")
    options = parser.parse_args(argv)
    sizes = SMOKE if options.smoke else WHOLE
    workers, repeats = check_int("--workers", options.workers, 1), check_int("--repeats", options.repeats, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average {load:.2f}, torch {torch.__version__}, one thread per process")
    if load > 0.5:
        print("something else is running: do not quote these times")
    try:
        with started(workers) as pool:
            rows = [_compared(name, work, pool, workers, repeats) for name, work in _works(sizes).items()]
    finally:
        torch.set_num_threads(before)
    for row in rows:
        times = f"one process {row['one_process']:.1f} s, {workers} workers {row['with_workers']:.1f} s"
        print(f"{row['work']}: {row['units']} units of {row['unit_seconds']:.2f} s; {times}: {row['ratio']:.2f} times")
        print(f"  the same results: {row['same']}")
    write_table(Path(options.out), rows)
    print(f"table: {options.out}")


def _works(sizes: dict[str, int]) -> dict[str, Callable[[Any], tuple[int, str]]]:
    """Return by name what is timed: a function of an executor that returns the number of units and a hash of all."""
    layers = [_decaying(sizes["d"], sizes["hidden"], seed) for seed in range(2)]
    draw = torch.Generator().manual_seed(2)
    directions = torch.randn(sizes["features"], sizes["d"], generator=draw, dtype=torch.float32, device="cpu")

    def sweeps(executor: Any) -> tuple[int, str]:
        grid: dict[str, list[object]] = {
            "rank": [8],
            "starts": [1],
            "max_iterations": [sizes["iterations"]],
            "tolerance": [0.0],
        }
        records = sweep(
            layers[0], "cp", grid, seeds=range(sizes["fits"]), errors="raise", progress=False, executor=executor
        )
        return len(records), digest([record["relative_error"] for record in records])

    def spectra(executor: Any) -> tuple[int, str]:
        with tempfile.TemporaryDirectory() as folder:
            table = checkpoint_spectra(
                layers, directions, 2, 1e-3, folder, shard=sizes["shard"], progress=False, executor=executor
            )
            files = sorted(path.name for path in Path(folder).glob("layer-*"))
            return len(files), digest(*(table.column(name) for name in table.columns))

    return {"sweep": sweeps, "spectra": spectra}


def _decaying(d: int, hidden: int, seed: int) -> BilinearLayer:
    """Return a layer whose input factors have singular values 1, 1/2, 1/3, ..., as trained ones decay."""
    draw = torch.Generator().manual_seed(seed)
    scale = 1 / torch.arange(1, d + 1, dtype=torch.float32, device="cpu")
    left, right = (
        torch.linalg.qr(torch.randn(d, d, generator=draw, dtype=torch.float32, device="cpu")).Q
        @ (scale[:, None] * torch.randn(d, hidden, generator=draw, dtype=torch.float32, device="cpu"))
        for _ in range(2)
    )
    down = torch.randn(d, hidden, generator=draw, dtype=torch.float32, device="cpu")
    return BilinearLayer(down=down, left=left, right=right, name=f"decaying {seed}")


def _compared(
    name: str, work: Callable[[Any], tuple[int, str]], pool: Any, workers: int, repeats: int
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"one": [], "several": []}
    found = set()
    for _ in range(repeats):
        for kind, executor in (("one", None), ("several", pool)):
            start = time.perf_counter()
            units, mark = work(executor)
            seconds[kind].append(time.perf_counter() - start)
            found.add(mark)
    one, several = min(seconds["one"]), min(seconds["several"])
    row = {"work": name, "units": units, "unit_seconds": one / units, "one_process": one, "workers": workers}
    return row | {"with_workers": several, "ratio": one / several, "same": len(found) == 1}


if __name__ == "__main__":
    main()
