"""Rank components by importance, and measure what is left of the function with the first k of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from tensornet_interp.checks import check_choice, check_int, check_kind, check_list, check_number, check_records
from tensornet_interp.fidelity.measures import accuracy as share_right
from tensornet_interp.fidelity.measures import check_data, decides, mean_square, relative_mse
from tensornet_interp.float64 import needs_float64
from tensornet_interp.layer import TensorNetwork
from tensornet_interp.network import as_network
from tensornet_interp.numerics import without_autocast
from tensornet_interp.spectral import SpectralResult

COMPONENT_RANKINGS = ("magnitude", "activation", "ablation")
_BATCH = 512  # samples whose component activations are in memory at once


@needs_float64
def component_ranking(result: SpectralResult, by: str, x: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    """Return the components of every block ranked by importance: indices (block, rank), most important first.

    by: "magnitude" ranks by |eigenvalue|, "activation" by the mean of |eigenvalue| (v . x)^2 over x, and "ablation" by
    what is lost if only this component is removed: the increase of the cross-entropy on (x, labels), or without labels
    the mean squared change of the outputs, eigenvalue^2 E (v . x)^4 |output vector|^2.
    Raises ValueError if `by` needs x and it is missing. Cost of "ablation": batch * out * block * rank.
    """
    check_choice("by", by, COMPONENT_RANKINGS)
    check_kind("result", result, SpectralResult)
    if by == "magnitude":
        return result.eigenvalues.abs().argsort(dim=1, descending=True, stable=True)
    if x is None:
        raise ValueError(f"by='{by}' needs x")
    check_data(x, labels, _outputs(result).shape[0])
    score = torch.zeros_like(result.eigenvalues)
    for at in range(0, len(x), _BATCH):
        activations = result.activations(x[at : at + _BATCH])  # (batch, block, rank)
        if by == "activation":
            score += activations.abs().sum(0)
            continue
        if labels is None:
            changes = activations * _outputs(result).norm(dim=0)[:, None]
            score += changes.square().sum(0)
            continue
        logits = _logits(activations.sum(-1), result)
        target = labels[at : at + _BATCH]
        for block in range(result.eigenvalues.shape[0]):
            removed = activations[:, block, :, None] * _outputs(result)[:, block]  # (batch, rank, out)
            ablated = log_softmax(logits[:, None] - removed, -1)
            score[block] -= ablated.gather(-1, target[:, None, None].expand(-1, result.rank, 1)).sum((0, 2))
    return score.argsort(dim=1, descending=True, stable=True)


@needs_float64
def truncation_curve(
    result: SpectralResult,
    reference: TensorNetwork,
    x: Tensor,
    labels: Tensor | None = None,
    counts: Sequence[int] | None = None,
    *,
    by: str = "magnitude",
    rank_on: tuple[Tensor, Tensor | None] | None = None,
) -> list[dict[str, Any]]:
    """Return what is left of the function with the first k components per block, for k in `counts`.

    counts: by default the powers of two below the rank, and the rank. by: the ranking, see `component_ranking`.
    rank_on: training samples (x, labels) for the rankings "activation" and "ablation"; the labels may be None. Ranking
    on the samples of the curve itself would be optimistic. Returns one dict per count, with the keys "ranking",
    "components" (k), "accuracy", "cross_entropy", "kl", "mse", "relative_mse" and "r_squared". The last four are
    measured against `reference`, as in `Fidelity`. Accuracy and cross-entropy are None if `labels` is None, KL is None
    for one output. Cost: one pass over all components for all counts together.
    """
    check_data(x, labels, _outputs(check_kind("result", result, SpectralResult)).shape[0])
    if counts is None:
        counts = [*(2**power for power in range((result.rank - 1).bit_length())), result.rank]
    check_list("counts", counts, "give the numbers of components to keep")
    if rank_on is not None and (not isinstance(rank_on, tuple | list) or len(rank_on) != 2):
        raise TypeError(f"rank_on must be a pair (x, labels) to rank the components on, got {type(rank_on).__name__}")
    counts = [check_int("counts", k, 1, result.rank, "the rank of the result") for k in counts]
    ranking = component_ranking(result, by, *(rank_on or ()))
    outputs: list[Tensor] = []  # (count, batch, out)
    for batch in x.split(_BATCH):
        activations = result.activations(batch)
        ordered = activations.gather(-1, ranking.expand(activations.shape)).cumsum(-1)
        outputs.append(torch.stack([_logits(ordered[..., k - 1], result) for k in counts]))
    exact = as_network(reference, "reference")(x)
    full = exact.double()
    target = log_softmax(full, -1)
    records = []
    for k, cut in zip(counts, torch.cat(outputs, 1).double(), strict=True):
        share = relative_mse(cut - full, full, exact.dtype)
        kl = kl_div(log_softmax(cut, -1), target, log_target=True, reduction="batchmean") if decides(full) else None
        records.append(
            {
                "ranking": by,
                "components": k,
                "accuracy": None if labels is None else share_right(cut, labels),
                "cross_entropy": None if labels is None else float(cross_entropy(cut, labels)),
                "kl": None if kl is None else float(kl),
                "mse": mean_square(cut - full),
                "relative_mse": share,
                "r_squared": None if share is None else 1 - share,
            }
        )
    return records


@needs_float64
def components_needed(
    records: Sequence[Mapping[str, Any]], accuracy: float, drop: float, *, field: str = "accuracy"
) -> tuple[int | None, int | None]:
    """Return the smallest k that loses at most `drop` of `accuracy`, and the smallest k from which on all k do so.

    k is a number of components. It loses at most `drop` if its accuracy is at least `accuracy - drop`. Only values of k
    in the records count; a number is None if there is no such k. records: the output of `truncation_curve` for one
    ranking. field: what is compared; "r_squared", with `accuracy=1.0`, serves a regression.
    Raises ValueError if there are no records, several rankings, or no numbers because the curve had no labels.
    """
    check_choice("field", field, ("accuracy", "r_squared"))
    check_records("records", records, ("components", field), "give the curve of one ranking")
    if any(record[field] is None for record in records):
        raise ValueError(f"the {field} of records is None; the curve of a classifier needs labels for its accuracy")
    check_number("accuracy", accuracy)
    check_number("drop", drop)
    rankings = sorted({str(record.get("ranking", "")) for record in records})
    if len(rankings) > 1:
        raise ValueError(f"records must be of one ranking, got {', '.join(rankings)}")
    first = stays = None
    rounding = 1e-9  # rounding error of a difference of two shares
    for record in sorted(records, key=lambda record: float(record["components"])):
        if float(record[field]) >= accuracy - drop - rounding:
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
