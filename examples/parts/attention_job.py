"""Models of `attention.py` that have learned the toy language: training, reading from weights, and ablation."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from examples.parts.attention_rule import Found, Reading, ablated, components
from models.language import LanguageConfig, train_language
from models.toy_language import PATTERNS, ToyLanguage, ToySample
from models.transformer import Transformer, TransformerConfig, build_transformer
from tensornet_interp.attention import AttentionLayer, SequenceNetwork, composition
from tensornet_interp.keys import digest

LEARNED = 1.1  # a pattern is learned if the loss on it is at most this many times the best possible one
CONFIRMED = 0.3  # nats: the least rise of the loss on a pattern without the components that were found
CONTROL = 2.0  # ... and how many times the rise without as many other components
TRAINED, TESTED = 16384, 512  # sequences
TEST_SEED = 10_000
Row = dict[str, object]


@dataclass(frozen=True)
class Job:
    """A `Job` is one model: its kind of attention, its number of layers and its seed."""

    options: argparse.Namespace
    kind: str
    layers: int
    seed: int
    language: ToyLanguage = ToyLanguage()

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
        training = LanguageConfig(
            steps=o.steps, batch_size=32, lr=1e-2, weight_decay=0.0, warmup=min(50, o.steps // 2), seed=self.seed
        )
        tokens = self.language.sample(o.sequences, o.context, seed=self.seed).tokens.flatten()
        key = digest(asdict(self.language), asdict(config), asdict(training), o.sequences)
        folder = Path(o.models) / f"{self.kind}-{self.layers}-{self.seed}-{key}"
        model = build_transformer(config, self.seed)
        train_language(model, tokens, training, folder, every=500, progress=o.progress)
        return model.requires_grad_(False)
