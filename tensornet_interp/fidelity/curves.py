"""Measure what a decomposition does to the function: accuracy, cross-entropy, KL, squared error, truncation curves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from tensornet_interp.balance import rescale, times_power
from tensornet_interp.checks import (
    check_choice,
    check_int,
    check_kind,
    check_labels,
    check_list,
    check_number,
    check_records,
    check_seed,
    check_size,
    check_tensor,
)
from tensornet_interp.inner_products.distance import relative_error
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import as_network
from tensornet_interp.numerics import without_autocast
from tensornet_interp.spectral import SpectralResult
from tensornet_interp.store import register_type

COMPONENT_RANKINGS = ("magnitude", "activation", "ablation")
_BATCH = 512  # samples whose component activations are in memory at once


@register_type("Fidelity")
@dataclass(frozen=True)
class Fidelity:
    """A fidelity compares an approximation with its reference; all values are means over samples.

    The outputs are the logits of a classifier. Cross-entropy and KL are in nats. Squared errors are summed over
    outputs.
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


def fidelity(
    approximation: TensorNetwork, reference: TensorNetwork, x: Tensor, labels: Tensor | None = None, *, seed: int = 0
) -> Fidelity:
    """Return how well an approximation matches its reference on inputs x (batch, in), as function and as classifier.

    labels: (batch,), class numbers, for accuracy and cross-entropy. `mse_independent` evaluates the tensors on pairs
    (x1, x2) of different inputs, because equal inputs test only part of a tensor; x2 is a permutation of x drawn from
    `seed`. Raises TypeError unless both are a layer, a decomposition of a layer or a network; ValueError if sizes
    differ or a label is no output. Cost: two evaluations of each network.
    """
    wanted, given = as_network(reference, "reference"), as_network(approximation, "approximation")
    _check_data(x, labels, wanted.sizes["out"])
    f, g = wanted(x).double(), given(x).double()
    check_size("out", reference=f.shape[-1], approximation=g.shape[-1])
    independent = None
    check_seed("seed", seed)
    if len(wanted) == len(given) == 1:
        shuffle = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed), device="cpu").to(x.device)
        pairs = (x, x[shuffle]), (x[shuffle], x)
        delta = sum((wanted[0](*pair) - given[0](*pair) for pair in pairs), torch.zeros_like(f)) / 2
        independent = _mean_square(delta)
    agreement = kl = None
    if f.shape[-1] > 1:  # one output decides nothing
        kl = float(kl_div(log_softmax(g, -1), log_softmax(f, -1), log_target=True, reduction="batchmean"))
        agreement = float((f.argmax(-1) == g.argmax(-1)).double().mean())
    measured = Fidelity(len(x), agreement, kl, _mean_square(f - g), independent)
    if labels is None:
        return measured
    return Fidelity(
        **(
            asdict(measured)
            | {
                "accuracy": _accuracy(g, labels),
                "cross_entropy": float(cross_entropy(g, labels)),
                "reference_accuracy": _accuracy(f, labels),
                "reference_cross_entropy": float(cross_entropy(f, labels)),
            }
        )
    )


@register_type("LayerFidelity")
@dataclass(frozen=True)
class LayerFidelity:
    """A layer fidelity measures one approximated part while all other parts are those of the reference."""

    part: int
    relative_error: float  # of the part's tensor, symmetrized
    alone: Fidelity  # of the network in which only this part is approximated
    constant_error: float | None  # largest |output constant - 1| over the samples; None without a constant output


@register_type("NetworkFidelity")
@dataclass(frozen=True)
class NetworkFidelity:
    """A network fidelity holds the fidelity of the whole approximation, and of each part approximated alone.

    The errors of the parts do not add up to the total error.
    """

    total: Fidelity
    layers: tuple[LayerFidelity, ...]

    def __str__(self) -> str:
        columns = {"tensor error": 13, "agreement": 11, "kl": 11, "mse": 11, "accuracy": 10, "constant": 10}
        lines = [f"{'':14}" + "".join(f"{name:>{width}}" for name, width in columns.items())]
        names = ["total", *(f"part {one.part} alone" for one in self.layers)]
        for name, one in zip(names, [None, *self.layers], strict=True):
            f = one.alone if one else self.total
            errors = (one.relative_error, one.constant_error) if one else (None, None)
            cells = (errors[0], f.agreement, f.kl, f.mse, f.accuracy, errors[1])
            texts = ("-" if cell is None else f"{cell:.3g}" for cell in cells)
            lines.append(f"{name:14}" + "".join(f"{t:>{w}}" for t, w in zip(texts, columns.values(), strict=True)))
        return "\n".join(lines)


