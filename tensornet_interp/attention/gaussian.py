"""Exact moments of one attention layer with product scores, for Gaussian inputs over positions."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.parts import Part
from tensornet_interp.attention.sequence import SequenceNetwork
from tensornet_interp.attention.wick import Piece, Source, Tables, Vector, Wick
from tensornet_interp.checks import check_kind, check_size
from tensornet_interp.moments import Moments

_BATCH = 256  # pairs of (head, position, source) whose beads are held at once


def output_moments(part: Part | AttentionLayer, moments: Moments) -> Moments:
    """Return the exact moments of the outputs at all positions, for Gaussian inputs: mean and covariance.

    y_s = residual x_s + A(x)_s + bias

    part: a polynomial attention layer, alone or as a part without norm. moments: of all positions, flattened: mean
    (position * in,) and covariance (position * in, position * in); the first positions of the layer are used. The
    result is flattened alike, (position * out,).
    Cost in flops for two scores: about 530 size^3 per pair of heads and pair of (position, source), for all pairs of
    positions. Memory: the result, and the covariances of all features, (positions * heads * (channel + 2 size per
    score))^2 numbers.
    Raises ValueError for softmax, for norms, and if sizes do not match.
    """
    own, layer, positions = _checked("part", part, moments)
    tables = _tables([own, own], moments, positions)
    mean = _mean(own, layer, tables, 0, positions)
    second = _second((own, own), tables, positions, diagonal=False).permute(0, 2, 1, 3)
    size = mean.numel()
    without_bias = (mean if own.bias is None else mean - own.bias).flatten()
    covariance = second.reshape(size, size) - torch.outer(without_bias, without_bias)
    return Moments(mean.flatten(), (covariance + covariance.T) / 2, note="of outputs, exact for Gaussian inputs")


def position_inner(a: Part | AttentionLayer, b: Part | AttentionLayer, moments: Moments) -> Tensor:
    """Return E[y_s . y'_s] of two attention parts at every position s, exactly, for Gaussian inputs: (position,).

    The cosine of two one-layer models is the sum over positions, divided by the root of the product of those of each
    model with itself. Arguments, errors and cost are those of `output_moments`, but each position is paired only with
    itself. Raises ValueError if the layers differ in positions or outputs.
    """
    ours, our_layer, positions = _checked("a", a, moments)
    theirs, their_layer, others = _checked("b", b, moments)
    check_size("position", a=positions, b=others)
    check_size("out", a=_outputs(our_layer), b=_outputs(their_layer))
    tables = _tables([ours, theirs], moments, positions)
    blocks = _second((ours, theirs), tables, positions, diagonal=True)
    result = blocks.diagonal(dim1=0, dim2=1).diagonal(dim1=0, dim2=1).sum(-1)
    biases = [part.bias for part in (ours, theirs)]
    if biases[0] is None and biases[1] is None:
        return result
    means = [
        _mean(p, layer, tables, i, positions) for i, (p, layer) in enumerate(((ours, our_layer), (theirs, their_layer)))
    ]
    # the biases, which `blocks` leaves out: E[(y + c) . (y' + c')] = E[y . y'] + E[y + c] . c' + c . E[y']
    if biases[1] is not None:
        result = result + means[0] @ biases[1]
        means[1] = means[1] - biases[1]
    return result if biases[0] is None else result + means[1] @ biases[0]


def update_share(part: Part | AttentionLayer, moments: Moments) -> float:
    """Return E|A(x)|^2 / E|x|^2, the share of the update of attention in its input, for Gaussian inputs.

    A closure that takes the outputs of a layer as Gaussian again is good if this share is small: above 0.02, cosines of
    deeper models can be off by more than 0.001.
    """
    _, layer, _ = _checked("part", part, moments)
    update = position_inner(layer, layer, moments).sum()
    return float(update / (moments.covariance.trace() + moments.mean.square().sum()))


def _outputs(layer: AttentionLayer) -> int:
    return len(layer.down) - layer.constant_out


def _checked(name: str, part: Part | AttentionLayer, moments: Moments) -> tuple[Part, AttentionLayer, int]:
    """Return the part, its layer and the number of positions of the moments."""
    given = SequenceNetwork([part])[0]
    layer = check_kind(f"the map of {name}", given.map, AttentionLayer)
    check_kind("moments", moments, Moments)
    if layer.softmax:
        raise ValueError(f"{name} has softmax, whose moments are no polynomials; layer.given(pattern) has moments")
    if given.norm is not None:
        raise ValueError(f"{name} has a norm, which is no polynomial; absorb fixed scales into the weights")
    if layer.mask.ndim == 4:
        raise ValueError(f"{name} has one mask per sample; its moments need one mask for all")
    size = layer.value.shape[2] - layer.constant_in
    positions, rest = divmod(len(moments.mean), size)
    if rest or not 0 < positions <= layer.positions:
        raise ValueError(
            f"moments must be those of 1 to {layer.positions} positions of {size} inputs, flattened, got"
            f" {len(moments.mean)} inputs"
        )
    return given, layer, positions


def _source(layer: AttentionLayer, positions: int, *, lifted: bool) -> Source:
    """Return the features of a layer for inputs that have the constant in front if `lifted`."""
    layer = layer.up_to(positions).to(dtype=torch.float64)
    repeats = layer.heads // layer.shared_heads
    maps, parts, start = [], {}, 0
    named = {"value": layer.value}
    for i, (query, key) in enumerate(zip(layer.queries, layer.keys, strict=True)):
        named |= {f"query{i}": query, f"key{i}": key}
    for name, array in named.items():
        array = array.repeat_interleave(layer.heads // len(array), 0) if repeats > 1 else array
        turned = array.expand(positions, -1, -1, -1)
        if layer.rotation is not None and name != "value":
            turned = torch.einsum("sprc,hcpi->shrpi", layer.rotation, array.unflatten(1, (2, -1))).flatten(2, 3)
        maps.append(turned)
        parts[name] = slice(start, start + array.shape[1])
        start += array.shape[1]
    every = torch.cat(maps, 2)
    return Source(pad(every, (1, 0)) if lifted and not layer.constant_in else every, parts)


def _tables(parts: list[Part], moments: Moments, positions: int) -> Tables:
    """Return the tables of the attention layers of parts, then of the inputs themselves, as a last source."""
    mean = moments.mean.reshape(positions, -1)
    size = mean.shape[1]
    covariance = moments.covariance.reshape(positions, size, positions, size)
    layers = [check_kind("the map", part.map, AttentionLayer) for part in parts]
    lifted = any(layer.constant_in for layer in layers)
    eye = torch.eye(size, dtype=torch.float64, device=mean.device).expand(positions, 1, -1, -1)
    inputs = Source(pad(eye, (1, 0)) if lifted else eye, {"input": slice(0, size)})
    if lifted:
        mean, covariance = pad(mean, (1, 0), value=1.0), pad(covariance, (1, 0, 0, 0, 1, 0))
    sources = [_source(layer, positions, lifted=lifted) for layer in layers]
    return Tables([*sources, inputs], mean, covariance)


def _terms(layer: AttentionLayer, positions: int) -> tuple[Tensor, Tensor]:
    """Return head, position and source of every entry of the mask that is not 0, (term, 3), and its value, (term,)."""
    mask = layer.up_to(positions).mask.to(torch.float64).expand(layer.heads, -1, -1)
    places = mask.nonzero()
    return places, mask[tuple(places.T)]


def _of_head(source: int, scores: int, at: Tensor) -> tuple[list[Vector], Vector]:
    """Return the beads and the value of a batch of terms (batch, 3)."""
    head, position, place = at.T
    beads: list[Vector] = [
        (Piece(source, f"query{i}", position, head), Piece(source, f"key{i}", place, head)) for i in range(scores)
    ]
    return beads, (Piece(source, "value", place, head),)


def _mean(part: Part, layer: AttentionLayer, tables: Tables, source: int, positions: int) -> Tensor:
    """Return E[y], (position, out)."""
    places, weights = _terms(layer, positions)
    down = layer.down.to(torch.float64)[int(layer.constant_out) :]
    result = tables.inputs.new_zeros(positions, len(down))
    for rows, weight in zip(places.split(_BATCH), weights.split(_BATCH), strict=True):
        beads, value = _of_head(source, len(layer.queries), rows)
        found = Wick(beads, tables).with_one(value) * weight[:, None]
        result.index_add_(0, rows[:, 1], torch.einsum("bc,obc->bo", found, down[:, rows[:, 0]]))
    if part.bias is not None:
        result = result + part.bias
    if part.residual:
        result = result + part.residual * tables.means[-1][:, 0]
    return result


def _second(parts: tuple[Part, Part], tables: Tables, positions: int, *, diagonal: bool) -> Tensor:
    """Return E[y_s y'_t^T] of two parts without biases, (position, position, out, out); only s = t if `diagonal`."""
    layers = [check_kind("the map", part.map, AttentionLayer) for part in parts]
    downs = [layer.down.to(torch.float64)[int(layer.constant_out) :] for layer in layers]
    terms = [_terms(layer, positions) for layer in layers]
    shape = (positions, positions, len(downs[0]), len(downs[1]))
    result = tables.inputs.new_zeros(shape).flatten(0, 1)
    # attention with attention
    (ours, our_weights), (theirs, their_weights) = terms
    pairs = (ours[:, None, 1] == theirs[None, :, 1]).nonzero() if diagonal else _all_pairs(ours, theirs)
    symmetric = parts[0].map is parts[1].map
    if symmetric:  # half of the pairs suffice, and those of two terms count twice
        pairs = pairs[pairs[:, 0] <= pairs[:, 1]]
    for batch in pairs.split(_BATCH):
        a, b = ours[batch[:, 0]], theirs[batch[:, 1]]
        (beads, v), (others, w) = _of_head(0, len(layers[0].queries), a), _of_head(1, len(layers[1].queries), b)
        found = Wick(beads + others, tables).with_two(v, w)
        weight = our_weights[batch[:, 0]] * their_weights[batch[:, 1]]
        weight = weight * (1 + (batch[:, 0] < batch[:, 1])) if symmetric else weight
        half = torch.einsum("obc,bcd,b->bod", downs[0][:, a[:, 0]], found, weight)
        result.index_add_(0, a[:, 1] * positions + b[:, 1], torch.einsum("bod,pbd->bop", half, downs[1][:, b[:, 0]]))
    if symmetric:
        square = result.reshape(shape)
        result = ((square + square.permute(1, 0, 3, 2)) / 2).flatten(0, 1)
    # attention with the residual of the other part, which reads one position
    for own in (0, 1):
        other = parts[1 - own]
        if not other.residual:
            continue
        places, weights = terms[own]
        everywhere = torch.arange(positions, device=places.device)
        choices = torch.cartesian_prod(torch.arange(len(places), device=places.device), everywhere)
        if diagonal:
            choices = choices[places[choices[:, 0], 1] == choices[:, 1]]
        for batch in choices.split(_BATCH):
            a, at = places[batch[:, 0]], batch[:, 1]
            beads, v = _of_head(own, len(layers[own].queries), a)
            found = Wick(beads, tables).with_two(v, (Piece(2, "input", at, torch.zeros_like(at)),))
            scale = other.residual * weights[batch[:, 0]]
            block = torch.einsum("obc,bci,b->boi", downs[own][:, a[:, 0]], found, scale)
            place = a[:, 1] * positions + at if own == 0 else at * positions + a[:, 1]
            result.index_add_(0, place, block if own == 0 else block.mT)
    full = result.reshape(shape)
    if parts[0].residual and parts[1].residual:
        inputs = tables.inputs[:, -downs[0].shape[0] :]
        size = inputs.shape[1]
        spread = tables.spread[:, -size:, :, -size:].permute(0, 2, 1, 3)
        product = spread + torch.einsum("si,tj->stij", inputs, inputs)
        full = full + parts[0].residual * parts[1].residual * product
    return full


def _all_pairs(a: Tensor, b: Tensor) -> Tensor:
    rows = (torch.arange(len(side), device=side.device) for side in (a, b))
    return torch.cartesian_prod(*rows)
