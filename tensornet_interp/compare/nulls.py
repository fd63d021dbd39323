"""Null controls: what a statistic of a decomposition is if the structure that it is about is destroyed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from tensornet_interp.checks import check_choice, check_iterations, check_seed, check_share, check_size
from tensornet_interp.decompositions import Strategy, build, decompose
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import BilinearLayer, BilinearMap, TensorNetwork
from tensornet_interp.moments import Moments
from tensornet_interp.network import check_network
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record, indexed

NULLS = ("permuted", "shuffled", "turned")


@register_type("Null")
@dataclass(frozen=True, eq=False)
class Null:
    """A null holds the value of a statistic, and its values after the structure that it is about was destroyed."""

    kind: str
    observed: Tensor  # (...), float64 on the CPU
    values: Tensor  # (draw, ...)

    @needs_float64
    def band(self, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the ends of the central interval that holds this share of the null's values, two tensors (...)."""
        tail = (1 - check_share("confidence", confidence, low_open=True, high_open=True)) / 2
        ends = torch.quantile(self.values, self.values.new_tensor([tail, 1 - tail]), dim=0)
        return ends[0], ends[1]

    @property
    @needs_float64
    def share_below(self) -> Tensor:
        """Return the share of the null's values that are at most the observed one, (...)."""
        return (self.values <= self.observed).to(torch.float64).mean(0)

    @needs_float64
    def records(self) -> list[Record]:
        """Return one record per number of the statistic: observed, and mean, and 95 % band of the null.

        `plots.curves` draws the band with bands={"observed": ("null_low", "null_high")}.
        """
        low, high = self.band()
        axes = [f"axis_{axis}" for axis in range(self.observed.ndim)]
        named = {"observed": self.observed, "null_mean": self.values.mean(0), "null_low": low, "null_high": high}
        rows = indexed(axes, **named, share_below=self.share_below)
        return [{"kind": self.kind, "draws": len(self.values)} | row for row in rows]

    def __repr__(self) -> str:
        if self.observed.ndim:
            return f"Null({self.kind}, {len(self.values)} draws of shape {tuple(self.observed.shape)})"
        low, high = (float(end) for end in self.band())
        return f"Null({self.kind}, observed {float(self.observed):.4g}, null {low:.4g} to {high:.4g})"


@needs_float64
def null(
    layer: BilinearMap,
    strategy: Strategy,
    statistic: Callable[[Any], float | Tensor],
    kind: str,
    n: int = 20,
    seed: int = 0,
) -> Null:
    """Return a statistic of a decomposition, and its values for n controls in which structure was destroyed at random.

    strategy: a decomposition, or a registered name. statistic: a function of the result, which returns a number or a
    tensor of numbers; it must return the same shape each time.
    kind: what is destroyed. "shuffled": in each factor of the layer (down, left, right), the hidden units change
    places, each factor on its own and no unit staying; every vector is kept, but which outputs belong to which inputs
    is random. "turned": the moments of the strategy, which is a `Whitened` one, are turned by a random orthogonal
    matrix, which keeps their spectrum, but not the directions. "permuted": the features of these moments
    change places, which keeps the variances. To see what the true moments are worth, let the statistic measure the
    result on data or in the true metric; the reported error of a control is that in the control's own metric.
    n: the number of controls. seed: of the random numbers.

    A constant output coordinate of a shuffled layer is dropped, because no unit makes it any more. Raises ValueError
    for an unknown kind, for a kind that needs moments that the strategy does not have, or for one hidden unit.
    Cost: n + 1 decompositions.

    Example:
    >>> from tensornet_interp.decompositions import HOSVD
    >>> from tensornet_interp.testing import random_layer
    >>> layer = random_layer(3, 6, 4, seed=0)
    >>> null(layer, HOSVD(ranks=(2, 2)), lambda result: result.relative_error, "shuffled", n=5).values.shape
    torch.Size([5])
    """
    check_choice("kind", kind, NULLS)
    check_iterations("n", n)
    if not callable(statistic):
        raise TypeError(f"statistic must be a function of a result, got {type(statistic).__name__}")
    own = check_network("layer", layer).to_layer()
    built = build(strategy, {})
    moments = getattr(built, "moments", None)
    if kind != "shuffled" and not isinstance(moments, Moments):
        raise ValueError(f"kind '{kind}' changes the moments of Whitened(strategy, moments), and {built!r} has none")
    generator = torch.Generator(device="cpu").manual_seed(check_seed("seed", seed))
    observed = _value(statistic(decompose(own, built)))
    values = []
    for _ in tqdm(range(n), desc=f"null, {kind}", leave=False, delay=3):
        if isinstance(moments, Moments) and kind != "shuffled":
            changed: Any = replace(built, moments=_changed(moments, kind, generator))  # type: ignore[type-var]
            values.append(_value(statistic(decompose(own, changed))))
        else:
            values.append(_value(statistic(decompose(recombined(own.drop_constant(), generator), built))))
        check_size("statistic", observed=observed.numel(), **{f"control {len(values) - 1}": values[-1].numel()})
    return Null(kind, observed, torch.stack(values))


def recombined(part: TensorNetwork, generator: torch.Generator) -> SpectralResult | BilinearLayer:
    """Return a layer or result with the same vectors in new combinations: which belong together is random.

    The blocks of a `SpectralResult` exchange their output vectors. The terms of any other part exchange their output
    vectors and, if left and right differ, their right vectors. No term keeps its output vector.
    Raises ValueError if there is only one block or term.
    """
    if isinstance(part, SpectralResult):
        return replace(part, outputs=part.outputs[:, _cycle(part.outputs.shape[1], generator, part.outputs.device)])
    layer = part.to_layer()
    tied = layer.left is layer.right or torch.equal(layer.left, layer.right)
    order = _cycle(layer.rank, generator, layer.down.device)
    right = layer.right if tied else layer.right[:, _cycle(layer.rank, generator, layer.down.device)]
    history = (*layer.history, "hidden units recombined at random")
    return replace(layer, down=layer.down[:, order], right=right, history=history)


def _cycle(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Return a random order of `count` things in which none keeps its place."""
    if count < 2:
        raise ValueError(f"the null recombines at least 2 hidden units or components, got a layer with {count}")
    order = torch.randperm(count, generator=generator, device="cpu")
    places = torch.empty_like(order)
    places[order] = order.roll(1)
    return places.to(device)


def _changed(moments: Moments, kind: str, generator: torch.Generator) -> Moments:
    """Return the moments turned by a random orthogonal matrix, or with their features in another order."""
    size = len(moments.mean)
    if kind == "turned":
        drawn = torch.randn(size, size, generator=generator, dtype=torch.float64, device="cpu")
        turn, triangle = torch.linalg.qr(drawn)
        turn = turn * triangle.diagonal().sign()  # uniform over all orthogonal matrices
    else:
        eye = torch.eye(size, dtype=torch.float64, device="cpu")
        turn = eye[torch.randperm(size, generator=generator, device="cpu")]
    turn = turn.to(moments.mean.device)
    mean, covariance = turn @ moments.mean, turn @ moments.covariance @ turn.T
    return replace(moments, mean=mean, covariance=covariance, note=f"{moments.note}, {kind}")


def _value(found: float | Tensor) -> Tensor:
    if not isinstance(found, int | float | Tensor):
        raise TypeError(f"statistic must return a number or a tensor, got {type(found).__name__}")
    value = torch.as_tensor(found, dtype=torch.float64, device="cpu").detach()
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"statistic must be finite, got {found!r:.60}")
    return value
