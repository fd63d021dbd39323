"""Define the kinds of inner product: their options, and the choice of the function that computes each.

For networks of two or more layers the kinds give different values. "tree" depends on how a function is written as a
network; "symmetric" and "gaussian" depend only on the function.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from tensornet_interp.checks import check_choice, check_iterations, check_seed
from tensornet_interp.inner_products.gaussian import closure, exact, exact_flops, layer_moments, scaled_input
from tensornet_interp.inner_products.sampling import normal_inputs, of_stacks, sampled, sphere, sphere_factor
from tensornet_interp.inner_products.stack import Stack
from tensornet_interp.inner_products.symmetric import exact_flops as symmetric_flops
from tensornet_interp.inner_products.symmetric import symmetric, tree, tree_flops
from tensornet_interp.inner_products.table import Table, Task, fill
from tensornet_interp.moments import Moments, check_moments

AUTO_SECONDS = 30.0  # most estimated seconds per call that "auto" spends on exact Gaussian products of two layers
_RATE = 2e10  # flops per second, measured on one thread for the exact products at width 128; a constant, so that the
# choice is the same on every machine


@dataclass(frozen=True)
class Tree:
    """The kind "tree" is the Frobenius product of two networks, each read as a tree of symmetrized layers.

    <a, b> = sum_out <A[out], B[out]>

    A network of L layers is a binary tree with 2^L inputs. The product is exact at any depth, but it depends on how a
    function is written as layers. Cost: O(rank^2 * (in + out) + rank * in^2) per layer.
    """

    name: ClassVar[str] = "tree"

    def compute(self, task: Task) -> Table:
        """Return the products of all pairs of networks in the task."""
        stacks = task.stacks
        return fill(task, lambda i, j: tree(stacks[i], stacks[j]), method="exact", title="tree products")


@dataclass(frozen=True)
class Symmetric:
    """The kind "symmetric" is the Frobenius product of two tensors, each symmetrized over all of its inputs.

    <a, b> = sum_out <sym A[out], sym B[out]>

    The product depends only on the two functions, not on how they are written as layers.
    method:
    - "exact": for one or two layers; ValueError for more. Cost for two layers, in flops: rank * r^2 * (4 * h + 8 * h')
      + rank * h'^2 * (12 * r + 2 * rank'), or the same with the networks exchanged, or 4 * rank * rank' * r^3,
      whichever is least. rank and rank' are the ranks of the two second layers, h and h' those of the first layers, and
      r is min(in, 2 * (h + h')).
    - "sampled": unbiased, with a standard error, from `samples` random points on the complex unit sphere, drawn with
      `seed`. One draw deviates from the product by 2 to 3 times ||a|| ||b||, and by more in deeper networks.
      Cost: `samples` forward passes per network.
    - "auto": exact for one or two layers, otherwise sampled. `Estimate.choice` says what each would cost.
    """

    method: str = "auto"
    samples: int = 10_000
    seed: int = 0
    name: ClassVar[str] = "symmetric"

    def __post_init__(self) -> None:
        check_choice("method", self.method, ("auto", "exact", "sampled"))
        _check_draws(self.samples, self.seed)

    def compute(self, task: Task) -> Table:
        """Return the products of all pairs of networks in the task; sampled products share the same points."""
        stacks, (method, choice) = task.stacks, chosen_method(self, task)
        depth, first = len(task.first), task.first.layers[0]
        if method == "sampled":
            points, factor = sphere(first.shape[1], self.seed, first.down.device), sphere_factor(first.shape[1], depth)
            return replace(sampled(task, of_stacks(task), points, factor, self.samples), choice=choice)
        _check_depth(self.name, depth, ["sampled"])
        table = fill(task, lambda i, j: symmetric(stacks[i], stacks[j]), method="exact", title="symmetric products")
        return replace(table, choice=choice)


@dataclass(frozen=True)
class Gaussian:
    """The kind "gaussian" is the expected product of the outputs of two networks for a Gaussian input.

    <a, b> = E[a(x) . b(x)]

    x has the mean and the covariance of `moments`; the default is mean 0 and the identity.
    method:
    - "exact": for one or two layers; ValueError for more. Cost for two layers: as for `Symmetric`, and 26 * rank *
      rank' * r^2 flops.
    - "closure": treats each layer's outputs as Gaussian. This is exact for one layer; for more layers there is no bound
      on the error. In a trained three-layer classifier with many inputs, <a, a> was 10 % too small. With few
      inputs, <a, a> can be too small by orders of magnitude, and cosines can be wrong by 0.3.
      Cost: O(rank^2 * (in + out)) per layer.
    - "sampled": unbiased, with a standard error, from `samples` random inputs, drawn with `seed`. The outputs of deep
      networks have heavy tails: with too few draws, the standard error itself is too small.
      Cost: `samples` forward passes per network.
    - "auto": exact for one layer, and for two layers if the whole call needs at most about 30 s on one thread;
      otherwise the closure. `Estimate.choice` says what each would cost.

    For attention layers and stacks over positions, x holds all positions, flattened (position * in,), and the product
    is summed over positions. It is exact for one part that is not linear; the closure of more returns the largest
    share of an update, E|map|^2 / E|x|^2, and warns if this is too large. See `attention.stream_moments` for the cost
    and for what has a closure; samples take any stack, with softmax and norms too.
    """

    moments: Moments | None = None
    method: str = "auto"
    samples: int = 10_000
    seed: int = 0
    name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        check_moments(self.moments)
        check_choice("method", self.method, ("auto", "closure", "exact", "sampled"))
        _check_draws(self.samples, self.seed)

    def compute(self, task: Task) -> Table:
        """Return the products of all pairs of networks in the task; the moments of each network are computed once."""
        stacks, (method, choice) = task.stacks, chosen_method(self, task)
        depth = len(task.first)
        if method == "exact":
            _check_depth(self.name, depth, ["closure", "sampled"])
        x, log_input = scaled_input(task.first, self.moments)
        if method == "sampled":
            return replace(
                sampled(task, of_stacks(task), normal_inputs(x, self.seed), log_input, self.samples), choice=choice
            )
        of_two_layers = method == "exact" and depth == 2
        of_each = {} if of_two_layers else {i: layer_moments(stack, x) for i, stack in stacks.items()}

        def product(i: int, j: int) -> tuple[Tensor, float]:
            if of_two_layers:
                value, log = exact(stacks[i], stacks[j], x)
            else:
                value, log = closure(stacks[i], stacks[j], of_each[i], of_each[j], x)
            return value, log + log_input

        method = "exact" if depth == 1 else method  # the closure of one layer is no approximation
        return replace(fill(task, product, method=method, title="gaussian products"), choice=choice)


Kind = Tree | Symmetric | Gaussian
KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Tree, Symmetric, Gaussian)}


def as_kind(kind: object) -> Kind:
    """Return a kind object unchanged; for a name, return the kind with this name and default options.

    Raises ValueError for an unknown name and TypeError for any other object.
    """
    if isinstance(kind, Tree | Symmetric | Gaussian):
        return kind
    if isinstance(kind, str):
        return KINDS[check_choice("kind", kind, KINDS)]()
    shown = f"the class {kind.__name__}; add ()" if isinstance(kind, type) else repr(kind)
    raise TypeError(f"kind must be Tree(), Symmetric(...), Gaussian(...) or a name ({', '.join(KINDS)}), got {shown}")


def chosen_method(kind: Symmetric | Gaussian, task: Task) -> tuple[str, str]:
    """Return the method of a kind; for "auto", the method that it stands for in this task, and what each would cost.

    The second text is empty if nothing was chosen.
    """
    stacks, depth = task.stacks, len(task.first)
    if kind.method != "auto":
        return kind.method, ""
    if depth == 1:
        return "exact", ""

    def seconds(flops: Callable[[Stack, Stack], float]) -> float:
        return sum(flops(stacks[i], stacks[j]) for i, j in task.pairs) / _RATE

    if isinstance(kind, Symmetric):
        method, other = ("exact", "sampled") if depth == 2 else ("sampled", "exact")
        passes = sum(2.0 * layer.rank * (2 * layer.shape[1] + layer.shape[0]) for layer in task.first.layers)
        costs = {"sampled": len(stacks) * kind.samples * passes / _RATE}
        costs |= {"exact": seconds(symmetric_flops)} if depth == 2 else {}
    else:
        costs = {"closure": seconds(tree_flops)} | ({"exact": seconds(exact_flops)} if depth == 2 else {})
        method, other = "exact", "closure"
        if costs.get("exact", AUTO_SECONDS + 1) > AUTO_SECONDS:
            method, other = other, method
    rest = f"{other} about {costs[other]:.3g} s" if other in costs else f"{other} is not known beyond two layers"
    return method, f"{method}, about {costs[method]:.3g} s on one thread; {rest}"


def _check_draws(samples: object, seed: object) -> None:
    """Check the number of samples and the seed."""
    check_iterations("samples", samples, 2, "a standard error needs two", most=10**9)
    check_seed("seed", seed)


def _check_depth(name: str, depth: int, estimates: Iterable[str]) -> None:
    """Raise ValueError for more than two layers, and name the methods that estimate the product at any depth."""
    if depth > 2:
        others = " or ".join(f"'{estimate}'" for estimate in estimates)
        raise ValueError(
            f"no exact '{name}' product is known beyond two layers, and these networks have {depth} layers;"
            f" use an estimate: method={others}"
        )
