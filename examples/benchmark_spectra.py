"""How much faster is `spectra` than forming many interaction matrices and decomposing each?

`spectra` bounds the errors of the leading eigenpairs that it finds. Every output of a layer is a direction, and the
spectra of the layers decay exponentially, as 1 / i, or not at all (flat: Gaussian weights, the hardest case). The dense
method forms the interaction matrices and gives them to torch.linalg.eigvalsh in batches, in float32 and in float64. The
methods run in turn, and the minimum time counts; on one thread it is processor time. "of limit" is the share of this
time that the matrix products of `spectra` would take at the rate of large products on the same machine.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from examples.benchmarks.spectral import DECAYS, Products, clock_of, dense, make_layer, product_rates, seconds
from tensornet_interp.spectra import Spectra, spectra


class Row(NamedTuple):
    """A `Row` is one line of the table: the seconds per direction of each method, and the spectra found."""

    decay: str
    n_in: int
    hidden: int
    krylov: float
    dense32: float
    dense64: float
    limit: float  # seconds per direction of the matrix products of `spectra` at the rate of the machine
    found: Spectra


def measure(
    n_in: int,
    hidden: int,
    decay: str,
    *,
    directions: int,
    batch: int,
    repeats: int,
    tolerance: float,
    rates: Mapping[torch.dtype, float],
) -> Row:
    """Time all methods in turn; the dense ones on one batch, because every batch is the same work."""
    layer = make_layer(n_in, hidden, directions, decay, seed=0)
    rows = torch.eye(directions)
    exact, few = layer.to(dtype=torch.float64), rows[:batch]
    times: list[tuple[float, ...]] = []
    clock = clock_of()
    with Products() as products:
        found = spectra(layer, rows, tolerance=tolerance, method="krylov", progress=False)
    calls = (
        (lambda: spectra(layer, rows, tolerance=tolerance, method="krylov", progress=False), directions),
        (lambda: dense(layer, few, 2, batch), len(few)),
        (lambda: dense(exact, few.double(), 2, batch), len(few)),
    )
    for _ in range(repeats):
        times.append(tuple(seconds(call, clock) / count for call, count in calls))
    values = dense(exact, few.double(), 2, batch).abs()
    error = (found.eigenvalues[: len(few)].double().abs() - values).abs()
    wrong = found.proven[: len(few), None] & (error > found.bounds[: len(few)])
    if bool(wrong.any()):
        raise RuntimeError(f"{int(wrong.sum())} proven bounds do not hold")
    krylov, dense32, dense64 = (min(column) for column in zip(*times, strict=True))
    limit = products.limit(rates) / directions
    return Row(decay, n_in, hidden, krylov, dense32, dense64, limit, found)


def line(row: Row) -> str:
    """Return a row as text."""
    found = row.found
    return (
        f"{row.decay:11}  {row.n_in:5} {row.hidden:6}  {1e3 * row.krylov:9.2f}  {1e3 * row.dense32:9.2f}"
        f"  {1e3 * row.dense64:9.2f}  {row.dense32 / row.krylov:8.1f}  {row.dense64 / row.krylov:8.1f}"
        f"  {row.limit / row.krylov:8.0%}"
        f"  {found.steps.double().mean():5.1f}  {found.converged.double().mean():6.0%}"
        f"  {found.proven.double().mean():6.0%}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per layer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["512x2048", "1024x4096"], metavar="INxHIDDEN")
    parser.add_argument("--decays", nargs="+", default=list(DECAYS), choices=DECAYS)
    parser.add_argument("--directions", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=32, help="matrices formed and decomposed together")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    print(
        f"two leading eigenvalues to {options.tolerance:g}, {options.directions} directions, {options.threads} threads,"
        f" minimum of {options.repeats}; dense: interaction_matrix and eigvalsh in batches of {options.batch}"
    )
    rates = product_rates()
    print("matrix products: " + ", ".join(f"{dtype} {rate / 1e9:.0f} Gflop/s" for dtype, rate in rates.items()))
    names = "ms krylov  ms dense32  ms dense64   ratio32   ratio64  of_limit  steps  within  proven"
    print(f"decay           in hidden  {names}")
    for size in options.sizes:
        n_in, hidden = (int(number) for number in size.split("x"))
        for decay in options.decays:
            row = measure(
                n_in,
                hidden,
                decay,
                directions=options.directions,
                batch=options.batch,
                repeats=options.repeats,
                tolerance=options.tolerance,
                rates=rates,
            )
            print(line(row), flush=True)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
