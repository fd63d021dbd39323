"""What heads do: scores of known kinds of heads, the form of a query given a key, and how alike two heads are."""

import itertools
import math
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.attention.layer import AttentionLayer
from tensornet_interp.attention.lowrank import LowRank
from tensornet_interp.checks import check_alike, check_int, check_kind, check_size, check_tensor
from tensornet_interp.contraction import Term, contract
from tensornet_interp.float64 import needs_float64
from tensornet_interp.numerics import nonzero, unit_columns, without_autocast
from tensornet_interp.store import register_type


def copying_score(circuit: LowRank) -> float:
    """Return how much a circuit raises what it reads, from -1 to 1: sum Re(eigenvalue) / sum |eigenvalue|.

    circuit: a square matrix, such as the OV circuit from tokens to tokens: `AttentionLayer.ov`, then
    `LowRank.change_basis` with the transposes of the unembedding (rows) and of the embedding (columns). A matrix
    without eigenvalues other than 0 scores 0.
    Raises ValueError if the matrix is not square.
    Source: Elhage et al., 2021.
    """
    values = check_kind("circuit", circuit, LowRank).eigenvalues()
    total = float(values.abs().sum())
    return float(values.real.sum()) / total if total else 0.0


def previous_token_score(pattern: Tensor, offset: int = -1) -> Tensor:
    """Return the share of its pattern that a head gives to the source at one offset: (..., head, s, t) -> (..., head).

    The share of a position is |pattern[s, s + offset]| / sum_t |pattern[s, t]|, averaged over the positions that have
    such a source. pattern: see `AttentionLayer.pattern`; it may be negative. offset: -1 is the previous position.
    """
    size = _check_pattern(pattern)
    offset = check_int("offset", offset, 1 - size, size - 1, f"the pattern has {size} positions")
    ones = torch.ones(size, size, dtype=torch.bool, device=pattern.device)
    return _share(pattern, ones.triu(offset) & ones.tril(offset))


def prefix_matching_score(pattern: Tensor, tokens: Tensor) -> Tensor:
    """Return the share of its pattern that a head gives to what followed earlier copies of the present token.

    A source t is a match for position s if token t - 1 equals token s, and t <= s. The share is averaged over the
    positions that have a match, as in `previous_token_score`; a sample without matches has no score, which is NaN.
    pattern: (..., head, s, t). tokens: (..., position), whole numbers.
    """
    size = _check_pattern(pattern)
    whole = isinstance(tokens, Tensor) and tokens.dtype in (torch.int32, torch.int64)
    if not isinstance(tokens, Tensor) or not whole or tokens.layout != torch.strided:
        found = f"{tokens.dtype}, {tokens.layout}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens must be a tensor (..., position) of whole numbers, got {found}")
    if tokens.shape != (*pattern.shape[:-3], size):
        raise ValueError(f"tokens must be {(*pattern.shape[:-3], size)} for this pattern, got {tuple(tokens.shape)}")
    equal = tokens[..., :, None] == tokens.roll(1, -1)[..., None, :]  # (..., s, t): token s and token t - 1
    equal[..., 0] = False
    return _share(pattern, equal.tril()[..., None, :, :])


def _check_pattern(pattern: Tensor) -> int:
    """Return the number of positions."""
    modes = ("...",) * max(0, getattr(pattern, "ndim", 0) - 3)
    check_tensor("pattern", pattern, (*modes, "head", "position", "source"))
    if pattern.shape[-1] != pattern.shape[-2]:
        raise ValueError(f"pattern must have as many sources as positions, got {tuple(pattern.shape)}")
    return pattern.shape[-1]


def _share(pattern: Tensor, wanted: Tensor) -> Tensor:
    """Return the share of the pattern on the wanted sources, averaged over the positions that have any."""
    sizes = pattern.abs()
    share = (sizes * wanted).sum(-1) / nonzero(sizes.sum(-1))  # (..., head, position)
    counted = wanted.any(-1).to(share.dtype)
    return (share * counted).sum(-1) / counted.sum(-1)


@register_type("QueryForm")
class QueryForm(NamedTuple):
    """The pattern of a head with two scores is a quadratic form of the query, given the key; it has two eigenvalues.

    score_1 score_2 = sum_i values[i] (vectors[:, i] . x_s)^2
    """

    values: Tensor  # (..., 2), the positive one first
    vectors: Tensor  # (..., in, 2)


