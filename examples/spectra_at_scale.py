"""How long do the spectra of all features of all layers take, for this checkpoint and for models 100 times its size?

The script computes the two leading eigenvalues per feature for a part of a checkpoint, with `checkpoint_spectra`. It
prints features per second; the share of the time that their matrix products need at the rate of large products on this
machine; the ratio against forming and decomposing matrices, on a sample of the same features, with the largest
difference beside its bound; memory beside its estimate; and the time for the whole model and for larger ones.

Without --checkpoint, the script makes one of random weights, whose spectra decay, with the sizes of a published medium
model. A real checkpoint is a folder or a hub name. Its features are random directions, or dictionaries by layer:

    python -m examples.spectra_at_scale --checkpoint owner/name --dictionaries owner/saes --place {layer}-mlp-out-x4-k30

Results stay in --out, and a stopped run continues from them. Run nothing else meanwhile.
"""

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.benchmarks.measure import MIB, memory_status, reset_peak
from examples.benchmarks.spectral import (
    DECAYS,
    Products,
    dense,
    free_memory,
    product_rates,
    seconds,
)
from examples.parts.spectra_model import Model, Sizes, layer_of, opened, write_checkpoint
from models.tables import write_table
from tensornet_interp import BilinearLayer
from tensornet_interp.checks import check_int, check_number
from tensornet_interp.places import check_device
from tensornet_interp.spectra import SpectraTable, checkpoint_spectra, krylov_flops

GIB, K = 2**30, 2
DENSE_ROUNDING = 10 * torch.finfo(torch.float64).eps  # of eigvalsh, times inputs and the largest eigenvalue


