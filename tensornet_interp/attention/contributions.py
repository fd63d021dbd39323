"""Contributions to an output along a direction: by writer, by path of value legs, and by the legs of a polynomial."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.parts import LinearMap, Part
from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.attention.writers import (
    adjoint,
    attention_of,
    head_writes,
    pair_of_parts,
    writer_vectors,
)
from tensornet_interp.checks import (
    DEFAULT_MAX_ELEMENTS,
    check_alike,
    check_batch,
    check_int,
    check_kind,
    check_list,
    check_notes,
    check_size,
    check_tensor,
)
from tensornet_interp.contraction import Term, contract
from tensornet_interp.numerics import without_autocast
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record


@register_type("Contributions")
@dataclass(frozen=True, eq=False)
class Contributions:
    """Contributions are parts of an output along a direction, which sum to it exactly.

    names: one per part, such as "part 1 head 0", "input" or "constant". values: (..., position, contribution).
    """

    names: tuple[str, ...]
    values: Tensor

    def __post_init__(self) -> None:
        check_batch("values", self.values, "contribution", finite=False)
        object.__setattr__(self, "names", check_notes("names", self.names))
        check_size("contribution", values=self.values.shape[-1], names=len(self.names))

    def records(self) -> list[Record]:
        """Return one record per contribution: its name, its mean over samples and positions, its root mean square."""
        flat = self.values.detach().flatten(0, -2)
        columns = zip(self.names, flat.mean(0).tolist(), flat.square().mean(0).sqrt().tolist(), strict=True)
        return [{"contribution": name, "mean": mean, "root_mean_square": size} for name, mean, size in columns]


@without_autocast
def write_contributions(network: SequenceNetwork, x: Tensor, direction: Tensor) -> Contributions:
    """Return what every head and every other map writes along an output direction, at the patterns and norms of x.

    direction . y_s = sum over writers of write_s . u_s, u: the direction, pulled back through the residuals above

    Linear maps on top, such as a norm and a head, pull the direction back. Writers are "input" (what is left of x),
    "part i head h", "part i" for other maps, and "constant" (the biases of parts and of maps on top). x: ([batch,]
    position, in). direction: (out,). Cost: that of a forward pass.
    """
    frozen, streams, u, constant, top = _pulled(network, x, direction)
    names, values = ["constant"], [constant]
    for i in reversed(range(top)):
        part, stream = frozen[i], streams[i]
        if part.bias is not None:
            values[0] = values[0] + u @ part.bias
        if isinstance(part.map, AttentionLayer):
            writes = torch.einsum("...sho,...so->...hs", head_writes(part, part.map, stream), u)
            found = [(f"part {i} head {head}", writes[..., head, :]) for head in range(part.map.heads)]
        else:
            alone = SequenceNetwork([Part(part.map, 0.0, part.norm)])
            found = [(f"part {i}", (alone(stream) * u).sum(-1))]
        for name, value in reversed(found):
            names.append(name)
            values.append(value)
        if not part.residual:
            u = torch.zeros_like(streams[i])
        u = part.residual * u
    names.append("input")
    values.append((streams[0] * u).sum(-1))
    return Contributions(tuple(reversed(names)), torch.stack(values[::-1], -1))


def _pulled(
    network: SequenceNetwork, x: Tensor, direction: Tensor
) -> tuple[SequenceNetwork, tuple[Tensor, ...], Tensor, Tensor, int]:
    """Return the frozen network, its streams, the direction below the linear maps on top, their constant, their place.

    The direction is (..., position, size of the stream); the constant is (..., position).
    """
    check_kind("network", network, SequenceNetwork)
    check_tensor("direction", direction, ("out",))
    frozen, streams = network.trace(x)
    check_size("out", network=streams[-1].shape[-1], direction=len(direction))
    check_alike(x=x, direction=direction)
    u, top = direction.expand_as(streams[-1]), len(frozen)
    constant = torch.zeros_like(streams[-1][..., 0])
    while top > 1 and isinstance(head := frozen[top - 1].map, LinearMap):
        part = frozen[top - 1]
        read = u @ head.weight
        of_norm = None if part.norm is None else part.norm.bias
        for bias, vectors in ((part.bias, u), (head.bias, u), (of_norm, read)):
            constant = constant if bias is None else constant + vectors @ bias
        below = adjoint(part.norm, read)
        u = below + part.residual * u if part.residual else below
        top -= 1
    return frozen, streams, u, constant, top


@without_autocast
def path_contributions(
    network: SequenceNetwork, x: Tensor, direction: Tensor, *, max_paths: int = 10_000
) -> Contributions:
    """Return what every chain of value legs through an attention-only stack adds to the output along a direction.

    At given patterns, each attention part is a sum of its heads and its residual; a path chooses one in every part.
    A path is named by its heads, such as "part 1 head 0, part 2 head 3"; the one of all residuals is "input", and
    "constant" is what biases add along all paths. x: ([batch,] position, in). direction: (out,). Linear maps at the
    bottom and on top belong to every path.

    The number of paths is (heads + 1)^layers. Memory: paths times the streams of the top part.
    Raises ValueError if it is above `max_paths`, or if the stack has a map that is neither attention nor linear.
    """
    limit = check_int("max_paths", max_paths, 1)
    check_kind("network", network, SequenceNetwork)
    kinds = [type(part.map) for part in network]
    layers = [i for i, kind in enumerate(kinds) if issubclass(kind, AttentionLayer)]
    first = layers[0] if layers else len(kinds)
    last = layers[-1] if layers else first - 1
    inside = [i for i in range(first, last + 1) if i not in layers]
    outside = [i for i in (*range(first), *range(last + 1, len(kinds))) if not issubclass(kinds[i], LinearMap)]
    if inside or outside:
        i = (inside + outside)[0]
        raise ValueError(
            f"paths run through attention alone, with linear maps below and above, but part {i} of the network is a"
            f" {kinds[i].__name__}; write_contributions takes any stack"
        )
    count = 1
    for i in layers:
        count *= attention_of(network[i], i).heads + bool(network[i].residual)
    if count > limit:
        raise ValueError(f"the network has {count} paths, more than max_paths={limit}")
    frozen, streams, u, constant, _ = _pulled(network, x, direction)
    paths, vectors = [""], streams[first][..., None, :, :]  # (..., path, position, in)
    added = torch.zeros_like(streams[first])
    for i in layers:
        part, layer = frozen[i], attention_of(frozen[i], i)
        written = torch.stack([head_writes(part, layer, v, constant=False) for v in vectors.unbind(-3)], -4)
        pieces = list(written.unbind(-2))  # of every head, (..., path, position, out)
        named = [[f"{path}, part {i} head {head}" for path in paths] for head in range(layer.heads)]
        both = head_writes(part, layer, added).sum(-2)
        both = both if part.bias is None else both + part.bias
        if part.residual:
            pieces, named = [part.residual * vectors, *pieces], [paths, *named]
            both = both + part.residual * added
        vectors, paths, added = torch.cat(pieces, -3), [path for group in named for path in group], both
    values = torch.einsum("...psi,...si->...sp", vectors, u)
    rest = constant + (added * u).sum(-1)
    names = [path.removeprefix(", ") or "input" for path in paths]
    return Contributions((*names, "constant"), torch.cat([values, rest[..., None]], -1))


@without_autocast
def leg_contributions(
    network: SequenceNetwork,
    i: int,
    x: Tensor,
    direction: Tensor,
    legs: Sequence[int],
    *,
    max_elements: float = DEFAULT_MAX_ELEMENTS,
) -> Tensor:
    """Return what the heads of attention part i write along a direction, by what the part below gave to their legs.

    legs: numbers of input modes, as in `AttentionLayer.modes`: 0 is the value, then come keys, then queries. The result
    is (batch, position, head, writer of legs[0], writer of legs[1], ...); writers are the heads of part i - 1, its
    residual, its bias and the constant. Its sum over all writers is the write of each head.
    x: (batch, position, in), the input of part i - 1; see `SequenceNetwork.streams`. direction: (out,), without the
    constant coordinate. With norms, exact at the scales of x. For softmax, the pattern is given: only leg 0 is linear.
    Raises ValueError if part i or the part below is no attention layer, and if more than `max_elements` elements would
    be in memory at once.
    """
    below, _, above = pair_of_parts(network, i)
    layer = attention_of(above, i)
    check_tensor("x", x, ("batch", "position", "in"))
    check_tensor("direction", direction, ("out",))
    skip = int(layer.constant_out)
    check_size("out", layer=len(layer.down) - skip, direction=len(direction))
    check_alike(x=x, direction=direction)
    fixed_below, fixed = SequenceNetwork([below, above]).given(x)
    vectors = writer_vectors(fixed_below, fixed, x)  # (batch, position, writer, in)
    layer = (attention_of(fixed, i) if layer.softmax else layer).up_to(x.shape[1])
    count = len(layer.queries)
    chosen = [check_int("legs", leg, 0, 2 * count) for leg in check_list("legs", legs, "give at least one, such as 0")]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"legs names a leg twice: {tuple(legs)}")
    terms = list(layer.terms())
    for leg in range(1 + 2 * count):
        place = "source" if leg <= count else "position"
        if leg in chosen:
            terms.append(Term(vectors, ("batch", place, f"writer{leg}", f"in{leg + 1}")))
        else:
            terms.append(Term(vectors.sum(2), ("batch", place, f"in{leg + 1}")))
    terms.append(Term(pad(direction, (skip, 0)), ("out",)))
    heads = ("head",) if layer.shared_heads == layer.heads else ("group", "head")
    modes = ("batch", "position", *heads, *(f"writer{leg}" for leg in chosen))
    found = contract(terms, modes, max_elements=max_elements)
    return found.flatten(2, 1 + len(heads)) if len(heads) > 1 else found
