"""The products of pairs of networks, by kind and method: which function computes them, and what pairs share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.checks import check_choice, check_int
from tensornet_interp.inner_products.gaussian import closure, exact, levels
from tensornet_interp.inner_products.sampling import draws, normal_inputs, sphere, sphere_factor, standard_error
from tensornet_interp.inner_products.stack import Stack, largest_entry
from tensornet_interp.inner_products.symmetric import exact_flops, symmetric, tree
from tensornet_interp.moments import Gaussian, input_gaussian

METHODS = {"tree": ("exact",), "symmetric": ("exact", "sampled"), "gaussian": ("exact", "closure", "sampled")}
AUTO_FLOPS = 1e12  # what "auto" spends on exact Gaussian products of two layers, the whole call together

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class How:
    """The options of an inner product, checked; what they mean is said at `inner`."""

    kind: str
    method: str
    mean: Tensor | None
    covariance: Tensor | None
    per_output: bool
    samples: int
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, METHODS)
        check_choice("method", self.method, {"auto", *METHODS["gaussian"]})
        if self.method not in ("auto", *METHODS[self.kind]):
            raise ValueError(
                f"kind '{self.kind}' has no method '{self.method}'; use one of auto, {', '.join(METHODS[self.kind])}"
            )
        if self.kind != "gaussian" and (self.mean is not None or self.covariance is not None):
            raise ValueError(
                f"mean and covariance belong to kind='gaussian'; kind '{self.kind}' has no input distribution"
            )
        for name in ("per_output", "progress"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        check_int("samples", self.samples, 2, why="a standard error needs two")
        check_int("seed", self.seed, 0)


@dataclass(frozen=True, eq=False)
class Products:
    """<f, g> of every pair is value * exp(log_scale)."""

    value: Tensor  # (pair, out or 1)
    log_scale: Tensor  # (pair,)
    method: str
    draws: Tensor | None = None  # (pair, samples, out or 1), the mean of which is value


def products(stacks: Sequence[Stack], pairs: Pairs, how: How) -> Products:
    """All pairs by one method; what belongs to a single network is computed once."""
    method = _method(stacks, pairs, how)
    x, log_input = _scaled_input(stacks[0], how) if how.kind == "gaussian" else (None, 0.0)
    if method == "sampled":
        return _sampled(stacks, pairs, x, log_input, how)
    product = _product(stacks, x, method, how.kind)
    values, logs = [], []
    quiet = not how.progress or len(pairs) < 4  # two networks have nothing to show between the products
    for i, j in tqdm(pairs, desc=f"{how.kind} products", leave=False, delay=1, disable=quiet):
        value, log = product(i, j)
        values.append(value if how.per_output else value.sum(0, keepdim=True))
        logs.append(log + log_input)
    log_scale = torch.tensor(logs, dtype=torch.float64, device=values[0].device)
    # a closure of one layer is no approximation
    return Products(torch.stack(values), log_scale, "exact" if len(stacks[0]) == 1 else method)


def _method(stacks: Sequence[Stack], pairs: Pairs, how: How) -> str:
    depth = len(stacks[0])
    solvable = how.kind == "tree" or depth <= 2
    if how.method == "exact" and not solvable:
        others = " or ".join(f"'{name}'" for name in METHODS[how.kind][1:])
        raise ValueError(
            f"no exact '{how.kind}' product is known beyond two layers, these networks have {depth}:"
            f" use the estimate method={others}"
        )
    if how.method != "auto":
        return how.method
    if how.kind != "gaussian":
        return "exact" if solvable else "sampled"
    if depth == 2 and sum(exact_flops(stacks[i], stacks[j]) for i, j in pairs) <= AUTO_FLOPS:
        return "exact"
    return "closure"


def _product(
    stacks: Sequence[Stack], x: Gaussian | None, method: str, kind: str
) -> Callable[[int, int], tuple[Tensor, float]]:
    if x is None:
        of_two = tree if kind == "tree" else symmetric
        return lambda i, j: of_two(stacks[i], stacks[j])
    if method == "exact" and len(stacks[0]) == 2:
        return lambda i, j: exact(stacks[i], stacks[j], x)
    own = [levels(stack, x) for stack in stacks]
    return lambda i, j: closure(stacks[i], stacks[j], own[i], own[j], x)


def _scaled_input(stack: Stack, how: How) -> tuple[Gaussian, float]:
    """The Gaussian input with moments near 1, and the log that its scale adds: networks are homogeneous."""
    x = input_gaussian(stack.layers[0], how.mean, how.covariance)
    scale = largest_entry(torch.cat([x.mean, x.covariance.detach().abs().sqrt().flatten()]))
    return Gaussian(x.mean / scale, x.covariance / scale / scale), 2.0 ** (len(stack) + 1) * float(scale.log())


def _sampled(stacks: Sequence[Stack], pairs: Pairs, x: Gaussian | None, log_input: float, how: How) -> Products:
    first = stacks[0].layers[0]
    if x is None:
        points = sphere(first.shape[1], how.seed, first.down.device)
        log_factor = sphere_factor(first.shape[1], len(stacks[0]))
    else:
        points, log_factor = normal_inputs(x, how.seed), log_input
    values, log_scale = draws(stacks, pairs, points, how.samples, how.per_output, how.progress)
    return Products(values.mean(1), log_scale + log_factor, "sampled", values)


def covering_pairs(count: int) -> list[tuple[int, int]]:
    """Every network with itself and with all that come after it."""
    return [(i, j) for i in range(count) for j in range(i, count)]


def mirrored(values: Tensor, pairs: Pairs, count: int, per_output: bool) -> Tensor:
    """(pair, out or 1) -> (count, count, out) or (count, count), symmetric."""
    index = torch.empty(count, count, dtype=torch.long)
    for at, (i, j) in enumerate(pairs):
        index[i, j] = index[j, i] = at
    table = values[index.to(values.device)]
    return table if per_output else table[:, :, 0]


def cosines(found: Products, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """<f, g> / sqrt(<f, f> <g, g>) of every pair, and its standard error: (pair, out or 1).

    The standard error is that of the ratio to first order in the deviations of its three averages; 0 where nothing
    was sampled.
    """
    own = {i: at for at, (i, j) in enumerate(pairs) if i == j}
    f, g = (torch.tensor([own[pair[side]] for pair in pairs], device=found.value.device) for side in (0, 1))
    scale = (found.log_scale - (found.log_scale[f] + found.log_scale[g]) / 2).exp()[:, None]
    scale = scale / (found.value[f].sqrt() * found.value[g].sqrt())
    cosine, error = found.value * scale, torch.zeros_like(scale)
    if found.draws is not None:
        for at, (i, j) in enumerate(zip(f.tolist(), g.tolist(), strict=True)):
            relative = found.draws[i] / found.value[i] + found.draws[j] / found.value[j]  # (samples, out or 1)
            error[at] = standard_error(found.draws[at] * scale[at] - cosine[at] * relative / 2, 0)
    return cosine, error
