"""Does a circuit carry its output feature? Its inputs are removed on held-out tokens, beside as much of others."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_int, check_size, check_tensor
from tensornet_interp.decompositions import decompose
from tensornet_interp.features.dictionary import Dictionary
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import t_quantile

DROP = 0.5  # a circuit has to carry at least this share of its feature's activation
WINDOWS = 10  # with the feature active in fewer windows of text nothing is decided
LEVEL = 0.95
RULE = (
    f"confirmed: the removal takes at least {DROP:.0%} of the feature's mean activation, and more than the control "
    f"does, the {LEVEL:.0%} interval of the paired difference over windows being above 0; refuted: not so; untested: "
    f"active in fewer than {WINDOWS} windows"
)


@dataclass(frozen=True)
class Verdict:
    """What `removal_test` found; drops and differences are shares of the mean activation."""

    feature: int
    removed: str
    tokens: int
    windows: int
    activation: float  # mean over windows of that over their active tokens
    length: float  # of what was removed, over that of the input, mean over tokens
    drop: float
    control_drop: float
    difference: float  # drop - control_drop
    low: float  # its interval
    high: float
    verdict: str

    def record(self) -> dict[str, Any]:
        """A row of a table."""
        return asdict(self)


@torch.no_grad()
def removal_test(
    layer: BilinearLayer,
    outputs: Dictionary,
    feature: int,
    x: Tensor,
    removed: Tensor,
    control: Tensor,
    window: Tensor,
    *,
    name: str = "",
) -> Verdict:
    """drop = 1 - mean relu(p(x - removed)) / mean relu(p(x)), p the feature's pre-activation behind the layer; paired

    x: (token, in), held-out inputs of the layer on which the feature is active; removed, control: (token, in), what is
    taken away; window: (token,), to which stretch of text a token belongs. TopK's competition is left out, so that
    the drop is the feature's own. Tokens of one window are not independent: means are over tokens of a window, then
    over windows, and the interval (Student's t) is of the difference over windows. The verdict follows `RULE`.
    """
    check_int("feature", feature, 0, outputs.features - 1)
    check_tensor("x", x, ("token", "in"))
    for name_of, value in {"removed": removed, "control": control}.items():
        check_tensor(name_of, value, ("token", "in"))
        check_size("token", **{"x": len(x), name_of: len(value)})
        check_size("in", **{"x": x.shape[1], name_of: value.shape[1]})
    check_alike(x=x, removed=removed, control=control)
    check_size("token", x=len(x), window=len(window))
    bias = outputs.reading_bias()
    shift = 0.0 if bias is None else float(bias[feature])

    def activation(inputs: Tensor) -> Tensor:
        return (layer(inputs) @ outputs.encoder[feature] + shift).relu().to(torch.float64)  # (token,)

    _, member = window.unique(return_inverse=True)
    count = torch.bincount(member).to(torch.float64)

    def by_window(values: Tensor) -> Tensor:
        return torch.zeros_like(count).index_add(0, member, values) / count

    before, after, other = (by_window(activation(inputs)) for inputs in (x, x - removed, x - control))
    mean = float(before.mean())
    if not mean > 0:
        raise ValueError(f"x must be inputs on which feature {feature} is active; its mean activation there is {mean}")
    difference = (other - after) / mean  # (window,)
    middle, low, high = float(difference.mean()), float("nan"), float("nan")
    if len(count) > 1:
        error = float(difference.std()) / len(count) ** 0.5
        reach = t_quantile(len(count), LEVEL) * error
        low, high = middle - reach, middle + reach
    drop = 1 - float(after.mean()) / mean
    if len(count) < WINDOWS:
        verdict = "untested"
    else:
        verdict = "confirmed" if drop >= DROP and low > 0 else "refuted"
    return Verdict(
        feature=feature,
        removed=name,
        tokens=len(x),
        windows=len(count),
        activation=mean,
        length=float((removed.norm(dim=1) / x.norm(dim=1)).mean()),
        drop=drop,
        control_drop=1 - float(other.mean()) / mean,
        difference=middle,
        low=low,
        high=high,
        verdict=verdict,
    )


@torch.no_grad()
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
    """`removal_test` of the input features `members`, and of the plane of the two leading eigenvectors of the feature

    x: (token, in), held-out inputs on which the output feature is active. Features are removed by what they write,
    decoder[:, members] codes; the plane by the input's part in it. Controls are as much of other features
    (`random_part`): as many as members are active on a token, or two for the plane.
    """
    codes = inputs.encode(x)  # (token, feature)
    pair = decompose(layer, "eigen", directions=outputs.encoder[feature][None], rank=2)
    parts = {
        "input features": feature_part(codes, inputs.decoder, members),
        "leading plane": plane_part(x, pair.eigenvectors[0].to(x.dtype)),
    }
    counts = {"input features": (codes[:, members] > 0).sum(1), "leading plane": torch.full_like(window, 2)}
    verdicts = []
    for name, removed in parts.items():
        control = random_part(codes, inputs.decoder, removed, counts[name].to(x.device), members, seed)
        verdicts.append(removal_test(layer, outputs, feature, x, removed, control, window, name=name))
    return verdicts[0], verdicts[1]


def feature_part(codes: Tensor, decoder: Tensor, features: Tensor) -> Tensor:
    """sum over `features` of decoder[:, feature] codes[token, feature]: (token, in)."""
    return codes[:, features] @ decoder[:, features].T


def random_part(codes: Tensor, decoder: Tensor, like: Tensor, count: Tensor, leave: Tensor, seed: int) -> Tensor:
    """As much of other features: on every token `count` active ones at random, scaled to the length of `like`

    codes: (token, feature); decoder: (in, feature); like: (token, in), what is to be matched; count: (token,);
    leave: the features that are not taken. Where fewer are active, those that there are; zero where there are none.
    """
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
    score = torch.rand(codes.shape, generator=generator).to(codes.device) + 1
    score = score * (codes > 0)
    score[:, leave] = 0
    place = score.argsort(dim=1, descending=True).argsort(dim=1)  # 0 for the largest
    chosen = (place < count[:, None]) & (score > 0)
    part = (codes * chosen) @ decoder.T  # (token, in)
    length = part.norm(dim=1)
    scale = torch.where(length > 0, like.norm(dim=1) / length.clamp(min=torch.finfo(part.dtype).tiny), 0.0)
    return part * scale[:, None]


def plane_part(x: Tensor, vectors: Tensor) -> Tensor:
    """sum over rank of (vectors[:, rank] . x) vectors[:, rank], the columns orthonormal: (token, in)."""
    return (x @ vectors) @ vectors.T
