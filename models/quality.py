"""How good a dictionary is for its model, on held-out text: error, features that fire, loss under patches."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.language import held_out_loss
from models.transformer import Transformer
from models.vectors import vectors_at
from tensornet_interp.checks import check_choice
from tensornet_interp.features import Dictionary

ABLATIONS = ("mean", "zero")


@dataclass(frozen=True, eq=False)
class Quality:
    """Of a dictionary at one point; `evaluate` says what is what."""

    tokens: int
    nmse: float  # sum |x - x'|^2 / sum |x - mean|^2
    active: float  # features a token
    fired: Tensor  # (feature,): on how many tokens
    loss: float
    patched: float  # loss with the reconstruction in the place of what passes
    ablated: float  # loss with the mean, or zero, there
    ablation: str

    @property
    def dead(self) -> Tensor:
        """The features that fired on none of the tokens."""
        return (self.fired == 0).nonzero()[:, 0]

    @property
    def dead_share(self) -> float:
        """dead / features."""
        return len(self.dead) / len(self.fired)

    @property
    def loss_added(self) -> float:
        """patched - loss."""
        return self.patched - self.loss

    @property
    def loss_recovered(self) -> float:
        """(ablated - patched) / (ablated - loss): 1 for a perfect reconstruction, 0 for the ablation; NaN for 0 / 0."""
        gap = self.ablated - self.loss
        return (self.ablated - self.patched) / gap if gap else math.nan

    def record(self) -> dict[str, float | int | str]:
        """A row of a table."""
        return {
            "tokens": self.tokens,
            "nmse": self.nmse,
            "active": self.active,
            "dead_share": self.dead_share,
            "loss": self.loss,
            "loss_added": self.loss_added,
            "loss_recovered": self.loss_recovered,
            "ablation": self.ablation,
        }


@torch.no_grad()
def evaluate(
    dictionary: Dictionary,
    model: Transformer,
    layer: int,
    point: str,
    windows: Tensor,
    *,
    ablation: str = "mean",
    at_once: int = 16,
) -> Quality:
    """nmse = sum |x - x'|^2 / sum |x - mean|^2 over all tokens, x' = decode(encode(x)); fired; losses under patches

    windows: (window, position), held-out tokens; mean: that of x over them. The normalised error is 0 for a perfect
    dictionary and 1 for one that always answers the mean. Losses are `held_out_loss` of the windows, one after the
    other: as it is, with x' in the place of x at (layer, point), and with the mean ("mean") or zero ("zero") there.
    Cost: three passes of the model, two of its part up to the layer, two of the dictionary.
    """
    check_choice("ablation", ablation, ABLATIONS)
    chunks = vectors_at(model, windows, layer, point, at_once=at_once)
    count = windows.numel()
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    for x in chunks:
        total = total.to(x.device) + x.double().sum((0, 1))  # (d,)
    mean = total / count
    error = variance = 0.0
    fired = torch.zeros(dictionary.features, dtype=torch.int64, device=mean.device)
    for x in vectors_at(model, windows, layer, point, at_once=at_once):
        f = dictionary.encode(x)
        error += float((dictionary.decode(f) - x).double().square().sum())
        variance += float((x - mean).square().sum())
        fired += (f > 0).sum((0, 1))
    baseline = (mean if ablation == "mean" else torch.zeros_like(mean)).to(dictionary.encoder.dtype)

    def loss_with(replace: Callable[[Tensor], Tensor] | None) -> float:
        with model.hooked({} if replace is None else {(layer, point): replace}):
            return held_out_loss(model, windows.flatten(), at_once)

    return Quality(
        tokens=count,
        nmse=error / variance if variance else math.nan,
        active=float(fired.sum()) / count,
        fired=fired,
        loss=loss_with(None),
        patched=loss_with(lambda x: dictionary.decode(dictionary.encode(x))),
        ablated=loss_with(lambda x: baseline.expand_as(x)),
        ablation=ablation,
    )
