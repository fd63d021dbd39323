"""Exact Gaussian moments of one polynomial attention layer: its mean, its expected slope, and covariances of two."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.wick import Piece, Source, Stream, Tables, Vector, Wick

_STEP = 2**17  # numbers in one batch of the matrices of a pair of beads, which fit the cache of a core


def needed_elements(a: AttentionLayer, b: AttentionLayer, positions: int) -> int:
    """Return how many numbers the covariances of the features of two layers have."""
    sizes = [
        positions * layer.heads * (layer.value.shape[1] + 2 * sum(query.shape[1] for query in layer.queries))
        for layer in (a, b)
    ]
    return sizes[0] * sizes[1] + sizes[0] ** 2 // a.heads + sizes[1] ** 2 // b.heads


def first_moments(layer: AttentionLayer, stream: Stream) -> tuple[Tensor, Tensor]:
    """Return E[A_s], (position, out), and the expected slope E[dA_s / dx_t], (position, out, position, in).

    The slope gives the covariance of A with any vector that is Gaussian together with the inputs (Stein's lemma).
    """
    positions = len(stream.mean)
    source = _source(layer, stream)
    tables, down = Tables([source]), _down(layer)
    size, channels = source.maps.shape[3], layer.down.shape[2]
    mean = down.new_zeros(positions, len(down))
    slopes = down.new_zeros(layer.heads * positions**2, channels, size)  # of the values of each head, by s and t
    places, weights = _terms(layer, positions)
    step = _batch(layer)
    for rows, weight in zip(places.split(step), weights.split(step), strict=True):
        beads, v = _of_head(0, len(layer.queries), rows)
        wick, at = Wick(beads, tables), rows[:, 1]
        values = torch.einsum("bc,obc,b->bo", wick.with_one(v), down[:, rows[:, 0]], weight)
        mean = mean.index_add(0, at, values)
        by_value, *by_beads = wick.slopes(v)
        found = [(v[0], by_value[:, None, None] * torch.eye(channels, dtype=down.dtype, device=down.device))]
        for bead, slope in zip(beads, by_beads, strict=True):
            found += zip(bead, slope.chunk(2, 2), strict=True)
        for piece, slope in found:
            read = source.maps[piece.position, piece.head][:, source.parts[piece.part]]
            place = (piece.head * positions + at) * positions + piece.position
            slopes = slopes.index_add(0, place, weight[:, None, None] * slope @ read)
    slopes = slopes.unflatten(0, (layer.heads, positions, positions))
    slope = torch.einsum("ohc,hstci->soti", down, slopes)
    return mean, slope[..., 1:] if layer.constant_in else slope


def covariance(
    a: AttentionLayer,
    b: AttentionLayer,
    streams: tuple[Stream, Stream],
    between: Tensor,
    means: tuple[Tensor, Tensor],
    *,
    diagonal: bool,
    progress: bool = False,
) -> Tensor:
    """Return Cov(A_s, A'_t) of two layers that read two streams, (position, out, position, out').

    between: the covariance of the streams. means: those of A and A'. diagonal: only s = t; the rest is zero.
    """
    positions, same = len(streams[0].mean), a is b and streams[0] is streams[1]
    if b.constant_in:
        between = pad(between, (1, 0))
    if a.constant_in:
        between = pad(between, (0, 0, 0, 0, 1, 0))
    tables = Tables([_source(a, streams[0]), _source(b, streams[1])], between)
    downs, terms = (_down(a), _down(b)), (_terms(a, positions), _terms(b, positions))
    result = downs[0].new_zeros(positions, positions, len(downs[0]), len(downs[1]))
    pairs = [(s, t) for s in range(positions) for t in range(s if same else 0, positions) if s == t or not diagonal]
    step = min(_batch(a), _batch(b))
    for s, t in tqdm(pairs, desc="pairs of positions", leave=False, delay=2, disable=not progress):
        blocks = []
        for (ours, first), (theirs, second) in _pairs(*terms, s, t, step, half=same and s == t):
            (beads, v), (others, w) = _of_head(0, len(a.queries), ours), _of_head(1, len(b.queries), theirs)
            found = Wick(beads + others, tables).with_two(v, w) * (first * second)[:, None, None]
            written = downs[0][:, ours[:, 0]].permute(1, 0, 2) @ found
            blocks.append(torch.einsum("bod,pbd->op", written, downs[1][:, theirs[:, 0]]))
        if blocks:
            block = torch.stack(blocks).sum(0)
            block = (block + block.T) / 2 if same and s == t else block
            result[s, t] = block = block - torch.outer(means[0][s], means[1][t])
            if same and s < t:
                result[t, s] = block.T
    return result.permute(0, 2, 1, 3)


Weighed = tuple[Tensor, Tensor]  # head, position and source of terms, (term, 3), and their masks, (term,)


def _pairs(a: Weighed, b: Weighed, s: int, t: int, step: int, *, half: bool) -> Iterator[tuple[Weighed, Weighed]]:
    """Yield batches of all pairs of a term at position s and one at t.

    half: whether a pair of the same two terms comes once, with twice its weight, because the sum is symmetric.
    """
    ours, theirs = ((places[places[:, 1] == at], mask[places[:, 1] == at]) for (places, mask), at in ((a, s), (b, t)))
    count = len(theirs[1])
    for batch in torch.arange(len(ours[1]) * count, device=ours[1].device).split(step):
        i, j = batch // max(count, 1), batch % max(count, 1)
        if half:
            i, j = i[i <= j], j[i <= j]
        if len(i):
            twice = 1.0 + (i < j) if half else 1.0
            yield (ours[0][i], ours[1][i] * twice), (theirs[0][j], theirs[1][j])


def _batch(layer: AttentionLayer) -> int:
    """Return how many terms are worked on at once."""
    size = max([layer.value.shape[1], *(2 * query.shape[1] for query in layer.queries)])
    return max(16, _STEP // size**2)


def _down(layer: AttentionLayer) -> Tensor:
    return layer.down.to(torch.float64)[int(layer.constant_out) :]


def _source(layer: AttentionLayer, stream: Stream) -> Source:
    """Return the features of a layer for this many positions, and the stream that it reads, with its constant."""
    positions = len(stream.mean)
    layer = layer.up_to(positions).to(dtype=torch.float64)
    maps, parts, start = [], {}, 0
    named = {"value": layer.value}
    for i, (query, key) in enumerate(zip(layer.queries, layer.keys, strict=True)):
        named |= {f"query{i}": query, f"key{i}": key}
    for name, array in named.items():
        array = array.repeat_interleave(layer.heads // len(array), 0)
        turned = array.expand(positions, -1, -1, -1)
        if layer.rotation is not None and name != "value":
            turned = torch.einsum("sprc,hcpi->shrpi", layer.rotation, array.unflatten(1, (2, -1))).flatten(2, 3)
        maps.append(turned)
        parts[name] = slice(start, start + array.shape[1])
        start += array.shape[1]
    if layer.constant_in:
        plain = stream
        stream = Stream(pad(plain.mean, (1, 0), value=1.0), lambda: pad(plain.spread, (1, 0, 0, 0, 1, 0)))
    return Source(torch.cat(maps, 2), parts, stream)


def _terms(layer: AttentionLayer, positions: int) -> Weighed:
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
