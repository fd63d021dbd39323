"""Figures of `attention.py`: what was read from the weights of one model of each kind."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from examples.parts.attention_job import TEST_SEED, Job
from examples.parts.attention_rule import DIRECT
from tensornet_interp.attention import AttentionLayer, LowRank
from tensornet_interp.plots import draw_composition, draw_sequence, head_entries, pattern_by_offset

SHOWN = 64  # sequences whose patterns are averaged


def draw(jobs: Sequence[Job], out: Path) -> None:
    """Draw the circuits of the first model of every kind."""
    drawn: set[tuple[str, int]] = set()
    for job in jobs:
        if (job.kind, job.layers) in drawn:
            continue
        drawn.add((job.kind, job.layers))
        for name, figure in figures(job).items():
            figure.savefig(out / f"{job.kind}_{job.layers}_{name}.png", dpi=120)


def token_scores(layer: AttentionLayer, head: int, offset: int, tokens: Tensor) -> LowRank:
    """Return the score of a head between tokens (in, token); of two scores their product, entry by entry."""
    circuits = [layer.qk(head, offset, score) for score in range(len(layer.queries))]
    first, *others = (circuit.change_basis(rows=tokens, columns=tokens) for circuit in circuits)
    for other in others:
        left, right = (
            (a[:, :, None] * b[:, None]).flatten(1) for a, b in ((first.left, other.left), (first.right, other.right))
        )
        first = replace(first, left=left, right=right)
    return first


def figures(job: Job) -> dict[str, Figure]:
    """Return the stack, patterns by offset, circuits of the strongest head, and compositions of one model."""
    tokens = job.language.sample(SHOWN, job.options.context, seed=TEST_SEED + 1).tokens
    streams = job.network.streams(job.embedding[tokens])
    layers, names = job.attention, job.language.names
    patterns = torch.cat([layer.pattern(x) for layer, x in zip(layers, streams, strict=False)], 1)
    heads = [f"head {i}.{head}" for i, layer in enumerate(layers) for head in range(layer.heads)]
    made = {
        "stack": draw_sequence(job.network, positions=4, title=job.name),
        "offsets": pattern_by_offset(
            patterns, heads, count=min(12, job.options.context), title=f"Pattern by offset: {job.name}"
        ),
    }
    shares = {name: share for name, share in job.found["skip-trigram"].shares.items() if name != DIRECT}
    if shares:
        i, head = map(int, max(shares, key=lambda name: shares[name]).split("."))
        tokens_in, tokens_out = job.embedding.T, job.model.head.weight.detach().T.to(torch.float64)
        qk = token_scores(layers[i], head, -4, tokens_in)
        ov = layers[i].ov(head).change_basis(rows=tokens_out, columns=tokens_in)
        for name, circuit in (("qk", qk), ("ov", ov)):
            what = "Product of both scores" if name == "qk" and len(layers[i].queries) > 1 else name.upper()
            title = f"{what} of head {i}.{head}" + ", offset -4" * (name == "qk") + f": {job.name}"
            made[name] = head_entries(circuit, names, names, title=title)
    if len(layers) > 1:
        made["composition"] = draw_composition(layers, title=f"Composition of heads, offset -1: {job.name}")
    return made
