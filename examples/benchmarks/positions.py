"""Benchmark functions for networks over positions: a transformer against its module, and similarity of attention."""

import time
from typing import NamedTuple

import torch
from torch import Tensor

from examples.benchmarks.measure import Checked, Outcome
from models.transformer import Transformer, TransformerConfig, build_transformer, rms_norm
from tensornet_interp import AttentionLayer, BilinearLayer, TensorNetwork, similarity
from tensornet_interp.attention import Part, SequenceNetwork
from tensornet_interp.inner_products import Gaussian


class Model(NamedTuple):
    """A `Model` is a transformer, the same as a network over positions, its plan in words, and its embedded tokens."""

    module: Transformer
    network: SequenceNetwork
    plan: str
    x: Tensor  # (batch, position, width)


def transformers(width: int, heads: int, positions: int, blocks: int, batch: int, attention: str) -> Model:
    """Return a random float64 transformer with bilinear MLPs of four times its width, and embedded tokens."""
    config = TransformerConfig(
        vocabulary=512,
        d_model=width,
        d_hidden=4 * width,
        n_layers=blocks,
        n_heads=heads,
        context=positions,
        attention=attention,
    )
    module = build_transformer(config, seed=0).double()
    tokens = torch.randint(512, (batch, positions), generator=torch.Generator().manual_seed(0), device="cpu")
    network, start = module.network(), time.perf_counter()
    plans = [plan for part in network.plan(batch, positions) for plan in part]
    seconds = time.perf_counter() - start
    words = f"{sum(len(plan.steps) for plan in plans)} steps, first planned in {seconds:.2f} s"
    return Model(module, network, words, module.embedding(tokens).detach())


def by_module(model: Model) -> Outcome:
    """Run the blocks and the head of the module."""
    with torch.no_grad():
        x = model.x
        for block in model.module.blocks:
            x = block(x)
        final = model.module.head(x if model.module.config.norm == "none" else rms_norm(x))
    return Outcome("forward pass", final)


def by_network(model: Model) -> Outcome:
    """Run the network over positions."""
    return Outcome(model.plan, model.network(model.x))


def same_logits(model: Model, found: Tensor) -> Checked:
    """Return the largest difference to the module, over the largest logit."""
    expected = by_module(model).found
    return Checked(float((found - expected).abs().max() / expected.abs().max()))


def attention_models(
    width: int, heads: int, positions: int, mask: str, count: int, blocks: int
) -> list[SequenceNetwork]:
    """Return random models without biases: attention alone (0 blocks), or blocks of attention and a bilinear map."""
    return [_model(seed, width, heads, positions, mask, blocks) for seed in range(count)]


def _model(seed: int, width: int, heads: int, positions: int, mask: str, blocks: int) -> SequenceNetwork:
    generator = torch.Generator().manual_seed(seed)

    def weights(count: int) -> tuple[Tensor, ...]:
        drawn = torch.randn(count, width, width, generator=generator, dtype=torch.float64)
        return (drawn / width**0.5).unbind()

    parts: list[TensorNetwork] = []
    for _ in range(max(blocks, 1)):
        first, second, key, other, value, out = weights(6)
        layer = AttentionLayer.from_weights(
            queries=[first, second],
            keys=[key, other],
            value=value,
            out=out / 8,
            heads=heads,
            positions=positions,
            mask=mask,
            rotary=10000.0,
        )
        left, right, down = weights(3)
        parts.append(layer)
        if blocks:
            parts.append(BilinearLayer.from_weights(left=left, right=right, down=down / 16))
    return SequenceNetwork([Part(map, 1.0) for map in parts])


def together(networks: list[SequenceNetwork]) -> Outcome:
    """Compute the cosines of all pairs in one call."""
    found = similarity(networks, kind=Gaussian(), progress=False)
    return Outcome(f"{len(networks) * (len(networks) + 1) // 2} products, {found.method}", found.to_tensor())


def one_by_one(networks: list[SequenceNetwork]) -> Outcome:
    """Compute the cosines of all pairs, one pair at a time."""
    found, products = torch.eye(len(networks), dtype=torch.float64), 0
    for i in range(len(networks)):
        for j in range(i):
            found[i, j] = found[j, i] = float(similarity(networks[i], networks[j], kind=Gaussian(), progress=False))
            products += 3
    return Outcome(f"{products} products", found)


def first_to_last(networks: list[SequenceNetwork], found: Tensor) -> Checked:
    """Return the similarity of the first and the last network."""
    return Checked(float(found[0, -1]))
