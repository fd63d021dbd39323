"""What the heads of an attention-only model do, read from its weights alone, and the ablation that confirms it.

The reading is of first order: one source at a time matters, and all other tokens are random. Everything is in nats.
"""

import itertools
import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.attention import AttentionLayer, LinearMap, SequenceNetwork, mean_ablated

# fixed on seeds 0 to 4
LEAST = 1.0  # nats: how much likelier than the second token a predicted token is
FOUND = 0.8  # the least F1 score between the list that was read and the planted one
MOST = 0.75  # the fewest components that make this share of the effect belong to a pattern
DIRECT = "direct"

Claim = tuple[int, ...]  # tokens of a pattern, such as (source, query, next token)


class Found(NamedTuple):
    """What was read of one pattern: its tokens, and the share of the effect that each component makes."""

    claims: frozenset[Claim]
    shares: dict[str, float]  # "direct" or "layer.head" -> share
    below: dict[str, float]  # for induction: the heads of layer 0 that hand on the previous token

    @property
    def groups(self) -> list[list[str]]:
        """The components that make the pattern; each group is needed."""
        return [group for group, _ in self._split()]

    @property
    def others(self) -> list[list[str]]:
        """For every group, as many other components that could have made this part, those of the largest shares."""
        return [others for _, others in self._split()]

    def _split(self) -> list[tuple[list[str], list[str]]]:
        found = []
        for part in (self.shares, self.below):
            ranked = sorted(part, key=lambda name: -part[name])
            sums = list(itertools.accumulate(part[name] for name in ranked))
            count = 1 + next((i for i, total in enumerate(sums) if total >= MOST), len(sums) - 1)
            if part:
                found.append((ranked[:count], ranked[count : 2 * count]))
        return found

    def score(self, planted: Collection[Claim]) -> float:
        """Return the F1 score of the list: 1 if it is the planted one, 0 if nothing is right."""
        right = len(self.claims & set(planted))
        return 2 * right / max(1, len(self.claims) + len(planted))


def expected_pattern(layer: AttentionLayer, scores: Sequence[Tensor], usual: Sequence[Tensor]) -> Tensor:
    """Return the pattern (head, offset, query, source) of one source, if all other sources are the mean token.

    scores, usual: (head, offset, query, source) per score of the layer; offsets are 0, -1, ... The mean token has the
    mean of the usual scores, because scores are linear in the source. The source at offset 0 is the query itself.
    """
    place = scores[0].shape[1] - 1
    mask = layer.mask[..., place, : place + 1].flip(-1)[..., None, None]  # (head, offset, 1, 1)
    if not layer.softmax:
        return math.prod(scores, start=mask)
    weight, others = mask * scores[0].exp(), mask * usual[0].mean(-1, keepdim=True).exp()
    others[:, 0] = mask[:, 0] * usual[0][:, 0].diagonal(dim1=-2, dim2=-1)[..., None].exp()
    return weight / (others.sum(1, keepdim=True) - others + weight)


def scores_of(layer: AttentionLayer, queries: Tensor, keys: Tensor, place: int) -> list[Tensor]:
    """Return every score between vectors (query, in) and (source, in): (head, offset, query, source) each."""
    return [
        torch.stack(
            [
                torch.stack([layer.qk(head, -back, i).entries(queries.T, keys.T) for back in range(place + 1)])
                for head in range(layer.heads)
            ]
        )
        for i in range(len(layer.queries))
    ]


def writes_of(layer: AttentionLayer, x: Tensor) -> Tensor:
    """Return what every head writes for the vectors x (source, in): (head, source, out)."""
    return torch.stack([(x @ ov.right) @ ov.left.T for ov in map(layer.ov, range(layer.heads))])


