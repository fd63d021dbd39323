"""A toy language with planted patterns, of which the probability of every next token is known exactly.

The patterns are those of attention heads in Elhage et al. (2021), transformer-circuits.pub/2021/framework.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tensornet_interp.checks import check_int, check_number

PATTERNS = ("bigram", "skip-trigram", "induction")
NONE = -1  # a position without a pattern
# shares of the kinds of tokens that begin something, before and after the source of the sequence has appeared
_BEFORE = {"source": 0.4, "trigger": 0.25, "repeat": 0.3, "filler": 0.05}
_AFTER = {"query": 0.25, "trigger": 0.25, "repeat": 0.4, "filler": 0.1}


class ToySample(NamedTuple):
    """A sample of a toy language: its tokens, what follows each of them, and which pattern decides it.

    tokens: (sequence, position). probabilities: (sequence, position, vocabulary), of the next token, given all tokens
    up to this one. pattern: (sequence, position), the number in `PATTERNS`, or -1.
    """

    tokens: Tensor
    probabilities: Tensor
    pattern: Tensor


@dataclass(frozen=True)
class ToyLanguage:
    """A `ToyLanguage` has bigrams, skip-trigrams and repeats; each pattern holds with probability 1 - `noise`.

    Bigram: a trigger a3 is followed by b3. Skip-trigram: every sequence has one source, such as s2, and after it a
    query q is followed by t2. Induction: what follows a repeat token r5 is random, but later in the sequence r5 is
    followed by the same token again. Otherwise, and with probability `noise`, something new begins: a source, a
    query, a trigger, a repeat token, or a filler, which is any b or t.

    >>> language = ToyLanguage(triggers=2, sources=2, queries=1, repeats=3)
    >>> language.names
    ('a0', 'a1', 'b0', 'b1', 's0', 's1', 't0', 't1', 'q0', 'r0', 'r1', 'r2')
    """

    triggers: int = 6
    sources: int = 6
    queries: int = 3
    repeats: int = 5
    noise: float = 0.2

    def __post_init__(self) -> None:
        for name, least in (("triggers", 1), ("sources", 2), ("queries", 1), ("repeats", 3)):
            check_int(name, getattr(self, name), least)
        check_number("noise", self.noise, 0.0, 1.0)

    @property
    def groups(self) -> dict[str, range]:
        """The tokens of every letter: a, b (bigrams), s, t, q (skip-trigrams), r (repeats)."""
        sizes = {"a": self.triggers, "b": self.triggers, "s": self.sources, "t": self.sources}
        sizes |= {"q": self.queries, "r": self.repeats}
        found, start = {}, 0
        for letter, size in sizes.items():
            found[letter] = range(start, start + size)
            start += size
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every token."""
        return tuple(f"{letter}{i}" for letter, group in self.groups.items() for i in range(len(group)))

    @property
    def bigrams(self) -> frozenset[tuple[int, int]]:
        """The planted pairs (token, next token)."""
        return frozenset(zip(self.groups["a"], self.groups["b"], strict=True))

    @property
    def skip_trigrams(self) -> frozenset[tuple[int, int, int]]:
        """The planted triples (source, query, next token)."""
        pairs = list(zip(self.groups["s"], self.groups["t"], strict=True))
        return frozenset((source, query, target) for source, target in pairs for query in self.groups["q"])

    @property
    def inductions(self) -> frozenset[tuple[int, int]]:
        """The pairs (token, next token) of different repeat tokens: each may hold in some sequence."""
        return frozenset((a, b) for a in self.groups["r"] for b in self.groups["r"] if a != b)

    def sample(self, count: int, length: int, seed: int) -> ToySample:
        """Return `count` sequences of `length` tokens, from a random stream that `seed` starts; on the CPU, float64.

        The first token of a sequence is drawn as one that begins something. Memory: count * length * vocabulary.
        """
        check_int("count", count, 1)
        check_int("length", length, 1)
        generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
        state = _State(self, count)
        probabilities = state.begins()
        found = []
        for _ in range(length):
            token = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
            probabilities, pattern = state.step(token)
            found.append((token, probabilities, pattern))
        tokens, after, patterns = (torch.stack(column, 1) for column in zip(*found, strict=True))
        return ToySample(tokens, after, patterns)


class _State:
    """What the tokens so far say about the next one, for every sequence."""

    def __init__(self, language: ToyLanguage, count: int) -> None:
        self.language, self.groups = language, language.groups
        self.rows = torch.arange(count, device="cpu")
        self.source = torch.full((count,), NONE, device="cpu")  # the number of the source that has appeared
        self.follower = torch.full(
            (count, language.repeats), NONE, device="cpu"
        )  # the token that followed a repeat token
        self.last = torch.full((count,), NONE, device="cpu")
        self._before, self._after = (self._shares(shares) for shares in (_BEFORE, _AFTER))

    def _shares(self, shares: dict[str, float]) -> Tensor:
        """Return the probabilities of tokens that begin something."""
        letters = {"source": "s", "query": "q", "trigger": "a", "repeat": "r", "filler": "bt"}
        found = torch.zeros(len(self.language.names), dtype=torch.float64, device="cpu")
        for kind, share in shares.items():
            tokens = [token for letter in letters[kind] for token in self.groups[letter]]
            found[tokens] = share / len(tokens)
        return found

    def begins(self) -> Tensor:
        """Return the probabilities (sequence, token) of what begins next."""
        return torch.where((self.source >= 0)[:, None], self._after, self._before)

    def step(self, token: Tensor) -> tuple[Tensor, Tensor]:
        """Take one more token of every sequence; return the probabilities of the next one, and the pattern."""
        a, b, s, t, q, r = (self.groups[letter] for letter in "abstqr")
        last, repeated = self._within(self.last, r), self._within(token, r)
        both = last & repeated
        self.follower[self.rows[both], self.last[both] - r.start] = token[both]
        shown = self._within(token, s)
        self.source[shown] = token[shown] - s.start
        self.last = token
        new = self.begins()
        probabilities, pattern = new.clone(), torch.full_like(token, NONE)
        known = torch.full_like(token, NONE)  # the token that follows with probability 1 - noise
        known = torch.where(self._within(token, a), token - a.start + b.start, known)
        known = torch.where(self._within(token, q), self.source + t.start, known)
        follower = self.follower[self.rows, (token - r.start).clamp(min=0)]
        known = torch.where(repeated & (follower >= 0), follower, known)
        for number, letter in enumerate((a, q, r)):
            pattern[self._within(token, letter) & (known >= 0)] = number
        # a repeat token is followed by a random other one, unless something else begins, which is no repeat token
        other = new.clone()
        other[:, list(r)] = 0
        other = other / other.sum(-1, keepdim=True)
        fresh = torch.zeros_like(new)
        fresh[:, list(r)] = 1 / (len(r) - 1)
        fresh[self.rows[repeated], token[repeated]] = 0
        certain = torch.zeros_like(new)
        certain[self.rows[known >= 0], known[known >= 0]] = 1
        noise = self.language.noise
        probabilities = torch.where((known >= 0)[:, None], (1 - noise) * certain + noise * new, probabilities)
        of_repeat = torch.where((known >= 0)[:, None], certain, fresh)
        probabilities = torch.where(repeated[:, None], (1 - noise) * of_repeat + noise * other, probabilities)
        return probabilities, pattern

    @staticmethod
    def _within(token: Tensor, group: range) -> Tensor:
        return (token >= group.start) & (token < group.stop)