@without_autocast
def query_form(layer: AttentionLayer, head: int, key: Tensor, offset: int = 0) -> QueryForm:
    """Return the eigenvalues and eigenvectors of the product of two scores, as a form in the query x_s.

    score_1 score_2 = x_s^T sym(u w^T) x_s, u = W_1 x_t, w = W_2 x_t, values = (u . w +- |u| |w|) / 2

    W_i is `layer.qk(head, offset, i)`. key: (..., in), the source x_t with all coordinates, the constant included; or a
    direction that stands for it. The mask is left out.
    Raises ValueError if the layer does not have two scores.
    """
    check_kind("layer", layer, AttentionLayer)
    if len(layer.queries) != 2:
        raise ValueError(f"layer must have two scores, whose product is a form in the query, got {len(layer.queries)}")
    forms = [layer.qk(head, offset, score) for score in (0, 1)]
    check_tensor("key", key, ("...",) * max(0, getattr(key, "ndim", 1) - 1) + ("in",))
    check_size("in", layer=len(forms[0].right), key=key.shape[-1])
    check_alike(layer=layer.down, key=key)
    u, w = ((key @ form.right) @ form.left.T for form in forms)
    (first, u_norm), (second, w_norm) = (_unit_rows(side) for side in (u, w))
    vectors, norms = _unit_rows(torch.stack([first + second, first - second], -2))
    sign = torch.tensor([1.0, -1.0], dtype=norms.dtype, device=norms.device)  # |first +- second|^2 = 2 +- 2 cosine
    values = u_norm * w_norm * sign * norms[..., 0].square() / 4
    return QueryForm(values, vectors.mT)


