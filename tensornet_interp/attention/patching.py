"""Ablation of heads and patching of paths between them: interventions that confirm what the weights say."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.parts import LinearMap, Part
from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.attention.writers import attention_of, head_writes
from tensornet_interp.checks import check_alike, check_batch, check_int, check_kind, check_list
from tensornet_interp.contraction import contract
from tensornet_interp.numerics import without_autocast


@without_autocast
def mean_ablated(network: SequenceNetwork, i: int, head: int, x: Tensor) -> SequenceNetwork:
    """Return the network in which one head of part i writes its mean over the samples and positions of x.

    x: ([batch,] position, in). Use it to confirm what weights say: the change of an output is the effect of the head.
    """
    check_kind("network", network, SequenceNetwork)
    i, head = _head("head", network, i, head)
    part, layer = network[i], attention_of(network[i], i)
    mean = _writes(network, i, head, x).flatten(0, -2).mean(0)
    down = layer.down.clone()
    down[int(layer.constant_out) :, head] = 0
    changed = dataclasses.replace(layer, down=down, history=(*layer.history, f"head {head} replaced by its mean"))
    bias = mean if part.bias is None else part.bias + mean
    return SequenceNetwork([*network.parts[:i], part._replace(map=changed, bias=bias), *network.parts[i + 1 :]])


@without_autocast
def path_patched(
    network: SequenceNetwork,
    writer: tuple[int, int],
    reader: tuple[int, int | None] | None,
    x: Tensor,
    other: Tensor | None = None,
    *,
    legs: Sequence[int] | None = None,
) -> Tensor:
    """Return the output for x if what one head writes is replaced only where one reader reads it.

    The change runs through the residuals alone: all parts between writer and reader see what they saw. The parts above
    the reader see what the reader then writes.
    writer: the numbers of an attention part and of its head. reader: those of an attention part above and of its head;
    the number of any part above and None, for all of it; or None for the output, which linear maps on top read first.
    x: ([batch,] position, in). other: inputs of the same shape, from which the head's new writes come; None for its
    mean over the samples and positions of x.
    legs: of an attention reader, the numbers of the legs that see the change, as in `leg_contributions`: 0 is the
    value, then come keys, then queries; None for all. Scales of norms and the softmax follow the change.
    Raises ValueError if the reader is not above the writer, or if a part between them has no residual.
    Cost: two forward passes. Source: Wang et al., 2023.
    """
    check_kind("network", network, SequenceNetwork)
    i, head = _head("writer", network, *_pair("writer", writer))
    j, reading = _reader(network, reader)
    if j <= i:
        raise ValueError(f"the reader must be above the writer, got part {j} and part {i}")
    frozen, streams = network.trace(x)
    writes = head_writes(frozen[i], attention_of(frozen[i], i), streams[i])[..., head, :]
    if other is None:
        change = writes.flatten(0, -2).mean(0) - writes
    else:
        check_alike(x=x, other=check_batch("other", other, "in"))
        if other.shape != x.shape:
            raise ValueError(f"other must have the shape of x, got {tuple(other.shape)} and {tuple(x.shape)}")
        change = _writes(network, i, head, other) - writes
    for between in range(i + 1, j):
        if not network[between].residual:
            raise ValueError(f"the reader sees nothing that part {i} writes: part {between} between has no residual")
        change = network[between].residual * change
    if reader is None:
        if legs is not None:
            raise ValueError("legs belong to attention, but the reader is the output")
        return _from(network, j, streams[j] + change)
    before, after = (_read(network[j], reading, streams[j], more, legs) for more in (torch.zeros_like(change), change))
    return _from(network, j + 1, streams[j + 1] + (after - before))


def _from(network: SequenceNetwork, i: int, x: Tensor) -> Tensor:
    """Return the output for inputs x of part i."""
    return SequenceNetwork(network.parts[i:])(x) if i < len(network) else x


def _writes(network: SequenceNetwork, i: int, head: int, x: Tensor) -> Tensor:
    """Return what a head writes for these inputs, (..., position, out)."""
    frozen, streams = SequenceNetwork(network.parts[: i + 1]).trace(x)
    return head_writes(frozen[i], attention_of(frozen[i], i), streams[i])[..., head, :]


def _read(part: Part, head: int | None, x: Tensor, change: Tensor, legs: Sequence[int] | None) -> Tensor:
    """Return what a part, or one of its heads, writes if its legs, or some of them, see a changed input."""
    if not isinstance(part.map, AttentionLayer):
        if legs is not None:
            raise ValueError(f"legs belong to attention, but the reader is a {type(part.map).__name__}")
        return SequenceNetwork([part._replace(residual=0.0)])(x + change)
    layer = part.map.drop_constant()
    if head is not None:
        down = torch.zeros_like(layer.down)
        down[:, head] = layer.down[:, head]
        layer = dataclasses.replace(layer, down=down)
    count = 1 + 2 * len(layer.queries)
    listed = range(count) if legs is None else check_list("legs", legs, "give at least one, such as 0")
    chosen = [check_int("legs", leg, 0, count - 1) for leg in listed]
    inputs = [x + change if leg in chosen else x for leg in range(count)]
    inputs = [h if part.norm is None else part.norm(h) for h in inputs]
    inputs = [pad(h, (1, 0), value=1.0) if layer.constant_in else h for h in inputs]
    fitted, _, batch = layer.batched(inputs[0])
    flat = tuple(h.reshape(-1, *h.shape[-2:]) for h in inputs)
    return fitted.evaluate(flat, contract).reshape(*batch, x.shape[-2], -1)


def _pair(name: str, value: object) -> tuple[object, object]:
    """Return the two items of a pair."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{name} must be (part, head), such as (0, 1), got {value!r}")
    return value


def _head(name: str, network: SequenceNetwork, i: object, head: object) -> tuple[int, int]:
    """Return the numbers of an attention part and of its head, after checks."""
    part = check_int("i" if name == "head" else f"the part of {name}", i, -len(network), len(network) - 1)
    part %= len(network)
    layer = attention_of(network[part], part)
    return part, check_int("head" if name == "head" else f"the head of {name}", head, 0, layer.heads - 1)


def _reader(network: SequenceNetwork, reader: object) -> tuple[int, int | None]:
    """Return the numbers of the part that reads and of its head; for the output, the first linear map on top."""
    if reader is None:
        top = len(network)
        while top and isinstance(network[top - 1].map, LinearMap):
            top -= 1
        return top, None
    part, head = _pair("reader", reader)
    if head is not None:
        return _head("reader", network, part, head)
    return check_int("the part of reader", part, -len(network), len(network) - 1) % len(network), None
