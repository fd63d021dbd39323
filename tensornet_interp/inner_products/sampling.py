"""Inner products as averages over random inputs: the products of every draw, for as many networks as there are."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.inner_products.stack import Stack
from tensornet_interp.moments import Gaussian
from tensornet_interp.numerics import nonzero

_CHUNK = 2**20  # hidden activations held at once (16 MB)

Points = Callable[[int], Tensor]  # the next n random inputs, (n, in), real or complex


def sphere(size: int, seed: int, device: torch.device) -> Points:
    """Uniform on the unit sphere of C^size; E[f(z) conj(g(z))] is the symmetric product but for `sphere_factor`."""
    normal = _normal(2 * size, seed, device)

    def points(count: int) -> Tensor:
        z = torch.view_as_complex(normal(count).unflatten(1, (size, 2)))
        return z / z.abs().square().sum(1, keepdim=True).sqrt()

    return points


def sphere_factor(size: int, depth: int) -> float:
    """log of Gamma(size + n) / (Gamma(size) n!) for the degree n = 2^depth."""
    degree = 2.0**depth
    return math.lgamma(size + degree) - math.lgamma(size) - math.lgamma(degree + 1)


def normal_inputs(x: Gaussian, seed: int) -> Points:
    """Draws of the Gaussian input."""
    normal, root = _normal(x.mean.shape[0], seed, x.mean.device), x.root
    return lambda count: x.mean + normal(count) @ root.T


def draws(
    stacks: Sequence[Stack],
    pairs: Sequence[tuple[int, int]],
    points: Points,
    samples: int,
    per_output: bool,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """Re f(z) conj(g(z)) of every pair and draw, (pair, samples, out or 1), and the log of each pair's scale (pair,).

    All pairs share the draws, and every network is evaluated once on each. Memory: the result.
    """
    widest = max(max(layer.rank, *layer.shape) for stack in stacks for layer in stack.layers)
    values: list[Tensor] = []
    logs: list[Tensor] = []
    for count in tqdm(list(_chunks(samples, widest)), desc="draws", leave=False, delay=1, disable=not progress):
        x = points(count)
        outputs = [_evaluate(stack, x) for stack in stacks]
        values.append(torch.stack([_product(outputs[i][0], outputs[j][0], per_output) for i, j in pairs]))
        logs.append(torch.stack([outputs[i][1] + outputs[j][1] for i, j in pairs]))
    log = torch.cat(logs, 1)  # (pair, samples)
    top = log.amax(1, keepdim=True)
    return torch.cat(values, 1) * (log - top).exp()[:, :, None], top[:, 0]


def standard_error(values: Tensor, dim: int) -> Tensor:
    """Of the mean over `dim`."""
    return values.std(dim) / math.sqrt(values.shape[dim])


def _product(f: Tensor, g: Tensor, per_output: bool) -> Tensor:
    products = (f * g.conj()).real
    return products if per_output else products.sum(1, keepdim=True)


def _chunks(samples: int, widest: int) -> Iterator[int]:
    step = max(1, _CHUNK // widest)
    for start in range(0, samples, step):
        yield min(step, samples - start)


def _evaluate(stack: Stack, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs (n, out) over all coordinates, with their largest entry 1, and the log of what they were divided by."""
    log = torch.zeros_like(x[:, 0].real)
    for layer in stack.layers:
        down, left, right = (factor.to(x.dtype) for factor in (layer.down, layer.left, layer.right))
        x = ((x @ left) * (x @ right)) @ down.T
        largest = nonzero(x.detach().abs().amax(1))
        x, log = x / largest[:, None], 2 * log + largest.log()
    return x, log + stack.log_scale


def _normal(size: int, seed: int, device: torch.device) -> Points:
    """Standard normal draws from a generator of their own, on the CPU: the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda count: torch.randn(count, size, generator=generator, dtype=torch.float64).to(device)
