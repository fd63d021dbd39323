"""Models of `attention.py` that have learned the toy language: training, reading from weights, and ablation."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from examples.parts.attention_rule import FOUND, Found, Reading, ablated
from models.language import LanguageConfig, train_language
from models.toy_language import PATTERNS, ToyLanguage, ToySample
from models.transformer import Transformer, TransformerConfig, build_transformer
from tensornet_interp.attention import AttentionLayer, SequenceNetwork, composition
from tensornet_interp.keys import digest

LEARNED = 1.1  # a pattern is learned if the loss on it is at most this many times the best possible one
CONFIRMED = 0.3  # nats: the least rise of the loss on a pattern without the components that were found
CONTROL = 2.0  # ... and how many times the rise without as many other components
TEST_SEED = 10_000
# bilinear attention needs most steps for induction, and one layer does not learn it
STEPS = {("softmax", 1): 600, ("bilinear", 1): 600, ("softmax", 2): 1000, ("bilinear", 2): 1500}
Row = dict[str, object]


@dataclass(frozen=True)
class Job:
    """A `Job` is one model: its kind of attention, its number of layers and its seed."""

    options: argparse.Namespace
    kind: str
    layers: int
    seed: int

    @cached_property
    def language(self) -> ToyLanguage:
        """The language that the model learns."""
        return ToyLanguage()

    @property
    def name(self) -> str:
        """The name of the model in tables and figures."""
        return f"{self.kind}, {self.layers} layer{'s' * (self.layers > 1)}, seed {self.seed}"

    @cached_property
    def model(self) -> Transformer:
        """The trained model: read from the folder of its settings, or trained and kept there."""
        o = self.options
        config = TransformerConfig(
            vocabulary=len(self.language.names),
            d_model=o.width,
            d_hidden=0,
            n_layers=self.layers,
            n_heads=o.heads,
            context=o.context,
            attention=self.kind,
            norm="none",
        )
        steps = o.steps or STEPS[self.kind, self.layers]
        training = LanguageConfig(
            steps=steps, batch_size=32, lr=1e-2, weight_decay=0.0, warmup=min(50, steps // 2), seed=self.seed
        )
        tokens = self.language.sample(o.sequences, o.context, seed=self.seed).tokens.flatten()
        key = digest(asdict(self.language), asdict(config), asdict(training), o.sequences)
        folder = Path(o.models) / f"{self.kind}-{self.layers}-{self.seed}-{key}"
        model = build_transformer(config, self.seed)
        train_language(model, tokens, training, folder, every=500, progress=o.progress)
        return model.requires_grad_(False)

    @cached_property
    def network(self) -> SequenceNetwork:
        """The model above its embedding, in float64."""
        return self.model.network().to(dtype=torch.float64)

    @cached_property
    def embedding(self) -> Tensor:
        """The vectors of all tokens, (token, d_model), in float64."""
        return self.model.embedding.weight.detach().to(torch.float64)

    @cached_property
    def found(self) -> dict[str, Found]:
        """What the weights say about every pattern; no text is used."""
        return Reading(self.network, self.embedding, self.options.context // 2).read()

    @property
    def attention(self) -> list[AttentionLayer]:
        """The attention layers, bottom first."""
        return [part.map for part in self.network if isinstance(part.map, AttentionLayer)]

    def planted(self, pattern: str) -> frozenset[tuple[int, ...]]:
        """Return what the language has planted of a pattern."""
        all_of = (self.language.bigrams, self.language.skip_trigrams, self.language.inductions)
        return frozenset(all_of[PATTERNS.index(pattern)])

    def rows(self) -> Iterator[Row]:
        """Yield one row per pattern: learned, found and confirmed, and the numbers behind them."""
        test = self.language.sample(self.options.tested, self.options.context, seed=TEST_SEED)
        x = self.embedding[test.tokens]
        before, best = losses(test, self.network(x)), losses(test, test.probabilities.log())
        for number, pattern in enumerate(PATTERNS):
            found = self.found[pattern]
            score = found.score(self.planted(pattern))
            rises: list[float] = []
            controls: list[float] = []
            for group, others in zip(found.groups, found.others, strict=True):
                for names, into in ((group, rises), (others, controls)):
                    after = losses(test, ablated(self.network, x, names))[number]
                    into.append(after - before[number])
            is_found = score >= FOUND
            confirmed = is_found and all(
                rise >= max(CONFIRMED, CONTROL * control) for rise, control in zip(rises, controls, strict=True)
            )
            yield {
                "kind": self.kind,
                "layers": self.layers,
                "seed": self.seed,
                "pattern": pattern,
                "loss": before[number],
                "best": best[number],
                "learned": int(before[number] <= LEARNED * best[number]),
                "score": score,
                "found": int(is_found),
                "components": ", ".join("+".join(group) for group in found.groups) if is_found else "",
                "rise": min(rises, default=0.0),
                "control": max(controls, default=0.0),
                "confirmed": int(confirmed),
                "composition": self.rank_of_pair() if pattern == "induction" and is_found else "",
            }

    def rank_of_pair(self) -> int:
        """Return the place, from 1, of the pair of heads of induction among all pairs, by K-composition.

        The score of a pair is the largest over scores and offsets of the source.
        """
        lower, upper = self.attention[:2]
        offsets = range(0, -self.options.context // 2, -1)
        scores = torch.stack([composition(lower, upper, "key", offsets, i) for i in range(len(upper.queries))])
        table = scores.amax((0, 1))  # (upper, lower)
        found = self.found["induction"]
        a, b = (int(max(part, key=part.__getitem__).split(".")[1]) for part in (found.shares, found.below))
        return 1 + int((table > table[a, b]).sum())


def losses(test: ToySample, logits: Tensor) -> list[float]:
    """Return the mean loss on the positions of every pattern, in nats, over what may follow.

    loss[pattern] = mean over its positions of -sum_token probability[token] log softmax(logits)[token]
    """
    kept = test.probabilities > 0
    each = -(test.probabilities * logits.log_softmax(-1).where(kept, 0.0)).sum(-1)
    return [float(each[test.pattern == number].mean()) for number in range(len(PATTERNS))]


def jobs(options: argparse.Namespace) -> list[Job]:
    """Return the models that the options ask for."""
    return [
        Job(options, kind, layers, seed)
        for seed in options.seeds
        for kind in options.kinds
        for layers in options.layers
    ]