class Reading:
    """A `Reading` holds what every position is expected to carry, given its token alone, and reads patterns from it.

    network: attention layers with residual 1 and a linear head, without norms. embedding: (token, in). place: the
    position at which patterns are taken, with all sources before it.
    """

    def __init__(self, network: SequenceNetwork, embedding: Tensor, place: int) -> None:
        self.network, self.embedding, self.place = network, embedding, place
        self.layers = [part.map for part in network if isinstance(part.map, AttentionLayer)]
        head = network[-1].map
        if not isinstance(head, LinearMap):
            raise TypeError(f"the last part must be a linear head, got {type(head).__name__}")
        self.head = head.weight  # (token, in)
        self.streams, self.patterns, self.bases, self.own = [embedding], [], [], []
        for layer in self.layers:
            x = self.streams[-1]
            scores = scores_of(layer, x, x, place)
            pattern, write = expected_pattern(layer, scores, scores), writes_of(layer, x)
            base = expected_pattern(layer, [score.mean(-1, keepdim=True) for score in scores], scores)
            same = pattern[:, 0].diagonal(dim1=-2, dim2=-1)[..., None] * write
            self.own.append(same + base[:, 1:].sum(1) * write.mean(1, keepdim=True))  # (head, token, out)
            self.patterns.append(pattern)
            self.bases.append(base)
            self.streams.append(x + self.own[-1].sum(0))

    def logits(self, vectors: Tensor) -> Tensor:
        """Return the logits (..., token) of vectors (..., in), minus their mean, which softmax does not see."""
        found = vectors @ self.head.T
        return found - found.mean(-1, keepdim=True)

    def previous(self) -> Tensor:
        """Return what heads of layer 0 hand on from the token before: (head, token, token before, in)."""
        written = writes_of(self.layers[0], self.embedding)
        return self._added(0, self.patterns[0][:, 1], self.bases[0][:, 1], written)

    def _added(self, i: int, pattern: Tensor, base: Tensor, written: Tensor) -> Tensor:
        """Return what heads of layer i add if one source is there instead of the mean token.

        pattern: (head, token, source). base: (head, token, 1), that of the mean token. written: (head, source, out).
        The result is (head, token, source, out).
        """
        written = written[:, None]
        usual = written.mean(2, keepdim=True)
        if self.layers[i].softmax:  # what one source gets, the others lose
            return pattern[..., None] * (written - usual)
        return pattern[..., None] * written - base[..., None] * usual

    def usual(self) -> dict[str, Tensor]:
        """Return the logits (token, next token) that every component writes after a token, in any context."""
        parts = {DIRECT: self.logits(self.embedding)}
        for i, own in enumerate(self.own):
            parts |= {f"{i}.{head}": self.logits(vectors) for head, vectors in enumerate(own)}
        return parts

    def bigrams(self) -> Found:
        """Read which token predicts which next one in any context: (token, next token)."""
        parts = self.usual()
        tokens, first, second = _clear(_total(parts))
        shares = {name: float((part[tokens, first] - part[tokens, second]).sum()) for name, part in parts.items()}
        return Found(_claims(tokens, first), _normalised(shares), {})

    def skip_trigrams(self) -> Found:
        """Read which source anywhere before a token makes it predict which next one: (source, token, next token)."""
        effects: dict[str, Tensor] = {}
        for i, pattern in enumerate(self.patterns):
            effect = self._effect(i, pattern)
            effects |= {f"{i}.{head}": found for head, found in enumerate(effect)}
        usual = _total(self.usual())
        tokens, sources, first, second = _clear(usual[:, None] + _total(effects))
        new = first != _always(usual)[tokens]
        tokens, sources, first, second = (part[new] for part in (tokens, sources, first, second))
        shares = {
            name: float((effect[tokens, sources, first] - effect[tokens, sources, second]).sum())
            for name, effect in effects.items()
        }
        return Found(_claims(sources, tokens, first), _normalised(shares), {})

    def induction(self) -> Found:
        """Read which tokens predict what followed them before: (token, next token)."""
        if len(self.layers) < 2:
            return Found(frozenset(), {}, {})
        before = self.previous()
        effects = self._matched(before.sum(0))  # (head, token, source, next)
        usual = _total(self.usual())
        tokens, sources, first, second = _clear(usual[:, None] + effects.sum(0))
        new = (first == sources) & (first != _always(usual)[tokens]) & (tokens != sources)
        tokens, first, second = (part[new] for part in (tokens, first, second))

        def margins(effects: Tensor) -> Tensor:
            """Return what every head adds to the margins of what was read."""
            return (effects[:, tokens, first, first] - effects[:, tokens, first, second]).sum(1)

        chosen = margins(effects)
        below = {
            f"0.{head}": float((chosen - margins(self._matched(before.sum(0) - before[head]))).sum() / chosen.sum())
            for head in range(len(before) if len(tokens) else 0)  # what is missing without what this head hands on
        }
        shares = {f"1.{head}": float(value) for head, value in enumerate(chosen)}
        return Found(_claims(tokens, first), _normalised(shares), below)

    def _matched(self, before: Tensor) -> Tensor:
        """Return what heads of layer 1 add for a source whose previous token is the present one.

        before: (source, token before, in), what layer 0 hands on. The result is (head, token, source, next token).
        """
        layer, x = self.layers[1], self.streams[1]
        usual = scores_of(layer, x, x, self.place)
        matched = []
        for i, score in enumerate(usual):
            more = torch.empty_like(score)
            for head, back in itertools.product(range(layer.heads), range(self.place + 1)):
                matrix = layer.qk(head, -back, i)
                more[head, back] = torch.einsum("vr,kvr->vk", x @ matrix.left, before @ matrix.right)
            matched.append(score + more)
        return self._effect(1, expected_pattern(layer, matched, usual))

    def _effect(self, i: int, pattern: Tensor) -> Tensor:
        """Return what heads of layer i add to logits for a source before the token, as a mean over offsets.

        pattern: (head, offset, token, source). The result is (head, token, source, next token).
        """
        written = self.logits(writes_of(self.layers[i], self.streams[i]))
        return self._added(i, pattern[:, 1:].mean(1), self.bases[i][:, 1:].mean(1), written)

    def read(self) -> dict[str, Found]:
        """Return what was read of every pattern of the toy language."""
        return {"bigram": self.bigrams(), "skip-trigram": self.skip_trigrams(), "induction": self.induction()}


