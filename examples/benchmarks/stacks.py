"""Benchmark functions for stacks: a bond step, contraction of the whole network, similarity of checkpoints."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from examples.benchmarks.measure import Checked, Outcome
from tensornet_interp import BilinearLayer, BilinearNetwork, Term, contract, odt, plan, similarity
from tensornet_interp.inner_products import Gaussian, Symmetric, Tree

EPS = torch.finfo(torch.float64).eps


def random_network(sizes: list[int], hidden: int, seed: int, dtype: torch.dtype = torch.float32) -> BilinearNetwork:
    """Return a network with independent normal weights of variance 1 / inputs.

    `sizes` are the sizes of the bonds, with the input first.
    """
    generator = torch.Generator().manual_seed(seed)

    def factor(size: int, over: int) -> Tensor:
        return torch.randn(size, hidden, generator=generator, dtype=dtype) / math.sqrt(over)

    return BilinearNetwork(
        [BilinearLayer(down=factor(b, hidden), left=factor(a, a), right=factor(a, a)) for a, b in pairwise(sizes)]
    )


class Cores(NamedTuple):
    """A `Cores` is a stack as dense symmetrized cores (out, in, in), and as the layers they come from."""

    layers: tuple[BilinearLayer, ...]
    cores: list[Tensor]


def bond_layers(size: int, depth: int) -> Cores:
    """Return a stack of square float64 layers, without dense cores."""
    return Cores(random_network([size] * (depth + 1), size, 0, torch.float64).layers, [])


def bond_cores(size: int, depth: int) -> Cores:
    """Return the stack of `bond_layers` with its dense cores."""
    layers, _ = bond_layers(size, depth)
    return Cores(layers, [layer.symmetrize().to_tensor() for layer in layers])


def factored_bonds(stack: Cores) -> Outcome:
    """Compute Grams below and above, roots, singular values, encoder and decoder of every bond, on the factors."""
    bonds = odt(BilinearNetwork(stack.layers)).bonds
    return Outcome(f"{len(bonds)} bonds", [bond.singular_values for bond in bonds])


def dense_bonds(stack: Cores) -> Outcome:
    """Compute the same on dense cores, with five products of size^4 per layer.

    The way down reuses half-contracted cores of the way up.
    """
    below = torch.eye(stack.cores[0].shape[1], dtype=torch.float64)
    ups, halves = [below], []
    for core in stack.cores:
        half = core @ below  # (out, in, in')
        whole = torch.einsum("kij,ia->kaj", half, below)
        below = whole.flatten(1) @ core.flatten(1).T  # (out, out')
        below = below / below.abs().max()
        ups.append(below)
        halves.append(half)
    above = torch.eye(stack.cores[-1].shape[0], dtype=torch.float64)
    downs = [above]
    for core, half in zip(reversed(stack.cores), reversed(halves), strict=True):
        weighted = (above @ core.flatten(1)).reshape(core.shape)
        above = torch.einsum("kij,kaj->ia", weighted, half)  # (in, in')
        above = above / above.abs().max()
        downs.insert(0, above)
    found = [_cut(up, down)[0] for up, down in zip(ups, downs, strict=True)]
    return Outcome(f"{len(found)} bonds", found)


def _cut(below: Tensor, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular values of a bond from both Grams (their squares sum to 1), its encoder and its decoder."""
    lower, upper = _root(below), _root(above).T
    rows, values, columns = torch.linalg.svd(upper @ lower, full_matrices=False)
    roots = values.clamp_min(EPS * values[0]).sqrt()
    return values / values.norm(), (rows / roots).T @ upper, lower @ (columns.T / roots)


def _root(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    keep = values > len(values) * EPS * values[-1]
    return vectors[:, keep] * values[keep].sqrt()


def same_spectra(stack: Cores, found: list[Tensor]) -> Checked:
    """Return the largest difference between these singular values and ours, all of which are at most 1."""
    mine = [bond.singular_values for bond in odt(BilinearNetwork(stack.layers)).bonds]
    return Checked(max(float((a - b).abs().max()) for a, b in zip(mine, found, strict=True)))


class Attached(NamedTuple):
    """An `Attached` is a network, a batch, and the network's terms with the batch attached to every input."""

    network: BilinearNetwork
    x: Tensor
    terms: tuple[Term, ...]


def attached(width: int, depth: int, batch: int) -> Attached:
    """Return a square network with a batch on all its 2**depth inputs, and search the contraction path."""
    network = random_network([width] * (depth + 1), width, 0)
    x = torch.randn(batch, width, generator=torch.Generator().manual_seed(1))
    inputs = [Term(x, ("batch", mode)) for mode in network.modes[1:]]
    given = Attached(network, x, (*network.terms(), *inputs))
    plan(given.terms, ("batch", "out"))  # timed calls reuse this path
    return given


def forward(given: Attached) -> Outcome:
    """Run network(x), layer by layer."""
    return Outcome(f"{len(given.network)} layers", given.network(given.x))


def contraction(given: Attached) -> Outcome:
    """Run the whole network as one contraction."""
    report = plan(given.terms, ("batch", "out"))
    work = f"{len(report.steps)} distinct pairwise contractions, {report.unshared_steps} before sharing"
    return Outcome(work, contract(given.terms, ("batch", "out")))


def same_outputs(given: Attached, found: Tensor) -> Checked:
    """Return the largest deviation from network(x), relative to its largest entry."""
    y = given.network(given.x)
    report = plan(given.terms, ("batch", "out"))
    note = f"plan: {report.flops:.2e} flops, {report.peak_elements:.2e} elements alive together"
    return Checked(float((y - found).abs().max() / y.abs().max()), note)


def checkpoints(width: int, outputs: int, count: int) -> list[BilinearNetwork]:
    """Return two-layer networks that interpolate between two random networks."""
    first, last = (random_network([width, width, outputs], width, seed).layers for seed in (0, 1))

    def between(t: float) -> BilinearNetwork:
        mixed = [
            BilinearLayer(
                down=torch.lerp(a.down, b.down, t),
                left=torch.lerp(a.left, b.left, t),
                right=torch.lerp(a.right, b.right, t),
            )
            for a, b in zip(first, last, strict=True)
        ]
        return BilinearNetwork(mixed)

    return [between(i / (count - 1)) for i in range(count)]


def all_pairs(networks: list[BilinearNetwork], *, kind: Tree | Symmetric | Gaussian) -> Outcome:
    """Compute the matrix of similarities of all pairs."""
    found = similarity(networks, kind=kind, progress=False)
    return Outcome(f"{len(networks) * (len(networks) + 1) // 2} products, {found.method}", found.to_tensor())


def first_to_last(networks: list[BilinearNetwork], found: Tensor) -> Checked:
    """Return the similarity of the first and the last network."""
    return Checked(float(found[0, -1]))
