"""What the benchmarks of spectra share: layers whose spectra decay, the dense method, and the limit of a machine."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tensornet_interp import BilinearLayer

DECAYS = ("exponential", "inverse", "flat")
_LONG_ENOUGH, _LARGEST = 0.01, 8192  # seconds and size of the product that measures the rate of a machine


def make_layer(n_in: int, hidden: int, n_out: int, decay: str, seed: int) -> BilinearLayer:
    """Return a float32 layer whose left and right have the input scales s of `decay` in one shared basis.

    left and right are U diag(s) G, with one random orthogonal U and two Gaussian G, like a residual stream with few
    strong coordinates. s[i] is 0.9^i ("exponential"), 1 / i ("inverse") or 1 ("flat": Gaussian weights, the hardest
    case). `down` is Gaussian.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float32)

    index = torch.arange(1, n_in + 1, dtype=torch.float32)
    s = {"exponential": 0.9**index, "inverse": 1 / index, "flat": torch.ones(n_in)}[decay]
    basis = torch.linalg.qr(draw(n_in, n_in)).Q * s
    left, right = (basis @ draw(n_in, hidden) / n_in**0.5 for _ in range(2))
    return BilinearLayer(down=draw(n_out, hidden) / hidden**0.5, left=left, right=right, name=f"{decay} decay")


def dense(layer: BilinearLayer, directions: Tensor, k: int, batch: int) -> Tensor:
    """Return the k eigenvalues of largest magnitude, (block, k), from matrices that are formed."""
    values = torch.cat(
        [torch.linalg.eigvalsh(layer.interaction_matrix(rows)) for rows in directions.split(batch)]
    )  # (block, in)
    return values.gather(1, values.abs().argsort(dim=1, descending=True)[:, :k])


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one call by a clock."""
    start = clock()
    call()
    return clock() - start


class Products(TorchDispatchMode):
    """Inside this context the flops of matrix products are counted by dtype, in `flops`.

    Factorizations and elementwise work are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops[out.dtype] += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out

    def limit(self, rates: Mapping[torch.dtype, float]) -> float:
        """Return the seconds that the counted products take at these rates in flops per second."""
        return sum(flops / rates[dtype] for dtype, flops in self.flops.items())


def _product(matrix: Tensor) -> None:
    (matrix @ matrix)[0, 0].item()  # which waits for the device


def clock_of(device: torch.device | str = "cpu") -> Callable[[], float]:
    """Return the clock of benchmarks: processor time of one thread, which other processes disturb little, or time."""
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def product_rates(device: torch.device | str = "cpu", repeats: int = 3) -> dict[torch.dtype, float]:
    """Return the flops per second of large square matrix products on a device, in float32 and in float64.

    The size doubles from 1,024 until a product is long enough to time; the fastest of the repeats counts.
    """
    clock = clock_of(device)
    rates = {}
    for dtype in (torch.float32, torch.float64):
        size, best = 512, 0.0
        while best < _LONG_ENOUGH and size < _LARGEST:
            size *= 2
            matrix = torch.rand(size, size, dtype=torch.float32).to(device, dtype)
            best = min(seconds(partial(_product, matrix), clock) for _ in range(1 + repeats))
        rates[dtype] = 2.0 * size**3 / best
    return rates


def free_memory(device: torch.device | str = "cpu") -> float | None:
    """Return the free bytes of a device; None if they are not known."""
    place = torch.device(device)
    if place.type == "cuda":
        return float(torch.cuda.mem_get_info(place)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
