"""Search for the components that produce one output of a network, from the top layer down."""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.balance import balance, rescale, times_power
from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_alike,
    check_bool,
    check_int,
    check_number,
    check_size,
    check_tensor,
    check_text,
)
from tensornet_interp.circuits.tree import Circuit, Level, carry_up
from tensornet_interp.decompositions.compress import Compressed, compress
from tensornet_interp.float64 import needs_float64
from tensornet_interp.formats import owned
from tensornet_interp.layer import BilinearLayer, TensorNetwork
from tensornet_interp.moments import cross_gram
from tensornet_interp.network import as_network
from tensornet_interp.numerics import EPS

_CHUNK_ELEMENTS = 2**22  # entries of a batch of matrices, or of coordinates, that are worked on together (32 MB)


@needs_float64
@torch.no_grad()
def circuit(
    network: TensorNetwork,
    direction: Tensor,
    *,
    widths: int | Sequence[int] | None,
    beam: int | None = None,
    x: Tensor | None = None,
    name: str = "",
    max_elements: float = DEFAULT_MAX_ELEMENTS,
    progress: bool = True,
) -> Circuit:
    """Return the components of every layer that produce the output along a direction, as a tree.

    direction . B_L(z, z) = sum_i eigenvalue_i (v_i . z)^2, where z is the output of the layer below

    Each v_i is then an output direction of the layer below, and so on down to the inputs.
    direction: (out,), for example one entry per class; the v_i are eigenvectors of its interaction matrix in the last
    layer.
    widths: how many components to keep per parent: one number for all layers, or one per layer (bottom first, as the
    parts). None keeps all min(in, 2 * hidden), where hidden is the layer's rank. Eigenvalues that are zero up to
    rounding are dropped.
    beam: how many components to keep per level in total. A component without kept children is dropped.
    x: inputs (..., in), without constant coordinate, for the ranking. With x, the score of a component is exactly
    ||change of the output if the component is removed|| / ||output||, with norms over the inputs. Without x, the score
    is an upper bound on this ratio in the norm of the network's tensor (kind "tree", in which the constant coordinate
    counts like any other).
    name: the name of the direction, for titles.

    Raises ValueError if the output is zero or overflows, or if a level needs more than `max_elements` numbers.
    Cost: splitting one component through a layer takes 2 * r^2 * hidden + 9 * r^3 flops. Here r is the numerical rank
    of [left, right], at most min(in, 2 * hidden), and at most the width of an absorbed embedding. Memory: (in +
    samples) * components. The computation uses float64; the result has the network's dtype.

    Example:
    >>> layer = BilinearLayer.from_weights(left=torch.eye(2), right=torch.eye(2), down=torch.tensor([[1.0, -3.0]]))
    >>> circuit(layer, torch.ones(1), widths=None).levels[0].eigenvalues
    tensor([-3.,  1.])
    """
    network = as_network(network)
    check_text("name", name, empty=True)
    check_bool("progress", progress)
    like = network.layers[-1].down
    check_tensor("direction", direction, ("out",))
    check_size("out", network=like.shape[0], direction=len(direction))
    check_alike(network=like, direction=direction)
    layers = network.to(dtype=torch.float64).layers
    kept = _check_widths(widths, layers)
    if beam is not None:
        check_int("beam", beam, 1)
    check_number("max_elements", max_elements, 1)
    sizes = _level_sizes(kept, beam)
    needed = max(size * layer.shape[1] for size, layer in zip(sizes, layers, strict=True))
    if needed > max_elements:
        raise ValueError(
            f"the tree can have {' + '.join(f'{size:.3g}' for size in reversed(sizes))} components, {needed:.1e}"
            f" elements in a level, more than max_elements={max_elements:.0e}; give smaller widths, or a beam"
        )
    inputs = None if x is None else network[0].lift_input("x", x).reshape(-1, layers[0].shape[1])
    ruler = _Ruler(layers, inputs)
    unit, of_direction = rescale(direction)
    values = [ruler.coordinates(len(layers), unit[None])]  # (sample, 1)
    total = values[0].norm()
    if not total > 0:
        raise ValueError("there is nothing to take apart: the output along this direction is zero")
    levels: list[Level] = []
    directions = unit[None]
    for number in reversed(range(len(layers))):
        compressed = compress(ruler.layers[number])
        level = _expand(number, compressed, directions, levels, values[1:], ruler, kept[number], beam, progress)
        levels.append(level)
        values.append(ruler.coordinates(number, level.vectors))
        directions = level.vectors
    exponents = [ruler.exponents[level.layer] for level in levels]
    exponents[0] += of_direction
    made = []
    for level, exponent in zip(_prune(levels), exponents, strict=True):
        level = replace(level, eigenvalues=times_power(level.eigenvalues, exponent), scores=level.scores / total)
        made.append(level.to(like.dtype))
        if not bool(torch.isfinite(made[-1].eigenvalues).all()):
            raise ValueError(f"the eigenvalues of layer {level.layer} overflow {like.dtype}: scale the weights down")
    return Circuit(network, owned(direction), tuple(made), ruler.name, name)