def _unit_rows(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return vectors (..., size) at norm 1, or zero, and their norms (..., 1)."""
    columns, norms = unit_columns(vectors.movedim(-1, 0))
    return columns.movedim(0, -1), norms[..., None]


@needs_float64
@without_autocast
def head_inner(a: AttentionLayer, b: AttentionLayer, offset: int = 0) -> Tensor:
    """Return the inner products (head of a, head of b) of the tensors of heads, for a source at one offset.

    A head's tensor maps its value, its keys and its queries to its write, without the mask. It is symmetrized over the
    legs that take the same vector: the value and the keys take the source, the queries the position; at offset 0 all
    legs take the same vector. The constant of lifted layers is a coordinate like the others; the residual of a layer
    that `lift` made is one more head.

    Cost in flops for two scores, if all sizes of a head are equal: about heads^2 * size^2 * (50 * in + 2 * out + 56 *
    size); at offset 0, 700 * size takes the place of 56 * size.
    Raises ValueError if the layers differ in inputs, outputs or number of scores, or if a layer has softmax.
    """
    return _head_products(a, b, offset, by_output=False)[0]


def _head_products(a: AttentionLayer, b: AttentionLayer, offset: int, *, by_output: bool) -> Tensor:
    """Return the inner products of heads per output, (out, head of a, head of b), or (1, ...) for their sum."""
    for name, layer in (("a", a), ("b", b)):
        check_kind(name, layer, AttentionLayer)
        if layer.softmax:
            raise ValueError(f"{name} has softmax, so its heads are no polynomials; compare layer.qk and layer.ov")
    check_size("in", a=a.value.shape[2], b=b.value.shape[2])
    check_size("out", a=len(a.down), b=len(b.down))
    check_alike(a=a.down, b=b.down)
    count = len(a.queries)
    if count != len(b.queries):
        raise ValueError(f"a and b must have equally many scores, got {count} and {len(b.queries)}")
    ours, theirs = _legs(a, offset), _legs(b, offset)
    bonds = [0, *range(1, count + 1), *range(1, count + 1)]  # the bond of each leg: the channel, or the score
    sources, queries = range(count + 1), range(count + 1, 2 * count + 1)
    orders = (
        itertools.permutations(range(2 * count + 1))
        if offset == 0
        else (first + second for first in itertools.permutations(sources) for second in itertools.permutations(queries))
    )
    grams = {
        (i, j): Term(torch.einsum("hai,gbi->hgab", ours[i], theirs[j]), ("a", "b", f"a{bonds[i]}", f"b{bonds[j]}"))
        for i, j in itertools.product(range(2 * count + 1), repeat=2)
    }
    terms = [Term(torch.einsum("oha,ogb->hgab", a.down, b.down)[None], ("out", "a", "b", "a0", "b0"))]
    if by_output:
        terms = [Term(a.down, ("out", "a", "a0")), Term(b.down, ("out", "b", "b0"))]
    modes = ("out", "a", "b")
    found = [contract([*terms, *(grams[i, j] for i, j in enumerate(order))], modes) for order in orders]
    return torch.stack(found).mean(0)


def _unit(layer: AttentionLayer) -> tuple[AttentionLayer, Tensor]:
    """Return the layer with a largest magnitude of 1 in every array of every head, and the logarithms of the scales.

    The logarithms (head,) are of what the tensors of heads were divided by; -inf for a head that is zero.
    """
    logs = torch.zeros(layer.heads, dtype=torch.float64, device=layer.down.device)

    def divided(array: Tensor, dims: tuple[int, int]) -> Tensor:
        nonlocal logs
        sizes = array.detach().abs().amax(dims, keepdim=True)
        logs = logs + sizes.flatten().to(torch.float64).log().repeat_interleave(layer.heads // sizes.numel())
        return array / nonzero(sizes)

    queries, keys = (tuple(divided(array, (1, 2)) for array in side) for side in (layer.queries, layer.keys))
    down, value = divided(layer.down, (0, 2)), divided(layer.value, (1, 2))
    return replace(layer, down=down, value=value, queries=queries, keys=keys), logs


def layer_inner(a: AttentionLayer, b: AttentionLayer, *, all_legs: bool, by_output: bool) -> tuple[Tensor, float]:
    """Return the inner product of the tensors of two layers, masks included, and the logarithm of its scale.

    The values are (out,), or (1,) for the sum over outputs.

    <a, b> = sum over positions s, sources t and heads of mask[s, t] mask'[s, t] <head, head'> at the offset t - s

    Heads are symmetrized over the legs that take the same vector, as in `head_inner`. all_legs: whether the layers are
    symmetrized over all legs, as polynomials in the inputs of all positions; each product between two positions then
    counts 1 / (number of ways to choose which legs take the source).
    In float64. Cost: that of `head_inner` for every offset; without rotation, for two.
    """
    check_size("position", a=a.positions, b=b.positions)
    for name, layer in (("a", a), ("b", b)):
        if layer.mask.ndim == 4:
            raise ValueError(f"{name} has one mask per sample; an inner product needs one mask for all")
        if layer.rotation is not None and not _is_relative(layer.rotation):
            raise ValueError(f"the rotation of {name} must depend on offsets alone: R_s^T R_t on t - s")
    (a, logs), (b, more) = (_unit(layer.drop_constant().to(dtype=torch.float64)) for layer in (a, b))
    logs = logs[:, None] + more
    top = float(logs.max()) if bool(logs.isfinite().any()) else 0.0
    legs = 2 * len(a.queries) + 1
    share = 1 / math.comb(legs, len(a.queries)) if all_legs else 1.0
    total, same = [], None
    for offset in range(1 - a.positions, a.positions):
        ours, theirs = (layer.mask.expand(layer.heads, -1, -1).diagonal(offset, 1, 2) for layer in (a, b))
        weights = ours @ theirs.T * (logs - top).exp()  # (head of a, head of b)
        if not bool(weights.any()):
            continue
        fixed = offset != 0 and a.rotation is None and b.rotation is None
        products = same if fixed and same is not None else _head_products(a, b, offset, by_output=by_output)
        same = products if fixed else same
        total.append((products * weights).sum((1, 2)) * (share if offset else 1.0))
    zero = a.down.new_zeros(len(a.down) if by_output else 1)
    return torch.stack(total).sum(0) if total else zero, top


def _is_relative(rotation: Tensor) -> bool:
    """Return True if R_s^T R_t depends on t - s alone, which follows from t = s and t = s + 1."""
    slack = max(1e-5, 4 * torch.finfo(rotation.dtype).eps) * float(rotation.abs().max()) ** 2  # it may be rounded
    rotation = rotation.to(torch.float64)
    steps = [rotation.mT @ rotation, rotation[:-1].mT @ rotation[1:]]
    return all(bool(((step - step[:1]).abs() <= slack).all()) for step in steps)


def _legs(layer: AttentionLayer, offset: int) -> list[Tensor]:
    """Return the arrays (head, size, in) of the value, the keys and the queries; keys and queries are turned."""
    most = layer.positions - 1
    check_int("offset", offset, -most, most, f"a mask has {layer.positions} positions")
    value = layer.value.repeat_interleave(layer.heads // layer.shared_heads, 0)
    pairs = [[layer.qk(head, offset, score) for head in range(layer.heads)] for score in range(len(layer.queries))]
    keys = [torch.stack([matrix.right.T for matrix in matrices]) for matrices in pairs]
    queries = [torch.stack([matrix.left.T for matrix in matrices]) for matrices in pairs]
    return [value, *keys, *queries]


@needs_float64
@without_autocast
def head_similarity(a: AttentionLayer, b: AttentionLayer, offset: int = 0) -> Tensor:
    """Return the cosines (head of a, head of b) between the tensors of heads; arguments and errors as in `head_inner`.

    A head without weights has cosine 0 with every head.
    """
    named = {"a": a, "b": b}
    a, b = (_unit(check_kind(name, layer, AttentionLayer))[0] for name, layer in named.items())
    product = head_inner(a, b, offset)
    norms = [head_inner(layer, layer, offset).diagonal().clamp(min=0).sqrt() for layer in (a, b)]
    return product / nonzero(norms[0][:, None] * norms[1])
