"""Small attention layers of every kind, and the same functions written as PyTorch users write them."""

import torch
from helpers import normal
from torch.nn.functional import scaled_dot_product_attention

from tensornet_interp.attention import AttentionLayer

HEADS, SIZE, CHANNEL, IN, OUT, POSITIONS = 2, 4, 3, 6, 5, 3


def weights(
    scores, seed=0, *, heads=HEADS, kv_heads=None, size=SIZE, channel=CHANNEL, n_in=IN, n_out=OUT, device="cpu"
):
    """Weights in the layout of `nn.Linear`."""
    shared = kv_heads or heads
    return {
        "queries": [normal(heads * size, n_in, seed=seed + i, device=device) for i in range(scores)],
        "keys": [normal(shared * size, n_in, seed=seed + 10 + i, device=device) for i in range(scores)],
        "value": normal(shared * channel, n_in, seed=seed + 20, device=device),
        "out": normal(n_out, heads * channel, seed=seed + 21, device=device),
        "heads": heads,
        "kv_heads": kv_heads,
    }


def biases_of(given, seed=50):
    """A bias for every weight."""
    device = given["out"].device
    return {
        "query_biases": [normal(len(w), seed=seed + i, device=device) for i, w in enumerate(given["queries"])],
        "key_biases": [normal(len(w), seed=seed + 10 + i, device=device) for i, w in enumerate(given["keys"])],
        "value_bias": normal(len(given["value"]), seed=seed + 20, device=device),
        "bias": normal(len(given["out"]), seed=seed + 21, device=device),
    }


def layer_with(scores, seed=0, *, positions=POSITIONS, mask="causal", rotary=10.0, softmax=False, **sizes):
    given = weights(scores, seed, **sizes)
    rotary = rotary if scores else None
    return AttentionLayer.from_weights(**given, positions=positions, mask=mask, rotary=rotary, softmax=softmax)


def turn(x, base, pairs="halves", turned=None):
    """Rotary positions by complex numbers: pair j is turned by the angle position * base^(-2 j / size)."""
    size = x.shape[-1]
    turned = turned or size
    first, rest = x[..., :turned], x[..., turned:]
    halves = pairs == "halves"
    parts = first.unflatten(-1, (2, -1)).transpose(-1, -2) if halves else first.unflatten(-1, (-1, 2))
    angles = base ** (-torch.arange(turned // 2, dtype=torch.float64, device=x.device) * 2 / size)
    position = torch.arange(x.shape[-2], dtype=torch.float64, device=x.device)[:, None]
    spun = torch.view_as_complex(parts.contiguous()) * torch.polar(
        torch.ones_like(position * angles), position * angles
    )
    parts = torch.view_as_real(spun)
    return torch.cat([(parts.transpose(-1, -2) if halves else parts).flatten(-2), rest], -1)


def by_hand(x, given, biases=None, *, mask, base=None, pairs="halves", turned=None, scale=None, softmax=False):
    """The layer as a model computes it, from the weights alone; x is (batch, position, in)."""
    biases = biases or {}
    heads, shared = given["heads"], given["kv_heads"] or given["heads"]

    def heads_of(weight, bias, count):
        y = x @ weight.T + (0 if bias is None else bias)
        y = y.unflatten(-1, (count, -1)).transpose(1, 2)
        return y.repeat_interleave(heads // count, 1)

    def all_of(side, count):
        found = [
            heads_of(weight, biases[f"{side}_biases"][i] if biases else None, count)
            for i, weight in enumerate(given["queries" if side == "query" else "keys"])
        ]
        return [y if base is None else turn(y, base, pairs, turned) for y in found]

    queries, keys = all_of("query", heads), all_of("key", shared)
    values = heads_of(given["value"], biases.get("value_bias"), shared)
    if softmax:
        mixed = scaled_dot_product_attention(queries[0], keys[0], values, attn_mask=mask > 0, scale=scale)
    else:
        pattern = mask
        for q, k in zip(queries, keys, strict=True):
            pattern = pattern * (q @ k.transpose(-1, -2) * (1 / q.shape[-1] if scale is None else scale))
        mixed = pattern @ values
    return mixed.transpose(1, 2).flatten(2) @ given["out"].T + biases.get("bias", 0)
