"""A decoder with rotary attention, softmax or bilinear, and MLPs that are `Bilinear`, whose parts it hands over."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.bilinear import GATES, Bilinear
from tensornet_interp import TensorNetwork
from tensornet_interp.attention import AttentionLayer, LinearMap, Norm, Part, SequenceNetwork, causal_mask
from tensornet_interp.checks import check_bool, check_choice, check_int

POINTS = ("resid-pre", "resid-mid", "mlp-in", "mlp-out", "resid-post")
ATTENTIONS = {"softmax": 1, "bilinear": 2}  # how many scores make a pattern
NORMS = ("rms", "none")
ROTARY, EPS = 10000.0, 1e-8
_LATER = ("attention", "norm", "mlp_bias", "mlp_linear")  # fields of a config that older files do not name


@dataclass(frozen=True)
class TransformerConfig:
    """A `TransformerConfig` holds the sizes of a `Transformer` and says of what kind its parts are.

    `context` is the largest number of positions. `d_hidden` is the number of hidden units of an MLP; with 0, the model
    has attention alone. `attention`: "softmax" or "bilinear", see `Attention`. `norm`: "rms" or "none". Without norms,
    a model with bilinear attention and no gate is a polynomial; nothing bounds it, so it needs a small learning rate.
    `mlp_bias` and `mlp_linear` give MLPs biases and a linear part, as `put_layers` leaves them.
    """

    vocabulary: int = 4096
    d_model: int = 128
    d_hidden: int = 512
    n_layers: int = 4
    n_heads: int = 4
    context: int = 256
    gate: str = "none"
    attention: str = "softmax"
    norm: str = "rms"
    mlp_bias: bool = False
    mlp_linear: bool = False

    def __post_init__(self) -> None:
        for name in ("vocabulary", "d_model", "n_layers", "n_heads", "context"):
            check_int(name, getattr(self, name), 1)
        check_int("d_hidden", self.d_hidden, 0)
        check_choice("gate", self.gate, GATES)
        check_choice("attention", self.attention, ATTENTIONS)
        check_choice("norm", self.norm, NORMS)
        parts = [check_bool(name, getattr(self, name)) for name in ("mlp_bias", "mlp_linear")]
        if not self.d_hidden and (self.gate != "none" or any(parts)):
            raise ValueError(
                f"d_hidden=0 is a model without MLPs, so gate must be 'none', got {self.gate!r}, and mlp_bias and "
                f"mlp_linear must be False, got {self.mlp_bias} and {self.mlp_linear}"
            )
        if self.d_model % (2 * self.n_heads):
            raise ValueError(
                f"d_model must be a multiple of 2 n_heads, because rotary positions turn pairs of a head's "
                f"coordinates; got d_model={self.d_model} and n_heads={self.n_heads}"
            )

    def settings(self) -> dict[str, Any]:
        """Return the fields; those that older files do not name only if they are not the default."""
        later = {field.name: field.default for field in fields(self) if field.name in _LATER}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}


def rms_norm(x: Tensor) -> Tensor:
    """Return x / sqrt(mean x^2 + 1e-8), with the mean over the last mode."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # squares overflow in float16
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)


def normed(x: Tensor, norm: str) -> Tensor:
    """Return x through the norm of this name, one of `NORMS`."""
    return rms_norm(x) if norm == "rms" else x


def rotate(x: Tensor) -> Tensor:
    """Return x (..., position, size) with rotary positions.

    The pair of coordinates (j, j + size / 2) is turned by the angle position * 10000^(-2 j / size).
    """
    half, dtype = x.shape[-1] // 2, torch.promote_types(x.dtype, torch.float32)  # float16 is too coarse
    position = torch.arange(x.shape[-2], device=x.device, dtype=dtype)
    frequency = ROTARY ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = position[:, None] * frequency  # (position, half)
    cosine, sine = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)


