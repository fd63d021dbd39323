"""A decoder whose MLPs are `Bilinear`, with rotary attention, an RMSNorm without weights, and optional gates."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bilinear import GATES, Bilinear
from tensornet_interp.checks import check_choice, check_int

POINTS = ("resid-pre", "resid-mid", "mlp-in", "mlp-out", "resid-post")
EPS = 1e-8


@dataclass(frozen=True)
class TransformerConfig:
    """A `TransformerConfig` holds the sizes and the gate of a `Transformer`.

    `context` is the largest number of positions, `d_hidden` the number of hidden units of an MLP.
    """

    vocabulary: int = 4096
    d_model: int = 128
    d_hidden: int = 512
    n_layers: int = 4
    n_heads: int = 4
    context: int = 256
    gate: str = "none"

    def __post_init__(self) -> None:
        for name in ("vocabulary", "d_model", "d_hidden", "n_layers", "n_heads", "context"):
            check_int(name, getattr(self, name), 1)
        check_choice("gate", self.gate, GATES)
        if self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model must be a multiple of 2 n_heads, because rotary positions turn pairs of a head's "
                f"coordinates; got d_model={self.d_model} and n_heads={self.n_heads}"
            )


def rms_norm(x: Tensor) -> Tensor:
    """Return x / sqrt(mean x^2 + 1e-8), with the mean over the last mode."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def rotate(x: Tensor) -> Tensor:
    """Return x (..., position, size) with rotary positions.

    The pair of coordinates (j, j + size / 2) is turned by the angle position * 10000^(-2 j / size).
    """
    half, dtype = x.shape[-1] // 2, torch.promote_types(x.dtype, torch.float32)  # float16 is too coarse
    position = torch.arange(x.shape[-2], device=x.device, dtype=dtype)
    frequency = 10000.0 ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = position[:, None] * frequency  # (position, half)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)


class Attention(nn.Module):
    """An `Attention` is causal attention with rotary positions: (batch, position, d_model) -> the same."""

    def __init__(self, config: TransformerConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False, device=device)
        self.o = nn.Linear(config.d_model, config.d_model, bias=False, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Return o(softmax(q k^T / sqrt(size)) v), with q and k rotated."""
        parts = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))  # (batch, position, 3, head, size)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (batch, head, position, size)
        mixed = functional.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        return self.o(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A `Block` is one layer of a `Transformer`: attention, then an MLP, each with a residual.

    mid = x + attention(norm x) / sqrt(2 n_layers); y = mid + mlp(norm mid)

    `points` holds an identity module for each of `POINTS`. A forward hook on it reads or replaces the vectors there.
    """

    def __init__(self, config: TransformerConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(2 * config.n_layers)
        self.attention = Attention(config, device=device)
        self.mlp = Bilinear(config.d_model, config.d_hidden, config.d_model, gate=config.gate, device=device)
        self.points = nn.ModuleDict({point: nn.Identity() for point in POINTS})

    def forward(self, x: Tensor) -> Tensor:
        """Return y: (batch, position, d_model) -> the same."""
        x = self.points["resid-pre"](x)
        x = self.points["resid-mid"](x + self.scale * self.attention(rms_norm(x)))
        h = self.points["mlp-in"](rms_norm(x))
        y: Tensor = self.points["resid-post"](x + self.points["mlp-out"](self.mlp(h)))
        return y


class LanguageModel(nn.Module):
    """A `LanguageModel` maps tokens to logits: (batch, position) -> (batch, position, vocabulary).

    Its `config` holds the sizes, which training needs.
    """

    config: TransformerConfig


class Transformer(LanguageModel):
    """A `Transformer` is a decoder: an embedding, a stack of `Block`s, a norm and a linear head.

    logits = head(norm(block_L(... block_1(embedding tokens)))): (batch, position) -> (batch, position, vocabulary)

    >>> model = build_transformer(TransformerConfig(vocabulary=7, d_model=8, d_hidden=6, n_layers=2, n_heads=2), seed=0)
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 7])
    """

    def __init__(self, config: TransformerConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.d_model, device=device)
        self.blocks = nn.ModuleList(Block(config, device=device) for _ in range(config.n_layers))
        self.head = nn.Linear(config.d_model, config.vocabulary, bias=False, device=device)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits: (batch, position) -> (batch, position, vocabulary)."""
        if tokens.shape[-1] > self.config.context:
            raise ValueError(f"tokens has {tokens.shape[-1]} positions, more than context={self.config.context}")
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(rms_norm(x))
        return logits

    def block(self, layer: int) -> Block:
        """Return the block of a layer, counted from 0."""
        block = self.blocks[check_int("layer", layer, 0, self.config.n_layers - 1)]
        if not isinstance(block, Block):  # a ModuleList has no type for its members
            raise TypeError(f"layer {layer} is a {type(block).__name__}, not a Block")
        return block

    def mlp(self, layer: int) -> Bilinear:
        """Return the MLP of a layer; `mlp(layer).layer()` is its tensor.

        The inputs of that tensor are the vectors after the norm, at the point "mlp-in".
        """
        return self.block(layer).mlp

    @contextmanager
    def hooked(self, hooks: Mapping[tuple[int, str], Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
        """Call `hooks[layer, point]` with the vectors at that hook point, inside a `with` block.

        If the call returns a tensor, this tensor replaces the vectors. Raises ValueError for a layer or a point that
        does not exist, and lists the points that do.
        """
        handles = []
        try:
            for (layer, point), call in hooks.items():
                module = self.block(layer).points[check_choice("point", point, POINTS)]
                handles.append(module.register_forward_hook(lambda _, __, value, call=call: call(value)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def build_transformer(config: TransformerConfig, seed: int, *, device: torch.device | str = "cpu") -> Transformer:
    """Return a new model, with weights drawn on the CPU from a random stream that `seed` starts.

    Entries of the embedding are N(0, 1); those of a linear map are N(0, 1 / inputs).
    """
    check_int("seed", seed, 0)
    model = Transformer(config, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if name == "embedding.weight" else 1 / math.sqrt(parameter.shape[1])
            parameter.normal_(0.0, scale, generator=generator)
    return model.to(device)
