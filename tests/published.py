"""Small random checkpoints in the published layout, and the model's forward pass from the raw tensors."""

import json
import math

import torch
from safetensors.torch import save_file
from torch.nn.functional import softmax

SIZES = {"d": 12, "hidden": 10, "layers": 3, "vocab": 17}
HEADS = 2


def make_tensors(d=12, hidden=10, layers=3, vocab=17, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def random(rows, columns):
        return torch.randn(rows, columns, generator=generator, dtype=dtype) / math.sqrt(columns)

    tensors = {"transformer.wte.weight": random(vocab, d) * math.sqrt(d), "lm_head.weight": random(vocab, d)}
    for i in range(layers):
        tensors[f"transformer.h.{i}.attn.qkv.weight"] = random(3 * d, d)
        tensors[f"transformer.h.{i}.attn.o.weight"] = random(d, d)
        tensors[f"transformer.h.{i}.mlp.w.weight"] = random(2 * hidden, d)
        tensors[f"transformer.h.{i}.mlp.p.weight"] = random(d, hidden)
    return tensors


def make_config(d=12, hidden=10, layers=3, **changes):
    sizes = {"n_head": HEADS, "n_layer": layers, "n_ctx": 32, "d_model": d, "d_hidden": hidden}
    options = {"bilinear": True, "gate": None, "bias": False, "normalization": "rms", "tokenizer": "some/tokenizer"}
    return sizes | options | changes


def write(folder, tensors=None, config=None, shards=None):
    """One file, or with `shards` (name of file -> names of tensors) several and their index."""
    tensors = make_tensors() if tensors is None else tensors
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(make_config() if config is None else config))
    if shards is None:
        save_file(tensors, folder / "model.safetensors")
        return folder
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def one_shard_a_layer(tensors, layers=3):
    shards = {f"model-{i}.safetensors": [n for n in tensors if f".h.{i}." in n] for i in range(layers)}
    return shards | {"model-rest.safetensors": [n for n in tensors if ".h." not in n]}


def rms(x):
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-8)


def rotate(x):
    """Rotary positions: the pairs (j, j + size / 2) turned by position * 10000^(-2 j / size)."""
    position, half = torch.arange(x.shape[-2], dtype=x.dtype), x.shape[-1] // 2
    angle = position[:, None] * 10000 ** (-torch.arange(half, dtype=x.dtype) / half)  # (position, half)
    a, b = x.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def attention(x, qkv, o):
    parts = (x @ qkv.T).unflatten(-1, (3, HEADS, -1))  # (position, 3, head, size)
    q, k, v = parts.permute(1, 2, 0, 3)  # each (head, position, size)
    scores = rotate(q) @ rotate(k).mT / math.sqrt(q.shape[-1])
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    mixed = softmax(scores.masked_fill(later, -torch.inf), -1) @ v
    return mixed.transpose(0, 1).flatten(1) @ o.T


def raw_mlp(tensors, i, x):
    left, right = (x @ tensors[f"transformer.h.{i}.mlp.w.weight"].T).chunk(2, -1)
    return (left * right) @ tensors[f"transformer.h.{i}.mlp.p.weight"].T


def logits(tensors, tokens, mlp, layers=3):
    x = tensors["transformer.wte.weight"][tokens]
    for i in range(layers):
        qkv, o = (tensors[f"transformer.h.{i}.attn.{name}.weight"] for name in ("qkv", "o"))
        x = x + attention(rms(x), qkv, o) / math.sqrt(2 * layers)
        x = x + mlp(i, rms(x))
    return rms(x) @ tensors["lm_head.weight"].T