def _total(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum(0)


def _clear(logits: Tensor) -> tuple[Tensor, ...]:
    """Return where one token is predicted clearly, as indices of (...), then this token and the second one."""
    best = logits.topk(2)
    places = (best.values[..., 0] - best.values[..., 1] >= LEAST).nonzero().T
    return (*places, *best.indices[tuple(places)].T)


def _always(usual: Tensor) -> Tensor:
    """Return the token that every token predicts clearly in any context, or -1: (token,)."""
    tokens, first, _ = _clear(usual)
    return torch.full_like(usual[:, 0], -1, dtype=torch.int64).index_put((tokens,), first)


def _claims(*tokens: Tensor) -> frozenset[Claim]:
    return frozenset(zip(*(part.tolist() for part in tokens), strict=True))


def _normalised(shares: dict[str, float]) -> dict[str, float]:
    total = sum(shares.values())
    return {name: value / total for name, value in shares.items()} if total else dict.fromkeys(shares, 0.0)


def ablated(network: SequenceNetwork, x: Tensor, names: Collection[str]) -> Tensor:
    """Return the logits for x (sample, position, in) if the named components write their means over x."""
    changed = network
    for name in names:
        if name != DIRECT:
            layer, head = map(int, name.split("."))
            changed = mean_ablated(changed, layer, head, x)
    if DIRECT not in names:
        return changed(x)
    # the embedding still reaches the heads
    return changed(x) - SequenceNetwork(network.parts[-1:])(x - x.flatten(0, -2).mean(0))
