"""Measure how well an approximation matches its reference: squared errors, R squared, agreement, KL, accuracy."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from tensornet_interp.balance import balance_rows, rescale, times_power
from tensornet_interp.checks import check_labels, check_seed, check_size, check_tensor
from tensornet_interp.float64 import needs_float64
from tensornet_interp.inner_products.distance import relative_error
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import as_network
from tensornet_interp.store import register_type
from tensornet_interp.tables import Record


@register_type("Fidelity")
@dataclass(frozen=True)
class Fidelity:
    """A fidelity compares an approximation with its reference; all values are means over samples.

    relative_mse = E |f - g|^2 / sum_out Var(f[out]) and r_squared = 1 - relative_mse

    f is the reference and g the approximation. Squared errors are summed over outputs. A relative error is None if the
    reference is constant on the samples. If there are several outputs, they are also read as the logits of a
    classifier: its decision is the largest output. One output decides nothing, so agreement and KL are None there.
    Cross-entropy and KL are in nats.
    """

    samples: int
    agreement: float | None  # share of samples for which both have the same largest output; None for one output
    kl: float | None  # KL(softmax of reference || softmax of approximation); None for one output
    mse: float  # E |f(x) - g(x)|^2
    mse_independent: float | None  # E |f(x1, x2) - g(x1, x2)|^2, both symmetrized; None for networks of several layers
    accuracy: float | None = None  # of the approximation; None without labels
    cross_entropy: float | None = None
    reference_accuracy: float | None = None
    reference_cross_entropy: float | None = None
    relative_mse: float | None = None  # mse / variance of the reference
    target_r_squared: float | None = None  # R squared of the approximation against the targets; None without targets
    reference_target_r_squared: float | None = None
    mse_per_output: tuple[float, ...] = field(default=(), repr=False)  # E (f(x) - g(x))^2 of every output
    relative_mse_per_output: tuple[float | None, ...] = field(default=(), repr=False)
    output_names: tuple[str, ...] | None = field(default=None, repr=False)

    @property
    def r_squared(self) -> float | None:
        """Return the share of the variance of the reference that the approximation explains: 1 - relative_mse."""
        return None if self.relative_mse is None else 1 - self.relative_mse

    @property
    def r_squared_per_output(self) -> tuple[float | None, ...]:
        """Return R squared of every output."""
        return tuple(None if share is None else 1 - share for share in self.relative_mse_per_output)

    def records(self) -> list[Record]:
        """Return one record of all outputs together, whose "output" is None, and then one record per output."""
        values = asdict(self)
        names = values.pop("output_names")
        errors, shares = values.pop("mse_per_output"), values.pop("relative_mse_per_output")
        total = {"output": None, **values, "r_squared": self.r_squared}
        return [total] + [
            dict.fromkeys(total)
            | {"output": names[at] if names else at, "samples": self.samples}
            | {"mse": errors[at], "relative_mse": shares[at], "r_squared": self.r_squared_per_output[at]}
            for at in range(len(errors))
        ]


@needs_float64
def fidelity(
    approximation: TensorNetwork,
    reference: TensorNetwork,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    targets: Tensor | None = None,
    seed: int = 0,
) -> Fidelity:
    """Return how well an approximation matches its reference on inputs x (batch, in), as a function and as a model.

    labels: (batch,), class numbers, for accuracy and cross-entropy of a classifier. targets: (batch, out), the outputs
    that a regression should give, for R squared of both models against them. `mse_independent` evaluates the tensors on
    pairs (x1, x2) of different inputs, because equal inputs test only part of a tensor; x2 is a permutation of x drawn
    from `seed`. Raises TypeError unless both are a layer, a decomposition of a layer or a network; ValueError if sizes
    differ, a label is no output, or there are labels for a single output. Cost: two evaluations of each network.
    """
    wanted, given = as_network(reference, "reference"), as_network(approximation, "approximation")
    check_data(x, labels, wanted.sizes["out"])
    check_seed("seed", seed)
    exact, found = wanted(x), given(x)
    f, g = exact.double(), found.double()
    check_size("out", reference=f.shape[-1], approximation=g.shape[-1])
    measured: dict[str, Any] = dict.fromkeys(("agreement", "kl", "mse_independent"))
    if len(wanted) == len(given) == 1:
        shuffle = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed), device="cpu").to(x.device)
        pairs = (x, x[shuffle]), (x[shuffle], x)
        delta = sum((wanted[0](*pair) - given[0](*pair) for pair in pairs), torch.zeros_like(f)) / 2
        measured["mse_independent"] = mean_square(delta)
    if decides(f):
        measured["kl"] = float(kl_div(log_softmax(g, -1), log_softmax(f, -1), log_target=True, reduction="batchmean"))
        measured["agreement"] = float((f.argmax(-1) == g.argmax(-1)).double().mean())
    if labels is not None:
        measured |= {
            "accuracy": accuracy(g, labels),
            "cross_entropy": float(cross_entropy(g, labels)),
            "reference_accuracy": accuracy(f, labels),
            "reference_cross_entropy": float(cross_entropy(f, labels)),
        }
    if targets is not None:
        check_tensor("targets", targets, ("batch", "out"))
        check_size("batch", x=len(x), targets=len(targets))
        check_size("out", reference=f.shape[-1], targets=targets.shape[-1])
        wide = targets.to(f)
        for name, outputs in (("target_r_squared", g), ("reference_target_r_squared", f)):
            share = relative_mse(outputs - wide, wide, targets.dtype)
            measured[name] = None if share is None else 1 - share
    rows, exponents = balance_rows((f - g).T)  # (out, batch), (out,)
    return Fidelity(
        samples=len(x),
        mse=mean_square(f - g),
        relative_mse=relative_mse(f - g, f, exact.dtype),
        mse_per_output=tuple(times_power(rows.square().mean(1)[None], 2 * exponents)[0].tolist()),
        relative_mse_per_output=_relative_per_output(f - g, f, exact.dtype),
        output_names=wanted.output_names or given.output_names,
        **measured,
    )


@register_type("LayerFidelity")
@dataclass(frozen=True)
class LayerFidelity:
    """A layer fidelity measures one approximated part while all other parts are those of the reference."""

    part: int
    relative_error: float  # of the part's tensor, symmetrized
    alone: Fidelity  # of the network in which only this part is approximated
    constant_error: float | None  # largest |output constant - 1| over the samples; None without a constant output

    def records(self) -> list[Record]:
        """Return one record: the errors of the part, and the fidelity of all outputs with only it approximated."""
        own = {"part": self.part, "relative_error": self.relative_error, "constant_error": self.constant_error}
        return [own | self.alone.records()[0]]


@register_type("NetworkFidelity")
@dataclass(frozen=True)
class NetworkFidelity:
    """A network fidelity holds the fidelity of the whole approximation, and of each part approximated alone.

    The errors of the parts do not add up to the total error.
    """

    total: Fidelity
    layers: tuple[LayerFidelity, ...]

    def __str__(self) -> str:
        columns = {
            "tensor error": 13,
            "agreement": 11,
            "kl": 11,
            "mse": 11,
            "R squared": 11,
            "accuracy": 10,
            "constant": 10,
        }
        lines = [f"{'':14}" + "".join(f"{name:>{width}}" for name, width in columns.items())]
        names = ["total", *(f"part {one.part} alone" for one in self.layers)]
        for name, one in zip(names, [None, *self.layers], strict=True):
            f = one.alone if one else self.total
            errors = (one.relative_error, one.constant_error) if one else (None, None)
            cells = (errors[0], f.agreement, f.kl, f.mse, f.r_squared, f.accuracy, errors[1])
            texts = ("-" if cell is None else f"{cell:.3g}" for cell in cells)
            lines.append(f"{name:14}" + "".join(f"{t:>{w}}" for t, w in zip(texts, columns.values(), strict=True)))
        return "\n".join(lines)

    def records(self) -> list[Record]:
        """Return one record of the whole network, whose "part" is None, and one of every part alone."""
        errors = {"part": None, "relative_error": None, "constant_error": None}
        return [errors | self.total.records()[0], *(record for one in self.layers for record in one.records())]


@needs_float64
def network_fidelity(
    approximation: TensorNetwork,
    reference: TensorNetwork,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    targets: Tensor | None = None,
    seed: int = 0,
) -> NetworkFidelity:
    """Return the `fidelity` of the whole network and of each part alone, with the relative error of each part's tensor.

    "Part i alone" is the reference with its part i replaced by the approximation's. In a lifted network, a part below
    the last outputs the constant 1, which an approximation may change; `LayerFidelity.constant_error` is the largest
    change on x. Raises ValueError if the networks differ in depth or a part in size (for a truncated bond use
    `fidelity`).
    Cost: (parts + 1) times `fidelity`.
    """
    approximation, reference = as_network(approximation, "approximation"), as_network(reference, "reference")
    if len(approximation) != len(reference):
        raise ValueError(f"networks must have the same depth, got {len(approximation)} and {len(reference)} parts")
    for i, (new, old) in enumerate(zip(approximation, reference, strict=True)):
        if new.sizes != old.sizes or (new.constant_in, new.constant_out) != (old.constant_in, old.constant_out):
            raise ValueError(
                f"part {i} cannot replace part {i} of the reference: its sizes are {new.sizes}, but the reference has"
                f" {old.sizes}; fidelity() compares whole networks with different bonds"
            )
    total = fidelity(approximation, reference, x, labels, targets=targets, seed=seed)
    layers, z = [], reference[0].lift_input("x", x)  # (batch, in) of part i in the reference
    for i, (new, old) in enumerate(zip(approximation, reference, strict=True)):
        alone = fidelity(reference.replace(i, new), reference, x, labels, targets=targets, seed=seed)
        constant = float((new.multilinear(z)[:, 0] - 1).abs().max()) if new.constant_out else None
        layers.append(LayerFidelity(i, relative_error(new, old), alone, constant))
        z = old.multilinear(z)
    return NetworkFidelity(total, tuple(layers))


def mean_square(difference: Tensor) -> float:
    """Return the mean over samples of |difference|^2; only this mean must fit in float64."""
    scaled, exponent = rescale(difference)
    return float(times_power(scaled.square().sum(-1).mean(), 2 * exponent))


def relative_mse(difference: Tensor, reference: Tensor, dtype: torch.dtype) -> float | None:
    """Return the mean of |difference|^2 divided by the variance of the reference, both summed over outputs.

    It is None if the reference, computed in `dtype`, is constant up to rounding. No scale over- or underflows.
    """
    error, exponent = rescale(difference)
    scaled, own = rescale(reference)
    variance = (scaled - scaled.mean(0)).square().mean()
    if bool(_constant(variance, scaled.square().mean(), dtype)):
        return None
    return float(times_power(error.square().mean() / variance, 2 * (exponent - own)))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of samples for which the largest logit is the label's."""
    return float((logits.argmax(-1) == labels).double().mean())


