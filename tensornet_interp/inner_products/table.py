"""Compute tables of inner products of many pairs of networks, and cosines from them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.inner_products.stack import Stack
from tensornet_interp.numerics import nonzero

FEW_DRAWS = 30  # with 30 effective draws, a standard error is uncertain by 1 / (2 sqrt(30)) = 9 %

Pairs = Sequence[tuple[int, int]]  # places in the list of networks


@dataclass(frozen=True, eq=False)
class Task:
    """A task says what to compute: the products of these pairs of networks, per output or summed over outputs.

    widest: the largest size of a layer, for chunks of samples. A part of a task has that of the whole task, because
    random points depend on the chunks in which they are drawn.
    """

    stacks: Mapping[int, Stack]  # by place in the list of networks
    pairs: Pairs
    by_output: bool
    progress: bool
    widest: int

    @property
    def first(self) -> Stack:
        """Return one of the networks; all have the same depth, inputs and outputs."""
        return next(iter(self.stacks.values()))


@dataclass(frozen=True, eq=False)
class Table:
    """A table holds the product <f, g> of every pair as value * exp(log_scale)."""

    value: Tensor  # (pair, out), or (pair, 1) for sums over outputs
    log_scale: Tensor  # (pair,)
    method: str
    draws: Tensor | None = None  # (pair, samples, out or 1) if sampled; value is their mean
    share: float | None = None  # of closures of networks over positions, as in `Estimate`
    warnings: tuple[str, ...] = ()
    choice: str = ""  # as in `Estimate`


def fill(task: Task, product: Callable[[int, int], tuple[Tensor, float]], *, method: str, title: str) -> Table:
    """Return the table of all pairs in the task.

    product: a function; product(i, j) returns the values (out,) of one pair and the logarithm of their scale. method:
    the text that the table gives as its method. title: the text of the progress bar.
    """
    values, logs = [], []
    quiet = not task.progress or len(task.pairs) < 4  # two networks have nothing to show between the products
    for i, j in tqdm(task.pairs, desc=title, leave=False, delay=1, disable=quiet):
        value, log = product(i, j)
        values.append(value if task.by_output else value.sum(0, keepdim=True))
        logs.append(log)
    return Table(torch.stack(values), torch.tensor(logs, dtype=torch.float64, device=values[0].device), method)


def covering_pairs(count: int) -> list[tuple[int, int]]:
    """Return the pairs of every network with itself and with all networks after it."""
    return [(i, j) for i in range(count) for j in range(i, count)]


def mirrored(values: Tensor, pairs: Pairs, count: int) -> Tensor:
    """Return the values (pair, out or 1) of `covering_pairs` as a symmetric matrix (count, count, out or 1)."""
    index = torch.empty(count, count, dtype=torch.long, device="cpu")
    for at, (i, j) in enumerate(pairs):
        index[i, j] = index[j, i] = at
    return values[index.to(values.device)]


def cosines(table: Table, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Return <f, g> / sqrt(<f, f> <g, g>) of every pair and its standard error, each of shape (pair, out or 1).

    The cosine is a ratio of three averages, and its standard error is correct to first order in their deviations. The
    standard error is 0 if nothing was sampled.
    """
    own = {i: at for at, (i, j) in enumerate(pairs) if i == j}
    f, g = (torch.tensor([own[pair[side]] for pair in pairs], device=table.value.device) for side in (0, 1))
    scale = (table.log_scale - (table.log_scale[f] + table.log_scale[g]) / 2).exp()[:, None]
    scale = scale / (table.value[f].sqrt() * table.value[g].sqrt())
    cosine, error = table.value * scale, torch.zeros_like(scale)
    if table.draws is not None:
        for at, (i, j) in enumerate(zip(f.tolist(), g.tolist(), strict=True)):
            relative = table.draws[i] / table.value[i] + table.draws[j] / table.value[j]  # (samples, out or 1)
            error[at] = standard_error(table.draws[at] * scale[at] - cosine[at] * relative / 2, 0)
    return cosine, error


def heavy_tails(deviations: Tensor) -> tuple[str, ...]:
    """Return a warning if few draws carry most of the variance; otherwise return ().

    effective number of draws = (sum d^2)^2 / sum d^4, for deviations d of shape (samples, ...)

    For normally distributed deviations this number is a third of the samples. If it is small, the next draw may be
    larger than all draws so far; then the mean and its standard error are usually too small.
    """
    squares = (deviations - deviations.mean(0)).square()
    squares = squares / nonzero(squares.amax(0))
    deciding = squares.sum(0).square() / nonzero(squares.square().sum(0))
    fewest = float(deciding[squares.any(0)].min()) if bool(squares.any()) else math.inf
    if fewest >= min(FEW_DRAWS, len(deviations) / 6):
        return ()
    return (
        f"heavy tails: only {fewest:.0f} of {len(deviations)} draws determine the variance; the standard error may be"
        " far too small, so draw more samples, or compare several seeds",
    )


def standard_error(values: Tensor, dim: int) -> Tensor:
    """Return the standard error of the mean of `values` over the axis `dim`."""
    return values.std(dim) / math.sqrt(values.shape[dim])
