"""A decoder whose MLPs are `Bilinear`: rotary attention, RMSNorm without weight, gates none, ReLU, SiLU and GELU."""

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
    """Sizes of a `Transformer`; `context` is the longest sequence, `d_hidden` the hidden units of an MLP."""

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
    """x / sqrt(mean x^2 + 1e-8), over the last mode; without a weight."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def rotate(x: Tensor) -> Tensor:
    """The pairs (j, j + size / 2) of x (..., position, size) turned by the angle position * 10000^(-2 j / size)."""
    half, dtype = x.shape[-1] // 2, torch.promote_types(x.dtype, torch.float32)  # half precision cannot count far
    position = torch.arange(x.shape[-2], device=x.device, dtype=dtype)
    frequency = 10000.0 ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = position[:, None] * frequency  # (position, half)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)


class Attention(nn.Module):
    """Causal attention with rotary positions: (batch, position, d_model) -> the same."""

    def __init__(self, config: TransformerConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False, device=device)
        self.o = nn.Linear(config.d_model, config.d_model, bias=False, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """o(softmax(q k^T / sqrt(size)) v), q and k rotated."""
        parts = self.qkv(x).unflatten(-1, (3, self.n_heads, -1))  # (batch, position, 3, head, size)
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (batch, head, position, size)
        mixed = functional.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        return self.o(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x -> mid = x + attention(norm x) / sqrt(2 n_layers) -> mid + mlp(norm mid).

    Each of `POINTS` is an identity module in `points`, where a forward hook reads or replaces what passes.
    """

    def __init__(self, config: TransformerConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.scale = 1 / math.sqrt(2 * config.n_layers)
        self.attention = Attention(config, device=device)
        self.mlp = Bilinear(config.d_model, config.d_hidden, config.d_model, gate=config.gate, device=device)
        self.points = nn.ModuleDict({point: nn.Identity() for point in POINTS})

    def forward(self, x: Tensor) -> Tensor:
        """The class's equation: (batch, position, d_model) -> the same."""
        x = self.points["resid-pre"](x)
        x = self.points["resid-mid"](x + self.scale * self.attention(rms_norm(x)))
        h = self.points["mlp-in"](rms_norm(x))
        y: Tensor = self.points["resid-post"](x + self.points["mlp-out"](self.mlp(h)))
        return y


class Transformer(nn.Module):
    """logits = head(norm(block_L(... block_1(embedding tokens)))): (batch, position) -> (batch, position, vocabulary)

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
        """The class's equation."""
        if tokens.shape[-1] > self.config.context:
            raise ValueError(f"tokens has {tokens.shape[-1]} positions, more than context={self.config.context}")
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(rms_norm(x))
        return logits

    def block(self, layer: int) -> Block:
        """A layer of the stack."""
        block = self.blocks[check_int("layer", layer, 0, self.config.n_layers - 1)]
        if not isinstance(block, Block):  # a ModuleList forgets what it holds
            raise TypeError(f"layer {layer} is a {type(block).__name__}, not a Block")
        return block

    def mlp(self, layer: int) -> Bilinear:
        """The MLP of a layer; `mlp(layer).layer()` is its tensor, on inputs after the norm (the point "mlp-in")."""
        return self.block(layer).mlp

    @contextmanager
    def hooked(self, hooks: Mapping[tuple[int, str], Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
        """While inside, `hooks[layer, point]` is called with what passes there; what it returns, if anything, passes on

        Raises ValueError for a layer or a point that does not exist; it lists the points that do.
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
    """A new model: embedding N(0, 1), linear maps N(0, 1 / inputs), drawn on the CPU from `seed`'s own stream."""
    check_int("seed", seed, 0)
    model = Transformer(config, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 1.0 if name == "embedding.weight" else 1 / math.sqrt(parameter.shape[1])
            parameter.normal_(0.0, scale, generator=generator)
    return model.to(device)
