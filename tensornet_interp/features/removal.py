"""Does a circuit carry its output feature? Test it by removing its inputs on held-out tokens.

The control removes as much of other features.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tensornet_interp.checks import check_alike, check_int, check_size, check_tensor
from tensornet_interp.decompositions import decompose
from tensornet_interp.features.dictionary import Dictionary
from tensornet_interp.layer import BilinearLayer
from tensornet_interp.numerics import t_quantile, unit_columns


@dataclass(frozen=True)
class RemovalRule:
    """A removal rule says when `removal_test` confirms a circuit; `str` returns it as one sentence."""

    min_drop: float = 0.5  # a circuit has to carry at least this share of its feature's activation
    min_windows: int = 10  # if the feature is active in fewer windows of text, nothing is decided
    confidence: float = 0.95  # of the interval of the difference from the control

    def __str__(self) -> str:
        return (
            f"confirmed: the removal takes at least {self.min_drop:.0%} of the feature's mean activation, and more than"
            f" the control (the {self.confidence:.0%} interval of the paired difference over windows is above 0);"
            f" refuted: the removal does not; untested: the feature is active in fewer than {self.min_windows} windows"
        )


REMOVAL_RULE = RemovalRule()


@dataclass(frozen=True)
class Verdict:
    """A verdict is the result of `removal_test`; drops and differences are shares of the mean activation."""

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
        """Return the verdict as a row of a table."""
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
    """Test if an output feature loses its activation when a part of the layer's input is removed.

    drop = 1 - mean relu(p(x - removed)) / mean relu(p(x)), p the feature's pre-activation behind the layer

    x: (token, in), held-out inputs of the layer on which the feature is active; removed, control: (token, in), what is
    subtracted; window: (token,), the number of the stretch of text that a token is from; name: what was removed, for
    tables. The other features do not compete here (no TopK), so the drop is the feature's own. Tokens of one window
    are not independent: means are over tokens of a window, then over windows, and the interval (Student's t) is that
    of the paired difference over windows. `REMOVAL_RULE` decides.
    Raises ValueError if sizes differ or the feature is not active on x. Cost: three evaluations of the layer on x.
    """
    check_int("feature", feature, 0, outputs.features - 1)
    check_tensor("x", x, ("token", "in"))
    for name_of, value in {"removed": removed, "control": control}.items():
        check_tensor(name_of, value, ("token", "in"))
        check_size("token", **{"x": len(x), name_of: len(value)})
        check_size("in", **{"x": x.shape[1], name_of: value.shape[1]})
    check_alike(x=x, removed=removed, control=control)
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
    middle, low, high = float(difference.mean()), float("nan"), float("nan")
    if len(count) > 1:
        error = float(difference.std()) / len(count) ** 0.5
        reach = t_quantile(len(count), REMOVAL_RULE.confidence) * error
        low, high = middle - reach, middle + reach
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
    """Test a circuit twice: by its input features `members`, and by the plane of its two leading eigenvectors.

    x: (token, in), held-out inputs on which the output feature is active; window: as in `removal_test`. What is removed
    is decoder[:, members] codes for the features, and the input's part in the plane for the plane. The controls remove
    as much of other features (`random_part`): as many as members are active on a token, or two for the plane.
    Cost: the input encoder, one eigendecomposition, and two `removal_test`s.
    """
    inputs, x = inputs.to(dtype=torch.float64), x.to(torch.float64)
    codes = inputs.encode(x)  # (token, feature)
    pair = decompose(layer, "eigen", directions=outputs.encoder[feature][None], rank=2)
    parts = {
        "input features": codes[:, members] @ inputs.decoder[:, members].T,  # (token, in)
        "leading plane": plane_part(x, pair.eigenvectors[0].to(x.dtype)),
    }
    counts = {"input features": (codes[:, members] > 0).sum(1), "leading plane": torch.full_like(window, 2)}
    verdicts = []
    for name, removed in parts.items():
        count = counts[name].to(x.device)
        control = random_part(codes, inputs.decoder, removed, count, members, seed=seed)
        verdicts.append(removal_test(layer, outputs, feature, x, removed, control, window, name=name))
    return verdicts[0], verdicts[1]


def random_part(codes: Tensor, decoder: Tensor, like: Tensor, count: Tensor, leave: Tensor, *, seed: int) -> Tensor:
    """Return the part of the input that random other features write, as long as `like` on every token: (token, in).

    codes: (token, feature); decoder: (in, feature); like: (token, in), whose length is matched; count: (token,), how
    many active features to draw per token; leave: the features that are never drawn. A token with fewer active
    features gets all of them; a token with none gets zero.
    """
    generator = torch.Generator().manual_seed(check_int("seed", seed, 0))
    score = torch.rand(codes.shape, generator=generator).to(codes.device) + 1
    score = score * (codes > 0)
    score[:, leave] = 0
    place = score.argsort(dim=1, descending=True).argsort(dim=1)  # 0 for the largest
    chosen = (place < count[:, None]) & (score > 0)
    part = (codes * chosen).to(torch.float64) @ decoder.to(torch.float64).T  # (token, in)
    _, lengths = unit_columns(like.to(torch.float64).T)
    return (unit_columns(part.T)[0] * lengths).T.to(like.dtype)


def plane_part(x: Tensor, vectors: Tensor) -> Tensor:
    """Return the part of x (token, in) in the span of orthonormal columns, vectors (in, rank).

    part[token] = sum_rank (vectors[:, rank] . x[token]) vectors[:, rank]
    """
    return (x @ vectors) @ vectors.T