class Attention(nn.Module):
    """An `Attention` is causal attention with rotary positions: (batch, position, d_model) -> the same.

    y_s = scale o(sum_{t <= s} pattern[s, t] v_t), with queries q and keys k rotated and scale = 1 / sqrt(2 n_layers)
    softmax: pattern[s, t] = softmax_t(q_s . k_t / sqrt(size))
    bilinear: pattern[s, t] = (q1_s . k1_t) (q2_s . k2_t) / (size^2 sqrt(s + 1))

    With 1 / sqrt(s + 1), a sum of independent terms has the same size at every position; a plain sum grows with the
    context. A mean, 1 / (s + 1), made the held-out loss rise above 50 nats midway in two of two trials without norms.
    The rows of `qkv` are those of queries, then keys, then values.
    """

    def __init__(self, config: TransformerConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.n_heads, self.context, self.kind = config.n_heads, config.context, config.attention
        self.scores = ATTENTIONS[config.attention]
        self.scale = 1 / math.sqrt(2 * config.n_layers)
        rows = (2 * self.scores + 1) * config.d_model
        self.qkv = nn.Linear(config.d_model, rows, bias=False, device=device)
        self.o = nn.Linear(config.d_model, config.d_model, bias=False, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Return y of the equation above."""
        parts = self.qkv(x).unflatten(-1, (2 * self.scores + 1, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        turned, v = rotate(parts[:-1]), parts[-1]  # (query or key, batch, head, position, size)
        q, k = turned[: self.scores], turned[self.scores :]
        if self.kind == "softmax":
            mixed = functional.scaled_dot_product_attention(q[0], k[0], v, is_causal=True)
        else:
            first, second = q @ k.mT / q.shape[-1]  # the scores, (batch, head, position, source)
            mixed = causal_mask(v.shape[-2], power=0.5, dtype=v.dtype, device=v.device) * first * second @ v
        return self.scale * self.o(mixed.transpose(1, 2).flatten(2))

    def layer(self, name: str = "") -> AttentionLayer:
        """Return this module as an `AttentionLayer`, exactly; the weights are copies without gradients."""
        *parts, value = self.qkv.weight.detach().chunk(2 * self.scores + 1)
        mask = causal_mask(self.context, power=0.5, dtype=value.dtype, device=value.device)
        return AttentionLayer.from_weights(
            queries=parts[: self.scores],
            keys=parts[self.scores :],
            value=value,
            out=self.scale * self.o.weight.detach(),
            heads=self.n_heads,
            positions=self.context,
            mask="causal" if self.kind == "softmax" else mask,
            rotary=ROTARY,
            softmax=self.kind == "softmax",
            name=name,
        )


class Block(nn.Module):
    """A `Block` is one layer of a `Transformer`: attention, then an MLP if d_hidden > 0, each with a residual.

    mid = x + attention(norm x); y = mid + mlp(norm mid)

    `points` holds an identity module for each of `POINTS` that it has. A forward hook on it reads or replaces the
    vectors there.
    """

    def __init__(self, config: TransformerConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.norm = config.norm
        self.attention = Attention(config, device=device)
        sizes = config.d_model, config.d_hidden, config.d_model
        parts = {"bias": config.mlp_bias, "linear": config.mlp_linear, "gate": config.gate}
        self.mlp = Bilinear(*sizes, **parts, device=device) if config.d_hidden else None  # type: ignore[arg-type]
        has = [point for point in POINTS if self.mlp is not None or not point.startswith("mlp")]
        self.points = nn.ModuleDict({point: nn.Identity() for point in has})

    def forward(self, x: Tensor) -> Tensor:
        """Return y: (batch, position, d_model) -> the same."""
        x = self.points["resid-pre"](x)
        x = self.points["resid-mid"](x + self.attention(normed(x, self.norm)))
        if self.mlp is not None:
            h = self.points["mlp-in"](normed(x, self.norm))
            x = x + self.points["mlp-out"](self.mlp(h))
        y: Tensor = self.points["resid-post"](x)
        return y

    def parts(self, name: str = "") -> list[Part]:
        """Return the parts of this block in a `SequenceNetwork`, exactly. Raises ValueError for a gated MLP."""
        norm = Norm(eps=EPS) if self.norm == "rms" else None
        maps: list[TensorNetwork] = [self.attention.layer(f"{name} attention".strip())]
        if self.mlp is not None:
            maps.append(self.mlp.layer(f"{name} MLP".strip()))
        return [Part(map, 1.0, norm) for map in maps]


class LanguageModel(nn.Module):
    """A `LanguageModel` maps tokens to logits: (batch, position) -> (batch, position, vocabulary).

    Its `config` holds the sizes, which training needs.
    """

    config: TransformerConfig


class Transformer(LanguageModel):
    """A `Transformer` is a decoder: an embedding, a stack of `Block`s, a norm if there is one, and a linear head.

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
        logits: Tensor = self.head(normed(x, self.config.norm))
        return logits

    def network(self) -> SequenceNetwork:
        """Return the model as a stack over positions, exactly: model(tokens) = network(model.embedding(tokens)).

        The weights are copies without gradients. Raises ValueError for a gated model.
        """
        parts = [part for i in range(self.config.n_layers) for part in self.block(i).parts(f"block {i}")]
        head = LinearMap(weight=self.head.weight.detach().clone(), name="head")
        return SequenceNetwork([*parts, Part(head, norm=Norm(eps=EPS) if self.config.norm == "rms" else None)])

    def block(self, layer: int) -> Block:
        """Return the block of a layer, counted from 0."""
        block = self.blocks[check_int("layer", layer, 0, self.config.n_layers - 1)]
        if not isinstance(block, Block):  # a ModuleList has no type for its members
            raise TypeError(f"layer {layer} is a {type(block).__name__}, not a Block")
        return block

    def mlp(self, layer: int) -> Bilinear:
        """Return the MLP of a layer; `mlp(layer).layer()` is its tensor.

        The inputs of that tensor are the vectors after the norm, at the point "mlp-in". Raises ValueError for a model
        of attention alone.
        """
        mlp = self.block(layer).mlp
        if mlp is None:
            raise ValueError("the model has attention alone (d_hidden=0), and no MLP")
        return mlp

    @contextmanager
    def hooked(self, hooks: Mapping[tuple[int, str], Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
        """Call `hooks[layer, point]` with the vectors at that hook point, inside a `with` block.

        If the call returns a tensor, this tensor replaces the vectors. Raises ValueError for a layer or a point that
        does not exist, and lists the points that do.
        """
        handles = []
        try:
            for (layer, point), call in hooks.items():
                points = self.block(layer).points
                module = points[check_choice("point", point, tuple(points))]
                handles.append(module.register_forward_hook(lambda _, __, value, call=call: call(value)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def build_transformer(config: TransformerConfig, seed: int, *, device: torch.device | str = "cpu") -> Transformer:
    """Return a new model, with weights drawn on the CPU from a random stream that `seed` starts.

    Entries of the embedding are N(0, 1); those of a linear map are N(0, 1 / inputs). Without norms, those of `down` are
    1 / sqrt(2 n_layers) as large, because nothing else bounds how the squares of MLPs grow. Biases are zero.
    """
    check_int("seed", seed, 0)
    model = Transformer(config, device="meta").to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.zero_()
                continue
            scale = 1.0 if name == "embedding.weight" else 1 / math.sqrt(parameter.shape[1])
            if config.norm == "none" and name.endswith("mlp.down.weight"):
                scale /= math.sqrt(2 * config.n_layers)
            parameter.normal_(0.0, scale, generator=generator)
    return model.to(device)