class _Ruler:
    """A ruler measures coordinates v . z on inputs (sample, in), or without inputs the norms of v . z as tensors.

    It works on a rescaled network, in which layer l is divided by 2^exponents[l] and the inputs by another power of
    two, so that all coordinates are near 1. Scores are ratios and do not depend on this.
    """

    def __init__(self, layers: Sequence[BilinearLayer], x: Tensor | None) -> None:
        self.bound = x is None
        self.layers: list[BilinearLayer] = []
        self.exponents: list[int] = []
        like = layers[0].left
        array = torch.eye(len(like), dtype=like.dtype, device=like.device) if x is None else rescale(x)[0]
        self.arrays, self.samples = [array], 1 if x is None else len(x)
        self.name = (
            "bound on the change of the output's tensor without it"
            if x is None
            else f"change of the output without it, rms over {len(x)} inputs"
        )
        for layer in layers:
            (core,), exponent = balance(layer)
            if x is None:
                gram = core.down @ cross_gram(core, core, array) @ core.down.T
                own = rescale(gram)[1] // 2
                array = times_power(gram, -2 * own)
            else:
                array = core.multilinear(array)
                own = rescale(array)[1]
                array = times_power(array, -own)
            self.arrays.append(array)
            self.layers.append(replace(core, down=times_power(core.down, -own)))
            self.exponents.append(exponent + own)

    def compress(self, number: int, basis: Tensor | None) -> "_Ruler":
        """Return the ruler for vectors in the coordinates of a basis (in, r) of the input of layer `number`."""
        ruler = copy(self)
        if basis is not None:
            array = self.arrays[number] @ basis
            ruler.arrays = [*self.arrays]
            ruler.arrays[number] = basis.T @ array if self.bound else array
        return ruler

    def coordinates(self, number: int, vectors: Tensor) -> Tensor:
        """Return v . z, (sample, component), for the input z of layer `number`, or the norm of the tensor v . z."""
        if self.bound:
            return ((vectors @ self.arrays[number]) * vectors).sum(-1).clamp_min(0).sqrt()[None]
        return self.arrays[number] @ vectors.T


def _expand(
    number: int,
    layer: Compressed,
    directions: Tensor,
    above: Sequence[Level],
    values: Sequence[Tensor],
    ruler: _Ruler,
    width: int,
    beam: int | None,
    progress: bool,
) -> Level:
    """Return the kept components of the interaction matrices of all directions (parent, out), best first."""
    size = layer.core.shape[1]
    ruler = ruler.compress(number, layer.basis)
    chunk = max(1, _CHUNK_ELEMENTS // (size * max(size, ruler.samples)))
    starts = range(0, len(directions), chunk)
    found: list[tuple[Tensor, ...]] = []
    for start in tqdm(starts, desc=f"layer {number}", unit="chunk", delay=2, leave=False, disable=not progress):
        rows = directions[start : start + chunk]
        eigenvalues, columns = torch.linalg.eigh(layer.core.interaction_matrix(layer.scale * rows))
        vectors = columns.mT  # (row, eigenvector, size)
        parents = torch.arange(start, start + len(rows), device=rows.device).repeat_interleave(size)
        magnitude = eigenvalues.abs()
        nonzero = magnitude > size * EPS * magnitude.amax(1, keepdim=True)
        coordinate = ruler.coordinates(number, vectors.flatten(0, 1))  # (sample, row * size)
        # A bound assumes the worst case, in which all changes have the same sign and add up.
        signed = -magnitude if ruler.bound else eigenvalues
        change = carry_up(signed.flatten() * coordinate.square(), parents, above, values, ruler.bound)
        scores = change.norm(dim=0).unflatten(0, (len(rows), size)).masked_fill(~nonzero, -1)
        best = scores.topk(min(width, size), dim=1).indices  # (row, width)
        best = (best + size * torch.arange(len(rows), device=rows.device)[:, None]).flatten()
        best = best[scores.flatten()[best] >= 0]
        best = best[_best(scores.flatten()[best], beam)]
        chosen = layer.expand(vectors.flatten(0, 1)[best].T).T  # (component, in)
        found.append((parents[best], eigenvalues.flatten()[best], chosen, scores.flatten()[best]))
    parents, eigenvalues, vectors, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = _best(scores, beam)
    vectors = vectors[order]
    sign = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()  # the largest entry is positive
    return Level(number, parents[order], eigenvalues[order], vectors * sign, scores[order])


def _best(scores: Tensor, beam: int | None) -> Tensor:
    """Return the places of the `beam` highest scores, best first."""
    return scores.argsort(descending=True, stable=True)[:beam]


def _prune(levels: Sequence[Level]) -> list[Level]:
    """Return the levels without the components that have no children, because these add nothing to the output."""
    kept = [levels[-1]]
    for level in reversed(levels[:-1]):
        used, parents = kept[-1].parents.unique(return_inverse=True)  # ascending, so the order stays
        kept[-1] = replace(kept[-1], parents=parents)
        kept.append(
            Level(level.layer, level.parents[used], level.eigenvalues[used], level.vectors[used], level.scores[used])
        )
    return kept[::-1]


def _check_widths(widths: int | Sequence[int] | None, layers: Sequence[BilinearLayer]) -> list[int]:
    """Return the number of components per parent for every layer, bottom first."""
    full = [min(layer.shape[1], 2 * layer.rank) for layer in layers]
    if widths is None:
        return full
    given = list(widths) if isinstance(widths, Sequence) else [widths] * len(layers)
    if len(given) != len(layers):
        raise ValueError(f"widths must be one number or one per layer, got {len(given)} for {len(layers)} layers")
    return [
        check_int(
            f"width of layer {i}",
            width,
            1,
            most,
            f"min(in={layer.shape[1]}, 2 hidden={2 * layer.rank}); None keeps all",
        )
        for i, (width, most, layer) in enumerate(zip(given, full, layers, strict=True))
    ]


def _level_sizes(widths: Sequence[int], beam: int | None) -> list[int]:
    """Return the largest number of components that each level can have, bottom first."""
    sizes = [1]
    for width in reversed(widths):
        sizes.append(min(sizes[-1] * width, beam or sizes[-1] * width))
    return sizes[:0:-1]
