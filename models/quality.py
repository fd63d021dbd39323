"""Quality of a dictionary on held-out text: its error, the features that fire, and the model's loss with patches."""

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
    """A `Quality` is the quality of a dictionary at one hook point; see `evaluate` for the fields."""

    tokens: int
    nmse: float  # sum |x - x'|^2 / sum |x - mean|^2
    active: float  # features per token
    fired: Tensor  # (feature,): the number of tokens on which it fired
    loss: float  # of the model as it is
    patched: float  # loss with the reconstruction in place of the vectors
    ablated: float  # loss with the mean, or zero, in place of the vectors
    ablation: str

    @property
    def dead(self) -> Tensor:
        """The features that fired on none of the tokens."""
        return (self.fired == 0).nonzero()[:, 0]

    @property
    def dead_share(self) -> float:
        """The share of features that fired on none of the tokens."""
        return len(self.dead) / len(self.fired)

    @property
    def loss_added(self) -> float:
        """The rise of the loss by the reconstruction: patched - loss."""
        return self.patched - self.loss

    @property
    def loss_recovered(self) -> float:
        """The share of the ablated loss that the reconstruction wins back.

        loss_recovered = (ablated - patched) / (ablated - loss)

        It is 1 for a perfect reconstruction, 0 if the reconstruction is as bad as the ablation, and NaN for 0 / 0.
        """
        gap = self.ablated - self.loss
        return (self.ablated - self.patched) / gap if gap else math.nan

    def record(self) -> dict[str, float | int | str]:
        """Return the numbers as one row of a table."""
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
    """Measure a dictionary on the vectors x at the hook point (layer, point), for held-out tokens.

    nmse = sum |x - x'|^2 / sum |x - mean|^2, with x' = decode(encode(x))

    `windows` is (window, position), and mean is the mean of x over all tokens. The normalised error nmse is 0 for a
    perfect dictionary, and 1 for one that always returns the mean. Each loss is the `held_out_loss` of all windows in a
    row: `loss` without a change, `patched` with x' in place of x, `ablated` with the mean ("mean") or zero ("zero") in
    place of x. Raises ValueError for an unknown ablation, layer or point, and for a transcoder, which returns no x.
    Cost: three passes of the model, two of its part up to the layer, two of the dictionary.
    """
    check_choice("ablation", ablation, ABLATIONS)
    if dictionary.point_out is not None:
        raise ValueError(f"dictionary must be an autoencoder, got the transcoder {dictionary!r}")
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
