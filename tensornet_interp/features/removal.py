"""Tests of circuits: does an output feature lose its activation if the inputs of the circuit are removed?

The tests use held-out tokens. As a control, the tests also remove a part of other features that has the same length.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import (
    check_alike,
    check_batch,
    check_int,
    check_kind,
    check_seed,
    check_size,
    check_tensor,
    check_text,
    check_whole,
)
from tensornet_interp.decompositions.eigen import eigenpairs
from tensornet_interp.features.dictionary import Dictionary, check_autoencoder
from tensornet_interp.float64 import needs_float64
from tensornet_interp.gated import GatedLayer
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.network import wide_layer
from tensornet_interp.numerics import row_noise, t_interval, unit_columns, without_autocast
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record


@dataclass(frozen=True)
class RemovalRule:
    """A removal rule states when `removal_test` confirms a circuit; `str` returns the rule as one sentence."""

    min_drop: float = 0.5  # the least share of the feature's activation that the removal must take
    min_windows: int = 10  # if the feature is active in fewer windows of text, nothing is decided
    confidence: float = 0.95  # confidence of the interval of the difference from the control

    def __str__(self) -> str:
        return (
            f"confirmed: the removal takes at least {self.min_drop:.0%} of the feature's mean activation, and more than"
            f" the control (the {self.confidence:.0%} interval of the paired difference over windows is above 0);"
            f" refuted: the removal does not; untested: the feature is active in fewer than {self.min_windows} windows"
        )


REMOVAL_RULE = RemovalRule()


@register_type("Verdict")
@dataclass(frozen=True)
class Verdict:
    """A verdict is the result of `removal_test`; drops and their difference are shares of the mean activation."""

    feature: int
    removed: str
    tokens: int
    windows: int
    activation: float  # the feature's, averaged over the active tokens of a window, then over windows
    length: float  # |removed| / |x|, mean over tokens
    drop: float
    control_drop: float
    difference: float  # drop - control_drop
    low: float  # ends of the interval of the difference
    high: float
    verdict: str  # "confirmed", "refuted" or "untested", by REMOVAL_RULE

    def record(self) -> dict[str, Any]:
        """Return the verdict as one record of a table, with one entry per field."""
        return asdict(self)

    def records(self) -> list[Record]:
        """Return the `record` alone in a list, as tables need it."""
        return [self.record()]


@needs_float64
@torch.no_grad()
@without_autocast
def removal_test(
    layer: BilinearLayer | GatedLayer,
    outputs: Dictionary,
    feature: int,
    x: Tensor,
    removed: Tensor,
    control: Tensor,
    window: Tensor,
    *,
    name: str = "",
) -> Verdict:
    """Test whether an output feature loses its activation if a part of the inputs of the layer is removed.

    drop = 1 - mean relu(p(x - removed)) / mean relu(p(x)), where p is the pre-activation of the feature after the layer

    layer: the layer that is run, bilinear, or gated for circuits that were read in the bilinear layer of `linearize`.
    feature: the index of the output feature. x: (token, in), held-out inputs of the layer on which the feature is
    active. removed: (token, in), the part that is subtracted from x. control: (token, in), the part that is subtracted
    for comparison. window: (token,), the index of the window of text that contains the token. name: what was removed,
    for tables. There is no TopK here, so other features do not compete, and the drop is the feature's own. Tokens of
    one window are not independent; therefore means are first taken over the tokens of a window and then over windows.
    The interval (Student's t) is for the difference between drop and control drop, paired by window. `REMOVAL_RULE`
    decides the verdict.
    Raises ValueError if sizes differ or if the feature is not active on x. Cost: three evaluations of the layer on x.
    """
    if not isinstance(layer, GatedLayer):
        check_kind("layer", layer, BilinearLayer, " and no GatedLayer; a result has to_layer()")
    check_int("feature", feature, 0, check_kind("outputs", outputs, Dictionary).features - 1)
    check_text("name", name, empty=True)
    check_tensor("x", x, ("token", "in"))
    for name_of, value in {"removed": removed, "control": control}.items():
        check_tensor(name_of, value, ("token", "in"))
        check_size("token", **{"x": len(x), name_of: len(value)})
        check_size("in", **{"x": x.shape[1], name_of: value.shape[1]})
    check_alike(x=x, removed=removed, control=control)
    check_whole("window", window, "token")
    check_size("token", x=len(x), window=len(window))
    wide, reader = layer.to(dtype=torch.float64), outputs.to(dtype=torch.float64)
    bias = reader.reading_bias()
    shift = 0.0 if bias is None else float(bias[feature])
    x, removed, control = (part.to(torch.float64) for part in (x, removed, control))

    def activation(inputs: Tensor) -> Tensor:
        return (wide(inputs) @ reader.encoder[feature] + shift).relu()  # (token,)

    _, member = window.unique(return_inverse=True)
    count = torch.bincount(member).to(torch.float64)

    def by_window(values: Tensor) -> Tensor:
        return torch.zeros_like(count).index_add(0, member, values) / count

    before, after, other = (by_window(activation(inputs)) for inputs in (x, x - removed, x - control))
    mean = float(before.mean())
    if not mean > 0:
        raise ValueError(f"x must be inputs on which feature {feature} is active; its mean activation there is {mean}")
    difference = (other - after) / mean  # (window,)
    low, high = t_interval(difference, REMOVAL_RULE.confidence)
    drop = 1 - float(after.mean()) / mean
    lengths = [unit_columns(part.to(torch.float64).T)[1] for part in (removed, x)]
    if len(count) < REMOVAL_RULE.min_windows:
        verdict = "untested"
    else:
        verdict = "confirmed" if drop >= REMOVAL_RULE.min_drop and low > 0 else "refuted"
    return Verdict(
        feature=feature,
        removed=name,
        tokens=len(x),
        windows=len(count),
        activation=mean,
        length=float((lengths[0] / lengths[1]).mean()),
        drop=drop,
        control_drop=1 - float(other.mean()) / mean,
        difference=float(difference.mean()),
        low=low,
        high=high,
        verdict=verdict,
    )


@needs_float64
@torch.no_grad()
@without_autocast
def circuit_tests(
    layer: BilinearLayer,
    inputs: Dictionary,
    outputs: Dictionary,
    feature: int,
    members: Tensor,
    x: Tensor,
    window: Tensor,
    *,
    seed: int = 0,
) -> tuple[Verdict, Verdict]:
    """Test a circuit in two ways: by its input features, and by the plane of the two leading eigenvectors.

    The first test removes decoder[:, members] codes[members] from x. The second test removes the part of x in the plane
    of the two leading eigenvectors of the output feature's interaction matrix. The control of each test removes a part
    of other features that has the same length (`random_part`): in the first test, of as many features as members are
    active on the token; in the second test, of two features. Returns both verdicts.
    inputs: the dictionary before the layer, an autoencoder. outputs: the dictionary after the layer. feature: the index
    of the output feature. members: (member,), the indices of the input features of the circuit. x: (token, in),
    held-out inputs on which the output feature is active. window: (token,), as in `removal_test`. seed: the seed of the
    controls.
    Cost: the input encoder, one eigendecomposition, and two calls of `removal_test`.
    """
    check_kind("layer", layer, BilinearLayer, "; a result has to_layer()")
    check_autoencoder("inputs", check_kind("inputs", inputs, Dictionary))
    check_int("feature", feature, 0, check_kind("outputs", outputs, Dictionary).features - 1)
    check_tensor("x", x, ("token", "in"))
    check_whole("members", members, "member", inputs.features)
    check_whole("window", window, "token")
    check_size("token", x=len(x), window=len(window))
    inputs, x = inputs.to(dtype=torch.float64), x.to(torch.float64)
    codes = inputs.encode(x)  # (token, feature)
    layer = layer.drop_constant()
    rank = min(2, layer.shape[1], 2 * layer.rank)
    _, vectors = eigenpairs(wide_layer("layer", layer), outputs.encoder[feature].to(torch.float64)[None], rank)
    plane = vectors[0][int(layer.constant_in) :]  # without the constant coordinate, which stays
    parts = {
        "input features": codes[:, members] @ inputs.decoder[:, members].T,  # (token, in)
        "leading plane": plane_part(x, plane.to(x.dtype)),
    }
    counts = {"input features": (codes[:, members] > 0).sum(1), "leading plane": torch.full_like(window, 2)}
    verdicts = []
    for name, removed in parts.items():
        count = counts[name].to(x.device)
        control = random_part(codes, inputs.decoder, removed, count, members, seed=seed)
        verdicts.append(removal_test(layer, outputs, feature, x, removed, control, window, name=name))
    return verdicts[0], verdicts[1]


@needs_float64
@without_autocast
def random_part(codes: Tensor, decoder: Tensor, like: Tensor, count: Tensor, leave: Tensor, *, seed: int) -> Tensor:
    """Return the part of the input that random other features write, scaled to the length of `like`: (token, in).

    codes: (token, feature). decoder: (in, feature). like: (token, in), whose length the result has on every token.
    count: (token,), the number of active features to draw per token. leave: (member,), the indices of the features that
    are never drawn. seed: the seed of the draws. If a token has fewer active features than `count`, all its active
    features are used. If a token has no active features, its part is zero.
    """
    check_tensor("codes", codes, ("token", "feature"))
    check_tensor("decoder", decoder, ("in", "feature"))
    check_tensor("like", like, ("token", "in"))
    check_whole("count", count, "token")
    check_whole("leave", leave, "member", codes.shape[1])
    check_size("token", codes=len(codes), like=len(like), count=len(count))
    check_size("feature", codes=codes.shape[1], decoder=decoder.shape[1])
    check_size("in", decoder=len(decoder), like=like.shape[1])
    generator = torch.Generator().manual_seed(check_seed("seed", seed))
    score = torch.rand(codes.shape, generator=generator, dtype=torch.float32, device="cpu").to(codes.device) + 1
    score = score * (codes > 0)
    score[:, leave] = 0
    place = score.argsort(dim=1, descending=True).argsort(dim=1)  # 0 for the largest
    chosen = (place < count[:, None]) & (score > 0)
    part = (codes * chosen).to(torch.float64) @ decoder.to(torch.float64).T  # (token, in)
    _, lengths = unit_columns(like.to(torch.float64).T)
    return (unit_columns(part.T)[0] * lengths).T.to(like.dtype)


@needs_float64
@without_autocast
def plane_part(x: Tensor, vectors: Tensor) -> Tensor:
    """Return the part of x (token, in) that lies in the span of the columns of vectors (in, rank).

    part[token] = V V^+ x[token], for orthonormal columns V V^T x[token]

    V are the vectors, and V^+ is their pseudoinverse.
    """
    check_batch("x", x, "in")
    check_tensor("vectors", vectors, ("in", "vector"))
    check_size("in", x=x.shape[-1], vectors=len(vectors))
    check_alike(x=x, vectors=vectors)
    wide = vectors.to(torch.float64)
    return (x @ vectors) @ torch.linalg.pinv(wide, rtol=row_noise(wide, vectors.dtype)).to(vectors.dtype)
