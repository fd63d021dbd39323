"""The toy language: its probabilities are those of its samples, and its patterns are what they are called."""

import pytest
import torch

from models.toy_language import NONE, PATTERNS, ToyLanguage

LANGUAGE = ToyLanguage(triggers=2, sources=3, queries=2, repeats=4, noise=0.25)


def letter(token):
    return LANGUAGE.names[token][0]


def test_tokens_follow_with_the_probabilities_that_are_given():
    """Sums of (1 if it follows, else 0) - probability are a martingale: their z scores are normal."""
    sample = LANGUAGE.sample(3000, 20, seed=0)
    p = sample.probabilities[:, :-1]
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]))
    happened = torch.nn.functional.one_hot(sample.tokens[:, 1:], p.shape[-1]).double()
    for pattern in (NONE, 0, 1, 2):
        chosen = sample.pattern[:, :-1] == pattern
        p_, happened_ = p[chosen], happened[chosen]
        spread = (p_ * (1 - p_)).sum(0).sqrt()
        z = (happened_ - p_).sum(0)[spread > 1] / spread[spread > 1]
        assert len(z) >= 6
        assert float(z.abs().max()) < 4.5
    assert not bool(happened[p == 0].any())


def test_every_pattern_is_what_it_is_called():
    sample = LANGUAGE.sample(200, 20, seed=1)
    seen = set()
    for tokens, probabilities, pattern in zip(*(part.tolist() for part in sample), strict=True):
        for i, token in enumerate(tokens):
            kind, before = letter(token), tokens[:i]
            after = [b for a, b in zip(before, tokens[1 : i + 1], strict=True) if a == token and letter(b) == "r"]
            sources = {t for t in tokens[: i + 1] if letter(t) == "s"}
            assert len(sources) <= 1
            known = {"a": LANGUAGE.names.index("b" + LANGUAGE.names[token][1:]) if kind == "a" else None}
            if kind == "q":  # a query never comes before the source
                known["q"] = LANGUAGE.names.index("t" + LANGUAGE.names[sources.pop()][1:])
            if kind == "r" and after:
                assert len(set(after)) == 1
                known["r"] = after[0]
            expected = {"a": 0, "q": 1, "r": 2}[kind] if known.get(kind) is not None else NONE
            assert pattern[i] == expected
            seen.add(expected)
            if expected != NONE:
                assert probabilities[i][known[kind]] >= 0.75
    assert seen == {NONE, *range(len(PATTERNS))}


def test_the_planted_lists_are_those_of_the_patterns():
    names = LANGUAGE.names
    assert {tuple(names[t] for t in pair) for pair in LANGUAGE.bigrams} == {("a0", "b0"), ("a1", "b1")}
    assert {tuple(names[t] for t in triple) for triple in LANGUAGE.skip_trigrams} == {
        (f"s{i}", f"q{j}", f"t{i}") for i in range(3) for j in range(2)
    }
    assert {tuple(names[t] for t in pair) for pair in LANGUAGE.inductions} == {
        (f"r{i}", f"r{j}") for i in range(4) for j in range(4) if i != j
    }


def test_a_seed_decides_the_sample():
    first, second, other = (LANGUAGE.sample(5, 9, seed=seed).tokens for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"triggers": 0}, "triggers must be at least 1, got 0"),
        ({"repeats": 2}, "repeats must be at least 3, got 2"),
        ({"noise": 1.5}, "noise must be .*1.5"),
    ],
)
def test_a_language_that_cannot_be_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        ToyLanguage(**options)


def test_a_sample_of_nothing_is_refused():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        LANGUAGE.sample(0, 5, seed=0)