def main(argv: Sequence[str] | None = None) -> None:
    """Compute a part of a checkpoint, compare a sample, and print rates, memory and the time for larger models."""
    options = _options(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        run(options)
    finally:
        torch.set_num_threads(threads)


def run(options: argparse.Namespace) -> None:
    """Do what `main` says, with checked options."""
    out = Path(options.out)
    model = opened(options, out)
    whole, part = model.sizes, model.part
    print(
        f"model: {whole.n_in:,} inputs, {whole.hidden:,} hidden units, {whole.layers} layers, {whole.total:,} features"
    )
    print(f"computed here: {part.total:,} features ({part.total / whole.total:.1%}) of {part.layers} layers")
    need = memory(part, options)
    check_memory(need, options)
    rates = product_rates(options.device)
    speeds = ", ".join(f"{rate / 1e9:,.0f} Gflop/s in {str(dtype)[6:]}" for dtype, rate in rates.items())
    print(
        f"{options.device}, {options.workers} workers, {options.threads} threads each; large matrix products: {speeds}"
    )
    table, each = computed(model, rates, need["spectra"], options, out)
    slow = compared(model, table, each, options)
    steps = max(1, round(float(table.column("steps").double().mean())))
    stored = sum(path.stat().st_size for path in (out / "store").iterdir()) / len(table)
    rows = [projected(whole, factor, each, slow, steps, stored, options) for factor in (1, 10, 100)]
    print("\n" + " ".join(f"{name:>12}" for name in rows[0]))
    for row in rows:
        print(" ".join(f"{value:>12{',' if isinstance(value, int) else '.3g'}}" for value in row.values()))
    print("Larger models: all sizes grow by the cube root of the weights; steps per feature, flops per second and")
    print("workers stay the same; dense flops per feature grow like the cube of the inputs. GiB: of one worker.")
    write_table(out / "scale.csv", rows)


def memory(sizes: Sizes, options: argparse.Namespace) -> dict[str, float]:
    """Return the bytes that are needed at once: by `checkpoint_spectra` per process, and by the dense sample."""
    layer = (2 * sizes.n_in + sizes.n_out) * sizes.hidden
    features = 4 * sizes.features * sizes.n_out + 8 * options.shard * (2 * sizes.n_out + 4 * sizes.hidden)
    norms = 8 * 5 * 512 * sizes.hidden
    matrices = options.batch * sizes.n_in * (sizes.hidden + 3 * sizes.n_in)
    return {
        "spectra": 8.0 * (4 * layer + options.max_elements) + features + norms,
        "dense": 8.0 * (2 * layer + matrices) if options.sample else 0.0,
    }


def check_memory(need: Mapping[str, float], options: argparse.Namespace) -> None:
    """Print the memory that is needed, and raise MemoryError if this is more than there is."""
    most = max(need["spectra"] * options.workers, need["dense"])
    free = free_memory(options.device) if options.memory is None else options.memory * GIB
    there = "unknown" if free is None else f"{free / GIB:.2f} GiB"
    spectra, sample = (need[name] / GIB for name in ("spectra", "dense"))
    print(f"memory: spectra {spectra:.2f} GiB per worker, dense sample {sample:.2f} GiB; free: {there}", flush=True)
    if free is not None and most > free:
        raise MemoryError(
            f"{most / GIB:.2f} GiB are needed at once, but the memory that is free is {there}: lower --workers,"
            " --max-elements, --shard or --batch, or leave out the dense sample with --sample 0"
        )


def computed(
    model: Model, rates: Mapping[torch.dtype, float], need: float, options: argparse.Namespace, out: Path
) -> tuple[SpectraTable, float]:
    """Compute what the store does not have, print how fast, and return the table and the seconds per feature."""
    if options.checkpoint is None:
        sizes = model.sizes
        write_checkpoint(Path(model.source), sizes.n_in, sizes.hidden, sizes.layers, model.part.layers, options.decay)
    store = out / "store"
    before = len(log(store))
    held = reset_peak()
    with Products() as products, pool(options) as executor:
        table = checkpoint_spectra(
            model.source,
            model.features,
            K,
            options.tolerance,
            store,
            executor=executor,
            layout=options.layout,
            gate_removed=options.gate_removed,
            device=options.device,
            dtype=torch.float32,
            shard=options.shard,
            max_elements=options.max_elements,
            progress=options.progress,
        )
    peak, records = memory_status("VmHWM"), log(store)
    new = [record["seconds"] for record in records[before:]]
    done = {record["shard"]: record["seconds"] for record in records}  # a shard may have been computed again
    each = sum(done.values()) / options.workers / len(table)
    rate = f"{1 / each:,.1f} features per second, {1e3 * each:.2f} ms per feature"
    print(f"{len(new)} of {len(done)} shards in this run; {rate}")
    proven, steps = (table.column(name).double().mean() for name in ("proven", "steps"))
    within = (
        (table.column("bound_0") <= options.tolerance * table.column("eigenvalue_0").abs().double()).double().mean()
    )
    print(f"{within:.1%} within {options.tolerance:g}, {proven:.1%} proven, {steps:.1f} steps per feature")
    if new and executor is None:
        print(f"matrix products at the rate above: {products.limit(rates) / sum(new):.0%} of the time")
        if held is not None and peak is not None:
            print(f"memory: {(peak - held) * MIB / GIB:.2f} GiB at the peak, estimated {need / GIB:.2f} GiB")
    return table, each


def log(store: Path) -> list[dict[str, Any]]:
    """Return the records of the shards in the log of a store: their seconds, among others."""
    path = store / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@contextmanager
def pool(options: argparse.Namespace) -> Iterator[ProcessPoolExecutor | None]:
    """Yield processes with their own threads, or None if there is one worker: this process."""
    if options.workers == 1:
        yield None
        return
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # the workers inherit it
    try:
        with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as executor:
            yield executor
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        os.environ.update({} if before is None else {"OMP_NUM_THREADS": before})


def compared(model: Model, table: SpectraTable, each: float, options: argparse.Namespace) -> float | None:
    """Decompose the matrices of a sample in float64 and float32, and print ratios and the largest difference.

    Returns the seconds of the faster dense method per feature, or None without a sample. Raises RuntimeError if a
    proven bound does not hold.
    """
    if not options.sample:
        return None
    times: dict[torch.dtype, list[float]] = {torch.float64: [], torch.float32: []}
    columns = {name: table.column(name) for name in table.columns}
    worst, most = (0.0, 0.0), 0.0
    for number, start in enumerate(range(0, options.sample, options.batch)):
        index = list(model.features)[number % model.part.layers]
        draw = torch.Generator().manual_seed(number)
        rows = torch.randperm(model.part.features, generator=draw)[: min(options.batch, options.sample - start)]
        layer = layer_of(model.source, index, options, device=options.device, dtype=torch.float32)
        directions = model.features[index][rows]
        found = {dtype: timed(layer, directions, dtype, options) for dtype in times}
        for dtype, (_, spent) in found.items():
            times[dtype].append(spent)
        exact = found[torch.float64][0]
        mine = {name: column[columns["layer"] == index][rows].double() for name, column in columns.items()}
        for i in range(K):
            error = (mine[f"eigenvalue_{i}"].abs() - exact[:, i].abs()).abs()
            bound = mine[f"bound_{i}"] + DENSE_ROUNDING * model.sizes.n_in * exact[:, 0].abs()
            if bool(((error > bound) & (mine["proven"] > 0)).any()):
                raise RuntimeError(f"bounds of layer {index} do not hold")
            worst = max(worst, (float(error.max()), float(bound[error.argmax()])))
            most = max(most, float((error / exact[:, i].abs()).max()))
    best = {dtype: min(spent) for dtype, spent in times.items()}
    text = ", ".join(f"{str(dtype)[6:]} {1e3 * best[dtype]:.1f} ms ({best[dtype] / each:.1f} times)" for dtype in best)
    print(f"dense, {options.sample} features in batches of {options.batch}: {text} per feature")
    print(f"largest difference of eigenvalues: {worst[0]:.2e}, its bound {worst[1]:.2e}; relative {most:.1e} at most")
    return min(best.values())


def timed(
    layer: BilinearLayer, directions: Tensor, dtype: torch.dtype, options: argparse.Namespace
) -> tuple[Tensor, float]:
    """Return the leading eigenvalues of dense matrices, and the seconds per feature."""
    wide, rows = layer.to(dtype=dtype), directions.to(layer.down.device, dtype)
    values: list[Tensor] = []
    spent = seconds(lambda: values.append(dense(wide, rows, K, options.batch).cpu()))
    return values[0], spent / len(rows)


def projected(
    sizes: Sizes, factor: int, each: float, slow: float | None, steps: int, stored: float, options: argparse.Namespace
) -> dict[str, float]:
    """Return a row of the table: a model with `factor` times the weights, and the hours that its spectra take."""
    large = sizes.grown(factor)
    flops = [krylov_flops(one.n_in, one.hidden, options.shard, steps) for one in (large, sizes)]
    hours = {"hours": large.total * each * flops[0] / flops[1] / 3600}
    if slow is not None:
        hours["dense hours"] = large.total * slow / options.workers * (large.n_in / sizes.n_in) ** 3 / 3600
    costs = (
        {} if options.price is None else {name.replace("hours", "cost"): h * options.price for name, h in hours.items()}
    )
    gib = {"GiB": memory(large, options)["spectra"] / GIB, "GiB on disk": stored * large.total / GIB}
    named = {"inputs": large.n_in, "hidden": large.hidden, "layers": large.layers, "features": large.total}
    return {"weights": factor} | named | hours | costs | gib


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder or hub name; default: make one of random weights")
    parser.add_argument("--layout", default="published", help="layout of the checkpoint, as for load_layer")
    parser.add_argument("--gate-removed", action="store_true", help="the checkpoint works without the gate it names")
    parser.add_argument("--dictionaries", help="folder or hub name; default: random unit vectors as features")
    parser.add_argument("--place", default="{layer}-mlp-out-x4-k30", help="folder of a dictionary in --dictionaries")
    integers = {"d-model": 1024, "hidden": 4096, "layers": 16, "features": 8192, "some-layers": 2}
    integers |= {"some-features": 2048, "sample": 64, "batch": 32, "shard": 1024, "max-elements": 2**25, "workers": 1}
    for name, value in integers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--decay", choices=DECAYS, default="inverse", help="spectra of the random weights")
    parser.add_argument("--whole", action="store_true", help="compute all layers and features")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="per worker")
    parser.add_argument("--memory", type=float, help="GiB that may be used; default: what is free")
    parser.add_argument("--price", type=float, help="of this machine per hour")
    parser.add_argument("--no-progress", dest="progress", action="store_false")
    parser.add_argument("--out", default="out/spectra_at_scale")
    options = parser.parse_args(argv)
    for name in (*integers, "threads"):
        check_int(f"--{name}", getattr(options, name.replace("-", "_")), 0 if name == "sample" else 1)
    for name in ("tolerance", "memory", "price"):
        if getattr(options, name) is not None:
            check_number(f"--{name}", getattr(options, name), 0)
    torch.empty(0, device=check_device(options.device))  # an error if the machine does not have it
    if options.dictionaries is not None and options.checkpoint is None:
        parser.error("--dictionaries belong to a --checkpoint")
    return options


if __name__ == "__main__":
    main()
