"""How much faster is `spectra` than forming many interaction matrices and decomposing each?

`spectra` bounds the errors of the leading eigenpairs that it finds. The layers are float32 with Gaussian `down`, and
every output is a direction. left and right are U diag(s) G, with one random orthogonal U and two Gaussian G, like a
residual stream with few strong coordinates. s[i] is 0.9^i ("exponential"), 1 / i ("inverse") or 1 ("flat": Gaussian
weights, the hardest case). The dense method forms the interaction matrices and gives them to torch.linalg.eigvalsh in
batches, in float32 and in float64. The methods run in turn, and the minimum time counts.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from examples.benchmarks.decaying import DECAYS, make_layer
from tensornet_interp import BilinearLayer
from tensornet_interp.spectra import Spectra, spectra


class Row(NamedTuple):
    """A `Row` is one line of the table: the seconds per direction of each method, and the spectra found."""

    decay: str
    n_in: int
    hidden: int
    krylov: float
    dense32: float
    dense64: float
    found: Spectra


def dense(layer: BilinearLayer, directions: torch.Tensor, k: int, batch: int) -> torch.Tensor:
    """Return the k eigenvalues of largest magnitude, (block, k), from matrices that are formed."""
    values = torch.cat(
        [torch.linalg.eigvalsh(layer.interaction_matrix(rows)) for rows in directions.split(batch)]
    )  # (block, in)
    return values.gather(1, values.abs().argsort(dim=1, descending=True)[:, :k])


def seconds(call: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(n_in: int, hidden: int, decay: str, *, directions: int, batch: int, repeats: int, tolerance: float) -> Row:
    """Time all methods in turn; the dense ones on one batch, because every batch is the same work."""
    layer = make_layer(n_in, hidden, directions, decay, seed=0)
    rows = torch.eye(directions)
    exact, few = layer.to(dtype=torch.float64), rows[:batch]
    times: list[tuple[float, ...]] = []
    found = spectra(layer, rows, tolerance=tolerance, method="krylov", progress=False)
    for _ in range(repeats):
        times.append(
            (
                seconds(lambda: spectra(layer, rows, tolerance=tolerance, method="krylov", progress=False))
                / directions,
                seconds(lambda: dense(layer, few, 2, batch)) / len(few),
                seconds(lambda: dense(exact, few.double(), 2, batch)) / len(few),
            )
        )
    values = dense(exact, few.double(), 2, batch).abs()
    error = (found.eigenvalues[: len(few)].double().abs() - values).abs()
    wrong = found.proven[: len(few), None] & (error > found.bounds[: len(few)])
    if bool(wrong.any()):
        raise RuntimeError(f"{int(wrong.sum())} proven bounds do not hold")
    krylov, dense32, dense64 = (min(column) for column in zip(*times, strict=True))
    return Row(decay, n_in, hidden, krylov, dense32, dense64, found)


def line(row: Row) -> str:
    """Return a row as text."""
    found = row.found
    return (
        f"{row.decay:11}  {row.n_in:5} {row.hidden:6}  {1e3 * row.krylov:9.2f}  {1e3 * row.dense32:9.2f}"
        f"  {1e3 * row.dense64:9.2f}  {row.dense32 / row.krylov:8.1f}  {row.dense64 / row.krylov:8.1f}"
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
    print("decay           in hidden  ms krylov  ms dense32  ms dense64   ratio32   ratio64  steps  within  proven")
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
            )
            print(line(row), flush=True)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