def network_fidelity(
    approximation: TensorNetwork,
    reference: TensorNetwork,
    x: Tensor,
    labels: Tensor | None = None,
    *,
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
    total = fidelity(approximation, reference, x, labels, seed=seed)
    layers, z = [], reference[0].lift_input("x", x)  # (batch, in) of part i in the reference
    for i, (new, old) in enumerate(zip(approximation, reference, strict=True)):
        alone = fidelity(reference.replace(i, new), reference, x, labels, seed=seed)
        constant = float((new.multilinear(z)[:, 0] - 1).abs().max()) if new.constant_out else None
        layers.append(LayerFidelity(i, relative_error(new, old), alone, constant))
        z = old.multilinear(z)
    return NetworkFidelity(total, tuple(layers))


def component_ranking(result: SpectralResult, by: str, x: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    """Return the components of every block ranked by importance: indices (block, rank), most important first.

    by: "magnitude" ranks by |eigenvalue|, "activation" by the mean of |eigenvalue| (v . x)^2 over x, and "ablation" by
    the increase of the cross-entropy on (x, labels) if only this component is removed.
    Raises ValueError if `by` needs x or labels and they are missing. Cost of "ablation": batch * out * block * rank.
    """
    check_choice("by", by, COMPONENT_RANKINGS)
    check_kind("result", result, SpectralResult)
    if by == "magnitude":
        return result.eigenvalues.abs().argsort(dim=1, descending=True, stable=True)
    if x is None or (by == "ablation" and labels is None):
        raise ValueError(f"by='{by}' needs x{' and labels' if by == 'ablation' else ''}")
    _check_data(x, labels, _outputs(result).shape[0])
    score = torch.zeros_like(result.eigenvalues)
    for at in range(0, len(x), _BATCH):
        activations = result.activations(x[at : at + _BATCH])  # (batch, block, rank)
        if labels is None or by == "activation":
            score += activations.abs().sum(0)
            continue
        logits = _logits(activations.sum(-1), result)
        target = labels[at : at + _BATCH]
        for block in range(result.eigenvalues.shape[0]):
            removed = activations[:, block, :, None] * _outputs(result)[:, block]  # (batch, rank, out)
            ablated = log_softmax(logits[:, None] - removed, -1)
            score[block] -= ablated.gather(-1, target[:, None, None].expand(-1, result.rank, 1)).sum((0, 2))
    return score.argsort(dim=1, descending=True, stable=True)


def truncation_curve(
    result: SpectralResult,
    reference: TensorNetwork,
    x: Tensor,
    labels: Tensor,
    counts: Sequence[int],
    *,
    by: str = "magnitude",
    rank_on: tuple[Tensor, Tensor] | None = None,
) -> list[dict[str, float | str]]:
    """Return accuracy, cross-entropy, KL and squared error of the first k components per block, for k in `counts`.

    by: the ranking, see `component_ranking`. rank_on: training samples (x, labels) for the rankings "activation" and
    "ablation". Ranking on the samples of the curve itself would be optimistic. Returns one dict per count, with the
    keys "ranking", "components" (k), "accuracy", "cross_entropy", "kl" and "mse". KL and squared error are measured
    against `reference`. Cost: one pass over all components for all counts together.
    """
    _check_data(x, labels, _outputs(check_kind("result", result, SpectralResult)).shape[0], needed=True)
    check_list("counts", counts, "give the numbers of components to keep")
    if rank_on is not None and (not isinstance(rank_on, tuple | list) or len(rank_on) != 2):
        raise TypeError(f"rank_on must be a pair (x, labels) to rank the components on, got {type(rank_on).__name__}")
    counts = [check_int("counts", k, 1, result.rank, "the rank of the result") for k in counts]
    ranking = component_ranking(result, by, *(rank_on or ()))
    logits: list[Tensor] = []  # (count, batch, out)
    for batch in x.split(_BATCH):
        activations = result.activations(batch)
        ordered = activations.gather(-1, ranking.expand(activations.shape)).cumsum(-1)
        logits.append(torch.stack([_logits(ordered[..., k - 1], result) for k in counts]))
    full = as_network(reference, "reference")(x).double()
    target = log_softmax(full, -1)
    return [
        {
            "ranking": by,
            "components": k,
            "accuracy": _accuracy(cut, labels),
            "cross_entropy": float(cross_entropy(cut, labels)),
            "kl": float(kl_div(log_softmax(cut, -1), target, log_target=True, reduction="batchmean")),
            "mse": _mean_square(cut - full),
        }
        for k, cut in zip(counts, torch.cat(logits, 1).double(), strict=True)
    ]


def components_needed(
    records: Sequence[Mapping[str, float | str]], accuracy: float, drop: float
) -> tuple[int | None, int | None]:
    """Return the smallest k that loses at most `drop` of `accuracy`, and the smallest k from which on all k do so.

    k is a number of components. It loses at most `drop` if its accuracy is at least `accuracy - drop`. Only values of k
    in the records count; a number is None if there is no such k. records: the output of `truncation_curve` for one
    ranking.
    Raises ValueError if there are no records or several rankings.
    """
    check_records("records", records, ("components", "accuracy"), "give the curve of one ranking")
    check_number("accuracy", accuracy)
    check_number("drop", drop)
    rankings = sorted({str(record.get("ranking", "")) for record in records})
    if len(rankings) > 1:
        raise ValueError(f"records must be of one ranking, got {', '.join(rankings)}")
    first = stays = None
    rounding = 1e-9  # rounding error of a difference of two shares
    for record in sorted(records, key=lambda record: float(record["components"])):
        if float(record["accuracy"]) >= accuracy - drop - rounding:
            k = int(record["components"])
            first = k if first is None else first
            stays = k if stays is None else stays
        else:
            stays = None
    return first, stays


def _outputs(result: SpectralResult) -> Tensor:
    """Return the output vectors (out, block) without the constant coordinate of a lifted layer."""
    return result.outputs[1:] if result.constant_out else result.outputs


@without_autocast
def _logits(blocks: Tensor, result: SpectralResult) -> Tensor:
    """Return the outputs (..., out) for activations summed per block (..., block)."""
    return blocks @ _outputs(result).T


def _mean_square(difference: Tensor) -> float:
    """Return the mean over samples of |difference|^2; only this mean must fit in float64."""
    scaled, exponent = rescale(difference)
    return float(times_power(scaled.square().sum(-1).mean(), 2 * exponent))


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of samples for which the largest logit is the label's."""
    return float((logits.argmax(-1) == labels).double().mean())


def _check_data(x: Tensor, labels: Tensor | None, n_out: int, *, needed: bool = False) -> None:
    """Check the inputs, and the labels if they are given or needed."""
    check_tensor("x", x, ("batch", "in"))
    if labels is not None or needed:
        check_labels("labels", labels, samples=len(x), classes=n_out)