def decides(outputs: Tensor) -> bool:
    """Return if outputs (batch, out) are decisions: one output decides nothing."""
    return outputs.shape[-1] > 1


def check_data(x: Tensor, labels: Tensor | None, n_out: int) -> None:
    """Check the inputs, and the labels if they are given."""
    check_tensor("x", x, ("batch", "in"))
    if labels is not None:
        check_labels("labels", labels, samples=len(x), classes=n_out)


def _relative_per_output(difference: Tensor, reference: Tensor, dtype: torch.dtype) -> tuple[float | None, ...]:
    """Return `relative_mse` of every output; each has its own scale."""
    errors, exponents = balance_rows(difference.T)  # (out, batch), (out,)
    scaled, own = balance_rows(reference.T)
    variance = (scaled - scaled.mean(1, keepdim=True)).square().mean(1)
    shares = times_power((errors.square().mean(1) / variance)[None], 2 * (exponents - own))[0]
    flat = _constant(variance, scaled.square().mean(1), dtype)
    return tuple(None if none else share for none, share in zip(flat.tolist(), shares.tolist(), strict=True))


def _constant(variance: Tensor, square: Tensor, dtype: torch.dtype) -> Tensor:
    """Return if the variance of numbers computed in `dtype` is no more than rounding of their mean square."""
    return variance <= (2 * torch.finfo(dtype).eps) ** 2 * square
