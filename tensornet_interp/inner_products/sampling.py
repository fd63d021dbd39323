"""Compute inner products as averages over random inputs, for any number of networks at once."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.inner_products.stack import Stack
from tensornet_interp.inner_products.table import Table, Task
from tensornet_interp.moments import Moments
from tensornet_interp.numerics import nonzero

_CHUNK = 2**20  # hidden activations held at once (16 MB)

Points = Callable[[int], Tensor]  # the next n random inputs, (n, in), real or complex


def sphere(size: int, seed: int, device: torch.device) -> Points:
    """Return a function that draws points uniformly from the unit sphere of C^size.

    The symmetric product is E[f(z) conj(g(z))] * exp(sphere_factor) over these points z.
    """
    normal = _normal(2 * size, seed, device)

    def points(count: int) -> Tensor:
        z = torch.view_as_complex(normal(count).unflatten(1, (size, 2)))
        return z / z.abs().square().sum(1, keepdim=True).sqrt()

    return points


def sphere_factor(size: int, depth: int) -> float:
    """Return the logarithm of Gamma(size + n) / (Gamma(size) n!), where n = 2^depth is the degree of the network."""
    degree = 2.0**depth
    return math.lgamma(size + degree) - math.lgamma(size) - math.lgamma(degree + 1)


def normal_inputs(x: Moments, seed: int) -> Points:
    """Return a function that draws Gaussian inputs with these moments."""
    normal, root = _normal(x.mean.shape[0], seed, x.mean.device), x.root
    return lambda count: x.mean + normal(count) @ root.T


class Evaluated(NamedTuple):
    """Networks to evaluate: a function per network from inputs (n, in) to outputs and their logarithms, and a size."""

    networks: Mapping[int, Callable[[Tensor], tuple[Tensor, Tensor]]]  # the results of `unit_rows`
    widest: int  # numbers per input that are held at once


def of_stacks(task: Task) -> Evaluated:
    """Return how the stacks of a task are evaluated."""
    return Evaluated({i: partial(_evaluate, stack) for i, stack in task.stacks.items()}, task.widest)


def sampled(task: Task, evaluated: Evaluated, points: Points, log_factor: float, samples: int) -> Table:
    """Return the average of Re f(z) conj(g(z)) exp(log_factor) over random points z, for every pair of networks.

    All pairs share the same points, and every network is evaluated once per point. Memory: pairs * samples float64
    numbers, or out * pairs * samples for products per output.
    """
    values: list[Tensor] = []
    logs: list[Tensor] = []
    for count in tqdm(
        list(_chunks(samples, evaluated.widest)), desc="draws", leave=False, delay=1, disable=not task.progress
    ):
        x = points(count)
        outputs = {i: evaluate(x) for i, evaluate in evaluated.networks.items()}
        values.append(torch.stack([_product(outputs[i][0], outputs[j][0], task.by_output) for i, j in task.pairs]))
        logs.append(torch.stack([outputs[i][1] + outputs[j][1] for i, j in task.pairs]))
    log = torch.cat(logs, 1)  # (pair, samples)
    top = log.amax(1, keepdim=True)
    draws = torch.cat(values, 1) * (log - top).exp()[:, :, None]
    return Table(draws.mean(1), top[:, 0] + log_factor, "sampled", draws)


def _product(f: Tensor, g: Tensor, by_output: bool) -> Tensor:
    """Return the products of the outputs ([n, position] or n, out) of two networks: (n, out), or (n, 1) if summed."""
    each = (f * g.conj()).real
    each = each.sum(1) if each.ndim == 3 else each
    return each if by_output else each.sum(1, keepdim=True)


def _chunks(samples: int, widest: int) -> Iterator[int]:
    """Yield the sizes of the chunks in which `samples` points are evaluated."""
    step = max(1, _CHUNK // widest)
    for start in range(0, samples, step):
        yield min(step, samples - start)


def _evaluate(stack: Stack, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of n inputs, (n, out), each row divided by a scale, and the logarithms of the scales, (n,).

    The largest magnitude of each row is then 1, unless the row is zero.
    """
    log = torch.zeros_like(x[:, 0].real)
    for layer in stack.layers:
        down, left, right = (factor.to(x.dtype) for factor in (layer.down, layer.left, layer.right))
        x = ((x @ left) * (x @ right)) @ down.T
        x, more = unit_rows(x)
        log = 2 * log + more
    return x, log + stack.log_scale


def unit_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return tensors (n, ...), each divided by its largest magnitude unless it is zero, and the logarithms (n,)."""
    largest = nonzero(x.detach().abs().flatten(1).amax(1))
    return x / largest.reshape(-1, *[1] * (x.ndim - 1)), largest.log()


def _normal(size: int, seed: int, device: torch.device) -> Points:
    """Return a function that draws standard normal numbers, (count, size), float64.

    They come from a separate generator on the CPU, so they are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.randn(count, size, generator=generator, dtype=torch.float64, device="cpu").to(device)
